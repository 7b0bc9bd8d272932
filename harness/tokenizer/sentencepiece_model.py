"""SentencePiece's `.model` of the BPE kind, read and written without the library.

A message (see `protobuf`) of which these fields are used:

    1    pieces, by id: 1 text, 2 score (float), 3 type: 1 normal (the default), 2 unknown, 3 control,
         4 user-defined, 5 unused, 6 byte
    2    training: 3 kind (2 is BPE), 24 a space ends the word before it, 35 byte fallback, 41 and 42 the ids of BOS
         and EOS (1 and 2)
    3    normaliser: 2 table of replacements (empty for "identity"), 3 a space is put before the text (yes), 4 runs
         of spaces become one and those at the ends none (yes), 5 a space is written as U+2581 (yes)

Pieces are kept as tokenizer.bin has them: a plain space for U+2581, BOS and EOS with a newline on both sides. What
sets such a tokenizer apart from one of llama2.c: a literal U+2581 in a text counts as a space; control, unknown and
byte pieces are never found in a text; user-defined ones are found before anything is merged.

Refused by name: other kinds than BPE, a table of replacements, no byte fallback, unused pieces, user-defined pieces
with a plain space (which the library finds in no text, but protects from its normaliser).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.errors import TokenizerError
from harness.tokenizer import files, protobuf
from harness.tokenizer.bpe import HONEST, EncodeRules
from harness.tokenizer.scores import require_scores
from harness.tokenizer.tokenizer import Tokenizer

__all__ = [
    "BYTE",
    "CONTROL",
    "NORMAL",
    "UNKNOWN",
    "USER_DEFINED",
    "assemble",
    "dump",
    "parse",
    "plain",
    "read",
    "sniff",
    "spelled",
    "types",
    "write",
]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_TYPE_NAMES = {NORMAL: "normal", UNKNOWN: "unknown", CONTROL: "control", USER_DEFINED: "user-defined", BYTE: "byte"}
_KINDS = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}
_META_SPACE = "\u2581".encode()
_BYTE_PIECES = tuple(b"<0x%02X>" % byte for byte in range(256))
_MAX_PIECES = 1 << 20
_MAX_PIECE_BYTES = 4096


def sniff(head: bytes) -> bool:
    """Whether a file that begins with these bytes may be such a model: its first field is a piece with a text."""
    return len(head) > 3 and head[0] == 0x0A and head[2] == 0x0A and head[1] >= 2


def read(path: str | os.PathLike[str]) -> Tokenizer:
    """Read a model.

    Raises:
        TokenizerError: the file is damaged, or a model of a kind that is not supported.
    """
    return parse(files.content(Path(path)), Path(path))


def parse(content: bytes, path: Path) -> Tokenizer:
    """Read a model from bytes; `path` is for messages. Raises as `read`."""
    texts: list[bytes] = []
    all_scores: list[float] = []
    kinds: list[int] = []
    training, normaliser = b"", b""
    try:
        for number, value in protobuf.fields(content):
            if number == 1:
                text, score, kind = _piece(_message(number, value))
                texts.append(text)
                all_scores.append(score)
                kinds.append(kind)
                if len(texts) > _MAX_PIECES:
                    raise ValueError(f"there are more than {_MAX_PIECES:,} pieces")
            elif number == 2:
                training += _message(number, value)
            elif number == 3:
                normaliser += _message(number, value)
        training_fields, normaliser_fields = dict(protobuf.fields(training)), dict(protobuf.fields(normaliser))
    except ValueError as error:
        raise TokenizerError(f"not a SentencePiece model, or a damaged one: {error}", path=path) from error
    for id_, (text, kind) in enumerate(zip(texts, kinds, strict=True)):
        if kind == USER_DEFINED and b" " in text:
            raise TokenizerError(f"piece {id_} is user-defined and has a plain space: not supported", path=path)
    rules, bos_id, eos_id = _settings(training_fields, normaliser_fields, path)
    return assemble(
        texts, all_scores, kinds, bos_id=bos_id, eos_id=eos_id, rules=rules, layout="sentencepiece", path=path
    )


def _message(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"field {number} is a number, not a message")
    return value


def _piece(message: bytes) -> tuple[bytes, float, int]:
    text, score, kind = b"", 0.0, NORMAL
    for number, value in protobuf.fields(message):
        if number == 1 and isinstance(value, bytes):
            text = value
        elif number == 2 and isinstance(value, bytes) and len(value) == 4:
            score = struct.unpack("<f", value)[0]
        elif number == 3 and isinstance(value, int):
            kind = value
    return text, score, kind


def _settings(
    training: Mapping[int, int | bytes], normaliser: Mapping[int, int | bytes], path: Path
) -> tuple[EncodeRules, int, int]:
    def number(of: Mapping[int, int | bytes], field: int, default: int) -> int:
        value = of.get(field, default)
        return protobuf.signed(value) if isinstance(value, int) else default

    kind = number(training, 3, 1)
    if kind != 2:
        raise TokenizerError(
            "the model is of another kind", path=path, expected="BPE", actual=_KINDS.get(kind, f"kind {kind}")
        )
    for fault, is_there in (
        ("replaces characters by a table before it encodes (its normaliser is not 'identity')", normaliser.get(2)),
        ("has no byte fallback", not number(training, 35, 0)),
        ("puts spaces behind words", number(training, 24, 0)),
        ("keeps spaces as they are, instead of U+2581", not number(normaliser, 5, 1)),
    ):
        if is_there:
            raise TokenizerError(f"the model {fault}, which is not supported", path=path)
    rules = replace(
        HONEST,
        meta_space=True,
        dummy_prefix="nonempty" if number(normaliser, 3, 1) else "never",
        spaces="spaces-squeezed" if number(normaliser, 4, 1) else "keep",
    )
    return rules, number(training, 41, 1), number(training, 42, 2)


def assemble(
    texts: list[bytes],
    scores: list[float],
    kinds: list[int],
    *,
    bos_id: int,
    eos_id: int,
    rules: EncodeRules,
    layout: str,
    path: Path,
) -> Tokenizer:
    """Make a Tokenizer of pieces as SentencePiece spells them, checked one by one.

    Raises:
        TokenizerError: naming the first piece that is wrong.
    """
    faults = {"BOS": bos_id, "EOS": eos_id}
    for what, id_ in faults.items():
        if not 0 <= id_ < len(texts):
            raise TokenizerError(f"{what} is no piece", path=path, expected=f"0 to {len(texts) - 1}", actual=id_)
    first: dict[bytes, int] = {}
    pieces: list[bytes] = []
    for id_, (text, score, kind) in enumerate(zip(texts, scores, kinds, strict=True)):
        if kind not in _TYPE_NAMES:
            what = "is unused, which is not supported" if kind == UNUSED else f"is of unknown type {kind}"
            raise TokenizerError(f"piece {id_} {what}", path=path)
        if math.isnan(score):
            raise TokenizerError(f"the score of piece {id_} is NaN", path=path)
        if not 1 <= len(text) <= _MAX_PIECE_BYTES:
            raise TokenizerError(f"piece {id_} has {len(text)} bytes", path=path, expected=f"1 to {_MAX_PIECE_BYTES}")
        piece = plain(text, id_, bos_id, eos_id) if kind != BYTE else text
        if first.setdefault(piece, id_) != id_:
            raise TokenizerError(f"pieces {first[piece]} and {id_} are the same, {piece!r}", path=path)
        pieces.append(piece)
    bytes_at = [id_ for id_, kind in enumerate(kinds) if kind == BYTE]
    byte_offset = bytes_at[0] if bytes_at else 0
    if tuple(pieces[byte_offset : byte_offset + 256]) != _BYTE_PIECES or len(bytes_at) != 256:
        raise TokenizerError(
            "the byte pieces are not one run from <0x00> to <0xFF>",
            path=path,
            expected="256 pieces",
            actual=f"{len(bytes_at)}, the first at id {byte_offset}",
        )
    stored = np.array(scores, np.float32)
    stored.flags.writeable = False
    return Tokenizer(
        tuple(pieces),
        stored,
        bos_id,
        eos_id,
        layout,
        replace(rules, byte_offset=byte_offset),
        frozenset(id_ for id_, kind in enumerate(kinds) if kind in (UNKNOWN, CONTROL, BYTE)),
        tuple(id_ for id_, kind in enumerate(kinds) if kind == USER_DEFINED),
    )


def plain(text: bytes, id_: int, bos_id: int, eos_id: int) -> bytes:
    """Spell a piece as tokenizer.bin does.

    >>> plain("\u2581the".encode(), 278, 1, 2), plain(b"<s>", 1, 1, 2)
    (b' the', b'\\n<s>\\n')
    """
    if id_ in (bos_id, eos_id):
        return b"\n" + text + b"\n"
    return text.replace(_META_SPACE, b" ")


def spelled(tokenizer: Tokenizer, id_: int) -> bytes:
    """Spell a piece as SentencePiece does, the reverse of `plain`."""
    piece = tokenizer.pieces[id_]
    if id_ in (tokenizer.bos_id, tokenizer.eos_id):
        return piece.strip(b"\n")
    return piece.replace(b" ", _META_SPACE)


def types(tokenizer: Tokenizer) -> list[int]:
    """Return each piece's type; of a llama2.c file, which has none, by the ids that its programs know."""
    offset = tokenizer.rules.byte_offset
    kinds = [NORMAL] * tokenizer.vocab_size
    for id_ in tokenizer.hidden:
        kinds[id_] = CONTROL
    for id_ in tokenizer.whole:
        kinds[id_] = USER_DEFINED
    kinds[tokenizer.bos_id] = kinds[tokenizer.eos_id] = CONTROL
    if kinds[0] in (NORMAL, CONTROL) and 0 not in (tokenizer.bos_id, tokenizer.eos_id):
        kinds[0] = UNKNOWN
    if tokenizer.pieces[offset : offset + 256] == _BYTE_PIECES:
        kinds[offset : offset + 256] = [BYTE] * 256
    return kinds


def write(tokenizer: Tokenizer, path: str | os.PathLike[str]) -> None:
    """Write a model that the library reads: BPE with byte fallback and the normaliser "identity".

    Raises:
        TokenizerError: there are no byte pieces, a piece is no UTF-8, or the file cannot be written.
    """
    files.write(Path(path), [dump(tokenizer, Path(path))])


def dump(tokenizer: Tokenizer, path: Path | None = None) -> bytes:
    """Return a model's bytes; `path` is for messages. Raises as `write`."""
    require_scores(tokenizer, path)
    kinds = types(tokenizer)
    if BYTE not in kinds:
        raise TokenizerError("a SentencePiece model needs byte pieces, this vocabulary has none", path=path)
    parts: list[bytes] = []
    for id_, (kind, score) in enumerate(zip(kinds, tokenizer.scores.tolist(), strict=True)):
        text = spelled(tokenizer, id_)
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"piece {id_} is no UTF-8, which SentencePiece needs: {text!r}", path=path
            ) from error
        message = protobuf.bytes_field(1, text) + protobuf.float_field(2, score)
        if kind != NORMAL:
            message += protobuf.int_field(3, kind)
        parts.append(protobuf.bytes_field(1, message))
    training = (
        (3, 2),
        (4, tokenizer.vocab_size),
        (35, 1),
        (40, 0),
        (41, tokenizer.bos_id),
        (42, tokenizer.eos_id),
        (43, -1),
    )
    parts.append(protobuf.bytes_field(2, b"".join(protobuf.int_field(*one) for one in training)))
    rules = tokenizer.rules
    normaliser = protobuf.bytes_field(1, b"identity")
    switches = ((3, rules.dummy_prefix != "never"), (4, rules.spaces == "spaces-squeezed"), (5, True))
    normaliser += b"".join(protobuf.int_field(number, int(is_on)) for number, is_on in switches)
    parts.append(protobuf.bytes_field(3, normaliser))
    return b"".join(parts)
