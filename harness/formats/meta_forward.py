"""Logits by the names and conventions of Meta's code, to hold a conversion against (see `hf_forward`).

Neighbours are rotated as complex numbers, and the feed-forward is w2(silu(w1 x) * w3 x). It shares no table of names
with `meta` and `llama2c_pt`. float64, one layer's weights at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.formats.hf_forward import attend, rotation, silu

__all__ = ["logits"]

Array = NDArray[np.float64]


def logits(weight: Callable[[str], NDArray[Any]], params: dict[str, Any], ids: Sequence[int], *, head: str) -> Array:
    """Feed ids to a model; return (n_tokens, vocab_size).

    Args:
        weight: name in the file -> its floats.
        params: n_layers, n_heads, norm_eps; and rope_theta, use_scaled_rope, rope_scaling_factor where there are any.
        head: name of the classifier's matrix.
    """

    def times(x: Array, name: str) -> Array:
        y: Array = x @ np.asarray(weight(f"{name}.weight"), np.float64).T
        return y

    def norm(x: Array, name: str) -> Array:
        y: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + params["norm_eps"]) * weight(f"{name}.weight")
        return y

    x = np.asarray(weight("tok_embeddings.weight")[list(ids)], np.float64)
    n, dim = x.shape
    head_dim = dim // params["n_heads"]
    turn = _turn(params, head_dim, n)
    for layer in range(params["n_layers"]):
        at = f"layers.{layer}"
        h = norm(x, f"{at}.attention_norm")
        q, k, v = (times(h, f"{at}.attention.{name}").reshape(n, -1, head_dim) for name in ("wq", "wk", "wv"))
        mixed = attend(_turned(q, turn), _turned(k, turn), v, None).reshape(n, -1)
        x = x + times(mixed, f"{at}.attention.wo")
        h = norm(x, f"{at}.ffn_norm")
        x = x + times(
            silu(times(h, f"{at}.feed_forward.w1")) * times(h, f"{at}.feed_forward.w3"), f"{at}.feed_forward.w2"
        )
    return times(norm(x, "norm"), head.removesuffix(".weight"))


def _turn(params: dict[str, Any], head_dim: int, n: int) -> NDArray[np.complex128]:
    document: dict[str, Any] = {"rope_theta": params.get("rope_theta") or 10000.0}
    if params.get("use_scaled_rope"):
        document["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": params.get("rope_scaling_factor") or 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    cos, sin = rotation(document, head_dim, n)
    return (cos + 1j * sin)[:, None]


def _turned(x: Array, turn: NDArray[np.complex128]) -> Array:
    y: Array = (np.ascontiguousarray(x).view(np.complex128) * turn).view(np.float64)
    return y
