"""The search: a failure becomes the smallest model, vocabulary and request that still show it.

Every candidate is put to the program and judged as golden cases are, and counts only if it fails in the same way,
and clearly: up to the wrong token the reference's own choices must lead by many times the noise of honest programs,
so that what is left is no tie.

First small models are drawn, the smallest kinds first: most bugs show on one of some hundred bytes. Where none shows
it, and for what the vocabulary or the prompt has to do with it, the model of the failing case is cut down. What was
found is then made smaller, one part at a time, until nothing can be left out or the time is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np

from harness.adapters.implementation import ProcessImplementation
from harness.checkpoint import expected_shapes
from harness.conformance.fuzz.recipe import SPACE, Ask, Recipe, Weights, build, vocabulary
from harness.conformance.fuzz.trial import Asked, Subject, Trier, write
from harness.conformance.shrink.repro import Repro, level_of, meets
from harness.conformance.shrink.smaller import candidates
from harness.engine import blas_threads
from harness.errors import CheckpointError, TokenizerError
from harness.model_config import ModelConfig
from harness.models import Model, ModelFiles
from harness.results import Kind, Verdict

__all__ = ["Progress", "Shrunk", "shrink"]

# A choice is clear where it leads by so many noise floors, and by so much of the largest logit, which low precisions
# leave alone too.
_CLEAR_FLOORS = 16.0
_CLEAR_SHARE = 2.0**-9
_SPECIALS = ("<unk>", "BOS", "EOS")  # the first ids


@dataclass(frozen=True, slots=True, eq=False)
class Shrunk:
    """The smallest failure that was found.

    Attributes:
        found: the verdict on it.
        subject: its model as the judge sees it.
        format: the container that the program was given.
        n_tried: candidates that were put to the program.
        is_whole: whether nothing more could be left out; else the time was over, or it was interrupted.
    """

    repro: Repro
    found: Asked
    subject: Subject
    format: str
    n_tried: int
    took_s: float
    is_whole: bool


Progress = Callable[[Repro, int], None]
"""Told of each smaller failure, with the number of candidates that were tried."""


def shrink(
    impl: ProcessImplementation,
    start: Repro,
    verdict: Verdict,
    *,
    format: str = "llama2c-v0",
    seconds: float = 60.0,
    time_s: float = 10.0,
    seed: int = 1,
    progress: Progress = lambda repro, n_tried: None,
    clock: Callable[[], float] = time.monotonic,
) -> Shrunk | None:
    """Find a smaller question that a program gets wrong in the same way.

    Args:
        start: what it got wrong, about a model that it can be given as it is.
        verdict: on that.
        format: the container that it is given.
        seconds: after which the smallest so far is the result.
        time_s: limit of each run.

    Returns:
        None: it did not fail again, or never clearly.
    """
    with (
        Trier(impl, levels=(level_of(verdict, impl.manifest),), time_s=time_s) as trier,
        TemporaryDirectory(prefix="harness-shrink-") as home,
        blas_threads(1),
    ):
        search = _Search(trier, verdict, format, Path(home), Random(seed), clock, clock() + seconds, progress)
        begun = clock()
        try:
            is_whole = search.run(start)
        except KeyboardInterrupt:
            is_whole = False
        if search.best is None:
            return None
        repro, found, subject = search.best
        return Shrunk(repro, found, subject, format, search.n_tried, clock() - begun, is_whole)


@dataclass(frozen=True, slots=True)
class _Tier:
    """Kinds of small models: at most so many of each, and how many are drawn."""

    layers: int
    kv_heads: int
    n_rep: int
    pairs: int
    hidden: int
    vocab: int
    prompt: int
    n: int
    tries: int


_TIERS = (
    _Tier(1, 1, 1, 1, 2, 6, 0, 1, 40),
    _Tier(1, 1, 1, 2, 4, 8, 2, 2, 60),
    _Tier(2, 1, 2, 2, 6, 12, 3, 3, 80),
    _Tier(2, 4, 2, 2, 8, 24, 4, 4, 120),
    _Tier(3, 4, 3, 6, 16, 64, 6, 10, 120),
    _Tier(3, 4, 2, 8, 24, 96, 12, 40, 60),
)


def _signature(verdict: Verdict) -> tuple[Kind, bool, bool]:
    return verdict.kind, verdict.tokenizer is Kind.MISMATCH, verdict.forward is Kind.MISMATCH


def _in_words(model: Model, verdict: Verdict) -> bool:
    """Whether what is right and what is wrong can both be read: neither a special token, nor blank."""
    parting = verdict.divergence
    if parting is None or parting.expected is None or parting.actual is None:
        return False
    ids, pieces = (parting.expected, parting.actual), model.tokenizer.pieces
    return all(len(_SPECIALS) <= i < len(pieces) and pieces[i].strip() for i in ids)


class _Search:
    """One search for a small failure."""

    def __init__(
        self,
        trier: Trier,
        verdict: Verdict,
        format: str,
        home: Path,
        random: Random,
        clock: Callable[[], float],
        deadline: float,
        progress: Progress,
    ) -> None:
        self._trier, self._format, self._home, self._random = trier, format, home, random
        self._signature = _signature(verdict)
        self._verdict = verdict
        self._wants_words = False
        self._clock, self._deadline, self._progress = clock, deadline, progress
        self._seen: set[bytes] = set()
        self.best: tuple[Repro, Asked, Subject] | None = None
        self.n_tried = 0

    def run(self, start: Repro) -> bool:
        """Search; return whether nothing more can be left out."""
        self._wants_words = _in_words(start.model, self._verdict)
        if not self._signature[1]:  # what the tokenizer gets wrong depends on the pieces that there are
            self._draw(start)
        if self.best is None and not self._fails(start, is_start=True):
            return False
        while self._improve():
            if self._is_over:
                return False
        return not self._is_over

    @property
    def _is_over(self) -> bool:
        return self._clock() >= self._deadline

    def _draw(self, start: Repro) -> None:
        """Draw small models until one fails; a third of the time at most."""
        until = self._clock() + (self._deadline - self._clock()) / 3
        for tier in _TIERS:
            for _ in range(tier.tries):
                if self._clock() >= until:
                    return
                if self._fails(self._drawn(tier, start)):
                    return

    def _improve(self) -> bool:
        """Find one smaller failure."""
        assert self.best is not None
        repro, found, subject = self.best
        size = repro.size
        for candidate in candidates(repro, found, subject, self._redrawn):
            if self._is_over:
                return False
            try:
                is_smaller = candidate.size < size
            except TokenizerError:  # a piece of the prompt is missing
                continue
            if is_smaller and self._fails(candidate):
                return True
        return False

    def _fails(self, repro: Repro, *, is_start: bool = False) -> bool:
        """Whether the program fails on it in the same way, clearly; then it is the best so far.

        Args:
            is_start: it is what is to be made small, which counts as it is.
        """
        manifest = self._trier.impl.manifest
        if repro.key in self._seen or not meets(repro.config, manifest):
            return False
        self._seen.add(repro.key)
        try:
            prompt = repro.prompt_ids
            if len(prompt) - 1 + repro.ask.n > repro.config.seq_len:
                return False
            files = write(repro.model, self._home, self._format, manifest.needs.tokenizer_layout)
            subject = Subject(repro.model, prompt)
            if "LOGITS" in self._trier.levels:
                case = subject.golden(prompt, repro.ask)
                subject = Subject(repro.model, [prompt[0], *(case.ids or ())][: repro.config.seq_len])
            with np.errstate(all="ignore"):
                found = self._asked(files, subject, repro, prompt)
        except (TokenizerError, CheckpointError, ValueError):
            return False  # no such model can be written, or no such text be encoded
        if found is None or not (is_start or self._is_clear(repro, subject, prompt, found)):
            return False
        self.best = (repro, found, subject)
        self._progress(repro, self.n_tried)
        return True

    def _asked(self, files: ModelFiles, subject: Subject, repro: Repro, prompt: list[int]) -> Asked | None:
        self.n_tried += 1
        found = self._trier.try_files(files, subject, prompt, [repro.ask])[-1]
        is_same = found.verdict.kind.is_failure and _signature(found.verdict) == self._signature
        return found if is_same else None

    def _is_clear(self, repro: Repro, subject: Subject, prompt: list[int], found: Asked) -> bool:
        """Whether no honest program could come to another choice up to where it goes wrong, and it can be read."""
        if self._wants_words and not _in_words(repro.model, found.verdict):
            return False
        if found.verdict.kind is not Kind.MISMATCH or repro.ask.temperature != 0:
            return True  # it failed by itself; or the judge has already tried every logit within the noise
        case = subject.golden(prompt, repro.ask)
        fed = [prompt[0], *(case.ids or ())][:-1]
        exact = subject.reference.exact_logits(fed)
        if not np.isfinite(exact).all():
            return False
        floors = subject.reference.floors_along(fed)
        first = len(prompt) - 1
        parting = found.verdict.divergence
        end = first + parting.step + 1 if parting is not None and found.what != "LOGITS" else len(fed)
        top = np.sort(exact[first:end], axis=1)[:, -2:]
        enough = np.maximum(_CLEAR_FLOORS * floors[first:end], _CLEAR_SHARE * np.abs(exact[first:end]).max(axis=1))
        return bool((top[:, 1] - top[:, 0] > enough).all())

    # ---- models drawn from nothing

    def _drawn(self, tier: _Tier, start: Repro) -> Repro:
        """Draw a small model and a question, sampled as in the failure."""
        random, needs = self._random, self._trier.impl.manifest.needs
        kv_heads, n_rep = random.randint(1, tier.kv_heads), random.randint(1, tier.n_rep)
        pairs = random.randint(1, tier.pairs)
        n_heads = kv_heads * n_rep
        prompt = random.randint(0, tier.prompt)
        n = random.randint(1, tier.n)
        vocab = needs.vocab_size or random.randint(SPACE + 2, tier.vocab)
        config = ModelConfig(
            dim=n_heads * 2 * pairs,
            hidden_dim=random.randint(1, tier.hidden) * needs.hidden_multiple,
            n_layers=random.randint(1, tier.layers),
            n_heads=n_heads,
            n_kv_heads=n_heads if needs.mha else kv_heads,
            vocab_size=vocab,
            seq_len=(prompt + 1 if prompt else 0) + n,
            is_tied=start.config.is_tied if needs.tied is None else needs.tied,
        )
        group_size = None
        if start.model.checkpoint.group_size is not None:
            sizes = [g for g in range(1, config.dim + 1) if config.dim % g == 0 and config.hidden_dim % g == 0]
            group_size = random.choice(sizes)
        words = vocabulary(vocab)
        letters = b"".join(words.pieces[random.randint(SPACE + 1, vocab - 1)] for _ in range(prompt))
        recipe = Recipe(config, self._style(), group_size, self._format)
        return Repro(Model(build(recipe), words, "repro"), letters, self._ask_like(start, n))

    def _ask_like(self, start: Repro, n: int) -> Ask:
        if start.ask.temperature == 0:
            return Ask(n)
        return replace(start.ask, n=n, seed=self._random.choice((start.ask.seed, self._random.randint(1, 1 << 16))))

    def _style(self) -> Weights:
        random = self._random
        return Weights(
            seed=random.getrandbits(32),
            loudness=random.choice((4.0, 1.5, 10.0, 60.0)),
            gain=random.choice((1.0, 2.0, 8.0)),
            peakedness=random.choice((1.0, 8.0, 300.0, 0.1)),
            smallness=random.choice((1.0, 0.01, 30.0)),
            stops=random.random() < 0.5,
        )

    def _redrawn(self, model: Model) -> Model:
        """A model of the same dimensions and vocabulary, its weights drawn anew."""
        found = model.checkpoint
        made = build(Recipe(found.config, self._style(), found.group_size, self._format))
        assert set(made.tensors) == set(expected_shapes(found.config))
        return replace(model, checkpoint=made)
