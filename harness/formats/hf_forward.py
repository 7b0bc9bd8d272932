"""Logits by Hugging Face's own names and conventions, to hold a conversion against.

A converter that exchanges two tensors, or forgets to permute, agrees with itself: what it reads back is what it
wrote. This forward pass shares neither the table of names nor the permutation with `huggingface`. It follows the
published model code: rotation of halves, the activation on `gate_proj`, one norm for both branches of Phi. float64,
a whole sequence at once, one layer's weights at a time; for a prompt of some tokens, not for speed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.formats.stored import Stored

__all__ = ["attend", "logits", "rotation", "silu"]

Array = NDArray[np.float64]


def logits(document: Mapping[str, Any], tensors: Mapping[str, Stored], ids: Sequence[int]) -> Array:
    """Feed ids to the model that config.json and its tensors describe; return (n_tokens, vocab_size)."""

    def weight(name: str) -> Array:
        return np.asarray(tensors[name].values(), np.float64)

    def linear(x: Array, name: str) -> Array:
        y: Array = x @ weight(f"{name}.weight").T
        return y + weight(f"{name}.bias") if f"{name}.bias" in tensors else y

    def norm(x: Array, name: str) -> Array:
        if f"{name}.bias" in tensors:
            x = x - x.mean(-1, keepdims=True)
        scaled: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight(f"{name}.weight")
        return scaled + weight(f"{name}.bias") if f"{name}.bias" in tensors else scaled

    eps = document.get("rms_norm_eps", document.get("layer_norm_eps"))
    n_heads = document["num_attention_heads"]
    head_dim = document.get("head_dim") or document["hidden_size"] // n_heads
    window = document.get("sliding_window") if document.get("model_type") == "mistral" else None
    cos, sin = rotation(document, head_dim, len(ids))
    activation = _gelu if "gelu" in document.get("hidden_act", "silu") else silu

    table = tensors["model.embed_tokens.weight"]
    x = np.asarray(Stored(table.bits[list(ids)], table.dtype).values(), np.float64)
    for layer in range(document["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        h = norm(x, f"{at}.input_layernorm")
        q, k, v = (linear(h, f"{at}.self_attn.{name}_proj").reshape(len(ids), -1, head_dim) for name in "qkv")
        if f"{at}.self_attn.q_norm.weight" in tensors:
            q, k = norm(q, f"{at}.self_attn.q_norm"), norm(k, f"{at}.self_attn.k_norm")
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        mixed = attend(q, k, v, window).reshape(len(ids), -1)
        if f"{at}.mlp.fc1.weight" in tensors:
            fed = linear(activation(linear(h, f"{at}.mlp.fc1")), f"{at}.mlp.fc2")
            x = x + linear(mixed, f"{at}.self_attn.dense") + fed
        else:
            x = x + linear(mixed, f"{at}.self_attn.o_proj")
            h = norm(x, f"{at}.post_attention_layernorm")
            gated = activation(linear(h, f"{at}.mlp.gate_proj")) * linear(h, f"{at}.mlp.up_proj")
            x = x + linear(gated, f"{at}.mlp.down_proj")
    last = "model.norm" if "model.norm.weight" in tensors else "model.final_layernorm"
    head = "lm_head" if not document.get("tie_word_embeddings") else "model.embed_tokens"
    return linear(norm(x, last), head)


def rotation(document: Mapping[str, Any], head_dim: int, n: int) -> tuple[Array, Array]:
    """Return cosines and sines (n, rotary / 2) by the rotary parameters of config.json."""
    rope = document.get("rope_parameters") or document.get("rope_scaling") or {}
    theta = rope.get("rope_theta", document.get("rope_theta", 10000.0))
    default = 0.5 if document.get("model_type") == "phi" else 1.0
    partial = rope.get("partial_rotary_factor", document.get("partial_rotary_factor", default))
    rotary = int(head_dim * partial)
    frequency = theta ** -(np.arange(0, rotary, 2) / rotary)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        frequency = frequency / rope["factor"]
    elif kind == "llama3":
        wavelength = 2 * math.pi / frequency
        low, high, context = (
            rope["low_freq_factor"],
            rope["high_freq_factor"],
            rope["original_max_position_embeddings"],
        )
        smooth = np.clip((context / wavelength - low) / (high - low), 0, 1)
        frequency = (1 - smooth) * frequency / rope["factor"] + smooth * frequency
    angle = np.arange(n)[:, None] * frequency
    return np.cos(angle), np.sin(angle)


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    half = cos.shape[1]
    cos, sin = cos[:, None], sin[:, None]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def attend(q: Array, k: Array, v: Array, window: int | None) -> Array:
    """Mix values causally: q (n, n_heads, head_dim); k, v (n, n_kv_heads, head_dim)."""
    n, n_heads, head_dim = q.shape
    shared = n_heads // k.shape[1]
    k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(head_dim)
    distance = np.arange(n)[:, None] - np.arange(n)
    seen = (distance >= 0) & (distance < (window or n))
    scores = np.where(seen, scores, -np.inf)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    mixed: Array = np.einsum("hqk,khd->qhd", share, v)
    return mixed


def silu(x: Array) -> Array:
    """Return x times its logistic."""
    y: Array = x / (1 + np.exp(-x))
    return y


def _gelu(x: Array) -> Array:
    y: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return y
