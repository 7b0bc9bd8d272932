"""llama2.c's sampler and random generator with every step a value, so that a fault is one replaced step.

`SAMPLER` computes what `harness.engine.sampler` computes; tests hold the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.engine.sampler import Xorshift, probabilities

__all__ = ["CLOCK", "SAMPLER", "Sampler"]

Array = npt.NDArray[Any]
_MASK = (1 << 64) - 1
_MULTIPLIER = 0x2545F4914F6CDD1D
CLOCK = 1_700_000_000  # what the time is where nobody says otherwise, in seconds


def seeded(seed: int, clock: int) -> int:
    """The first state: the seed through a signed 32-bit int, sign-extended; 0 means the time in seconds."""
    return Xorshift.from_argument(seed).state or clock


def advanced(state: int) -> int:
    """The next state of xorshift64*: three shifts."""
    state ^= state >> 12
    state ^= (state << 25) & _MASK
    return state ^ (state >> 27)


def output(state: int) -> int:
    """32 bits out of a state: the upper half of its product with the multiplier."""
    return ((state * _MULTIPLIER) & _MASK) >> 32


def coin(bits: int) -> np.float32:
    """A float32 in [0, 1) from the upper 24 of 32 bits."""
    return np.float32((bits >> 8) / 16777216.0)


def settings(temperature: float, topp: float) -> tuple[float, float]:
    """What the command line makes of its options: a negative temperature is 0, top-p outside of [0, 1] is 0.9."""
    temperature, topp = float(np.float32(temperature)), float(np.float32(topp))
    return max(temperature, 0.0), topp if 0 <= topp <= 1 else float(np.float32(0.9))


def is_greedy(temperature: float, topp: float) -> bool:
    """Whether the likeliest token is taken and no random number is drawn."""
    return temperature == 0


def uses_nucleus(topp: float) -> bool:
    """Whether top-p is on."""
    return 0 < topp < 1


def cutoff(topp: float, vocab_size: int) -> np.float32:
    """The probability below which no token can belong to the nucleus."""
    return np.float32(np.float32(np.float32(1) - np.float32(topp)) / np.float32(vocab_size - 1))


def ordered(p: Array, kept: Array) -> Array:
    """The candidates, most probable first; equals keep the order of their ids."""
    found: Array = kept[np.argsort(-p[kept], kind="stable")]
    return found


def nucleus(sums: Array, topp: float) -> tuple[int, np.float32]:
    """The index at which the running sum first exceeds topp, whose token still belongs, and the sum there."""
    crossed = sums > np.float32(topp)
    last = int(crossed.argmax()) if crossed.any() else len(sums) - 1
    return last, sums[last]


def threshold(drawn: np.float32, mass: np.float32, topp: float) -> np.float32:
    """Where in the nucleus the coin falls: scaled by the mass that was kept."""
    return np.float32(drawn * mass)


def running_sums(p: Array) -> Array:
    """Sums from the left in float32."""
    return np.cumsum(p, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Sampler:
    """The steps from a row of logits, and a seed, to a token."""

    seeded: Callable[[int, int], int] = seeded
    advanced: Callable[[int], int] = advanced
    output: Callable[[int], int] = output
    coin: Callable[[int], np.float32] = coin
    settings: Callable[[float, float], tuple[float, float]] = settings
    is_greedy: Callable[[float, float], bool] = is_greedy
    probabilities: Callable[[Array, float], Array] = probabilities
    uses_nucleus: Callable[[float], bool] = uses_nucleus
    cutoff: Callable[[float, int], np.float32] = cutoff
    ordered: Callable[[Array, Array], Array] = ordered
    nucleus: Callable[[Array, float], tuple[int, np.float32]] = nucleus
    threshold: Callable[[np.float32, np.float32, float], np.float32] = threshold
    running_sums: Callable[[Array], Array] = running_sums

    def draw(self, state: int) -> tuple[int, np.float32]:
        """Advance the generator once: the new state and the coin."""
        state = self.advanced(state)
        return state, self.coin(self.output(state))

    def sample(self, logits: Array, temperature: float, topp: float, drawn: np.float32) -> int:
        """Choose a token by a coin, after `settings`."""
        p = self.probabilities(logits, temperature)
        if not (math.isnan(topp) or self.uses_nucleus(topp)):
            return _first_above(self.running_sums(p), drawn)
        kept = self.ordered(p, np.flatnonzero(p >= self.cutoff(topp, len(p))))
        if not len(kept):  # nothing is left, where llama2.c reads before its buffer: the most probable token
            return int(np.nan_to_num(p).argmax())
        sums = self.running_sums(p[kept])
        last, mass = self.nucleus(sums, topp)
        return int(kept[_first_above(sums[: last + 1], self.threshold(drawn, mass, topp))])


def _first_above(sums: Array, drawn: np.float32) -> int:
    above = sums > drawn
    return int(above.argmax()) if above.any() else len(sums) - 1


SAMPLER = Sampler()
