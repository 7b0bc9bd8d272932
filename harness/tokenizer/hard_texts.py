"""Texts that tokenizers trip over, by kind, for one vocabulary: endless, and the same for the same seed."""

from __future__ import annotations

import itertools
import random
import unicodedata
from collections.abc import Iterator

from harness.tokenizer.byte_level import ByteLevelTokenizer
from harness.tokenizer.tokenizer import Tokenizer

__all__ = ["each_hard_text", "hard_texts", "long_text"]

_BOUNDARIES = (0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF, 0x10000, 0x10FFFF)
_SPACES = ("\t", "\n", "\r", "\r\n", "\v", "\f", "\x85", "\xa0", "\u2003", "\u200b", "\u2028", "\u3000", "\ufeff")
_SPECIALS = ("<s>", "</s>", "<unk>", "<pad>", "<0x0A>", "<0x", "<|endoftext|>", "[INST]", "\n<s>\n", "\n</s>\n")
_NORMAL = ("é", "Å", "ﬁ", "Ａ１", "ß", "İ", "Ǆ", "한", "ｶﾞ", "①", "½", "ñandú", "\u2581", "\u2581a", "ⅷ", "ﷺ", "क्षि")
_JOINED = ("👩‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "👍🏽", "✌️", "e\u0301\u0323", "a\u0308" * 3)
# Lone and missing continuation bytes, overlong forms, surrogates, more than four bytes, bytes that never occur.
_BROKEN = (
    *(b"\x80", b"\xbf\xbf", b"a\xc3", b"\xe2\x82", b"\xf0\x9f\xa6", b"\xf0\x9f\xa6a", b"\xc0\xaf", b"\xe0\x80\xaf"),
    *(b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xfe\xff", b"a\x80\x80\x80\x80b", b"\xc3\x28", b"\xf4\x90\x80\x80"),
)
_WORDS = (
    "Once upon a time",
    "there was a",
    "The dog's",
    "naïve café",
    "3.14159",
    "x=1;",
    "日本語",
    "привет",
    "I'm",
    "...",
)
_MOST_BYTES = 400


def hard_texts(tokenizer: Tokenizer | ByteLevelTokenizer, *, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """Yield (kind, text) without end: first each hard thing by itself, then mixtures of them. No text has a NUL."""
    units: list[tuple[str, bytes]] = []
    for kind, text in each_hard_text(tokenizer):
        if text:
            units.append((kind, text))
        yield kind, text
    draw = random.Random(seed)
    kinds: dict[str, list[bytes]] = {}
    for kind, text in units:
        kinds.setdefault(kind, []).append(text)
    names = list(kinds)
    while True:
        some = draw.sample(names, k=min(draw.randint(1, 3), len(names)))
        parts = [draw.choice(kinds[draw.choice(some)]) for _ in range(draw.randint(1, 12))]
        yield "mixture", b"".join(parts)[:_MOST_BYTES]


def each_hard_text(tokenizer: Tokenizer | ByteLevelTokenizer) -> Iterator[tuple[str, bytes]]:
    """Yield (kind, text) for each hard thing, none with a NUL; what a large vocabulary has many of comes last."""
    for kind, text in itertools.chain(_few(), _many(tokenizer)):
        if 0 not in text:
            yield kind, text


def _few() -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    for byte in range(1, 256):
        yield "byte", bytes([byte])
        yield "byte", b"a%cb" % byte
    for point in _BOUNDARIES:
        yield "UTF-8 boundary", chr(point).encode("utf-8", "surrogatepass")
    for n in (*range(1, 18), 31, 32, 33, 64):
        yield from (
            ("white space", text) for text in (b" " * n, b" " * n + b"a", b"a" + b" " * n, b"a" + b" " * n + b"b")
        )
    for space in _SPACES:
        yield from (("white space", text.encode()) for text in (space, space * 3, f"a{space}b", f" {space} "))
    for text in _SPECIALS:
        yield from (("special", part.encode()) for part in (text, f"a{text}b", f" {text} ", text * 2))
    for text in (*_NORMAL, *_JOINED):
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            yield "normalisation", unicodedata.normalize(form, text).encode()
        yield "normalisation", text.encode()
    for raw in _BROKEN:
        yield from (("invalid UTF-8", text) for text in (raw, b"a" + raw, raw + b"a", raw * 2))
    for words in _WORDS:
        yield from (("words", text.encode()) for text in (words, f" {words}", f"{words} ", f"{words}\n{words}"))


def _many(tokenizer: Tokenizer | ByteLevelTokenizer) -> Iterator[tuple[str, bytes]]:
    """Texts of pieces and of merges, by turns."""
    for texts in itertools.zip_longest(_pieces(tokenizer), _ties(tokenizer)):
        yield from (one for one in texts if one is not None)


def _pieces(tokenizer: Tokenizer | ByteLevelTokenizer) -> Iterator[tuple[str, bytes]]:
    for id_ in range(3, tokenizer.vocab_size):
        piece = tokenizer.decode([id_])
        yield "piece", piece
        yield "piece", piece.lstrip(b" ")


def _ties(tokenizer: Tokenizer | ByteLevelTokenizer) -> Iterator[tuple[str, bytes]]:
    """Texts in which the order of merges decides: runs of a letter, and pieces that overlap or nest."""
    letters = sorted({piece for piece in tokenizer.pieces if len(piece) == 1 and piece > b" "})
    for letter in letters:
        yield from (("merge order", letter * n) for n in (2, 3, 4, 5, 7, 8, 16))
    by_head: dict[bytes, list[bytes]] = {}
    pieces = [
        piece for piece in tokenizer.pieces if 1 < len(piece) <= 8 and not piece.startswith(b"<") and 0 not in piece
    ]
    for piece in pieces:
        by_head.setdefault(piece[:1], []).append(piece)
    for piece in pieces[:4000]:
        for other in by_head.get(piece[-1:], [])[:3]:
            yield "merge order", piece + other[1:]  # they share a byte


def long_text(n_bytes: int) -> bytes:
    """Return a text of about that length, in which much can be merged."""
    words = " ".join(_WORDS[:2]).encode()
    return (words + b" " + b"aaaa" + b" ") * (n_bytes // (len(words) + 6) + 1)
