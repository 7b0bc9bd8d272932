"""Numbers that numpy has no type for, and narrowing with a stated rounding.

bfloat16 is the upper half of a float32. Widening is exact. Narrowing rounds to nearest, halves to even, and refuses a
finite value that would become infinite. The largest error of a stored value, against the float32 that it came from:

    float16     2**-11 of the value; 2**-25 where it is below 2**-14
    bfloat16    2**-8 of the value; 2**-134 where it is below 2**-126
    int8        see `harness.quant.error_bound`

>>> import numpy as np
>>> bits = narrow(np.array([1.0, 1.00390625, 1.01171875], np.float32), "bfloat16")  # 1, 1 + 1/256, 1 + 3/256
>>> [hex(one) for one in bits.tolist()], widen(bits, "bfloat16").tolist()
(['0x3f80', '0x3f80', '0x3f82'], [1.0, 1.0, 1.015625])
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BYTES", "blocks", "narrow", "rounded", "shortest", "storage_type", "widen"]

# Stored type -> bytes of an element.
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
# Values narrowed at a time: bounds the temporaries to some megabytes, whatever the tensor's size.
_BLOCK_ELEMENTS = 1 << 20


def storage_type(dtype: str) -> np.dtype[Any]:
    """Return the numpy type that holds the bits: of bfloat16, a uint16."""
    return np.dtype("<u2") if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("<")


def widen(bits: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Turn stored bits into floats: a view, except of bfloat16, which becomes float32."""
    if dtype != "bfloat16":
        return bits
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def narrow(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Turn floats into stored bits, rounding to nearest, halves to even.

    Raises:
        ValueError: a finite value is too large for the type.
    """
    if dtype == "bfloat16":
        bits = _to_bfloat16(np.asarray(values, np.float32))
        became_infinite = ((bits & 0x7FFF) == 0x7F80) & np.isfinite(values)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            bits = np.asarray(values, storage_type(dtype))
        if np.dtype(dtype).itemsize >= values.dtype.itemsize:
            return bits
        became_infinite = np.isinf(bits) & np.isfinite(values)
    if became_infinite.any():
        largest = float(np.abs(values[became_infinite]).max())
        raise ValueError(f"a value of {largest:g} is too large for {dtype}")
    return bits


def _to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> 16) & 1
    with np.errstate(over="ignore"):
        rounded = (bits + (np.uint32(0x7FFF) + odd)) >> 16
    # A NaN stays one: adding could carry its last bits away.
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def rounded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return what is read back when the values are stored as dtype."""
    return widen(narrow(values, dtype), dtype)


def shortest(value: float) -> float:
    """Return the double with the fewest digits that is this float32, for numbers that people write down.

    >>> shortest(float(np.float32(1e-5)))
    1e-05
    """
    return float(str(np.float32(value)))


def blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Cut an array into flat pieces of some megabytes, in order; no copy of a contiguous one is made."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, _BLOCK_ELEMENTS):
        yield flat[start : start + _BLOCK_ELEMENTS]
