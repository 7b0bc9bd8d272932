"""llama2.c's samplers and random generator: argmax, multinomial and nucleus over one row of logits.

All sums are float32 and left to right, and exp is the C library's, so that a seed gives llama2.c's tokens.
Source: behaviour of llama2.c's run program; xorshift* is Vigna 2016.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.engine import libm

__all__ = ["Xorshift", "multinomial", "nucleus", "nucleus_candidates", "probabilities", "sample"]

Array = npt.NDArray[Any]
_MASK = (1 << 64) - 1


class Xorshift:
    """The generator xorshift* with 64 bits of state; the state is the seed, without any warm-up.

    >>> Xorshift(42).next_u32()
    1456360119
    """

    def __init__(self, seed: int) -> None:
        self.state = seed & _MASK

    @classmethod
    def from_argument(cls, seed: int) -> Xorshift:
        """Seed it as the command line does: through a signed 32-bit int, then sign-extended.

        >>> Xorshift.from_argument(3000000000).state
        18446744072414584320
        """
        low = seed & 0xFFFFFFFF
        return cls(low - (1 << 32) if low >= 1 << 31 else low)

    def next_u32(self) -> int:
        x = self.state
        x ^= x >> 12
        x ^= (x << 25) & _MASK
        x ^= x >> 27
        self.state = x
        return ((x * 0x2545F4914F6CDD1D) & _MASK) >> 32

    def coin(self) -> np.float32:
        """Draw a float32 in [0, 1) of 24 random bits."""
        return np.float32((self.next_u32() >> 8) / 16777216.0)


def probabilities(logits: Array, temperature: float) -> npt.NDArray[np.float32]:
    """Divide by the temperature and apply softmax, in float32 as run.c does; (vocab_size,)."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        x = logits.astype(np.float32) / np.float32(temperature)
        x = libm.expf(x - x.max())
        out: npt.NDArray[np.float32] = x / np.cumsum(x, dtype=np.float32)[-1]
    return out


def multinomial(p: Array, coin: np.float32) -> int:
    """First index at which the running sum exceeds the coin; the last index if none does."""
    above = np.cumsum(p, dtype=np.float32) > coin
    return int(above.argmax()) if above.any() else len(p) - 1


def nucleus_candidates(p: Array, topp: float) -> tuple[Array, Array]:
    """Indices of the nucleus, most probable first, with the running sums of their probabilities.

    The token that crosses topp is in. Equal probabilities keep index order (a stable sort). Empty only for
    degenerate input (NaN, or a near-uniform distribution and a tiny topp).
    """
    cutoff = np.float32(np.float32(1) - np.float32(topp)) / np.float32(len(p) - 1)
    kept = np.flatnonzero(p >= cutoff)
    order = kept[np.argsort(-p[kept], kind="stable")]
    sums = np.cumsum(p[order], dtype=np.float32)
    crossed = sums > np.float32(topp)
    last = int(crossed.argmax()) if crossed.any() else len(order) - 1
    return order[: last + 1], sums[: last + 1]


def nucleus(p: Array, topp: float, coin: np.float32) -> int:
    """Draw from the nucleus; falls back to the most probable token where the nucleus is empty."""
    order, sums = nucleus_candidates(p, topp)
    if not len(order):
        return int(np.nan_to_num(p).argmax())
    above = sums > coin * sums[-1]
    return int(order[int(above.argmax()) if above.any() else -1])


def sample(logits: Array, *, temperature: float, topp: float, coin: np.float32) -> int:
    """Choose a token at a temperature other than 0: nucleus for topp in (0, 1), else the whole distribution."""
    p = probabilities(logits, temperature)
    if math.isnan(topp) or 0 < topp < 1:
        return nucleus(p, topp, coin)
    return multinomial(p, coin)
