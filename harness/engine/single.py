"""SinglePass: one token through llama's own block, with every buffer made once.

At the shapes of small models a decoded token costs a few hundred calls of numpy beside its matrix-vector products.
This is the same pass as `Engine.forward` with as few of them as can be: no step, no tap, no view made anew that can
be kept, results written where they are needed. It stands for the operations only where none of them was replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.engine.kv_cache import InPlace
from harness.engine.ops import Array
from harness.model_config import ModelConfig

if TYPE_CHECKING:
    from harness.engine.model import LayerWeights

__all__ = ["SinglePass"]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One block's weights, and its part of the cache, twice: as it is written and as it is read."""

    attn_norm: Array
    wqkv: Array
    wo: Array
    ffn_norm: Array
    w_gate_up: Array
    w_down: Array
    k_rows: Array  # (capacity, G, head_dim), to write
    v_rows: Array
    keys: Array  # (G, head_dim, capacity), to read
    values: Array  # (G, capacity, head_dim), to read


class SinglePass:
    """The forward pass of one token at a time over an in-place cache.

    Args:
        config: of a model with llama's block.
        layers: every block in the order in which they run: its index and its weights, each fused into one matrix.
        final_norm: gain (dim).
        lm_head: (vocab_size, dim).
        turns: rotary angles of all positions as complex numbers, (seq_len, 1, head_dim / 2).
        cache: where keys and values go.
    """

    def __init__(
        self,
        config: ModelConfig,
        layers: list[tuple[int, LayerWeights]],
        final_norm: Array,
        lm_head: Array,
        turns: Callable[[int], Array],
        cache: InPlace,
    ) -> None:
        dtype = lm_head.dtype
        heads, groups, width = config.n_heads, config.n_kv_heads, config.head_dim
        self._cache = cache
        self._layers = [self._layer(index, weights, cache) for index, weights in layers]
        self._final_norm, self._lm_head, self._turns = final_norm, lm_head, turns
        self._dim, self._eps = config.dim, config.norm_eps
        self._scalar = dtype.type
        self._x = np.empty(config.dim, dtype)
        self._h = np.empty(config.dim, dtype)
        self._out = np.empty(config.dim, dtype)
        qkv = np.empty((heads + 2 * groups) * width, dtype)
        self._qkv = qkv
        by_head = qkv.reshape(-1, width)
        self._q = by_head[:heads].reshape(groups, heads // groups, width)
        self._k, self._v = by_head[heads : heads + groups], by_head[heads + groups :]
        pair = np.complex64 if dtype == np.float32 else np.complex128
        self._pairs = by_head[: heads + groups].view(pair)
        self._mixed = np.empty(self._q.shape, dtype)
        self._flat_mixed = self._mixed.reshape(-1)
        self._factor = dtype.type(1.0 / math.sqrt(width))
        self._gate_up = np.empty(2 * config.hidden_dim, dtype)
        self._gate, self._up = self._gate_up[: config.hidden_dim], self._gate_up[config.hidden_dim :]
        self._hidden = np.empty(config.hidden_dim, dtype)

    @staticmethod
    def _layer(index: int, w: LayerWeights, cache: InPlace) -> _Layer:
        k, v = cache.rows(index)
        (wqkv,), (w_gate_up,) = w.wqkv, w.w_gate_up
        assert w.ffn_norm is not None
        matrices = [np.asarray(m) for m in (wqkv, w.wo, w_gate_up, w.w_down)]
        return _Layer(
            attn_norm=w.attn_norm,
            wqkv=matrices[0],
            wo=matrices[1],
            ffn_norm=w.ffn_norm,
            w_gate_up=matrices[2],
            w_down=matrices[3],
            k_rows=k,
            v_rows=v,
            keys=k.transpose(1, 2, 0),
            values=v.transpose(1, 0, 2),
        )

    def step(self, row: Array, pos: int) -> Array:
        """Feed the token with this embedding (dim) at this position; return its logits (1, vocab_size)."""
        x, h, out, hidden = self._x, self._h, self._out, self._hidden
        dot, multiply = np.dot, np.multiply
        turn = self._turns(pos)
        end = pos + 1
        x[:] = row
        for layer in self._layers:
            self._norm(layer.attn_norm)
            dot(layer.wqkv, h, out=self._qkv)
            multiply(self._pairs, turn, out=self._pairs)
            layer.k_rows[pos] = self._k
            layer.v_rows[pos] = self._v
            multiply(self._q, self._factor, out=self._q)
            s = self._q @ layer.keys[:, :, :end]
            s -= np.maximum.reduce(s, axis=-1, keepdims=True)
            np.exp(s, out=s)
            np.matmul(s, layer.values[:, :end], out=self._mixed)
            self._mixed /= np.add.reduce(s, axis=-1, keepdims=True)
            dot(layer.wo, self._flat_mixed, out=out)
            x += out
            self._norm(layer.ffn_norm)
            dot(layer.w_gate_up, h, out=self._gate_up)
            np.negative(self._gate, out=hidden)
            np.exp(hidden, out=hidden)  # overflows to infinity where silu is 0
            hidden += 1
            np.divide(self._gate, hidden, out=hidden)
            hidden *= self._up
            dot(layer.w_down, hidden, out=out)
            x += out
        self._cache.fill(end)
        self._norm(self._final_norm)
        logits: Array = dot(self._lm_head, h)
        return logits[None]

    def _norm(self, gain: Array) -> None:
        """RMSNorm of x into h."""
        x, h = self._x, self._h
        np.multiply(x, self._scalar(1.0 / math.sqrt(float(np.dot(x, x)) / self._dim + self._eps)), out=h)
        np.multiply(h, gain, out=h)
