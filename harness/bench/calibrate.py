"""How far the verdicts on speed can be relied on, on this machine: a program compared with itself.

One long series of rounds of one program is recorded; trials are cut from it, in each of which neighbouring rounds are
taken for the two sides of a comparison. A verdict other than SAME or INCONCLUSIVE on these is false. The same trials
with one side made slower by a known share tell how often that is found, and that it is never called SAME.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.bench.stats import CONFIDENCE, false_verdicts
from harness.benchfile import Result
from harness.rates import Rate, rate

__all__ = ["MOST_FALSE", "N_TRIALS", "PAIRS", "SLOWDOWNS", "Calibration", "calibrate", "markdown", "spread"]

N_TRIALS = 400
PAIRS = (10, 20, 40)
SLOWDOWNS = (0.02, 0.05, 0.10, 0.20)
MOST_FALSE = 0.03  # of comparisons of a program with itself; nominally 1 - CONFIDENCE


@dataclass(frozen=True, slots=True)
class Calibration:
    """What comparisons of so many pairs are worth.

    Attributes:
        n_apart: trials of this many pairs that the series holds side by side. More were cut from it: they overlap,
            and the intervals of the rates are narrower than so many would give.
        false: comparisons of the program with itself that ended FASTER or SLOWER at any difference.
        found: slowdown -> trials that ended SLOWER, with the tolerance.
        missed: slowdown -> trials that ended SAME although the slowdown is larger than the tolerance; never for the
            others.
    """

    n_pairs: int
    n_apart: int
    false: Rate
    found: dict[float, Rate]
    missed: dict[float, Rate]

    @property
    def is_good(self) -> bool:
        """Whether false verdicts are as rare as they are to be, and no larger slowdown is called SAME."""
        return self.false.count <= MOST_FALSE * self.false.n and not any(r.count for r in self.missed.values())


def calibrate(
    series: Sequence[float],
    *,
    n_trials: int = N_TRIALS,
    pairs: Sequence[int] = PAIRS,
    slowdowns: Sequence[float] = SLOWDOWNS,
    tolerance: float = 0.05,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[Calibration]:
    """Calibrate verdicts by a series of seconds per token.

    Numbers of pairs that the series is too short for are left out.
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
                len(series) // (2 * n_pairs),
                rate(same[Result.FASTER] + same[Result.SLOWER], n_trials),
                {slowdown: rate(count[Result.SLOWER], n_trials) for slowdown, count in slower.items()},
                {s: rate(count[Result.SAME], n_trials) for s, count in slower.items() if s > tolerance},
            )
        )
    return found


def spread(series: Sequence[float]) -> float:
    """How far neighbours of a series are apart, as a share: half of their ratios lie within it."""
    ratios = [abs(math.log(b / a)) for a, b in zip(series[::2], series[1::2], strict=False) if a > 0 and b > 0]
    return math.expm1(statistics.median(ratios)) if ratios else math.nan


def markdown(calibrations: Sequence[Calibration]) -> str:
    """Lay out calibrations as a table of GitHub's markdown."""
    slowdowns = list(calibrations[0].found) if calibrations else []
    heading = ["pairs", "false verdicts", *(f"{s:.0%} slower: found" for s in slowdowns), "called SAME"]
    lines = [heading, ["---:"] * len(heading)]
    for one in calibrations:
        missed = ", ".join(f"{s:.0%}: {_share(r)}" for s, r in one.missed.items())
        lines.append([str(one.n_pairs), _share(one.false), *(_share(r) for r in one.found.values()), missed or "–"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _share(found: Rate) -> str:
    share = found.count / found.n if found.n else math.nan
    return f"{share:.1%} ({found.low:.1%} to {found.high:.1%})"
