"""Gauges: changes of a model's weights that cancel, so that a right program says the very same.

A power of two only moves exponents, and a sign only a sign: where one matrix is multiplied and the next one divided,
no bit of any logit may change, whatever the order of sums. A permutation changes that order, so the logits may move
as far as those of honest programs do. Nothing is compared with a reference: a program is compared with itself.

int8 models keep their codes (a sign aside): scales are multiplied, and whatever shares a scale shares its number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Checkpoint, Tensor
from harness.models import Model, expand_mha
from harness.quant import QuantTensor

__all__ = [
    "Draw",
    "channel_order",
    "channel_signs",
    "final_gain",
    "gain_of",
    "head_order",
    "hidden_order",
    "idle_layers",
    "longer_context",
    "own_kv_heads",
    "queries_keys",
    "up_down",
    "values_output",
    "vocabulary_order",
]

Array = npt.NDArray[Any]

_FIRST_MERGED = 259  # ids below are special and byte pieces, whose places programs know
_FIRST_PLAIN = 3  # where there are no byte pieces


@dataclass(frozen=True, slots=True)
class Draw:
    """Random numbers of a change.

    Attributes:
        seed: the same one gives the same change.
        largest: exponents are from -largest to largest.
        is_uniform: one exponent for a whole matrix, for programs that quantise by themselves in groups unknown.
    """

    seed: int = 1
    largest: int = 3
    is_uniform: bool = False

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    def exponents(self, n: int, *key: int, block: int | None = 1) -> npt.NDArray[np.int_]:
        """Return (n,) exponents, equal within blocks; block None: all equal, and not 0."""
        random = self._random(*key)
        if block is None or self.is_uniform:
            return np.full(n, int(random.choice([e for e in range(-self.largest, self.largest + 1) if e])))
        return np.repeat(random.integers(-self.largest, self.largest + 1, n // block), block)

    def signs(self, n: int) -> npt.NDArray[np.int_]:
        """Return (n,) of 1 and -1."""
        return self._random().choice([-1, 1], n)

    def order(self, n: int, *key: int, block: int = 1) -> npt.NDArray[np.intp]:
        """Return a permutation of n that moves whole blocks."""
        blocks = self._random(*key).permutation(n // block)
        return (blocks[:, None] * block + np.arange(block)).reshape(-1)


# ---- one tensor --------------------------------------------------------------------------------------------------


def _group_rows(tensor: QuantTensor) -> Array:
    return tensor.scales.reshape(tensor.shape[0], -1)


def _times(tensor: Tensor, exponents: Array, axis: int) -> Tensor:
    """Multiply rows (axis 0) or columns (axis 1) by powers of two; a vector has axis 0 alone."""
    if not isinstance(tensor, QuantTensor):
        by = exponents if tensor.ndim == 1 or axis == 1 else exponents[:, None]
        moved: Array = np.ldexp(np.asarray(tensor), by).astype(np.float32)
        return moved
    if (exponents == exponents[0]).all():
        return replace(tensor, scales=np.ldexp(tensor.scales, int(exponents[0])))
    by = exponents[:, None] if axis == 0 else exponents[None, :: tensor.group_size]
    return replace(tensor, scales=np.ldexp(_group_rows(tensor), by).reshape(-1).astype(np.float32))


def _signed(tensor: Tensor, signs: Array, axis: int) -> Tensor:
    by = signs if axis == 1 or (not isinstance(tensor, QuantTensor) and tensor.ndim == 1) else signs[:, None]
    if isinstance(tensor, QuantTensor):
        return replace(tensor, codes=(tensor.codes * by).astype(np.int8))
    return (np.asarray(tensor) * by.astype(np.float32)).astype(np.float32)


def _taken(tensor: Tensor, order: Array, axis: int) -> Tensor:
    """Reorder rows or columns; columns of int8 matrices in whole groups."""
    if not isinstance(tensor, QuantTensor):
        return np.ascontiguousarray(np.take(np.asarray(tensor), order, axis=0 if tensor.ndim == 1 else axis))
    scales = _group_rows(tensor)
    scales = scales[order] if axis == 0 else scales[:, order[:: tensor.group_size] // tensor.group_size]
    codes = np.ascontiguousarray(np.take(tensor.codes, order, axis=axis))
    return QuantTensor(codes, np.ascontiguousarray(scales).reshape(-1), tensor.group_size)


_Edit = Callable[[Tensor], Tensor]


def _with(model: Model, tensors: Mapping[str, Tensor], **config: Any) -> Model:
    """Return the model with some tensors replaced; tables are computed anew where they no longer fit."""
    found = model.checkpoint
    changed = replace(found.config, **config)
    tables = found.rope_tables if changed.seq_len == found.config.seq_len else None
    weights = replace(found, config=changed, tensors={**found.tensors, **tensors}, path=None, rope_tables=tables)
    return replace(model, checkpoint=weights)


def _layers(model: Model, edits: Callable[[int], Mapping[str, _Edit]]) -> Model:
    """Edit tensors of every layer."""
    tensors = model.checkpoint.tensors
    changed = {
        f"layers.{layer}.{name}": edit(tensors[f"layers.{layer}.{name}"])
        for layer in range(model.checkpoint.config.n_layers)
        for name, edit in edits(layer).items()
    }
    return _with(model, changed)


def _rows(exponents: Array) -> _Edit:
    return lambda tensor: _times(tensor, exponents, 0)


def _columns(exponents: Array) -> _Edit:
    return lambda tensor: _times(tensor, exponents, 1)


def _block(weights: Checkpoint, width: int) -> int | None:
    """How many neighbours must share an exponent: a group of int8; None: all, where groups straddle rows."""
    group = weights.group_size
    if group is None:
        return 1
    return group if width % group == 0 and weights.config.dim % group == 0 else None


# ---- powers of two: no bit may change ----------------------------------------------------------------------------


def queries_keys(model: Model, draw: Draw) -> Model:
    """wq times powers of two, one for each rotary pair of a key head and its query heads; wk divided by them."""
    config = model.checkpoint.config
    block = None if _block(model.checkpoint, config.dim) is None else 2

    def edits(layer: int) -> Mapping[str, _Edit]:
        k = draw.exponents(config.kv_dim, layer, block=block)
        q = np.repeat(k.reshape(config.n_kv_heads, config.head_dim), config.n_rep, axis=0).reshape(-1)
        return {"wq": _rows(q), "wk": _rows(-k)}

    return _layers(model, edits)


def values_output(model: Model, draw: Draw) -> Model:
    """wv times powers of two, one for each channel of a value head; the columns of wo that read it divided."""
    config = model.checkpoint.config
    block = _block(model.checkpoint, config.head_dim)

    def edits(layer: int) -> Mapping[str, _Edit]:
        v = draw.exponents(config.kv_dim, layer, block=block)
        out = np.repeat(v.reshape(config.n_kv_heads, config.head_dim), config.n_rep, axis=0).reshape(-1)
        return {"wv": _rows(v), "wo": _columns(-out)}

    return _layers(model, edits)


def up_down(model: Model, draw: Draw) -> Model:
    """w3 times powers of two, one for each hidden unit; the columns of w2 divided by them."""
    hidden_dim = model.checkpoint.config.hidden_dim
    block = _block(model.checkpoint, hidden_dim)

    def edits(layer: int) -> Mapping[str, _Edit]:
        exponents = draw.exponents(hidden_dim, layer, block=block)
        return {"w_up": _rows(exponents), "w_down": _columns(-exponents)}

    return _layers(model, edits)


def gain_of(norm: str, *readers: str) -> Callable[[Model, Draw], Model]:
    """A norm's gains times powers of two, one for each channel; the columns of what reads it divided by them."""

    def changed(model: Model, draw: Draw) -> Model:
        dim = model.checkpoint.config.dim
        block = _block(model.checkpoint, dim)

        def edits(layer: int) -> Mapping[str, _Edit]:
            exponents = draw.exponents(dim, layer, block=block)
            return {norm: _rows(exponents)} | dict.fromkeys(readers, _columns(-exponents))

        return _layers(model, edits)

    return changed


def final_gain(model: Model, draw: Draw) -> Model:
    """The final norm's gains times powers of two; a classifier of its own, its columns divided by them."""
    found = model.checkpoint
    exponents = draw.exponents(found.config.dim, block=_block(found, found.config.dim))
    changed = {
        "final_norm": _times(found.tensors["final_norm"], exponents, 0),
        "lm_head": _times(found.classifier, -exponents, 1),
    }
    return _with(model, changed, is_tied=False)


def channel_signs(model: Model, draw: Draw) -> Model:
    """Some channels of the residual stream change their sign, in all that writes to it and all that reads it."""
    found = model.checkpoint
    signs = draw.signs(found.config.dim)
    changed = {
        name: _signed(tensor, signs, axis)
        for name, tensor in found.tensors.items()
        if (axis := _axis_of_channels(name)) is not None and not name.endswith("norm")
    }
    return _with(model, changed)


def _axis_of_channels(name: str) -> int | None:
    """Which axis of a tensor is the residual stream's."""
    kind = name.rpartition(".")[2]
    if kind in ("wo", "w_down") or kind.endswith("norm"):
        return 0
    return 1 if kind in ("tok_embedding", "lm_head", "wq", "wk", "wv", "w_gate", "w_up") else None


# ---- what adds nothing: no bit may change ------------------------------------------------------------------------


def idle_layers(model: Model, draw: Draw) -> Model:
    """A layer more at either end, copies of the first and the last whose wo and w2 are zero."""
    found = model.checkpoint
    n = found.config.n_layers
    others = {name: tensor for name, tensor in found.tensors.items() if not name.startswith("layers.")}
    layered = {
        f"layers.{at}.{name.split('.', 2)[2]}": _nothing(tensor)
        if at in (0, n + 1) and name.endswith((".wo", ".w_down"))
        else tensor
        for at, source in enumerate((0, *range(n), n - 1))
        for name, tensor in found.tensors.items()
        if name.startswith(f"layers.{source}.")
    }
    changed = replace(found, config=replace(found.config, n_layers=n + 2), tensors={**others, **layered}, path=None)
    return replace(model, checkpoint=changed)


def _nothing(tensor: Tensor) -> Tensor:
    if isinstance(tensor, QuantTensor):
        return replace(tensor, codes=np.zeros_like(tensor.codes))
    return np.zeros_like(tensor)


def longer_context(model: Model, draw: Draw) -> Model:
    """A context twice as long, of which no more is used than before."""
    return _with(model, {}, seq_len=2 * model.checkpoint.config.seq_len)


def own_kv_heads(model: Model, draw: Draw) -> Model:
    """Every query head gets a copy of the key/value head that it shared."""
    return replace(model, checkpoint=expand_mha(model.checkpoint))


# ---- another order: up to a tie ----------------------------------------------------------------------------------


def hidden_order(model: Model, draw: Draw) -> Model:
    """Hidden units in another order: rows of w1 and w3, columns of w2."""
    hidden_dim = model.checkpoint.config.hidden_dim

    def edits(layer: int) -> Mapping[str, _Edit]:
        order = draw.order(hidden_dim, layer, block=model.checkpoint.group_size or 1)
        rows = dict.fromkeys(("w_gate", "w_up"), lambda tensor: _taken(tensor, order, 0))
        return {**rows, "w_down": lambda tensor: _taken(tensor, order, 1)}

    return _layers(model, edits)


def head_order(model: Model, draw: Draw) -> Model:
    """Key/value heads in another order, each with its query heads, and those in another order too."""
    config = model.checkpoint.config

    def edits(layer: int) -> Mapping[str, _Edit]:
        groups = draw.order(config.n_kv_heads, layer, 0)
        within = [draw.order(config.n_rep, layer, 1, int(group)) for group in groups]
        heads = np.concatenate([group * config.n_rep + order for group, order in zip(groups, within, strict=True)])
        kv, q = ((one[:, None] * config.head_dim + np.arange(config.head_dim)).reshape(-1) for one in (groups, heads))
        return {
            "wq": lambda tensor: _taken(tensor, q, 0),
            "wk": lambda tensor: _taken(tensor, kv, 0),
            "wv": lambda tensor: _taken(tensor, kv, 0),
            "wo": lambda tensor: _taken(tensor, q, 1),
        }

    return _layers(model, edits)


def channel_order(model: Model, draw: Draw) -> Model:
    """Channels of the residual stream in another order, in all that writes to it and all that reads it."""
    found = model.checkpoint
    order = draw.order(found.config.dim, block=found.group_size or 1)
    changed = {
        name: _taken(tensor, order, axis)
        for name, tensor in found.tensors.items()
        if (axis := _axis_of_channels(name)) is not None
    }
    return _with(model, changed)


def vocabulary_order(model: Model, draw: Draw) -> Model:
    """Ids in another order, in the embedding, the classifier and the tokenizer; special and byte pieces stay."""
    known = model.tokenizer
    first = _FIRST_MERGED if b"<0x00>" in known.pieces else _FIRST_PLAIN
    twice = {piece for piece in known.pieces if known.pieces.count(piece) > 1}
    movable = np.array([i for i in range(first, known.vocab_size) if known.pieces[i] not in twice], np.intp)
    order = np.arange(known.vocab_size)
    order[movable] = movable[draw.order(len(movable))]
    tables = {
        name: _taken(model.checkpoint.tensors[name], order, 0)
        for name in ("tok_embedding", "lm_head")
        if name in model.checkpoint.tensors
    }
    words = replace(known, pieces=tuple(known.pieces[i] for i in order), scores=known.scores[order])
    return replace(_with(model, tables), vocabulary=words)
