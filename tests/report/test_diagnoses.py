"""Diagnoses in words, on some that were written by hand."""

from dataclasses import replace

import pytest

from harness.report import document, html, junit, markdown, summarise, terminal
from harness.report.diagnoses import in_one_line, told
from harness.results import Conclusion, Diagnosis, Kind, Suspect, Verdict
from harness.runfile import dump_verdict, load_verdict

HALVES = Suspect("rope-half-split", "rotation", "RoPE turned halves", "turn pairs", 200)
ROWS = Suspect("hf-rows-kept", "loading", "rows were used as they are", "reorder them", 200)
SIGN = Suspect("rope-backwards", "rotation", "RoPE turned the other way", "mind the sign", 12)
NAMED = Diagnosis(
    "text", Conclusion.NAMED, (HALVES,), explained=200, total=200, right=90, runner_up=SIGN, gap=99.0, n_tried=140
)
CLASS = replace(NAMED, suspects=(HALVES, ROWS))
UNKNOWN = Diagnosis("text", Conclusion.UNKNOWN, total=200, right=90, runner_up=SIGN, n_tried=600)
LOWER = Diagnosis(
    "text",
    Conclusion.LOWER_PRECISION,
    total=200,
    explained=200,
    right=200,
    runner_up=SIGN,
    precision="bf16",
    n_tried=9,
)


def wrong(found, model="gqa"):
    return Verdict("once", "c", model, Kind.MISMATCH, reason="wrong", suite="core", diagnosis=found)


def test_a_single_bug_is_told_with_its_fix_and_the_runner_up():
    assert told([wrong(NAMED)]) == [
        "behaves exactly as if RoPE turned halves (rotation)",
        "fix: turn pairs",
        "that explains 200 of 200 tokens on gqa; a right program explains 90, the runner-up (rope-backwards) 12",
        "rope-half-split in docs/faults.md; 140 known bugs were tried, and one that is not among them may do "
        "the same here",
    ]


def test_a_class_is_told_with_all_its_members():
    lines = told([wrong(CLASS)])
    assert "which these cases cannot tell apart (2)" in lines[0]
    assert lines[1] == "  RoPE turned halves (rotation); fix: turn pairs"
    assert lines[2] == "  rows were used as they are (loading); fix: reorder them"


def test_the_layer_is_told_where_it_is_one():
    found = replace(NAMED, suspects=(replace(HALVES, layer=3),))
    assert told([wrong(found)])[0] == "behaves exactly as if in layer 3 only, RoPE turned halves (layer 3, rotation)"


def test_what_is_unknown_says_so_and_what_came_nearest():
    first, second = told([wrong(UNKNOWN)])
    assert first.startswith("none of 600 known bugs explains what it says on gqa: a right program explains 90 of 200")
    assert "(rope-backwards) 12" in first
    assert "harness trace" in second


def test_lower_precision_is_no_accusation():
    assert told([wrong(LOWER)])[0] == (
        "no known bug on gqa: it looks like a right program that computes in bf16; if it does, "
        'say precision = "bf16" in its impl.toml'
    )


def test_nothing_is_told_where_nothing_was_sought():
    assert told([wrong(None)]) == []
    assert in_one_line(Diagnosis("text", Conclusion.NONE)) == ""


# ---- several models


def test_what_is_named_on_all_models_is_told_once_with_all_tokens():
    lines = told([wrong(CLASS), wrong(NAMED, "mha")])
    assert lines[0] == "behaves exactly as if RoPE turned halves (rotation)"
    assert lines[2] == (
        "that explains 400 of 400 tokens on gqa and mha; a right program explains 180, "
        "the runner-up (rope-backwards) 12 of those on gqa"
    )


def test_a_model_on_which_nothing_explains_everything_is_told():
    assert told([wrong(NAMED), wrong(UNKNOWN, "mha")])[-1] == "on mha no known bug explains everything"


def test_models_that_contradict_each_other_are_told_in_one_sentence():
    other = replace(NAMED, suspects=(ROWS,), explained=30, total=30)
    assert told([wrong(NAMED), wrong(other, "mha")]) == [
        "no single known bug explains all models; it behaves exactly as if",
        "  on gqa (200 of 200 tokens): RoPE turned halves (rotation: rope-half-split)",
        "  on mha (30 of 30 tokens): rows were used as they are (loading: hf-rows-kept)",
        "each is in docs/faults.md with its fix; a bug that is not may do the one here and the other there",
    ]


def test_what_is_unknown_on_several_models_is_told_once():
    (first, _) = told([wrong(UNKNOWN), wrong(UNKNOWN, "mha")])
    assert "on gqa and mha: a right program explains 180 of 400 tokens" in first


# ---- where it is shown


@pytest.mark.parametrize("render", [terminal.render, markdown.render, document.render, html.render, junit.render])
def test_every_report_names_the_bug_and_its_fix(render):
    shown = render(summarise([wrong(NAMED), wrong(NAMED)]))
    assert "behaves exactly as if RoPE turned halves" in shown.replace("\\", "")
    assert "turn pairs" in shown


def test_a_terminal_says_it_once():
    assert terminal.render(summarise([wrong(NAMED), wrong(NAMED)])).count("RoPE turned halves") == 1


def test_a_run_file_keeps_it():
    assert load_verdict(dump_verdict(wrong(CLASS))) == wrong(CLASS)
