"""Compare speeds: within one benchmark by pairs, and of two benchmarks where machine and models agree."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.bench.rows import slopes
from harness.bench.stats import CONFIDENCE, Comparison, Result, paired, shift
from harness.benchfile import BenchFile, Header, Key, Limit, Row, Sample, grouped
from harness.errors import InputError

__all__ = ["NOT_ASKED", "Change", "against", "changes", "refuse_unlike"]


NOT_ASKED = "not measured this time"


@dataclass(frozen=True, slots=True)
class Change:
    """How one row has changed.

    Attributes:
        comparison: None where only one side has it.
        what: in words.
        is_lost: whether it was asked for and is not there any more.
    """

    key: Key
    comparison: Comparison | None
    what: str
    is_lost: bool = False

    @property
    def is_worse(self) -> bool:
        return self.is_lost or (self.comparison is not None and self.comparison.result is Result.SLOWER)


def against(samples: Sequence[Sample], base: Key, *, tolerance: float = 0.0) -> dict[Key, Comparison]:
    """Compare every program with one of its own group, by the rounds that both have."""
    found = {key: slopes(of) for key, of in grouped(samples).items()}
    first = found.get(base, {})
    result = {}
    for key, other in found.items():
        if (key.model, key.precision, key.threads) == (base.model, base.precision, base.threads) and key != base:
            both = sorted(first.keys() & other.keys())
            result[key] = paired([first[r] for r in both], [other[r] for r in both], tolerance=tolerance)
    return result


def refuse_unlike(old: Header, new: Header, *, other_builds: bool = False) -> None:
    """Refuse benchmarks that cannot be compared.

    Args:
        other_builds: programs may have changed, as when a change is to be judged.

    Raises:
        InputError: machine, a model or a build differs.
    """
    for name in sorted(old.machine.keys() | new.machine.keys()):
        if old.machine.get(name) != new.machine.get(name):
            raise InputError(
                f"these are not of one machine: its {name} differs",
                expected=old.machine.get(name),
                actual=new.machine.get(name),
                hint="speeds of different machines are not compared",
            )
    for name in sorted(old.models.keys() & new.models.keys()):
        if old.models[name] != new.models[name]:
            raise InputError(
                f"model {name} is another one", expected=old.models[name].sha256, actual=new.models[name].sha256
            )
    if not other_builds:
        for name in sorted(old.builds.keys() & new.builds.keys()):
            if old.builds[name] != new.builds[name]:
                hint = "--other-builds compares them all the same"
                raise InputError(
                    f"{name} is another build",
                    expected=old.builds[name][:12],
                    actual=new.builds[name][:12],
                    hint=hint,
                )


def changes(
    old: BenchFile,
    new: BenchFile,
    *,
    tolerance: float = 0.05,
    confidence: float = CONFIDENCE,
    other_builds: bool = False,
) -> list[Change]:
    """Say of every row whether it became faster or slower, is new, or was lost.

    The benchmarks ran at different times, so rounds make no pairs: the interval is that of the shift between the
    two, widened by how far the machine's own read bandwidth has moved; a busy machine is INCONCLUSIVE.

    Raises:
        InputError: as `refuse_unlike`.
    """
    refuse_unlike(old.header, new.header, other_builds=other_builds)
    before, after = {r.key: r for r in old.rows}, {r.key: r for r in new.rows}
    old_samples, new_samples = grouped(old.samples), grouped(new.samples)
    reasons = {one.key: one.reason for one in new.absent}
    found = []
    for key in [*before, *(key for key in after if key not in before)]:
        if key not in after:
            what = f"lost: {reasons[key]}" if key in reasons else NOT_ASKED
            found.append(Change(key, None, what, is_lost=key in reasons))
        elif key not in before:
            found.append(Change(key, None, "new"))
        else:
            drift = _drift(old.limits, new.limits, key)
            compared = shift(
                list(slopes(old_samples.get(key, [])).values()),
                list(slopes(new_samples.get(key, [])).values()),
                tolerance=tolerance,
                confidence=confidence,
                drift=drift,
            )
            compared = _gated(compared, before[key], after[key])
            found.append(Change(key, compared, compared.reason))
    return found


def _gated(compared: Comparison, old: Row, new: Row) -> Comparison:
    if old.is_busy or new.is_busy:
        when = "the first" if old.is_busy else "the second"
        reason = f"the machine was busy during {when} benchmark"
        return replace(compared, result=Result.INCONCLUSIVE, reason=reason)
    return compared


def _drift(old: Sequence[Limit], new: Sequence[Limit], key: Key) -> float:
    def usual(limits: Sequence[Limit]) -> float | None:
        found = [
            one.read_bytes_per_s
            for one in limits
            if (one.model, one.precision, one.threads) == (key.model, key.precision, key.threads)
        ]
        return statistics.median(found) if found else None

    a, b = usual(old), usual(new)
    return math.log(b / a) if a and b else 0.0
