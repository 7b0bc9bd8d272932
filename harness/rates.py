"""How often something happened, of how many times it was tried, with an exact interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Rate", "rate", "upper_limit"]


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened: count of n, with an exact 95 % interval (Clopper and Pearson)."""

    count: int
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        share = self.count / self.n if self.n else math.nan
        return f"{self.count} of {self.n} ({share:.1%}, 95 % interval {self.low:.1%} to {self.high:.1%})"


def rate(count: int, n: int) -> Rate:
    """Return how often something happened, with its interval.

    >>> str(rate(0, 9))
    '0 of 9 (0.0%, 95 % interval 0.0% to 33.6%)'
    """
    low = 0.0 if count == 0 else _solve(lambda p: 1 - _binomial_cdf(count - 1, n, p), 0.025)
    high = 1.0 if count == n else _solve(lambda p: 1 - _binomial_cdf(count, n, p), 0.975)
    return Rate(count, n, low, high)


def upper_limit(count: int, n: int, *, confidence: float = 0.95) -> float:
    """Return the one-sided upper limit of a rate of which count of n were seen (Clopper and Pearson); 1 if n is 0.

    >>> f"{upper_limit(0, 100_000):.1e}"
    '3.0e-05'
    """
    if count >= n:
        return 1.0
    if count == 0:
        return -math.expm1(math.log1p(-confidence) / n)
    return _solve(lambda p: 1 - _binomial_cdf(count, n, p), confidence)


def _binomial_cdf(k: int, n: int, p: float) -> float:
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def _solve(rising: Callable[[float], float], target: float) -> float:
    """Find where a rising function on [0, 1] reaches the target."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return (low + high) / 2
