"""The C library's float32 functions on arrays: the bits that a C program on this platform gets.

numpy's own float32 functions are more accurate than a C library's and so differ in the last bit. Functions of few
arguments (angles, frequencies) simply call the library one element at a time. `expf` is needed by the million; it is
computed in double and rounded, and the library itself is asked only where the double value lies so near the middle
between two float32 values that the library's error could decide the rounding.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import MissingDependency

__all__ = ["cosf", "expf", "powf", "sinf"]

Float32 = npt.NDArray[np.float32]

# A C library's expf errs by at most about 0.51 units in the last place (glibc documents 0.502, musl shares the code).
# Values whose double result lies within 0.01 to 0.02 units of a rounding boundary are handed to the library; all
# others round the same way in both. tests/engine/test_libm.py compares with the library itself over its whole range.
_NEAR_BOUNDARY = 0.01 * 2.0**-23  # of the value: a unit is 2^-24 to 2^-23 of it
_TINY = float(np.finfo(np.float32).tiny)
_ALWAYS_ZERO = -120.0  # what expf makes of less


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("m")
    for candidate in (name, "libm.so.6", "libm.dylib", "libSystem.dylib"):
        if candidate:
            try:
                return ctypes.CDLL(candidate)
            except OSError:
                continue
    raise MissingDependency("the C library's mathematical functions (libm)", install="a system with libm")


@lru_cache(maxsize=8)
def _function(name: str, n_args: int) -> Callable[..., float]:
    function: Any = getattr(_library(), name)
    function.restype = ctypes.c_float
    function.argtypes = [ctypes.c_float] * n_args
    return function  # type: ignore[no-any-return]


def _each(function: Callable[[float], float], x: Float32) -> Float32:
    values = [function(value) for value in x.ravel().tolist()]
    return np.array(values, np.float32).reshape(x.shape)


def cosf(x: Float32) -> Float32:
    """Return the library's cosf of every element."""
    return _each(_function("cosf", 1), x)


def sinf(x: Float32) -> Float32:
    """Return the library's sinf of every element."""
    return _each(_function("sinf", 1), x)


def powf(base: float, exponent: Float32) -> Float32:
    """Return the library's powf(base, e) for every exponent."""
    power = _function("powf", 2)
    return _each(lambda e: power(base, e), exponent)


def expf(x: Float32) -> Float32:
    """Return the library's expf of every element (any shape)."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exact = np.exp(x, dtype=np.float64)
        rounded = exact.astype(np.float32)
        odd = (exact * (1 - _NEAR_BOUNDARY)).astype(np.float32) != (exact * (1 + _NEAR_BOUNDARY)).astype(np.float32)
        if exact.size and exact.min() < _TINY:  # subnormal results are rare, and go to the library
            odd |= (rounded < _TINY) & (x > _ALWAYS_ZERO)
    where = np.flatnonzero(odd)
    if where.size:
        library = _function("expf", 1)
        flat = rounded.reshape(-1)
        flat[where] = [library(value) for value in x.reshape(-1)[where].tolist()]
    return rounded
