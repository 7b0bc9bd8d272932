"""Certificates: by how much a stress checkpoint amplifies the faults that it is meant for, measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.diagnosis.faults import by_name
from harness.diagnosis.port import PortCrashed
from harness.diagnosis.probes import Probed
from harness.diagnosis.stress import STRESSES, Stress
from harness.models import Model

__all__ = ["Certificate", "certified"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """One fault on one stress checkpoint.

    Attributes:
        plain, stressed: largest shift of a logit over its noise floor, on the model as it is and under stress, both
            along the right answers to the stress checkpoint's own requests; infinite where it makes NaN.
        plain_first, stressed_first: first wrong token among those answers, None if all are right.
    """

    stress: str
    fault: str
    plain: float
    stressed: float
    plain_first: int | None
    stressed_first: int | None


def certified(model: Model) -> Iterator[Certificate]:
    """Measure every stress that a model can be put under."""
    for stress in STRESSES:
        if stress.amplifies and stress.suits(model):
            yield from _measured(stress, model)


def _measured(stress: Stress, model: Model) -> Iterator[Certificate]:
    altered = stress.made(model)
    requests = stress.requests(altered)
    before, after = Probed(model, requests), Probed(altered, requests)
    for name in stress.amplifies:
        plain, stressed = (_ratio(probed, name) for probed in (before, after))
        yield Certificate(stress.name, name, plain, stressed, _first(before, name), _first(after, name))


def _ratio(probed: Probed, name: str) -> float:
    fault = by_name(name)
    try:
        return float("inf") if probed.overflows(fault) else probed.shift(fault).ratio
    except PortCrashed:
        return float("inf")


def _first(probed: Probed, name: str) -> int | None:
    found = [effect for effect in probed.effects(by_name(name)).values() if effect]
    return min((effect.first or 0 for effect in found), default=None)
