"""Port: a whole implementation, from a checkpoint file to the bytes it prints, every step of it a value.

    reader    the checkpoint file -> dimensions and tensors
    encoder   the prompt -> ids
    ops       ids -> logits (`harness.engine.Ops`)
    sampler   logits -> a token
    loop      how many positions are run, and what ends a run
    printer   tokens -> bytes

`Port()` is llama2.c. A fault replaces one step (`harness.diagnosis.fault`); what a program with that fault would
answer is what such a port answers here. What a real program would die of is `PortCrashed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Checkpoint
from harness.diagnosis.reading import READER, PortCrashed, Reader
from harness.diagnosis.sampling import CLOCK, SAMPLER, Sampler
from harness.engine import LIBRARY, STRICT, Engine, clamp_steps
from harness.model_config import ModelConfig
from harness.models import Model
from harness.tokenizer import Tokenizer

__all__ = ["Answer", "Encoder", "Loop", "Port", "PortCrashed", "Printer", "Request"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What a program is asked for, in llama2.c's terms. `before` is what the same process was asked first."""

    prompt: bytes = b""
    steps: int = 60
    temperature: float = 0.0
    topp: float = 0.9
    seed: int = 1
    clock: int = CLOCK
    before: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program answers: the ids after each position (the prompt's, then its own), and its stdout."""

    ids: list[int]
    text: bytes


# ---- the parts that are not the engine ---------------------------------------------------------------------------


def encoded(tokenizer: Tokenizer, prompt: bytes) -> list[int]:
    """The prompt's ids with BOS in front."""
    return tokenizer.encode(prompt)


def fits(tokenizer: Tokenizer, n_pieces: int, config: ModelConfig) -> bool:
    """Whether a tokenizer file of n_pieces is accepted: surplus pieces are ignored."""
    return n_pieces >= config.vocab_size


@dataclass(frozen=True, slots=True)
class Encoder:
    """From text to ids."""

    encoded: Callable[[Tokenizer, bytes], list[int]] = encoded
    fits: Callable[[Tokenizer, int, ModelConfig], bool] = fits


def n_positions(steps: int, n_prompt: int, config: ModelConfig) -> int:
    """Forward passes of a run, the prompt's included."""
    return clamp_steps(steps, config.seq_len)


def stops_at(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that end a run."""
    return frozenset({tokenizer.bos_id})


def carried_over(before: list[int]) -> list[int]:
    """What the cache still holds, and the position still counts, from the request before: nothing."""
    return []


@dataclass(frozen=True, slots=True)
class Loop:
    """The loop around the forward pass."""

    n_positions: Callable[[int, int, ModelConfig], int] = n_positions
    stops_at: Callable[[Tokenizer], frozenset[int]] = stops_at
    carried_over: Callable[[list[int]], list[int]] = carried_over


def shown(tokenizer: Tokenizer, previous: int, token: int) -> bytes:
    """The bytes of one token after another: one space goes after BOS, lone bytes only if printable."""
    return tokenizer.printed(previous, token)


def printed_ids(fed: Sequence[int], stops: frozenset[int]) -> Iterator[tuple[int, int]]:
    """Which tokens are printed, each with the one before it: fed[1:], without the token that ended the run."""
    for previous, token in pairwise(fed):
        if token in stops:
            return
        yield previous, token


def echo(prompt: bytes, pieces: Sequence[bytes]) -> bytes:
    """What is written for the prompt: its pieces, decoded."""
    return b"".join(pieces)


@dataclass(frozen=True, slots=True)
class Printer:
    """From tokens to stdout; `pieces` is what each printed token shows, `ending` is written at the very end."""

    shown: Callable[[Tokenizer, int, int], bytes] = shown
    printed_ids: Callable[[Sequence[int], frozenset[int]], Iterator[tuple[int, int]]] = printed_ids
    echo: Callable[[bytes, Sequence[bytes]], bytes] = echo
    ending: bytes = b"\n"

    def text(
        self, tokenizer: Tokenizer, prompt: bytes, n_prompt: int, fed: Sequence[int], stops: frozenset[int]
    ) -> bytes:
        """Return stdout for fed, the ids of a run with the first one that was fed."""
        pieces = [self.shown(tokenizer, *pair) for pair in self.printed_ids(fed, stops)]
        n_echoed = n_prompt - 1
        return self.echo(prompt, pieces[:n_echoed]) + b"".join(pieces[n_echoed:]) + self.ending


# ---- the whole ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Port:
    """An implementation; the defaults are llama2.c's steps.

    Attributes:
        ops: replaced operations by the name of their field in `Ops`, put over the family that the model asks for:
            library products for float32 weights, llama2.c's own order of sums for int8 ones.
    """

    reader: Reader = READER
    encoder: Encoder = Encoder()
    ops: Mapping[str, Any] = field(default_factory=dict)
    sampler: Sampler = SAMPLER
    loop: Loop = Loop()
    printer: Printer = Printer()

    def checkpoint(self, model: Model) -> Checkpoint:
        """What this port makes of a model's file."""
        return self.reader.read(model.checkpoint)

    def engine(self, model: Model, *, dtype: npt.DTypeLike = np.float32) -> Engine:
        """The forward pass of this port, on what it reads of the model's file.

        Raises:
            PortCrashed: it cannot read the file.
        """
        found = self.checkpoint(model)
        family = LIBRARY if found.group_size is None else STRICT
        return Engine(found.config, found.tensors, dtype=dtype, ops=replace(family, **self.ops))

    def prompt_ids(self, model: Model, prompt: bytes) -> list[int]:
        """The ids of a prompt; the first is fed first.

        Raises:
            PortCrashed: it refuses the tokenizer, or has no id to begin with.
        """
        if not self.encoder.fits(model.tokenizer, model.tokenizer.vocab_size, model.checkpoint.config):
            raise PortCrashed("the tokenizer has more pieces than the model")
        ids = self.encoder.encoded(model.tokenizer, prompt)
        if not ids:
            raise PortCrashed("there is no token to begin with")
        return ids

    def choices(
        self, model: Model, prompt_ids: Sequence[int], request: Request, feed: Callable[[int, int], Array]
    ) -> Iterator[int]:
        """Yield the token after each position.

        Args:
            feed: is given a position and its token, and returns the logits (vocab_size,) after it.
        """
        config, sampler, ops = model.checkpoint.config, self.sampler, replace(LIBRARY, **self.ops)
        temperature, topp = sampler.settings(request.temperature, request.topp)
        state = sampler.seeded(request.seed, request.clock)
        stops = self.loop.stops_at(model.tokenizer)
        token = prompt_ids[0]
        for position in range(self.loop.n_positions(request.steps, len(prompt_ids), config)):
            logits = feed(position, token)
            following = ops.forced(config, position, prompt_ids)
            is_greedy = sampler.is_greedy(temperature, topp)
            coin = np.float32(0)
            effective = 0.0 if is_greedy else temperature or 1.0
            if ops.draws_coin(config, position, is_forced=following is not None, temperature=effective):
                state, coin = sampler.draw(state)
            if following is None:
                if is_greedy:
                    following = ops.argmax(config, logits)
                else:
                    following = sampler.sample(logits, temperature, topp, coin)
            yield following
            if following in stops:
                return
            token = following

    @np.errstate(all="ignore")  # many a fault divides by zero
    def answer(self, model: Model, request: Request) -> Answer:
        """Run freely, as the program would.

        Raises:
            PortCrashed: it would not come to an end of its own.
        """
        engine = self.engine(model)
        earlier: list[int] = []
        if request.before is not None:
            first = self.prompt_ids(model, request.before)
            answered = self.answer(model, replace(request, prompt=request.before, before=None))
            earlier = self.loop.carried_over([first[0], *answered.ids[:-1]])
        prompt = self.prompt_ids(model, request.prompt)
        n = self.loop.n_positions(request.steps, len(prompt), model.checkpoint.config)
        session = engine.session(capacity=max(1, n + len(earlier)))
        if earlier:
            session.extend(earlier)
        ids = list(self.choices(model, prompt, request, lambda position, token: session.extend([token])[0]))
        return Answer(ids, self.text(model, request.prompt, prompt, ids))

    def text(self, model: Model, prompt: bytes, prompt_ids: Sequence[int], ids: Sequence[int]) -> bytes:
        """Stdout of a run whose ids are known."""
        stops = self.loop.stops_at(model.tokenizer)
        return self.printer.text(model.tokenizer, prompt, len(prompt_ids), [prompt_ids[0], *ids], stops)
