"""The best token of a float64 classifier, found by a float32 pass: twice as fast, and the same answer.

Checkpoints hold float32, so the classifier's rows w are exact in both precisions; only h is rounded, and the products
and sums of the pass are. Whatever the order of its n terms, a float32 logit is within

    (n + 2) u / (1 - (n + 2) u) * |h| |w|,    u = 2^-24

of the exact one (the standard bound of a dot product, one rounding of h more, and Cauchy-Schwarz). So the float64
maximum is among the tokens whose float32 logit is within twice that of the largest: usually one or two, computed in
float64 then. Where many are left, or something is not finite, the caller is told to do it all in float64.
"""

from __future__ import annotations

import numpy as np

from harness.engine.ops import Array

__all__ = ["largest_norm", "screened"]

_IDS = 1024  # of one block of float32 logits
_ROWS = 1024
_UNIT = 2.0**-24
_PER_ROW = 64  # candidates of a position, on average, above which float64 throughout is quicker
_GATHERED = 1 << 22  # classifier values gathered at a time: 32 MiB in float64
_NO_UNDERFLOW = 1e-30  # above what products too small for a float32 can add up to


def largest_norm(classifier: Array) -> float:
    """The largest Euclidean norm among the rows of a float32 classifier (vocab_size, dim), rounded up."""
    largest = 0.0
    for first in range(0, len(classifier), _IDS):
        block = classifier[first : first + _IDS]
        largest = max(largest, float(np.einsum("ij,ij->i", block, block).max()))
    return float(np.sqrt(largest)) * 1.001  # the sums of squares are float32


def screened(h: Array, classifier: Array, chosen: Array, norm: float) -> tuple[Array, Array, Array] | None:
    """Find the best token of each row, and the logits of it and of the chosen one.

    Args:
        h: (n, dim) float64, what the classifier multiplies.
        classifier: (vocab_size, dim) float32.
        chosen: (n,) int64; a token outside of the vocabulary has no logit (NaN).
        norm: of the classifier's rows, at least the largest.

    Returns:
        best (n,) int64, the first of equals; its logit and that of `chosen`, (n,) float64 of one arithmetic, so that
        a chosen token that is the best has exactly the best one's logit. None where float64 throughout is called for.
    """
    n, dim = h.shape
    bound = (dim + 2) * _UNIT / (1 - (dim + 2) * _UNIT)
    length = np.linalg.norm(h, axis=1)
    if not max(1.0, norm) * length.max(initial=0) < np.finfo(np.float32).max / 4:  # also where it is NaN
        return None
    reach = 2 * bound * norm * length * (1 + 1e-6) + _NO_UNDERFLOW
    rounded = h.astype(np.float32)
    best_seen = np.full(n, -np.inf)
    known = np.clip(chosen, 0, len(classifier) - 1)
    found_rows, found_ids, found_logits = [np.arange(n)], [known], [np.full(n, np.inf)]  # the chosen always stay
    n_found = 0
    for first in range(0, len(classifier), _IDS):
        block = classifier[first : first + _IDS].T
        for begin in range(0, n, _ROWS):
            rows = slice(begin, min(begin + _ROWS, n))
            logits = rounded[rows] @ block
            top = logits.max(axis=1)
            np.maximum(best_seen[rows], top, out=best_seen[rows])
            within = best_seen[rows] - reach[rows]
            live = np.flatnonzero(~(top < within))  # NaN stays, and ends below
            if not len(live):
                continue
            row, column = np.nonzero(~(logits[live] < within[live, None]))
            n_found += len(row)
            if n_found > _PER_ROW * n + 4 * len(classifier):
                return None
            found_rows.append(live[row] + begin)
            found_ids.append(column + first)
            found_logits.append(logits[live[row], column].astype(np.float64))
    if not np.isfinite(best_seen).all():
        return None
    row, token, logit = (np.concatenate(part) for part in (found_rows, found_ids, found_logits))
    kept = logit >= (best_seen - reach)[row]
    row, token = row[kept], token[kept]
    exact = np.empty(len(row))
    for begin in range(0, len(row), _GATHERED // dim + 1):
        part = slice(begin, begin + _GATHERED // dim + 1)
        exact[part] = np.einsum("ij,ij->i", h[row[part]], classifier[token[part]].astype(np.float64))
    order = np.lexsort((token, -exact, row))
    leads = order[np.searchsorted(row[order], np.arange(n))]
    return token[leads], exact[leads], np.where(known == chosen, exact[:n], np.nan)
