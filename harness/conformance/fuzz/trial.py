"""One recipe put to one implementation, at every level that it claims, and judged as golden cases are.

What is exact beyond doubt is seen at once: the tokens are the reference's own choices in one teacher-forced pass, the
logits lie within the noise of a single honest program. Everything else goes to the judges of golden cases, with the
whole ensemble behind them; nothing here holds a tolerance of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from harness import checkpoint as checkpoints
from harness import tokenizer as tokenizers
from harness.adapters.implementation import ProcessImplementation
from harness.adapters.manifest import names_in
from harness.adapters.process import Limits
from harness.adapters.protocol import Session
from harness.conformance.case import Case
from harness.conformance.claim import Claim, plain_verdict
from harness.conformance.fuzz.answer import SUITE, golden
from harness.conformance.fuzz.recipe import Ask, Recipe, build, has_margins, probe_ids, vocabulary
from harness.conformance.fuzz.traced import traced
from harness.conformance.judge import Judge
from harness.conformance.judge_ids import IdClaim, IdJudge
from harness.conformance.levels import LEVELS as _ANSWERS
from harness.conformance.reference import Reference
from harness.conformance.verify import unsupported
from harness.engine import Engine
from harness.engine.honest import ensemble, moved_embedding
from harness.engine.ops import LIBRARY
from harness.engine.sampler import Xorshift, sample
from harness.errors import ImplementationError, Unsupported
from harness.judging.logits import fit
from harness.models import Model, ModelFiles, older_layout
from harness.results import Kind, Observation, Verdict

__all__ = ["LEVELS", "Asked", "Subject", "Subjects", "Trier", "write"]

Array = npt.NDArray[Any]

LEVELS = (*_ANSWERS, "TRACE")
_OF_LINES = frozenset({"TOKENS", "LOGITS"})

BOS = 1
_MEMBERS = 12  # more honest programs: with two numbers in a row, four may all round as the exact one does
_VERSIONS = {"llama2c-v0": 0, "llama2c-v1": 1, "llama2c-v2": 2}
_RIGHT = Verdict(case="", suite=SUITE, tags=(), impl="", model=SUITE, kind=Kind.EXACT)


class _Reference(Reference):
    """A reference with more members: a floor from few numbers is a matter of luck."""

    @cached_property
    def ensemble(self) -> list[Engine]:
        tensors = self.model.checkpoint.tensors
        more = (replace(LIBRARY, embed=moved_embedding(seed)) for seed in range(3, 3 + _MEMBERS))
        return [
            *ensemble(self.config, tensors, is_int8=self.is_int8),
            *(Engine(self.config, tensors, ops=ops) for ops in more),
        ]


class Subject:
    """A model as the judge sees it, with what is computed of it once for all programs.

    Attributes:
        probe: the ids whose logits are asked for.
        rows: (len(probe), vocab_size) the reference's logits along them.
        other: the same by an honest program of the model's own arithmetic.
    """

    def __init__(self, model: Model, probe: Sequence[int]) -> None:
        self.model = model
        self.reference: Reference = _Reference(model)
        self.probe = list(probe)
        self.rows: Array = self.reference.exact.logits(self.probe)
        tensors = model.checkpoint.tensors
        self.other: Array = Engine(self.reference.config, tensors).logits(self.probe)
        self._chosen: dict[tuple[tuple[int, ...], tuple[int, ...], Ask], bool] = {}
        self._goldens: dict[tuple[tuple[int, ...], Ask], Case] = {}

    @property
    def has_margins(self) -> bool:
        return has_margins(self.rows, self.other)

    def chooses(self, prompt: Sequence[int], generated: Sequence[int], ask: Ask) -> bool:
        """Whether the reference itself would choose each of these tokens after those before it."""
        key = (tuple(prompt), tuple(generated), ask)
        if key not in self._chosen:
            rows = self.reference.exact.logits([*prompt, *generated[:-1]], first=len(prompt) - 1)
            rng = Xorshift.from_argument(ask.seed)
            argmax, config = self.reference.exact.ops.argmax, self.reference.config
            self._chosen[key] = all(
                token
                == (
                    argmax(config, row)
                    if ask.temperature == 0
                    else sample(row, temperature=ask.temperature, topp=ask.topp, coin=rng.coin())
                )
                for token, row in zip(generated, rows, strict=True)
            )
        return self._chosen[key]

    def is_surely_near(self, rows: Array) -> bool:
        """Whether logits along the probe are right by the noise of one honest program; all have more."""
        noise = np.abs(self.other.astype(np.float64) - self.rows).max(axis=1)
        return fit(self.rows.astype(np.float64), rows, noise).is_within(noise)

    def golden(self, prompt: Sequence[int], ask: Ask) -> Case:
        """The ask as a golden case, answered by the reference."""
        key = (tuple(prompt), ask)
        if key not in self._goldens:
            self._goldens[key] = golden(self.reference, prompt, ask)
        return self._goldens[key]


class Subjects:
    """Models by recipe; the latest are kept, since several programs are given the same."""

    def __init__(self, keep: int = 256) -> None:
        self._keep = keep
        self._known: OrderedDict[Recipe, Subject] = OrderedDict()

    def of(self, recipe: Recipe) -> Subject:
        key = replace(recipe, format="")
        if key not in self._known:
            model = Model(build(recipe), vocabulary(recipe.config.vocab_size), SUITE)
            self._known[key] = Subject(model, probe_ids(recipe))
        self._known.move_to_end(key)
        while len(self._known) > self._keep:
            self._known.popitem(last=False)
        return self._known[key]


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of one question.

    Attributes:
        what: the level.
        ask: the continuation that was asked for; None for logits.
    """

    what: str
    ask: Ask | None
    verdict: Verdict


class Trier:
    """Puts models to one implementation: through one session of the line protocol, and by a process for each ask.

    Args:
        levels: those to judge at, of the ones that the manifest claims; all of these unless given.
        time_s: limit for one request, or one run.

    Attributes:
        levels: those that it is judged at.
        quick: of these, the ones of the line protocol, which take no process of their own; all, where there are none.
    """

    def __init__(self, impl: ProcessImplementation, *, levels: Sequence[str] = (), time_s: float = 10.0) -> None:
        self.impl = impl
        self._limits = Limits(time_s=time_s)
        self._stack = contextlib.ExitStack()
        self._home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-fuzz-")))
        self._session: Session | None = None
        manifest = impl.manifest
        able = LEVELS if manifest.protocol else tuple(level for level in LEVELS if level not in _OF_LINES)
        self.levels = tuple(level for level in able if level in manifest.levels and level in (levels or LEVELS))
        self.quick = tuple(level for level in self.levels if level in _OF_LINES) or self.levels
        # A program whose command names the model, or that needs another container, is started for each.
        self._is_told = not (names_in(manifest.protocol) & {"model", "model_dir"} or manifest.prepare)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def try_recipe(self, recipe: Recipe, subject: Subject, levels: Sequence[str] | None = None) -> list[Asked]:
        """Ask about the model of a recipe; at some of the levels, if they are given."""
        files = write(subject.model, self._home, recipe.format, self.impl.manifest.needs.tokenizer_layout)
        prompt = [1, *recipe.prompt]
        return self.try_files(files, subject, prompt, recipe.asks, levels)

    def try_files(
        self,
        files: ModelFiles,
        subject: Subject,
        prompt: Sequence[int],
        asks: Sequence[Ask],
        levels: Sequence[str] | None = None,
    ) -> list[Asked]:
        """Ask about a model in files, until something is wrong."""
        at = frozenset(self.levels if levels is None else levels)
        done = []
        for one in itertools.chain(
            self._by_lines(files, subject, prompt, asks, at) if at & _OF_LINES else (),
            self._by_runs(files, subject, prompt, asks, at) if at - _OF_LINES else (),
        ):
            done.append(one)
            if one.verdict.kind.is_failure:
                break
        return done

    # ---- a process for each ask

    def _by_runs(
        self, files: ModelFiles, subject: Subject, prompt: Sequence[int], asks: Sequence[Ask], at: frozenset[str]
    ) -> Iterator[Asked]:
        """Judge the text of each ask; and what is recorded of the first one, by the same run."""
        path = self._home / "trace"
        for ask in asks if "TEXT" in at else asks[:1]:
            records = "TRACE" in at and ask is asks[0]
            case = subject.golden(prompt, ask)
            if reason := unsupported(case, self.impl.manifest):
                skipped = plain_verdict(case, self.impl.name, Kind.UNSUPPORTED, reason)
                yield from (Asked(level, ask, skipped) for level in sorted(at - _OF_LINES))
                continue
            path.unlink(missing_ok=True)
            request = case.request(files)
            seen = self.impl.run(request, self._limits, trace=path if records else None)
            if "TEXT" in at:
                yield Asked("TEXT", ask, Judge(self.impl, subject.reference).verdict(Claim(case, seen, request)))
            if records:
                yield Asked("TRACE", ask, traced(self.impl, subject.model, Claim(case, seen, request), path))

    # ---- the line protocol

    def _by_lines(
        self, files: ModelFiles, subject: Subject, prompt: Sequence[int], asks: Sequence[Ask], at: frozenset[str]
    ) -> Iterator[Asked]:
        config = subject.reference.config
        shape = (config.vocab_size, config.seq_len)
        with self._opened(files, shape) as session:
            if "TOKENS" in at:
                for ask in asks:
                    yield Asked("TOKENS", ask, self._tokens(session, files, subject, prompt, ask))
            if "LOGITS" in at:
                yield Asked("LOGITS", None, self._logits(session, files, subject))

    @contextlib.contextmanager
    def _opened(self, files: ModelFiles, shape: tuple[int, int]) -> Iterator[Session]:
        """The one session, about these files; or one of their own."""
        opened = self.impl.session(files.checkpoint, files.tokenizer, limits=self._limits, shape=shape)
        if not self._is_told:
            with opened as session:
                yield session
            return
        if self._session is None:
            self._session = self._stack.enter_context(opened)
        else:
            self._session.about(files.checkpoint, files.tokenizer, shape)
        yield self._session

    def _tokens(
        self, session: Session, files: ModelFiles, subject: Subject, prompt: Sequence[int], ask: Ask
    ) -> Verdict:
        """Ask for ids of the prompt and of its continuation; judge both."""
        text = subject.model.tokenizer.decode(list(prompt))
        encoded: list[int] | None = None
        generated: list[int] = []
        failure: ImplementationError | None = None
        asked = ""
        try:
            with contextlib.suppress(Unsupported):
                encoded = session.encode(text)
            if encoded not in (None, list(prompt)):
                asked = session.reproduce
            generated = session.generate(prompt, ask.n, temperature=ask.temperature, topp=ask.topp, seed=ask.seed)
        except ImplementationError as error:
            failure = error
        config = subject.reference.config
        is_whole = len(generated) == min(ask.n, config.seq_len - len(prompt) + 1) or generated[-1:] == [BOS]
        is_honest = failure is None and encoded in (None, list(prompt)) and is_whole and BOS not in generated[:-1]
        if is_honest and subject.chooses(prompt, generated, ask):
            return replace(_RIGHT, impl=self.impl.name, n_judged=len(generated))
        case = subject.golden(prompt, ask)
        seen = Observation((), "", b"", stderr_tail=session.stderr_tail, exit_code=None, failure=failure)
        claim = IdClaim(case, seen, case.request(files), encoded=encoded, generated=generated)
        claim.asked = asked or session.reproduce
        return IdJudge(self.impl, subject.reference).verdict(claim)

    def _logits(self, session: Session, files: ModelFiles, subject: Subject) -> Verdict:
        """Ask for the logits along the probe; judge them."""
        rows: npt.NDArray[np.float32] | ImplementationError
        try:
            rows = session.logits(subject.probe)
        except ImplementationError as error:
            rows = error
        if isinstance(rows, np.ndarray) and subject.is_surely_near(rows):
            return replace(_RIGHT, impl=self.impl.name, n_judged=len(rows))
        case = subject.golden(subject.probe[:1], Ask(1))
        seen = Observation((), "", b"", stderr_tail=session.stderr_tail, exit_code=None)
        claim = IdClaim(case, seen, case.request(files), fed=subject.probe, logits=rows)
        claim.asked_logits = session.reproduce
        return IdJudge(self.impl, subject.reference).logits_verdict(claim)


def write(model: Model, directory: Path, format: str, layout: str | None = None) -> ModelFiles:
    """Write a model as a program reads it: `model.bin` and `tokenizer.bin`, in place of any that are there."""
    files = (directory / "model.bin", directory / "tokenizer.bin")
    checkpoint, words = model.checkpoint, older_layout(model.tokenizer, layout or "today")
    checkpoints.write(checkpoint, files[0], version=_VERSIONS[format], group_size=checkpoint.group_size)
    tokenizers.write(words, files[1], words.layout)
    return ModelFiles(SUITE, *files, "", "", format, False)
