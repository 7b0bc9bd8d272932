"""The dictionary: the fault under which what a program said is what it should have said.

A wrong port is a right implementation of a wrong model, so every fault of the catalogue is a port, and what a program
said is held against all of them:

1. faults of the encoder by what follows their prompt ids, faults of the loop and of printing by all of stdout
2. faults of the forward pass and of the sampler are screened along the tokens that are known for certain, the golden
   ones up to the first difference, in one teacher-forced pass for each; most are out after a hundred tokens
3. the text behind the first difference is walked with those that are left, which gives its tokens, and those that are
   left are scored on all of them

What is named must explain every token (of a text one in 200 may be misread), and must be more likely than a right
program of any precision by `THRESHOLD`. What explains everything equally is one class. Where no fault does, each is
tried in one layer alone, and then two together. The world is closed: a bug that is not in the catalogue is UNKNOWN,
or named as one that does the same on these cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.diagnosis.diagnosis import Conclusion, Diagnosis
from harness.diagnosis.fault import Fault
from harness.diagnosis.faults import CATALOGUE
from harness.diagnosis.naming.conclusion import WEIGHED, Score, concluded, reached
from harness.diagnosis.naming.evidence import Evidence, Noise
from harness.diagnosis.naming.hypotheses import RIGHT, Hypothesis, applicable, in_one_layer, pairs
from harness.diagnosis.naming.printed import Printed
from harness.diagnosis.naming.reading import read_text, said_by
from harness.diagnosis.naming.scores import Trial, explained, fitted, level, margins, scale_of, spread_of
from harness.diagnosis.port import Port, PortCrashed
from harness.engine import Engine, blas_threads, clamp_steps
from harness.models import Model

__all__ = ["THRESHOLD", "diagnose"]

Array = npt.NDArray[Any]

THRESHOLD = 12.0
"""Nats by which a fault must be likelier than a right program of any precision; calibrated in docs/diagnosis.md."""

_FOR_MORE = 5.0  # nats more, where a fault was looked for among ever so many more: one layer only, two together
_FIRST = 6  # tokens of the screen of hundreds
_SCREEN = (32, 128, 384)  # tokens of each screen
_OUT = 40.0  # nats behind the best at which a fault is out, unless it is among the first
_LEFT = (64, 32, 12)  # faults that are left after each screen at the most
_KEPT = 4  # and at the least, so that there is a runner-up
_LENIENT = 4  # faults with which a text is walked again, with the noise of lower precisions allowed for
_STRICT = (
    10.0  # noise floors of the model's own that a walk allows for: a fault may have more noise than a right model
)
_CERTAIN = 64  # ids along which ports are compared in how far their logits spread
_MOST, _ALL = 700, 4000  # tokens that are scored; and where only a lower precision is told from a bug by them
_N_PAIRED = 4  # faults to which a second is added
_MAX_LAYERS = 8  # of a model in which faults are tried in one layer only
_NEVER: Array = np.full(1, -math.inf)  # the margin of a token that a hypothesis cannot have said
_CANNOT_BE = (PortCrashed, ArithmeticError, IndexError, ValueError, TypeError)  # a fault that this model cannot have


class _Read(NamedTuple):
    """A piece of evidence with its tokens, as far as they could be read.

    Attributes:
        is_said: they are those of a port with a bug that prints the very same.
        is_chance: nobody could read on without more noise than there is.
    """

    evidence: Evidence
    trial: Trial
    is_said: bool = False
    is_chance: bool = False


def diagnose(
    model: Model,
    evidence: Sequence[Evidence],
    *,
    noise: Noise,
    faults: Iterable[Fault] = CATALOGUE,
    version: int = 0,
    threshold: float = THRESHOLD,
) -> Diagnosis:
    """Name the bug of a program by what it said, right and wrong.

    Args:
        model: that it ran.
        evidence: its answers; those that are right count too.
        noise: how far honest programs of this model lie apart.
        faults: the closed world.
        version: of llama2.c's container that it read (int8 weights are version 2, whatever is said here).
        threshold: nats by which a fault must be likelier than a right program of any precision.
    """
    if all(one.is_right for one in evidence):
        return Diagnosis("text", Conclusion.NONE, reason="nothing is wrong")
    with blas_threads(1):
        return _Search(model, evidence, noise, faults, version, threshold).diagnosis()


class _Search:
    """One search. Evidence is ordered: wrong before right, greedy before sampled, what is known shortest first."""

    def __init__(
        self,
        model: Model,
        evidence: Sequence[Evidence],
        noise: Noise,
        faults: Iterable[Fault],
        version: int,
        threshold: float,
    ) -> None:
        self.model, self.noise, self.threshold = model, noise, threshold
        self.evidence = sorted(evidence, key=lambda one: (one.is_right, one.request.temperature != 0, len(one.ids)))
        is_sampled = any(one.request.temperature != 0 for one in evidence)
        self.hypotheses = applicable(faults, model, is_sampled=is_sampled, version=version)
        self.right_engine = Port().engine(model)
        self._latest = Port(), self.right_engine
        self.saying: list[Hypothesis] = []  # that print one of the wrong outputs to the byte
        self.printed = Printed(model, self.right_engine)
        self.n_tried = len(self.hypotheses)
        self.most = _MOST

    # ---- the course of a search ------------------------------------------------------------------------------

    def diagnosis(self) -> Diagnosis:
        """Try single faults, then faults of one layer and pairs."""
        forward = [one for one in self.hypotheses if one.family == "forward"]
        others = [one for one in self.hypotheses if one.family != "forward"]
        right, scores = self._scored([RIGHT], others)
        found = self._concluded(right, scores, self.threshold)
        if found.conclusion is Conclusion.NAMED:
            return found
        screened = self._screened(forward)
        scores.sort(key=lambda score: -score.likelihood)
        whole = [score for score in scores if reached(score, self.noise) is not None]
        nearest = [score.hypothesis for score in (whole or scores[:2])[:WEIGHED]]
        best = self._concluded(*self._scored(screened, nearest, strictly=True), self.threshold)
        if best.conclusion is not Conclusion.NAMED:
            best = self._concluded(*self._scored(screened, nearest), self.threshold)
        if best.conclusion is Conclusion.LOWER_PRECISION:  # a small difference: see whether more of it tells
            self.most = _ALL
            best = self._concluded(*self._scored(screened[: 1 + _LENIENT], nearest), self.threshold)
        if best.conclusion is not Conclusion.UNKNOWN or all(
            one.rest is None and not one.is_whole for one in self._wrong
        ):
            return best
        further: list[Hypothesis] = []
        if self.model.checkpoint.config.n_layers <= _MAX_LAYERS:
            further += in_one_layer(forward, self.model)
        quick = [one for one in forward if "in_decode_order" not in one.port.ops]
        further += pairs([one for one in screened if one in quick][:_N_PAIRED], quick)
        self.n_tried += len(further)
        found = self._concluded(*self._scored(self._screened(further, strictly=True), []), self.threshold + _FOR_MORE)
        if found.conclusion is not Conclusion.NAMED:
            return replace(best, n_tried=self.n_tried)
        return found if found.runner_up else replace(found, runner_up=best.runner_up)

    @cached_property
    def _wrong(self) -> list[Evidence]:
        return [one for one in self.evidence if not one.is_right]

    def _screened(self, hypotheses: Sequence[Hypothesis], *, strictly: bool = False) -> list[Hypothesis]:
        """RIGHT, and what is not out after the tokens that are known for certain, the likeliest first.

        Args:
            strictly: out is also what does not explain each of them: there are many, and no runner-up is needed.
        """
        left, is_first = list(hypotheses), not strictly
        screens = [*zip(_SCREEN, _LEFT, strict=True)]
        for n_tokens, most in [(_FIRST, len(left)), *screens] if strictly else screens:
            trials = self._known(n_tokens)
            if not trials or not left:
                break
            scored = [(one, found) for one in left if (found := self._margins(one, trials)) is not None]
            if strictly:
                scored = [(one, found) for one, found in scored if explained(found, self.noise.levels[-1][1]).all()]
            ranked = [(fitted(found, self.noise), one) for one, found in scored]
            ranked.sort(key=lambda pair: -pair[0])
            if is_first:
                self.saying = self._saying([one for score, one in ranked if score >= ranked[0][0] - _OUT])
                is_first = False
            left = [
                one
                for rank, (score, one) in enumerate(ranked)
                if (rank < most and (rank < _KEPT or score >= ranked[0][0] - _OUT)) or one in self.saying
            ]
        return [RIGHT, *left]

    def _saying(self, hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
        """Those that print the shortest of the wrong outputs to the byte: whatever its tokens are taken to be."""
        heard = [one for one in self._wrong if one.stdout]
        if not heard:
            return []
        first = min(heard, key=lambda one: len(one.stdout or b""))
        return [one for one in hypotheses if self._said(one, first) is not None]

    def _said(self, hypothesis: Hypothesis, one: Evidence) -> tuple[int, ...] | None:
        """The tokens with which a hypothesis prints an output to the byte; None if it does not."""
        try:
            return said_by(hypothesis.port, self._engine(hypothesis.port), self.model, one)
        except _CANNOT_BE:
            return None

    def _known(self, n_tokens: int) -> list[Trial]:
        """Trials of about so many tokens that are known before anybody's text is walked."""
        found: list[Trial] = []
        for one in self.evidence:
            if n_tokens <= 0:
                break
            accepted: tuple[int, ...] = ()
            if not one.is_whole and one.rest is not None:
                shown = b"".join(one.printing.render(one.ids)[len(one.prompt_ids) - 1 :])
                left = one.rest[len(shown) :]
                accepted = self._next(one, left)
            ids = one.ids[: len(one.prompt_ids) + n_tokens] if one.is_whole else one.ids
            trial = Trial(one.request, one.prompt_ids, ids, accepted)
            if one.is_whole and not one.is_right and one.request.temperature != 0:
                continue  # what is wrong with it may be the very reading of its draws
            if trial.n and len(ids) <= self.model.checkpoint.config.seq_len:
                found.append(trial)
                n_tokens -= trial.n
        return found

    def _next(self, one: Evidence, left: bytes) -> tuple[int, ...]:
        """The ids that may come next, given what is left of the text; at its end, those that stop it too."""
        stops = () if left else (self.model.tokenizer.bos_id, self.model.tokenizer.eos_id)
        return (*one.printing.candidates(one.ids[-1], left), *stops)

    @cached_property
    def _usual(self) -> float:
        """The spread of a right port's logits."""
        return spread_of(self.right_engine, self._certain)

    @cached_property
    def _certain(self) -> tuple[int, ...]:
        """The ids that were fed for certain, the most there are of one answer: if need be, those of a prompt."""
        longest = max((one.ids for one in self.evidence), key=len)
        return longest[: min(_CERTAIN, self.model.checkpoint.config.seq_len)]

    def _margins(self, hypothesis: Hypothesis, trials: Sequence[Trial]) -> Array | None:
        """Margins of all tokens of some trials; None if the port would crash, or cannot be on this model."""
        try:
            engine = self._engine(hypothesis.port)
            return margins(hypothesis.port, engine, trials, self.noise, usual=self._usual)
        except _CANNOT_BE:
            return None

    def _engine(self, port: Port) -> Engine:
        if not port.ops and port.reader == Port().reader:
            return self.right_engine
        if self._latest[0] is not port:
            self._latest = port, port.engine(self.model)
        return self._latest[1]

    # ---- the tokens of wrong texts ---------------------------------------------------------------------------

    def _tokens(self, hypotheses: Sequence[Hypothesis], *, strictly: bool = False) -> list[_Read]:
        """The tokens of the evidence, wrong texts as they are read by the hypothesis that reads most of them.

        Args:
            strictly: with no more noise than the model's own arithmetic has.
        """
        texts = [one for one in self._wrong if not one.is_whole or (self.saying and one.stdout is not None)]
        read: list[_Read] = []
        most = -1
        lenient = [] if strictly else [(one, self.noise.levels[-1][1]) for one in hypotheses[: _LENIENT + 1]]
        for hypothesis, floor in (
            [*((one, _STRICT * self.noise.own) for one in hypotheses), *lenient] if texts else ()
        ):
            found, n_read, is_all = self._walked(hypothesis, texts, floor)
            if n_read > most:
                read, most = found, n_read
            if is_all:
                break
        n_left = self.most - sum(one.trial.n for one in read)
        for one in self.evidence:
            if one.is_whole and n_left > 0 and all(one is not other.evidence for other in read):
                ids = one.ids[: len(one.prompt_ids) + n_left] if one.is_right else one.ids
                read.append(_Read(one, Trial(one.request, one.prompt_ids, ids)))
                n_left -= read[-1].trial.n
        return read

    def _walked(
        self, hypothesis: Hypothesis, texts: Sequence[Evidence], floor: float
    ) -> tuple[list[_Read], int, bool]:
        """Read texts as a port would have written them: the tokens, how many bytes are explained, whether all are."""
        found: list[_Read] = []
        n_read, is_all = 0, True
        try:
            engine = self._engine(hypothesis.port)
            scale = self._scale(engine)
            for one in texts:
                trial, is_explained, is_chance = Trial(one.request, one.prompt_ids, one.ids), False, False
                said = self._said(hypothesis, one) if not one.is_whole or hypothesis in self.saying else None
                if said is not None:
                    trial, is_explained = replace(trial, ids=said), True
                    n_read += len(one.stdout or b"")
                elif one.rest:
                    ids, used, is_explained, is_chance = read_text(
                        hypothesis.port, engine, one, one.prompt_ids, one.rest, self.noise, floor, scale
                    )
                    n_read += used
                    trial = replace(trial, ids=ids)
                elif one.rest is not None:
                    trial, is_explained = replace(trial, accepted=self._next(one, b"")), True
                found.append(_Read(one, trial, said is not None and bool(hypothesis.faults), is_chance))
                is_all = is_all and is_explained
                if sum(read.trial.n for read in found) >= self.most:
                    break
        except _CANNOT_BE:
            return [], -1, False
        return found, n_read, is_all

    # ---- scores ----------------------------------------------------------------------------------------------

    def _by_tokens(self, hypothesis: Hypothesis, read: Sequence[_Read], is_by_bytes: Sequence[bool]) -> Score | None:
        """Score a fault of the forward pass or the sampler; None if the port would not even run.

        What is wrong although its tokens are right, or although none of it could be read, it does not explain.
        """
        whole = self._margins(hypothesis, [one.trial for one in read])
        if whole is None:
            return None
        found = np.split(whole, np.cumsum([one.trial.n for one in read])[:-1])
        return self._score(
            hypothesis,
            [
                np.concatenate([own, _NEVER])
                if by_bytes or one.is_chance or (not len(own) and not one.evidence.is_right)
                else own
                for one, own, by_bytes in zip(read, found, is_by_bytes, strict=True)
            ],
        )

    def _by_encoder(self, hypothesis: Hypothesis, read: Sequence[_Read], plain: Sequence[Array]) -> Score:
        """Score a fault of the encoder: texts after other prompt ids; where they are the same, as a right port."""
        found, rivals = [], []
        for (one, *_), own in zip(read, plain, strict=True):
            rivals.append(_never(own) if not one.is_right else own)
            try:
                ids = tuple(hypothesis.port.prompt_ids(self.model, one.request.prompt))
            except PortCrashed:
                ids = ()
            if one.encoded is not None:
                found.append(own if ids == one.encoded else _never(own))
            elif ids == one.prompt_ids:
                found.append(own if one.is_right or level(own, self.noise) is None else np.concatenate([own, _NEVER]))
            else:
                mine, rivals[-1] = (
                    self._after(hypothesis.port, one, ids, len(own)) if ids else (_never(own), _never(own))
                )
                found.append(mine)
        return replace(self._score(hypothesis, found), rivals=tuple(rivals))

    def _after(self, port: Port, one: Evidence, ids: tuple[int, ...], n: int) -> tuple[Array, Array]:
        """Margins of a text of about n tokens after other prompt ids, in the reading that explains it best.

        And those of a right port for the same tokens: one text alone may lead into the same story by luck.
        """
        n_positions = clamp_steps(one.request.steps, self.model.checkpoint.config.seq_len)
        if n_positions < len(ids):  # all that was printed is a part of the prompt
            shown = b"".join(one.printing.render(ids[: n_positions + 1]))
            return np.full(1, math.inf) if shown in one.texts else _NEVER, _NEVER
        best = rival = np.full(max(1, n), -math.inf)
        for rest in _continuations(one, ids):
            text = read_text(port, self.right_engine, one, ids, rest, self.noise, self.noise.own)
            tokens = text.ids
            trial = Trial(one.request, ids, tokens)
            found = self._margins(Hypothesis((), port), [trial])
            if found is None:
                continue
            if not text.is_explained:
                found = np.concatenate([found, np.full(max(1, n - len(found)), -math.inf)])
            if fitted(found, self.noise) > fitted(best, self.noise):
                best = found
                same = Trial(one.request, one.prompt_ids, (*one.prompt_ids, *tokens[len(ids) :]))
                other = self._margins(RIGHT, [same]) if one.rest is not None else None
                rival = _NEVER if other is None else other
        return best, rival

    def _by_stdout(self, hypothesis: Hypothesis, read: Sequence[_Read], plain: Sequence[Array]) -> Score:
        """Score a fault of the loop or of printing by all of stdout; the first text that is not its own ends it."""
        found: list[Array] = []
        is_out = False
        for (one, *_), own in zip(read, plain, strict=True):
            if one.stdout is None:  # ids alone: no such fault is why a prompt has others
                found.append(own if one.is_right or one.encoded is None else np.concatenate([own, _NEVER]))
                continue
            is_out = is_out or self.printed.stdout(hypothesis.port, one.request) != one.stdout
            n = max(1, len(own) + (not one.is_right))  # what makes it wrong is one more thing to explain
            found.append(np.full(n, -math.inf if is_out else math.inf))
        return self._score(hypothesis, found)

    def _score(self, hypothesis: Hypothesis, found: Sequence[Array]) -> Score:
        return Score(hypothesis, tuple(found), fitted(np.concatenate(found), self.noise))

    # ---- the conclusion --------------------------------------------------------------------------------------

    def _scored(
        self, forward: Sequence[Hypothesis], others: Sequence[Hypothesis], *, strictly: bool = False
    ) -> tuple[Score, list[Score]]:
        """Score hypotheses, RIGHT the first of them, on all tokens: RIGHT, and the others."""
        read = self._tokens(forward, strictly=strictly)
        whole = self._margins(RIGHT, [one.trial for one in read])
        assert whole is not None
        plain = np.split(whole, np.cumsum([one.trial.n for one in read])[:-1])
        is_by_bytes = [
            not one.evidence.is_right and not one.is_said and level(own, self.noise) == "" and len(own) > 0
            for one, own in zip(read, plain, strict=True)
        ]
        right, *scores = [score for one in forward if (score := self._by_tokens(one, read, is_by_bytes)) is not None]
        for one in others:
            scores.append((self._by_encoder if one.family == "encoder" else self._by_stdout)(one, read, plain))
        return right, scores

    def _concluded(self, right: Score, scores: Sequence[Score], needed: float) -> Diagnosis:
        return concluded(right, scores, self.noise, needed=needed, n_tried=self.n_tried)

    def _scale(self, engine: Engine) -> float:
        """How much larger a right port's logits spread than those of an engine."""
        own = self._usual if engine is self.right_engine else spread_of(engine, self._certain)
        return scale_of(self._usual, own)


def _never(own: Array) -> Array:
    """Margins of tokens that a hypothesis cannot have said, as many as a right port's."""
    return np.full(max(1, len(own)), -math.inf)


def _continuations(one: Evidence, ids: Sequence[int]) -> Iterator[bytes]:
    """What follows the prompt, if the prompt had these ids: each once."""
    echo = b"".join(one.printing.render(ids))
    seen: set[bytes] = set()
    for text in one.texts:
        for whole in dict.fromkeys((echo, echo.removeprefix(b" "), one.request.prompt)):
            rest = text[len(whole) :]
            if text.startswith(whole) and rest and rest not in seen:
                seen.add(rest)
                yield rest
