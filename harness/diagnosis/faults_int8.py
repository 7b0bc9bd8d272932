"""Faults of the int8 arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.fault import Change, Fate, Fault, ops
from harness.engine.ops import LIBRARY, STRICT, Step, Weight
from harness.quant import QuantTensor, quantize_activations

__all__ = ["INT8"]

Array = npt.NDArray[Any]
Quantise = Callable[[Array, int], tuple[Array, Array]]
Index = Callable[[Array, Array, int, int], Array]


def _replaced(product: Callable[[str, Array, QuantTensor], Array]) -> Change:
    """Another int8 product; float weights are left alone."""

    def matmul(step: Step, name: str, x: Array, w: Weight) -> Array:
        return product(name, x, w) if isinstance(w, QuantTensor) else LIBRARY.matmul(step, name, x, w)

    return ops(matmul=matmul)


@np.errstate(invalid="ignore", divide="ignore", over="ignore")
def _product(
    x: Array,
    w: QuantTensor,
    *,
    quantise: Quantise = quantize_activations,
    scale_index: Index = lambda row, start, n_in, size: (row * n_in + start) // size,
    summed: Callable[[Array], Array] = lambda sums: sums,
    scales_first: bool = False,
) -> Array:
    """The int8 product with one step replaced; groups are added left to right in float32."""
    n_out, n_in = w.shape
    size = w.group_size
    n_groups = n_in // size
    codes, x_scale = quantise(x, size)
    left = codes[:, : n_groups * size].reshape(len(x), n_groups, size).transpose(1, 0, 2).astype(np.float64)
    right = w.codes[:, : n_groups * size].reshape(n_out, n_groups, size).transpose(1, 2, 0).astype(np.float64)
    sums = summed(left @ right).astype(np.float32)
    starts = np.arange(n_groups) * size
    w_scale = w.scales[scale_index(np.arange(n_out)[None, :], starts[:, None], n_in, size)]
    out = np.zeros((len(x), n_out), np.float32)
    for group in range(n_groups):
        mine = x_scale[:, group, None].astype(np.float32)
        out += sums[group] * (w_scale[group] * mine) if scales_first else sums[group] * w_scale[group] * mine
    return out.astype(x.dtype)


def _wrapped(whole: Array) -> Array:
    """Whole numbers as int8 keeps them; what is not finite becomes 0."""
    return np.where(np.isfinite(whole), whole, 0).astype(np.int64).astype(np.int8)


@np.errstate(invalid="ignore", divide="ignore")
def _quantised(
    x: Array,
    size: int,
    *,
    rounded: Callable[[Array], Array] = lambda q: np.trunc(q + np.copysign(np.float32(0.5), q)),
    largest: Callable[[Array], Array] = lambda groups: np.abs(groups).max(axis=-1),
    over: float = 127,
) -> tuple[Array, Array]:
    """Quantise activations with one step replaced."""
    n_groups = x.shape[-1] // size
    full = x[..., : n_groups * size].astype(np.float32).reshape(*x.shape[:-1], n_groups, size)
    scales = (largest(full) / np.float32(over)).astype(np.float32)
    codes = np.zeros(x.shape, np.int8)
    codes[..., : n_groups * size] = _wrapped(rounded(full / scales[..., None])).reshape(*x.shape[:-1], -1)
    return codes, scales


def _quantising(**steps: Any) -> Change:
    return _replaced(lambda name, x, w: _product(x, w, quantise=lambda rows, size: _quantised(rows, size, **steps)))


def _one_scale(groups: Array) -> Array:
    top = np.abs(groups).max(axis=(-2, -1))
    return np.broadcast_to(top[..., None], groups.shape[:-1])


def _by_reciprocal(x: Array, size: int) -> tuple[Array, Array]:
    n_groups = x.shape[-1] // size
    full = x[..., : n_groups * size].astype(np.float32).reshape(*x.shape[:-1], n_groups, size)
    scales = np.abs(full).max(axis=-1) / np.float32(127)
    quotient = full * (np.float32(1) / scales)[..., None]
    codes = np.zeros(x.shape, np.int8)
    whole = np.trunc(quotient + np.copysign(np.float32(0.5), quotient))
    codes[..., : n_groups * size] = _wrapped(whole).reshape(*x.shape[:-1], -1)
    return codes, scales


def _nan_group(x: Array, size: int) -> tuple[Array, Array]:
    codes, scales = quantize_activations(x, size)
    return codes, np.where(scales == 0, np.float32(np.nan), scales)


def _sixteen_bits(sums: Array) -> Array:
    return sums.astype(np.int64).astype(np.int16)


def _whole_rows(name: str, x: Array, w: QuantTensor) -> Array:
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % w.group_size)))
    codes, scales = quantize_activations(padded, w.group_size)
    values = codes.astype(np.float32) * np.repeat(scales, w.group_size, axis=1)
    out: Array = values[:, : x.shape[1]] @ w.dequantize().T
    return out


def _float_activations(name: str, x: Array, w: QuantTensor) -> Array:
    out: Array = x @ w.dequantize(x.dtype).T
    return out


def _float_classifier(step: Step, name: str, x: Array, w: Weight) -> Array:
    if name == "lm_head" and isinstance(w, QuantTensor):
        return _float_activations(name, x, w)
    return STRICT.matmul(step, name, x, w)


_TIES = "codes that it changes by one are few: halves and what rounds to them, where honest programs differ too"

INT8 = (
    Fault(
        "int8-truncated",
        "int8",
        "another story after some dozens of tokens",
        "x / scale is cut off instead of rounded",
        "round half away from zero",
        _quantising(rounded=np.trunc),
        as_if="x / scale were cut off instead of rounded",
    ),
    Fault(
        "int8-over-128",
        "int8",
        "garbage from the first token on: the largest of each group becomes -128",
        "scale = max / 128",
        "max / 127",
        _quantising(over=128),
        as_if="the scale of quantised activations were max / 128 instead of max / 127",
    ),
    Fault(
        "int8-over-127.5",
        "int8",
        "garbage from the first token on: the largest of each group becomes -128",
        "scale = max / 127.5",
        "max / 127",
        _quantising(over=127.5),
        as_if="the scale of quantised activations were max / 127.5 instead of max / 127",
    ),
    Fault(
        "int8-max-signed",
        "int8",
        "garbage from the first token on: large negative values wrap",
        "the scale is taken from the largest value, not the largest magnitude",
        "max |x|",
        _quantising(largest=lambda groups: groups.max(axis=-1)),
        as_if="the scale of a group came from its largest value, not from its largest magnitude",
    ),
    Fault(
        "int8-one-scale",
        "int8",
        "logits move by some tenths; the text parts late or never",
        "one scale for the whole vector of activations",
        "one for each group",
        _quantising(largest=_one_scale),
        as_if="there were one scale for the whole vector of activations instead of one for each group",
    ),
    Fault(
        "int8-half-to-even",
        "int8",
        "none",
        "halves are rounded to even (rint, numpy, Python)",
        "away from zero, as C's round",
        _quantising(rounded=np.rint),
        Fate.BELOW_NOISE,
        _TIES,
    ),
    Fault(
        "int8-half-up",
        "int8",
        "none",
        "halves are rounded up (Math.round, floor(x + 0.5))",
        "away from zero, as C's round",
        _quantising(rounded=lambda q: np.floor(q + np.float32(0.5))),
        Fate.BELOW_NOISE,
        _TIES,
    ),
    Fault(
        "int8-by-reciprocal",
        "int8",
        "none",
        "activations are multiplied by 127 / max",
        "divide by the scale, if the codes are to be llama2.c's",
        _replaced(lambda name, x, w: _product(x, w, quantise=_by_reciprocal)),
        Fate.BELOW_NOISE,
        _TIES,
    ),
    Fault(
        "int8-scales-multiplied-first",
        "int8",
        "none",
        "sum * (weight scale * activation scale)",
        "(sum * weight scale) * activation scale, if the bits are to be llama2.c's",
        _replaced(lambda name, x, w: _product(x, w, scales_first=True)),
        Fate.BELOW_NOISE,
        "one rounding in another place; flips of codes that it causes are those of honest programs",
    ),
    Fault(
        "int8-scale-ignores-row",
        "int8",
        "garbage from the first token on",
        "the scale of a weight is looked up by its column alone",
        "(row * n + column) / group_size",
        _replaced(lambda name, x, w: _product(x, w, scale_index=lambda row, start, n, size: start // size + 0 * row)),
        as_if="the scale of a weight were looked up by its column alone",
    ),
    Fault(
        "int8-sum-in-16-bits",
        "int8",
        "wrong within some tokens, sooner for larger groups",
        "products are added up in 16 bits, and wrap",
        "use 32 bits",
        _replaced(lambda name, x, w: _product(x, w, summed=_sixteen_bits)),
        as_if="int8 products were added up in 16 bits, and wrapped",
    ),
    Fault(
        "int8-activations-in-float",
        "int8",
        "a better story than llama2.c's; logits move by some hundredths",
        "weights are dequantised, activations are left in float32",
        "quantise activations too",
        _replaced(_float_activations),
        as_if="weights were dequantised, and activations left in float32",
    ),
    Fault(
        "int8-tails-counted",
        "int8",
        "a better story than llama2.c's where hidden_dim is no multiple of the group size",
        "the short group at the end of a row is counted, and every weight has its own scale",
        "llama2.c leaves the tail out, and takes scales by (row * n + column) / group_size",
        _replaced(_whole_rows),
        as_if="the short group at the end of a row counted, and every row had scales of its own",
    ),
    Fault(
        "int8-zero-group",
        "int8",
        "NaN logits, or a trap, where a group of activations is all zeros",
        "0 / 0 is converted to an integer, or multiplied on",
        "a group of zeros has codes 0",
        _replaced(lambda name, x, w: _product(x, w, quantise=_nan_group)),
        as_if="a group of zeros were divided by its scale, 0",
    ),
    Fault(
        "int8-classifier-in-float",
        "int8",
        "logits move by some hundredths",
        "the classifier is the dequantised embedding",
        "it is the int8 one, with activations quantised",
        ops(matmul=_float_classifier),
        Fate.BELOW_NOISE,
        "the last product alone is exact; roundings of all layers before it weigh more",
    ),
)
