"""Summaries and their renderings, on verdicts written by hand."""

import builtins
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import MissingDependency
from harness.report import badge, document, html, junit, markdown, summarise, terminal
from harness.report.summary import describe, duration, visible
from harness.results import Certificate, Divergence, Kind, Verdict


def verdict(kind=Kind.EXACT, case="once", impl="c", **fields):
    return Verdict(case, impl, fields.pop("model", "gqa"), kind, suite=fields.pop("suite", "core"), **fields)


WRONG = verdict(
    Kind.MISMATCH,
    reason="wrong from step 3 on",
    divergence=Divergence(3, 8, 263, 511, 1.234, 1.2e-5, "Once upon a", " time <b>", " `tomato` | \x1b[31m小狗\n"),
    conventions=("no final newline",),
    tokenizer=Kind.EXACT,
    forward=Kind.MISMATCH,
    reproduce="./run m.bin -i 'Once'",
)
OUR_SCRIPT = Path(html.__file__).with_name("page.js").read_text("utf-8")
RENDERERS = [terminal.render, markdown.render, junit.render, badge.render, html.render, document.render]


# ---- the gate


def test_green_passes():
    assert summarise([verdict(), verdict(Kind.TIE), verdict(Kind.WITHIN)]).passed


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind.is_failure])
def test_each_failure_fails_even_beside_green(kind):
    summary = summarise([verdict(), verdict(kind)], allow_skip=True)
    assert summary.problems == (f"c: 1 {kind}",)


@pytest.mark.parametrize("kind", [Kind.BLOCKED, Kind.INCONCLUSIVE])
def test_what_was_not_judged_enough_fails_unless_allowed(kind):
    verdicts = [verdict(), verdict(kind)]
    assert not summarise(verdicts).passed
    assert summarise(verdicts, allow_skip=True).passed


@pytest.mark.parametrize("kind", [Kind.SKIPPED, Kind.UNSUPPORTED, Kind.KNOWN])
def test_what_is_excused_passes_beside_green_and_not_alone(kind):
    assert summarise([verdict(), verdict(kind)]).passed
    assert summarise([verdict(kind)]).problems == ("no case is green",)


def test_a_named_implementation_needs_a_green_case_and_another_does_not():
    verdicts = [verdict(), verdict(Kind.SKIPPED, impl="zig")]
    assert summarise(verdicts).passed
    assert summarise(verdicts, named=["zig"]).problems == ("zig: no case is green",)
    assert summarise(verdicts, named=["rust"]).problems == ("rust: no case is green",)
    assert summarise(verdicts, named=["zig"], allow_skip=True).passed


def test_a_run_that_is_not_complete_does_not_pass():
    assert summarise([verdict()], complete=False, allow_skip=True).problems == ("the run is not complete",)


def test_nothing_at_all_does_not_pass():
    assert not summarise([]).passed


# ---- words


def conclusion(*verdicts):
    return summarise(verdicts).standings[0].conclusion


def test_conclusions_in_plain_words():
    exact = [verdict()] * 41
    assert conclusion(*exact, verdict(Kind.TIE)) == "right: 41 EXACT, 1 TIE"
    assert conclusion(*exact, verdict(Kind.SKIPPED, reason="no model")) == "right: 41 EXACT; 1 SKIPPED (no model)"
    assert conclusion(WRONG, verdict()) == "wrong: 1 MISMATCH (first at step 3 of once); 1 EXACT"
    assert conclusion(verdict(Kind.CRASHED, reason="killed by SIGSEGV\nboom")) == (
        "does not work: 1 CRASHED (killed by SIGSEGV)"
    )
    assert conclusion(verdict(Kind.SKIPPED, reason="no compiler")) == "not judged; 1 SKIPPED (no compiler)"


def test_a_wrong_tokenizer_before_a_right_forward_pass_reads_so_in_one_line():
    wrong = verdict(
        Kind.MISMATCH,
        reason="tokenizer of 2023 (raw-byte pieces)",
        tokenizer=Kind.MISMATCH,
        forward=Kind.EXACT,
    )
    assert conclusion(wrong, wrong) == "tokenizer of 2023 (raw-byte pieces); forward pass EXACT"


def test_why_cases_were_skipped_is_said_once_with_what_would_help():
    skipped = verdict(Kind.SKIPPED, reason="zig is not available; install it with: pip install ziglang")
    summary = summarise([skipped, skipped, verdict()])
    assert summary.skips == ["2 skipped: zig is not available; install it with: pip install ziglang"]
    assert summary.standings[0].conclusion == "right: 1 EXACT; 2 SKIPPED (zig is not available)"
    assert terminal.render(summary, width=200).count("pip install ziglang") == 1


def test_rows_are_counts_by_kind_for_each_implementation_suite_and_model():
    rows = summarise(
        [verdict(n_judged=5, wall_s=1), verdict(Kind.TIE, n_judged=7, wall_s=2), verdict(suite="tinystories")]
    ).rows
    assert [(r.suite, r.counts, r.n_judged, r.wall_s) for r in rows] == [
        ("core", {Kind.EXACT: 1, Kind.TIE: 1}, 12, 3),
        ("tinystories", {Kind.EXACT: 1}, 0, 0),
    ]


def test_a_description_has_everything_that_is_known():
    assert describe(WRONG) == [
        "c: MISMATCH on core/once (model gqa)",
        "  wrong from step 3 on",
        "  step 3, position 8: expected id 263, actual id 511; regret 1.23 against a noise floor of 1.2e-05",
        '  after "Once upon a"',
        '    expected | " time <b>"',
        '    actual   | " `tomato` | \\x1b[31m小狗\\n"',
        "  tokenizer EXACT, forward pass MISMATCH",
        "  convention: no final newline",
        "  reproduce: ./run m.bin -i 'Once'",
    ]


def test_a_regret_that_does_not_apply_is_not_shown():
    lines = describe(verdict(Kind.MISMATCH, divergence=Divergence(0, 1, 5, None, math.nan, math.nan, "", "a", "b")))
    assert lines[1] == "  step 0, position 1: expected id 5, actual id ?"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 ms"), (0.9994, "999 ms"), (1, "1.0 s"), (59.96, "1 min 0 s"), (3600, "60 min 0 s")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@given(st.text(st.characters()))
def test_visible_text_is_printable_and_on_one_line(text):
    assert visible(text).isprintable()


# ---- renderings

texts = st.text(st.characters(), max_size=30) | st.sampled_from(["]]>", "```", "<script>", "a|b", "[/red]", "\ud800"])
floats = st.floats()
verdicts = st.builds(
    Verdict,
    case=texts,
    impl=st.sampled_from(["c", "zig", "<b>", "\x00"]),
    model=texts,
    kind=st.sampled_from(list(Kind)),
    reason=texts,
    tokenizer=st.none() | st.sampled_from(list(Kind)),
    forward=st.none() | st.sampled_from(list(Kind)),
    n_judged=st.integers(0, 10**6),
    divergence=st.none()
    | st.builds(Divergence, st.just(0), st.just(1), st.none(), st.just(7), floats, floats, texts, texts, texts),
    certificates=st.lists(st.builds(Certificate, *[st.just(1)] * 3, floats, floats, floats), max_size=1).map(tuple),
    conventions=st.lists(texts, max_size=1).map(tuple),
    reproduce=texts,
    wall_s=st.floats(0, 1e6),
    suite=texts,
)


class Balanced(HTMLParser):
    """Checks that every tag is closed, and collects the scripts."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.scripts = []

    def handle_starttag(self, tag, attrs):
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@settings(deadline=None)  # the first page compiles its template
@given(st.lists(verdicts, max_size=4), st.booleans(), st.integers(20, 120))
def test_whatever_programs_print_documents_stay_well_formed(some, allow_skip, width):
    summary = summarise(some, allow_skip=allow_skip)
    text = terminal.render(summary, width=width)
    assert all(character == "\n" or character.isprintable() for character in text)
    root = ET.fromstring(junit.render(summary).encode())
    n_bad = int(root.get("failures")) + int(root.get("errors"))
    assert (n_bad == 0) == summary.passed
    page = Balanced()
    page.feed(html.render(summary))
    page.close()
    assert page.open == []
    assert page.scripts == [OUR_SCRIPT]
    assert json.loads(document.render(summary))["passed"] == summary.passed
    assert set(json.loads(badge.render(summary))) == {"schemaVersion", "label", "message", "color"}
    fences = [line for line in markdown.render(summary).splitlines() if re.match("`{3,}", line)]
    assert len(fences) % 2 == 0


@pytest.mark.parametrize("render", RENDERERS)
def test_nothing_can_be_rendered(render):
    assert render(summarise([]))


def test_the_terminal_shows_continuations_side_by_side_and_fits_the_width():
    for width in (44, 70, 100):
        text = terminal.render(summarise([WRONG]), width=width)
        assert re.search(r"expected +actual", text)
        assert re.search(r'" time <b>" +" `tomato`', text)
    assert "\x1b[" not in text
    assert "\x1b[" in terminal.render(summarise([WRONG]), color=True)


def test_many_failures_are_three_in_full_and_the_rest_in_a_line_each():
    wrongs = [verdict(Kind.MISMATCH, f"case{n}", divergence=WRONG.divergence, reason=f"r{n}") for n in range(30)]
    text = terminal.render(summarise(wrongs))
    assert text.count("regret") == 3
    assert "case29 (model gqa): r29\n" in text


def test_a_command_line_is_never_broken():
    long = f"./run {'x' * 200} -i 'Once'"
    text = terminal.render(summarise([replace(WRONG, reproduce=long)]), width=60)
    assert f"  reproduce: {long}\n" in text


def test_a_reason_that_many_cases_share_is_given_once():
    failed = [verdict(Kind.BUILD_FAILED, f"case{n}", reason="cc: no semicolon") for n in range(5)]
    text = terminal.render(summarise(failed))
    assert text.count("  cc: no semicolon") == 1
    assert all(f"case{n}" in text for n in range(5))


def test_junit_tells_wrong_from_broken_from_excused():
    kinds = [Kind.EXACT, Kind.MISMATCH, Kind.CRASHED, Kind.SKIPPED, Kind.INCONCLUSIVE]
    root = ET.fromstring(junit.render(summarise([verdict(kind, kind.value.lower()) for kind in kinds])).encode())
    found = {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}
    assert found == {
        "exact": [],
        "mismatch": ["failure"],
        "crashed": ["error"],
        "skipped": ["skipped"],
        "inconclusive": ["error"],
    }
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == ("5", "1", "2", "1")


@pytest.mark.parametrize(
    ("verdicts", "message", "color"),
    [
        ([verdict(), verdict(Kind.TIE), verdict(Kind.SKIPPED)], "1 EXACT, 1 TIE", "brightgreen"),
        ([verdict(), WRONG], "1 EXACT, 1 MISMATCH", "red"),
        ([verdict(Kind.SKIPPED)], "nothing judged", "lightgrey"),
    ],
)
def test_badges(verdicts, message, color):
    found = json.loads(badge.render(summarise(verdicts)))
    assert (found["message"], found["color"]) == (message, color)


def test_html_is_one_page_that_fetches_nothing():
    page = html.render(summarise([WRONG, verdict(Kind.TIE, certificates=(Certificate(5, 1, 2, 3.0, 3.1, 0.06),))]))
    fetched = re.findall(r"""(?:src|href)\s*=\s*"([^"]*)|url\(|@import""", page)
    assert fetched == ["data:,"]
    assert "&lt;b&gt;" in page
    assert "Near ties" in page


def test_html_without_jinja_names_the_install_line(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **options):
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *args, **options)

    html._environment.cache_clear()
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependency, match="pip install"):
        html.render(summarise([]))
