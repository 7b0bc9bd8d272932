"""Golden files: read, written, selected, and every one in the tree consistent with itself and its tokenizer."""

from __future__ import annotations

import contextlib
import hashlib
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from harness import formats, models
from harness.conformance import case as cases
from harness.conformance.case import Case, Margin, ModelRef, Provenance, read_case, render, write_case
from harness.errors import CaseError
from harness.models import ModelFiles, ModelNotFound
from tests.impls import llama2c_goldens

EXAMPLE = Case(
    name="bos-swap",
    suite="tiny",
    tags=("greedy", "quick"),
    why="BOS ends a generation before it is printed",
    model=ModelRef("stories260K/bos-swap", "ab" * 32, "cd" * 32, "llama2c-v0"),
    mode="generate",
    prompt=None,
    steps=60,
    temperature=0.0,
    topp=0.9,
    seed=1,
    system=None,
    stdin=b"",
    prompt_ids=(1,),
    ids=(13, 434, 1),
    stdout=b"\nThe\n",
    ends="bos",
    margins=(Margin(2, 0.0353538, 280), Margin(0, 0.5, 346)),
    provenance=Provenance("float64 reference", ("impls/c at gcc -O3: stdout",)),
)

# The same by hand: what a reader of the directory sees.
EXAMPLE_TEXT = f'''\
case = "bos-swap"
suite = "tiny"
tags = ["greedy", "quick"]
why = "BOS ends a generation before it is printed"

[model]
name = "stories260K/bos-swap"
format = "llama2c-v0"
sha256 = "{"ab" * 32}"
tokenizer_sha256 = "{"cd" * 32}"

[request]
mode = "generate"
steps = 60
temperature = 0.0
topp = 0.9
seed = 1

[expected]
ends = "bos"
stdout_sha256 = "{hashlib.sha256(bytes((10, 84, 104, 101, 10))).hexdigest()}"
text = """

The"""
prompt_ids = [1]
ids = [13, 434, 1]
margins = [
    [2, 0.0353538, 280],
    [0, 0.5, 346],
]

[provenance]
source = "float64 reference"
agreed = [
    "impls/c at gcc -O3: stdout",
]
'''


# ---- examples -----------------------------------------------------------------------------------


def test_the_example_is_written_as_it_would_be_by_hand() -> None:
    assert render(EXAMPLE) == EXAMPLE_TEXT


def test_the_example_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bos-swap.toml"
    path.write_text(EXAMPLE_TEXT)
    read = read_case(path)
    assert read == EXAMPLE
    assert read.path == path
    assert (read.key, read.n_generated, read.is_quick) == ("tiny/bos-swap", 3, True)
    assert not read.is_sampled
    assert not read.is_chat


def test_a_request_carries_every_setting_of_the_case() -> None:
    case = replace(EXAMPLE, prompt=b"Hi", steps=7, temperature=0.5, topp=0.25, seed=-1, margins=())
    files = ModelFiles("m", Path("m.bin"), Path("t.bin"), "", "", "llama2c-v0", False)
    request = case.request(files, threads=3)
    assert (request.model, request.tokenizer) == (Path("m.bin"), Path("t.bin"))
    assert (request.prompt, request.steps, request.temperature) == (b"Hi", 7, 0.5)
    assert (request.topp, request.seed, request.threads, request.mode) == (0.25, -1, 3, "generate")


def test_a_text_may_end_with_an_id_that_is_no_bos(tmp_path: Path) -> None:
    ended = replace(EXAMPLE, ids=(13, 434, 7), ends="eos")
    write_case(ended, tmp_path / "bos-swap.toml")
    assert read_case(tmp_path / "bos-swap.toml") == ended
    with pytest.raises(ValueError, match=r"expected\.ends"):
        write_case(
            replace(EXAMPLE, prompt_ids=(1, 13, 434), ids=(13, 434), ends="eos", margins=()), tmp_path / "b.toml"
        )
    with pytest.raises(ValueError, match=r"expected\.ends"):
        write_case(replace(EXAMPLE, ends="eos"), tmp_path / "b.toml")


def test_blanks_at_line_ends_are_visible() -> None:
    assert "a\\u0020\nb" in render(replace(EXAMPLE, stdout=b"a \nb\n"))


# ---- properties ---------------------------------------------------------------------------------

lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=30)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
# Quotes, backslashes and blanks at line ends are where a writer of TOML goes wrong.
texts = st.one_of(
    st.binary(max_size=60),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(str.encode),
    st.text(st.sampled_from("\"\\ \n\r\ta'#é🦙\u2028\x7f\x00"), max_size=60).map(str.encode),
)
ids = st.integers(2, 2**31 - 1)


@st.composite
def drawn_cases(draw: st.DrawFn) -> Case:
    """Any Case that does not contradict itself."""
    is_chat = draw(st.booleans())
    prompt_ids = (1, *draw(st.lists(ids, max_size=4)))
    generated = draw(st.lists(ids, max_size=40))
    has_bos = draw(st.booleans()) and not is_chat
    sequence = (*prompt_ids[1:], *generated, *([1] if has_bos else []))
    temperature = draw(st.sampled_from([0.0, 1.0, 0.8, 1e-30, math.inf]))
    n_generated = len(sequence) - len(prompt_ids) + 1
    margins: list[Margin] = []
    if temperature == 0 and n_generated:
        margin = st.builds(Margin, st.integers(0, n_generated - 1), st.floats(0, 1e9), ids)
        margins = draw(st.lists(margin, max_size=cases.MAX_MARGINS))
    is_known = draw(st.booleans())
    return Case(
        name=draw(names),
        suite=draw(names),
        tags=tuple(draw(st.lists(names, max_size=3))),
        why=draw(lines.filter(bool)),
        model=ModelRef(draw(names), draw(hashes), draw(hashes), draw(lines.filter(bool))),
        mode="chat" if is_chat else "generate",
        prompt=draw(st.none() | texts),
        steps=draw(st.just(0) | st.integers(len(sequence) + 1, 10**6)),
        temperature=temperature,
        topp=draw(st.floats(0, 1)),
        seed=draw(st.integers(-(2**63), 2**63 - 1)),
        system=draw(st.none() | texts) if is_chat else None,
        stdin=draw(texts) if is_chat else b"",
        prompt_ids=prompt_ids,
        ids=sequence if is_known else None,
        stdout=draw(texts) + b"\n",
        ends="bos" if has_bos else "steps",
        margins=tuple(margins) if is_known else (),
        provenance=Provenance(
            draw(st.sampled_from(["float64 reference", "strict arithmetic", "published"])),
            tuple(draw(st.lists(lines, max_size=2))),
            draw(lines),
        ),
    )


@hypothesis.given(drawn_cases())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    path = tmp_path_factory.mktemp("golden") / "case.toml"
    write_case(case, path)
    assert read_case(path) == case
    assert path.read_text("utf-8") == render(read_case(path)), "the text is a function of the value"
    assert list(path.parent.iterdir()) == [path]


@hypothesis.given(drawn_cases(), st.data())
def test_a_damaged_file_is_a_case_error_or_another_case(
    tmp_path_factory: pytest.TempPathFactory, case: Case, data: st.DataObject
) -> None:
    content = render(case).encode()
    at = data.draw(st.integers(0, len(content)))
    damaged = content[:at] + data.draw(st.binary(max_size=3)) + content[at + data.draw(st.integers(0, 3)) :]
    path = tmp_path_factory.mktemp("golden") / "case.toml"
    path.write_bytes(damaged)
    with contextlib.suppress(CaseError):
        read_case(path)


# ---- hostile input ------------------------------------------------------------------------------


def edited(**edits: object) -> str:
    """Return the example's text with dotted keys set (None: removed)."""
    text = EXAMPLE_TEXT
    for key, value in edits.items():
        *_, last = key.split("__")
        kept = [line for line in text.splitlines() if not line.startswith(f"{last} = ")]
        if value is not None:
            table = key.split("__")[0] if "__" in key else None
            at = kept.index(f"[{table}]") + 1 if table else 0
            kept.insert(at, f"{last} = {value}")
        text = "\n".join(kept) + "\n"
    return text


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "key case"),
        ("case = ", None),
        ("[model\n", "line 1"),
        (EXAMPLE_TEXT + "surprise = 1\n", "key provenance.surprise"),
        (edited(why=None), "key why"),
        (edited(why='""'), "key why"),
        (edited(why='"two\\nlines"'), "key why"),
        (edited(case='"../evil"'), "key case"),
        (edited(case='".hidden"'), "key case"),
        (edited(request__steps="-1"), "key request.steps"),
        (edited(request__steps='"60"'), "key request.steps"),
        (edited(request__steps="2"), "key expected.ids"),
        (edited(request__mode='"verse"'), "key request.mode"),
        (edited(request__temperature="nan"), "key request.temperature"),
        (edited(request__temperature="-1.0"), "key request.temperature"),
        (edited(request__topp="1.5"), "key request.topp"),
        (edited(request__stdin='"Hi"'), "key request.mode"),
        (edited(request__prompt_hex='"4"'), "key request.prompt_hex"),
        (edited(request__seed=f"{2**63}"), "key request.seed"),
        (edited(model__sha256='"ab"'), "key model.sha256"),
        (edited(model__name='"../../etc/passwd"'), "key model.name"),
        (edited(expected__stdout_sha256=f'"{"0" * 64}"'), "key expected.stdout_sha256"),
        (edited(expected__text_hex='"00"'), "key expected.text"),
        (edited(expected__ids="[13, -1]"), "key expected.ids.1"),
        (edited(expected__ids="[13, true]"), "key expected.ids.1"),
        (edited(expected__prompt_ids="[]"), "key expected.prompt_ids"),
        (edited(expected__prompt_ids="[1, 14]"), "key expected.ids"),
        (edited(expected__ends='"steps"'), "key expected.ends"),
        (edited(expected__ends='"never"'), "key expected.ends"),
        (EXAMPLE_TEXT.replace("[2, 0.0353538, 280]", "[3, 0.0353538, 280]"), "key expected.margins"),
        (EXAMPLE_TEXT.replace("[2, 0.0353538, 280]", "[2, inf, 280]"), "key expected.margins.0.1"),
        (EXAMPLE_TEXT.replace("[2, 0.0353538, 280]", "[2, 0.1]"), "key expected.margins.0.2"),
        (EXAMPLE_TEXT.replace("temperature = 0.0", "temperature = 1.0"), "key expected.margins"),
        (EXAMPLE_TEXT.replace('source = "float64 reference"', 'source = "a guess"'), "key provenance.source"),
        ("x = " + "[" * 10000, None),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path: Path, text: str, where: str | None) -> None:
    path = tmp_path / "bos-swap.toml"
    path.write_text(text)
    with pytest.raises(CaseError) as caught:
        read_case(path)
    assert caught.value.path == str(path)
    assert caught.value.where == where


def test_a_text_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    path.write_text(edited(request__prompt='"a"').replace("[request]", '[request]\nprompt_hex = "61"'))
    with pytest.raises(CaseError, match="as text and in hex"):
        read_case(path)


def test_bytes_that_are_no_text_and_no_file_are_case_errors(tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    path.write_bytes(b"case = \xff")
    for hopeless in (path, tmp_path, tmp_path / "absent.toml"):
        with pytest.raises(CaseError):
            read_case(hopeless)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CaseError, match="too large"):
        read_case(path)


def test_a_case_that_contradicts_itself_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected\.ends"):
        write_case(replace(EXAMPLE, ends="steps"), tmp_path / "case.toml")
    assert list(tmp_path.iterdir()) == []


# ---- finding ------------------------------------------------------------------------------------


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two suites: tiny with a, b (quick) and an int8 c; other with one case; and what is no suite."""
    monkeypatch.setattr(cases, "golden_dir", lambda: tmp_path)
    q8 = replace(EXAMPLE.model, name="gqa-q8")
    original = replace(EXAMPLE.model, name="stories260K")
    for case in (
        replace(EXAMPLE, name="a", tags=()),
        replace(EXAMPLE, name="b", model=original),
        replace(EXAMPLE, name="c", tags=("int8",), model=q8),
        replace(EXAMPLE, name="a", suite="other", tags=()),
    ):
        write_case(case, tmp_path / case.suite / f"{case.name}.toml")
    (tmp_path / "tiny" / "plan.toml").write_text("")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "models.toml").write_text("")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_suites_are_the_directories_that_hold_cases(golden: Path) -> None:
    assert cases.suite_names() == ["other", "tiny"]


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        ({}, ["tiny/a", "tiny/b", "tiny/c", "other/a"]),
        ({"quick": True}, ["tiny/b"]),
        ({"cases": ["a"]}, ["tiny/a", "other/a"]),
        ({"cases": ["tiny/a", "c"]}, ["tiny/a", "tiny/c"]),
        ({"cases": ["tiny/*"]}, ["tiny/a", "tiny/b", "tiny/c"]),
        ({"models": ["gqa-q8"]}, ["tiny/c"]),
        ({"models": ["stories260K"]}, ["tiny/a", "tiny/b", "other/a"]),
        ({"models": ["stories260K/bos-swap"], "cases": ["tiny/*"]}, ["tiny/a"]),
        ({"models": ["gqa-q8"], "quick": True}, []),
    ],
)
def test_cases_are_selected_by_every_filter(golden: Path, filters: dict[str, object], keys: list[str]) -> None:
    assert [case.key for case in cases.select(["tiny", "other"], **filters)] == keys  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("suites", "filters"),
    [
        (["absent"], {}),
        (["models"], {}),
        (["tiny"], {"cases": ["d"]}),
        (["tiny"], {"models": ["gqa"]}),
        (["other"], {"cases": ["tiny/a"]}),
    ],
)
def test_a_name_that_selects_nothing_is_an_error(
    golden: Path, suites: list[str], filters: dict[str, list[str]]
) -> None:
    with pytest.raises(CaseError):
        cases.select(suites, **filters)


def test_a_file_must_be_where_it_says(golden: Path) -> None:
    (golden / "tiny" / "a.toml").rename(golden / "tiny" / "d.toml")
    with pytest.raises(CaseError) as caught:
        cases.read_suite(golden / "tiny")
    assert (caught.value.where, caught.value.expected, caught.value.actual) == ("key case", "d", "a")
    (golden / "tiny" / "d.toml").rename(golden / "other" / "b.toml")
    with pytest.raises(CaseError, match="differs from where"):
        cases.read_suite(golden / "other")
    with pytest.raises(CaseError, match="no such suite"):
        cases.read_suite(golden / "absent")


# ---- the goldens of this tree -------------------------------------------------------------------

GOLDENS = [case for suite in cases.suite_names() for case in cases.read_suite(models.golden_dir() / suite)]
goldens = pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.key)


def test_there_are_goldens_and_a_quick_set() -> None:
    assert GOLDENS
    assert any(case.is_quick for case in GOLDENS)


@pytest.mark.parametrize("published", llama2c_goldens.GOLDENS, ids=lambda golden: golden.name)
def test_every_published_output_of_llama2c_is_a_golden(published: llama2c_goldens.Golden) -> None:
    asked = dict(zip(published.args[::2], published.args[1::2], strict=True))
    model = published.model.replace("q8-gs", "q8-")
    (case,) = [
        case
        for case in GOLDENS
        if case.stdout_sha256 == published.sha256
        and case.model.name == ("stories260K" if model == "stories260K" else f"stories260K/{model}")
        and (case.prompt or b"") == asked.get("-i", "").encode()
        and case.steps == int(asked.get("-n", 256))
    ]
    assert case.suite == "tinystories"
    assert case.mode == asked.get("-m", "generate")
    assert case.temperature == float(asked.get("-t", 1.0))
    assert case.stdin == published.stdin.encode()
    assert case.system == (asked["-y"].encode() if "-y" in asked else None)
    if case.is_sampled:
        assert (case.topp, case.seed) == (float(asked.get("-p", 0.9)), int(asked["-s"]))


@goldens
def test_a_golden_is_written_canonically(case: Case) -> None:
    assert case.path is not None
    assert case.path.read_text("utf-8") == render(case)
    assert len(render(case)) <= (6000 if case.is_run else 16_000), "small enough to be read"


@goldens
def test_a_golden_names_a_source_that_agreed(case: Case) -> None:
    if case.provenance.source == "relation":  # a program is held against itself
        assert case.suite == "relations"
        return
    assert case.provenance.agreed
    assert (case.provenance.source == "strict arithmetic") == (case.model.format == "llama2c-v2")


@goldens
def test_a_golden_agrees_with_its_tokenizer(case: Case) -> None:
    try:
        files = models.locate(case.model.name, sha256=case.model.sha256, tokenizer_sha256=case.model.tokenizer_sha256)
    except ModelNotFound as absent:
        pytest.skip(str(absent))
    assert files.format == case.model.format
    tokenizer = formats.read_tokenizer(files.tokenizer)
    if case.is_chat:
        assert case.ids is not None
        assert case.ids[: len(case.prompt_ids) - 1] == case.prompt_ids[1:]
        return
    for row in case.texts:
        assert row.ids == tuple(tokenizer.encode(row.text))
    for row in (*case.texts, *case.decoded):
        assert tokenizer.decode(row.ids) == row.text
    if not case.is_run:
        return
    assert case.prompt_ids == tuple(tokenizer.encode(case.prompt or b""))
    if case.ids is not None:
        assert case.stdout == tokenizer.print_text([case.prompt_ids[0], *case.ids]) + b"\n"
        if case.ends == "steps" and case.steps:
            assert len(case.ids) == case.steps or case.model.name.endswith(("/seq32", "/short-context"))


def test_the_quick_set_is_small() -> None:
    for suite in cases.suite_names():
        quick = [case for case in GOLDENS if case.suite == suite and case.is_quick]
        assert (8 if suite in ("core", "tinystories") else 4) <= len(quick) <= 16


def test_goldens_are_toml_that_others_can_read() -> None:
    for case in GOLDENS:
        assert case.path is not None
        assert tomllib.loads(case.path.read_text("utf-8"))["case"] == case.name
