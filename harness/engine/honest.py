"""Honest programs: other ways to compute the same function, whose spread is the noise that every judge allows for.

An ensemble stands for all orders of sums that ports have: library products, plain sums from left to right, and inputs
moved by one unit in the last place. `harness.judging.floor` says what is made of it. Beside it stand programs of a
lower precision, which are honest where that precision is what they declare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from harness.engine.model import Engine
from harness.engine.ops import LIBRARY, STRICT, Array, Lookup, Ops, Step, Weight, embed
from harness.model_config import ModelConfig
from harness.quant import QuantTensor, quantize_weights

__all__ = ["ensemble", "moved_embedding", "rounded", "turned_angles"]

_ULP = float(np.finfo(np.float32).eps)


def ensemble(config: ModelConfig, tensors: Mapping[str, Weight], *, is_int8: bool) -> list[Engine]:
    """Honest programs of the model's own arithmetic, in other orders of sums and with inputs moved by an ulp."""
    second = Engine(config, tensors, dtype=np.float64) if is_int8 else Engine(config, tensors, ops=STRICT)
    moved = [Engine(config, tensors, ops=replace(LIBRARY, embed=moved_embedding(seed))) for seed in (1, 2)]
    return [Engine(config, tensors), second, *moved]


def moved_embedding(seed: int) -> Callable[[Step, Weight, Array], Array]:
    """An embedding whose values are each moved up or down by one unit in the last place."""

    def moved(step: Step, table: Weight, ids: Array) -> Array:
        x = embed(step, table, ids)
        signs = np.random.default_rng(seed).choice([-_ULP, _ULP], size=x.shape).astype(x.dtype)
        out: Array = x + x * signs
        return out

    return moved


def turned_angles(unit: float) -> Callable[[Step], tuple[Array, Array]]:
    """Angles whose frequencies are off by so much, relatively, which the position multiplies.

    Compilers may make an exponential of a rounded logarithm out of a power, and are honest all the same.
    """

    def angles(step: Step) -> tuple[Array, Array]:
        return LIBRARY.angles(Step(step.config, step.layer, step.pos * (1 + unit), step.dtype, {}))

    return angles


def rounded(precision: str, *, group_size: int) -> list[Ops]:
    """Simulate a declared precision on a float32 model: weights only, then weights and activations.

    Args:
        precision: "f16", "bf16" or "q8".
        group_size: of int8 quantisation; must divide the rows.
    """
    if precision == "q8":

        def quantised(config: ModelConfig, layer: int, name: str, lookup: Lookup) -> Weight:
            found = lookup(layer, name)
            if isinstance(found, QuantTensor) or found.ndim == 1 or not np.isfinite(found).all():
                return found
            return quantize_weights(np.asarray(found, np.float32), group_size)

        def dequantised(config: ModelConfig, layer: int, name: str, lookup: Lookup) -> Weight:
            found = quantised(config, layer, name, lookup)
            return found.dequantize() if isinstance(found, QuantTensor) else found

        return [replace(LIBRARY, weight=dequantised), replace(LIBRARY, weight=quantised)]
    cast = {"f16": _to_f16, "bf16": _to_bf16}[precision]

    def weights(config: ModelConfig, layer: int, name: str, lookup: Lookup) -> Weight:
        found = lookup(layer, name)
        return found if isinstance(found, QuantTensor) else cast(np.asarray(found, np.float32))

    def product(step: Step, name: str, x: Array, w: Weight) -> Array:
        assert not isinstance(w, QuantTensor)
        return cast(cast(x) @ w.T)

    def kept(step: Step, rows: Array) -> Array:
        return cast(rows)

    return [
        replace(LIBRARY, weight=weights),
        replace(LIBRARY, weight=weights, cached_k=kept, cached_v=kept),
        replace(LIBRARY, weight=weights, matmul=product, cached_k=kept, cached_v=kept),
    ]


def _to_f16(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def _to_bf16(x: Array) -> Array:
    """Round float32 to bfloat16 (nearest, ties to even), kept in float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    with np.errstate(over="ignore"):
        up = bits + (0x7FFF + ((bits >> 16) & 1))
    return (up & np.uint32(0xFFFF0000)).view(np.float32)
