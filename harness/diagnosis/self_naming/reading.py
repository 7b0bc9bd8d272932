"""Reading: what several probes said, intersected into one diagnosis.

    every probe says what a right program says                       -> NONE
    ... or what a right program of a lower precision could say       -> LOWER_PRECISION
    one fault, or few that are alike, explain what every probe said  -> NAMED
    nothing does                                                     -> UNKNOWN

A right program of lower precision is considered before any fault, so rounding is never taken for a bug. One probe
alone is never read: the nearest name is said with confidence however far it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.diagnosis.diagnosis import Conclusion, Diagnosis, Suspect, suspect
from harness.diagnosis.fault import Fate, Fault
from harness.diagnosis.self_naming.outcome import OK, PRECISIONS, faults_seen
from harness.diagnosis.self_naming.probe import CRASH, FLOAT32, SILENCE, Probe

__all__ = ["LEAST_PROBES", "read_off", "unseen"]

LEAST_PROBES = 2

Heard = Sequence[tuple[Probe, str]]


def read_off(heard: Heard, *, precision: str = FLOAT32) -> Diagnosis:
    """Intersect what probes said.

    Args:
        heard: each probe with what `Probe.heard` made of the program's output, or CRASH.
        precision: that the program declares; in a lower one, faults are looked for in that arithmetic, too.
    """
    tried = [
        fault
        for fault in faults_seen()
        if fault.fate is Fate.KILLABLE and any(probe.shows(fault.name) for probe, _ in heard)
    ]
    right = _n_explained(heard, OK, FLOAT32)

    def found(conclusion: Conclusion, named: Sequence[Fault] = (), *, lower: str = "", reason: str = "") -> Diagnosis:
        return Diagnosis(
            route="probes",
            conclusion=conclusion,
            suspects=tuple(suspect([fault], len(heard)) for fault in named),
            explained=len(heard) if conclusion is not Conclusion.UNKNOWN else 0,
            total=len(heard),
            right=right,
            runner_up=_runner_up(heard, tried, named),
            n_tried=len(tried),
            precision=lower,
            reason=reason,
        )

    if len(heard) < LEAST_PROBES:
        return found(Conclusion.UNKNOWN, reason="one probe alone proves nothing: it says the nearest name it has")
    if all(said == CRASH for _, said in heard):
        return found(Conclusion.UNKNOWN, reason="it gave no answer to any probe")
    if all(said == SILENCE for _, said in heard):
        reason = "it printed no name: does it read the tokenizer that it is given, and is -n its number of steps?"
        return found(Conclusion.UNKNOWN, reason=reason)
    if right == len(heard):
        return found(Conclusion.NONE)
    for lower in PRECISIONS:
        if _n_explained(heard, OK, lower) == len(heard):
            return found(Conclusion.LOWER_PRECISION, lower=lower)
    for arithmetic in dict.fromkeys((FLOAT32, precision)):
        named = [fault for fault in tried if _explains_all(heard, fault.name, arithmetic)]
        if named:
            return found(Conclusion.NAMED, named, lower="" if arithmetic == FLOAT32 else arithmetic)
    return found(
        Conclusion.UNKNOWN, reason=f"no single bug of the {len(tried)} that were tried makes it say all this"
    )


def unseen(probes: Sequence[Probe]) -> list[str]:
    """The faults that these probes cannot tell from a right program, be it of a lower precision."""
    return [
        fault.name
        for fault in faults_seen()
        if fault.fate is Fate.KILLABLE and not any(probe.shows(fault.name) for probe in probes)
    ]


def _n_explained(heard: Heard, hypothesis: str, precision: str) -> int:
    return sum(probe.explains(hypothesis, said, precision) for probe, said in heard)


def _explains_all(heard: Heard, hypothesis: str, precision: str) -> bool:
    """Whether a fault explains everything, and one of the probes that are not as they should be by itself."""
    return _n_explained(heard, hypothesis, precision) == len(heard) and any(
        probe.is_defined(hypothesis) and not probe.explains(OK, said) for probe, said in heard
    )


def _runner_up(heard: Heard, tried: Sequence[Fault], named: Sequence[Fault]) -> Suspect | None:
    """The fault outside of the class that explains most of what is not as it should be."""
    odd = [(probe, said) for probe, said in heard if not probe.explains(OK, said)]
    others = [fault for fault in tried if fault not in named and _n_defined(odd, fault.name)]
    if not odd or not others:
        return None
    best = max(others, key=lambda fault: (_n_defined(odd, fault.name), _n_explained(heard, fault.name, FLOAT32)))
    return suspect([best], _n_explained(heard, best.name, FLOAT32))


def _n_defined(heard: Heard, hypothesis: str) -> int:
    return sum(probe.is_defined(hypothesis) and probe.explains(hypothesis, said) for probe, said in heard)
