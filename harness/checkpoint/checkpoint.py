"""Checkpoint: the weights of one llama under canonical names, whatever file they came from.

A matrix is stored (out, in) and applied as ``x @ w.T``. The names, shapes and their order are those of
`expected_shapes`; nothing else in the project spells out a weight's shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint.tensors import Tensor, is_quantised, shape_and_dtype
from harness.errors import CheckpointError
from harness.model_config import ModelConfig

__all__ = ["NORMS", "Checkpoint", "Tensor", "expected_shapes"]

# How the names end of the vectors that RMSNorm multiplies by; never quantised.
NORMS = ("attn_norm", "ffn_norm", "final_norm")


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Map every tensor's name to its shape, in the order of the forward pass.

    >>> shapes = expected_shapes(ModelConfig(8, 12, 1, 4, 2, 16, 32))
    >>> shapes["layers.0.wk"], shapes["layers.0.w_down"], "lm_head" in shapes
    ((4, 8), (8, 12), False)
    """
    dim, q_dim, kv_dim, hidden_dim = config.dim, config.q_dim, config.kv_dim, config.hidden_dim
    block = config.block
    shapes: dict[str, tuple[int, ...]] = {"tok_embedding": (config.vocab_size, dim)}

    def norm(name: str) -> None:
        shapes[name] = (dim,)
        if block.norm == "layer":
            shapes[f"{name}_bias"] = (dim,)

    def matrix(name: str, n_out: int, n_in: int, *, has_bias: bool) -> None:
        shapes[name] = (n_out, n_in)
        if has_bias:
            shapes[f"{name}_bias"] = (n_out,)

    for layer in range(config.n_layers):
        at = f"layers.{layer}."
        norm(at + "attn_norm")
        for name, width in (("wq", q_dim), ("wk", kv_dim), ("wv", kv_dim)):
            matrix(at + name, width, dim, has_bias=block.qkv_bias)
        if block.qk_norm:
            shapes |= {at + "q_norm": (config.head_dim,), at + "k_norm": (config.head_dim,)}
        matrix(at + "wo", dim, q_dim, has_bias=block.other_bias)
        if not block.is_parallel:
            norm(at + "ffn_norm")
        for name in ("w_gate", "w_up") if block.is_gated else ("w_up",):
            matrix(at + name, hidden_dim, dim, has_bias=block.other_bias)
        matrix(at + "w_down", dim, hidden_dim, has_bias=block.other_bias)
    norm("final_norm")
    if not config.is_tied:
        matrix("lm_head", config.vocab_size, dim, has_bias=block.other_bias)
    elif block.other_bias:
        shapes["lm_head_bias"] = (config.vocab_size,)
    return shapes


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model's dimensions and weights.

    Attributes:
        config: the dimensions.
        tensors: name -> floating-point array or QuantTensor, as `expected_shapes` lists them. Arrays read
            from a file are read-only views of it.
        format: the container it came from: "llama2c-v0", "llama2c-v1", "llama2c-v2".
        group_size: values per scale, if the matrices are quantised.
        path: the file it came from.
        rope_tables: the (seq_len, head_dim // 2) float32 cosines and sines of a llama2c-v0 file. Nobody
            computes with them; they are kept because they cannot be recomputed bit for bit, so that a rewrite
            is exact.
    """

    config: ModelConfig
    tensors: Mapping[str, Tensor]
    format: str = "llama2c-v0"
    group_size: int | None = None
    path: Path | None = None
    rope_tables: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def classifier(self) -> Tensor:
        """The (vocab_size, dim) matrix that turns the final hidden state into logits."""
        return self.tensors["tok_embedding" if self.config.is_tied else "lm_head"]

    def validate(self) -> None:
        """Check that exactly the expected tensors are there, each of its shape and a plausible dtype.

        Raises:
            CheckpointError: naming the first tensor that is missing, superfluous or of the wrong shape or
            dtype.
        """
        shapes = expected_shapes(self.config)
        for name, shape in shapes.items():
            if name not in self.tensors:
                raise CheckpointError(f"tensor {name} is missing", path=self.path)
            actual, dtype = shape_and_dtype(self.tensors, name)
            if actual != shape:
                raise CheckpointError(
                    f"tensor {name} has the wrong shape", path=self.path, expected=shape, actual=actual
                )
            if dtype.startswith(("float", "bfloat")):
                continue
            if not is_quantised(self.tensors, name):
                raise CheckpointError(f"tensor {name} is not of floating point", path=self.path, actual=dtype)
            if name.endswith(NORMS):
                raise CheckpointError(
                    f"tensor {name} is quantised", path=self.path, expected="a float32 norm", actual=dtype
                )
        for name in self.tensors:
            if name not in shapes:
                raise CheckpointError(f"tensor {name} does not belong to this model", path=self.path)
        table = (self.config.seq_len, self.config.head_dim // 2)
        if self.rope_tables and any(one.shape != table for one in self.rope_tables):
            raise CheckpointError(
                "the RoPE tables have the wrong shape",
                path=self.path,
                expected=table,
                actual=self.rope_tables[0].shape,
                hint="without tables (rope_tables=None) a writer computes them",
            )
