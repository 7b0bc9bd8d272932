"""The manifests of programs that are not ours: skipped in one line where a machine has none, judged where it has.

Our own program stands in for llama2.c's, whose flags it takes, and behind a script for both of llama2.zig's.
"""

import sys
from collections import Counter
from dataclasses import replace

import pytest

from harness.adapters.build import build
from harness.adapters.manifest import discover
from harness.conformance import case, check
from harness.errors import MissingDependency
from harness.report import summarise
from harness.results import Kind

from .contract import HERE, IMPLS

VARIABLES = {
    "llama2c": "LLAMA2C_RUN",
    "llama2c-q8": "LLAMA2C_RUNQ",
    "llama2-zig": "LLAMA2_GENERATOR",
    "llama2-zig-v0": "LLAMA2_ZIG",
    "llama-cpp": "LLAMA_CPP_PYTHON",
    "llama-cpp-q8": "LLAMA_CPP_PYTHON",
}
MANIFESTS = {manifest.name: manifest for manifest in discover(IMPLS)}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    for name in VARIABLES.values():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def ours():
    try:
        return build(MANIFESTS["c"]) / "run"
    except MissingDependency as missing:
        pytest.skip(str(missing))


@pytest.fixture
def programs(ours, tmp_path, monkeypatch):
    """Set the variables as a machine would that has llama2.c's and llama2.zig's."""
    for name in ("LLAMA2C_RUN", "LLAMA2C_RUNQ"):
        monkeypatch.setenv(name, str(ours))
    for name, what in (("LLAMA2_GENERATOR", "generator"), ("LLAMA2_ZIG", "llama2")):
        script = tmp_path / what
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {HERE / "llama2_zig.py"} {what} {ours} "$@"\n')
        script.chmod(0o755)
        monkeypatch.setenv(name, str(script))


def judged(name, suites=("core",), **selection):
    [impl] = check.implementations([name])
    return [v for verdicts in check.check([impl], case.select(suites, **selection)) for v in verdicts]


def test_these_and_no_others_need_a_variable():
    assert {name: manifest.variables for name, manifest in MANIFESTS.items() if manifest.variables} == {
        name: [variable] for name, variable in VARIABLES.items()
    }


@pytest.mark.parametrize("name", VARIABLES)
def test_without_its_program_it_is_skipped_in_one_line_that_says_what_to_set(name):
    verdicts = judged(name, quick=True)
    assert {v.kind for v in verdicts} == {Kind.SKIPPED}
    [reason] = {v.reason for v in verdicts}
    assert reason.startswith(
        f"{VARIABLES[name]}, an environment variable that {name} needs, is not available; set it"
    )
    assert "\n" not in reason
    others = [replace(verdict, impl="other", kind=Kind.EXACT) for verdict in verdicts]
    assert summarise([*verdicts, *others]).passed  # as among all of ours
    assert not summarise([*verdicts, *others], named=[name]).passed  # who names it wants it


@pytest.mark.parametrize("name", ["llama2c", "llama2c-q8"])
def test_llama2c_is_judged_through_its_flags(name, programs):
    verdicts = judged(name)
    kinds = Counter(v.kind for v in verdicts)
    assert set(kinds) == {Kind.EXACT, Kind.UNSUPPORTED}, [v for v in verdicts if not v.kind.is_green]
    assert kinds[Kind.EXACT] >= 10
    assert not any(v.conventions for v in verdicts)


@pytest.mark.parametrize("name", ["llama2-zig", "llama2-zig-v0"])
def test_both_ports_to_zig_are_judged_through_flags_and_habits_of_their_own(name, programs):
    verdicts = judged(name)
    kinds = Counter(v.kind for v in verdicts)
    assert set(kinds) == {Kind.EXACT, Kind.KNOWN, Kind.UNSUPPORTED}, [v for v in verdicts if v.kind.is_failure]
    assert kinds[Kind.EXACT] >= 15
    assert {v.case for v in verdicts if v.kind is Kind.KNOWN} >= {
        *("gqa-cool-seed-minus-one", "gqa-hot-seed-3000000000")
    }
    conventions = {convention for v in verdicts for convention in v.conventions}
    assert "speed printed on stdout" in conventions


@pytest.mark.parametrize("name", ["llama2-zig", "llama2-zig-v0"])
def test_what_the_ports_to_zig_do_otherwise_is_listed(name, programs, published):
    """The deviations that their authors chose, on the published model: seeds, hot temperatures, the end of a run."""
    verdicts = judged(name, ("tinystories",), cases=["g*", "seq32-*", "c1-*"])
    kinds = {v.case: v.kind for v in verdicts}
    assert kinds.pop("c1-chat-asks") is Kind.UNSUPPORTED
    listed = {"g18", "g19", "g20", "g21", "g23", "g24", "g31"}
    if name == "llama2-zig-v0":
        listed |= {"g03", "g25", "seq32"}
    assert {case.partition("-")[0] for case, kind in kinds.items() if kind is Kind.KNOWN} == listed
    assert {kind for kind in kinds.values() if kind is not Kind.KNOWN} == {Kind.EXACT}
