"""Rows of logits against the reference's: how far apart, what that means for the text, and in which way wrong.

All positions in one pass over two arrays. Differences are measured in float64 and in noise floors; a constant added
to a whole row changes no probability, so it is a convention (log-probabilities are one) and no error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.judging.floor import MULTIPLE

__all__ = ["LARGEST", "Fit", "Interval", "Quality", "fit", "how_wrong", "quality"]

Array = npt.NDArray[Any]

LARGEST = 16.0
"""Floors at one position that an honest program may be off by: twice the largest of 25 honest ones (8.5)."""

LOG_PROBABILITIES = "gives log-probabilities"
SHIFTED = "adds a constant to each row of logits"

_TOP = 5
_NAMED = 0.02  # of the spread of the logits: what a named cause may leave unexplained
_RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over positions, with the interval that 95 % of resamplings of the positions give."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Quality:
    """What a difference of logits means for the text.

    Attributes:
        kl: divergence of the actual distribution from the reference's, in nats for each position.
        kl_99, kl_max: its 99 % quantile, and its maximum.
        top_1: share of positions at which the likeliest id is the reference's.
        top_5: mean share of the reference's five likeliest ids that are among the actual five.
        perplexity, reference_perplexity: of the text that was fed; nan where none was given.
        rms_error, largest_error: of the logits themselves, rows centred.
    """

    kl: Interval
    kl_99: float
    kl_max: float
    top_1: Interval
    top_5: Interval
    perplexity: float
    reference_perplexity: float
    rms_error: float
    largest_error: float


@dataclass(frozen=True, slots=True)
class Fit:
    """How far rows lie from the reference's.

    Attributes:
        distance: (n,) largest absolute difference in each row, constants set aside.
        worst: (row, id) of the largest in floors.
        convention: what was set aside, in words; empty if nothing.
    """

    distance: Array
    worst: tuple[int, int]
    convention: str

    def is_within(self, floors: Array) -> bool:
        """Whether an honest program could be this far off, given the floor of each row."""
        floors = np.maximum(floors, 1e-30)
        in_floors = self.distance / floors
        typical = np.median(self.distance) <= MULTIPLE * max(float(np.median(floors)), 1e-30)
        return bool(np.isfinite(in_floors).all() and typical and (in_floors <= LARGEST).all())


def fit(exact: Array, actual: Array, floors: Array) -> Fit:
    """Measure how far rows are off, allowing for a constant in each row if that is what brings them near.

    Args:
        exact: (n, vocab_size) float64.
        actual: the same by the program under test.
        floors: (n,) noise floor of each row.
    """
    actual = actual.astype(np.float64)
    convention = ""
    found = _distances(exact, actual, floors)
    if not found.is_within(floors) and np.isfinite(actual).all():
        constant = np.median(actual - exact, axis=1, keepdims=True)
        if np.abs(constant).max() > LARGEST * float(np.max(floors)):
            nearer = _distances(exact + constant, actual, floors)
            if nearer.is_within(np.maximum(floors, _ulp(actual))):
                normaliser = -_log_sum(exact)
                is_normal = np.abs(constant[:, 0] - normaliser).max() <= 1e-3 * (1 + np.abs(normaliser).max())
                convention = LOG_PROBABILITIES if is_normal else SHIFTED
                return Fit(nearer.distance, nearer.worst, convention)
    return found


def _ulp(actual: Array) -> Array:
    """Rounding of a float32 of the size of each row."""
    out: Array = np.abs(actual).max(axis=1) * 2.0**-23
    return out


def _distances(exact: Array, actual: Array, floors: Array) -> Fit:
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(actual - exact)
    off[~np.isfinite(off)] = np.inf
    distance = off.max(axis=1)
    row = int(np.argmax(distance / np.maximum(floors, 1e-30)))
    return Fit(distance, (row, int(off[row].argmax())), "")


# ---- what it means for the text ------------------------------------------------------------------------------------


def quality(exact: Array, actual: Array, following: Sequence[int] = ()) -> Quality:
    """Compare two distributions at every position.

    Args:
        exact, actual: (n, vocab_size).
        following: the id that follows each position, for perplexity; may be one shorter than n.
    """
    p = _log_probabilities(exact)
    q = _log_probabilities(actual.astype(np.float64))
    with np.errstate(invalid="ignore"):
        kl = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
    kl[~np.isfinite(kl)] = np.inf
    best = exact.argmax(axis=1) == actual.argmax(axis=1)
    k = min(_TOP, exact.shape[1])
    tops = [np.argpartition(-rows, k - 1, axis=1)[:, :k] for rows in (exact, np.nan_to_num(actual, nan=-np.inf))]
    shared = np.array([len(set(a.tolist()) & set(b.tolist())) / k for a, b in zip(*tops, strict=True)])
    n = len(following)
    rows = np.arange(n)
    centred = (actual - actual.mean(axis=1, keepdims=True)) - (exact - exact.mean(axis=1, keepdims=True))
    return Quality(
        kl=_interval(kl),
        kl_99=float(np.quantile(kl, 0.99)) if np.isfinite(kl).all() else math.inf,
        kl_max=float(kl.max()),
        top_1=_interval(best.astype(np.float64)),
        top_5=_interval(shared),
        perplexity=float(np.exp(-q[rows, list(following)].mean())) if n else math.nan,
        reference_perplexity=float(np.exp(-p[rows, list(following)].mean())) if n else math.nan,
        rms_error=float(np.sqrt((centred**2).mean())),
        largest_error=float(np.abs(centred).max()),
    )


def _log_sum(rows: Array) -> Array:
    top = rows.max(axis=1)
    out: Array = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    return out


def _log_probabilities(rows: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        out: Array = rows - _log_sum(rows)[:, None]
    return out


def _interval(values: Array) -> Interval:
    """The mean of values with its bootstrap interval; the same values give the same interval."""
    mean = float(values.mean())
    if not np.isfinite(values).all():
        return Interval(math.inf, math.inf, math.inf)
    random = np.random.default_rng(len(values))
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


# ---- in which way they are wrong -----------------------------------------------------------------------------------


def how_wrong(exact: Array, actual: Array, floors: Array) -> str:
    """Say in which way rows are wrong, in words: the first simple change that explains them, or what can be said.

    Args:
        exact, actual, floors: as for `fit`.
    """
    actual = actual.astype(np.float64)
    finite = np.isfinite(actual)
    if not finite.all():
        row, id_ = (int(i) for i in np.argwhere(~finite)[0])
        return f"not finite, first at row {row}, id {id_} ({actual[row, id_]})"
    for explain in _EXPLANATIONS:
        if words := explain(exact, actual):
            return words
    off = np.abs(actual - exact).max(axis=1)
    first = int(np.argmax(off > LARGEST * np.maximum(floors, 1e-30)))
    if first > 0:
        return f"right in {first} row{'s' * (first > 1)}, wrong from row {first} on"
    share = float(np.sqrt(((actual - exact) ** 2).mean()) / max(float(np.std(exact)), 1e-30))
    if share <= _NAMED:
        return f"off by {share:.2g} of their spread everywhere, in no simple way"
    a, b = actual - actual.mean(), exact - exact.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    correlation = float((a * b).sum()) / size if size else 0.0
    return f"wrong from the first row on, in no simple way; correlation with the right ones {correlation:.3f}"


def _explains(exact: Array, actual: Array) -> bool:
    """Whether rows are near enough to call one the cause of the other."""
    spread = np.std(exact)
    return bool(spread > 0 and np.sqrt(((actual - exact) ** 2).mean()) <= _NAMED * spread)


def _constant(exact: Array, actual: Array) -> str:
    same = np.ptp(actual, axis=1) == 0
    return "all logits of a row are equal" if same.all() and np.ptp(exact) > 0 else ""


def _probabilities(exact: Array, actual: Array) -> str:
    return "probabilities, expected logits" if _explains(np.exp(_log_probabilities(exact)), actual) else ""


def _scaled(exact: Array, actual: Array) -> str:
    x, y = (rows - rows.mean(axis=1, keepdims=True) for rows in (exact, actual))
    scale = float((x * y).sum() / (x * x).sum()) if (x * x).sum() else 0.0
    unscaled, left = (float(((y - factor * x) ** 2).sum()) for factor in (1.0, scale))
    if scale == 0.0 or left > unscaled / 100 or not _explains(scale * x, y):
        return ""
    return f"scaled by {scale:.4g}"


def _other_rows(exact: Array, actual: Array) -> str:
    if len(exact) < 2:
        return ""
    if _explains(np.broadcast_to(exact[-1], exact.shape), actual):
        return "every row is that of the last position"
    for by, words in ((1, "each row is that of the next position"), (-1, "each row is that of the position before")):
        here, there = (slice(None, -1), slice(1, None)) if by == 1 else (slice(1, None), slice(None, -1))
        if _explains(exact[there], actual[here]):
            return words
    return "the rows are in reverse order" if _explains(exact[::-1], actual) else ""


def _displaced(exact: Array, actual: Array) -> str:
    n = exact.shape[1]
    spectrum = np.fft.rfft(actual[0]) * np.conj(np.fft.rfft(exact[0]))
    by = int(np.argmax(np.fft.irfft(spectrum, n)))
    by = by - n if by > n // 2 else by
    here, there = (slice(by, None), slice(None, -by)) if by > 0 else (slice(None, by), slice(-by, None))
    if by == 0 or not _explains(exact[:, there], actual[:, here]):
        return ""
    return f"displaced: the logit of id i stands at id i {'+' if by > 0 else '-'} {abs(by)}"


def _transposed(exact: Array, actual: Array) -> str:
    rows, columns = exact.shape
    is_so = rows > 1 and _explains(exact, actual.reshape(columns, rows).T)
    return "transposed: all rows of one id come before those of the next" if is_so else ""


def _permuted(exact: Array, actual: Array) -> str:
    if not _explains(np.sort(exact, axis=1), np.sort(actual, axis=1)):
        return ""
    moved = int((np.abs(actual - exact).mean(axis=0) > _NAMED * np.std(exact)).sum())
    return f"permuted: {moved} of {exact.shape[1]} ids have each other's logits" if moved else ""


def _cut_off(exact: Array, actual: Array) -> str:
    """Right up to some id, and one value from there on."""
    ends = actual == actual[:, -1:]
    n = exact.shape[1]
    kept = n - int(np.argmin(ends[:, ::-1].all(axis=0))) if not ends.all() else n
    if 0 < kept < n - 1 and _explains(exact[:, :kept], actual[:, :kept]):
        return f"cut off: ids from {kept} on have no logits of their own"
    return ""


def _one_row(exact: Array, actual: Array) -> str:
    """Some ids are wrong in every row, the others in none: rows of the classifier."""
    wrong = np.abs(actual - exact).mean(axis=0) > _NAMED * np.std(exact)
    n = int(wrong.sum())
    if 0 < n <= exact.shape[1] // 10 and _explains(exact[:, ~wrong], actual[:, ~wrong]):
        shown = ", ".join(map(str, np.flatnonzero(wrong)[:6]))
        return f"wrong at {n} of {exact.shape[1]} ids only: {shown}" + (", ..." if n > 6 else "")
    return ""


_EXPLANATIONS: tuple[Callable[[Array, Array], str], ...] = (
    _constant,
    _probabilities,
    _scaled,
    _other_rows,
    _displaced,
    _transposed,
    _cut_off,
    _permuted,
    _one_row,
)
