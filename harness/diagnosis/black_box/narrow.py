"""From the first wrong sub-block to a sentence: the smallest live set that still diverges, and what ends it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from harness.diagnosis.black_box.craft import Tensors, cut
from harness.diagnosis.black_box.probe import Feed, Probe
from harness.diagnosis.black_box.states import EMBEDDING, FINAL_NORM, Place, Program
from harness.diagnosis.black_box.surgery import alike, one_head, without_other_blocks
from harness.diagnosis.black_box.tracer import LIMIT, SHRUNK, Found, Tracer, is_wrong
from harness.engine import Ops
from harness.errors import InputError
from harness.results import AngleReading, Cut

__all__ = ["Narrowed", "explaining", "narrowed"]

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


@dataclass
class Narrowed:
    """Where a bug is, as far as the weights can tell.

    Attributes:
        first: the place, which may turn out to be another than where it showed.
        cuts: every step.
        conclusion: a sentence.
    """

    first: Place
    cuts: list[Cut] = field(default_factory=list)
    conclusion: str = ""


def narrowed(tracer: Tracer, found: Found) -> Narrowed:
    """Search the smallest live set that still diverges, and an edit that ends the divergence.

    Args:
        found: with a first wrong sub-block.
    """
    assert found.first is not None
    result = Narrowed(found.first, conclusion=found.why)
    if found.why:
        return result
    if found.first == EMBEDDING:
        result.conclusion = (
            "diverges with all blocks off: look at how a token's row of the embedding is found, and at the "
            "classifier, which is a matrix of its own here"
        )
    elif found.first == FINAL_NORM:
        result.conclusion = (
            "agrees behind the last block with a gain of ones: look at the last norm: whether it is applied, and "
            "with its own gain"
        )
    elif _does_nothing(tracer, found, found.first):
        result.conclusion = (
            f"the residual stream is as it was before: the {found.first[1]} of layer {found.first[0]} adds nothing: "
            "look at how many layers run, and whether this output is added"
        )
    else:
        _Search(tracer, found, result).run()
    return result


def _does_nothing(tracer: Tracer, found: Found, place: Place) -> bool:
    """Whether the stream behind a sub-block is what it was before: read in a plane that is made for that one."""
    subject = tracer.subject
    feed = next(probe.feed for probe in found.probes if probe.feed.name == found.run)
    before = tracer.places[tracer.places.index(place) - 1]
    tensors = cut(subject, before)
    probe = Probe.of(tracer.streams(tensors, feed, few=True), before, tensors)
    behind = subject.checkpoint(cut(subject, place), probe.book.classifier, subject.gain_at(before))
    return not is_wrong(tracer.read(replace(probe, checkpoint=behind)))


class _Search:
    def __init__(self, tracer: Tracer, found: Found, result: Narrowed) -> None:
        assert found.first is not None
        self.tracer = tracer
        self.place: Place = found.first
        self.result = result
        self.base = next(r for r in found.readings if (r.layer, r.block, r.run) == (*self.place, found.run))
        self.feed = self._feed(found)
        self.tensors: Tensors = cut(tracer.subject, self.place)
        self.live: list[str] = []

    def run(self) -> None:
        """Narrow it down, and say what follows."""
        config = self.tracer.subject.config
        layer, block = self.place
        alone = without_other_blocks(self.tracer.subject, self.tensors, self.place)
        if config.n_layers > 1 or block == "feed-forward":
            words = [f"layer {layer} alone"] if config.n_layers > 1 else []
            words.append("the attention off" if block == "feed-forward" else "the feed-forward off")
            if self._still(" and ".join(words), alone):
                self.tensors = alone
                self.live += words
        if block == "attention" and config.n_heads > 1:
            for head in range(min(config.n_heads, 3)):
                fewer = one_head(config, self.tensors, layer, head)
                if self._still(f"query head {head} alone", fewer):
                    self.tensors = fewer
                    self.live.append("one head")
                    break
        position = self._first_position()
        ends = self._what_ends_it()
        result = self.result
        sentence = f"diverges with {', '.join(self.live) or 'all that comes before live'}"
        if position:
            sentence += f", {position}"
        if ends:
            what, look_at = ends
            result.conclusion = f"{sentence}; agrees {what}: look at {look_at}"
        else:
            result.conclusion = f"{sentence}; no edit of the weights ends it: look at {self._suspicion(position)}"

    # ---- steps -----------------------------------------------------------------------------------------------------

    def _still(self, what: str, tensors: Tensors, *, alike: bool = False) -> bool:
        """Whether the program is still wrong on edited weights; noted as a step."""
        try:
            reading = self.tracer.small_reading(tensors, self.place, self.feed)
        except InputError:  # no plane to read: the edit left nothing, and says nothing
            return alike
        return self._noted(what, reading, alike=alike)

    def _noted(self, what: str, reading: AngleReading, *, alike: bool = False) -> bool:
        diverges = is_wrong(reading)
        if alike and math.isfinite(self.base.distance):
            diverges = diverges and reading.distance > SHRUNK * self.base.distance
        self.result.cuts.append(Cut(what, diverges, reading.ratio))
        return diverges

    def _first_position(self) -> str:
        """In words, from how many positions on it diverges."""
        if self.base.run.startswith("long"):
            return self._after_how_many()
        feed = self.tracer.feed("BOS alone", 0)
        try:
            streams = self.tracer.streams(self.tensors, feed, few=True)
            reading = self.tracer.read(Probe.of(streams, self.place, self.tensors))
        except InputError:
            return ""
        off = [abs(a - b) for a, b in zip(reading.expected, reading.observed, strict=True)]
        wrong = [i for i, distance in enumerate(off) if not distance <= LIMIT * reading.floor]
        self.result.cuts.append(Cut("BOS and codes alone, from position 0", bool(wrong), reading.ratio))
        if not wrong:
            return "a prompt"
        n = wrong[0] + 1
        return f"{_WORDS[n]} position{'s' if n > 1 else ''}"

    def _after_how_many(self) -> str:
        """The same for what only a long prompt shows: bisect its length."""
        right, wrong = 10, self.base.position - 1
        while wrong - right > 8:
            middle = (right + wrong) // 2
            feed = self.tracer.feed(f"{middle} letters", middle)
            reading = self.tracer.small_reading(self.tensors, self.place, feed)
            if self._noted(f"a prompt of {middle} letters", reading):
                wrong = middle
            else:
                right = middle
        return f"from about position {right + 2} to {wrong + 1 + self.tracer.n_read} on"

    def _what_ends_it(self) -> tuple[str, str] | None:
        base = cut(self.tracer.subject, self.place)
        for edit in alike(self.tracer.subject, self.place):
            is_of_layers = edit.what.startswith("once all layers")
            tensors = edit.made(base if is_of_layers else self.tensors)
            if not self._still(edit.what.removeprefix("once ").removeprefix("with "), tensors, alike=True):
                if is_of_layers:
                    self.result.first = (0, self.place[1])
                return edit.what, edit.look_at
        return None

    def _suspicion(self, position: str) -> str:
        if self.place[1] == "feed-forward":
            return "the activation, the product of gate and up, and w1, w2 and w3: which is which, rows and columns"
        if position == "one position":
            return "the norm before the attention, wv and wo, which values a head reads, whether its sum starts at 0"
        return "the slots that are seen, the softmax, and the rows of the cache"

    def _feed(self, found: Found) -> Feed:
        return next(probe.feed for probe in found.probes if probe.feed.name == found.run)


# ---- the catalogue -----------------------------------------------------------------------------------------------


def explaining(tracer: Tracer, found: Found, faults: Iterable[tuple[str, Ops]]) -> tuple[list[str], int, int]:
    """Which faults of the catalogue give every angle that was read in the first wrong place and at the end.

    Args:
        faults: name and operations of each that is tried.

    Returns:
        The names that fit, the number of angles that they explain, and how many faults were tried.
    """
    assert found.first is not None
    asked = [p for p in found.probes if p.place in (found.first, FINAL_NORM)]
    asked.sort(key=lambda probe: probe.feed.name != found.run)  # what tells most comes first
    readings = {(r.layer, r.block, r.run): r for r in found.readings}
    names: list[str] = []
    n_tried = n_angles = 0
    for name, ops in faults:
        n_tried += 1
        program = Program(ops, np.float32)
        if asked and all(_gives(tracer, program, one, readings[*one.place, one.feed.name]) for one in asked):
            names.append(name)
            n_angles = sum(len(probe.expected) for probe in asked)
    return names, n_angles, n_tried


def _gives(tracer: Tracer, program: Program, probe: Probe, reading: AngleReading) -> bool:
    """Whether a program says all the angles that were read."""
    subject, checkpoint = tracer.subject, probe.checkpoint
    config = replace(subject.config, n_layers=checkpoint.config.n_layers)
    try:
        streams = program.streams(config, checkpoint.tensors, probe.feed.fed, probe.feed.n_read)
        logits = program.logits(config, streams[FINAL_NORM], subject.gain_at(probe.place), probe.book.classifier)
    except (ArithmeticError, IndexError, ValueError, TypeError, KeyError):
        return False  # this fault cannot be on this model
    said = probe.book.chosen(logits)
    observed = np.array(reading.observed)
    slack = np.array([probe.book.spacing(angle) for angle in said])
    with np.errstate(invalid="ignore"):
        close = np.abs(said - observed) <= LIMIT * reading.floor + 2 * slack
    return bool((close | (np.isnan(said) & np.isnan(observed))).all())
