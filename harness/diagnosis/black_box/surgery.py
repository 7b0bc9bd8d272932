"""What still diverges, and what ends it: sub-operations switched off, or made alike, in the weights.

Two kinds of edits. *Less*: something is switched off, and stays off if the program still diverges; what is left is
the smallest live set. *Alike*: a difference that a bug may depend on is taken away (every key/value head the same, wo
symmetric, gains of one); if the program then agrees with the reference, the bug is in what tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.black_box.craft import ATTENTION, FEED_FORWARD, Subject, Tensors, changed, louder, zeroed
from harness.diagnosis.black_box.states import Place
from harness.model_config import ModelConfig

__all__ = ["Alike", "alike", "one_head", "without_other_blocks"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Alike:
    """An edit that takes a difference away.

    Attributes:
        what: the edit, in words that follow "agrees".
        look_at: what is wrong if the program then agrees.
        made: the edited tensors.
    """

    what: str
    look_at: str
    made: Callable[[Tensors], Tensors]


def without_other_blocks(subject: Subject, tensors: Tensors, place: Place) -> Tensors:
    """Everything off but one sub-block: other layers, and the attention before a feed-forward block."""
    layer, block = place
    for index in range(subject.config.n_layers):
        if index != layer:
            tensors = _off(subject, tensors, index, ATTENTION)
            tensors = _off(subject, tensors, index, FEED_FORWARD)
    return _off(subject, tensors, layer, ATTENTION) if block == "feed-forward" else tensors


def _off(subject: Subject, tensors: Tensors, layer: int, names: tuple[str, ...]) -> Tensors:
    return zeroed(tensors, layer, *(names if not subject.is_int8 else set(names) & {"wo", "w_down"}))


def one_head(config: ModelConfig, tensors: Tensors, layer: int, head: int) -> Tensors:
    """Only one query head leads anywhere."""
    columns = np.arange(config.q_dim) // config.head_dim == head
    return changed(tensors, {f"layers.{layer}.wo": lambda w: w * columns})


def alike(subject: Subject, place: Place) -> Iterator[Alike]:
    """The edits that suit a place, the most telling first."""
    layer, block = place
    config = subject.config
    if config.n_layers > 1 and layer > 0:
        yield Alike(
            "once all layers have the same weights",
            "the order of the layers, and which layer's weights and norms are used",
            lambda tensors: _same_layers(config, tensors, layer),
        )
    if layer == 0:
        yield Alike(
            "once the residual stream is 4096 times as large",
            "the epsilon of RMSNorm: 1e-5, added to the mean of squares, inside the root",
            louder,
        )
        yield Alike(
            "once every embedding has a mean of zero",
            "whether a norm takes the mean off: RMSNorm does not",
            lambda tensors: changed(
                tensors, {"tok_embedding": lambda table: table - table.mean(axis=1, keepdims=True)}
            ),
        )
    yield from _in_attention(config, layer) if block == "attention" else _in_feed_forward(layer)


def _in_attention(config: ModelConfig, layer: int) -> Iterator[Alike]:
    at = f"layers.{layer}."
    size, n_kv = config.head_dim, config.n_kv_heads
    yield Alike(
        "with gains of one",
        "the gain of the norm before the attention: whether it is applied, and whether it is this norm's own",
        lambda tensors: changed(tensors, {at + "attn_norm": np.ones_like}),
    )
    if config.q_dim == config.dim:
        yield Alike("once wo is symmetric", "rows and columns of wo", lambda t: changed(t, {at + "wo": _symmetric}))
        yield Alike("once wq is symmetric", "rows and columns of wq", lambda t: changed(t, {at + "wq": _symmetric}))
    if n_kv > 1:
        rows = np.arange(config.kv_dim) % size
        yield Alike(
            "once all key/value heads are alike",
            "which key/value head a query head reads: head h reads h / (n_heads / n_kv_heads)",
            lambda t: changed(t, {at + "wk": lambda w: w[rows], at + "wv": lambda w: w[rows]}),
        )
    first = np.arange(config.q_dim) % size == 0
    last = np.arange(config.q_dim) % size >= size - 2
    rotation = "the rotation of q and k: which two components are a pair, its direction, its frequencies"
    yield Alike(
        "once only the first component of each head of q and k is live",
        rotation,
        lambda t: changed(t, _rows_of(config, at, first)),
    )
    yield Alike(
        "once only the pair that turns slowest is live in q and k",
        "the rotation of q and k: whether both are turned, and by their own position",
        lambda t: changed(t, _rows_of(config, at, last)),
    )
    yield Alike(
        "once wk and wv are alike", "which is wk, and which is wv", lambda t: _copied(t, at + "wk", at + "wv")
    )
    yield Alike(
        "with wq of zeros, when every slot counts alike",
        "the scores: wq, wk, the rotation, the division by sqrt(head_dim), which keys are read",
        lambda t: changed(t, {at + "wq": np.zeros_like}),
    )
    if layer == 0:
        yield Alike(
            "once all tokens have one embedding",
            "how slots are weighed: which are seen, the softmax, which rows of the cache are read",
            lambda t: changed(t, {"tok_embedding": lambda table: np.tile(table[-1], (len(table), 1))}),
        )


def _in_feed_forward(layer: int) -> Iterator[Alike]:
    at = f"layers.{layer}."
    yield Alike(
        "with gains of one",
        "the gain of the norm before the feed-forward: whether it is applied, and whether it is this norm's own",
        lambda t: changed(t, {at + "attn_norm": np.ones_like, at + "ffn_norm": np.ones_like}),
    )
    yield Alike(
        "once w1 and w3 are alike",
        "which of w1 (gate) and w3 (up) goes through the activation",
        lambda t: _copied(t, at + "w_gate", at + "w_up"),
    )
    activation = "the activation: silu(x) = x / (1 + exp(-x)), of w1's product"
    yield Alike(
        "where gates are large",
        activation,
        lambda t: changed(t, {at + "w_gate": lambda w: w * 4096, at + "w_down": lambda w: w / 4096}),
    )
    yield Alike(
        "where gates are tiny",
        activation,
        lambda t: changed(t, {at + "w_gate": lambda w: w / 4096, at + "w_down": lambda w: w * 4096}),
    )


def _symmetric(w: Array) -> Array:
    out: Array = (w + w.T) / 2
    return out


def _rows_of(config: ModelConfig, at: str, kept: Array) -> dict[str, Callable[[Array], Array]]:
    """Edits that leave some rows of wq, and those of the same places in wk."""
    return {
        at + "wq": lambda w: w * kept[:, None],
        at + "wk": lambda w: w * kept[: config.kv_dim, None],
    }


def _copied(tensors: Tensors, source: str, target: str) -> Tensors:
    return {**tensors, target: tensors[source]}


def _same_layers(config: ModelConfig, tensors: Tensors, layer: int) -> Tensors:
    """The weights of one layer in all layers up to it; what is cut behind it stays so."""
    found = dict(tensors)
    for index in range(layer):
        for name in (*ATTENTION, *FEED_FORWARD):
            found[f"layers.{index}.{name}"] = tensors[f"layers.{layer}.{name}"]
    return found
