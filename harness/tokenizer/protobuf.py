"""Protocol Buffers' wire format, as much of it as SentencePiece's models need: fields by number, nothing of schemas.

A message is a sequence of fields, each a key and a value. The key is a varint, number << 3 | kind:

    kind 0   varint: 7 bits a byte, lowest first, the top bit says that more follow; at most 10 bytes. A negative int
             is its 64-bit two's complement
    kind 1   8 bytes
    kind 2   varint length, so many bytes: a string, or a message
    kind 5   4 bytes, little-endian: a float

A message that occurs more than once under one number is the concatenation of its occurrences.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["Field", "bytes_field", "fields", "float_field", "int_field", "signed"]

_MAX_FIELD = (1 << 29) - 1

# (number, value): an int for kind 0, bytes for the others.
Field = tuple[int, int | bytes]


def fields(message: bytes) -> Iterator[Field]:
    """Yield a message's fields, in their order.

    Raises:
        ValueError: it is cut short, or not of this format; says at which byte.
    """
    at, end = 0, len(message)
    while at < end:
        start = at
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if not 1 <= number <= _MAX_FIELD:
            raise ValueError(f"field number {number} at byte {start:,} is out of range")
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field {number} at byte {start:,} is of kind {kind}, which is not used")
        if length > end - at:
            raise ValueError(f"field {number} at byte {start:,} needs {length:,} bytes, {end - at:,} are left")
        yield number, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError(f"a number at byte {at:,} is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
    raise ValueError(f"a number before byte {at:,} is longer than 10 bytes")


def signed(value: int) -> int:
    """Read a varint as the signed number that it may be.

    >>> signed((1 << 64) - 1), signed(7)
    (-1, 7)
    """
    return value - (1 << 64) if value >> 63 else value


def int_field(number: int, value: int) -> bytes:
    """Write an integer or a truth value.

    >>> int_field(3, 300).hex()
    '18ac02'
    """
    return _to_varint(number << 3) + _to_varint(value & ((1 << 64) - 1))


def float_field(number: int, value: float) -> bytes:
    return _to_varint(number << 3 | 5) + struct.pack("<f", value)


def bytes_field(number: int, value: bytes) -> bytes:
    """Write a string or a message.

    >>> bytes_field(1, b"ab").hex()
    '0a026162'
    """
    return _to_varint(number << 3 | 2) + _to_varint(len(value)) + value


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
