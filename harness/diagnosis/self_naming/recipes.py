"""Recipes: which models, alterations and prompts self-naming checkpoints are made of.

Faults hide in different places, so several probes are asked, and together they tell more faults apart than any one
of them: `PLAN` for programs that read float32 files, `PLAN_INT8` for those that read int8 ones only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Tensor
from harness.diagnosis import stress
from harness.errors import InputError
from harness.models import Model
from harness.quant import QuantTensor

__all__ = ["PLAN", "PLAN_INT8", "RECIPES", "Recipe", "by_name"]

Array = npt.NDArray[Any]

STORY = (
    "Once upon a time, there was a little boy named Ben. He had a small red boat and a big brown dog. Every day they "
    "went to the lake. One morning, the boat was gone! Ben looked under the tree and in the box, but he could not "
    "find it. The dog ran to the water and barked. There it was, far away. A kind old man came and said, I can help "
    "you. He took a long stick and pulled the boat back. Ben was so happy that he gave the man a cookie. Then they "
    "all sat in the sun and played until it was dark. That night, Ben told his mom about the lake and the boat. "
)
# Something for every way to encode wrongly: spaces in front and in a row, code points that are pieces and others
# that are not, U+2581, the spelling of a special token, repeated letters, words that merge in several ways.
HARD_TEXT = " Zo\u00eb  saw a \U0001f999</s> a\u2581b here little \u201cHi\u201d caf\u00e9 lllly oooo"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a self-naming checkpoint is made of a model.

    Attributes:
        aim: what it is there for, for a reader who knows llama2.c.
        altered: the model's weights changed, so that some operation matters more.
        n_ids: the prompt is as much of the story as has so many ids; 0: the text that is hard to encode.
        seq_len: the context that the file states; None: the model's. A short one is outgrown by short prompts.
        is_untied: a classifier of its own, even where the model has none; False: as the model is.
        suits_int8: whether int8 weights can be altered so.
    """

    name: str
    aim: str
    altered: Callable[[Model], Model] = lambda model: model
    n_ids: int = 0
    seq_len: int | None = None
    is_untied: bool = False
    suits_int8: bool = True

    def prompt(self, model: Model) -> bytes:
        """The prompt for a model's tokenizer."""
        if not self.n_ids:
            return HARD_TEXT.encode()
        words = STORY.split(" ")
        for n in range(1, len(words)):
            text = " ".join(words[: n + 1]).encode()
            if len(model.tokenizer.encode(text)) > self.n_ids:
                return " ".join(words[:n]).encode()
        return STORY.strip().encode()


def _edited(model: Model, edit: Callable[[str, Array], Array]) -> Model:
    found = model.checkpoint

    def one(name: str, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, QuantTensor) else edit(name, tensor)

    tensors = {name: one(name, tensor) for name, tensor in found.tensors.items()}
    return replace(model, checkpoint=replace(found, tensors=tensors, path=None))


def _last_queries_grown(model: Model) -> Model:
    """Queries of the last layer are 32 times as large: scores in the hundreds, and no later layer amplifies noise."""
    last = f"layers.{model.checkpoint.config.n_layers - 1}.wq"
    return _edited(model, lambda name, w: (w * np.float32(32)).astype(np.float32) if name == last else w)


def _uneven_final_gain(model: Model) -> Model:
    """Every other element of the final norm's gain is four times as large."""

    def edit(name: str, w: Array) -> Array:
        if name != "final_norm":
            return w
        out = w.copy()
        out[::2] *= np.float32(4)
        return out

    return _edited(model, edit)


def _small_activations(model: Model) -> Model:
    return stress.by_name("small-activations").made(model)


def _flat_attention(model: Model) -> Model:
    return stress.by_name("flat-attention").made(model)


RECIPES: tuple[Recipe, ...] = (
    Recipe("short", "a short prompt; the classifier is the embedding", n_ids=24),
    Recipe("medium", "a classifier of its own, and an uneven final norm", _uneven_final_gain, 64, 100, True),
    Recipe("long", "more than 128 positions, in a context that hardly holds them", n_ids=150, seq_len=160),
    Recipe("small", "tiny activations, where epsilon counts", _small_activations, 40, 96, True, False),
    Recipe("peaked", "attention scores of several hundreds", _last_queries_grown, 40, 96, True, False),
    Recipe("flat", "flat attention, where every position counts", _flat_attention, 90, 96, True, False),
    Recipe("text", "a prompt that is hard to encode", n_ids=0, seq_len=192, is_untied=True),
)

# (recipe, model). Different shapes tell apart what is the same function in one of them.
PLAN: tuple[tuple[str, str], ...] = (
    ("short", "gqa"),
    ("medium", "mha"),
    ("long", "gqa"),
    ("small", "gqa"),
    ("peaked", "mqa"),
    ("flat", "mqa"),
    ("text", "gqa"),
)
PLAN_INT8: tuple[tuple[str, str], ...] = (
    ("short", "gqa-q8"),
    ("medium", "mha-q8"),
    ("long", "gqa-q8"),
    ("medium", "mqa-q8"),
    ("text", "gqa-q8"),
)


def by_name(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        InputError: there is none.
    """
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise InputError(f"there is no probe {name}", hint=f"there are: {', '.join(one.name for one in RECIPES)}")
