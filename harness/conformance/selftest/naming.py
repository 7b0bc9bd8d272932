"""What each route of diagnosis says of a program whose fault is known: a row for each, and what it was worth.

text      the dictionary, from what was printed: as the gate itself says it
probes    self-naming checkpoints
tracer    the tracer of black boxes, on the embedded gqa

exact     the fault, alone                     class    the fault among others that the route cannot tell apart
sibling   another fault of the same part       wrong    a fault of another part
unknown, lower precision, none                 no name was given
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.adapters.implementation import Implementation
from harness.adapters.process import Limits
from harness.conformance.black_box import trace_black_box
from harness.conformance.probing import probe
from harness.conformance.selftest.honest import Honest
from harness.conformance.selftest.kills import Outcome
from harness.conformance.selftest.ported import PROGRAM
from harness.conformance.selftest.run import Subject
from harness.diagnosis import Fault, by_name
from harness.errors import ImplementationError, InputError
from harness.models import locate
from harness.results import Conclusion, Diagnosis

__all__ = ["Route", "accusations", "asked", "named", "outcome_of", "routes"]

_MODEL = "gqa"  # on which programs are traced
_LIMITS = Limits(time_s=20.0)
# Parts of a port that show in the one token that a probe asks for, and in the states that the tracer reads.
_SEEN = {"probes": ("reader", "encoder", "ops"), "tracer": ("reader", "ops")}
_ONE_IN = {"c": 1}
_OTHERS = 3
_UNSEEN = ("int8",)  # both ask float32 models


@dataclass(frozen=True, slots=True)
class Route:
    """A way to a diagnosis.

    Attributes:
        says: what is wrong with a program, by its run at the gate if it takes that; None where it cannot be asked.
        sees: whether it can see a fault at all.
    """

    name: str
    says: Callable[[Implementation, Outcome | None], Diagnosis | None]
    sees: Callable[[Fault], bool]


def routes() -> list[Route]:
    """The routes there are."""
    found = [Route("text", _by_text, lambda fault: True)]
    for name, says in (("probes", _by_probes), ("tracer", _by_tracer)):
        found.append(Route(name, says, partial(_sees, name)))
    return found


def _sees(route: str, fault: Fault) -> bool:
    return fault.change.part in _SEEN[route] and fault.component not in _UNSEEN


def _by_text(impl: Implementation, outcome: Outcome | None) -> Diagnosis | None:
    verdicts = outcome.verdicts if outcome is not None else ()
    return next((verdict.diagnosis for verdict in verdicts if verdict.diagnosis is not None), None)


def _by_probes(impl: Implementation, outcome: Outcome | None) -> Diagnosis | None:
    try:
        return probe(impl, limits=_LIMITS)
    except (InputError, ImplementationError):
        return None


def _by_tracer(impl: Implementation, outcome: Outcome | None) -> Diagnosis | None:
    try:
        return trace_black_box(impl, locate(_MODEL), limits=_LIMITS).diagnosis
    except (InputError, ImplementationError):
        return None


def asked(found: Sequence[Subject]) -> list[str]:
    """The keys of those whose names are asked for: all faults in c, and one in three of those in other languages.

    Not those in numpy: the dictionaries of all routes are made of them.
    """
    keys = []
    for program in dict.fromkeys(subject.program for subject in found):
        some = [subject.key for subject in found if subject.program == program]
        keys += [] if program == PROGRAM else some[:: _ONE_IN.get(program, _OTHERS)]
    return keys


def named(subject: Subject, outcome: Outcome, ask: Sequence[Route]) -> list[dict[str, Any]]:
    """Ask each route that can see its fault about one program; the rows of the document."""
    rows = []
    impl = subject.made()
    for route in ask:
        if not route.sees(subject.fault):
            continue
        start = time.perf_counter()
        found = route.says(impl, outcome)
        if found is None:
            continue
        rows.append(
            {
                "program": subject.program,
                "fault": subject.fault.name,
                "outcome": outcome_of(found, subject.fault),
                **_said(route, found, time.perf_counter() - start),
            }
        )
    return rows


def accusations(honest: Honest, ask: Sequence[Route]) -> list[dict[str, Any]]:
    """Ask each route about an honest program: none may name a bug."""
    rows = []
    for route in ask:
        start = time.perf_counter()
        found = route.says(honest.impl, None)
        if found is not None:
            rows.append({"program": honest.name, **_said(route, found, time.perf_counter() - start)})
    return rows


def _said(route: Route, found: Diagnosis, took_s: float) -> dict[str, Any]:
    return {
        "route": route.name,
        "conclusion": str(found.conclusion),
        "names": list(found.names),
        "runner_up": found.runner_up.name if found.runner_up else "",
        "gap": round(found.gap, 3) if math.isfinite(found.gap) else None,
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
