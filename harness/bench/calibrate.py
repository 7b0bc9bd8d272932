"""How far the verdicts on speed can be relied on, on this machine: a program compared with itself.

One long series of rounds of one program is recorded; trials are cut from it, in each of which neighbouring rounds are
taken for the two sides of a comparison. A verdict other than SAME or INCONCLUSIVE on these is false. The same trials
with one side made slower by a known share tell how often that is found, and that it is never called SAME.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.bench.stats import CONFIDENCE, Rate, Result, false_verdicts, rate

__all__ = ["PAIRS", "SLOWDOWNS", "Calibration", "calibrate"]

PAIRS = (10, 20, 40)
SLOWDOWNS = (0.02, 0.05, 0.10, 0.20)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What comparisons of so many pairs are worth.

    Attributes:
        false: comparisons of the program with itself that ended FASTER or SLOWER at any difference.
        found: slowdown -> trials that ended SLOWER, with the tolerance.
        missed: slowdown -> trials that ended SAME although the slowdown is larger than the tolerance; never for the
            others.
    """

    n_pairs: int
    false: Rate
    found: dict[float, Rate]
    missed: dict[float, Rate]


def calibrate(
    series: Sequence[float],
    *,
    n_trials: int = 400,
    pairs: Sequence[int] = PAIRS,
    slowdowns: Sequence[float] = SLOWDOWNS,
    tolerance: float = 0.05,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[Calibration]:
    """Calibrate verdicts by a series of seconds per token.

    Numbers of pairs that the series is too short for are left out. Trials overlap where the series is short for their
    number: their intervals are then too narrow.
    """
    found = []
    for n_pairs in pairs:
        if len(series) < 2 * n_pairs:
            continue

        def counts(slowdown: float, tolerance: float, n_pairs: int = n_pairs) -> dict[Result, int]:
            return false_verdicts(
                series,
                n_pairs=n_pairs,
                n_trials=n_trials,
                seed=seed,
                slowdown=slowdown,
                tolerance=tolerance,
                confidence=confidence,
            )

        same = counts(0.0, 0.0)
        slower = {slowdown: counts(slowdown, tolerance) for slowdown in slowdowns}
        found.append(
            Calibration(
                n_pairs,
                rate(same[Result.FASTER] + same[Result.SLOWER], n_trials),
                {slowdown: rate(count[Result.SLOWER], n_trials) for slowdown, count in slower.items()},
                {s: rate(count[Result.SAME], n_trials) for s, count in slower.items() if s > tolerance},
            )
        )
    return found
