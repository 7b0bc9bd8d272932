"""llama2.c's `tokenizer.bin`, in the layouts of its history and of its ports.

Little-endian throughout; pieces in id order up to the end of the file. No layout says how many there are:
programs take vocab_size of them, from the model, and ignore the rest.

    today       uint32 longest piece in bytes; per piece: float32 score, int32 length (1 or more), the bytes
    raw-bytes   the same, but the byte pieces (ids 3 to 258) are not spelled <0x00> to <0xFF>: each is its one
                byte
    raw-utf8    the same, but each byte piece is the code point of that number in UTF-8: two bytes from 0x80
                on. This is what the exporter of mid-2023 wrote
    no-max      as today, without the leading uint32
    no-scores   per piece: int32 length, the bytes; the first layout of all. Byte pieces as in raw-utf8

A layout is recognised by its parse: every piece of the file must fit, up to its last byte. If two layouts do,
the file is ambiguous and refused. Byte pieces that are raw, in any layout, are read as <0xHH>, so that a
Tokenizer is independent of the spelling; `Tokenizer.layout` says how to write the file again.

Without scores the merge order is by id: piece i gets the score -i, and 0 if it is one of the special and byte
pieces (ids 0 to 258), as in files with scores. Exporters number merges in the order of their learning, so
this is the order of the scores that were lost.

Limits: 64 MiB a file, 4096 bytes a piece, 3 (<unk>, BOS and EOS) to 2**20 pieces. A NaN score is refused (llama2.c
accepts it and never merges such a piece; a file that has one is damaged). A leading uint32 smaller than the longest
piece is refused (llama2.c would overrun a buffer); a larger one is accepted and not kept.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.errors import TokenizerError
from harness.tokenizer import files
from harness.tokenizer.bpe import HONEST
from harness.tokenizer.scores import require_scores
from harness.tokenizer.tokenizer import Tokenizer

__all__ = ["LAYOUTS", "count_pieces", "read", "write"]

_MAX_PIECE_BYTES = 4096
_MAX_PIECES = 1 << 20
_MIN_PIECES = 3

_FIRST_BYTE_ID = 3
_FIRST_MERGE_ID = _FIRST_BYTE_ID + 256
_SPELLINGS = {
    "hex": tuple(b"<0x%02X>" % byte for byte in range(256)),
    "byte": tuple(bytes((byte,)) for byte in range(256)),
    "utf8": tuple(chr(byte).encode() for byte in range(256)),
}


@dataclass(frozen=True, slots=True)
class _Layout:
    name: str
    has_longest: bool
    has_scores: bool
    spelling: str


_LAYOUTS = (
    _Layout("today", True, True, "hex"),
    _Layout("raw-bytes", True, True, "byte"),
    _Layout("raw-utf8", True, True, "utf8"),
    _Layout("no-max", False, True, "hex"),
    _Layout("no-scores", False, False, "utf8"),
)
LAYOUTS = tuple(layout.name for layout in _LAYOUTS)
# One per way of parsing; the spelling of byte pieces is seen afterwards.
_CONTAINERS = tuple(layout for layout in _LAYOUTS if layout.name in ("today", "no-max", "no-scores"))


def read(path: str | os.PathLike[str], vocab_size: int | None = None) -> Tokenizer:
    """Read a tokenizer.

    Args:
        vocab_size: take so many pieces, as the model says, and ignore the rest of the file's. Default: all.

    Raises:
        TokenizerError: the file cannot be read, is of no layout or of more than one, or has too few pieces.
    """
    path = Path(path)
    content = files.content(path)
    layout, n_pieces = _recognise(content, path)
    if vocab_size is not None and not 1 <= vocab_size <= n_pieces:
        raise TokenizerError(
            "too few pieces for this model",
            path=path,
            expected=f"at least {vocab_size:,}" if vocab_size > 0 else "a positive vocab_size",
            actual=f"{n_pieces:,}" if vocab_size > 0 else vocab_size,
        )
    pieces: list[bytes] = []
    scores = np.zeros(n_pieces if vocab_size is None else vocab_size, np.float32)
    offset = 4 if layout.has_longest else 0
    for id_ in range(len(scores)):
        if layout.has_scores:
            score, length = struct.unpack_from("<fi", content, offset)
            offset += 8
            if math.isnan(score):
                raise TokenizerError(f"the score of piece {id_} is NaN", path=path, where=f"byte {offset - 8:,}")
            scores[id_] = score
        else:
            length = struct.unpack_from("<i", content, offset)[0]
            offset += 4
            scores[id_] = -id_ if id_ >= _FIRST_MERGE_ID else 0
        pieces.append(content[offset : offset + length])
        offset += length
    name = layout.name
    byte_pieces = tuple(pieces[_FIRST_BYTE_ID:_FIRST_MERGE_ID])
    for raw in _LAYOUTS[1:3]:
        if byte_pieces == _SPELLINGS[raw.spelling]:
            pieces[_FIRST_BYTE_ID:_FIRST_MERGE_ID] = _SPELLINGS["hex"]
            name = raw.name if name == "today" else name
    scores.flags.writeable = False
    return Tokenizer(tuple(pieces), scores, layout=name)


def write(tokenizer: Tokenizer, path: str | os.PathLike[str], layout: str = "today") -> None:
    """Write a tokenizer in one of LAYOUTS; the file appears complete or not at all.

    The layout "no-scores" drops the scores.

    Raises:
        TokenizerError: a piece is empty or too long, a score is NaN, or the file cannot be written.
    """
    path = Path(path)
    chosen = next((one for one in _LAYOUTS if one.name == layout), None)
    if chosen is None:
        raise TokenizerError("no such layout", path=path, expected=" or ".join(LAYOUTS), actual=layout)
    if not _MIN_PIECES <= tokenizer.vocab_size <= _MAX_PIECES:
        raise TokenizerError(
            "vocabulary size out of range",
            path=path,
            expected=f"{_MIN_PIECES} to {_MAX_PIECES:,}",
            actual=tokenizer.vocab_size,
        )
    _check_sayable(tokenizer, path)
    pieces = list(tokenizer.pieces)
    if tuple(pieces[_FIRST_BYTE_ID:_FIRST_MERGE_ID]) == _SPELLINGS["hex"]:
        pieces[_FIRST_BYTE_ID:_FIRST_MERGE_ID] = _SPELLINGS[chosen.spelling]
    parts: list[bytes] = []
    if chosen.has_longest:
        parts.append(struct.pack("<I", max(map(len, pieces))))
    for id_, (piece, score) in enumerate(zip(pieces, tokenizer.scores.tolist(), strict=True)):
        if not 1 <= len(piece) <= _MAX_PIECE_BYTES:
            raise TokenizerError(
                f"piece {id_} cannot be stored",
                path=path,
                expected=f"1 to {_MAX_PIECE_BYTES} bytes",
                actual=len(piece),
            )
        if math.isnan(score):
            raise TokenizerError(f"the score of piece {id_} is NaN", path=path)
        parts.append(struct.pack("<fi", score, len(piece)) if chosen.has_scores else struct.pack("<i", len(piece)))
        parts.append(piece)
    files.write(path, parts)


def _check_sayable(tokenizer: Tokenizer, path: Path) -> None:
    """Refuse what programs that read the file would not do: they have llama2.c's rules, BOS 1 and EOS 2.

    A literal U+2581, which SentencePiece takes for a space and they do not, is left to them.
    """
    require_scores(tokenizer, path)
    fixed = (replace(tokenizer.rules, meta_space=False), tokenizer.bos_id, tokenizer.eos_id, tokenizer.whole)
    for what, actual, wanted in zip(_FIXED, fixed, (HONEST, 1, 2, ()), strict=True):
        if actual != wanted:
            raise TokenizerError(
                f"a tokenizer.bin cannot say {what}", path=path, expected=wanted, actual=str(actual)[:200]
            )


_FIXED = ("how this tokenizer encodes", "where BOS is", "where EOS is", "which pieces are found whole")


def count_pieces(path: str | os.PathLike[str]) -> int:
    """Count the pieces of a file, without keeping any.

    Raises:
        TokenizerError: as `read`.
    """
    path = Path(path)
    return _recognise(files.content(path), path)[1]


# --- reading ---


def _recognise(content: bytes, path: Path) -> tuple[_Layout, int]:
    """Find the one layout that explains every byte, and its number of pieces."""
    if not content:
        raise TokenizerError("the file is empty", path=path)
    fits: list[tuple[_Layout, int]] = []
    faults: list[str] = []
    for layout in _CONTAINERS:
        n_pieces, fault = _scan(content, layout)
        if fault:
            faults.append(f"{layout.name}: {fault}")
        else:
            fits.append((layout, n_pieces))
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = " and as ".join(layout.name for layout, _ in fits)
        raise TokenizerError(f"ambiguous: the file can be read as {names}", path=path)
    raise TokenizerError(
        "not a llama2.c tokenizer, or a damaged one",
        path=path,
        actual="; ".join(faults),
        hint="fetch it again",
    )


def _scan(content: bytes, layout: _Layout) -> tuple[int, str | None]:
    """Walk over the pieces; return how many fit and the first fault."""
    unpack = struct.Struct("<i").unpack_from
    skip = 4 if layout.has_scores else 0
    offset = 4 if layout.has_longest else 0
    end = len(content)
    longest = n_pieces = 0
    while offset < end:
        if offset + skip + 4 > end:
            return n_pieces, f"piece {n_pieces} at byte {offset:,} is cut short"
        (length,) = unpack(content, offset + skip)
        if not 1 <= length <= _MAX_PIECE_BYTES:
            return n_pieces, f"piece {n_pieces} at byte {offset:,} has length {length:,}"
        offset += skip + 4 + length
        if offset > end:
            return n_pieces, f"piece {n_pieces} lacks {offset - end:,} of its {length:,} bytes"
        longest = max(longest, length)
        n_pieces += 1
        if n_pieces > _MAX_PIECES:
            return n_pieces, f"more than {_MAX_PIECES:,} pieces"
    if n_pieces < _MIN_PIECES:
        return n_pieces, f"too few pieces ({n_pieces}) for <unk>, BOS and EOS"
    if layout.has_longest:
        stated = struct.unpack_from("<I", content)[0]
        if stated < longest:
            return n_pieces, f"its header says that pieces have at most {stated} bytes, one has {longest}"
    return n_pieces, None
