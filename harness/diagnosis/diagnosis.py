"""Diagnosis: the name of the likely bug, whatever route found it, and how the catalogue's entries become suspects.

A route (`dictionary` from text alone, self-naming probes, the tracer) ends in a `Diagnosis`: the class of faults that
it cannot tell apart, the runner-up and the gap, how many were tried; or UNKNOWN, LOWER_PRECISION, NONE.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.diagnosis.fault import Fault
from harness.results import Conclusion, Diagnosis, Suspect

__all__ = ["Conclusion", "Diagnosis", "Suspect", "suspect"]


def suspect(
    faults: Sequence[Fault],
    explained: int,
    *,
    layer: int | None = None,
    gain: float = 0.0,
    explains_all: bool = False,
) -> Suspect:
    """Describe one fault, or several that are there together, to the author of a port."""
    return Suspect(
        name=" + ".join(fault.name for fault in faults),
        component=", ".join(dict.fromkeys(fault.component for fault in faults)),
        cause=", and ".join(fault.as_if or fault.cause for fault in faults),
        fix="; and ".join(fault.fix for fault in faults),
        explained=explained,
        layer=layer,
        gain=gain,
        explains_all=explains_all,
    )
