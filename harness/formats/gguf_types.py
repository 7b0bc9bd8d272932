"""ggml's ways of storing numbers: what one takes, how it is read, and how those that we write are made.

Plain ones (F32, F16, BF16) store each value for itself. The others store blocks of 32 or 256 consecutive values of a
row as small integers with a scale `d` (float16), some with an offset too. Byte layouts of a block, in order; `d * q`
and the like are float32:

    Q4_0   32   f16 d; 16 bytes: low nibbles are values 0-15, high ones 16-31             d * (q - 8)
    Q4_1   32   f16 d, m; 16 bytes as above                                               d * q + m
    Q5_0   32   f16 d; uint32 of the values' fifth bits; 16 bytes as above                d * (q - 16)
    Q5_1   32   f16 d, m; the same                                                        d * q + m
    Q8_0   32   f16 d; 32 int8                                                            d * q
    Q2_K  256   16 bytes: scale (low nibble) and minimum (high) of each 16 values;
                64 bytes of 2-bit values; f16 d, dmin                                     d * s * q - dmin * m
    Q3_K  256   32 bytes of third bits; 64 bytes of 2-bit values; 12 bytes of sixteen
                6-bit scales; f16 d                                                       d * (s - 32) * (q - 4)
    Q4_K  256   f16 d, dmin; 12 bytes of eight 6-bit scales and minima; 128 bytes of
                nibbles                                                                   d * s * q - dmin * m
    Q5_K  256   f16 d, dmin; 12 bytes as above; 32 bytes of fifth bits; 128 of nibbles    d * s * q - dmin * m
    Q6_K  256   128 bytes of low nibbles; 64 bytes of 2-bit tops; 16 int8 scales; f16 d   d * s * (q - 32)

2-bit values lie in halves of 128: byte i of a half's 32 holds values i, i + 32, i + 64, i + 96, from its lowest bits.
Nibbles of Q4_K and Q5_K lie in quarters of 64: byte i of 32 holds values i and i + 32.

Rounding of what is written. F16 and BF16: as `numbers.narrow`. Q8_0: d = max |x| / 127, q = x / d with halves away
from zero. Q4_0: d = the value of largest magnitude, with its sign, over -8; q = x / d + 8.5 cut off, at most 15, so
that a value of the other sign may be off by a whole d. d is used in float32 and stored in float16. See `error_bound`.
Values that are int8 codes already, with a scale for whole blocks, keep their codes: `pack_q8_0`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.formats import numbers

__all__ = [
    "BF16",
    "BY_CODE",
    "F16",
    "F32",
    "Q4_0",
    "Q8_0",
    "Encoding",
    "dequantize",
    "encode",
    "error_bound",
    "pack_q8_0",
]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way of storing numbers.

    Attributes:
        name: as ggml spells it.
        code: its number in a file.
        block: values that are stored together; a row is a whole number of blocks.
        block_bytes: what they take.
        word: as `Source.dtype` says it: "float32", "float16", "bfloat16", or the name in lower case.
    """

    name: str
    code: int
    block: int
    block_bytes: int
    word: str

    def n_bytes(self, n_values: int) -> int:
        return n_values // self.block * self.block_bytes


F32 = Encoding("F32", 0, 1, 4, "float32")
F16 = Encoding("F16", 1, 1, 2, "float16")
BF16 = Encoding("BF16", 30, 1, 2, "bfloat16")
F64 = Encoding("F64", 28, 1, 8, "float64")
Q4_0 = Encoding("Q4_0", 2, 32, 18, "q4_0")
Q8_0 = Encoding("Q8_0", 8, 32, 34, "q8_0")

BY_CODE = {
    one.code: one
    for one in (
        *(F32, F16, BF16, F64, Q4_0, Q8_0),
        Encoding("Q4_1", 3, 32, 20, "q4_1"),
        Encoding("Q5_0", 6, 32, 22, "q5_0"),
        Encoding("Q5_1", 7, 32, 24, "q5_1"),
        Encoding("Q2_K", 10, 256, 84, "q2_k"),
        Encoding("Q3_K", 11, 256, 110, "q3_k"),
        Encoding("Q4_K", 12, 256, 144, "q4_k"),
        Encoding("Q5_K", 13, 256, 176, "q5_k"),
        Encoding("Q6_K", 14, 256, 210, "q6_k"),
    )
}


# ---- reading -------------------------------------------------------------------------------------

# Values made at a time: bounds what lies between a block's bytes and its floats.
_CHUNK_VALUES = 1 << 20


def dequantize(raw: Bytes, encoding: Encoding, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a tensor from its bytes: F32, F16 and F64 as a view of them, anything else as new float32.

    Args:
        raw: (n_bytes,) contiguous.
        shape: outermost axis first.
    """
    if encoding.block == 1:
        return numbers.widen(raw.view(numbers.storage_type(encoding.word)), encoding.word).reshape(shape)
    blocks = raw.reshape(-1, encoding.block_bytes)
    out = np.empty((len(blocks), encoding.block), np.float32)
    step = max(1, _CHUNK_VALUES // encoding.block)
    decode = _DECODERS[encoding.name]
    with np.errstate(over="ignore", invalid="ignore"):  # a hostile scale may be infinite or NaN
        for start in range(0, len(blocks), step):
            out[start : start + step] = decode(blocks[start : start + step])
    return out.reshape(shape)


def _half(blocks: Bytes, at: int) -> Floats:
    """(n, 1): the float16 at this byte of each block."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(quants: Bytes) -> Bytes:
    """(n, 32): all low nibbles, then all high ones, of 16 bytes."""
    return np.concatenate([quants & 15, quants >> 4], axis=1)


def _fifths(blocks: Bytes, at: int) -> Bytes:
    """(n, 32): 16 where the bit of the uint32 at this byte is set."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << np.uint8(4)


def _q4_0(b: Bytes) -> Floats:
    return _half(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b: Bytes) -> Floats:
    return _half(b, 0) * _nibbles(b[:, 4:]).astype(np.float32) + _half(b, 2)


def _q5_0(b: Bytes) -> Floats:
    return _half(b, 0) * ((_nibbles(b[:, 6:]) | _fifths(b, 2)).astype(np.float32) - 16)


def _q5_1(b: Bytes) -> Floats:
    return _half(b, 0) * (_nibbles(b[:, 8:]) | _fifths(b, 4)).astype(np.float32) + _half(b, 2)


def _q8_0(b: Bytes) -> Floats:
    return _half(b, 0) * b[:, 2:].view(np.int8).astype(np.float32)


def _pairs_of_bits(quants: Bytes) -> Bytes:
    """(n, 256): 2-bit values of 64 bytes, in their order."""
    halves = quants.reshape(-1, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return ((halves >> shifts) & np.uint8(3)).reshape(-1, 256)


def _q2_k(b: Bytes) -> Floats:
    scales = b[:, :16]
    d, dmin = _half(b, 80), _half(b, 82)
    scale, minimum = (d * (scales & 15))[..., None], (dmin * (scales >> 4))[..., None]
    quants = _pairs_of_bits(b[:, 16:80]).reshape(-1, 16, 16).astype(np.float32)
    out: Floats = (scale * quants - minimum).reshape(-1, 256)
    return out


def _q3_k(b: Bytes) -> Floats:
    packed = b[:, 96:108]
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    high = ((packed[:, None, 8:] >> shifts) & 3).reshape(-1, 16)
    scale = _half(b, 108) * ((low | (high << 4)).astype(np.float32) - 32)
    # Bit k of byte i is the third bit of value 32 k + i; a bit that is not set takes 4 away.
    thirds = np.unpackbits(b[:, :32], axis=1, bitorder="little").reshape(-1, 32, 8).swapaxes(1, 2).reshape(-1, 256)
    quants = _pairs_of_bits(b[:, 32:96]).astype(np.float32) - 4 * (1 - thirds.astype(np.float32))
    out: Floats = (scale[..., None] * quants.reshape(-1, 16, 16)).reshape(-1, 256)
    return out


def _six_bits(packed: Bytes) -> tuple[Floats, Floats]:
    """(n, 8) twice: scales and minima from 12 bytes.

    The first four of each have a byte of their own, whose top two bits are the tops of the last four's; the low
    nibbles of those share the last four bytes.
    """
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _by_quarters(quants: Bytes) -> Bytes:
    """(n, 8, 32): nibbles of 128 bytes, in their order."""
    quarters = quants.reshape(-1, 4, 1, 32)
    return np.concatenate([quarters & 15, quarters >> 4], axis=2).reshape(-1, 8, 32)


def _q4_k(b: Bytes) -> Floats:
    scales, minima = _six_bits(b[:, 4:16])
    scale, minimum = (_half(b, 0) * scales)[..., None], (_half(b, 2) * minima)[..., None]
    out: Floats = (scale * _by_quarters(b[:, 16:]).astype(np.float32) - minimum).reshape(-1, 256)
    return out


def _q5_k(b: Bytes) -> Floats:
    scales, minima = _six_bits(b[:, 4:16])
    scale, minimum = (_half(b, 0) * scales)[..., None], (_half(b, 2) * minima)[..., None]
    fifths = np.unpackbits(b[:, 16:48], axis=1, bitorder="little").reshape(-1, 32, 8).swapaxes(1, 2)
    quants = _by_quarters(b[:, 48:]) | (fifths << 4)
    out: Floats = (scale * quants.astype(np.float32) - minimum).reshape(-1, 256)
    return out


def _q6_k(b: Bytes) -> Floats:
    # In each half of 128: bytes 0-31 of the nibbles have values 0-31 low and 64-95 high, bytes 32-63 the others.
    nibbles = b[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([nibbles & 15, nibbles >> 4], axis=2).reshape(-1, 256)
    quants = (low | (_pairs_of_bits(b[:, 128:192]) << 4)).astype(np.float32) - 32
    scale = _half(b, 208) * b[:, 192:208].view(np.int8).astype(np.float32)
    out: Floats = (scale[..., None] * quants.reshape(-1, 16, 16)).reshape(-1, 256)
    return out


_DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}


# ---- writing -------------------------------------------------------------------------------------


def encode(values: NDArray[Any], encoding: Encoding) -> Bytes:
    """Return the stored bytes of an array of whole rows.

    Raises:
        ValueError: a value cannot be stored: beyond the type's range, or not finite where there is a scale.
    """
    if encoding.block == 1:
        stored = np.ascontiguousarray(numbers.narrow(values, encoding.word))
        return stored.reshape(-1).view(np.uint8)
    blocks = np.ascontiguousarray(values, "<f4").reshape(-1, 32)
    if not np.isfinite(blocks).all():
        raise ValueError("only finite weights can be quantised")
    with np.errstate(over="ignore", invalid="ignore"):  # the inverse of a subnormal scale may be infinite
        return (_to_q8_0 if encoding is Q8_0 else _to_q4_0)(blocks)


def pack_q8_0(codes: NDArray[np.int8], scales: Floats) -> Bytes:
    """Return Q8_0's bytes of codes that are there already: nothing is rounded but the scales, to float16.

    Args:
        codes: (n_groups, group_size), a multiple of 32 values to a group.
        scales: (n_groups,)

    Raises:
        ValueError: a scale is beyond float16's range.
    """
    with np.errstate(over="ignore"):
        stored = _stored_scale(np.repeat(scales, codes.shape[1] // Q8_0.block)[:, None])
    return np.concatenate([stored, codes.reshape(-1, Q8_0.block).view(np.uint8)], axis=1).reshape(-1)


def _stored_scale(d: Floats) -> Bytes:
    half = d.astype("<f2")
    if np.isinf(half).any():
        raise ValueError(f"a scale of {np.abs(d).max():g} is beyond float16's range, 65,504")
    return half.view(np.uint8).reshape(-1, 2)


def _inverse(d: Floats) -> Floats:
    """(n, 1): 1 / d, and 0 where d is 0."""
    return np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)


def _to_q8_0(blocks: Floats) -> Bytes:
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    x = blocks * _inverse(d)
    whole = np.trunc(x)
    whole += np.copysign(np.abs(x - whole) >= np.float32(0.5), x)
    codes = np.clip(np.nan_to_num(whole), -127, 127).astype(np.int8)
    return np.concatenate([_stored_scale(d), codes.view(np.uint8)], axis=1).reshape(-1)


def _to_q4_0(blocks: Floats) -> Bytes:
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-8)
    codes = np.clip(np.nan_to_num(blocks * _inverse(d) + np.float32(8.5)), 0, 15).astype(np.uint8)
    packed = codes[:, :16] | (codes[:, 16:] << 4)
    return np.concatenate([_stored_scale(d), packed], axis=1).reshape(-1)


def error_bound(values: Floats, encoding: Encoding) -> NDArray[np.float64]:
    """Bound |value - what is read back|, of the shape of `values`, rows of whole blocks.

    F16 and BF16: half a unit in the last place (2**-11 and 2**-8 of the value, or half the smallest subnormal). Q8_0:
    half a step, and 127 times what the step loses as a float16. Q4_0: a whole step on the side opposite to the
    largest value, and 8 times that loss. A step's own roundings are below 2**-16 of it.
    """
    x = np.abs(values.astype(np.float64))
    if encoding is F32:
        return np.zeros_like(x)
    if encoding is F16:
        return np.maximum(x * 2.0**-11, 2.0**-25)
    if encoding is BF16:
        return np.maximum(x * 2.0**-8, 2.0**-134)
    steps, share = (127, 0.5) if encoding is Q8_0 else (8, 1.0)
    d = x.reshape(-1, 32).max(axis=1, keepdims=True) / steps
    lost = np.maximum(d * 2.0**-11, 2.0**-25) * steps
    bound = d * (share + 2.0**-16) + lost + 2.0**-140
    return np.broadcast_to(bound, (len(bound), 32)).reshape(values.shape)
