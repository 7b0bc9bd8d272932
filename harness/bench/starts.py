"""Starts that stall: a machine may take a second to find the pages of a file that another time it has at once.

Slopes cancel what every run has before its tokens, not what one of them has alone: a second more before the tokens
of a short run, where the long one takes 3 s longer, makes a program look half as fast again as it is. From outside
such a run is known by its first byte, which came later than it had come before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.benchfile import Key, Sample

__all__ = ["AGAIN", "Starts"]

AGAIN = 2
"""Times that a run is made again."""
_LEAST_S, _LEAST_SHARE = 0.05, 0.5  # that a first byte is late by: seconds, and of the least time that one took
_STREAMED = 0.5  # of the time of a run beyond that least time, after its first byte: then it prints as it goes


@dataclass(frozen=True, slots=True)
class _Least:
    """The least time to a first byte, and the fewest tokens of the runs that it is of."""

    first_byte_s: float
    n_generated: int


@dataclass(slots=True)
class Starts:
    """When the first byte of each program came, with prompts of each length."""

    _least: dict[tuple[Key, int], _Least] = field(default_factory=dict)
    _streaming: set[Key] = field(default_factory=set)

    def note(self, sample: Sample) -> None:
        """Take note of a run."""
        first = sample.first_byte_s
        if first is None:
            return
        at = (sample.key, sample.n_prompt)
        least = self._least.get(at, _Least(first, sample.n_generated))
        beyond = sample.wall_s - least.first_byte_s
        if sample.n_generated > least.n_generated and sample.wall_s - first > _STREAMED * beyond:
            self._streaming.add(sample.key)
        self._least[at] = _Least(min(first, least.first_byte_s), min(sample.n_generated, least.n_generated))

    def is_late(self, sample: Sample) -> bool:
        """Tell whether a run's start stalled.

        Only programs that were seen to print as they go are called late: the first byte of one that prints at its end
        also tells how slow its tokens were, and no run may be chosen by that.
        """
        least = self._least.get((sample.key, sample.n_prompt))
        if least is None or sample.first_byte_s is None or sample.key not in self._streaming:
            return False
        return sample.first_byte_s - least.first_byte_s > max(_LEAST_S, _LEAST_SHARE * least.first_byte_s)
