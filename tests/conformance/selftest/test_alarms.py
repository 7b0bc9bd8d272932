"""Honest programs on fresh cases: the cases, the judge, and what a false alarm is."""

from __future__ import annotations

import pytest

from harness.conformance.selftest import run
from harness.conformance.selftest.alarms import BATCH, Batch, Judged, available, cases, judged
from harness.conformance.selftest.honest import BUILDS, Honest, build_of, programs, rounded_programs
from harness.conformance.selftest.ported import PortedFault
from harness.engine import LIBRARY


@pytest.fixture(scope="module")
def batch():
    return cases(Batch("mha", 0), 4)


def test_the_same_number_makes_the_same_cases(batch):
    assert cases(Batch("mha", 0), 2) == batch[:2]
    assert cases(Batch("mha", 1), 2) != batch[:2]


def test_half_of_a_batch_is_greedy_and_half_is_drawn(batch):
    assert [case.is_sampled for case in batch] == [False, True, False, True]
    assert BATCH >= 24


def test_a_right_program_raises_no_alarm(batch):
    found = judged(batch, Batch("mha", 0), Honest("right", PortedFault()))
    assert (found.n_cases, found.alarms, found.accused, found.obstacle) == (4, (), (), "")
    assert found.n_tokens == sum(case.n_generated for case in batch)


def test_what_is_not_green_is_an_alarm(batch):
    found = judged(batch[:1], Batch("mha", 0), Honest("wrong", PortedFault("rope-missing")))
    assert [(case, kind) for case, kind, _, _ in found.alarms] == [("mha-0-0", "MISMATCH")]


def test_programs_of_a_lower_precision_declare_it_and_are_within_it(batch):
    found = {one.name: one for one in rounded_programs()}
    assert {one.impl.manifest.precision for one in found.values()} == {"f16", "bf16", "q8"}
    assert judged(batch[:1], Batch("mha", 0), found["bf16 weights"]).alarms == ()


def test_the_program_around_a_lower_precision_is_a_right_one(batch, monkeypatch):
    monkeypatch.setattr("harness.conformance.selftest.honest.rounded", lambda precision, *, group_size: [LIBRARY] * 3)
    for one in rounded_programs(is_declared=False):
        found = judged(batch[:2], Batch("mha", 0), one)
        assert (found.kinds, found.alarms) == ({"EXACT": 2}, ())


def test_who_does_not_declare_a_lower_precision_is_wrong(batch):
    declared, undeclared = (
        {one.name: one.impl for one in rounded_programs(is_declared=is_so)} for is_so in (True, False)
    )
    assert set(undeclared) == {f"{name}, undeclared" for name in declared}
    liar = undeclared["q8 weights and activations, undeclared"]
    assert liar.manifest.precision == "f32"
    found = judged(batch[:2], Batch("mha", 0), Honest("a liar", liar))
    assert found.alarms
    assert found.n_diagnoses == 1


def test_there_are_a_dozen_honest_programs():
    found = programs()
    assert len({one.name for one in found}) == len(found) >= 12
    assert {one.threads for one in found} == {1, 2}
    for one in found:
        assert {"llama2c-v0", "llama2c-v2"} <= set(one.impl.manifest.formats)


def test_a_build_has_its_flags():
    build = build_of(BUILDS[5])
    assert "-Ofast" in build.manifest.build[0]
    assert build.name == "gcc--Ofast--march-native"


def test_absent_models_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_MODELS", str(tmp_path))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert available(["gqa", "stories15M"]) == ["gqa"]


@pytest.fixture
def small(monkeypatch):
    """Batches of one case of mha, whatever their model is said to be."""
    monkeypatch.setattr(run, "available", lambda models: list(models[:1]))
    monkeypatch.setattr(run, "cases", lambda batch, n=1: cases(Batch("mha", batch.number), 1))


def test_a_program_that_cannot_be_run_is_asked_once(monkeypatch, small):
    manifest = PortedFault().manifest.model_copy(update={"needs_tool": ("no-such-tool-anywhere",)})
    absent = Honest("absent", run.ProcessImplementation(manifest))
    monkeypatch.setattr(run, "judged", lambda made, batch, honest: judged(made, Batch("mha", batch.number), honest))
    found = list(run.alarms([absent, Honest("right", PortedFault())], ["mha"], 200))
    assert [one.program for one in found if one.obstacle] == ["absent"]
    assert sum(one.n_tokens for one in found if one.program == "right") >= 200


def test_what_was_judged_before_counts_and_is_not_judged_again(small):
    right = Honest("right", PortedFault())
    whole = list(run.alarms([right], ["mha"], 300))
    assert len(whole) > 1
    known = {run.judged_key(one.program, one.batch): one for one in whole[:1]}
    rest = list(run.alarms([right], ["mha"], 300, known=known))
    assert [one.batch for one in rest] == [one.batch for one in whole[1:]]
    known |= {run.judged_key(one.program, one.batch): one for one in rest}
    assert list(run.alarms([right], ["mha"], 300, known=known)) == []


def test_batches_begin_where_they_are_told_to(monkeypatch):
    monkeypatch.setattr(run, "available", list)
    monkeypatch.setattr(run, "cases", lambda batch, n: [batch] * n)
    monkeypatch.setattr(run, "judged", lambda made, batch, honest: judged_as(honest.name, batch, len(made)))
    monkeypatch.setattr(Batch, "n_generated", 10, raising=False)
    (one,) = run.alarms([Honest("right", PortedFault())], ["a", "b", "c"], 1, first=4, n_cases=6)
    assert (one.batch, one.n_cases) == (Batch("b", 1), 6)


def judged_as(program, batch, n):
    return Judged(program, batch, n_cases=n)
