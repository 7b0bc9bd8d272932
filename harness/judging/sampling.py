"""Whether a sampled token is right: does *some* vector of logits within the floor give it, with the known coin?

llama2.c's generator is specified, so every coin is known. A token c is drawn when the coin falls between the summed
probability before c and that through c. Moving each logit by at most the floor moves those sums within an interval,
and in a nucleus near-equal candidates may change places and the crossing token may differ; all of it is bounded here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["could_be_drawn", "could_be_in_nucleus"]

Array = npt.NDArray[Any]

# Running sums of n float32 numbers up to 1 err by at most n units of 2^-24.
_FLOAT32_UNIT = 2.0**-24


def could_be_drawn(logits: Array, token: int, *, floor: float, temperature: float, topp: float, coin: float) -> bool:
    """Whether logits that are each within `floor` of these can make llama2.c's sampler choose `token`.

    Args:
        logits: (vocab_size,) exact logits.
        floor: noise floor of the position, in logits.
        temperature: other than 0.
        topp: in (0, 1): nucleus; else the whole distribution.
        coin: the random number of this step, in [0, 1).
    """
    p, odds = _probabilities(logits, floor, temperature)
    slack = len(p) * _FLOAT32_UNIT
    if not 0 < topp < 1:
        before = float(p[:token].sum())
        through = before + float(p[token])
        is_last = token == len(p) - 1  # the last id also catches a coin above the rounded sum
        return _lowered(before, odds) - slack <= coin and (is_last or coin <= _raised(through, odds) + slack)
    least_before, most_before = _before(p, token, odds)
    if least_before > topp + slack:
        return False
    low_mass, high_mass = _kept_mass(p, topp, odds, slack)
    through = _raised(most_before + float(p[token]), odds)
    return least_before - slack <= coin * high_mass and coin * low_mass <= through + slack


def could_be_in_nucleus(logits: Array, token: int, *, floor: float, temperature: float, topp: float) -> bool:
    """Whether `token` could be drawn by *some* coin: all that can be said of a program with another generator."""
    p, odds = _probabilities(logits, floor, temperature)
    slack = len(p) * _FLOAT32_UNIT
    if not 0 < topp < 1:
        return float(p[token]) > 1e-9
    return _before(p, token, odds)[0] <= topp + slack


def _probabilities(logits: Array, floor: float, temperature: float) -> tuple[Array, float]:
    """Probabilities, and the factor by which the odds of any set of tokens may change."""
    x = logits.astype(np.float64) / temperature
    p = np.exp(x - x.max())
    return p / p.sum(), math.exp(min(2 * floor / temperature, 700.0))


def _raised(mass: float, odds: float) -> float:
    """The most that a set of probability `mass` can have when its odds rise by the factor `odds`."""
    mass = min(mass, 1.0)
    return mass * odds / (mass * odds + (1 - mass)) if mass > 0 else 0.0


def _lowered(mass: float, odds: float) -> float:
    mass = min(mass, 1.0)
    return mass / (mass + (1 - mass) * odds) if mass > 0 else 0.0


def _before(p: Array, token: int, odds: float) -> tuple[float, float]:
    """Least and most mass that can stand before a token in the order of falling probability.

    Where nothing can move (an infinite temperature), equal probabilities keep the order of their ids.
    """
    if odds == 1.0:
        mass = float(p[p > p[token]].sum() + p[:token][p[:token] == p[token]].sum())
        return mass, mass
    surely = p > p[token] * odds * odds
    maybe = p >= p[token] / (odds * odds)
    maybe[token] = False
    return _lowered(float(p[surely].sum()), odds), _raised(float(p[maybe].sum()), odds)


def _kept_mass(p: Array, topp: float, odds: float, slack: float) -> tuple[float, float]:
    """Least and most mass that the nucleus can keep: the crossing token is in."""
    sums = np.cumsum(np.sort(p)[::-1])
    raised = sums * odds / (sums * odds + np.maximum(1 - sums, 0))
    lowered = sums / (sums + np.maximum(1 - sums, 0) * odds)
    low = sums[min(int((raised + slack <= topp).sum()), len(sums) - 1)]
    high = sums[min(int((lowered - slack <= topp).sum()), len(sums) - 1)]
    return min(_lowered(float(low), odds), topp), _raised(float(high), odds)
