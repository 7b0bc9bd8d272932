"""Faults of rotation, attention and the key/value cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.fault import Change, Fate, Fault, loop, ops
from harness.engine.ops import LIBRARY, Step
from harness.model_config import ModelConfig

__all__ = ["ATTENTION", "CACHE", "ROTATION"]

Array = npt.NDArray[Any]
Angles = Callable[[Step], tuple[Array, Array]]


# ---- rotation ----------------------------------------------------------------------------------------------------


def _angles(frequency: Callable[[ModelConfig, Array], Array], shift: int = 0) -> Angles:
    """Angles of other frequencies; `frequency` is given the even numbers up to head_dim."""

    def angles(step: Step) -> tuple[Array, Array]:
        even = np.arange(0, step.config.head_dim, 2)
        angle = (step.pos[:, None] + shift) * frequency(step.config, even)
        return np.cos(angle).astype(step.dtype), np.sin(angle).astype(step.dtype)

    return angles


def _honest(config: ModelConfig, even: Array) -> Array:
    out: Array = config.rope_theta ** -(even / config.head_dim)
    return out


def _theta(theta: float) -> Change:
    return ops(angles=_angles(lambda config, even: theta ** -(even / config.head_dim)))


def _unrotated(step: Step, x: Array, cos: Array, sin: Array) -> Array:
    return x


def _halves(step: Step, x: Array, cos: Array, sin: Array) -> Array:
    """Pairs (j, j + head_dim / 2)."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    c, s = cos[:, None, :], sin[:, None, :]
    return np.concatenate([first * c - second * s, first * s + second * c], axis=-1)


def _backwards(step: Step, x: Array, cos: Array, sin: Array) -> Array:
    return LIBRARY.rotate_q(step, x, cos, -sin)


def _global_index(step: Step, x: Array, cos: Array, sin: Array) -> Array:
    """Frequencies by the index in the whole vector, over dim: every head has its own."""
    config = step.config
    n_heads = x.shape[1]
    frequency = config.rope_theta ** -(np.arange(0, n_heads * config.head_dim, 2) / config.dim)
    angle = (step.pos[:, None] * frequency).reshape(len(step.pos), n_heads, -1)
    c, s = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * c - odd * s, even * s + odd * c], axis=-1).reshape(x.shape)


def _next_position(step: Step, x: Array, cos: Array, sin: Array) -> Array:
    return LIBRARY.rotate_q(step, x, *_angles(_honest, shift=1)(step))


def _first_half(step: Step, x: Array, cos: Array, sin: Array) -> Array:
    turned = LIBRARY.rotate_k(step, x, cos, sin)
    index = np.arange(step.config.kv_dim).reshape(x.shape[1:])
    out: Array = np.where(index < step.config.kv_dim // 4 * 2, turned, x)
    return out


def _half_of_heads(step: Step, x: Array, cos: Array, sin: Array) -> Array:
    turned = LIBRARY.rotate_k(step, x, cos, sin)
    head = np.arange(step.config.n_kv_heads)[:, None]
    out: Array = np.where(head < step.config.n_kv_heads // 2, turned, x)
    return out


def _turned_back(step: Step, k: Array) -> Array:
    cos, sin = LIBRARY.angles(step)
    return LIBRARY.rotate_k(step, k, cos, -sin)


def _value_turned(step: Step, v: Array) -> Array:
    return LIBRARY.rotate_k(step, v, *LIBRARY.angles(step))


ROTATION = (
    Fault(
        "rope-half-split",
        "rotation",
        "position 0 is exact; fluent for some ten tokens, then nonsense",
        "pairs (j, j + head_dim / 2) are turned, as rotate_half does in Hugging Face's models",
        "turn adjacent elements (2j, 2j + 1), or permute the rows of wq and wk when loading",
        ops(rotate_q=_halves, rotate_k=_halves),
        as_if="RoPE turned the pairs (j, j + head_size / 2) of each head instead of (2j, 2j + 1)",
    ),
    Fault(
        "rope-backwards",
        "rotation",
        "position 0 is exact; repeats itself after some ten tokens",
        "the sign of the sine is wrong: (a c + b s, b c - a s)",
        "(a c - b s, a s + b c)",
        ops(rotate_q=_backwards, rotate_k=_backwards),
        as_if="RoPE turned the other way: the sine has the wrong sign, (a c + b s, b c - a s)",
    ),
    Fault(
        "rope-exponent-doubled",
        "rotation",
        "position 0 is exact; another story after some tokens",
        "theta^(-2 i / head_dim) with i that counts by two already",
        "theta^(-i / head_size) for i = 0, 2, 4, ...",
        ops(angles=_angles(lambda config, even: config.rope_theta ** -(2 * even / config.head_dim))),
        as_if="RoPE's frequencies were theta^(-2 i / head_size) with an i that counts by two already",
    ),
    Fault(
        "rope-exponent-halved",
        "rotation",
        "position 0 is exact; wrong after a few tokens",
        "theta^(-j / head_dim) with j that counts pairs",
        "theta^(-2 j / head_size) for pair j",
        ops(angles=_angles(lambda config, even: config.rope_theta ** -(even / 2 / config.head_dim))),
        as_if="RoPE's frequencies were theta^(-j / head_size) with a j that counts pairs",
    ),
    Fault(
        "rope-integer-division",
        "rotation",
        "position 0 is exact; wrong after a few tokens",
        "i / head_dim divides integers and is 0: every pair turns at frequency 1",
        "divide floats",
        ops(angles=_angles(lambda config, even: np.ones(len(even)))),
        as_if="i / head_size were a division of integers, so that every pair turns at frequency 1",
    ),
    Fault(
        "rope-theta-1e6",
        "rotation",
        "position 0 is exact; another story after some tokens, late on short texts",
        "theta is another model's: 500000 or 1000000",
        "10000",
        _theta(1e6),
        as_if="RoPE's theta were 1000000 instead of 10000",
        variants=tuple((f"RoPE's theta were {one:.0f} instead of 10000", _theta(one)) for one in (5e5, 1e5, 1e3)),
    ),
    Fault(
        "rope-global-index",
        "rotation",
        "position 0 is exact; wrong after a few tokens",
        "the frequency is taken from the index in the whole vector, i / dim",
        "every head has the same frequencies: (i % head_size) / head_size",
        ops(rotate_q=_global_index, rotate_k=_global_index),
        as_if="RoPE's frequency were taken from the index in the whole vector, i / dim, instead of the index "
        "in its head",
    ),
    Fault(
        "rope-k-missing",
        "rotation",
        "position 0 is exact; another story after some tokens",
        "keys are not turned, or a copy of them is that is never cached",
        "turn q and k before k goes into the cache",
        ops(rotate_k=_unrotated),
        as_if="RoPE turned the queries only: keys are not turned, or a copy of them is that is never cached",
    ),
    Fault(
        "rope-cached-before",
        "rotation",
        "position 0 is exact; another story after some tokens",
        "k is copied into the cache before it is turned",
        "turn first, or turn the row in the cache",
        ops(cached_k=_turned_back),
        as_if="k were copied into the cache before RoPE turns it",
    ),
    Fault(
        "rope-q-missing",
        "rotation",
        "position 0 is exact; another story after some tokens",
        "queries are not turned",
        "turn q and k",
        ops(rotate_q=_unrotated),
        as_if="RoPE turned the keys only, not the queries",
    ),
    Fault(
        "rope-missing",
        "rotation",
        "position 0 is exact; another story after some tokens",
        "nothing is turned",
        "turn q and k by their position",
        ops(rotate_q=_unrotated, rotate_k=_unrotated),
        as_if="there were no RoPE at all: neither queries nor keys are turned",
    ),
    Fault(
        "rope-on-v",
        "rotation",
        "position 0 is exact; another story after some tokens",
        "values are turned like keys",
        "turn q and k only",
        ops(cached_v=_value_turned),
        as_if="RoPE turned the values too, like the keys",
    ),
    Fault(
        "rope-half-of-k",
        "rotation",
        "position 0 is exact; another story after some tokens",
        "the loop over k ends at half of its kv_dim elements",
        "turn all n_kv_heads heads",
        ops(rotate_k=_first_half),
        variants=(("RoPE turned only the first n_kv_heads / 2 heads of k", ops(rotate_k=_half_of_heads)),),
        as_if="RoPE turned only the first half of k: its loop ends at kv_dim / 2",
    ),
    Fault(
        "rope-q-one-ahead",
        "rotation",
        "position 0 is exact; another story after some tokens",
        "queries are turned by pos + 1, keys by pos",
        "the same position for both",
        ops(rotate_q=_next_position),
        as_if="RoPE turned queries by pos + 1 and keys by pos",
    ),
    Fault(
        "rope-both-one-ahead",
        "rotation",
        "none: only the bits of rotated queries and keys differ",
        "the position that is turned by starts at 1, for queries and keys alike",
        "start at 0, if the bits are to be llama2.c's",
        ops(angles=_angles(_honest, shift=1)),
        Fate.EQUIVALENT,
        "a query and a key turned by m and n meet at the angle m - n: one more on both sides cancels",
    ),
)


# ---- attention ---------------------------------------------------------------------------------------------------


def _strictly_before(step: Step) -> Array:
    return LIBRARY.mask(step) & (np.arange(int(step.pos[-1]) + 1)[None, :] < step.pos[:, None])


def _strictly_before_or_first(step: Step) -> Array:
    slots = np.arange(int(step.pos[-1]) + 1)
    seen: Array = _strictly_before(step) | ((slots == 0) & (step.pos[:, None] == 0))
    return seen


def _all_slots(step: Step) -> Array:
    return np.ones((len(step.pos), step.config.seq_len), bool)


def _unnormalised(step: Step, scores: Array, seen: Array) -> Array:
    x = np.where(seen, scores, -np.inf)
    top = x.max(axis=-1, keepdims=True)
    out: Array = np.exp(x - np.where(np.isfinite(top), top, 0))
    return out


@np.errstate(over="ignore", invalid="ignore")
def _without_maximum(step: Step, scores: Array, seen: Array) -> Array:
    x = np.where(seen, np.exp(scores), scores.dtype.type(0))
    out: Array = x / x.sum(axis=-1, keepdims=True)
    return out


def _by_kv_heads(step: Step) -> Array:
    owner: Array = np.arange(step.config.n_heads) // step.config.n_kv_heads
    return np.minimum(owner, step.config.n_kv_heads - 1)


ATTENTION = (
    Fault(
        "attention-unscaled",
        "attention",
        "position 0 is exact; another story after some tokens",
        "scores are not divided by sqrt(head_dim)",
        "divide them",
        ops(scale=lambda step, scores: scores),
        as_if="the attention's scores were not divided by sqrt(head_size)",
    ),
    Fault(
        "attention-scale-dim",
        "attention",
        "position 0 is exact; another story after some tokens",
        "scores are divided by sqrt(dim)",
        "divide by sqrt(head_size)",
        ops(scale=lambda step, scores: scores / scores.dtype.type(math.sqrt(step.config.dim))),
        as_if="the attention's scores were divided by sqrt(dim) instead of sqrt(head_size)",
    ),
    Fault(
        "attention-scale-no-root",
        "attention",
        "position 0 is exact; another story after some tokens",
        "scores are divided by head_dim",
        "divide by sqrt(head_size)",
        ops(scale=lambda step, scores: scores / scores.dtype.type(step.config.head_dim)),
        as_if="the attention's scores were divided by head_size instead of its square root",
    ),
    Fault(
        "heads-modulo",
        "attention",
        "wrong from the first tokens on; right where every head has its own keys (MHA)",
        "query head h reads key/value head h mod n_kv_heads",
        "h / kv_mul, where kv_mul = n_heads / n_kv_heads: consecutive heads share one",
        ops(head_map=lambda step: np.arange(step.config.n_heads) % step.config.n_kv_heads),
        as_if="query head h used key/value head h % n_kv_heads instead of h / kv_mul",
    ),
    Fault(
        "heads-first",
        "attention",
        "wrong from the first tokens on; right where all heads share one (MQA)",
        "every query head reads key/value head 0",
        "h / kv_mul, where kv_mul = n_heads / n_kv_heads",
        ops(head_map=lambda step: np.zeros(step.config.n_heads, np.int64)),
        as_if="every query head used key/value head 0",
    ),
    Fault(
        "heads-by-kv-heads",
        "attention",
        "wrong from the first tokens on; right where n_rep = n_kv_heads",
        "query head h reads key/value head h / n_kv_heads",
        "h / kv_mul, where kv_mul = n_heads / n_kv_heads",
        ops(head_map=_by_kv_heads),
        as_if="query head h used key/value head h / n_kv_heads instead of h / kv_mul",
    ),
    Fault(
        "mask-excludes-self",
        "attention",
        "garbage at position 0 where the softmax of nothing is NaN, else another story after some dozens of tokens",
        "t < pos",
        "t <= pos: a token sees itself",
        ops(mask=_strictly_before),
        as_if="a token did not see itself: the loop over the cache runs while t < pos instead of t <= pos",
    ),
    Fault(
        "mask-excludes-self-but-first",
        "attention",
        "position 0 is exact; another story after some dozens of tokens",
        "t < max(pos, 1), after NaN at position 0 was seen and mended",
        "t <= pos: a token sees itself",
        ops(mask=_strictly_before_or_first),
        as_if="a token did not see itself, but for the first: t < max(pos, 1) instead of t <= pos",
    ),
    Fault(
        "softmax-all-slots",
        "attention",
        "position 0 is wrong already; the farther from the end of the context, the more",
        "the softmax runs over all seq_len slots, most of them zeros",
        "over the pos + 1 positions that are there",
        ops(mask=_all_slots, in_decode_order=True),
        as_if="the attention's softmax ran over all seq_len positions, those to come with scores of 0",
    ),
    Fault(
        "softmax-unnormalised",
        "attention",
        "position 0 is exact; wrong after a few tokens",
        "the exponentials are not divided by their sum",
        "divide",
        ops(softmax=_unnormalised),
        as_if="the attention's exponentials were not divided by their sum",
    ),
    Fault(
        "softmax-overflows",
        "attention",
        "none until a score exceeds 88: then NaN, and the same token for ever",
        "exp(score) without subtracting the largest score",
        "exp(score - max)",
        ops(softmax=_without_maximum),
        as_if="the attention's softmax took exp(score) without subtracting the largest score first",
    ),
    Fault(
        "attention-accumulates",
        "attention",
        "garbage from the first token on",
        "the output is added onto a buffer that still holds the normalised input",
        "set xb to zero first",
        ops(mixed=lambda step, mixed: step.values["attn_norm"] + mixed),
        as_if="the attention's output were added onto xb, which still holds the normalised input",
    ),
)


# ---- cache -------------------------------------------------------------------------------------------------------


def _kept(before: list[int]) -> list[int]:
    return before


CACHE = (
    Fault(
        "cache-without-layers",
        "cache",
        "position 0 is exact; wrong after a few tokens",
        "all layers write to the same rows",
        "a row is at (layer * seq_len + pos) * kv_dim",
        ops(cache_row=lambda config, layer, slot: slot * config.kv_dim, in_decode_order=True),
        as_if="all layers wrote to the same rows of the key/value cache",
    ),
    Fault(
        "cache-row-of-dim",
        "cache",
        "right up to position seq_len * kv_dim / dim, where one layer's rows reach into the next; right for MHA",
        "rows are dim apart in a cache of kv_dim",
        "rows are kv_dim apart",
        ops(
            cache_row=lambda config, layer, slot: layer * config.seq_len * config.kv_dim + slot * config.dim,
            in_decode_order=True,
        ),
        as_if="rows of the key/value cache were dim floats apart, in a cache made for kv_dim",
    ),
    Fault(
        "position-from-one",
        "cache",
        "right for some dozens of tokens: a row of zeros at slot 0 is attended to",
        "pos starts at 1",
        "the first token is at position 0",
        ops(position=lambda config, pos: pos + 1),
        as_if="pos started at 1 instead of 0",
    ),
    Fault(
        "cache-not-reset",
        "cache",
        "the second answer of a process depends on the first",
        "position and cache go on from one prompt to the next",
        "start every request at position 0",
        loop(carried_over=_kept),
        as_if="pos and the key/value cache went on from one prompt to the next",
    ),
)
