"""int8 group quantisation as llama2.c's version 2 files and its `runq` program define it.

A group is `group_size` consecutive values that share one float32 scale, their largest magnitude over 127; a
code is the value over the scale, rounded to an integer. There are two rules, which differ in exact halves
only:

    weights      (exporter)  ties to even; groups run over the flattened tensor, across row ends
    activations  (runq)      ties away from zero; groups run along the last axis, a short tail is left out

All arithmetic is float32, the division a true division. A group of zeros has scale 0 and codes 0.

>>> import numpy as np
>>> halves = np.array([[127.0, 0.5, 1.5, 2.5]], np.float32)
>>> quantize_weights(halves, 4).codes.tolist()
[[127, 0, 2, 2]]
>>> quantize_activations(halves, 4)[0].tolist()
[[127, 1, 2, 3]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["QuantTensor", "error_bound", "quantize_activations", "quantize_weights"]

CODE_MAX = 127
# Values quantised at a time: bounds the float32 temporaries to a few megabytes, whatever the tensor's size.
_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class QuantTensor:
    """A quantised tensor.

    Attributes:
        codes: int8, of the tensor's logical shape.
        scales: (codes.size // group_size,) float32; group g covers the flattened elements from
            g * group_size on.
        group_size: values per scale; divides codes.size, but not necessarily a row.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    group_size: int

    def __post_init__(self) -> None:
        if self.codes.dtype != np.int8 or self.scales.dtype != np.float32:
            raise ValueError(f"need int8 codes and float32 scales, got {self.codes.dtype}, {self.scales.dtype}")
        _check_group_size(self.codes.size, self.group_size)
        if self.scales.shape != (self.codes.size // self.group_size,):
            raise ValueError(
                f"{self.codes.size} codes in groups of {self.group_size} need "
                f"{self.codes.size // self.group_size} scales, got shape {self.scales.shape}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def dequantize(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Return codes times scales, each product rounded to float32 first and only then cast to dtype."""
        values = self.codes.reshape(-1, self.group_size).astype(np.float32)
        values *= self.scales[:, None]
        return values.reshape(self.shape).astype(dtype, copy=False)


def quantize_weights(w: NDArray[Any], group_size: int) -> QuantTensor:
    """Quantise a weight tensor by the exporter's rule: halves to even.

    Args:
        w: any shape, finite; rounded to float32 first.
        group_size: must divide w.size; nothing is padded and no other size is tried.

    Returns:
        Codes in -127..127. Upstream does not clamp; here a code is clamped, which changes something only
        where a group's largest magnitude is below 2**-135, so that its scale, a subnormal, has lost its
        precision.

    Raises:
        ValueError: the group size does not divide the tensor, or a weight is not finite.
    """
    _check_group_size(w.size, group_size)
    flat = w.reshape(-1, group_size)
    codes = np.empty(flat.shape, np.int8)
    scales = np.empty(len(flat), np.float32)
    rows = max(1, _BLOCK_ELEMENTS // group_size)
    for start in range(0, len(flat), rows):
        block = np.asarray(flat[start : start + rows], np.float32)
        scale = np.abs(block).max(axis=1) / np.float32(CODE_MAX)
        if not np.isfinite(scale).all():
            raise ValueError("only finite weights can be quantised")
        quotient = np.divide(block, scale[:, None], out=np.zeros_like(block), where=scale[:, None] > 0)
        codes[start : start + rows] = np.clip(np.rint(quotient), -CODE_MAX, CODE_MAX)
        scales[start : start + rows] = scale
    return QuantTensor(codes.reshape(w.shape), scales, group_size)


def quantize_activations(x: NDArray[Any], group_size: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise activations by runq's rule: halves away from zero, every row (last axis) for itself.

    Args:
        x: (..., n) float32. Values beyond the last full group are not processed: their codes are 0.

    Returns:
        Codes (..., n) int8 and scales (..., n // group_size) float32. What C leaves undefined is as on
        x86-64: NaN does not count for the scale and gives code 0; a quotient beyond int8 (subnormal scales
        only) wraps.
    """
    if group_size < 1:
        raise ValueError(f"group size is {group_size}, must be at least 1")
    n_groups = x.shape[-1] // group_size
    n_full = n_groups * group_size
    codes = np.zeros(x.shape, np.int8)
    full = np.asarray(x[..., :n_full], np.float32).reshape(*x.shape[:-1], n_groups, group_size)
    scales: NDArray[np.float32] = np.fmax.reduce(np.abs(full), axis=-1, initial=np.float32(0))
    scales /= np.float32(CODE_MAX)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = full / scales[..., None]
        whole = np.trunc(quotient)
        # quotient - whole is exact, which floor(|quotient| + 0.5) is not: it takes 0.49999997 to 1.
        whole += np.copysign(np.abs(quotient - whole) >= np.float32(0.5), quotient)
    whole[~np.isfinite(whole)] = 0
    codes[..., :n_full] = whole.astype(np.int32).astype(np.int8).reshape(*x.shape[:-1], n_full)
    return codes, scales


def error_bound(scales: NDArray[np.float32]) -> NDArray[np.float64]:
    """Bound |value - dequantised| for the values of each group, for either rule.

    Half a code, plus the roundings of the scale, the quotient and the product: each at most 2**-24 of a value
    of at most 127 scales, together below 2**-16 scales. Where the scale is subnormal its own rounding, up to
    2**-150, is multiplied by up to 127 codes: 2**-143. (Activations that wrap, see quantize_activations, are
    not covered.)
    """
    return scales.astype(np.float64) * (0.5 + 2.0**-16) + 2.0**-143


def _check_group_size(n_elements: int, group_size: int) -> None:
    if group_size < 1:
        raise ValueError(f"group size is {group_size}, must be at least 1")
    if n_elements % group_size:
        raise ValueError(f"group size {group_size} does not divide {n_elements} elements")
