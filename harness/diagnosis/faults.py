"""The catalogue: every fault, in the order of a program's parts. A new one is one entry in one of these lists."""

from __future__ import annotations

from harness.diagnosis.fault import Fault
from harness.diagnosis.faults_attention import ATTENTION, CACHE, ROTATION
from harness.diagnosis.faults_forward import FEED_FORWARD, NORMALISATION, ROUNDING, WIRING
from harness.errors import InputError

__all__ = ["CATALOGUE", "by_name"]

CATALOGUE: tuple[Fault, ...] = (
    *NORMALISATION,
    *ROTATION,
    *ATTENTION,
    *CACHE,
    *FEED_FORWARD,
    *WIRING,
    *ROUNDING,
)
_BY_NAME = {fault.name: fault for fault in CATALOGUE}


def by_name(name: str) -> Fault:
    """Return the fault of that name.

    Raises:
        InputError: there is none.
    """
    if name not in _BY_NAME:
        raise InputError(f"there is no fault {name}", hint="docs/faults.md lists all")
    return _BY_NAME[name]
