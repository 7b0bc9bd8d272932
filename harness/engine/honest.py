"""Honest programs: other ways to compute the same function, whose spread is the noise that every judge allows for.

An ensemble stands for all orders of sums that ports have: library products, plain sums from left to right, and inputs
moved by one unit in the last place. `harness.judging.floor` says what is made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from harness.engine.model import Engine
from harness.engine.ops import LIBRARY, STRICT, Array, Step, Weight, embed
from harness.model_config import ModelConfig

__all__ = ["ensemble", "moved_embedding"]

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
