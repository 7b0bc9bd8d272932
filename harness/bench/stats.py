"""Medians, intervals and verdicts of measurements that are few, skewed and noisy; nothing is assumed of their shape.

    median              the two order statistics between which the median lies: exact by the binomial distribution
    paired ratio        the same, of the logarithms of the ratios within each round
    shift of two sets   Hodges and Lehmann's estimate, with the interval of Mann and Whitney's test

Where there are too few samples for the confidence that is asked for, the interval is all of them and says what
confidence it has; no verdict but INCONCLUSIVE is given on it.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

from harness.benchfile import Comparison, Estimate, Result

__all__ = [
    "CONFIDENCE",
    "Comparison",
    "Estimate",
    "Result",
    "false_verdicts",
    "median",
    "paired",
    "result_of",
    "shift",
]

CONFIDENCE = 0.99  # of verdicts: a nominal 1 % of comparisons of a thing with itself may end FASTER or SLOWER
_EXACT_PAIRS = 400  # n * m up to which Mann and Whitney's distribution is counted out


# ---- intervals ---------------------------------------------------------------------------------------------------


def median(samples: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Estimate the median; the samples may be of any distribution but must not depend on each other.

    >>> median([5.0, 1.0, 3.0])
    Estimate(value=3.0, low=1.0, high=5.0, confidence=0.75, n=3)
    """
    if not samples:
        raise ValueError("a median needs samples")
    ordered = sorted(samples)
    n = len(ordered)
    rank, reached = _rank(n, confidence)
    return Estimate(statistics.median(ordered), ordered[rank], ordered[n - 1 - rank], reached, n)


def _rank(n: int, confidence: float) -> tuple[int, float]:
    """Return the innermost rank from either end that still has the confidence (else 0), and what it has."""
    below = 0.0  # probability that fewer than rank + 1 of n samples lie below the median
    rank, reached = 0, 0.0
    for k in range((n + 1) // 2):
        below += math.comb(n, k) / 2**n
        if k and 1 - 2 * below < confidence:
            break
        rank, reached = k, max(0.0, 1 - 2 * below)
    return rank, reached


def paired(
    old: Sequence[float], new: Sequence[float], *, tolerance: float = 0.05, confidence: float = CONFIDENCE
) -> Comparison:
    """Compare speeds by the seconds that both took in the same rounds."""
    logs = [math.log(a / b) for a, b in zip(old, new, strict=True) if a > 0 and b > 0]
    if not logs:
        return Comparison(Result.INCONCLUSIVE, math.nan, 0.0, math.inf, 0.0, 0, "no round has both")
    found = median(logs, confidence)
    return _judged(found.value, found.low, found.high, found.confidence, len(logs), tolerance, confidence)


def shift(
    old: Sequence[float],
    new: Sequence[float],
    *,
    tolerance: float = 0.05,
    confidence: float = CONFIDENCE,
    drift: float = 0.0,
) -> Comparison:
    """Compare speeds by the seconds that each took in rounds of its own, in runs at different times.

    Args:
        drift: how far the machine itself has moved between the runs (logarithm of a ratio): the interval is that
            much wider at either end.
    """
    a = [math.log(x) for x in old if x > 0]
    b = [math.log(x) for x in new if x > 0]
    if not a or not b:
        return Comparison(Result.INCONCLUSIVE, math.nan, 0.0, math.inf, 0.0, 0, "nothing was measured on one side")
    differences = sorted(x - y for x in a for y in b)
    rank, reached = _mann_whitney_rank(len(a), len(b), confidence)
    low, high = differences[rank] - abs(drift), differences[-1 - rank] + abs(drift)
    centre = statistics.median(differences)
    return _judged(centre, low, high, reached, min(len(a), len(b)), tolerance, confidence)


def _mann_whitney_rank(n: int, m: int, confidence: float) -> tuple[int, float]:
    """Like `_rank`, for the sorted n * m differences of two sets."""
    if n * m > _EXACT_PAIRS:
        z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
        rank = max(0, math.floor(n * m / 2 - z * math.sqrt(n * m * (n + m + 1) / 12)))
        return rank, confidence
    # ways[k][u]: choices of k of the first ranks whose Mann-Whitney statistic is u
    ways = [[0] * (n * m + 1) for _ in range(n + 1)]
    ways[0][0] = 1
    for item in range(n + m):
        for k in range(min(n, item + 1), 0, -1):
            above = item - (k - 1)  # items of the other set that this one exceeds
            if above > m:
                continue
            source, target = ways[k - 1], ways[k]
            for u in range(n * m - above + 1):
                if source[u]:
                    target[u + above] += source[u]
    total = math.comb(n + m, n)
    below = 0.0
    rank, reached = 0, 0.0
    for u in range((n * m + 1) // 2):
        below += ways[n][u] / total
        if u and 1 - 2 * below < confidence:
            break
        rank, reached = u, max(0.0, 1 - 2 * below)
    return rank, reached


def _judged(
    centre: float, low: float, high: float, reached: float, n: int, tolerance: float, confidence: float
) -> Comparison:
    reason = ""
    result = result_of(centre, low, high, tolerance)
    if reached < confidence:
        result, reason = Result.INCONCLUSIVE, f"{n} rounds are too few for {confidence:.0%} confidence"
    return Comparison(result, math.exp(centre), math.exp(low), math.exp(high), reached, n, reason)


def result_of(centre: float, low: float, high: float, tolerance: float) -> Result:
    """Judge the interval of a logarithm of a ratio of speeds.

    SAME: the whole interval is within the tolerance. FASTER, SLOWER: the interval leaves out equality, and the
    estimate is beyond the tolerance. INCONCLUSIVE: all else.
    """
    slack = math.log1p(tolerance)
    if -slack <= low and high <= slack:
        return Result.SAME
    if low > 0 and centre > slack:
        return Result.FASTER
    if high < 0 and centre < -slack:
        return Result.SLOWER
    return Result.INCONCLUSIVE


# ---- calibration -------------------------------------------------------------------------------------------------


def false_verdicts(
    series: Sequence[float],
    *,
    n_pairs: int,
    n_trials: int,
    seed: int,
    slowdown: float = 0.0,
    tolerance: float = 0.0,
    confidence: float = CONFIDENCE,
) -> dict[Result, int]:
    """Cut trials from one recorded series of runs of the same thing, and count how comparisons of it with itself end.

    Neighbours of the series make a pair, in an order drawn at random, as rounds do; a trial is `n_pairs` consecutive
    pairs from a place drawn at random, so that whatever the machine did then stays in it.

    Args:
        slowdown: make the second of each pair slower by this share: then SLOWER is the true verdict.
    """
    if len(series) < 2 * n_pairs:
        raise ValueError(f"{n_pairs} pairs need {2 * n_pairs} runs, the series has {len(series)}")
    rng = random.Random(seed)
    counts = dict.fromkeys(Result, 0)
    for _ in range(n_trials):
        start = rng.randrange(len(series) - 2 * n_pairs + 1)
        old, new = [], []
        for i in range(start, start + 2 * n_pairs, 2):
            pair = [series[i], series[i + 1]]
            rng.shuffle(pair)
            old.append(pair[0])
            new.append(pair[1] * (1 + slowdown))
        counts[paired(old, new, tolerance=tolerance, confidence=confidence).result] += 1
    return counts
