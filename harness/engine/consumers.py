"""What becomes of logits, which exist in blocks only: reduced to what judging needs, or kept for few positions."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from harness.engine.ops import Array

__all__ = ["Consumer", "Judged", "Rows", "TopTwo"]


class Consumer(Protocol):
    """Takes blocks of logits as they are made: rows (indices into all scored positions), first id, block."""

    def take(self, rows: slice, first_id: int, block: Array) -> None: ...


class Judged:
    """For each scored position: the best token and its logit, and the logit of the token that was chosen."""

    def __init__(self, chosen: Array) -> None:
        n = len(chosen)
        self.chosen = chosen
        self.best = np.zeros(n, np.int64)
        self.best_logit = np.full(n, -np.inf)
        self.chosen_logit = np.full(n, np.nan)

    def take(self, rows: slice, first_id: int, block: Array) -> None:
        best = block.argmax(axis=1)  # quicker than the maximum, and says where it is
        top = block[np.arange(len(block)), best]
        better = np.flatnonzero(top > self.best_logit[rows])
        self.best[rows][better] = best[better] + first_id
        self.best_logit[rows][better] = top[better]
        local = self.chosen[rows] - first_id
        here = np.flatnonzero((local >= 0) & (local < block.shape[1]))
        self.chosen_logit[rows][here] = block[here, local[here]]

    def settle(self, best: Array, best_logit: Array, chosen_logit: Array) -> None:
        """Take the result for all positions at once, from who found it without whole logits."""
        self.best, self.best_logit, self.chosen_logit = best, best_logit, chosen_logit

    @property
    def regret(self) -> Array:
        """(n,) float64: best logit minus chosen logit; 0 where the choice was a best one."""
        out: Array = self.best_logit - self.chosen_logit
        return out


class TopTwo:
    """For each scored position: the two best tokens and their logits."""

    def __init__(self, n: int) -> None:
        self.ids = np.zeros((n, 2), np.int64)
        self.logits = np.full((n, 2), -np.inf)

    def take(self, rows: slice, first_id: int, block: Array) -> None:
        index = np.arange(len(block))
        rest = block.copy()
        for _ in range(2):
            best = rest.argmax(axis=1)
            top = rest[index, best].astype(np.float64)
            rest[index, best] = -np.inf
            ids, logits = self.ids[rows], self.logits[rows]
            first = top > logits[:, 0]
            second = ~first & (top > logits[:, 1])
            ids[first, 1], logits[first, 1] = ids[first, 0], logits[first, 0]
            ids[first, 0], logits[first, 0] = best[first] + first_id, top[first]
            ids[second, 1], logits[second, 1] = best[second] + first_id, top[second]

    @property
    def margin(self) -> Array:
        """(n,) float64: how far the best logit leads."""
        out: Array = self.logits[:, 0] - self.logits[:, 1]
        return out


class Rows:
    """Keeps whole rows of logits; for few positions only."""

    def __init__(self, n: int, vocab_size: int, dtype: npt.DTypeLike) -> None:
        self.logits = np.empty((n, vocab_size), dtype)

    def take(self, rows: slice, first_id: int, block: Array) -> None:
        self.logits[rows, first_id : first_id + block.shape[1]] = block
