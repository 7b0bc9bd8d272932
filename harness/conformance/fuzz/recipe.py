"""Recipe: a small model and what is asked of it, from a few numbers that can shrink.

A model is worth a question only where its answer is not a matter of rounding. Weights are scaled so that logits are
some units apart, and `Margins` asserts it: in nearly all rows along a fixed sequence the largest logit must lead by
more than honest programs may differ. A model without margins is not asked.

The vocabulary has one reading of every text: <unk>, BOS, EOS, the space, and then single characters, each a piece of
its own, so that no two merge and what a program prints can be taken apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Checkpoint, Tensor, expected_shapes
from harness.judging.floor import MULTIPLE
from harness.model_config import ModelConfig
from harness.quant import quantize_weights
from harness.tokenizer import Tokenizer

__all__ = [
    "MAX_VOCAB",
    "MIN_VOCAB",
    "SPACE",
    "Ask",
    "Recipe",
    "Weights",
    "build",
    "has_margins",
    "probe_ids",
    "vocabulary",
]

Array = npt.NDArray[Any]

SPACE = 3  # its id; characters follow
MIN_VOCAB = SPACE + 1
MAX_VOCAB = 70_000
_BEYOND = ((0xC0, 0x250), (0x3400, 0x4DB0), (0x4E00, 0x9FA0), (0x20000, 0x2A6D0))  # Latin and CJK
_QUIET = 0.1  # length of the rows of BOS and EOS in a classifier, beside that of the others
_NEARLY_ALL = 0.9


@dataclass(frozen=True, slots=True)
class Ask:
    """A continuation that is asked for, in the terms of the line protocol's `generate`."""

    n: int
    temperature: float = 0.0
    topp: float = 0.9
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Weights:
    """How weights are drawn; the defaults are the plainest.

    Attributes:
        seed: of all of them.
        loudness: standard deviation of the logits, roughly.
        gain: of what the layers add, beside what they read.
        peakedness: of queries and keys: small is flat attention, large is attention to one position.
        smallness: of the residual stream; a small one shows the epsilon of RMSNorm.
        stops: whether BOS and EOS are as likely as any other token.
    """

    seed: int = 0
    loudness: float = 4.0
    gain: float = 1.0
    peakedness: float = 1.0
    smallness: float = 1.0
    stops: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model and what is asked of it.

    Attributes:
        group_size: of int8 weights; None: float32.
        format: container that the program is given.
        prompt: ids behind BOS and the space, each of a character.
        asks: continuations of the prompt.
        n_probe: ids of the sequence whose logits are asked for.
    """

    config: ModelConfig
    weights: Weights = Weights()
    group_size: int | None = None
    format: str = "llama2c-v0"
    prompt: tuple[int, ...] = ()
    asks: tuple[Ask, ...] = field(default=(Ask(1),))
    n_probe: int = 1


def vocabulary(vocab_size: int) -> Tokenizer:
    """Make a vocabulary of single characters.

    >>> vocabulary(8).pieces[3:]
    (b' ', b'a', b'b', b'c', b'd')
    """
    pieces = (b"<unk>", b"\n<s>\n", b"\n</s>\n", *itertools.islice(_characters(), vocab_size - SPACE))
    return Tokenizer(pieces, -np.arange(vocab_size, dtype=np.float32))


def _characters() -> Iterator[bytes]:
    """The space, printable ASCII but what the special pieces are written with, then letters of Latin and of CJK."""
    yield b" "
    letters = [chr(c) for c in range(0x61, 0x7B)]
    rest = [chr(c) for c in range(0x21, 0x7F) if chr(c) not in letters and chr(c) not in "<>"]
    beyond = (chr(c) for first, end in _BEYOND for c in range(first, end))
    yield from (character.encode() for character in itertools.chain(letters, rest, beyond))


def build(recipe: Recipe) -> Checkpoint:
    """Make the model of a recipe."""
    config, how = recipe.config, recipe.weights
    random = np.random.default_rng(how.seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in expected_shapes(config).items():
        values = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            tensors[name] = 1 + values / 4
        else:
            tensors[name] = values * np.float32(_std(config, how, name, shape[1]))
    for name in ("tok_embedding",) if config.is_tied else ("lm_head",):
        table = tensors[name]
        assert isinstance(table, np.ndarray)
        if not how.stops:
            table[1:3] *= np.float32(_QUIET)
    # A row of the classifier has this length, and the final norm makes a vector of length sqrt(dim).
    row = how.smallness * config.dim**0.5 if config.is_tied else 1.0
    final = tensors["final_norm"]
    assert isinstance(final, np.ndarray)
    tensors["final_norm"] = final * np.float32(how.loudness / row)
    if recipe.group_size is None:
        return Checkpoint(config, tensors)
    quantised = {
        name: tensor if tensor.ndim == 1 else quantize_weights(tensor, recipe.group_size)
        for name, tensor in tensors.items()
        if isinstance(tensor, np.ndarray)
    }
    return Checkpoint(config, quantised, "llama2c-v2", recipe.group_size)


def _std(config: ModelConfig, how: Weights, name: str, n_in: int) -> float:
    kind = name.rpartition(".")[2]
    if kind == "tok_embedding":
        return how.smallness
    scale = {
        "wq": how.peakedness**0.5,
        "wk": how.peakedness**0.5,
        # A tied model whose layers add little would repeat its last token.
        "wo": how.smallness * how.gain * (3 if config.is_tied else 1),
        "w_down": how.smallness * how.gain * (3 if config.is_tied else 1),
    }.get(kind, 1.0)
    return float(scale * n_in**-0.5)


def probe_ids(recipe: Recipe) -> list[int]:
    """The sequence that margins are measured along, and whose logits are asked for: the prompt, then any ids."""
    config = recipe.config
    n = max(1, min(recipe.n_probe, config.seq_len))
    random = np.random.default_rng([recipe.weights.seed, 1])
    rest = random.integers(0, config.vocab_size, n).tolist()
    return [1, *recipe.prompt, *rest][:n]


def has_margins(exact: Array, other: Array) -> bool:
    """Whether the largest logits lead by more than honest programs may differ, in nearly all rows.

    Args:
        exact: (n, vocab_size) the reference's logits.
        other: the same by another honest program.
    """
    if not (np.isfinite(exact).all() and np.isfinite(other).all()):
        return False
    top = np.sort(exact, axis=1)[:, -2:].astype(np.float64)
    margins = top[:, 1] - top[:, 0]
    noise = np.abs(other.astype(np.float64) - exact).max()
    return bool((margins > MULTIPLE * noise).mean() >= _NEARLY_ALL)
