"""The mistakes that conversions make, each as a change of a checkpoint that makes it, or undoes it.

A model whose logits are wrong, and become right under one of these, was converted with that mistake. All of them have
been seen in published converters: the exchange of gate and up in one whose author could not find it for weeks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from harness.checkpoint import Checkpoint, LazyTensors, Source, Tensor, shape_and_dtype
from harness.formats.rotary import to_adjacent, to_halves
from harness.formats.stored import floats
from harness.model_config import ModelConfig

__all__ = ["SUSPECTS", "Suspect", "applicable"]

Rows = Callable[[NDArray[Any], int, int], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A mistake.

    Attributes:
        name: one word for programs.
        what: the mistake, to follow "it looks as if".
        mend: checkpoint -> the same with the mistake undone (or made, where it undoes itself).
        applies: config -> whether mending changes anything.
    """

    name: str
    what: str
    mend: Callable[[Checkpoint], Checkpoint]
    applies: Callable[[ModelConfig], bool] = lambda config: True


def applicable(config: ModelConfig) -> Iterator[Suspect]:
    """Yield the suspects that could be at work in such a model."""
    return (suspect for suspect in SUSPECTS if suspect.applies(config))


def _with(checkpoint: Checkpoint, kinds: Mapping[str, Callable[[str], Callable[[], Tensor]]]) -> Checkpoint:
    """Replace the loading of the layers' tensors of some kinds."""
    sources = {}
    for name in checkpoint.tensors:
        shape, dtype = shape_and_dtype(checkpoint.tensors, name)
        kind = name.rpartition(".")[2]
        load = kinds[kind](name) if kind in kinds else partial(checkpoint.tensors.__getitem__, name)
        sources[name] = Source(shape, dtype, load)
    return replace(checkpoint, tensors=LazyTensors(sources))


def _exchanged(first: str, second: str) -> Callable[[Checkpoint], Checkpoint]:
    def mend(checkpoint: Checkpoint) -> Checkpoint:
        def of(kind: str) -> Callable[[str], Callable[[], Tensor]]:
            return lambda name: partial(checkpoint.tensors.__getitem__, f"{name.rpartition('.')[0]}.{kind}")

        return _with(checkpoint, {first: of(second), second: of(first)})

    return mend


def _turned(kinds: tuple[str, ...], order: Rows) -> Callable[[Checkpoint], Checkpoint]:
    def mend(checkpoint: Checkpoint) -> Checkpoint:
        config = checkpoint.config

        def of(name: str) -> Callable[[], Tensor]:
            return lambda: order(floats(checkpoint.tensors[name]), config.head_dim, config.rotary_dim)

        present = {kind + part for kind in kinds for part in ("", "_bias")} | {f"{kind[1:]}_norm" for kind in kinds}
        return _with(checkpoint, dict.fromkeys(present, of))

    return mend


def _wk_by_query_heads(checkpoint: Checkpoint) -> Checkpoint:
    """Undo a permutation of wk in as many heads as wq has, and do the right one."""
    config = checkpoint.config
    wrong = config.kv_dim // config.n_heads

    def of(name: str) -> Callable[[], Tensor]:
        def load() -> Tensor:
            theirs = to_halves(floats(checkpoint.tensors[name]), wrong, wrong)
            return to_adjacent(theirs, config.head_dim, config.rotary_dim)

        return load

    return _with(checkpoint, {"wk": of})


def _number(**values: Any) -> Callable[[Checkpoint], Checkpoint]:
    def mend(checkpoint: Checkpoint) -> Checkpoint:
        return replace(checkpoint, config=replace(checkpoint.config, **values))

    return mend


def _theta(theta: float) -> Suspect:
    return Suspect(
        f"theta-{theta:.0f}",
        f"rope_theta should be {theta:.0f}",
        _number(rope_theta=theta),
        lambda config: config.rope_theta != theta,
    )


def _is_square(config: ModelConfig) -> bool:
    return config.kv_dim == config.q_dim


SUSPECTS = (
    Suspect(
        "gate-up",
        "gate and up are exchanged",
        _exchanged("w_gate", "w_up"),
        lambda config: config.block.is_gated,
    ),
    Suspect(
        "not-permuted",
        "the rows of wq and wk are in halves, as Hugging Face has them: the permutation is missing",
        _turned(("wq", "wk"), to_adjacent),
        lambda config: config.rotary_dim > 2,
    ),
    Suspect(
        "permuted-twice",
        "the rows of wq and wk were permuted though they had adjacent pairs already",
        _turned(("wq", "wk"), to_halves),
        lambda config: config.rotary_dim > 2,
    ),
    Suspect(
        "wk-not-permuted",
        "the rows of wk, not those of wq, are in halves: the permutation of wk is missing",
        _turned(("wk",), to_adjacent),
        lambda config: config.rotary_dim > 2,
    ),
    Suspect(
        "wq-not-permuted",
        "the rows of wq, not those of wk, are in halves: the permutation of wq is missing",
        _turned(("wq",), to_adjacent),
        lambda config: config.rotary_dim > 2,
    ),
    Suspect(
        "wk-heads",
        "wk was permuted in as many heads as wq has, where it has fewer",
        _wk_by_query_heads,
        lambda config: config.n_rep > 1 and config.head_dim % (2 * config.n_rep) == 0,
    ),
    Suspect(
        "norms",
        "the norms before attention and feed-forward are exchanged",
        _exchanged("attn_norm", "ffn_norm"),
        lambda config: not config.block.is_parallel,
    ),
    Suspect("wk-wv", "wk and wv are exchanged", _exchanged("wk", "wv")),
    Suspect("wq-wk", "wq and wk are exchanged", _exchanged("wq", "wk"), _is_square),
    Suspect("eps-1e-5", "norm_eps should be 1e-5", _number(norm_eps=1e-5), lambda config: config.norm_eps != 1e-5),
    Suspect("eps-1e-6", "norm_eps should be 1e-6", _number(norm_eps=1e-6), lambda config: config.norm_eps != 1e-6),
    *map(_theta, (10000.0, 500000.0, 1000000.0)),
    Suspect(
        "no-scaling",
        "the rotary frequencies should not be scaled",
        _number(rope_scaling=None),
        lambda config: config.rope_scaling is not None,
    ),
)
