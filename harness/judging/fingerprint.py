"""Fingerprint: a row of logits in eleven numbers, small enough for a golden and hard to get by a wrong row.

Of a row of V logits are kept its mean, its five largest logits with their ids, and four projections, all but the mean
of the centred row (the mean subtracted), so that a constant added to all logits changes nothing but the mean.

Projection j of a centred row x is (s[0] x[0] + ... + s[V-1] x[V-1]) / sqrt(V), where s[i] is -1 if bit j of
splitmix64(i) is set, and else 1. An error of root mean square r, spread over the vocabulary in any way that knows
nothing of the signs, moves each projection by about r: it cannot hide in the ids that are not among the five.

    splitmix64(i):  z = i + 9e3779b97f4a7c15;  z = (z ^ z >> 30) * bf58476d1ce4e5b9;
                    z = (z ^ z >> 27) * 94d049bb133111eb;  z ^ z >> 31        (hexadecimal, modulo 2**64)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "N_PROJECTIONS",
    "N_TOP",
    "REFERENCE_SHARE",
    "Fingerprint",
    "fingerprint",
    "same_reference",
    "signs",
    "worst",
]

Array = npt.NDArray[Any]

N_TOP = 5
N_PROJECTIONS = 4

REFERENCE_SHARE = 1e-3
"""Of a noise floor: what the reference's own logits may be off from a golden. A smaller change changes no verdict;
float64 rounding, in whatever order, is a millionth of it."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a golden keeps of the logits at one position.

    Attributes:
        position: index in the sequence that was fed, BOS being 0.
        floor: noise floor of this position, in logits.
        mean: of the row.
        top: (id, centred logit) of the largest, largest first.
        projections: of the centred row.
    """

    position: int
    floor: float
    mean: float
    top: tuple[tuple[int, float], ...]
    projections: tuple[float, ...]


def signs(vocab_size: int) -> Array:
    """Return (N_PROJECTIONS, vocab_size) float64, 1 and -1."""
    z = np.arange(vocab_size, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    bits = (z >> np.arange(N_PROJECTIONS, dtype=np.uint64)[:, None]) & np.uint64(1)
    out: Array = 1.0 - 2.0 * bits.astype(np.float64)
    return out


def fingerprint(position: int, row: Array, floor: float) -> Fingerprint:
    """Take the fingerprint of a (vocab_size,) row."""
    row = row.astype(np.float64)
    mean = float(row.mean())
    largest = np.argsort(-row, kind="stable")[:N_TOP]
    top = tuple((int(id_), float(row[id_]) - mean) for id_ in largest)
    return Fingerprint(position, floor, mean, top, tuple(_projected(row - mean)))


def _projected(centred: Array) -> list[float]:
    found: list[float] = (signs(len(centred)) @ centred / math.sqrt(len(centred))).tolist()
    return found


def worst(expected: Fingerprint, row: Array) -> tuple[float, str]:
    """Compare a row with a fingerprint, allowing for a constant in all its logits.

    Returns:
        The largest absolute difference, inf for a row that is not finite; and where it is, in words.
    """
    row = row.astype(np.float64)
    if not np.isfinite(row).all():
        return math.inf, f"the logit of id {int(np.argmin(np.isfinite(row)))} is not finite"
    centred = row - row.mean()
    places = [(float(centred[id_]), value, f"id {id_}") for id_, value in expected.top]
    values: Sequence[float] = _projected(centred)
    places += [(a, b, f"projection {j}") for j, (a, b) in enumerate(zip(values, expected.projections, strict=True))]
    actual, wanted, where = max(places, key=lambda place: abs(place[0] - place[1]))
    return abs(actual - wanted), f"{where}: expected {wanted:.9g}, actual {actual:.9g}"


def same_reference(expected: Fingerprint, row: Array) -> str:
    """Say where a row of the reference's own logits is not the one that was recorded; empty if it is."""
    limit = REFERENCE_SHARE * expected.floor
    off = abs(float(row.astype(np.float64).mean()) - expected.mean)
    distance, where = worst(expected, row)
    if distance > limit:
        return where
    return f"mean: off by {off:.3g}" if not off <= limit else ""
