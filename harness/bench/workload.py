"""What is run to be measured: models of the published shapes, and token sequences.

Speed does not depend on the values of weights, so where the real ones are not at hand a synthetic model of exactly
the shape runs at the same speed; whatever is reported of it says that it is synthetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import InputError
from harness.model_config import ModelConfig

__all__ = ["SHAPES", "shape_of", "synthetic_tensors", "token_sequences"]

# Shapes of the TinyStories models of llama2.c, as in their published checkpoints.
SHAPES: Mapping[str, ModelConfig] = {
    "260K": ModelConfig(64, 172, 5, 8, 4, 512, 512),
    "15M": ModelConfig(288, 768, 6, 6, 6, 32000, 256),
    "42M": ModelConfig(512, 1376, 8, 8, 8, 32000, 1024),
    "110M": ModelConfig(768, 2048, 12, 12, 12, 32000, 1024),
}


def shape_of(name: str) -> ModelConfig:
    """Return the dimensions that a model name stands for.

    Raises:
        InputError: the name is not known.
    """
    try:
        return SHAPES[name]
    except KeyError:
        raise InputError(f"no model shape {name!r}", expected=", ".join(SHAPES)) from None


def synthetic_tensors(config: ModelConfig, *, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Make float32 weights of a shape, by canonical name, with activations that stay of order one."""
    rng = np.random.default_rng(seed)

    def matrix(n_out: int, n_in: int) -> npt.NDArray[Any]:
        return rng.standard_normal((n_out, n_in), np.float32) * np.float32(n_in**-0.5)

    tensors: dict[str, npt.NDArray[Any]] = {"tok_embedding": matrix(config.vocab_size, config.dim)}
    for layer in range(config.n_layers):
        shapes = {
            "wq": (config.dim, config.dim),
            "wk": (config.kv_dim, config.dim),
            "wv": (config.kv_dim, config.dim),
            "wo": (config.dim, config.dim),
            "w_gate": (config.hidden_dim, config.dim),
            "w_up": (config.hidden_dim, config.dim),
            "w_down": (config.dim, config.hidden_dim),
        }
        for name, (n_out, n_in) in shapes.items():
            tensors[f"layers.{layer}.{name}"] = matrix(n_out, n_in)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"layers.{layer}.{name}"] = np.ones(config.dim, np.float32)
    tensors["final_norm"] = np.ones(config.dim, np.float32)
    if not config.is_tied:
        tensors["lm_head"] = matrix(config.vocab_size, config.dim)
    return tensors


def token_sequences(config: ModelConfig, n_sequences: int, length: int, *, seed: int = 0) -> list[list[int]]:
    """Make sequences of `length` ids, each begun by BOS."""
    rng = np.random.default_rng(seed)
    return [[1, *rng.integers(3, config.vocab_size, length - 1).tolist()] for _ in range(n_sequences)]
