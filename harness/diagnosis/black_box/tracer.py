"""Where a program that only prints text goes wrong first: every sub-block read in turn, then narrowed down.

    short    a prompt of ten letters, then eight codes: every sub-block
    long     a prompt that ends past position 128: every sub-block before the first that is wrong already
    loud     scores in the hundreds, in the attention of layer 0

A reading is wrong where its angle is further from the reference's than `LIMIT` floors. Runs of the program come in
as a function; nothing here starts one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Checkpoint
from harness.diagnosis.black_box.codebook import LETTERS
from harness.diagnosis.black_box.craft import Subject, Tensors, changed, cut, louder, zeroed
from harness.diagnosis.black_box.probe import Feed, Probe, Streams
from harness.diagnosis.black_box.states import (
    EMBEDDING,
    FINAL_NORM,
    Place,
    Program,
    exact_program,
    honest_programs,
    places,
)
from harness.engine import Ops
from harness.errors import InputError
from harness.results import AngleReading
from harness.tokenizer import Tokenizer

__all__ = ["LIMIT", "SHRUNK", "Ask", "Found", "Tracer"]

Array = npt.NDArray[Any]
Ask = Callable[[Checkpoint, bytes, int], bytes]  # a checkpoint, a prompt, positions to run -> what is printed

LIMIT = 4.0
SHRUNK = 1e-3  # a distance that an edit shrinks so much is no longer the same divergence
_N_READ = 8
_SHORT, _LONG = 10, 150  # letters of a prompt
_UNPROMPTED = 4  # codes that are not read, where there is no prompt
_PLAIN = 2.0**-6  # every value of an embedding that cannot be misread
_LOUD = 200.0  # the largest score of the loud run: past 88, where exp of a float32 overflows


@dataclass
class Found:
    """What the readings came to.

    Attributes:
        readings, probes: in the order of computation, by run.
        first: the first wrong sub-block.
        run: the run in which it showed.
        why: what is known of it already, a sentence; empty if it is to be narrowed down.
        precision: a lower one than it declares, which its embedding shows and everything was judged by.
        notes: what else a reader must know.
    """

    readings: list[AngleReading] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    first: Place | None = None
    run: str = ""
    why: str = ""
    precision: str = ""
    notes: list[str] = field(default_factory=list)


class Tracer:
    """One program on one model.

    Args:
        subject: the model.
        tokenizer: of the crafted files.
        ask: runs the program.
        can_prompt: whether it takes a prompt.
        declared: simulations of the precision that it declares.
        undeclared: simulations of lower ones, by name, which it may have all the same.
    """

    def __init__(
        self,
        subject: Subject,
        tokenizer: Tokenizer,
        ask: Ask,
        *,
        can_prompt: bool = True,
        declared: Sequence[Ops] = (),
        undeclared: Mapping[str, Sequence[Ops]] = MappingProxyType({}),
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.subject = subject
        self.tokenizer = tokenizer
        self.n_runs = 0
        self.exact: Program = exact_program(is_int8=subject.is_int8)
        self.places = places(subject.config)
        self._ask = ask
        self._progress = progress
        self._can_prompt = can_prompt
        self._undeclared = undeclared
        self._allow(declared)
        share = 4 if not subject.is_int8 else 8  # an int8 plane has half of the channels
        self.n_read = max(1, min(_N_READ, subject.config.dim // share))
        self._missing = 0  # positions that it runs fewer than it was asked for

    def _allow(self, declared: Sequence[Ops]) -> None:
        """Take programs of these arithmetics for honest, too."""
        self.honest = honest_programs(is_int8=self.subject.is_int8, declared=declared)
        self._few = honest_programs(is_int8=self.subject.is_int8, declared=declared, few=True)
        self._is_lower = bool(declared)

    # ---- runs ------------------------------------------------------------------------------------------------------

    def feed(self, name: str, length: int) -> Feed:
        """A run with a prompt of so many letters; where no prompt arrives, of so many codes that are not read."""
        letters = np.random.default_rng(length).choice(list(LETTERS), length if self._can_prompt else 0)
        prompt = bytes(letters.tolist())
        n_ignored = 0 if self._can_prompt else length
        return Feed(name, prompt, tuple(self.tokenizer.encode(prompt)), self.n_read, n_ignored)

    def say(self, probe: Probe) -> bytes:
        """What the program prints for a probe."""
        self.n_runs += 1
        return self._ask(probe.checkpoint, probe.feed.prompt, probe.feed.steps + self._missing)

    def read(self, probe: Probe) -> AngleReading:
        return probe.reading(self.say(probe))

    def streams(self, tensors: Tensors, feed: Feed, *, few: bool = False) -> Streams:
        """The reference's streams, and those of all honest programs or, while narrowing down, of a few."""
        return Streams.of(self.subject, tensors, feed, self.exact, self._few if few else self.honest)

    def small_reading(self, tensors: Tensors, place: Place, feed: Feed) -> AngleReading:
        """Read a place of edited weights, which are cut behind it already."""
        return self.read(Probe.of(self.streams(tensors, feed, few=True), place, tensors))

    # ---- the whole -------------------------------------------------------------------------------------------------

    def trace(self) -> Found:
        """Read every sub-block.

        Raises:
            InputError: what the program prints cannot be read.
        """
        found = Found()
        short = self._short_feed(found)
        self._progress("reading every sub-block after a short prompt")
        whole = self.streams(self.subject.tensors, short)
        if found.first is not None:  # the stream did not outlive a block of zeros
            return found
        self._read_all(found, whole, self.places)
        long = self._long_feed()
        if long is not None:
            self._progress(f"reading every sub-block at position {long.first_position}")
            self._read_all(found, self.streams(self.subject.tensors, long), self._before(found.first))
        if found.first is None or found.first not in self.places[:2]:
            self._read_loud(found, short)
        if found.first == (0, "attention") and not found.why:
            self._weigh_embedding(found, short)
        elif found.first == EMBEDDING:
            self._weigh_classifier(found, short)
        return found

    def _read_all(self, found: Found, streams: Streams, wanted: Sequence[Place]) -> None:
        least = 0.0
        for place in wanted:
            seed = self.places.index(place)
            probe = Probe.of(streams, place, cut(self.subject, place), seed=seed)
            if self._is_lower:
                # A few coarse roundings may all happen to be small in a plane; noise does not shrink on its way.
                probe = replace(probe, floor=max(probe.floor, least))
                least = probe.floor
            self._note(found, probe)

    def _note(self, found: Found, probe: Probe) -> None:
        reading = self.read(probe)
        found.readings.append(reading)
        found.probes.append(probe)
        place = reading.layer, reading.block
        if is_wrong(reading) and (found.first is None or place in self._before(found.first)):
            found.first, found.run = place, reading.run

    def _before(self, place: Place | None) -> list[Place]:
        return self.places if place is None else self.places[: self.places.index(place)]

    # ---- the channel -----------------------------------------------------------------------------------------------

    def _short_feed(self, found: Found) -> Feed:
        """Find out whether the channel works, by the embedding alone, and what is to be fed."""
        if not self._can_prompt:
            found.notes.append("it takes no prompt, so positions after BOS are read")
        feed = self._shortest()
        probe = self._of_embedding(feed)
        printed = self.say(probe)
        n = len(probe.book.printed(printed))
        if n == 0:
            self._find_lost_stream(found, feed, printed)
            return feed
        if n < feed.n_codes:
            self._missing = feed.n_codes - n
            printed = self.say(probe)
            n = len(probe.book.printed(printed))
            if n < feed.n_codes:
                raise InputError(
                    "stops before all codes of the tracer are printed",
                    expected=f"{feed.n_codes} after a prompt of {len(feed.prompt)} letters",
                    actual=n,
                    hint="let it run as many positions as -n says, EOS or not",
                )
        self._find_precision(found, probe, probe.reading(printed))
        if n > feed.n_codes and feed.prompt:
            bare = self._of_embedding(self.feed("BOS alone", 0))
            n_bare = len(bare.book.printed(self.say(bare)))
            if n_bare - bare.feed.n_codes != n - feed.n_codes:
                self._can_prompt = False
                found.notes.append(
                    f"after a prompt of {len(feed.prompt)} letters it printed {n} codes, not {feed.n_codes}: the "
                    "prompt did not arrive as it should (harness tokenizer says how it is encoded), so positions "
                    "after BOS alone are read"
                )
                return self._shortest()
        return feed

    def _find_precision(self, found: Found, probe: Probe, reading: AngleReading) -> None:
        """Is what the embedding shows the rounding of a lower precision? Then that is what all else is judged by."""
        if not is_wrong(reading):
            return
        tensors = cut(self.subject, EMBEDDING)
        fitting: list[tuple[float, str]] = []
        for name, simulated in self._undeclared.items():
            programs = [Program(ops, np.float32) for ops in simulated]
            said = probe.said(Streams.of(self.subject, tensors, probe.feed, self.exact, programs))
            floor = max(reading.floor, *(float(np.abs(angles - probe.expected).max()) for angles in said))
            if reading.distance <= LIMIT * floor:
                fitting.append((min(float(np.abs(angles - reading.observed).max()) for angles in said), name))
        if fitting:
            _, found.precision = min(fitting)  # whose rounding is the nearest
            note = f"its embedding is rounded as that of a program in {found.precision}, which it is judged as"
            found.notes.append(note)
            self._allow(self._undeclared[found.precision])

    def _shortest(self) -> Feed:
        if self._can_prompt:
            return self.feed("short prompt", _SHORT)
        return self.feed("after BOS", _UNPROMPTED)

    def _long_feed(self) -> Feed | None:
        """The long run, as long as the context allows; None if it would be hardly longer than the short one."""
        n = min(_LONG, self.subject.config.seq_len - self.n_read - 2 - self._missing)
        return self.feed("long prompt" if self._can_prompt else "long after BOS", n) if n >= 2 * _SHORT else None

    def _of_embedding(self, feed: Feed) -> Probe:
        tensors = cut(self.subject, EMBEDDING)
        return Probe.of(self.streams(tensors, feed, few=True), EMBEDDING, tensors)

    # ---- what needs more than one reading --------------------------------------------------------------------------

    def _find_lost_stream(self, found: Found, feed: Feed, printed: bytes) -> None:
        """No code where all blocks add zero: is it the residual connection, or can the program not be read at all?"""
        whole = self.streams(self.subject.tensors, feed)
        final = Probe.of(whole, FINAL_NORM, cut(self.subject, FINAL_NORM))
        told = self.say(final)
        reading = final.reading(told)
        found.readings = [self._of_embedding(feed).reading(b""), reading]
        found.probes = [final]
        nothing = not len(final.book.printed(told))
        if nothing and self.tokenizer.pieces[0] in printed:
            found.first, found.run = EMBEDDING, feed.name
            found.why = (
                "all logits are alike, or no numbers, even where every block is zeros: look at what divides (the "
                "norm, the softmax), and at how the classifier is read, which is a matrix of its own here"
            )
            return
        if nothing:
            raise InputError(
                "printed none of the codes that the tracer asks for",
                expected="pieces such as ~ab~, which are all that the checkpoint can choose",
                actual=repr(printed[:60].decode("utf-8", "replace")),
                hint="it must read a classifier of its own (negative vocab_size) and the tokenizer that it is given, "
                "and choose the largest logit at temperature 0",
            )
        only = {name: t for name, t in self.subject.tensors.items() if name.startswith("layers.0.")}
        only["tok_embedding"] = self.subject.tensors["tok_embedding"]
        dead = {"attention": "wo", "feed-forward": "w_down"}
        survives = {}
        for block, other in (("attention", "feed-forward"), ("feed-forward", "attention")):
            text = self.say(replace(final, checkpoint=self._one_layer(zeroed(only, 0, dead[other]), final)))
            survives[block] = len(final.book.printed(text)) > 0
        block = "attention" if survives["attention"] or not survives["feed-forward"] else "feed-forward"
        found.first, found.run = (0, block), feed.name
        found.why = (
            f"nothing is left of the residual stream behind a block that adds zeros, and it is the {block}'s output "
            f"that replaces it: look at the residual connection after the {block}: x += output, not x = output"
        )

    def _one_layer(self, tensors: Tensors, probe: Probe) -> Checkpoint:
        return self.subject.checkpoint(tensors, probe.book.classifier, self.subject.final_gain)

    def _read_loud(self, found: Found, feed: Feed) -> None:
        """The attention of layer 0 with scores so large that exp overflows unless the largest is taken off first."""
        place = (0, "attention")
        largest = self._largest_score(feed)
        if not 0 < largest < np.inf:
            return
        factor = np.float32(2.0 ** np.ceil(np.log2(_LOUD / largest)))
        whole = changed(self.subject.tensors, {"layers.0.wq": lambda w: w * factor})
        tensors = changed(cut(self.subject, place), {"layers.0.wq": lambda w: w * factor})
        loud = replace(feed, name="large scores")
        before = found.first
        self._note(found, Probe.of(self.streams(whole, loud), place, tensors))
        if found.first != before:
            found.why = (
                "it goes wrong only where scores are in the hundreds: look at the softmax: take the largest score "
                "off before exp"
            )

    def _largest_score(self, feed: Feed) -> float:
        """The largest magnitude of a score of layer 0, of a right program."""
        return self.exact.largest_score(self.subject.config, self.subject.tensors, feed.fed)

    def _weigh_embedding(self, found: Found, feed: Feed) -> None:
        """Is it what the attention adds that is wrong, or what it is added to?

        Seen from planes that are orthogonal to the embedding, the stream shows what was added alone: its direction,
        whatever the embedding is multiplied by. (All is so large that epsilon does not count.)
        """
        place = (0, "attention")
        tensors = louder(cut(self.subject, place))
        streams = self.streams(tensors, feed, few=True)
        before = np.unique(streams.exact_at[EMBEDDING], axis=0)
        usual = self.read(Probe.of(streams, place, tensors))
        if not is_wrong(usual):
            return
        added = self.read(Probe.of(streams, place, tensors, blind_to=before))
        if added.distance <= SHRUNK * usual.distance:
            found.first = EMBEDDING
            found.why = (
                "what the attention of layer 0 adds to the residual stream is right, and what it is added to is out "
                "of proportion: look at the embedding: its rows go in as they are, multiplied by nothing"
            )

    def _weigh_classifier(self, found: Found, feed: Feed) -> None:
        """Is it the embedding, or the product behind it that reads every probe?

        All tokens get one embedding that cannot be misread, the same value in every channel; the last gain makes a
        state of it whose int8 codes would be a fraction below or above the next, and whose sums are large.
        """
        config = self.subject.config
        group = self.subject.group_size or config.dim
        at = np.arange(config.dim) % group
        code = np.floor(127 * (1 - 0.4 * at / group)) - np.where(at % 2, 0.1, 0.9) * (at > 0)
        plain = replace(self.subject, final_gain=code / 127)
        tensors = changed(cut(self.subject, EMBEDDING), {"tok_embedding": lambda table: np.full_like(table, _PLAIN)})
        streams = Streams.of(plain, tensors, feed, self.exact, self._few)
        if not is_wrong(self.read(Probe.of(streams, FINAL_NORM, tensors))):
            return
        if self.subject.is_int8:
            found.first = (0, "attention")
            found.why = (
                "diverges with all blocks off and one embedding for all tokens, so the int8 product itself is wrong, "
                "which wq's is the first of: look at how activations are quantised (the largest of a group over 127, "
                "rounded to nearest), which scale belongs to which group, and the type of the sums"
            )
        else:
            found.why = (
                "diverges with all blocks off and one embedding for all tokens: look at the classifier, which is a "
                "matrix of its own here (its file has a negative vocab_size)"
            )


def is_wrong(reading: AngleReading) -> bool:
    return not reading.ratio <= LIMIT
