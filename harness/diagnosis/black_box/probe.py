"""A probe: a checkpoint cut behind one sub-block, a prompt, and what a right program's tokens then say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Checkpoint
from harness.diagnosis.black_box.codebook import FIRST_CODE_ID, Codebook, Plane
from harness.diagnosis.black_box.craft import Subject, Tensors
from harness.diagnosis.black_box.states import FINAL_NORM, Place, Program
from harness.results import AngleReading

__all__ = ["Feed", "Probe", "Streams"]

Array = npt.NDArray[Any]
_ULP = float(np.finfo(np.float32).eps)
_FINEST = 4  # the finest angle that a code stands for is the floor over this


@dataclass(frozen=True, slots=True)
class Feed:
    """What a program is asked to run.

    Attributes:
        name: of this run, for people.
        ids: of the prompt, BOS first.
        n_ignored: codes that are generated first and not read.
        n_read: codes that are read after them.
    """

    name: str
    prompt: bytes
    ids: tuple[int, ...]
    n_read: int
    n_ignored: int = 0

    @property
    def fed(self) -> list[int]:
        """The ids of all positions; every code is fed as the same embedding."""
        return [*self.ids, *[FIRST_CODE_ID] * (self.n_codes - 1)]

    @property
    def n_codes(self) -> int:
        return self.n_ignored + self.n_read

    @property
    def steps(self) -> int:
        """As llama2.c counts them: positions, the prompt's included."""
        return len(self.fed)

    @property
    def first_position(self) -> int:
        """Of those that are read."""
        return len(self.ids) - 1 + self.n_ignored


@dataclass(frozen=True, slots=True)
class Streams:
    """The residual streams of one set of weights and one run: by the exact program, and by each honest one."""

    subject: Subject
    tensors: Tensors
    feed: Feed
    exact: Program
    exact_at: dict[Place, Array]
    honest: tuple[tuple[Program, dict[Place, Array]], ...]

    @classmethod
    def of(cls, subject: Subject, tensors: Tensors, feed: Feed, exact: Program, honest: Sequence[Program]) -> Streams:
        fed, n = feed.fed, feed.n_read
        runs = [program.streams(subject.config, tensors, fed, n) for program in (exact, *honest)]
        return cls(subject, tensors, feed, exact, runs[0], tuple(zip(honest, runs[1:], strict=True)))


@dataclass(frozen=True, slots=True)
class Probe:
    """One checkpoint and what its tokens say.

    Attributes:
        book: the codes of its classifier.
        expected: (n_read,) angles of a right program, radians.
        floor: how far an honest program may be off, radians.
    """

    place: Place
    feed: Feed
    checkpoint: Checkpoint
    book: Codebook
    expected: Array
    floor: float

    @classmethod
    def of(
        cls, streams: Streams, place: Place, tensors: Tensors, *, seed: int = 0, blind_to: Array | None = None
    ) -> Probe:
        """Craft the probe of a place.

        Args:
            tensors: the weights of the file: those of `streams`, cut behind the place.
            blind_to: (m, dim) directions that are not to be seen.

        Raises:
            InputError: the model has no plane to read.
        """
        subject, exact = streams.subject, streams.exact
        config, gain = subject.config, subject.gain_at(place)
        state = exact.normalised(config, streams.exact_at[place], gain).astype(np.float64)
        # With a gain of ones, what a wrong last norm does is a factor or a mean taken off: neither is seen.
        blind = np.zeros((0, config.dim)) if place == FINAL_NORM else np.ones((1, config.dim))
        if blind_to is not None:
            blind = np.concatenate([blind, blind_to.astype(np.float64)])
        plane = Plane.of(state, blind_to=blind, seed=seed, group_size=subject.group_size)
        others = [program.normalised(config, at[place], gain) for program, at in streams.honest]
        drift = max(float(np.abs(plane.angles(other.astype(np.float64))).max()) for other in others)
        drift = max(drift, _ULP / 2)
        finest = (drift if subject.group_size is None else max(drift, 1 / 127**2)) / _FINEST
        book = Codebook.of(plane, finest, config.vocab_size, subject.group_size)
        expected = book.chosen(exact.logits(config, streams.exact_at[place], gain, book.classifier))
        spacing = max(book.spacing(angle) for angle in expected)
        checkpoint = subject.checkpoint(tensors, book.classifier, gain)
        probe = cls(place, streams.feed, checkpoint, book, expected, max(drift, spacing))
        spread = max(float(np.abs(angles - expected).max()) for angles in probe.said(streams))
        return replace(probe, floor=max(probe.floor, spread))

    def said(self, streams: Streams) -> list[Array]:
        """The angles that each honest program says."""
        config, gain = streams.subject.config, streams.subject.gain_at(self.place)
        return [
            self.book.chosen(one.logits(config, at[self.place], gain, self.book.classifier))
            for one, at in streams.honest
        ]

    def reading(self, text: bytes) -> AngleReading:
        """What a program's output says; NaN for a code that is missing."""
        angles = self.book.printed(text)[self.feed.n_ignored : self.feed.n_codes]
        observed = np.full(self.feed.n_read, np.nan)
        observed[: len(angles)] = angles
        layer, block = self.place
        return AngleReading(
            layer=layer,
            block=block,
            run=self.feed.name,
            position=self.feed.first_position,
            expected=tuple(self.expected.tolist()),
            observed=tuple(observed.tolist()),
            floor=self.floor,
        )
