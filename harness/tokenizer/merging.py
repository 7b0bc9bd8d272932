"""Merge neighbours, the best pair first, until no pair may be merged, in O(n log n); knows no vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush

__all__ = ["PRIORITIES", "merge"]

_GONE = -1  # in place of an id that was merged into the one before it

# The order of merging for each rule, from a pair's score and the position of its left member; least first.
# Positions are those of the unmerged ids, which keep their order.
PRIORITIES: dict[str, Callable[[float, int], tuple[float, int]]] = {
    "best-left": lambda score, position: (-score, position),
    "best-right": lambda score, position: (-score, -position),
    "first": lambda score, position: (0.0, position),
    "lowest": lambda score, position: (score, position),
}

_Entry = tuple[tuple[float, int], int, int, int, int]


def merge(
    ids: Sequence[int],
    join: Callable[[int, int], tuple[float, int] | None],
    priority: Callable[[float, int], tuple[float, int]] = PRIORITIES["best-left"],
    max_merges: int | None = None,
) -> list[int]:
    """Merge pairs until none is left.

    The heap holds every adjacent pair that may be merged, so its least entry is what a scan of all pairs would
    choose. An entry outlives its pair when a neighbour merges first; it is then skipped, because the ids no
    longer agree.

    Args:
        join: two neighbouring ids -> their score and the id they become, or None.
        priority: score and position -> what is merged first; least first.
        max_merges: stop after so many.

    >>> scores = {(1, 2): (5.0, 12), (2, 3): (7.0, 23)}
    >>> merge([1, 2, 3], lambda a, b: scores.get((a, b)))
    [1, 23]
    """
    ids = list(ids)
    n = len(ids)
    heap: list[_Entry] = []

    def candidate(position: int, left: int, right: int) -> _Entry | None:
        found = join(left, right)
        return None if found is None else (priority(found[0], position), position, left, right, found[1])

    for position in range(n - 1):
        entry = candidate(position, ids[position], ids[position + 1])
        if entry is not None:
            heap.append(entry)
    heapify(heap)
    following = list(range(1, n + 1))
    preceding = list(range(-1, n - 1))
    left_to_do = n if max_merges is None else max_merges
    while heap and left_to_do > 0:
        _, position, left, right, merged = heappop(heap)
        after = following[position]
        if ids[position] != left or after >= n or ids[after] != right:
            continue
        left_to_do -= 1
        ids[position] = merged
        ids[after] = _GONE
        after = following[position] = following[after]
        if after < n:
            preceding[after] = position
            entry = candidate(position, merged, ids[after])
            if entry is not None:
                heappush(heap, entry)
        before = preceding[position]
        if before >= 0:
            entry = candidate(before, ids[before], merged)
            if entry is not None:
                heappush(heap, entry)
    return [id_ for id_ in ids if id_ != _GONE]
