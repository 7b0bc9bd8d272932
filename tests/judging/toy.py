"""A reference by table: logits for a sequence are looked up, or else made from the sequence by a hash."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BOS = 1
PIECES = (
    b"<unk>",
    b"\n<s>\n",
    b"\n</s>\n",
    b"<0x0A>",
    b"<0xC3>",
    b"<0xA9>",
    b"<0x07>",
    b" ",
    b"a",
    b"b",
    b"ab",
    b" a",
    b" ab",
    b"aba",
    b"\xc3\xa9",
    b"a",  # a second piece of the same text
)
BYTES = tuple(int(piece[3:5], 16) if piece.startswith(b"<0x") else None for piece in PIECES)


@dataclass
class Table:
    """A session whose logits stand in a table by the ids after BOS."""

    rows: Mapping[tuple[int, ...], Sequence[float]] = field(default_factory=dict)
    vocab_size: int = len(PIECES)
    scale: float = 2.0
    ids: list[int] = field(default_factory=list)
    n_fed: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def truncate(self, length: int) -> None:
        assert length <= len(self.ids), "cannot forget what was never fed"
        del self.ids[length:]

    def extend(self, ids: Sequence[int], *, all_logits: bool = False) -> Any:
        rows = []
        for token in ids:
            self.ids.append(token)
            rows.append(self.logits(self.ids))
        self.n_fed += len(ids)
        return np.array(rows if all_logits else rows[-1:])

    def logits(self, ids: Sequence[int]) -> Any:
        found = self.rows.get(tuple(ids[1:]))
        if found is None:
            random = np.random.default_rng(zlib.crc32(repr(list(ids)).encode()))
            found = random.normal(size=self.vocab_size) * self.scale
            found[BOS] = -50.0
        return np.asarray(found, np.float64)


def row(default: float = -20.0, *, n: int = len(PIECES), **logits: float) -> list[float]:
    """A row of logits: `row(_8=5.0)` gives id 8 the logit 5 and all others the default."""
    out = [default] * n
    for name, value in logits.items():
        out[int(name[1:])] = value
    return out
