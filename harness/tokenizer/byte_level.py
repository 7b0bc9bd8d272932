"""Byte-pair encoding on bytes, as Llama 3, Qwen and Phi-2 have it: no byte pieces, no dummy prefix, words apart.

A text is cut into words by a pattern; each word begins as the pieces of its single bytes, of which neighbours are
merged, the pair of the lowest rank first, the leftmost of equals; no piece crosses a word. There are two ways of
saying what merges:

    by ranks    (tiktoken) two pieces become the piece that their joined bytes are; its rank is its id
    by a list   (Hugging Face) pairs in the order of merging; what is not listed does not merge

A word that is a piece as it stands is taken whole where `whole_words` says so. Special pieces (<|begin_of_text|> and
such) are never found in a text, however it is spelled: who wants one puts its id there (see `chat`).

Patterns need properties of characters (\\p{L}, \\p{N}), which Python's own `re` lacks: the package `regex` has them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import ModuleType
from typing import Any

from harness.errors import MissingDependency, TokenizerError
from harness.tokenizer.merging import merge

__all__ = ["GPT2", "LLAMA3", "NONE", "QWEN2", "ByteLevelTokenizer", "byte_of_character", "character_of_byte"]

NONE = -1  # no token's id

# Published constants of their formats.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Llama 3's published encoder cuts texts before it looks for words: after so many characters, and within so long a
# run of only white space or of none.
_LONGEST_TEXT, _LONGEST_RUN = 400_000, 25_000

# Words whose ids are remembered.
_MAX_WORDS = 1 << 16


@dataclass(frozen=True, eq=False)
class ByteLevelTokenizer:
    """A vocabulary by id; what it offers is what `Tokenizer` offers.

    Attributes:
        pieces: bytes by id; of a special piece, its name.
        special: ids of the special pieces.
        splits: patterns, one after another: each cuts what the one before left into its matches and what lies
            between them.
        merges: (left id, right id) -> (score, id), higher scores first; None: by ranks, a piece's rank being its id.
        bos_id, eos_id: NONE where there is none.
        stop_ids: ids that end a text or an answer.
        whole_words: a word that is a piece is not merged from its bytes.
        whole: ids of pieces that are found in a text before it is cut.
        normalization: a form of Unicode that texts are brought into first, such as "NFC"; None: as they are.
        cuts_long_texts: as Llama 3's published encoder does.
        layout: the format it was read from.
    """

    pieces: tuple[bytes, ...]
    special: frozenset[int]
    splits: tuple[str, ...]
    merges: Mapping[tuple[int, int], tuple[float, int]] | None = None
    bos_id: int = NONE
    eos_id: int = NONE
    stop_ids: frozenset[int] = frozenset()
    whole_words: bool = True
    whole: tuple[int, ...] = ()
    normalization: str | None = None
    cuts_long_texts: bool = False
    layout: str = "tiktoken"

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @cached_property
    def max_token_length(self) -> int:
        """The longest piece, in bytes."""
        return max(map(len, self.pieces), default=0)

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        hidden = self.special | set(self.whole)
        return {piece: id_ for id_, piece in reversed(list(enumerate(self.pieces))) if id_ not in hidden}

    @cached_property
    def _byte_ids(self) -> list[int]:
        ids = [self._ids.get(bytes((byte,)), NONE) for byte in range(256)]
        if NONE in ids:
            raise TokenizerError(f"the vocabulary has no piece for the byte 0x{ids.index(NONE):02X}")
        return ids

    @cached_property
    def _patterns(self) -> list[Any]:
        regex = _regex()
        try:
            return [regex.compile(pattern) for pattern in self.splits]
        except regex.error as error:
            raise TokenizerError(f"the pattern that cuts words is not understood: {error}") from error

    @cached_property
    def _whole_pattern(self) -> re.Pattern[str] | None:
        texts = sorted((self.pieces[id_].decode() for id_ in self.whole), key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, texts)) + ")") if texts else None

    @cached_property
    def _words(self) -> dict[str, list[int]]:
        return {}

    def encode(self, text: str | bytes, *, bos: bool = True, eos: bool = False) -> list[int]:
        """Encode a text; BOS is put before it only where the vocabulary has one.

        Raises:
            TokenizerError: the text is no Unicode, or `eos` is asked for and there is none.
            MissingDependency: the package `regex` is not installed.
        """
        text = _checked(text)
        if self.normalization is not None:
            text = unicodedata.normalize(self.normalization, text)  # type: ignore[arg-type]
        ids = [self.bos_id] if bos and self.bos_id != NONE else []
        parts = self._whole_pattern.split(text) if self._whole_pattern else [text]
        for index, part in enumerate(parts):
            if index % 2:
                ids.append(next(id_ for id_ in self.whole if self.pieces[id_] == part.encode()))
                continue
            for stretch in _stretches(part) if self.cuts_long_texts else (part,):
                for word in self.words(stretch):
                    ids += self._word(word)
        if eos:
            if self.eos_id == NONE:
                raise TokenizerError("the vocabulary has no EOS")
            ids.append(self.eos_id)
        return ids

    def words(self, text: str) -> Iterator[str]:
        """Cut a text into words, none of them empty."""
        pieces: Iterable[str] = (text,)
        for pattern in self._patterns:
            pieces = _cut(pieces, pattern)
        return (piece for piece in pieces if piece)

    def decode_piece(self, previous: int, token: int) -> bytes:
        """Return what a token adds to the text; no token depends on the one before."""
        if not 0 <= token < len(self.pieces):
            raise TokenizerError(
                "token id outside the vocabulary", expected=f"0 to {len(self.pieces) - 1}", actual=token
            )
        return self.pieces[token]

    def decode(self, ids: Sequence[int]) -> bytes:
        """Decode a sequence; a leading BOS adds nothing, other special pieces their names."""
        start = 1 if len(ids) and ids[0] == self.bos_id else 0
        return b"".join(self.decode_piece(NONE, id_) for id_ in ids[start:])

    def printed(self, previous: int, token: int) -> bytes:
        """Return what a program writes for a token: its bytes, which may be a part of a character."""
        return self.decode_piece(previous, token)

    def print_text(self, ids: Sequence[int]) -> bytes:
        """Return what a program shows for ids[1:], without a final newline; a stop id ends it and is not shown.

        ids[0] is the token fed first, which is never shown.
        """
        shown = bytearray()
        for before, token in pairwise(ids):
            if token in self.stop_ids:
                break
            shown += self.printed(before, token)
        return bytes(shown)

    def id_of(self, special: str) -> int:
        """Return a special piece's id by its name.

        Raises:
            TokenizerError: there is none of this name.
        """
        for id_ in self.special:
            if self.pieces[id_] == special.encode():
                return id_
        raise TokenizerError(f"the vocabulary has no special piece {special}")

    def _word(self, word: str) -> list[int]:
        known = self._words.get(word)
        if known is None:
            if len(self._words) >= _MAX_WORDS:
                self._words.clear()
            known = self._words[word] = self._merged(word.encode())
        return known

    def _merged(self, word: bytes) -> list[int]:
        if self.whole_words and word in self._ids:
            return [self._ids[word]]
        return merge([self._byte_ids[byte] for byte in word], self.join)

    def join(self, left: int, right: int) -> tuple[float, int] | None:
        """Return the score and the id of what two neighbours become, or None."""
        if self.merges is not None:
            return self.merges.get((left, right))
        id_ = self._ids.get(self.pieces[left] + self.pieces[right])
        return None if id_ is None else (-id_, id_)

    def listed_merges(self) -> list[tuple[int, int]]:
        """Return the merges as a list in the order of merging, made from ranks where there is no list.

        A piece's merge is the last one of its own making: what its bytes become while only pieces of lower rank
        are known. Pieces that no two others make are left out.
        """
        if self.merges is not None:
            return sorted(self.merges, key=lambda pair: -self.merges[pair][0])  # type: ignore[index]
        found = []
        for id_, piece in enumerate(self.pieces):
            if id_ in self.special or id_ in self.whole or len(piece) < 2:
                continue

            def join(left: int, right: int, limit: int = id_) -> tuple[float, int] | None:
                made = self.join(left, right)
                return made if made and made[1] < limit else None

            parts = merge([self._byte_ids[byte] for byte in piece], join)
            if len(parts) == 2:
                found.append((parts[0], parts[1]))
        return found


def _regex() -> ModuleType:
    try:
        import regex
    except ImportError as error:
        raise MissingDependency(
            "the package regex, for the words of a byte-level tokenizer,", install="pip install regex"
        ) from error
    module: ModuleType = regex
    return module


def _checked(text: str | bytes) -> str:
    try:
        if isinstance(text, bytes):
            return text.decode("utf-8")
        text.encode("utf-8")
    except UnicodeError as error:
        raise TokenizerError(
            "a byte-level tokenizer takes only whole Unicode characters",
            where=f"{'byte' if isinstance(text, bytes) else 'character'} {getattr(error, 'start', 0)}",
        ) from error
    return text


def _cut(pieces: Iterable[str], pattern: Any) -> Iterator[str]:
    for piece in pieces:
        at = 0
        for match in pattern.finditer(piece):
            if match.start() > at:
                yield piece[at : match.start()]
            if match.end() > match.start():
                yield match.group()
            at = match.end()
        if at < len(piece):
            yield piece[at:]


def _stretches(text: str) -> Iterator[str]:
    for start in range(0, len(text), _LONGEST_TEXT):
        part = text[start : start + _LONGEST_TEXT]
        begun = run = 0
        is_space = part[:1].isspace()
        for at, character in enumerate(part):
            if character.isspace() != is_space:
                run, is_space = 1, not is_space
                continue
            run += 1
            if run > _LONGEST_RUN:
                yield part[begun:at]
                begun, run = at, 1
        yield part[begun:]


# ---- bytes as characters -------------------------------------------------------------------------
# GPT-2's files spell a byte as a character that can be seen: itself where it is printable Latin-1, else the next of
# U+0100, U+0101, ...

_VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def _alphabet() -> list[str]:
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in _VISIBLE else chr(next(others)) for byte in range(256)]


# Byte -> the character that stands for it.
character_of_byte = _alphabet()
byte_of_character = {character: byte for byte, character in enumerate(character_of_byte)}
