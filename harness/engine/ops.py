"""Every step from token ids to logits, each a function, all gathered in one `Ops` value.

The engine calls nothing but the members of an `Ops`, so that any single step can be replaced:

    replace(LIBRARY, scale=lambda step, scores: scores)        # a port that forgot 1/sqrt(head_dim)

A *fault* of the catalogue is exactly that: one replaced step. Wiring counts as a step too: which weight a layer
looks up, which position it believes to be at, where the cache is written and read, which tokens are seen.

Every operation is given a `Step`: the configuration, the layer, the absolute positions, and the values that this
layer has computed so far (under the names of `harness.trace.points`), so that a wrong wiring ("feed-forward fed with
the attention's input") can reach them.

Three families compute the same function:

    LIBRARY  matrix products by BLAS, numpy's functions; float32 or float64, whichever the weights were cast to
    STRICT   float32, every sum left to right, the C library's functions: the bits of llama2.c at -O3
    either   with int8 weights (`QuantTensor`): the integer arithmetic of runq

Shapes: rows are tokens, n_tokens of them. Only the attention sees sequences: B sequences of T tokens each, S cache
slots, H query heads, G key/value heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.engine import libm
from harness.model_config import ModelConfig, RopeScaling
from harness.quant import QuantTensor, quantize_activations

__all__ = ["LIBRARY", "STRICT", "Array", "Lookup", "Ops", "Step", "Tap", "Weight"]

Array = npt.NDArray[Any]
Weight = Array | QuantTensor
Lookup = Callable[[int, str], Weight]


class Step:
    """Where an operation is, and what its layer has computed so far; valid during the call only.

    Attributes:
        config: dimensions of the model.
        layer: index of the block; -1 outside of the blocks.
        pos: (n_tokens,) int64, absolute positions, after `Ops.position`.
        dtype: dtype of the activations.
        values: this layer's values by tap name.
        memo: shared by all layers of one pass (rotary angles live here).
    """

    __slots__ = ("config", "dtype", "layer", "memo", "pos", "values")

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        pos: Array,
        dtype: npt.DTypeLike,
        memo: dict[str, Any],
        values: dict[str, Array] | None = None,
    ) -> None:
        self.config = config
        self.layer = layer
        self.pos = pos
        self.dtype = dtype
        self.memo = memo
        self.values: dict[str, Array] = {} if values is None else values


# ---- wiring ----------------------------------------------------------------------------------------------------


def layer_order(config: ModelConfig) -> Sequence[int]:
    """The blocks, in the order in which they run."""
    return range(config.n_layers)


def weight(config: ModelConfig, layer: int, name: str, lookup: Lookup) -> Weight:
    """Find a weight: `name` without its layer prefix ("wq"), layer -1 for those outside the blocks."""
    return lookup(layer, name)


def position(config: ModelConfig, pos: Array) -> Array:
    """The position that a token believes to have: its slot in the cache and its angle."""
    return pos


def cache_row(config: ModelConfig, layer: int, slot: Array) -> Array:
    """Offset, in elements, of a cache row in the flat key (or value) cache of one sequence.

    Layout [layer][slot][kv_dim], as llama2.c allocates it.
    """
    return (layer * config.seq_len + slot) * config.kv_dim


def mask(step: Step) -> Array:
    """Which slots each token sees: (T, S) bool. Its width S is also how much of the cache is read."""
    slots = np.arange(int(step.pos[-1]) + 1)
    seen: Array = slots[None, :] <= step.pos[:, None]
    window = step.config.block.window
    if window is not None:
        seen &= slots[None, :] > step.pos[:, None] - window
    return seen


def head_map(step: Step) -> Array:
    """(n_heads,) the key/value head that each query head reads: consecutive heads share one."""
    owner: Array = np.arange(step.config.n_heads) // step.config.n_rep
    return owner


def attn_residual(step: Step, x: Array, delta: Array) -> Array:
    """Add the attention's output to the residual stream."""
    return x + delta


def ffn_residual(step: Step, x: Array, delta: Array) -> Array:
    """Add the feed-forward block's output to the residual stream."""
    return x + delta


# ---- library arithmetic ----------------------------------------------------------------------------------------


def embed(step: Step, table: Weight, ids: Array) -> Array:
    """Copy the embedding rows of ids, (n_tokens, dim); an int8 table is dequantised in float32 first."""
    if isinstance(table, QuantTensor):
        rows = _dequantised_rows(table, ids)
    else:
        rows = table[ids]
    return rows.astype(step.dtype)


def rmsnorm(step: Step, x: Array, gain: Array) -> Array:
    """Divide rows by their root mean square, eps inside the root, then multiply by the gain.

    LayerNorm is the same of what is left when the mean is taken off; its bias is a step of its own (`Ops.bias`).
    Source: Zhang & Sennrich 2019; eps placement as in llama2.c run.c.
    """
    n = x.shape[-1]
    if step.config.block.norm == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    out: Array
    if x.shape[0] == 1:  # one row: a Python float is quicker than a (1, 1) array
        row = x[0]
        out = x * x.dtype.type(1.0 / math.sqrt(float(row @ row) / n + step.config.norm_eps))
    else:
        mean = np.vecdot(x, x)[:, None] / n
        out = x * (1.0 / np.sqrt(mean + step.config.norm_eps)).astype(x.dtype, copy=False)
    out *= gain
    return out


def head_norm(step: Step, x: Array, gain: Array) -> Array:
    """RMSNorm of every head by itself: x (n_tokens, heads, head_dim)."""
    mean = np.vecdot(x, x)[..., None] / x.shape[-1]
    out: Array = x * (1.0 / np.sqrt(mean + step.config.norm_eps)).astype(x.dtype, copy=False)
    out *= gain
    return out


def bias(step: Step, name: str, x: Array, b: Array) -> Array:
    """Add the bias of a product ("wq" .. "lm_head") or of a LayerNorm ("attn_norm" ..)."""
    out: Array = x + b
    return out


def matmul(step: Step, name: str, x: Array, w: Weight) -> Array:
    """Apply w (out, in) to rows x (n_tokens, in). `name` says which product it is ("wq" .. "lm_head").

    Int8 weights quantise x as runq does and sum integers exactly; the groups' results are added left to right.
    """
    if isinstance(w, QuantTensor):
        return quantised_matmul(step, name, x, w)
    out: Array = x @ w.T
    return out


def quantised_matmul(step: Step, name: str, x: Array, w: QuantTensor) -> Array:
    """The int8 product of runq: exact integer sums per group, then scaled and added group after group.

    A group of activations pairs with the weights at the same place of the row. The weight's scale is the one at
    (row * n + column) // group_size: where the row length is no multiple of the group size that is the scale of a
    group straddling two rows, and the tail of the row is left out. Upstream does so, and its golden outputs need it.
    """
    n_out, n_in = w.shape
    size = w.group_size
    n_groups = n_in // size
    codes, x_scale = quantize_activations(x, size)
    used = n_groups * size
    # float32 holds the integer sums exactly: at most group_size * 127^2, below 2^24 up to a group size of 1,040.
    exact: type[Any] = np.float32 if size <= 1040 else np.float64
    left = codes[:, :used].reshape(len(x), n_groups, size).transpose(1, 0, 2).astype(exact)
    right = w.codes[:, :used].reshape(n_out, n_groups, size).transpose(1, 2, 0).astype(exact)
    sums = left @ right  # (n_groups, n_tokens, n_out)
    starts = np.arange(n_out)[None, :] * n_in + np.arange(n_groups)[:, None] * size
    w_scale = w.scales[starts // size]  # (n_groups, n_out)
    dtype = x.dtype
    out = np.zeros((x.shape[0], n_out), dtype)
    for group in range(n_groups):
        part = sums[group].astype(dtype, copy=False) * w_scale[group].astype(dtype, copy=False)
        part *= x_scale[:, group, None].astype(dtype, copy=False)
        out += part
    return out


def scaled_frequencies(scaling: RopeScaling | None, frequencies: Array) -> Array:
    """Change rotary frequencies, in radians per position, for a longer context.

    "llama3" is the rule of Meta's Llama 3.1: long wavelengths are stretched, short ones kept, and those between the
    two mixed linearly in original_context / wavelength.
    """
    if scaling is None:
        return frequencies
    stretched: Array = frequencies / frequencies.dtype.type(scaling.factor)
    if scaling.kind == "linear":
        return stretched
    turns = scaling.original_context * frequencies / (2 * math.pi)  # within the trained context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    out: Array = (kept * frequencies + (1 - kept) * stretched).astype(frequencies.dtype)
    return out


def angles(step: Step) -> tuple[Array, Array]:
    """Cosine and sine of the rotary angles, each (n_tokens, rotary_dim / 2).

    Pair j turns by pos * theta^(-2j / rotary_dim), unless the model scales its frequencies.
    """
    if "angles" not in step.memo:
        config = step.config
        half = np.arange(0, config.rotary_dim, 2) / config.rotary_dim
        angle = step.pos[:, None] * scaled_frequencies(config.rope_scaling, config.rope_theta**-half)
        step.memo["angles"] = np.cos(angle).astype(step.dtype), np.sin(angle).astype(step.dtype)
    cos, sin = step.memo["angles"]
    return cos, sin


def rotate(step: Step, x: Array, cos: Array, sin: Array) -> Array:
    """Turn adjacent pairs (2j, 2j+1) of every head, as many as there are angles: x (n_tokens, heads, head_dim).

    Source: Su et al. 2021 (RoPE), in the interleaved order of Meta's checkpoints.
    """
    n = 2 * cos.shape[-1]
    even, odd = x[..., 0:n:2], x[..., 1:n:2]
    c, s = cos[:, None, :], sin[:, None, :]
    out = np.empty_like(x)
    out[..., 0:n:2] = even * c - odd * s
    out[..., 1:n:2] = even * s + odd * c
    out[..., n:] = x[..., n:]
    return out


def scores(step: Step, q: Array, k: Array) -> Array:
    """Dot products of queries (B, T, H, head_dim) and keys (B, S, H, head_dim): (B, H, T, S)."""
    out: Array = q.transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1)
    return out


def scale(step: Step, scores: Array) -> Array:
    """Divide the scores by sqrt(head_dim)."""
    out: Array = scores / scores.dtype.type(math.sqrt(step.config.head_dim))
    return out


def softmax(step: Step, scores: Array, seen: Array) -> Array:
    """Normalise scores (B, H, T, S) over the slots seen (T, S); a token that sees none gets zeros."""
    x = np.where(seen, scores, -np.inf)
    top = x.max(axis=-1, keepdims=True)
    x = np.exp(x - np.where(np.isfinite(top), top, 0))
    total = x.sum(axis=-1, keepdims=True)
    out: Array = np.divide(x, total, out=np.zeros_like(x), where=total > 0)
    return out


def mix(step: Step, weights: Array, v: Array) -> Array:
    """Average the values: weights (B, H, T, S), v (B, S, H, head_dim) to (B, T, H, head_dim)."""
    out: Array = weights @ v.transpose(0, 2, 1, 3)
    return out.transpose(0, 2, 1, 3)


def activation(step: Step, gate: Array) -> Array:
    """SiLU: gate / (1 + exp(-gate)), or GELU by its tanh formula where the model has that."""
    if step.config.block.activation == "gelu":
        return gelu(gate)
    with np.errstate(over="ignore"):
        out = np.negative(gate)
        np.exp(out, out=out)
        out += 1
        return np.divide(gate, out, out=out)


def gelu(x: Array) -> Array:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))). Source: Hendrycks & Gimpel 2016, equation 2."""
    inner = x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
    out: Array = x * (x.dtype.type(0.5) * (1 + np.tanh(inner)))
    return out


def gated(step: Step, activated: Array, up: Array) -> Array:
    """Multiply the activated gate with the linear branch."""
    return activated * up


def argmax(config: ModelConfig, logits: Array) -> int:
    """Greedy choice: the first index that holds the maximum; NaN never wins, unless it is at index 0."""
    if math.isnan(logits[0]):
        return 0
    best = int(logits.argmax())
    if math.isnan(logits[best]):
        best = int(np.nanargmax(logits))
    return best


# ---- the loop around the forward pass --------------------------------------------------------------------------


def forced(config: ModelConfig, pos: int, prompt: Sequence[int]) -> int | None:
    """The token that must follow position pos because it belongs to the prompt, or None: sample."""
    return prompt[pos + 1] if pos + 1 < len(prompt) else None


def draws_coin(config: ModelConfig, pos: int, *, is_forced: bool, temperature: float) -> bool:
    """Whether the random generator advances at this position."""
    return not is_forced and temperature != 0.0


# ---- strict arithmetic -----------------------------------------------------------------------------------------


def rmsnorm_strict(step: Step, x: Array, gain: Array) -> Array:
    """RMSNorm with its sum of squares taken left to right, in llama2.c's order of operations."""
    if step.config.block.norm == "layer":
        x = x - (np.add.accumulate(x, axis=-1, dtype=np.float32)[:, -1:] / np.float32(x.shape[-1]))
    square = np.add.accumulate(x * x, axis=-1, dtype=np.float32)[:, -1:]
    root = np.sqrt(square / np.float32(x.shape[-1]) + np.float32(step.config.norm_eps))
    out: Array = gain * ((np.float32(1) / root) * x)
    return out


def matmul_strict(step: Step, name: str, x: Array, w: Weight) -> Array:
    """The product with every sum taken left to right in float32, product and sum rounded separately."""
    if isinstance(w, QuantTensor):
        return quantised_matmul(step, name, x, w)
    return sequential_product(x, w.T)


_TERMS_AT_ONCE = 1 << 18  # float32 products of a single row held at a time: 1 MiB


def sequential_product(x: Array, w: Array) -> Array:
    """x (..., n, k) times w (..., k, m), each sum over k a float32 running sum from 0.

    Blocks of rows keep the accumulator in the second-level cache. A single row, as in decoding, has all its products
    made in one call and added in another, row of m after row of m: numpy adds along an outer axis in order, and only
    along the innermost one in pairs. It reads w where it lies, so w contiguous is quickest.
    """
    k, m = w.shape[-2:]
    n = x.shape[-2]
    batch = max(math.prod(x.shape[:-2]), math.prod(w.shape[:-2]))
    if n == 1 and m > 1 and batch * m * k <= _TERMS_AT_ONCE:
        terms = np.multiply(x.swapaxes(-1, -2), w, order="C", dtype=np.float32)
        sums: Array = np.add.reduce(terms, axis=-2)
        sums += np.float32(0)  # a sum from 0 is never -0
        return sums[..., None, :]
    shape = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    out = np.zeros((*shape, n, m), np.float32)
    rows = max(1, 65536 // max(1, batch * m))
    w = np.ascontiguousarray(w)
    for start in range(0, n, rows):
        part = out[..., start : start + rows, :]
        columns = np.ascontiguousarray(np.moveaxis(x[..., start : start + rows, :], -1, 0))
        term = np.empty_like(part)
        for j in range(k):
            np.multiply(columns[j][..., None], w[..., j, None, :], out=term)
            part += term
    return out


def angles_strict(step: Step) -> tuple[Array, Array]:
    """Angles as run.c computes them: powf, a float32 product, cosf and sinf."""
    if "angles" not in step.memo:
        config = step.config
        exponent = np.arange(0, config.rotary_dim, 2, dtype=np.float32) / np.float32(config.rotary_dim)
        frequency = np.float32(1) / libm.powf(config.rope_theta, exponent)
        frequency = scaled_frequencies(config.rope_scaling, frequency)
        angle = step.pos.astype(np.float32)[:, None] * frequency
        step.memo["angles"] = libm.cosf(angle), libm.sinf(angle)
    cos, sin = step.memo["angles"]
    return cos, sin


def scores_strict(step: Step, q: Array, k: Array) -> Array:
    """Dot products of queries and keys, left to right."""
    return sequential_product(q.transpose(0, 2, 1, 3), k.transpose(0, 2, 3, 1))


def softmax_strict(step: Step, scores: Array, seen: Array) -> Array:
    """Softmax with libm's expf, its sum left to right, and true divisions."""
    x = np.where(seen, scores, np.float32(-np.inf))
    top = np.maximum.reduce(x, axis=-1, keepdims=True)
    top[~np.isfinite(top)] = 0
    x -= top
    x = libm.expf(x)
    total = np.add.accumulate(x, axis=-1, dtype=np.float32)[..., -1:]
    return np.divide(x, total, out=np.zeros_like(x), where=total > 0)


def mix_strict(step: Step, weights: Array, v: Array) -> Array:
    """Average the values, slot after slot."""
    return sequential_product(weights, v.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


def activation_strict(step: Step, gate: Array) -> Array:
    """SiLU as run.c writes it: the reciprocal first, with libm's expf."""
    if step.config.block.activation == "gelu":
        return gelu(gate)
    with np.errstate(over="ignore"):
        out: Array = gate * (np.float32(1) / (np.float32(1) + libm.expf(-gate)))
    return out


def _dequantised_rows(table: QuantTensor, ids: Array) -> Array:
    n = table.shape[1]
    flat = ids[:, None] * n + np.arange(n)
    rows: Array = table.codes[ids].astype(np.float32) * table.scales[flat // table.group_size]
    return rows


@dataclass(frozen=True, slots=True)
class Ops:
    """The operations of one forward pass. Replace any with `dataclasses.replace`.

    `in_decode_order` says that a replaced step depends on the order in which the cache is written: the engine then
    runs one position at a time, all sequences in a step, layers inside. `cached_k`, `cached_v` (what is kept of a key
    and a value), `mixed` (the attention's output before wo) and `logits` are identities: places for faults.
    """

    layer_order: Callable[[ModelConfig], Sequence[int]] = layer_order
    weight: Callable[[ModelConfig, int, str, Lookup], Weight] = weight
    position: Callable[[ModelConfig, Array], Array] = position
    embed: Callable[[Step, Weight, Array], Array] = embed
    attn_norm: Callable[[Step, Array, Array], Array] = rmsnorm
    ffn_norm: Callable[[Step, Array, Array], Array] = rmsnorm
    final_norm: Callable[[Step, Array, Array], Array] = rmsnorm
    matmul: Callable[[Step, str, Array, Weight], Array] = matmul
    bias: Callable[[Step, str, Array, Array], Array] = bias
    q_norm: Callable[[Step, Array, Array], Array] = head_norm
    k_norm: Callable[[Step, Array, Array], Array] = head_norm
    angles: Callable[[Step], tuple[Array, Array]] = angles
    rotate_q: Callable[[Step, Array, Array, Array], Array] = rotate
    rotate_k: Callable[[Step, Array, Array, Array], Array] = rotate
    cache_row: Callable[[ModelConfig, int, Array], Array] = cache_row
    cached_k: Callable[[Step, Array], Array] = lambda step, k: k
    cached_v: Callable[[Step, Array], Array] = lambda step, v: v
    mask: Callable[[Step], Array] = mask
    head_map: Callable[[Step], Array] = head_map
    scores: Callable[[Step, Array, Array], Array] = scores
    scale: Callable[[Step, Array], Array] = scale
    softmax: Callable[[Step, Array, Array], Array] = softmax
    mix: Callable[[Step, Array, Array], Array] = mix
    mixed: Callable[[Step, Array], Array] = lambda step, mixed: mixed
    attn_residual: Callable[[Step, Array, Array], Array] = attn_residual
    ffn_residual: Callable[[Step, Array, Array], Array] = ffn_residual
    activation: Callable[[Step, Array], Array] = activation
    gated: Callable[[Step, Array, Array], Array] = gated
    logits: Callable[[Step, Array], Array] = lambda step, logits: logits
    argmax: Callable[[ModelConfig, Array], int] = argmax
    forced: Callable[[ModelConfig, int, Sequence[int]], int | None] = forced
    draws_coin: Callable[..., bool] = draws_coin
    in_decode_order: bool = False

    def differs_from(self, other: Ops) -> frozenset[str]:
        """Names of the steps that are not the other's."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) is not getattr(other, f.name))


LIBRARY = Ops()
STRICT = Ops(
    attn_norm=rmsnorm_strict,
    ffn_norm=rmsnorm_strict,
    final_norm=rmsnorm_strict,
    matmul=matmul_strict,
    angles=angles_strict,
    scores=scores_strict,
    softmax=softmax_strict,
    mix=mix_strict,
    activation=activation_strict,
)

# The parts of the forward pass that a fused, quicker form may stand for, as long as none of them was replaced.
FUSED_ATTENTION = frozenset(
    {"position", "cache_row", "cached_k", "cached_v", "mask", "head_map", "scores", "scale", "softmax", "mix"}
)
FUSED_ROTATION = frozenset({"angles", "rotate_q", "rotate_k"})
Tap = Callable[[str, int, Array], None]
