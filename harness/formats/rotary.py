"""The two orders in which files keep the rows of wq and wk, and the exact way from one to the other.

Rotation turns pairs of a head's values. Here, in llama2.c, in Meta's files and in GGUF's `llama`, the values of a
pair are neighbours (2j, 2j + 1); in Hugging Face's files, and in GGUF's other architectures, they are half the
rotated part apart (j, j + r/2). So rows are renumbered, within each head; columns, and values that are not rotated,
stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["to_adjacent", "to_halves"]


def to_adjacent(rows: NDArray[Any], head_dim: int, rotary_dim: int) -> NDArray[Any]:
    """Renumber rows (n_heads * head_dim, ...) from pairs half apart to adjacent ones.

    >>> to_adjacent(np.array([0, 1, 2, 10, 11, 12]), 6, 6)
    array([ 0, 10,  1, 11,  2, 12])
    >>> to_adjacent(np.array([0, 1, 10, 11, 7, 8]), 6, 4)
    array([ 0, 10,  1, 11,  7,  8])
    """
    return _renumbered(rows, head_dim, rotary_dim, (2, rotary_dim // 2))


def to_halves(rows: NDArray[Any], head_dim: int, rotary_dim: int) -> NDArray[Any]:
    """Undo `to_adjacent`.

    >>> to_halves(np.array([0, 10, 1, 11, 2, 12]), 6, 6)
    array([ 0,  1,  2, 10, 11, 12])
    """
    return _renumbered(rows, head_dim, rotary_dim, (rotary_dim // 2, 2))


def _renumbered(rows: NDArray[Any], head_dim: int, rotary_dim: int, pairs: tuple[int, int]) -> NDArray[Any]:
    rest = rows.shape[1:]
    heads = rows.reshape(-1, head_dim, *rest)
    out = np.empty_like(heads)
    turned = heads[:, :rotary_dim].reshape(-1, *pairs, *rest).swapaxes(1, 2)
    out[:, :rotary_dim] = turned.reshape(-1, rotary_dim, *rest)
    out[:, rotary_dim:] = heads[:, rotary_dim:]
    return out.reshape(rows.shape)
