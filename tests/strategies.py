"""Hypothesis strategies for the project's values: small, and shaped to bite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from harness.checkpoint import Checkpoint, expected_shapes
from harness.model_config import PHI_2, Block, ModelConfig, RopeScaling
from harness.quant import quantize_weights
from harness.tokenizer import Tokenizer

__all__ = ["checkpoints", "configs", "family_checkpoints", "quantised", "texts", "tokenizers"]

BYTE_PIECES = tuple(b"<0x%02X>" % byte for byte in range(256))
SPECIALS = (b"<unk>", b"\n<s>\n", b"\n</s>\n")


@st.composite
def configs(draw: st.DrawFn, *, is_tied: bool | None = None) -> ModelConfig:
    """Dimensions with grouped heads more often than not, and few powers of 2."""
    n_kv_heads = draw(st.integers(1, 3))
    n_heads = n_kv_heads * draw(st.sampled_from([2, 3, 1]))
    return ModelConfig(
        dim=n_heads * draw(st.sampled_from([2, 6, 4, 10])),
        hidden_dim=draw(st.integers(1, 23)),
        n_layers=draw(st.integers(1, 3)),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        vocab_size=draw(st.integers(2, 37)),
        seq_len=draw(st.integers(1, 11)),
        is_tied=draw(st.booleans()) if is_tied is None else is_tied,
    )


@st.composite
def checkpoints(draw: st.DrawFn, *, is_tied: bool | None = None) -> Checkpoint:
    """Random float32 weights; every scale from subnormal to huge, zeros of both signs among them."""
    return _with_weights(draw, draw(configs(is_tied=is_tied)))


@st.composite
def family_checkpoints(draw: st.DrawFn) -> Checkpoint:
    """Random float32 weights of every architecture: plain ones, and each of the family's choices."""
    config = draw(configs())
    head_dim = config.head_dim
    kind = draw(st.sampled_from(["plain", "constants", "llama3", "linear", "mistral", "qwen2", "qwen3", "phi"]))
    if kind != "plain":
        config = replace(config, norm_eps=draw(st.sampled_from([1e-5, 1e-6])), rope_theta=500000.0)
    if kind == "llama3":
        config = replace(config, rope_scaling=RopeScaling("llama3", draw(st.sampled_from([8.0, 32.0]))))
    elif kind == "linear":
        config = replace(config, rope_scaling=RopeScaling("linear", 4.0))
    elif kind == "mistral":
        config = replace(config, block=Block(window=draw(st.integers(1, 9))))
    elif kind == "qwen2":
        config = replace(config, block=Block(qkv_bias=True))
    elif kind == "qwen3":
        config = replace(config, head_size=head_dim + 2, block=Block(qk_norm=True))
    elif kind == "phi":
        rotary_dim = 2 * draw(st.integers(1, head_dim // 2))
        config = replace(config, is_tied=False, norm_eps=1e-5, block=replace(PHI_2, rotary_dim=rotary_dim))
    return _with_weights(draw, config)


def _with_weights(draw: st.DrawFn, config: ModelConfig) -> Checkpoint:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = np.float32(draw(st.sampled_from([1.0, 0.02, 1e-42, 1e30])))
    tensors = {}
    for name, shape in expected_shapes(config).items():
        values = random.standard_normal(shape).astype(np.float32) * scale
        values[random.random(shape) < 0.05] = -0.0
        tensors[name] = values
    return Checkpoint(config, tensors)


def quantised(checkpoint: Checkpoint, group_size: int) -> Checkpoint:
    """The same checkpoint with every matrix in int8."""
    tensors = {
        name: quantize_weights(tensor, group_size) if isinstance(tensor, np.ndarray) and tensor.ndim == 2 else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    return Checkpoint(checkpoint.config, tensors, "llama2c-v2", group_size)


@st.composite
def tokenizers(draw: st.DrawFn) -> Tokenizer:
    """A vocabulary of bytes, single characters and merges of them, with many equal scores."""
    singles = [character.encode() for character in draw(st.permutations("ab é🦙\n"))]
    pieces = [*SPECIALS, *BYTE_PIECES, *singles]
    for _ in range(draw(st.integers(0, 25))):
        left, right = (draw(st.sampled_from(pieces[259:])) for _ in range(2))
        if left + right not in pieces and len(left + right) <= 12:
            pieces.append(left + right)
    scores = [0.0] * 259 + [draw(st.sampled_from([-1.0, -2.0, -3.0, -0.0, -1e9, 7.5])) for _ in pieces[259:]]
    return Tokenizer(tuple(pieces), np.array(scores, np.float32))


def texts(alphabet: str = "") -> st.SearchStrategy[str]:
    """Texts that a C string can carry: any Unicode but NUL and lone surrogates, or of the alphabet."""
    if alphabet:
        return st.text(st.sampled_from(alphabet), max_size=40)
    return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
