"""Llama 3's tokenizer file: one line for each piece, its bytes in base64, a space, its rank; blank lines are skipped.

    IQ== 0
    Ig== 1

Ranks are 0, 1, 2, ..., and are the ids; every single byte is a piece. The special pieces are not in the file: they
have the ids behind it, 256 of them, by a list that is published with the model. Their ids are the same in all
versions of Llama 3, their names are not: 3.1 gave some of the reserved ones a name.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence
from pathlib import Path

from harness.errors import TokenizerError
from harness.tokenizer import files
from harness.tokenizer.byte_level import LLAMA3, ByteLevelTokenizer

__all__ = ["LLAMA3_SPECIAL", "LLAMA31_SPECIAL", "dump", "parse", "read", "sniff", "write"]

_N_SPECIAL = 256
_NAMED = ("begin_of_text", "end_of_text", None, None, None, None, "start_header_id", "end_header_id", None, "eot_id")
_NAMED_31 = (
    *("begin_of_text", "end_of_text", None, None, "finetune_right_pad_id", None),
    *("start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"),
)


def _special(named: Sequence[str | None]) -> tuple[str, ...]:
    """Name 256 special pieces; those without a name of their own are reserved, and numbered."""
    names = []
    n_reserved = 0
    for place in range(_N_SPECIAL):
        name = named[place] if place < len(named) else None
        if name is None:
            name = f"reserved_special_token_{n_reserved}"
            n_reserved += 1
        names.append(f"<|{name}|>")
    return tuple(names)


LLAMA3_SPECIAL = _special(_NAMED)
LLAMA31_SPECIAL = _special(_NAMED_31)

_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,9})")
_MAX_PIECES = 1 << 20
_MAX_PIECE_BYTES = 4096


def sniff(head: bytes) -> bool:
    """Whether a file that begins with these bytes may be such a list."""
    return _LINE.fullmatch(head.partition(b"\n")[0].rstrip(b"\r")) is not None


def read(path: str | os.PathLike[str], special: Sequence[str] = LLAMA31_SPECIAL) -> ByteLevelTokenizer:
    """Read a list of ranks.

    Args:
        special: the names of the pieces behind it, in their order.

    Raises:
        TokenizerError: a line is damaged, a rank or a piece is missing or there twice.
    """
    return parse(files.content(Path(path)), Path(path), special)


def parse(content: bytes, path: Path, special: Sequence[str] = LLAMA31_SPECIAL) -> ByteLevelTokenizer:
    """Read a list of ranks from bytes; `path` is for messages. Raises as `read`."""
    pieces: dict[int, bytes] = {}
    ids: dict[bytes, int] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        line = line.strip()
        if not line:
            continue
        match = _LINE.fullmatch(line)
        try:
            piece = base64.b64decode(match[1], validate=True) if match else b""
        except binascii.Error:
            piece = b""
        if match is None or not 1 <= len(piece) <= _MAX_PIECE_BYTES:
            raise TokenizerError(
                "not a line of ranks",
                path=path,
                where=f"line {number}",
                expected=f"1 to {_MAX_PIECE_BYTES} bytes in base64, a space and a number",
                actual=line[:60],
            )
        rank = int(match[2])
        if rank in pieces or piece in ids:
            raise TokenizerError(f"the rank {rank} or its piece is there twice", path=path, where=f"line {number}")
        pieces[rank] = piece
        ids[piece] = rank
    n = len(pieces)
    if not 256 <= n <= _MAX_PIECES or max(pieces) != n - 1:
        raise TokenizerError(
            "the ranks are not one run from 0",
            path=path,
            expected=f"256 to {_MAX_PIECES:,} of them",
            actual=f"{n:,}, the highest {max(pieces, default=0):,}",
        )
    if missing := [byte for byte in range(256) if bytes((byte,)) not in ids]:
        raise TokenizerError(f"there is no piece for the byte 0x{missing[0]:02X}", path=path)
    all_pieces = (*(pieces[rank] for rank in range(n)), *(name.encode() for name in special))
    at = {name: n + place for place, name in enumerate(special)}
    stops = ("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>")
    return ByteLevelTokenizer(
        all_pieces,
        frozenset(at.values()),
        (LLAMA3,),
        bos_id=at.get("<|begin_of_text|>", -1),
        eos_id=at.get("<|end_of_text|>", -1),
        stop_ids=frozenset(at[name] for name in stops if name in at),
        cuts_long_texts=True,
    )


def write(tokenizer: ByteLevelTokenizer, path: str | os.PathLike[str]) -> None:
    """Write the ranks of a tokenizer whose pieces merge by rank; its special pieces are not in the file.

    Raises:
        TokenizerError: its merges are a list, its special pieces are not its last, or the file cannot be written.
    """
    files.write(Path(path), [dump(tokenizer, Path(path))])


def dump(tokenizer: ByteLevelTokenizer, path: Path | None = None) -> bytes:
    """Return the bytes of the list; `path` is for messages. Raises as `write`."""
    n = tokenizer.vocab_size - len(tokenizer.special)
    behind = frozenset(range(n, tokenizer.vocab_size))
    if tokenizer.merges is not None or tokenizer.whole or tokenizer.special != behind:
        raise TokenizerError(
            "a list of ranks cannot say how this tokenizer merges, or where its special pieces are", path=path
        )
    lines = (base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(tokenizer.pieces[:n]))
    return b"".join(lines)
