"""Checkpoints that are cut behind a sub-block: whatever comes later adds zero to the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Checkpoint, Tensor
from harness.diagnosis.black_box.codebook import FIRST_CODE_ID, FIRST_LETTER_ID, LETTERS, SPACE_ID, VOCAB_SIZE
from harness.diagnosis.black_box.states import FINAL_NORM, Place
from harness.engine.ops import Weight
from harness.errors import InputError
from harness.model_config import ModelConfig
from harness.quant import QuantTensor, quantize_weights

__all__ = ["ATTENTION", "FEED_FORWARD", "Subject", "changed", "cut", "louder", "zeroed"]

Array = npt.NDArray[Any]
Tensors = Mapping[str, Tensor]

ATTENTION = ("attn_norm", "wq", "wk", "wv", "wo")
FEED_FORWARD = ("ffn_norm", "w_gate", "w_up", "w_down")
# Larger embeddings are made this small: RMSNorm's epsilon then is a visible part of what it divides by.
_ROOT_MEAN_SQUARE = 2.0**-6


@dataclass(frozen=True, slots=True)
class Subject:
    """A model in the codebook's vocabulary.

    Attributes:
        tensors: all but the last gain and the classifier.
        final_gain: of the model's last norm. Cut checkpoints have ones in its place, so that a wrong gain shows in
            none of them.
    """

    config: ModelConfig
    tensors: Tensors
    final_gain: Array
    group_size: int | None

    @classmethod
    def of(cls, checkpoint: Checkpoint, vocab_size: int | None = None) -> Subject:
        """Put a model's blocks behind an embedding of a few of its own rows.

        The space and the letters of prompts are rows of its strongest tokens, no two the same; all codes are one row.

        Args:
            vocab_size: the only one that the program accepts, if it has one.

        Raises:
            InputError: it is no plain llama.
        """
        block = checkpoint.config.block
        if block.norm != "rms" or block.is_parallel or not block.is_gated or block.qkv_bias or block.other_bias:
            raise InputError("is no plain llama", path=checkpoint.path, hint="take another model")
        table = _floats(checkpoint.tensors["tok_embedding"])
        strength = np.vecdot(table, table) / table.shape[1]
        strongest = np.argsort(-strength, kind="stable")  # untrained rows are weak, and alike
        picked = strongest[np.arange(2 + len(LETTERS)) % len(strongest)]
        size = float(np.sqrt(np.median(strength[picked])))
        factor = 2.0 ** min(0.0, np.floor(np.log2(_ROOT_MEAN_SQUARE / size))) if size > 0 else 1.0
        made = np.tile(table[picked[0]], (vocab_size or VOCAB_SIZE, 1))
        made[1] = table[1]
        made[SPACE_ID] = table[picked[1]]
        made[FIRST_LETTER_ID:FIRST_CODE_ID] = table[picked[2:]]
        tensors = {name: t for name, t in checkpoint.tensors.items() if name not in ("lm_head", "final_norm")}
        tensors["tok_embedding"] = _like(tensors["tok_embedding"], made * np.float32(factor))
        return cls(
            replace(checkpoint.config, vocab_size=len(made), is_tied=False),
            tensors,
            _floats(checkpoint.tensors["final_norm"]),
            checkpoint.group_size,
        )

    @property
    def is_int8(self) -> bool:
        return self.group_size is not None

    def checkpoint(self, tensors: Tensors, classifier: Weight, final_gain: Array) -> Checkpoint:
        """A file's worth of these tensors, with a classifier and a last gain."""
        whole = {**tensors, "final_norm": final_gain.astype(np.float32), "lm_head": classifier}
        n_layers = sum(name.endswith(".wo") for name in whole)
        config = replace(self.config, n_layers=n_layers)
        return Checkpoint(config, whole, group_size=self.group_size)

    def gain_at(self, place: Place) -> Array:
        return self.final_gain if place == FINAL_NORM else np.ones(self.config.dim, np.float32)


def cut(subject: Subject, place: Place) -> dict[str, Tensor]:
    """The tensors of a checkpoint that is cut behind a place.

    All weights of the sub-blocks behind it are zero, their norms too, so that a program that misreads them reads
    zeros. In an int8 model only what adds to the residual stream is: a group of activations that are all zero is a
    case of its own.
    """
    layer, _ = place
    tensors = dict(subject.tensors)
    if place == FINAL_NORM:
        return tensors
    for index in range(subject.config.n_layers):
        is_later = index > layer
        ends_here = place == (index, "attention")
        dead = (*(ATTENTION if is_later else ()), *(FEED_FORWARD if is_later or ends_here else ()))
        kept = () if not subject.is_int8 else tuple(set(dead) - {"wo", "w_down"})
        tensors = zeroed(tensors, index, *(name for name in dead if name not in kept))
    return tensors


def zeroed(tensors: Tensors, layer: int, *names: str) -> dict[str, Tensor]:
    """The same with some of a layer's tensors all zeros."""
    return changed(tensors, {f"layers.{layer}.{name}": _zeros for name in names})


def _zeros(values: Array) -> Array:
    """As many zeros, which take no memory."""
    return np.broadcast_to(np.float32(0), values.shape)


def changed(tensors: Tensors, edits: Mapping[str, Callable[[Array], Array]]) -> dict[str, Tensor]:
    """The same with some tensors edited, as float32."""
    found = dict(tensors)
    for name, edit in edits.items():
        found[name] = _like(found[name], edit(_floats(found[name])))
    return found


def louder(tensors: Tensors) -> dict[str, Tensor]:
    """The same with a residual stream 4096 times as large, as far as layer 0 goes: epsilon no longer counts."""
    names = ("tok_embedding", "layers.0.wo", "layers.0.w_down")
    return changed(tensors, dict.fromkeys(names, lambda values: values * 4096))


def _floats(tensor: Tensor) -> Array:
    return tensor.dequantize() if isinstance(tensor, QuantTensor) else np.asarray(tensor, np.float32)


def _like(tensor: Tensor, values: Array) -> Tensor:
    """Values in the form of a tensor."""
    values = values.astype(np.float32, copy=False)
    return quantize_weights(values, tensor.group_size) if isinstance(tensor, QuantTensor) else values
