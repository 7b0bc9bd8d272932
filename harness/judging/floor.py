"""The noise floor: how far honest programs of one arithmetic lie from the exact logits, and what is a tie.

At a position the floor is the largest distance from float64, over the vocabulary, among an ensemble of honest orders
of the declared arithmetic. Two logits decide a choice and each may move by the floor, so a choice whose regret is at
most `MULTIPLE` floors is a tie. The multiple's calibration is in docs/noise-floor.md.

Where rounding flips (int8 activations, and every arithmetic that rounds activations) the distance at one position is
a lottery: the floor is then an upper quantile over the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MULTIPLE", "RUN_QUANTILE", "position_floor", "run_floor"]

Array = npt.NDArray[Any]

MULTIPLE = 2.0
RUN_QUANTILE = 0.99


def position_floor(exact: Array, members: Sequence[Array]) -> Array:
    """Return (n_positions,) the largest distance from exact, over members and vocabulary.

    Args:
        exact: (n_positions, vocab_size) float64; logits that are no numbers are at no distance.
        members: the same logits by each member of the ensemble.
    """
    distance = np.zeros(len(exact))
    is_number = np.isfinite(exact)
    for member in members:
        off = np.abs(np.where(is_number, member.astype(np.float64), 0) - np.where(is_number, exact, 0))
        np.maximum(distance, off.max(axis=1), out=distance)
    return distance


def run_floor(distances: Array) -> float:
    """Return one floor for a whole run: the upper quantile of its positions' distances; 0 for an empty run."""
    return float(np.quantile(distances, RUN_QUANTILE)) if len(distances) else 0.0
