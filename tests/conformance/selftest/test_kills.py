"""Programs with a fault at the gate: stopped by the cheapest configuration, or not at all, or not tried."""

from __future__ import annotations

import pytest

from harness.adapters.implementation import ProcessImplementation
from harness.conformance.case import select
from harness.conformance.selftest import kills
from harness.conformance.selftest.kills import CONFIGURATIONS, embedded_suites, fate_of
from harness.conformance.selftest.ported import PortedFault
from harness.report import summarise
from harness.results import Kind

QUICK = ("quick, text", "quick", "full, text", "full")


def passed(verdicts, name):
    return summarise(verdicts, named=[name]).passed


@pytest.fixture
def only(monkeypatch):
    """Let the gate have these cases alone."""

    def choose(*keys: str) -> None:
        monkeypatch.setattr(kills, "_read", lambda suites: [case for case in select(suites) if case.key in keys])

    return choose


def fate(fault: str, **more):
    return fate_of(PortedFault(fault), "numpy", fault, passed=passed, suites=("core", "tokenizer"), **more)


def test_what_the_quick_cases_stop_is_stopped_in_every_configuration(only):
    only("core/gqa-greedy", "core/gqa-curly-quotes")
    found = fate("heads-modulo")
    assert found.killed_in == QUICK
    assert (found.by, found.kinds) == (("core/gqa-greedy",), ("MISMATCH",))
    assert [v.kind for v in found.verdicts] == [Kind.MISMATCH]


def test_what_only_the_other_cases_show_passes_the_quick_ones(only):
    only("core/gqa-greedy", "core/gqa-curly-quotes")
    found = fate("tokenizer-byte-lookup")
    assert found.killed_in == ("full, text", "full")
    assert found.by == ("core/gqa-curly-quotes",)


def test_what_only_ids_show_passes_as_text(only):
    only("core/gqa-greedy", "tokenizer/gqa-ids-bytes")
    found = fate("tokenizer-trimmed")
    assert found.killed_in == ("quick", "full")
    assert found.by == ("tokenizer/gqa-ids-bytes",)


def test_a_right_program_passes_everything(only):
    only("core/gqa-greedy", "core/gqa-curly-quotes", "tokenizer/gqa-ids-bytes")
    found = fate("none")
    assert (found.killed_in, found.by, found.obstacle, found.broken) == ((), (), "", "")


def test_a_fault_that_changes_no_function_passes_too(only):
    only("core/gqa-greedy", "core/gqa-nucleus-seed42")
    assert fate("topp-no-cutoff").killed_in == ()


def test_a_program_that_would_die_is_stopped(only):
    only("core/mha-greedy")
    found = fate("size-of-tied-file")
    assert found.kinds == ("CRASHED",)


def test_the_known_case_is_tried_first_and_alone(only):
    only("core/gqa-greedy", "core/mqa-recall")
    assert fate("rope-missing", first=("quick, text", "core/mqa-recall")).by == ("core/mqa-recall",)


def test_a_known_case_that_stops_it_no_more_is_followed_by_all(only):
    only("core/gqa-greedy", "core/gqa-curly-quotes")
    found = fate("tokenizer-byte-lookup", first=("quick, text", "core/gqa-greedy"))
    assert found.by == ("core/gqa-curly-quotes",)


def test_a_known_case_counts_for_its_configuration(only):
    only("core/gqa-greedy", "core/gqa-curly-quotes")
    known = ("full, text", "core/gqa-curly-quotes")
    assert fate("tokenizer-byte-lookup", first=known).killed_in == ("full, text", "full")


@pytest.mark.parametrize(
    "known", [("quick", "core/gqa-curly-quotes"), ("slow", "core/mqa-recall"), ("full", "core/x")]
)
def test_what_is_no_case_of_that_configuration_is_not_believed(only, known):
    only("core/gqa-greedy", "core/gqa-curly-quotes")
    assert fate("heads-modulo", first=known).by == ("core/gqa-greedy",)


def test_a_missing_tool_is_no_kill(only):
    only("core/gqa-greedy")
    manifest = PortedFault().manifest.model_copy(update={"needs_tool": ("no-such-tool-anywhere",)})
    found = fate_of(ProcessImplementation(manifest), "x", "heads-modulo", passed=passed, suites=("core",))
    assert found.killed_in == ()
    assert "no-such-tool-anywhere" in found.obstacle


def test_a_program_that_is_not_built_is_no_kill(only, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    only("core/gqa-greedy")
    (tmp_path / "x").write_text("")
    manifest = PortedFault().manifest.model_copy(
        update={"path": tmp_path / "impl.toml", "inputs": ("x",), "build": (("false",),)}
    )
    found = fate_of(ProcessImplementation(manifest), "x", "heads-modulo", passed=passed, suites=("core",))
    assert (found.killed_in, found.obstacle) == ((), "")
    assert "failed" in found.broken


def test_configurations_are_contained_in_those_that_they_say():
    names = [one.name for one in CONFIGURATIONS]
    for one in CONFIGURATIONS:
        assert one.name in one.within
        for name in one.within:
            outer = CONFIGURATIONS[names.index(name)]
            assert set(one.levels) <= set(outer.levels)
            assert one.quick or not outer.quick


def test_the_suites_are_those_that_need_no_download():
    assert set(embedded_suites()) >= {"core", "tokenizer", "logits"}
    assert "tinystories" not in embedded_suites()
