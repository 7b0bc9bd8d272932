"""Which recipes there are: a Hypothesis strategy, restricted to what the manifest of a program allows.

The draws are the same for every program with the same needs, whatever its formats and precision, so that one seed
puts one sequence of models to all of them: an int8 program is given the int8 form of what a float32 program is given.
Everything shrinks to the plainest: one layer, one head, few ids, no prompt, one greedy token.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import strategies as st

from harness.adapters.manifest import Manifest
from harness.conformance.fuzz.recipe import MAX_VOCAB, MIN_VOCAB, SPACE, Ask, Recipe, Weights
from harness.errors import InputError
from harness.model_config import ModelConfig

__all__ = ["Room", "from_seed_alone", "recipes", "room_for"]

_INT8 = "llama2c-v2"
_FORMATS = ("llama2c-v0", "llama2c-v1", _INT8)
_MAX_PROMPT = 8
_SEEDS = st.integers(1, 2**32 - 1)  # of the random generator: 0 is no state of it


@dataclass(frozen=True, slots=True)
class Room:
    """What recipes may be like.

    Attributes:
        formats: containers, in the order that shrinking prefers.
        mha, tied, vocab_size, hidden_multiple, dim_multiple, head_dim_multiple, max_seq_len: as in `Needs`.
        is_sampled: whether seeded draws are asked for, too.
    """

    formats: tuple[str, ...] = ("llama2c-v0",)
    mha: bool = False
    tied: bool | None = None
    vocab_size: int | None = None
    hidden_multiple: int = 1
    dim_multiple: int = 1
    head_dim_multiple: int = 1
    max_seq_len: int | None = None
    is_sampled: bool = True

    @property
    def is_int8(self) -> bool:
        return _INT8 in self.formats


def room_for(manifest: Manifest, *, is_sampled: bool = True) -> Room:
    """The recipes that a program can be given.

    Raises:
        InputError: its only vocabulary has no room for these pieces.
    """
    needs = manifest.needs
    if needs.vocab_size is not None and not MIN_VOCAB <= needs.vocab_size <= MAX_VOCAB:
        raise InputError(
            "takes a vocabulary that generated models cannot have",
            path=manifest.path,
            expected=f"{MIN_VOCAB} to {MAX_VOCAB} ids",
            actual=needs.vocab_size,
        )
    readable = tuple(name for name in manifest.formats if name in _FORMATS)
    if not readable:
        raise InputError(
            "reads none of llama2.c's formats, which generated models have",
            path=manifest.path,
            expected=" or ".join(_FORMATS),
            actual=", ".join(manifest.formats),
        )
    return Room(
        formats=readable,
        mha=needs.mha,
        tied=needs.tied,
        vocab_size=needs.vocab_size,
        hidden_multiple=needs.hidden_multiple,
        dim_multiple=needs.dim_multiple,
        head_dim_multiple=needs.head_dim_multiple,
        max_seq_len=needs.max_seq_len,
        is_sampled=is_sampled,
    )


@contextlib.contextmanager
def from_seed_alone() -> Iterator[None]:
    """Have what is drawn within it depend on the seed alone.

    Hypothesis also draws numbers that stand in the sources of the modules that are loaded, unless they are installed.
    Those that shrinking needs are loaded between a draw and its repetition, which would then be another. It has no
    option for this; where a version keeps these numbers elsewhere, the draws are its own again, and shrinking may
    not find a failure again that it is to make smaller.
    """
    name = "_get_local_constants"
    try:
        providers = importlib.import_module("hypothesis.internal.conjecture.providers")
        known, none, cache = getattr(providers, name), providers.Constants(), providers.CONSTANTS_CACHE.cache
    except (ImportError, AttributeError):  # another version
        yield
        return
    cache.clear()
    setattr(providers, name, lambda: none)
    try:
        yield
    finally:
        setattr(providers, name, known)
        cache.clear()


@st.composite
def recipes(draw: st.DrawFn, room: Room) -> Recipe:
    """Draw a recipe: grouped heads more often than not, few powers of 2."""
    n_layers = _any_of(draw, 1, 3)
    n_kv_heads = _any_of(draw, 1, 3)
    n_rep = draw(st.sampled_from([1, 2, 3, 2]))
    head_step = math.lcm(2, room.head_dim_multiple, room.dim_multiple)
    head_dim = head_step * _any_of(draw, 1, max(1, 12 // head_step))
    hidden = _any_of(draw, 1, 24)
    vocab_size = _any_of(draw, MIN_VOCAB, draw(st.sampled_from([40, 300])))
    seq_len = _any_of(draw, 1, 40)
    is_tied = draw(st.booleans())
    group, straddles = draw(st.integers(0, 11)), draw(st.integers(0, 7)) == 7
    weights = Weights(
        seed=draw(st.integers(0, 2**32 - 1)),
        loudness=draw(st.sampled_from([4.0, 1.5, 10.0, 60.0])),
        gain=draw(st.sampled_from([1.0, 2.0, 0.5])),
        peakedness=draw(st.sampled_from([1.0, 8.0, 0.1, 300.0])),
        smallness=draw(st.sampled_from([1.0, 0.01, 30.0])),
        stops=draw(st.booleans()),
    )
    n_heads = n_kv_heads * n_rep
    dim = n_heads * head_dim
    form = room.formats[draw(st.integers(0, 11)) % len(room.formats)]
    group_size = None
    hidden_step = room.hidden_multiple
    if form == _INT8:
        sizes = [n for n in range(dim, 0, -1) if dim % n == 0]
        group_size = sizes[group % len(sizes)]
        # Where groups end amid the rows of w_down, llama2.c's arithmetic has a rule of its own.
        hidden_step = hidden_step if straddles else math.lcm(hidden_step, group_size)
    config = ModelConfig(
        dim=dim,
        hidden_dim=hidden_step * max(1, hidden // hidden_step),
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads if room.mha else n_kv_heads,
        vocab_size=room.vocab_size or vocab_size,
        seq_len=min(seq_len, room.max_seq_len or seq_len),
        is_tied=is_tied if room.tied is None else room.tied,
    )
    prompt = _prompt(draw, config)
    asks = [Ask(_any_of(draw, 1, config.seq_len + 1))]
    if room.is_sampled and draw(st.booleans()):
        temperature = draw(st.sampled_from([1.0, 0.5, 2.0]))
        topp = draw(st.sampled_from([1.0, 0.9, 0.5, 0.0]))
        asks.append(Ask(_any_of(draw, 1, config.seq_len), temperature, topp, draw(_SEEDS)))
    n_probe = _any_of(draw, 1, config.seq_len)
    return Recipe(config, weights, group_size, form, prompt, tuple(asks), n_probe)


def _any_of(draw: st.DrawFn, low: int, high: int) -> int:
    """Draw from a range evenly, where `integers` prefers small ones; it shrinks to the lowest all the same."""
    return low + draw(st.integers(0, 2**16 - 1)) % (high - low + 1)


def _prompt(draw: st.DrawFn, config: ModelConfig) -> tuple[int, ...]:
    """Ids behind BOS, as `encode` gives them: none, or the space that is put before every text, and characters."""
    longest = min(_MAX_PROMPT, config.seq_len - 2)
    first = SPACE + (config.vocab_size > MIN_VOCAB)
    ids = st.integers(first, config.vocab_size - 1)
    drawn = draw(st.lists(ids, max_size=max(0, longest)))
    return (SPACE, *drawn) if drawn else ()
