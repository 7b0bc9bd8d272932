"""What a program prints for each token: the conventions seen in the wild, as tables from id to bytes.

Ports agree in tokens and differ in print: byte pieces dropped, written raw, or spelt out; the space after BOS kept
or stripped. None of that is right or wrong here. A Printing is one such convention over one vocabulary; it renders
ids, and it answers the question that judging a text needs: which tokens could have printed the bytes that follow?
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

__all__ = ["LLAMA2C", "Printing", "byte_level_printings", "printings"]

LLAMA2C = "as llama2.c"
_WHITE_SPACE = frozenset(b"\t\n\v\f\r ")


@dataclass(frozen=True, eq=False)
class Printing:
    """One convention.

    Attributes:
        name: in plain words; `LLAMA2C` for its own.
        usual: bytes printed for each id.
        after_bos: bytes printed for each id directly after BOS.
        bos_id: the id of BOS.
        ends: ids that end a text; BOS, unless others are given.
    """

    name: str
    usual: Sequence[bytes]
    after_bos: Sequence[bytes]
    bos_id: int = 1
    ends: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", self.ends or frozenset({self.bos_id}))

    def of(self, previous: int, token: int) -> bytes:
        """Return what is printed for a token after another."""
        return (self.after_bos if previous == self.bos_id else self.usual)[token]

    def render(self, ids: Sequence[int]) -> list[bytes]:
        """Return what is printed for each of ids[1:]; an id that ends the sequence prints nothing."""
        shown = [self.of(a, b) for a, b in itertools.pairwise(ids)]
        if shown and ids[-1] in self.ends:
            shown[-1] = b""
        return shown

    def candidates(self, previous: int, remaining: bytes) -> list[int]:
        """Return the ids that could come next: what they print begins `remaining`, or they print nothing."""
        index, longest = self._after_bos_index if previous == self.bos_id else self._usual_index
        found = list(index.get(b"", ()))
        for length in range(1, min(longest, len(remaining)) + 1):
            found.extend(index.get(remaining[:length], ()))
        return found

    @cached_property
    def _usual_index(self) -> tuple[dict[bytes, list[int]], int]:
        return _index(self.usual)

    @cached_property
    def _after_bos_index(self) -> tuple[dict[bytes, list[int]], int]:
        return _index(self.after_bos)


def _index(table: Sequence[bytes]) -> tuple[dict[bytes, list[int]], int]:
    index: dict[bytes, list[int]] = {}
    for token, shown in enumerate(table):
        index.setdefault(shown, []).append(token)
    return index, max(map(len, index), default=0)


def printings(pieces: Sequence[bytes], byte_of: Sequence[int | None], *, bos_id: int = 1) -> list[Printing]:
    """Make every known convention for a vocabulary, llama2.c's first, then the most frequent.

    Args:
        pieces: the bytes of each piece, as the tokenizer file spells them.
        byte_of: the byte that a piece stands for, where it is a byte piece.
    """

    def table(show_byte: Callable[[int, bytes], bytes], *, filters_single: bool = False) -> list[bytes]:
        shown = []
        for piece, byte in zip(pieces, byte_of, strict=True):
            out = piece if byte is None else show_byte(byte, piece)
            if filters_single and len(out) == 1 and not _is_printable(out[0]):
                out = b""
            shown.append(out)
        return shown

    def as_c_string(byte: int, piece: bytes) -> bytes:
        return bytes([byte]) if byte else b""

    shapes: list[tuple[str, list[bytes]]] = [
        (LLAMA2C, table(as_c_string, filters_single=True)),
        ("bytes that are no printable ASCII are written as they are", table(lambda byte, _: bytes([byte]))),
        ("byte pieces are spelt out, as <0x0A>", table(lambda _, piece: piece)),
        ("bytes are written as Latin-1 characters", table(lambda byte, _: chr(byte).encode())),
        ("non-ASCII bytes become U+FFFD", table(lambda byte, _: bytes([byte]) if byte < 128 else b"\xef\xbf\xbd")),
        ("byte pieces are dropped", table(lambda byte, _: b"")),
        ("byte pieces print as a space", table(lambda byte, _: b" ")),
    ]
    found: list[Printing] = []
    for name, usual in shapes:
        stripped = [
            out[1:] if out[:1] == b" " and piece[:1] == b" " else out
            for out, piece in zip(usual, pieces, strict=True)
        ]
        found.append(Printing(name, usual, stripped, bos_id))
        kept = "the space after BOS is printed" if name == LLAMA2C else f"{name}; the space after BOS is printed"
        found.append(Printing(kept, usual, usual, bos_id))
    return found


def byte_level_printings(
    pieces: Sequence[bytes], special: Iterable[int], *, bos_id: int, ends: frozenset[int]
) -> list[Printing]:
    """Make the conventions for a byte-level vocabulary: pieces are bytes, and only the special ones may be left out.

    The first, of which reports say nothing, prints every piece.
    """
    hidden = set(special)
    silent = [b"" if id_ in hidden else piece for id_, piece in enumerate(pieces)]
    return [
        Printing(LLAMA2C, pieces, pieces, bos_id, ends),
        Printing("special pieces are not printed", silent, silent, bos_id, ends),
    ]


def _is_printable(byte: int) -> bool:
    return 0x20 <= byte <= 0x7E or byte in _WHITE_SPACE
