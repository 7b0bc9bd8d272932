"""Tokenizer: text to token ids and back, exactly as llama2.c's programs do it.

Pieces are bytes, never text: a character may be split over several byte pieces. The rules of encoding are in
`bpe`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.errors import TokenizerError
from harness.tokenizer.bpe import HONEST, EncodeRules, Vocabulary, encode

__all__ = ["Tokenizer"]

# The closing bracket is not looked at, as in llama2.c.
_BYTE_PIECE = re.compile(rb"<0x([0-9A-Fa-f]{1,2})")
# What C's isprint and isspace accept in the "C" locale.
_PRINTABLE = frozenset(bytes(range(0x20, 0x7F)) + b"\t\n\v\f\r")


_NOTHING = -1  # stands before a sequence that has no BOS; no token's id


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A vocabulary by id.

    Attributes:
        pieces: the texts. The byte pieces, at ids 3 to 258 if there are any, are spelled <0x00> to <0xFF>
            whatever the file's spelling.
        scores: (vocab_size,) float32; a higher score merges earlier.
        bos_id, eos_id: begin and end of a sequence.
        layout: the file layout it was read from (see `tokenizer_bin`), or its format.
        rules: how it encodes where nothing else is asked for; llama2.c's, unless its file says otherwise.
        hidden: ids that no text becomes: control pieces, unknown and byte pieces. llama2.c's files do not say
            which, and its programs would find such a piece, if merging could ever spell it.
        whole: ids of pieces that are found in a text before anything is merged, and merge with nothing.
        merges: (left id, right id) -> (score, id), for vocabularies whose merges are listed; None: two pieces
            become the piece that their joined text is.
    """

    pieces: tuple[bytes, ...]
    scores: NDArray[np.float32]
    bos_id: int = 1
    eos_id: int = 2
    layout: str = "today"
    rules: EncodeRules = HONEST
    hidden: frozenset[int] = frozenset()
    whole: tuple[int, ...] = ()
    merges: Mapping[tuple[int, int], tuple[float, int]] | None = None

    def __post_init__(self) -> None:
        if self.scores.shape != (len(self.pieces),):
            raise ValueError(f"{len(self.pieces)} pieces but scores of shape {self.scores.shape}")

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text: llama2.c's programs stop at BOS."""
        return frozenset({self.bos_id})

    @cached_property
    def max_token_length(self) -> int:
        """The longest piece, in bytes."""
        return max(map(len, self.pieces), default=0)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        whole = {self.pieces[id_]: id_ for id_ in self.whole}
        return Vocabulary(
            self.pieces, self.scores.tolist(), self.bos_id, self.eos_id, self.hidden, whole, self.merges
        )

    @cached_property
    def _spoken(self) -> tuple[bytes, ...]:
        return tuple(map(_spoken, self.pieces))

    def encode(
        self, text: str | bytes, *, bos: bool = True, eos: bool = False, rules: EncodeRules | None = None
    ) -> list[int]:
        """Encode a text, or bytes that need not be UTF-8.

        Args:
            rules: how; None: as this tokenizer does.

        Raises:
            TokenizerError: the vocabulary cannot express the text, or the text has a NUL or a lone surrogate.
        """
        if isinstance(text, str):
            try:
                text = text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise TokenizerError(
                    "the text contains a lone surrogate",
                    where=f"character {error.start}",
                    hint="pass bytes if it is not Unicode",
                ) from error
        return encode(text, self._vocabulary, bos=bos, eos=eos, rules=rules or self.rules)

    def is_byte_piece(self, id_: int) -> int | None:
        """Return the byte that a piece stands for, if it is written as one (<0xHH>)."""
        match = _BYTE_PIECE.match(self._piece(id_))
        return int(match[1], 16) if match else None

    def decode_piece(self, previous: int, token: int) -> bytes:
        """Return what a token adds to the text after `previous`: one leading space goes directly after BOS.

        A piece with a NUL ends there, as C strings do; the byte piece <0x00> adds nothing.
        """
        if previous == self.bos_id and self._piece(token).startswith(b" "):
            return _spoken(self._piece(token)[1:])
        self._piece(token)
        return self._spoken[token]

    def decode(self, ids: Sequence[int]) -> bytes:
        """Decode a sequence.

        A leading BOS adds nothing itself and takes one space off its successor. A sequence without BOS is
        taken as the middle of a text: every piece counts in full.
        """
        return b"".join(self.decode_piece(before, id_) for before, id_ in self._steps(ids))

    def printed(self, previous: int, token: int) -> bytes:
        """Return what llama2.c writes for a token; a lone byte only if printable ASCII or white space."""
        piece = self.decode_piece(previous, token)
        return b"" if len(piece) == 1 and piece[0] not in _PRINTABLE else piece

    def print_text(self, ids: Sequence[int]) -> bytes:
        """Return what llama2.c's `generate` shows for ids[1:], without its final newline.

        ids[0] is the token fed first, which is never shown. A later BOS ends the output.
        """
        shown = bytearray()
        for before, token in pairwise(ids):
            if token == self.bos_id:
                break
            shown += self.printed(before, token)
        return bytes(shown)

    def _steps(self, ids: Sequence[int]) -> Iterable[tuple[int, int]]:
        if len(ids) and ids[0] == self.bos_id:
            return pairwise(ids)
        return zip((_NOTHING, *ids), ids, strict=False)

    def _piece(self, id_: int) -> bytes:
        if not 0 <= id_ < len(self.pieces):
            raise TokenizerError(
                "token id outside the vocabulary", expected=f"0 to {len(self.pieces) - 1}", actual=id_
            )
        return self.pieces[id_]


def _spoken(piece: bytes) -> bytes:
    """Return what a piece's text says: a byte piece its byte, as a C string (so byte 0 says nothing)."""
    match = _BYTE_PIECE.match(piece)
    return (bytes((int(match[1], 16),)) if match else piece).partition(b"\0")[0]
