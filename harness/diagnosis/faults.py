"""The catalogue: every fault, in the order of a program's parts. A new one is one entry in one of these lists."""

from __future__ import annotations

from harness.diagnosis.fault import Fault
from harness.diagnosis.faults_attention import ATTENTION, CACHE, ROTATION
from harness.diagnosis.faults_forward import FEED_FORWARD, NORMALISATION, ROUNDING, WIRING
from harness.diagnosis.faults_int8 import INT8
from harness.diagnosis.faults_loading import CONVERSION, LOADING
from harness.diagnosis.faults_loop import LOOP
from harness.diagnosis.faults_sampler import GENERATOR, SAMPLING
from harness.diagnosis.faults_text import PRINTING, TOKENIZER
from harness.errors import InputError

__all__ = ["CATALOGUE", "by_name"]

CATALOGUE: tuple[Fault, ...] = (
    *LOADING,
    *CONVERSION,
    *TOKENIZER,
    *NORMALISATION,
    *ROTATION,
    *ATTENTION,
    *CACHE,
    *FEED_FORWARD,
    *WIRING,
    *ROUNDING,
    *INT8,
    *GENERATOR,
    *SAMPLING,
    *LOOP,
    *PRINTING,
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
