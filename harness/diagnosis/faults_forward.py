"""Faults of the forward pass outside of the attention: normalisation, feed-forward block, wiring, rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.fault import Change, Fate, Fault, ops
from harness.engine.ops import LIBRARY, Lookup, Step, Weight
from harness.model_config import ModelConfig
from harness.quant import QuantTensor

__all__ = ["FEED_FORWARD", "NORMALISATION", "ROUNDING", "WIRING", "looked_up"]

Array = npt.NDArray[Any]


# ---- normalisation -----------------------------------------------------------------------------------------------


def _norm(function: Callable[[Step, Array, Array], Array]) -> Change:
    """RMSNorm is one operation in three places."""
    return ops(attn_norm=function, ffn_norm=function, final_norm=function)


def _by(factor: Callable[[Array, int, float], Array]) -> Callable[[Step, Array, Array], Array]:
    """An RMSNorm whose factor is computed otherwise, from the sum of squares, their number, and eps."""

    def norm(step: Step, x: Array, gain: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            square = np.vecdot(x, x)[..., None]
            out: Array = x * factor(square, x.shape[-1], step.config.norm_eps).astype(x.dtype) * gain
        return out

    return norm


def _layer_norm(step: Step, x: Array, gain: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    out: Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + step.config.norm_eps) * gain
    return out


def _one_plus_gain(step: Step, x: Array, gain: Array) -> Array:
    return LIBRARY.attn_norm(step, x, gain + 1)


def _gain_ignored(step: Step, x: Array, gain: Array) -> Array:
    return LIBRARY.attn_norm(step, x, np.ones_like(gain))


def looked_up(**others: str) -> Callable[[ModelConfig, int, str, Lookup], Weight]:
    """Look up another tensor where one is asked for."""

    def weight(config: ModelConfig, layer: int, name: str, lookup: Lookup) -> Weight:
        return lookup(layer, others.get(name, name))

    return weight


_EPS_SYMPTOM = "none in ordinary text: logits move by some 1e-4; a checkpoint of tiny activations shows it at once"

NORMALISATION = (
    Fault(
        "norm-sum",
        "normalisation",
        "garbage from the first token on; activations are sqrt(dim) times too small",
        "the sum of squares is not divided by dim",
        "use the mean of the squares",
        _norm(_by(lambda square, n, eps: 1 / np.sqrt(square + eps))),
        as_if="RMSNorm divided by the root of the sum of squares, not of their mean",
    ),
    Fault(
        "norm-eps-missing",
        "normalisation",
        _EPS_SYMPTOM + ", and a row of zeros becomes NaN",
        "no epsilon is added to the mean of the squares",
        "add 1e-5 before taking the root",
        _norm(_by(lambda square, n, eps: 1 / np.sqrt(square / n))),
        as_if="RMSNorm had no eps",
    ),
    Fault(
        "norm-eps-1e-6",
        "normalisation",
        _EPS_SYMPTOM,
        "eps is 1e-6, Llama 2's on Hugging Face and the default of many libraries",
        "use 1e-5, as llama2.c does whatever the model said",
        _norm(_by(lambda square, n, eps: 1 / np.sqrt(square / n + 1e-6))),
        as_if="RMSNorm's eps were 1e-6 instead of 1e-5",
    ),
    Fault(
        "norm-eps-1e-3",
        "normalisation",
        "logits move by some hundredths, as in a bfloat16 build; the text parts late or never",
        "eps is 1e-3",
        "use 1e-5",
        _norm(_by(lambda square, n, eps: 1 / np.sqrt(square / n + 1e-3))),
        as_if="RMSNorm's eps were 1e-3 instead of 1e-5",
    ),
    Fault(
        "norm-eps-after-root",
        "normalisation",
        _EPS_SYMPTOM,
        "x / (sqrt(mean) + eps)",
        "x / sqrt(mean + eps)",
        _norm(_by(lambda square, n, eps: 1 / (np.sqrt(square / n) + eps))),
        as_if="RMSNorm computed x / (sqrt(mean) + eps) instead of x / sqrt(mean + eps)",
    ),
    Fault(
        "norm-eps-before-mean",
        "normalisation",
        _EPS_SYMPTOM,
        "eps is added to the sum of squares, which is then divided by dim",
        "divide first, then add eps",
        _norm(_by(lambda square, n, eps: 1 / np.sqrt((square + eps) / n))),
        as_if="RMSNorm added eps to the sum of squares and divided by dim afterwards",
    ),
    Fault(
        "norm-centred",
        "normalisation",
        "fluent for some dozens of tokens, then another story",
        "LayerNorm: the mean is subtracted first",
        "RMSNorm subtracts nothing",
        _norm(_layer_norm),
        as_if="RMSNorm were LayerNorm: the mean is subtracted first",
    ),
    Fault(
        "norm-gain-plus-one",
        "normalisation",
        "wrong from the first tokens on",
        "the gain is 1 + w, as in Gemma",
        "multiply by the weight",
        _norm(_one_plus_gain),
        as_if="RMSNorm multiplied by 1 + weight, as in Gemma",
    ),
    Fault(
        "norm-gain-ignored",
        "normalisation",
        "wrong from the first tokens on",
        "the normalised value is not multiplied by the gain",
        "multiply by the weight",
        _norm(_gain_ignored),
        as_if="RMSNorm did not multiply by its weight",
    ),
    Fault(
        "norm-final-missing",
        "normalisation",
        "the first words are right, then another story; logits are too flat or too steep",
        "the last residual stream goes to the classifier as it is",
        "apply RMSNorm with rms_final_weight before the classifier",
        ops(final_norm=lambda step, x, gain: x),
        as_if="the last RMSNorm, before the classifier, were missing",
    ),
    Fault(
        "norm-ffn-gain-of-attention",
        "normalisation",
        "wrong from the first tokens on",
        "the feed-forward block's RMSNorm takes the attention's gain",
        "use rms_ffn_weight there",
        ops(weight=looked_up(ffn_norm="attn_norm")),
        as_if="the feed-forward block's RMSNorm took the attention's weights, rms_att_weight for rms_ffn_weight",
    ),
)


# ---- feed-forward block ------------------------------------------------------------------------------------------


def _gelu(step: Step, gate: Array) -> Array:
    inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    out: Array = (0.5 * gate * (1 + np.tanh(inner))).astype(gate.dtype)
    return out


@np.errstate(over="ignore")
def _sigmoid(step: Step, gate: Array) -> Array:
    out: Array = 1 / (1 + np.exp(-gate))
    return out


@np.errstate(over="ignore")
def _wrong_sign(step: Step, gate: Array) -> Array:
    out: Array = gate / (1 + np.exp(gate))
    return out


FEED_FORWARD = (
    Fault(
        "ffn-relu",
        "feed-forward",
        "wrong within a few tokens",
        "the gate goes through ReLU",
        "use SiLU: x / (1 + exp(-x))",
        ops(activation=lambda step, gate: np.maximum(gate, 0)),
        as_if="the gate (w1) went through ReLU instead of SiLU",
    ),
    Fault(
        "ffn-gelu",
        "feed-forward",
        "fluent for some dozens of tokens, then another story",
        "the gate goes through GELU (tanh form)",
        "use SiLU: x / (1 + exp(-x))",
        ops(activation=_gelu),
        as_if="the gate (w1) went through GELU instead of SiLU",
    ),
    Fault(
        "ffn-sigmoid",
        "feed-forward",
        "garbage from the first token on",
        "the gate goes through the sigmoid alone, without the product with itself",
        "use SiLU: x * sigmoid(x)",
        ops(activation=_sigmoid),
        as_if="the gate (w1) went through the sigmoid alone, without the product with itself",
    ),
    Fault(
        "ffn-silu-sign",
        "feed-forward",
        "garbage from the first token on",
        "x / (1 + exp(x))",
        "x / (1 + exp(-x))",
        ops(activation=_wrong_sign),
        as_if="SiLU were x / (1 + exp(x)), with the wrong sign",
    ),
    Fault(
        "ffn-no-product",
        "feed-forward",
        "garbage from the first token on",
        "w_up (w3) is not multiplied in",
        "silu(w1 x) * (w3 x)",
        ops(gated=lambda step, activated, up: activated),
        as_if="the gate were not multiplied by w3 x",
    ),
    Fault(
        "ffn-gate-up-swapped",
        "feed-forward",
        "repeats itself from the first words on (Once upon upon upon)",
        "SiLU is applied to w3 x, and w1 x is the linear branch",
        "silu(w1 x) * (w3 x)",
        ops(weight=looked_up(w_gate="w_up", w_up="w_gate")),
        as_if="SiLU were applied to w3 x instead of w1 x",
    ),
    Fault(
        "ffn-parallel",
        "feed-forward",
        "wrong after a few tokens",
        "the feed-forward block is fed with the attention's normalised input, as in GPT-J",
        "normalise x again, after the attention was added to it",
        ops(ffn_norm=lambda step, x, gain: step.values["attn_norm"]),
        as_if="the feed-forward block got the attention's normalised input, as in GPT-J",
    ),
)


# ---- wiring ------------------------------------------------------------------------------------------------------


def _transposed(which: str) -> Callable[[ModelConfig, int, str, Lookup], Weight]:
    """The same bytes, taken for the transposed matrix."""

    def weight(config: ModelConfig, layer: int, name: str, lookup: Lookup) -> Weight:
        found = lookup(layer, name)
        if name != which:
            return found
        n_out, n_in = found.shape
        if isinstance(found, QuantTensor):
            codes = np.ascontiguousarray(found.codes.reshape(n_in, n_out).T)
            scales = np.repeat(found.scales, found.group_size).reshape(n_in, n_out).T
            return QuantTensor(codes, np.ascontiguousarray(scales).reshape(-1).astype(np.float32), 1)
        return found.reshape(n_in, n_out).T

    return weight


def _scaled_embedding(step: Step, table: Weight, ids: Array) -> Array:
    out: Array = LIBRARY.embed(step, table, ids) * np.sqrt(np.dtype(step.dtype).type(step.config.dim))
    return out


WIRING = (
    Fault(
        "wq-transposed",
        "wiring",
        "position 0 is exact, for one key needs no query; wrong after a few tokens",
        "x @ wq where wq is stored (out, in)",
        "x @ wq.T: row i of the file makes output i",
        ops(weight=_transposed("wq")),
        as_if="wq were transposed: x @ wq, where row i of the file makes output i",
    ),
    Fault(
        "wo-transposed",
        "wiring",
        "wrong after a few tokens",
        "x @ wo where wo is stored (out, in)",
        "x @ wo.T: row i of the file makes output i",
        ops(weight=_transposed("wo")),
        as_if="wo were transposed: x @ wo, where row i of the file makes output i",
    ),
    Fault(
        "w-down-transposed",
        "wiring",
        "garbage from the first token on",
        "w2's dim x hidden_dim numbers are read as hidden_dim rows of dim",
        "w2 is dim rows of hidden_dim",
        ops(weight=_transposed("w_down")),
        as_if="w2 were transposed: its numbers are read as hidden_dim rows of dim",
    ),
    Fault(
        "wk-wv-swapped",
        "wiring",
        "garbage from the first token on",
        "keys are made by wv and values by wk",
        "the file has wq, wk, wv, wo in this order",
        ops(weight=looked_up(wk="wv", wv="wk")),
        as_if="keys were made by wv and values by wk",
    ),
    Fault(
        "attention-residual-missing",
        "wiring",
        "garbage from the first token on",
        "the attention's output replaces the residual stream",
        "add it: x = x + wo(...)",
        ops(attn_residual=lambda step, x, delta: delta),
        as_if="the attention's output replaced x instead of being added to it",
    ),
    Fault(
        "ffn-residual-missing",
        "wiring",
        "garbage from the first token on",
        "the feed-forward block's output replaces the residual stream",
        "add it: x = x + w2(...)",
        ops(ffn_residual=lambda step, x, delta: delta),
        as_if="the feed-forward block's output replaced x instead of being added to it",
    ),
    Fault(
        "attention-residual-of-norm",
        "wiring",
        "garbage from the first token on",
        "RMSNorm writes over the residual stream, and the attention's output is added to that",
        "normalise into another buffer (xb)",
        ops(attn_residual=lambda step, x, delta: step.values["attn_norm"] + delta),
        as_if="RMSNorm wrote over x, and the attention's output were added to that",
    ),
    Fault(
        "ffn-residual-of-norm",
        "wiring",
        "garbage from the first token on",
        "RMSNorm writes over the residual stream, and the feed-forward block's output is added to that",
        "normalise into another buffer (xb)",
        ops(ffn_residual=lambda step, x, delta: step.values["ffn_norm"] + delta),
        as_if="RMSNorm wrote over x, and the feed-forward block's output were added to that",
    ),
    Fault(
        "last-layer-skipped",
        "wiring",
        "plausible words, wrong within a few tokens",
        "the loop over layers ends one early",
        "run all n_layers",
        ops(layer_order=lambda config: range(config.n_layers - 1)),
        as_if="the last layer were left out: the loop over layers ends one early",
    ),
    Fault(
        "layers-reversed",
        "wiring",
        "garbage from the first token on",
        "the layers run from the last to the first",
        "run them in the file's order",
        ops(layer_order=lambda config: range(config.n_layers)[::-1]),
        as_if="the layers ran from the last to the first",
    ),
    Fault(
        "embedding-scaled",
        "wiring",
        "garbage from the first token on",
        "the embedding is multiplied by sqrt(dim), as in the first transformers and in Gemma",
        "use the row as it is",
        ops(embed=_scaled_embedding),
        as_if="the embedding were multiplied by sqrt(dim), as in Gemma",
    ),
)


# ---- the same function in other roundings ------------------------------------------------------------------------


def _double_sums(step: Step, name: str, x: Array, w: Weight) -> Array:
    if isinstance(w, QuantTensor):
        return LIBRARY.matmul(step, name, x, w)
    out: Array = (x.astype(np.float64) @ w.T.astype(np.float64)).astype(x.dtype)
    return out


def _backwards(step: Step, name: str, x: Array, w: Weight) -> Array:
    if isinstance(w, QuantTensor):
        return LIBRARY.matmul(step, name, x, w)
    out: Array = np.ascontiguousarray(x[:, ::-1]) @ np.ascontiguousarray(w[:, ::-1]).T
    return out


def _norm_in_double(step: Step, x: Array, gain: Array) -> Array:
    wide = x.astype(np.float64)
    factor = 1 / np.sqrt((wide * wide).mean(axis=-1, keepdims=True) + step.config.norm_eps)
    out: Array = (wide * factor * gain).astype(x.dtype)
    return out


def _reciprocal_scale(step: Step, scores: Array) -> Array:
    out: Array = scores * scores.dtype.type(1 / math.sqrt(step.config.head_dim))
    return out


_SAME = "the same real function; only roundings of float32 differ, which is what the noise floor measures"

ROUNDING = (
    Fault(
        "sums-in-double",
        "wiring",
        "none",
        "dot products are added up in double, as JavaScript does by itself",
        "nothing to mend",
        ops(matmul=_double_sums),
        Fate.EQUIVALENT,
        _SAME,
    ),
    Fault(
        "sums-in-another-order",
        "wiring",
        "none",
        "dot products are added up from the end, in lanes, in blocks, or by a library",
        "nothing to mend (int8 text is another matter: it is golden in llama2.c's order only)",
        ops(matmul=_backwards),
        Fate.EQUIVALENT,
        _SAME,
    ),
    Fault(
        "norm-in-double",
        "normalisation",
        "none",
        "RMSNorm is computed in double and rounded",
        "nothing to mend",
        _norm(_norm_in_double),
        Fate.EQUIVALENT,
        _SAME,
    ),
    Fault(
        "scale-by-reciprocal",
        "attention",
        "none",
        "scores are multiplied by 1 / sqrt(head_dim), or queries are scaled beforehand",
        "nothing to mend",
        ops(scale=_reciprocal_scale),
        Fate.EQUIVALENT,
        _SAME,
    ),
)
