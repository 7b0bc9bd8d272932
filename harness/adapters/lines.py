"""The line protocol's requests and replies as bytes; docs/protocol.md is its specification. Starts nothing.

    NUMBER VERB [WORD]...\\n            a request
    NUMBER ok [WORD]...\\n              its reply: first the parameters in force, then what was asked for
    NUMBER unsupported\\n               the program does not offer that
    NUMBER error TEXT\\n                it does, and could not do it

Words are printable ASCII, separated by one space. Text is hexadecimal, "-" if empty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from harness.line_program import EMPTY, NAME, VERSION, hexed

__all__ = [
    "NAME",
    "VERSION",
    "Malformed",
    "Reply",
    "hexed",
    "number",
    "parse",
    "read_floats",
    "read_hex",
    "read_ids",
    "read_int",
    "request",
    "same_float",
]

_LEAST, _MOST = -(1 << 63), (1 << 64) - 1

_ANY_LINE = re.compile(rb"[\x20-\x7e]*")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2})+")
_INT = re.compile(rb"-?[0-9]{1,20}")
_FLOAT = re.compile(rb"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|-?inf|nan")
_SHOWN = 96
_MOST_DIGITS = 18  # of a request's number, or an id


class Malformed(ValueError):
    """A line, or a word in it, is not what the protocol allows.

    Attributes:
        fault: "malformed", "count", "echo" or "number".
    """

    def __init__(self, what: str, *, fault: str = "malformed") -> None:
        self.fault = fault
        super().__init__(what)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, taken apart.

    Attributes:
        words: what follows the status; of an error, its text as one word.
    """

    number: int
    status: Literal["ok", "unsupported", "error"]
    words: tuple[bytes, ...] = ()


def request(number: int, verb: str, words: Iterable[int | float | bytes] = ()) -> bytes:
    """Write a request: bytes go out as they are, numbers in decimal.

    >>> request(7, "generate", [2, 0.9, hexed(b"a b")])
    b'7 generate 2 0.9 612062\\n'
    """
    return b" ".join([b"%d" % number, verb.encode(), *map(_word, words)]) + b"\n"


def _word(value: int | float | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    return b"%d" % value if isinstance(value, int) else number(float(value))


def number(value: float) -> bytes:
    """Write a float as short as it can be read back, without an exponent if it is a whole number.

    >>> number(0.0), number(0.95), number(1e-8)
    (b'0', b'0.95', b'1e-08')
    """
    return b"%d" % value if value.is_integer() and abs(value) < 1e15 else repr(value).encode()


def parse(line: bytes) -> Reply:
    """Read a reply line, without its newline.

    Raises:
        Malformed: it is none.
    """
    if not _ANY_LINE.fullmatch(line):
        bad = next(i for i, byte in enumerate(line) if not 0x20 <= byte <= 0x7E)
        hint = "; it ends in CR LF, expected LF alone" if line[bad:] == b"\r" else ""
        raise Malformed(f"byte {bad} is 0x{line[bad]:02X}, expected printable ASCII{hint}: {shown(line)}")
    words = line.split(b" ")
    if b"" in words:
        raise Malformed(
            f"words are separated by exactly one space, none before the first or after the last: {shown(line)}"
        )
    if len(words) < 2 or not words[0].isdigit() or len(words[0]) > _MOST_DIGITS:
        raise Malformed(f"expected the request's number and a status, got {shown(line)}")
    n, status, rest = int(words[0]), words[1], words[2:]
    if status == b"ok":
        return Reply(n, "ok", tuple(rest))
    if status == b"unsupported":
        if rest:
            raise Malformed(f"expected nothing after unsupported, got {shown(line)}")
        return Reply(n, "unsupported")
    if status == b"error":
        if not rest:
            raise Malformed(f"expected a text after error, got {shown(line)}")
        return Reply(n, "error", (b" ".join(rest),))
    raise Malformed(f"expected ok, unsupported or error after the number, got {shown(status)}")


def read_int(word: bytes, what: str) -> int:
    """Read a decimal integer.

    Raises:
        Malformed: it is none, or far out of any range.
    """
    if not _INT.fullmatch(word) or not _LEAST <= int(word) <= _MOST:
        raise Malformed(f"{what}: expected a decimal integer, got {shown(word)}")
    return int(word)


def read_ids(words: Sequence[bytes], *, vocab_size: int | None = None) -> list[int]:
    """Read a count and as many token ids.

    Raises:
        Malformed: a word is no id below vocab_size, or the count is wrong (fault "count").
    """
    if not words:
        raise Malformed("expected a count of ids")
    count = read_int(words[0], "count of ids")
    for word in words[1:]:
        if not word.isdigit() or len(word) > _MOST_DIGITS:
            raise Malformed(f"expected token ids, got {shown(word)}")
    ids = list(map(int, words[1:]))
    if count != len(ids):
        raise Malformed(f"it says {count} ids and gives {len(ids)}", fault="count")
    if vocab_size is not None and ids and max(ids) >= vocab_size:
        raise Malformed(f"expected ids below {vocab_size}, got {max(ids)}")
    return ids


def read_hex(word: bytes) -> bytes:
    """Read a text.

    Raises:
        Malformed: it is not an even number of hexadecimal digits, nor "-".
    """
    if word == EMPTY:
        return b""
    if not _HEX.fullmatch(word):
        raise Malformed(f"expected a text in hexadecimal, or -, got {shown(word)}")
    return bytes.fromhex(word.decode())


def read_floats(word: bytes, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Read float32 numbers, each as its four bytes, the lowest first.

    Raises:
        Malformed: it is no hexadecimal, or not as many numbers as the shape has (fault "count").
    """
    need = shape[0] * shape[1] * 8
    if len(word) != need:
        what = f"{shape[0]} x {shape[1]} float32 numbers have {need} hexadecimal digits, got {len(word)}"
        raise Malformed(what, fault="count")
    try:
        raw = bytes.fromhex(word.decode("ascii"))
    except ValueError as error:
        raise Malformed(f"expected hexadecimal digits, got {shown(word)}") from error
    out: npt.NDArray[Any] = np.frombuffer(raw, "<f4").reshape(shape)
    return out.astype(np.float32, copy=False)


def same_float(word: bytes, value: float) -> bool:
    """Whether a word stands for a number that is the same in float32.

    Raises:
        Malformed: it is no number.
    """
    if not _FLOAT.fullmatch(word):
        raise Malformed(f"expected a decimal number, got {shown(word)}")
    with np.errstate(over="ignore"):
        return bool(np.float32(float(word)) == np.float32(value)) or (math.isnan(value) and word == b"nan")


def shown(raw: bytes) -> str:
    """Quote bytes for a message, shortened.

    >>> shown(b"a\\xff")
    '"a\\\\xff"'
    """
    text = raw[:_SHOWN].decode("ascii", "backslashreplace").replace('"', '\\"')
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return f'"{text}"' + (f"... ({len(raw):,} bytes)" if len(raw) > _SHOWN else "")
