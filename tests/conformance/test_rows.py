"""Goldens of ids and of logits: their files, that they are confirmed, judged without an ensemble, and recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.__main__ import main
from harness.adapters.implementation import resolve
from harness.adapters.process import Limits
from harness.conformance.case import ModelRef, Provenance, by_ids, read_case, render, select, write_case
from harness.conformance.judge_rows import confirm
from harness.conformance.prompted import NO_PROMPTS, PARTIAL, can_be_prompt
from harness.conformance.reference import Reference
from harness.conformance.rows import Encoding
from harness.conformance.verify import reference_of, verify_group
from harness.engine import Engine
from harness.errors import CaseError, Crashed
from harness.judging.fingerprint import Fingerprint, fingerprint
from harness.models import impls_dir, locate
from harness.models import load as load_model
from harness.results import Kind
from harness.tokenizer.bpe import KNOWN_WRONG
from tests.conformance.fakes import Fake
from tests.conformance.test_levels import WRONG_TOKENIZER, bent

HEAD = {
    "name": "some",
    "suite": "tiny",
    "tags": (),
    "why": "an example",
    "model": ModelRef("gqa", "ab" * 32, "cd" * 32, "llama2c-v0"),
    "provenance": Provenance("harness tokenizer", ("hand",)),
}
TEXTS = by_ids(
    mode="encode",
    texts=(Encoding(b"a\tb", (1, 5)), Encoding(b"\xff", (1, 444, 258))),
    decoded=(Encoding(b"", (1, 1)), Encoding(b"\x80", (131,))),
    **HEAD,
)
ROW = Fingerprint(1, 2e-06, -0.5, ((7, 5.0), (3, 4.0), (2, 3.0), (0, 2.5), (1, 1.0)), (0.5, -1.25, 2.0, 1e-3))
LOGITS = by_ids(mode="logits", prompt_ids=(1,), ids=(432, 441), rows=(ROW, replace(ROW, position=2)), **HEAD)
TEXTS_LINES = """\
texts = [
    ["a\\tb", [1, 5]],
]
texts_hex = [
    ["ff", [1, 444, 258]],
]
decoded = [
    ["", [1, 1]],
]
decoded_hex = [
    ["80", [131]],
]
"""


def judged(impl, names, suite="tokenizer", model="gqa"):
    cases = select([suite], cases=names)
    found = verify_group(cases, impl, files=locate(model), limits=Limits(time_s=30.0))
    return {verdict.case: verdict for verdict in found}


# ---- files


def test_texts_are_written_as_by_hand_and_read_back(tmp_path):
    assert f"\n[expected]\n{TEXTS_LINES}\n[provenance]\n" in render(TEXTS)
    write_case(TEXTS, tmp_path / "some.toml")
    assert read_case(tmp_path / "some.toml") == TEXTS


def test_fingerprints_are_written_as_by_hand_and_read_back(tmp_path):
    assert 'mode = "logits"\nids = [1, 432, 441]\n' in render(LOGITS)
    assert (
        "\n[[expected.rows]]\nposition = 1\nfloor = 2e-06\nmean = -0.5\n"
        "top = [[7, 5.0], [3, 4.0], [2, 3.0], [0, 2.5], [1, 1.0]]\nprojections = [0.5, -1.25, 2.0, 0.001]\n"
    ) in render(LOGITS)
    write_case(LOGITS, tmp_path / "some.toml")
    read = read_case(tmp_path / "some.toml")
    assert read == LOGITS
    assert read.fed == (1, 432, 441)


@pytest.mark.parametrize(
    ("case", "before", "after", "where"),
    [
        (TEXTS, '"ff"', '"fg"', "key expected.texts_hex"),
        (TEXTS, '"ff"', '"61"', "key expected.texts_hex"),
        (TEXTS, "[1, 5]", "[1, -5]", "key expected.texts.0.1.1"),
        (TEXTS, '"a\\tb"', '"a\\u0000b"', "key expected.texts"),
        (TEXTS, '    ["a\\tb", [1, 5]],\n', '    ["a", [1]],\n    ["a", [1]],\n', "key expected.texts"),
        (TEXTS, 'mode = "encode"', 'mode = "encode"\nsteps = 3', "key request.steps"),
        (TEXTS, TEXTS_LINES, "", "key expected.texts"),
        (LOGITS, "position = 2", "position = 1", "key expected.rows"),
        (LOGITS, "position = 2", "position = 3", "key expected.rows"),
        (LOGITS, "floor = 2e-06", "floor = 0.0", "key expected.rows.0.floor"),
        (LOGITS, "projections = [0.5, ", "projections = [", "key expected.rows.0.projections"),
        (LOGITS, "[7, 5.0], ", "", "key expected.rows.0.top"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(case, before, after, where, tmp_path):
    text = render(case)
    assert before in text
    (tmp_path / "some.toml").write_text(text.replace(before, after, 1))
    with pytest.raises(CaseError) as caught:
        read_case(tmp_path / "some.toml")
    assert caught.value.where == where


# ---- the goldens judge the reference


def test_a_changed_engine_is_noticed_by_the_goldens_alone():
    (case,) = select(["logits"], cases=["gqa-logits-greedy"])
    files = locate("gqa")
    reference = Reference(load_model(files.checkpoint, files.tokenizer))
    confirm(reference, case)
    checkpoint = reference.model.checkpoint
    reference.confirmed.clear()
    # A float32 engine is right to any program's eye, and not the float64 one that was recorded.
    reference.__dict__["exact"] = Engine(checkpoint.config, checkpoint.tensors, dtype=np.float32)
    with pytest.raises(CaseError, match="are not the reference's logits"):
        confirm(reference, case)


def test_a_golden_with_other_ids_than_the_reference_judges_nobody():
    (case,) = select(["tokenizer"], cases=["gqa-ids-words"])
    first = case.texts[0]
    stale = replace(case, texts=(replace(first, ids=(*first.ids, 5)), *case.texts[1:]))
    with pytest.raises(CaseError, match="are not the ids of"):
        confirm(reference_of(locate("gqa")), stale)
    (case,) = select(["tokenizer"], cases=["gqa-ids-decode"])
    stale = replace(case, decoded=(Encoding(b"nonsense", (1,)),))
    with pytest.raises(CaseError, match="is not the text of 1"):
        confirm(reference_of(locate("gqa")), stale)


# ---- and programs


def test_a_right_program_is_exact_without_a_pass_of_the_ensemble(monkeypatch):
    def never(*_, **__):
        raise AssertionError("noise floors are in the golden")

    monkeypatch.setattr(Reference, "rising_floors", never)
    monkeypatch.setattr(Reference, "floors", never)
    (impl,) = resolve("numpy", impls_dir())
    found = judged(impl, ["gqa-*"], "logits") | judged(impl, ["gqa-ids-words", "gqa-ids-decode", "gqa-ids-specials"])
    assert {verdict.kind for verdict in found.values()} == {Kind.EXACT}
    assert min(verdict.wall_s for verdict in found.values()) > 0.0
    assert found["gqa-ids-words"].levels == (("TOKENS", Kind.EXACT),)
    assert found["gqa-logits-prompt"].levels == (("LOGITS", Kind.EXACT),)


def test_a_wrong_tokenizer_is_named_over_all_texts(tmp_path):
    impl = bent(tmp_path, WRONG_TOKENIZER.format(root=str(impls_dir().parent)), levels='["TOKENS"]')
    found = judged(impl, ["gqa-ids-words", "gqa-ids-decode"])
    wrong = found["gqa-ids-words"]
    assert (wrong.kind, wrong.tokenizer) == (Kind.MISMATCH, Kind.MISMATCH)
    assert "no space is put before the text (no-dummy-prefix)" in wrong.reason
    assert " encode " in wrong.reproduce
    assert found["gqa-ids-decode"].kind is Kind.EXACT


def test_a_wrong_decoder_is_told(tmp_path):
    bend = "if verb == b'decode' and words[-1].startswith(b'20'): words[-1] = words[-1][2:] or b'-'"
    verdict = judged(bent(tmp_path, bend, levels='["TOKENS"]'), ["gqa-ids-decode"])["gqa-ids-decode"]
    assert verdict.kind is Kind.MISMATCH
    assert verdict.reason.startswith("decode: ")
    assert " decode " in verdict.reproduce


@pytest.mark.parametrize(
    ("bend", "says"),
    [
        ("f = floats(words); f[5] += 0.01; words[-1] = hexed(f)", "position 0"),
        ("f = floats(words); f[512 * 31 + 77] += 0.01; words[-1] = hexed(f)", "position 31, projection"),
        ("words[-1] = words[-1][4096:] + words[-1][:4096]", "noise floors apart"),
        ("words[-1] = bytes(words[-1][:-8]) + b'0000c07f'", "the logit of id 511 is not finite"),
    ],
)
def test_wrong_logits_are_a_mismatch_by_the_golden(bend, says, tmp_path):
    impl = bent(tmp_path, f"if verb == b'logits': {bend}", levels='["LOGITS"]')
    verdict = judged(impl, ["gqa-logits-greedy"], "logits")["gqa-logits-greedy"]
    assert verdict.kind is Kind.MISMATCH
    assert says in verdict.reason


def test_log_probabilities_pass_for_logits(tmp_path):
    bend = (
        "import math\n"
        "if verb == b'logits':\n"
        "    f = floats(words)\n"
        "    rows = [f[i:i + 512] for i in range(0, len(f), 512)]\n"
        "    words[-1] = hexed([x - math.log(sum(map(math.exp, row))) for row in rows for x in row])"
    )
    impl = bent(tmp_path, bend, levels='["LOGITS"]')
    assert judged(impl, ["gqa-logits-prompt"], "logits")["gqa-logits-prompt"].kind is Kind.EXACT


def test_what_a_program_does_not_speak_is_unsupported_with_the_reason(tmp_path):
    found = judged(Fake(), ["gqa-ids-decode"])["gqa-ids-decode"]
    assert found.kind is Kind.UNSUPPORTED
    assert "level TOKENS" in found.reason
    deaf = bent(tmp_path, "if verb == b'encode': return [number, b'unsupported']", levels='["TOKENS"]')
    assert judged(deaf, ["gqa-ids-words"])["gqa-ids-words"].kind is Kind.UNSUPPORTED


# ---- programs that only print: some of the texts are prompts, and the verdict is called partial

PRINTED = ["gqa-ids-merge-order", "gqa-ids-words", "gqa-ids-invalid-utf8"]


def test_the_texts_of_a_program_that_only_prints_are_judged_in_part_and_it_is_said():
    found = judged(Fake(), PRINTED)
    for name in PRINTED[:2]:
        assert (found[name].kind, found[name].tokenizer, found[name].levels) == (
            Kind.EXACT,
            Kind.EXACT,
            (("TEXT", Kind.EXACT),),
        )
        assert found[name].reason.startswith("partial: 3 of its ")
        assert PARTIAL in found[name].conventions
        assert found[name].n_judged >= 3 * 32
    invalid = found["gqa-ids-invalid-utf8"]
    assert (invalid.kind, invalid.reason) == (Kind.UNSUPPORTED, NO_PROMPTS)


def test_its_wrong_tokenizer_is_a_mismatch_that_is_named():
    wrong = next(rules for name, _, rules in KNOWN_WRONG if name == "no-dummy-prefix")
    found = judged(Fake(rules=wrong), PRINTED[:2])
    assert {verdict.kind for verdict in found.values()} == {Kind.MISMATCH}
    assert any("(no-dummy-prefix)" in verdict.reason for verdict in found.values())
    assert all("; partial: 3 of its " in verdict.reason for verdict in found.values())


def test_a_crash_of_it_is_no_verdict_on_its_tokenizer():
    found = judged(Fake(failure=Crashed("ended by signal 11", exit_code=-11)), PRINTED[:1])[PRINTED[0]]
    assert (found.kind, found.tokenizer) == (Kind.CRASHED, None)
    assert "ended by signal 11" in found.reason


@pytest.mark.parametrize(
    ("text", "fits"),
    [(b"Once", True), (b"", False), (b"-i", False), (b"\xff", False), (b"a" * 120, True), (b"a" * 121, False)],
)
def test_a_prompt_is_short_text_that_is_no_option(text, fits):
    assert can_be_prompt(text) is fits


def test_a_program_without_decode_is_judged_by_its_ids(tmp_path):
    impl = bent(tmp_path, "if verb == b'decode': return [number, b'unsupported']", levels='["TOKENS"]')
    found = judged(impl, ["gqa-ids-words", "gqa-ids-decode"])
    assert (found["gqa-ids-words"].kind, found["gqa-ids-decode"].kind) == (Kind.EXACT, Kind.UNSUPPORTED)
    assert "does not offer decode" in found["gqa-ids-words"].reason


def test_a_crash_is_the_verdict_of_its_case_and_three_block_the_rest(tmp_path):
    impl = bent(tmp_path, "if verb == b'encode': os.kill(os.getpid(), 11)", levels='["TOKENS"]')
    names = ["gqa-ids-decode", "gqa-ids-long", "gqa-ids-pieces", "gqa-ids-specials", "gqa-ids-words"]
    found = judged(impl, names)
    assert [found[name].kind for name in names] == [Kind.EXACT, *[Kind.CRASHED] * 3, Kind.BLOCKED]


def test_sessions_are_shared_out_among_jobs_and_the_verdicts_stay_in_order(tmp_path):
    cases = select(["core"], cases=["gqa-greedy", "gqa-curly-quotes", "gqa-double-spaces"])
    impl = bent(tmp_path, "if verb == b'generate' and given[4:] == [b'1']: os.kill(os.getpid(), 11)")
    found = verify_group(cases, impl, files=locate("gqa"), jobs=2, limits=Limits(time_s=30.0))
    assert [verdict.case for verdict in found] == [case.name for case in cases]
    kinds = {verdict.case: verdict.kind for verdict in found}
    assert kinds == {
        "gqa-greedy": Kind.CRASHED,
        "gqa-curly-quotes": Kind.EXACT,
        "gqa-double-spaces": Kind.EXACT,
    }


# ---- recording

PLAN = """
[[case]]
name = "texts"
model = "gqa"
texts = "special"
why = "some texts"

[[case]]
name = "logits"
model = "gqa"
why = "some logits"
steps = 4
positions = [0, 3]
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.conformance.record.golden_dir", lambda: tmp_path / "golden")
    (tmp_path / "golden" / "own").mkdir(parents=True)
    (tmp_path / "golden" / "own" / "plan.toml").write_text(PLAN)
    return tmp_path / "golden" / "own"


def record(*args):
    return main(["record", "--suite", "own", "--agree", "numpy", *args])


def test_texts_and_logits_are_recorded_agreed_and_then_stay_as_they_are(suite, capsys):
    pytest.importorskip("sentencepiece")
    assert record("--write") == 0
    texts, logits = read_case(suite / "texts.toml"), read_case(suite / "logits.toml")
    assert {row.text for row in texts.texts} >= {b"<s>", b"a[INST]b"}
    assert texts.provenance.agreed[0].startswith("sentencepiece ")
    assert texts.provenance.agreed[1:] == logits.provenance.agreed == ("impls/numpy",)
    assert [row.position for row in logits.rows] == [0, 3]
    exact = reference_of(locate("gqa")).exact.logits(logits.fed)
    by_hand = fingerprint(3, exact[3], logits.rows[1].floor)
    assert logits.rows[1].projections == pytest.approx(by_hand.projections, abs=1e-10)
    assert record("--check") == 0
    assert capsys.readouterr().err.endswith("0 would change, 2 as they are\n")


def test_a_golden_asks_what_it_always_asked(suite):
    pytest.importorskip("sentencepiece")
    assert record("--case", "texts", "--write") == 0
    case = read_case(suite / "texts.toml")
    write_case(replace(case, texts=case.texts[:3]), suite / "texts.toml")
    assert record("--case", "texts", "--write") == 0
    assert read_case(suite / "texts.toml").texts == case.texts[:3]


def test_nothing_is_recorded_that_a_program_or_the_library_reads_differently(suite, tmp_path, capsys, monkeypatch):
    pytest.importorskip("sentencepiece")
    impl = bent(tmp_path, "if verb == b'encode': words[-1] = b'7'", levels='["TOKENS"]')
    assert main(["record", "--suite", "own", "--agree", str(impl.manifest.path), "--case", "texts", "--write"]) == 1
    assert "does not agree: MISMATCH" in capsys.readouterr().err
    other = (lambda text: [3, 4], "sentencepiece 0")
    monkeypatch.setattr("harness.conformance.record_rows._sentencepiece", lambda tokenizer: other)
    assert record("--case", "texts", "--write") == 1
    assert "sentencepiece 0 does not agree on" in capsys.readouterr().err
    assert not (suite / "texts.toml").exists()


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('texts = "special"', 'texts = "nonsense"', "there are no texts of the kind nonsense"),
        ("positions = [0, 3]", "positions = [9]", "the run has 5 positions"),
        ('name = "logits"\nmodel = "gqa"', 'name = "logits"\nmodel = "gqa-q8"', "int8 logits depend"),
        ('texts = "special"', "", "needs steps, or the kind of its texts"),
        ('texts = "special"', 'texts = "special"\nsteps = 4', "needs steps, or the kind of its texts"),
    ],
)
def test_a_plan_that_cannot_be_recorded_is_refused(suite, before, after, says, capsys):
    assert before in PLAN
    (suite / "plan.toml").write_text(PLAN.replace(before, after))
    assert record() in (1, 2)
    assert says in capsys.readouterr().err
