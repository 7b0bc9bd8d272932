"""Whether a sampled token is right: does *some* vector of logits within the floor give it, with the known coin?

llama2.c's generator is specified, so every coin is known. A token c is drawn when the coin falls between the summed
probability before c and that through c. Moving each logit by at most the floor moves those sums within an interval,
and in a nucleus near-equal candidates may change places and the crossing token may differ; all of it is bounded here.

Of a program with another generator no coin is known. Then each token must lie in the nucleus, and all together must
be about as probable as fair draws are: the surprise of a draw has a known mean and variance (`Draw.surprise`).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Draw", "Surprise", "could_be_drawn", "could_be_in_nucleus"]

Array = npt.NDArray[Any]

# Running sums of n float32 numbers up to 1 err by at most n units of 2^-24.
_FLOAT32_UNIT = 2.0**-24


class Surprise(NamedTuple):
    """-log of a drawn token's probability, with the mean and variance that it has among fair draws."""

    actual: float
    mean: float
    variance: float


class Draw:
    """One draw from one row of logits, as llama2.c's sampler does it.

    Args:
        logits: (vocab_size,) exact logits.
        temperature: other than 0.
        topp: in (0, 1): nucleus; else the whole distribution.
    """

    def __init__(self, logits: Array, *, temperature: float, topp: float) -> None:
        x = logits.astype(np.float64) / temperature
        p = np.exp(x - x.max())
        self.p: Array = p / p.sum()
        self.temperature = temperature
        self.topp = topp
        self.has_nucleus = 0 < topp < 1
        self._slack = len(p) * _FLOAT32_UNIT

    def drawable(self, tokens: Array, *, floor: float, coin: float) -> Array:
        """Say of each of some tokens whether logits within `floor` of the given ones make the coin fall on it."""
        odds = self._odds(floor)
        if not self.has_nucleus:
            through = np.cumsum(self.p)[tokens]
            before = through - self.p[tokens]
            is_last = tokens == len(self.p) - 1  # the last id also catches a coin above the rounded sum
            out: Array = (_lowered(before, odds) - self._slack <= coin) & (
                is_last | (coin <= _raised(through, odds) + self._slack)
            )
            return out
        least_before, most_before = self._before(tokens, odds)
        low_mass, high_mass = self._kept_mass(odds)
        through = _raised(most_before + self.p[tokens], odds)
        return (
            (least_before <= self.topp + self._slack)
            & (least_before - self._slack <= coin * high_mass)
            & (coin * low_mass <= through + self._slack)
        )

    def in_nucleus(self, tokens: Array, *, floor: float) -> Array:
        """Say of each of some tokens whether any coin could draw it; without a nucleus, if not next to impossible."""
        if not self.has_nucleus:
            return np.asarray(self.p[tokens] > 1e-9)
        return np.asarray(self._before(tokens, self._odds(floor))[0] <= self.topp + self._slack)

    def surprise(self, token: int) -> Surprise:
        """How improbable a token is, beside what a fair draw would be."""
        q = self.p
        if self.has_nucleus:
            order, sums = self._falling
            q = np.zeros_like(self.p)
            kept = order[: int((sums <= self.topp).sum()) + 1]
            q[kept] = self.p[kept] / self.p[kept].sum()
        cost = -np.log(np.maximum(q, 1e-12))
        mean = float(q @ cost)
        return Surprise(float(cost[token]), mean, float(q @ (cost - mean) ** 2))

    def _odds(self, floor: float) -> float:
        """The factor by which the odds of any set of tokens, and of any two, may change."""
        return math.exp(min(2 * floor / self.temperature, 700.0))

    @cached_property
    def _falling(self) -> tuple[Array, Array]:
        """Ids by falling probability (ties by id) and the running sums of their probabilities."""
        order = np.argsort(-self.p, kind="stable")
        return order, np.cumsum(self.p[order])

    def _before(self, tokens: Array, odds: float) -> tuple[Array, Array]:
        """Least and most mass that can stand before each token in the order of falling probability.

        Where nothing can move (an infinite temperature), equal probabilities keep the order of their ids.
        """
        order, sums = self._falling
        sums = np.concatenate([[0.0], sums])
        if odds == 1.0:
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            mass = sums[rank[tokens]]
            return mass, mass
        rising = -self.p[order]
        own = self.p[tokens]
        surely = np.searchsorted(rising, -own * odds, side="left")  # how many are more than `odds` times as probable
        maybe = np.searchsorted(rising, -own / odds, side="right")
        return _lowered(sums[surely], odds), _raised(np.maximum(sums[maybe] - own, 0.0), odds)

    def _kept_mass(self, odds: float) -> tuple[float, float]:
        """Least and most mass that the nucleus can keep: more than topp, since the crossing token is in."""
        sums = self._falling[1]
        last = len(sums) - 1
        fewest = min(int((_raised(sums, odds) + self._slack <= self.topp).sum()), last)
        most = min(int((_lowered(sums, odds) - self._slack <= self.topp).sum()), last)
        least = max(float(_lowered(sums[fewest], odds)), self.topp) - self._slack
        return least, float(_raised(sums[most], odds))


def could_be_drawn(logits: Array, token: int, *, floor: float, temperature: float, topp: float, coin: float) -> bool:
    """Whether logits that are each within `floor` of these can make llama2.c's sampler choose `token`.

    Args:
        logits: (vocab_size,) exact logits.
        floor: noise floor of the position, in logits.
        temperature: other than 0.
        topp: in (0, 1): nucleus; else the whole distribution.
        coin: the random number of this step, in [0, 1).
    """
    draw = Draw(logits, temperature=temperature, topp=topp)
    return bool(draw.drawable(np.array([token]), floor=floor, coin=coin)[0])


def could_be_in_nucleus(logits: Array, token: int, *, floor: float, temperature: float, topp: float) -> bool:
    """Whether `token` could be drawn by *some* coin: all that can be said of a program with another generator."""
    return bool(Draw(logits, temperature=temperature, topp=topp).in_nucleus(np.array([token]), floor=floor)[0])


def _raised(mass: Any, odds: float) -> Array:
    """The most that a set of probability `mass` can have when its odds rise by the factor `odds`."""
    mass = np.minimum(mass, 1.0)
    return np.asarray(mass * odds / (mass * odds + (1 - mass)))


def _lowered(mass: Any, odds: float) -> Array:
    mass = np.minimum(mass, 1.0)
    return np.asarray(mass / (mass + (1 - mass) * odds))
