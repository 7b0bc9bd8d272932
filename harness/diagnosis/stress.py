"""Stress checkpoints: models altered so that their text shows what ordinary text hides.

Each is made from any small model by exact edits of its weights or of its tokenizer (`harness.models.altered`), and
comes with the requests to make of it. What each shows is measured: docs/faults.md has the certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.port import Request
from harness.diagnosis.sampling import SAMPLER
from harness.models import Model
from harness.models.altered import ALTERATIONS

__all__ = ["ORDINARY", "STRESSES", "Stress", "by_name"]

Array = npt.NDArray[Any]

# What is asked of a model as it is.
ORDINARY: Mapping[str, Request] = {
    "greedy": Request(),
    "prompt": Request(b"The dog"),
    "nucleus": Request(b"One day", temperature=1, topp=0.9, seed=42),
    "negative seed": Request(b"There was a big", temperature=0.8, topp=0.95, seed=-1),
    "no nucleus": Request(temperature=1, topp=0, seed=42),
    "cold": Request(temperature=0.0001, topp=1, steps=40),
    "hot": Request(temperature=4, topp=0.9, seed=7, steps=40),
    "odd top-p": Request(temperature=1, topp=1.5, seed=5, steps=40),
    "time as seed": Request(temperature=1, topp=0.9, seed=0, steps=40),
    "two requests": Request(b"The sun", steps=30, before=b"A cat"),
    "bytes": Request("Zoë saw a 🦙".encode(), steps=48),
    "quotes": Request("“Hi” café".encode(), steps=40),
    "repeated letters": Request(b"lllly oooo", steps=40),
    "merges": Request(b"here little", steps=40),
    "spaces": Request(b" two  spaces ", steps=40),
    "specials": Request(b"<s>Tim</s>", steps=40),
    "meta space": Request("a\u2581b".encode(), steps=40),
}


@dataclass(frozen=True, slots=True)
class Stress:
    """A way to alter a model.

    Attributes:
        shows: what its text shows that ordinary text does not.
        made: from a model to its altered form; in memory.
        requests: what to ask of it, by name; made from the altered model.
        suits: which models it can be made from.
        amplifies: the faults that it is meant for; its certificate says by how much.
    """

    name: str
    shows: str
    made: Callable[[Model], Model]
    requests: Callable[[Model], Mapping[str, Request]]
    suits: Callable[[Model], bool] = lambda model: model.checkpoint.group_size is None
    amplifies: tuple[str, ...] = ()


def _altered(name: str) -> Callable[[Model], Model]:
    def made(model: Model) -> Model:
        weights, pieces = ALTERATIONS[name](model.checkpoint, model.tokenizer)
        return replace(model, checkpoint=weights, vocabulary=pieces)

    return made


def _fits_64(model: Model) -> bool:
    found = model.checkpoint
    if found.group_size is not None or found.config.hidden_dim % 64 == 0 or found.config.dim < 64:
        return False
    return all(tensor.size % 64 == 0 for tensor in found.tensors.values() if getattr(tensor, "ndim", 1) == 2)  # type: ignore[union-attr]


# ---- requests ----------------------------------------------------------------------------------------------------


def _asked(*names: str) -> Callable[[Model], Mapping[str, Request]]:
    return lambda model: {name: ORDINARY[name] for name in names}


def seed_on_a_boundary(vocab_size: int, steps: int = 60) -> int:
    """The first seed whose coins, kept in 32 bits instead of 24, give another token of a uniform distribution."""
    p = SAMPLER.running_sums(np.full(vocab_size, np.float32(1) / np.float32(vocab_size), np.float32))
    seeds = np.arange(1, 1 << 16, dtype=np.uint64)
    state = seeds.copy()
    differs = np.zeros(len(seeds), bool)
    for _ in range(steps):
        state ^= state >> np.uint64(12)
        state ^= state << np.uint64(25)
        state ^= state >> np.uint64(27)
        bits = (state * np.uint64(0x2545F4914F6CDD1D)) >> np.uint64(32)
        coins = (bits >> np.uint64(8)).astype(np.float32) / np.float32(1 << 24)
        wide = (bits.astype(np.float64) / 2**32).astype(np.float32)
        differs |= np.searchsorted(p, coins, "right") != np.searchsorted(p, wide, "right")
    return int(seeds[differs.argmax()])


def _uniform_requests(model: Model) -> Mapping[str, Request]:
    n = model.checkpoint.config.vocab_size
    p = np.full(n, np.float32(1) / np.float32(n), np.float32)
    half = float(SAMPLER.running_sums(p)[n // 2 - 1])
    return {
        "greedy": Request(steps=8),
        "coins": Request(temperature=1, topp=1, seed=42),
        "coins of a negative seed": Request(temperature=1, topp=1, seed=-7),
        "coin on a boundary": Request(temperature=1, topp=1, seed=seed_on_a_boundary(n)),
        "nucleus": Request(temperature=1, topp=0.9, seed=42),
        "nucleus to the bit": Request(temperature=1, topp=half, seed=42),
    }


_EPS = ("norm-eps-missing", "norm-eps-1e-6", "norm-eps-1e-3", "norm-eps-after-root", "norm-eps-before-mean")
_ANGLES = ("rope-theta-1e6", "rope-exponent-doubled", "rope-half-of-k", "rope-half-split", "position-from-one")
_WHOLE = {"whole context": Request(steps=0)}

STRESSES: tuple[Stress, ...] = (
    Stress(
        "plain", "most faults: the model as it is", lambda model: model, lambda model: ORDINARY, lambda model: True
    ),
    Stress(
        "whole-context",
        "what collides or drifts late: the model as it is, to the end of its context",
        lambda model: model,
        lambda model: _WHOLE,
        lambda model: True,
    ),
    Stress(
        "small-activations",
        "epsilon: the embedding is so small that RMSNorm's epsilon is as large as its mean square",
        _altered("small-activations"),
        _asked("greedy", "prompt"),
        amplifies=_EPS,
    ),
    Stress(
        "uniform",
        "the generator and the sampler: all logits are exactly 0, so that each token is a coin in plain text, "
        "and every tie is exact",
        _altered("uniform"),
        _uniform_requests,
    ),
    Stress(
        "flat-attention",
        "masks and slots: queries are an eighth, so that slots seen count nearly the same",
        _altered("flat-attention"),
        _asked("greedy", "prompt"),
        amplifies=("mask-excludes-self", "softmax-all-slots", "position-from-one"),
    ),
    Stress(
        "peaked-attention",
        "softmax and scale: queries are 32 times as large, scores in the hundreds",
        _altered("peaked-attention"),
        _asked("greedy", "prompt"),
        amplifies=("softmax-overflows", "attention-unscaled", "ffn-gelu", "rope-half-of-k"),
    ),
    Stress(
        "long-positions",
        "frequencies and offsets: queries are 16 times as large, so that a small turn moves much",
        _altered("long-positions"),
        _asked("greedy", "prompt"),
        amplifies=_ANGLES,
    ),
    Stress(
        "distinct-heads",
        "the mapping of query heads to key/value heads: values of neighbouring heads differ in scale",
        _altered("distinct-heads"),
        _asked("greedy", "prompt"),
        lambda model: (
            model.checkpoint.group_size is None
            and 1 < model.checkpoint.config.n_kv_heads < model.checkpoint.config.n_heads
        ),
        ("heads-modulo", "heads-first", "heads-by-kv-heads"),
    ),
    Stress(
        "reversed-classifier",
        "the path of untied models: the classifier is the embedding upside down",
        _altered("reversed-classifier"),
        _asked("greedy", "prompt"),
        amplifies=("negative-vocab-tied", "tables-not-skipped", "tables-of-other-length"),
    ),
    Stress(
        "nan-row",
        "how a maximum treats NaN: one row of the classifier is NaN",
        _altered("nan-row"),
        _asked("greedy"),
    ),
    Stress(
        "bos-exchanged",
        "the stop at BOS: it stands where the full stop was",
        _altered("bos-exchanged"),
        _asked("greedy", "prompt"),
    ),
    Stress(
        "eos-exchanged",
        "what EOS does: it stands where the full stop was",
        _altered("eos-exchanged"),
        _asked("greedy", "prompt"),
    ),
    Stress(
        "short-context",
        "the clamp of steps: a context of 32",
        _altered("short-context"),
        lambda model: {"too many steps": Request(steps=60), "all steps": Request(steps=0)},
    ),
    Stress(
        "int8-groups-of-64",
        "int8 groups that straddle rows",
        _altered("int8-groups-of-64"),
        _asked("greedy", "prompt"),
        _fits_64,
        (
            "int8-tails-counted",
            "int8-activations-in-float",
            "int8-sum-in-16-bits",
            "int8-truncated",
        ),
    ),
    Stress(
        "int8-zero-group",
        "a group of activations that is all zeros",
        _altered("int8-zero-group"),
        _asked("greedy"),
        lambda model: model.checkpoint.group_size is not None,
        ("int8-zero-group",),
    ),
    Stress("surplus-piece", "tokenizers larger than the model", _altered("surplus-piece"), _asked("prompt")),
    Stress(
        "space-runs",
        "the lowest score that is merged: a piece of two spaces has it",
        _altered("space-runs"),
        lambda model: {"run of spaces": Request(b"a    b", steps=40)},
    ),
)


def by_name(name: str) -> Stress:
    """Return the stress of that name; KeyError if there is none."""
    return {stress.name: stress for stress in STRESSES}[name]
