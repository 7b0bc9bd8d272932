"""Vocabularies for tests, made here: ranks of bytes learned from a text, and the files that say them."""

from __future__ import annotations

import base64
from collections import Counter
from itertools import pairwise
from pathlib import Path

import regex

from harness.tokenizer.byte_level import LLAMA3

__all__ = ["LEARNED_FROM", "learn", "rank_file"]

LEARNED_FROM = (
    "Once upon a time, in the year 2024, there was a little girl who didn't like 12345 numbers.\n"
    "She'd say: “It's naïve!” — and they'LL go   home.\n\n\tIF (x == 10) { return 100; }\r\n"
    "Жила-была девочка. 今日は、世界！ 안녕하세요 🦙🦙 नमस्ते the the then there other another mother.\n"
) * 3


def learn(n_merges: int, text: str = LEARNED_FROM) -> list[bytes]:
    """Return pieces by rank: the 256 bytes, then the commonest pairs of Llama 3's words, one after another."""
    words = Counter(tuple(bytes((byte,)) for byte in word.encode()) for word in regex.findall(LLAMA3, text))
    pieces = [bytes((byte,)) for byte in range(256)]
    for _ in range(n_merges):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                if pair[0] + pair[1] not in pieces:
                    pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        pieces.append(best[0] + best[1])
        words = Counter({_joined(word, best): n for word, n in words.items()})
    return pieces


def _joined(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    out: list[bytes] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


def rank_file(path: Path, pieces: list[bytes]) -> Path:
    path.write_bytes(b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(pieces)))
    return path
