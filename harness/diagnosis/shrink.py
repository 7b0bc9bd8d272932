"""Smaller models out of a model: parts of it left out, its vocabulary cut, its weights made plain.

None of it keeps the function that the model computes. It is for failures: whether a smaller model still shows one,
the program that fails decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Checkpoint, Tensor
from harness.model_config import ModelConfig
from harness.models import Model
from harness.quant import QuantTensor, quantize_weights

__all__ = [
    "Kept",
    "cut",
    "fewer_pieces",
    "first_of",
    "plainer",
    "plainness",
    "shapes_below",
    "shorter_context",
    "tied",
    "used_pieces",
    "whole",
]

Array = npt.NDArray[Any]

_BYTES = range(3, 259)  # ids of the byte pieces, where there are any
_SPECIALS = range(3)


@dataclass(frozen=True, slots=True)
class Kept:
    """Which parts of a model are kept, each by its number.

    Attributes:
        layers, kv_heads, hidden: of the model.
        queries: of the query heads of each key/value head.
        pairs: of the rotary pairs of each head.
        channels: of the residual stream; as many as all query heads have values.
    """

    layers: tuple[int, ...]
    kv_heads: tuple[int, ...]
    queries: tuple[int, ...]
    pairs: tuple[int, ...]
    hidden: tuple[int, ...]
    channels: tuple[int, ...]


def whole(config: ModelConfig) -> Kept:
    """All of a model."""
    return Kept(
        tuple(range(config.n_layers)),
        tuple(range(config.n_kv_heads)),
        tuple(range(config.n_rep)),
        tuple(range(config.head_dim // 2)),
        tuple(range(config.hidden_dim)),
        tuple(range(config.dim)),
    )


def first_of(config: ModelConfig, **at_most: int) -> Kept:
    """Keep the first so many of some parts, by their names in `Kept`, and all of the others."""
    full = whole(config)
    one = replace(full, **{part: getattr(full, part)[:n] for part, n in at_most.items()})
    n_channels = 2 * len(one.kv_heads) * len(one.queries) * len(one.pairs)
    return replace(one, channels=full.channels[:n_channels])


def shapes_below(config: ModelConfig) -> Iterator[Kept]:
    """Yield what may be kept of a model, one part smaller each time, the boldest first: one, a half, one less."""
    full = whole(config)
    for fewer in (lambda n: 1, lambda n: n // 2, lambda n: n - 1):
        for part in ("layers", "kv_heads", "queries", "pairs", "hidden"):
            n = len(getattr(full, part))
            if 0 < fewer(n) < n:
                yield first_of(config, **{part: fewer(n)})


def cut(model: Model, kept: Kept) -> Model:
    """Keep parts of a model only. int8 models are quantised anew, in the largest groups that fit."""
    found = model.checkpoint
    config = found.config
    head = np.array([[2 * pair, 2 * pair + 1] for pair in kept.pairs]).reshape(-1)
    kv = np.array(kept.kv_heads)
    heads = (kv[:, None] * config.n_rep + np.array(kept.queries)).reshape(-1)
    q = (heads[:, None] * config.head_dim + head).reshape(-1)
    k = (kv[:, None] * config.head_dim + head).reshape(-1)
    channels, hidden = np.array(kept.channels), np.array(kept.hidden)
    every = np.arange(config.vocab_size)
    kinds = {
        "tok_embedding": (every, channels),
        "lm_head": (every, channels),
        "wq": (q, channels),
        "wk": (k, channels),
        "wv": (k, channels),
        "wo": (channels, q),
        "w_gate": (hidden, channels),
        "w_up": (hidden, channels),
        "w_down": (channels, hidden),
    }

    def part(name: str) -> Array:
        tensor = _floats(found.tensors[name])
        taken: Array = tensor[channels] if tensor.ndim == 1 else tensor[np.ix_(*kinds[name.rpartition(".")[2]])]
        return np.ascontiguousarray(taken)

    tensors = {name: part(name) for name in found.tensors if not name.startswith("layers.")}
    for at, layer in enumerate(kept.layers):
        prefix = f"layers.{layer}."
        tensors |= {
            f"layers.{at}.{name.removeprefix(prefix)}": part(name)
            for name in found.tensors
            if name.startswith(prefix)
        }
    smaller = replace(
        config,
        n_layers=len(kept.layers),
        n_kv_heads=len(kv),
        n_heads=len(heads),
        dim=len(channels),
        hidden_dim=len(hidden),
    )
    return _changed(model, smaller, tensors)


def fewer_pieces(model: Model, keep: Collection[int]) -> Model:
    """Keep some ids of the vocabulary, the special ones always; byte pieces all or, if none of them is kept, none."""
    known = model.tokenizer
    has_bytes = b"<0x00>" in known.pieces
    wanted = set(keep) | set(_SPECIALS)
    if has_bytes and wanted & set(_BYTES):
        wanted |= set(_BYTES)
    ids = np.array(sorted(i for i in wanted if i < model.checkpoint.config.vocab_size), np.intp)
    tensors = {
        name: _floats(tensor)[ids] if name in ("tok_embedding", "lm_head") else _floats(tensor)
        for name, tensor in model.checkpoint.tensors.items()
    }
    words = replace(known, pieces=tuple(known.pieces[i] for i in ids), scores=known.scores[ids])
    smaller = replace(model.checkpoint.config, vocab_size=len(ids))
    return replace(_changed(model, smaller, tensors), vocabulary=words)


def shorter_context(model: Model, seq_len: int) -> Model:
    """Cut the context."""
    found = model.checkpoint
    smaller = replace(found.config, seq_len=seq_len)
    return replace(model, checkpoint=replace(found, config=smaller, path=None, rope_tables=None))


def tied(model: Model) -> Model:
    """Make the embedding the classifier."""
    tensors = {name: _floats(tensor) for name, tensor in model.checkpoint.tensors.items() if name != "lm_head"}
    return _changed(model, replace(model.checkpoint.config, is_tied=True), tensors)


# ---- plain weights -----------------------------------------------------------------------------------------------


def plainness(checkpoint: Checkpoint) -> int:
    """How much there is to read in the weights: nothing in 0 and 1, in others the bits of their mantissa."""
    total = 0
    for tensor in checkpoint.tensors.values():
        values = _floats(tensor).astype(np.float32).reshape(-1)
        values = values[(values != 0) & (values != 1)]
        mantissa = (values.view(np.uint32) & 0x7FFFFF) | 0x800000
        trailing = np.zeros(len(mantissa), np.int64)
        for bit in range(1, 24):
            trailing += mantissa % (1 << bit) == 0
        total += int((24 - trailing).sum())
    return total


def plainer(model: Model) -> Iterator[Model]:
    """Yield the model with plainer weights: norms of ones, matrices of zeros, numbers of few bits."""
    found = model.checkpoint
    floats = {name: _floats(tensor) for name, tensor in found.tensors.items()}

    def edited(edit: Callable[[str, Array], Array]) -> Model:
        return _changed(model, found.config, {name: edit(name, tensor) for name, tensor in floats.items()})

    yield edited(lambda name, tensor: np.ones_like(tensor) if tensor.ndim == 1 else _rounded(tensor, 1))
    yield edited(lambda name, tensor: np.ones_like(tensor) if tensor.ndim == 1 else tensor)
    for bits in (1, 2, 4, 8):
        yield edited(lambda name, tensor, bits=bits: _rounded(tensor, bits))  # type: ignore[misc]
    for name, tensor in floats.items():
        plain = np.ones_like(tensor) if tensor.ndim == 1 else np.zeros_like(tensor)
        if not np.array_equal(tensor, plain):
            yield _changed(model, found.config, {**floats, name: plain})


def _rounded(values: Array, bits: int) -> Array:
    """Round to so many significant bits."""
    mantissa, exponent = np.frexp(values.astype(np.float32))
    rounded: Array = np.ldexp(np.rint(mantissa * (1 << bits)) / (1 << bits), exponent).astype(np.float32)
    return rounded


# ---- int8 --------------------------------------------------------------------------------------------------------


def _floats(tensor: Tensor) -> Array:
    return tensor.dequantize() if isinstance(tensor, QuantTensor) else np.asarray(tensor)


def _changed(model: Model, config: ModelConfig, tensors: dict[str, Array]) -> Model:
    found = model.checkpoint
    group_size = found.group_size
    weights: dict[str, Tensor] = dict(tensors)
    if group_size is not None:
        group_size = next(g for g in range(group_size, 0, -1) if not config.dim % g and not config.hidden_dim % g)
        weights = {
            name: tensor if tensor.ndim == 1 else quantize_weights(tensor, group_size)
            for name, tensor in tensors.items()
        }
    changed = replace(found, config=config, tensors=weights, group_size=group_size, path=None, rope_tables=None)
    return replace(model, checkpoint=changed)


def used_pieces(model: Model, ids: Sequence[int], prompt: bytes) -> set[int]:
    """Ids of a sequence, and of every piece that could come up while its prompt is encoded."""
    text = b" " + prompt
    return set(ids) | {i for i, piece in enumerate(model.tokenizer.pieces) if i not in _SPECIALS and piece in text}
