"""Whether the gate stops a program that is known to be wrong: in which configuration, and by which case.

A configuration is what somebody runs: the quick cases or all of them, on a program that only prints text or on one
that speaks the line protocol too. What is killed in a small one counts as killed in every one that contains it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.adapters.implementation import Implementation
from harness.conformance.case import Case, select, suite_names
from harness.conformance.check import check
from harness.conformance.levels import LEVELS
from harness.results import Kind, Verdict

__all__ = [
    "CONFIGURATIONS",
    "SUITES",
    "Configuration",
    "Outcome",
    "Passed",
    "cases_of",
    "embedded_suites",
    "fate_of",
    "from_on",
    "largest",
]

Passed = Callable[[Sequence[Verdict], str], bool]
"""What the gate concludes from the verdicts on a named implementation; `harness check` exits with 0 if it is true."""

# Those whose models come with the harness: what is measured does not depend on what lies on a machine.
SUITES = ("core", "stress", "relations", "tokenizer", "logits")
_TIME_S = 20.0
_MOST_CASES = 12  # that are named for one program


@dataclass(frozen=True, slots=True)
class Configuration:
    """A way to run the gate.

    Attributes:
        quick: only the cases so tagged.
        levels: at which a program is judged.
        within: the configurations that contain it, itself included.
    """

    name: str
    quick: bool
    levels: tuple[str, ...]
    within: tuple[str, ...]


CONFIGURATIONS = (
    Configuration("quick, text", True, ("TEXT",), ("quick, text", "quick", "full, text", "full")),
    Configuration("quick", True, LEVELS, ("quick", "full")),
    Configuration("full, text", False, ("TEXT",), ("full, text", "full")),
    Configuration("full", False, LEVELS, ("full",)),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one program with a fault.

    Attributes:
        program: into what the fault was put: "numpy", or a directory of impls/.
        fault: its name in the catalogue.
        killed_in: the configurations that stop it.
        by: cases that did, in the smallest of them.
        kinds: their verdicts.
        took_s: until it was stopped, or until everything had been tried.
        obstacle: why it could not be tried: a missing tool.
        broken: why it was not built; that is no kill.
        verdicts: of the configuration that stopped it.
    """

    program: str
    fault: str
    killed_in: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    took_s: float = 0.0
    obstacle: str = ""
    broken: str = ""
    verdicts: tuple[Verdict, ...] = ()


def largest(impl: Implementation) -> tuple[Configuration, ...]:
    """The configuration that contains all others, for what a program shows: what passes it passes them all."""
    wanted = LEVELS if set(impl.manifest.levels) - {"TEXT"} else ("TEXT",)
    return tuple(one for one in CONFIGURATIONS if not one.quick and set(one.levels) == set(wanted))


def from_on(name: str) -> tuple[Configuration, ...]:
    """That configuration and those behind it; all of them if there is none of that name."""
    names = [one.name for one in CONFIGURATIONS]
    return CONFIGURATIONS[names.index(name) if name in names else 0 :]


def embedded_suites() -> tuple[str, ...]:
    """The suites of SUITES that there are."""
    return tuple(suite for suite in SUITES if suite in suite_names())


def cases_of(configuration: Configuration, suites: Sequence[str]) -> list[Case]:
    """The cases that a configuration judges by."""
    return [case for case in _read(tuple(suites)) if case.is_quick or not configuration.quick]


@functools.cache
def _read(suites: tuple[str, ...]) -> list[Case]:
    """The cases of some suites, read once: hundreds of programs are put to them."""
    return select(suites)


def fate_of(
    impl: Implementation,
    program: str,
    fault: str,
    *,
    passed: Passed,
    suites: Sequence[str],
    first: tuple[str, str] | None = None,
    configurations: Sequence[Configuration] = CONFIGURATIONS,
    diagnose: bool = False,
) -> Outcome:
    """Put a program to the gate, the cheapest configuration first, until one stops it.

    Args:
        passed: concludes as the gate does.
        suites: that make up the configurations.
        first: a configuration that stopped it before, and one of the cases that did: that one is asked alone first.
        configurations: those to try, in the order of CONFIGURATIONS.
        diagnose: have the gate name the bug, which takes longer than to see it.
    """
    start = time.perf_counter()
    for configuration, cases in [*_again(first, suites), *((c, cases_of(c, suites)) for c in configurations)]:
        levels = [level for level in configuration.levels if level in impl.manifest.levels]
        if configuration.levels != ("TEXT",) and levels == ["TEXT"]:
            continue  # it shows no more than text
        verdicts: list[Verdict] = []
        for group in check([impl], cases, levels=levels, time_s=_TIME_S, diagnose=diagnose):
            verdicts += group
            if any(v.kind.is_failure for v in group) and not passed(verdicts, impl.name):
                break  # the cases of other models cannot make it pass
        took_s = time.perf_counter() - start
        if obstacle := next((v.reason for v in verdicts if v.kind is Kind.SKIPPED), ""):
            return Outcome(program, fault, took_s=took_s, obstacle=obstacle)
        if broken := next((v.reason for v in verdicts if v.kind is Kind.BUILD_FAILED), ""):
            return Outcome(program, fault, took_s=took_s, broken=broken)
        if not passed(verdicts, impl.name):
            wrong = [v for v in verdicts if v.kind.is_failure] or [v for v in verdicts if not v.kind.is_green]
            return Outcome(
                program,
                fault,
                configuration.within,
                tuple(f"{v.suite}/{v.case}" for v in wrong[:_MOST_CASES]),
                tuple(str(v.kind) for v in wrong[:_MOST_CASES]),
                took_s,
                verdicts=tuple(verdicts),
            )
    return Outcome(program, fault, took_s=time.perf_counter() - start)


def _again(first: tuple[str, str] | None, suites: Sequence[str]) -> list[tuple[Configuration, list[Case]]]:
    """The case that stopped a program before, in the configuration of which it is."""
    if first is None:
        return []
    name, key = first
    found = [case for case in _read(tuple(suites)) if case.key == key]
    return [(one, found) for one in CONFIGURATIONS if found and one.name == name and one.quick <= found[0].is_quick]
