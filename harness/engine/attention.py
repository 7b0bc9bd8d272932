"""Attention and the activation as one pass each: the functions that the chains of `Ops` give, fused for speed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.engine.ops import Array, Ops, Step

__all__ = ["attention_by_steps", "causal_attention", "single_query_attention", "swiglu"]

_SWIGLU_ROWS = 32
_QUERY_CHUNK_BYTES = 256  # queries of one attention block, as bytes of a row: halves the work on what the mask hides


def attention_by_steps(ops: Ops, step: Step, q: Array, k: Array, v: Array, seen: Array) -> Array:
    """Attention as the chain of its operations: q (B, T, H, head_dim), k and v (B, S, G, head_dim), seen (T, S)."""
    kv_head = ops.head_map(step)
    weights = ops.softmax(step, ops.scale(step, ops.scores(step, q, k[:, :, kv_head])), seen)
    return ops.mix(step, weights, v[:, :, kv_head])


def causal_attention(q: Array, k: Array, v: Array, *, start: int) -> Array:
    """The same function, fused, for queries (T, H, head_dim) at positions start.. over keys 0..start+T-1.

    Works through blocks of queries, so that little is computed that the mask would hide; divides by the softmax's
    sum after mixing.
    """
    n_tokens, n_heads, head_dim = q.shape
    kv_heads = k.shape[1]
    rep = n_heads // kv_heads
    out = np.empty((n_tokens, n_heads, head_dim), q.dtype)
    grouped_out = out.reshape(n_tokens, kv_heads, rep, head_dim).transpose(1, 2, 0, 3)
    grouped = q.reshape(n_tokens, kv_heads, rep, head_dim).transpose(1, 2, 0, 3)
    keys = np.ascontiguousarray(k.transpose(1, 0, 2))  # (G, S, head_dim)
    values = np.empty((kv_heads, len(k), head_dim + 1), q.dtype)  # a column of ones adds up the weights
    values[:, :, :head_dim] = v.transpose(1, 0, 2)
    values[:, :, head_dim] = 1
    factor = q.dtype.type(1.0 / math.sqrt(head_dim))
    chunk = _QUERY_CHUNK_BYTES // q.dtype.itemsize
    for begin in range(0, n_tokens, chunk):
        end = min(begin + chunk, n_tokens)
        width, n_keys = end - begin, start + end
        block = np.multiply(grouped[:, :, begin:end].transpose(0, 3, 1, 2), factor, order="C")
        # Keys outermost: the maximum over them is then taken across whole rows, which is quicker than within rows.
        s = keys[:, :n_keys] @ block.reshape(kv_heads, head_dim, rep * width)
        if width > 1:
            s.reshape(kv_heads, n_keys, rep, width)[:, start + begin :] += _future(width, q.dtype)[:, None]
        s -= s.max(axis=1, keepdims=True)
        np.exp(s, out=s)
        mixed = (s.transpose(0, 2, 1) @ values[:, :n_keys]).reshape(kv_heads, rep, width, head_dim + 1)
        np.divide(mixed[..., :head_dim], mixed[..., head_dim:], out=grouped_out[:, :, begin:end])
    return out


def swiglu(gate: Array, up: Array) -> Array:
    """silu(gate) * up, fused: a few rows at a time, which stay in the first caches through all passes."""
    if len(gate) == 1:
        single: Array = np.negative(gate)
        np.exp(single, out=single)
        single += 1
        np.divide(gate, single, out=single)
        single *= up
        return single
    out = np.empty(gate.shape, gate.dtype)
    for begin in range(0, len(gate), _SWIGLU_ROWS):
        rows = slice(begin, begin + _SWIGLU_ROWS)
        g, part = gate[rows], out[rows]
        np.negative(g, out=part)
        np.exp(part, out=part)  # overflows to infinity where silu is 0
        part += 1
        np.divide(g, part, out=part)
        part *= up[rows]
    return out


def single_query_attention(q: Array, k: Array, v: Array) -> Array:
    """The same function for one query (1, H, head_dim) that sees all keys (S, G, head_dim)."""
    _, n_heads, head_dim = q.shape
    kv_heads = k.shape[1]
    block = q.reshape(kv_heads, n_heads // kv_heads, head_dim) * q.dtype.type(1.0 / math.sqrt(head_dim))
    s = block @ k.transpose(1, 2, 0)
    s -= np.maximum.reduce(s, axis=-1, keepdims=True)
    np.exp(s, out=s)
    mixed: Array = s @ v.transpose(1, 0, 2)
    mixed /= np.add.reduce(s, axis=-1, keepdims=True)
    return mixed


_FUTURE: dict[tuple[int, Any], Array] = {}


def _future(width: int, dtype: npt.DTypeLike) -> Array:
    """(keys, queries), each width, to add to scores: -inf where the key comes after the query."""
    key = (width, np.dtype(dtype))
    if key not in _FUTURE:
        _FUTURE[key] = np.tril(np.full((width, width), -np.inf, dtype), -1)
    return _FUTURE[key]
