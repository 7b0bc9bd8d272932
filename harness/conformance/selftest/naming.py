"""What each route of diagnosis says of a program whose fault is known: a row for each, and what it was worth.

text      the dictionary, from what was printed: as the gate itself says it
probes    self-naming checkpoints
tracer    the tracer of black boxes, on the embedded gqa; int8 on gqa-q8

exact     the fault, alone                     class    the fault among others that the route cannot tell apart
sibling   another fault of the same part       wrong    a fault of another part
unknown, lower precision, none                 no name was given
refused   the route did not take the program
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.adapters.implementation import Implementation, ProcessImplementation
from harness.adapters.process import Limits
from harness.conformance.black_box import trace_black_box
from harness.conformance.probing import probe
from harness.conformance.selftest.honest import Honest
from harness.conformance.selftest.kills import CONFIGURATIONS, Outcome
from harness.conformance.selftest.places import Place, said, truth
from harness.conformance.selftest.ported import PROGRAM
from harness.conformance.selftest.run import Subject
from harness.diagnoses import combined
from harness.diagnosis import Fate, Fault, by_name
from harness.diagnosis.self_naming.files import ProbeFiles, cached, plan_of
from harness.diagnosis.self_naming.outcome import faults_seen
from harness.diagnosis.self_naming.reading import unseen
from harness.errors import HarnessError
from harness.models import locate
from harness.results import Conclusion, Diagnosis

__all__ = ["Answer", "Route", "accusations", "asked", "named", "outcome_of", "routes"]

_MODEL = "gqa"  # on which programs are traced
_LIMITS = Limits(time_s=20.0)
_VERSIONS = (0, 1, 2)  # of llama2.c's container, in the order in which probes are made of them


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route makes of a program.

    Attributes:
        diagnosis: None where it did not take the program.
        sees: whether it can see the fault at all; one that it cannot see must not be given another's name.
        places: the first wrong sub-block: as the tracer says it, and as it is; None: of no such thing it speaks.
        problem: why there is no diagnosis.
    """

    diagnosis: Diagnosis | None
    sees: bool = True
    places: tuple[Place | None, Place | None] | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """A way to a diagnosis.

    Attributes:
        asks: about a program, its fault, and its run at the gate; without a fault it is honest. None: the route has
            nothing to go by.
    """

    name: str
    asks: Callable[[Implementation, Fault | None, Outcome | None], Answer | None]


def routes() -> list[Route]:
    """The routes there are."""
    return [Route("text", _by_text), Route("probes", _by_probes), Route("tracer", _by_tracer)]


def _by_text(impl: Implementation, fault: Fault | None, outcome: Outcome | None) -> Answer | None:
    if outcome is None or not outcome.verdicts:
        return None
    found = combined(outcome.verdicts)
    sees = any(one.levels == ("TEXT",) for one in CONFIGURATIONS if one.name in outcome.killed_in)
    if not found:
        return Answer(None, sees, problem=f"no answer of it was judged: {', '.join(dict.fromkeys(outcome.kinds))}")
    return Answer(found[0], sees)


def _by_probes(impl: Implementation, fault: Fault | None, outcome: Outcome | None) -> Answer | None:
    version = _version(impl, fault) if fault is not None else 0
    try:
        found = probe(impl, _probes(version or 0), limits=_LIMITS)
    except HarnessError as error:
        return Answer(None, version is not None, problem=str(error))
    return Answer(found, version is not None)


@functools.cache
def _probes(version: int) -> tuple[ProbeFiles, ...]:
    return tuple(cached(plan_of(None, version), version))


@functools.cache
def _in_sight(version: int) -> frozenset[str]:
    """The faults that the probes of a container can show."""
    names = {fault.name for fault in faults_seen() if fault.fate is Fate.KILLABLE}
    return frozenset(names - set(unseen([one.probe for one in _probes(version)])))


def _version(impl: Implementation, fault: Fault) -> int | None:
    """The container whose probes can show a fault in a program that reads it."""
    readable = [n for n in _VERSIONS if f"llama2c-v{n}" in impl.manifest.formats]
    return next((n for n in readable if fault.name in _in_sight(n)), None)


def _by_tracer(impl: Implementation, fault: Fault | None, outcome: Outcome | None) -> Answer | None:
    is_int8 = fault is not None and fault.component == "int8"
    if is_int8 and isinstance(impl, ProcessImplementation):
        impl = ProcessImplementation(impl.manifest.model_copy(update={"precision": "q8"}))
    model = _MODEL + ("-q8" if is_int8 else "")
    real: Place | None = None
    knows = fault is not None and isinstance(impl, ProcessImplementation) and "TRACE" in impl.manifest.levels
    if fault is not None and isinstance(impl, ProcessImplementation) and knows:
        try:
            real = truth(impl, fault, model)
        except HarnessError:  # it ends before it records anything: where is not known
            knows = False
    sees = real is not None if knows else fault is None or _is_forward(fault)
    try:
        found = trace_black_box(impl, locate(model), limits=_LIMITS)
    except HarnessError as error:
        return Answer(None, sees, (None, real) if knows else None, problem=str(error))
    return Answer(found.diagnosis, sees, (found.first, real) if knows else None)


def _is_forward(fault: Fault) -> bool:
    return fault.fate is Fate.KILLABLE and fault.change.part in ("reader", "ops")


# ---- rows --------------------------------------------------------------------------------------------------------


def asked(found: Sequence[Subject], *, turn: int | None = None, n: int = 2) -> list[Subject]:
    """Those whose names are asked for: all but those in numpy, of which the dictionaries of all routes are made.

    Args:
        turn: only n of them, others in each turn.
    """
    compiled = [subject for subject in found if subject.program != PROGRAM]
    if turn is None or not compiled:
        return compiled
    picked = [(turn * n + i) % len(compiled) for i in range(n)]
    return [compiled[i] for i in dict.fromkeys(picked)]


def named(subject: Subject, outcome: Outcome | None, ask: Sequence[Route]) -> list[dict[str, Any]]:
    """Ask each route about one program; the rows of the document.

    Args:
        outcome: its run at the gate, with diagnosis; None where the gate has nothing to say about it.
    """
    rows = []
    impl = subject.made()
    for route in ask:
        start = time.perf_counter()
        answer = route.asks(impl, subject.fault, outcome)
        if answer is None:
            continue
        took_s = time.perf_counter() - start + (outcome.took_s if outcome and route.name == "text" else 0)
        row: dict[str, Any] = {
            "program": subject.program,
            "fault": subject.fault.name,
            "component": subject.fault.component,
            "sees": answer.sees,
            "outcome": outcome_of(answer.diagnosis, subject.fault) if answer.diagnosis else "refused",
            **_said(route, answer, took_s),
        }
        if answer.places is not None:
            observed, real = answer.places
            row |= {"place": said(observed) if answer.diagnosis else "refused", "true_place": said(real)}
        rows.append(row)
    return rows


def accusations(honest: Honest, ask: Sequence[Route]) -> list[dict[str, Any]]:
    """Ask each route about an honest program: none may name a bug."""
    rows = []
    for route in ask:
        start = time.perf_counter()
        answer = route.asks(honest.impl, None, None)
        if answer is not None:
            rows.append({"program": honest.name, **_said(route, answer, time.perf_counter() - start)})
    return rows


def _said(route: Route, answer: Answer, took_s: float) -> dict[str, Any]:
    found = answer.diagnosis
    names = found.names if found else ()
    return {
        "route": route.name,
        "conclusion": str(found.conclusion) if found else "refused",
        "names": list(names),
        "parts": sorted({by_name(part).component for name in names for part in name.split(" + ")}),
        "runner_up": found.runner_up.name if found and found.runner_up else "",
        "gap": round(found.gap, 3) if found and math.isfinite(found.gap) else None,
        "problem": answer.problem,
        "took_s": round(took_s, 3),
    }


def outcome_of(found: Diagnosis, fault: Fault) -> str:
    """What a diagnosis is worth where the fault is known."""
    if found.conclusion is not Conclusion.NAMED:
        return str(found.conclusion)
    if fault.name in found.names:
        return "exact" if len(found.names) == 1 else "class"
    parts = {by_name(part).component for name in found.names for part in name.split(" + ")}
    return "sibling" if parts == {fault.component} else "wrong"
