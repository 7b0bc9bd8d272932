"""Byte-pair encoding by score, as llama2.c does it, and the wrong ways that ports are seen to have.

Free of any file format: a vocabulary is its pieces (bytes, by id) and their scores. The rule, for a non-empty
text: the ids of BOS, of a lone space (the dummy prefix), and of every code point, or one byte piece for each
byte of a code point that is no piece; then, again and again, the adjacent pair whose joined text is the piece
of the highest score is replaced by that piece, the leftmost of equals first, until no pair is a piece with a
score above the floor.

`EncodeRules` has one field per replaceable step; `HONEST` is the rule above, and `KNOWN_WRONG` names the
others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.errors import TokenizerError
from harness.tokenizer.merging import PRIORITIES, merge

__all__ = ["HONEST", "KNOWN_WRONG", "EncodeRules", "Vocabulary", "encode"]

UNK_ID = 0
SPACE = b" "
_META_SPACE = "\u2581".encode()


@dataclass(frozen=True, slots=True)
class EncodeRules:
    """How to get from text to ids; the defaults are llama2.c's.

    Attributes:
        dummy_prefix: when a space is put before the text; "unless-space": not before a text that begins with
            one.
        bos, eos: None does as the caller says; True and False overrule it.
        spaces: "trim" drops white space at both ends, "squeeze" also makes one space of each run of spaces;
            "spaces-squeezed" does that to spaces alone, as SentencePiece's remove_extra_whitespaces.
        meta_space: U+2581 in the text counts as a space.
        specials: the texts <unk>, <s> and </s> become ids 0, BOS and EOS.
        lookup: "codepoint", or "byte": each byte is looked up for itself.
        fallback: what stands for a code point that is no piece: its "bytes", "unk" or nothing ("drop").
        byte_offset: the id of the byte piece for byte 0.
        byte_text: "literal": byte pieces are the texts <0xHH>, which nothing merges with. "raw": they are the
            bytes themselves, come before any other piece of that one byte, and merge like other pieces.
        merge: which pair is merged next: the best score (leftmost or rightmost of equals), the leftmost that
            is a piece at all, the worst score, or none.
        floor: only scores above it are merged ("best-left" and "best-right").
        max_merges: stop after so many; None: no limit.
        longest_match: no merges at all; from left to right the longest piece that the text goes on with.
    """

    dummy_prefix: Literal["nonempty", "never", "always", "unless-space"] = "nonempty"
    bos: bool | None = None
    eos: bool | None = None
    spaces: Literal["keep", "trim", "squeeze", "spaces-squeezed"] = "keep"
    meta_space: bool = False
    specials: bool = False
    lookup: Literal["codepoint", "byte"] = "codepoint"
    fallback: Literal["bytes", "unk", "drop"] = "bytes"
    byte_offset: int = 3
    byte_text: Literal["literal", "raw"] = "literal"
    merge: Literal["best-left", "best-right", "first", "lowest", "none"] = "best-left"
    floor: float = -1e10
    max_merges: int | None = None
    longest_match: bool = False


HONEST = EncodeRules()

KNOWN_WRONG: tuple[tuple[str, str, EncodeRules], ...] = (
    ("no-bos", "BOS is missing", EncodeRules(bos=False)),
    ("eos-appended", "EOS is appended to the prompt", EncodeRules(eos=True)),
    ("no-dummy-prefix", "no space is put before the text", EncodeRules(dummy_prefix="never")),
    (
        "dummy-prefix-on-empty",
        "a space is put before an empty text too",
        EncodeRules(dummy_prefix="always"),
    ),
    (
        "dummy-prefix-unless-space",
        "no space is put before a text that begins with one",
        EncodeRules(dummy_prefix="unless-space"),
    ),
    ("trimmed", "white space at the ends of the text is dropped", EncodeRules(spaces="trim")),
    ("squeezed", "runs of spaces become one space, those at the ends none", EncodeRules(spaces="squeeze")),
    ("meta-space", "a literal U+2581 is taken for a space", EncodeRules(meta_space=True)),
    ("specials-parsed", "<s>, </s> and <unk> in the text become control tokens", EncodeRules(specials=True)),
    ("byte-lookup", "bytes instead of code points are looked up", EncodeRules(lookup="byte")),
    (
        "raw-byte-pieces",
        "byte pieces are the bytes themselves and are preferred to the pieces of one character, as in 2023",
        EncodeRules(byte_text="raw", lookup="byte"),
    ),
    ("no-byte-offset", "byte pieces are looked for at id 0 instead of 3", EncodeRules(byte_offset=0)),
    ("unk-for-unknown", "a character that is no piece becomes <unk>", EncodeRules(fallback="unk")),
    ("unknown-dropped", "a character that is no piece is dropped", EncodeRules(fallback="drop")),
    ("no-merges", "nothing is merged", EncodeRules(merge="none")),
    ("one-merge", "merging stops after the first pair", EncodeRules(max_merges=1)),
    ("leftmost-first", "the leftmost pair that is a piece is merged first", EncodeRules(merge="first")),
    ("ties-right", "among equal scores the rightmost pair is merged first", EncodeRules(merge="best-right")),
    ("lowest-score", "the pair of the lowest score is merged first", EncodeRules(merge="lowest")),
    ("longest-match", "the longest piece is taken, from left to right", EncodeRules(longest_match=True)),
    ("floor-1e9", "the search for the best score starts at -1e9 instead of -1e10", EncodeRules(floor=-1e9)),
    ("floor-100", "the search for the best score starts at -100", EncodeRules(floor=-100.0)),
    ("floor-0", "the search for the best score starts at 0", EncodeRules(floor=0.0)),
)


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """Pieces by id with what encoding needs to find them; equal pieces are found under the lowest id.

    Attributes:
        hidden: ids that no text becomes, however it is spelled.
        whole: pieces that are found in the text first, the longest at each place, and merge with nothing.
        merges: what pairs of ids become, with the score of that; None: what their joined text is.
        pairs: remembers for two neighbouring ids what they merge to, -1 for nothing.
    """

    pieces: Sequence[bytes]
    scores: Sequence[float]
    bos_id: int
    eos_id: int
    hidden: frozenset[int] = frozenset()
    whole: Mapping[bytes, int] = field(default_factory=dict)
    merges: Mapping[tuple[int, int], tuple[float, int]] | None = None
    ids: dict[bytes, int] = field(init=False)
    longest_bytes: int = field(init=False)
    pairs: dict[tuple[int, int], int] = field(init=False, default_factory=dict)
    whole_pattern: re.Pattern[bytes] | None = field(init=False)

    def __post_init__(self) -> None:
        ids = {piece: id_ for id_, piece in reversed(list(enumerate(self.pieces))) if id_ not in self.hidden}
        by_length = sorted(self.whole, key=len, reverse=True)
        pattern = re.compile(b"(" + b"|".join(map(re.escape, by_length)) + b")") if by_length else None
        object.__setattr__(self, "whole_pattern", pattern)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "longest_bytes", max(map(len, self.pieces), default=0))


# Bounds `Vocabulary.pairs`: 2**18 entries take about 40 MB.
_MAX_PAIRS = 1 << 18


def encode(text: bytes, vocabulary: Vocabulary, *, bos: bool, eos: bool, rules: EncodeRules = HONEST) -> list[int]:
    """Turn a text, UTF-8 or not, into ids.

    Bytes that are no UTF-8 are grouped as llama2.c groups them: a byte and the continuation bytes
    (0b10xxxxxx) after it, at most four together.

    Raises:
        TokenizerError: a byte or the dummy prefix has no piece in this vocabulary, or the text contains a
            NUL, which a C string cannot carry.
    """
    if 0 in text:
        raise TokenizerError("the text contains a NUL byte", where=f"byte {text.index(0)}")
    if rules.spaces == "spaces-squeezed":
        text = re.sub(b" +", SPACE, text.lstrip(SPACE))
    elif rules.spaces != "keep":
        text = text.strip()
        if rules.spaces == "squeeze":
            text = re.sub(b" +", SPACE, text)
    if rules.meta_space:
        text = text.replace(_META_SPACE, SPACE)
    if rules.spaces == "spaces-squeezed":
        text = text.rstrip(SPACE)  # only here does a U+2581 count, as in SentencePiece
    ids = [vocabulary.bos_id] if (bos if rules.bos is None else rules.bos) else []
    has_prefix = {
        "nonempty": bool(text),
        "never": False,
        "always": True,
        "unless-space": bool(text) and not text.startswith(SPACE),
    }[rules.dummy_prefix]
    if rules.longest_match:
        ids += _longest_matches(SPACE * has_prefix + text, vocabulary, rules)
    else:
        if has_prefix:
            ids += _prefix(vocabulary, rules)
        parts = vocabulary.whole_pattern.split(text) if vocabulary.whole_pattern else [text]
        done: list[int] = []
        for index, part in enumerate(parts):
            if index % 2:
                done += [*_merged(ids, vocabulary, rules), vocabulary.whole[part]]
                ids = []
            else:
                ids += _initial(part, vocabulary, rules)
        ids = done + _merged(ids, vocabulary, rules)
    if eos if rules.eos is None else rules.eos:
        ids.append(vocabulary.eos_id)
    return ids


# --- text to first ids ---


def _prefix(vocabulary: Vocabulary, rules: EncodeRules) -> list[int]:
    if rules.byte_text == "raw":
        return _fallback(SPACE, vocabulary, rules)
    if SPACE not in vocabulary.ids:
        raise TokenizerError("the vocabulary has no piece for a lone space, so a text cannot be encoded")
    return [vocabulary.ids[SPACE]]


def _initial(text: bytes, vocabulary: Vocabulary, rules: EncodeRules) -> list[int]:
    ids: list[int] = []
    find = vocabulary.ids.get
    parts = re.split(b"(<s>|</s>|<unk>)", text) if rules.specials else [text]
    specials = {b"<s>": vocabulary.bos_id, b"</s>": vocabulary.eos_id, b"<unk>": UNK_ID}
    for index, part in enumerate(parts):
        if index % 2:
            ids.append(specials[part])
            continue
        for unit in _units(part, rules.lookup):
            id_ = None if rules.byte_text == "raw" and len(unit) == 1 else find(unit)
            if id_ is None:
                ids += _fallback(unit, vocabulary, rules)
            else:
                ids.append(id_)
    return ids


# One byte of any kind and its continuation bytes, four bytes at most: llama2.c's scanner as a pattern.
_CODEPOINT = re.compile(rb"[\x00-\xff][\x80-\xbf]{0,3}", re.DOTALL)


def _units(text: bytes, lookup: str) -> Iterator[bytes]:
    if lookup == "byte":
        return (text[i : i + 1] for i in range(len(text)))
    return (match.group() for match in _CODEPOINT.finditer(text))


def _fallback(unit: bytes, vocabulary: Vocabulary, rules: EncodeRules) -> list[int]:
    if rules.fallback == "unk":
        return [UNK_ID]
    if rules.fallback == "drop":
        return []
    ids = [byte + rules.byte_offset for byte in unit]
    if max(ids) >= len(vocabulary.pieces):
        raise TokenizerError(
            f"no piece for {unit!r}, and its byte pieces are outside the vocabulary",
            expected=f"ids below {len(vocabulary.pieces)}",
            actual=max(ids),
        )
    return ids


def _longest_matches(text: bytes, vocabulary: Vocabulary, rules: EncodeRules) -> list[int]:
    ids: list[int] = []
    find = vocabulary.ids.get
    start = 0
    while start < len(text):
        for length in range(min(vocabulary.longest_bytes, len(text) - start), 0, -1):
            id_ = find(text[start : start + length])
            if id_ is not None:
                ids.append(id_)
                break
        else:
            unit = next(_units(text[start : start + 4], rules.lookup))
            length = len(unit)
            ids += _fallback(unit, vocabulary, rules)
        start += length
    return ids


# --- merging ---


def _merged(ids: list[int], vocabulary: Vocabulary, rules: EncodeRules) -> list[int]:
    if rules.merge == "none":
        return ids
    if vocabulary.merges is not None:
        table = vocabulary.merges
        return merge(ids, lambda left, right: table.get((left, right)), PRIORITIES[rules.merge], rules.max_merges)
    pieces, find, scores = vocabulary.pieces, vocabulary.ids.get, vocabulary.scores
    floor = rules.floor if rules.merge in ("best-left", "best-right") else -math.inf
    texts = pieces
    if rules.byte_text == "raw":
        first = rules.byte_offset
        texts = list(pieces)
        texts[first : first + 256] = [bytes((byte,)) for byte in range(256)][: len(texts) - first]
    pairs = vocabulary.pairs if rules.byte_text == "literal" else {}
    if len(pairs) > _MAX_PAIRS:
        pairs.clear()

    def join(left: int, right: int) -> tuple[float, int] | None:
        merged = pairs.get((left, right))
        if merged is None:
            merged = pairs[left, right] = find(texts[left] + texts[right], -1)
        return (scores[merged], merged) if merged >= 0 and scores[merged] > floor else None

    return merge(ids, join, PRIORITIES[rules.merge], rules.max_merges)
