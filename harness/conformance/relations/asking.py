"""Asking: a program that is put questions, in ids or in text, about models as they are and changed ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from harness import checkpoint as checkpoints
from harness.adapters.implementation import Implementation
from harness.adapters.manifest import names_in
from harness.adapters.process import Limits
from harness.adapters.protocol import Session
from harness.conformance.case import Case
from harness.conformance.reference import Reference
from harness.diagnosis.gauges import Draw
from harness.diagnosis.relations import Relation
from harness.errors import ImplementationError, Unsupported
from harness.models import Model, ModelFiles, cache_dir, load
from harness.models.files import made_whole, sha256_of
from harness.results import Observation, Request, Verdict
from harness.tokenizer import tokenizer_bin

__all__ = ["Program", "Question", "Said", "answered", "changed_files"]

# Part of the key of changed files; raise it when a change comes to something else.
_EDITION = 1
_VERSIONS = {"llama2c-v0": 0, "llama2c-v1": 1, "llama2c-v2": 2}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, of which files; the fields of sampling as in `Request`."""

    files: ModelFiles
    prompt: bytes
    steps: int
    temperature: float = 0.0
    topp: float = 0.9
    seed: int = 1
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Said:
    """What a program answered.

    Attributes:
        ids: those of its prompt and of its answer; None where it printed a text.
        pieces: the same as bytes, so that they can be compared where ids mean something else.
        seen: what it did.
        line: a command line that shows it.
    """

    question: Question
    seen: Observation
    line: str
    ids: tuple[list[int], list[int]] | None = None
    pieces: tuple[bytes, ...] = ()


class Program:
    """A program that is asked for ids if it speaks of them, and for text if not.

    Attributes:
        took_s: how long all its answers took, together.
    """

    def __init__(
        self,
        impl: Implementation,
        fitting: Callable[[ModelFiles], ModelFiles],
        levels: Sequence[str],
        limits: Limits | None,
        threads: int,
    ) -> None:
        manifest = impl.manifest
        self.fitting = fitting
        self.impl, self.manifest, self.limits, self.threads = impl, manifest, limits, threads
        self.speaks_ids = "TOKENS" in levels and bool(manifest.protocol)
        self.speaks_text = "TEXT" in levels
        self.took_s = 0.0
        # What the reference answers, and what the judges say of an answer: many relations ask the same.
        self.goldens: dict[tuple[str, str, bytes, int], tuple[Reference, Case]] = {}
        self.judged: dict[tuple[Question, bytes, str], Verdict] = {}
        self._known: dict[tuple[Question, bool], Said] = {}
        self._sessions: dict[int, Session] = {}
        self._stack = contextlib.ExitStack()
        self._is_told = not (names_in(manifest.protocol) & {"model", "model_dir"} or manifest.prepare)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def known(self, question: Question, *, in_text: bool = False) -> Said:
        """Return what it answered when it was asked this first: most relations are about the same answer."""
        key = (question, in_text)
        if key not in self._known:
            self._known[key] = self.ask(question, in_text=in_text)
        return self._known[key]

    def ask(self, question: Question, *, in_text: bool = False) -> Said:
        """Put a question."""
        if self.speaks_ids and not in_text:
            return self._by_lines(question)
        asked = question
        request = Request(
            model=asked.files.checkpoint,
            tokenizer=asked.files.tokenizer,
            prompt=asked.prompt,
            steps=asked.steps,
            temperature=asked.temperature,
            topp=asked.topp,
            seed=asked.seed,
            threads=asked.threads,
        )
        seen = self.impl.run(request, self.limits)
        self.took_s += seen.wall_s
        return Said(question, seen, seen.command_line)

    @contextlib.contextmanager
    def session(self, question: Question) -> Iterator[Session]:
        """Yield a session about the question's files: one for all models, where the program can be told to load."""
        files = question.files
        config = load(files.checkpoint, files.tokenizer).checkpoint.config
        shape = (self.manifest.needs.vocab_size or config.vocab_size, config.seq_len)
        opened = self.impl.session(
            files.checkpoint, files.tokenizer, threads=question.threads, limits=self.limits, shape=shape
        )
        if not self._is_told:
            with opened as session, self._timed(session):
                yield session
            return
        known = self._sessions.get(question.threads)
        if known is None:
            known = self._sessions[question.threads] = self._stack.enter_context(opened)
        else:
            known.about(files.checkpoint, files.tokenizer, shape)
        with self._timed(known):
            yield known

    @contextlib.contextmanager
    def _timed(self, session: Session) -> Iterator[None]:
        before = session.waited_s
        try:
            yield
        finally:
            self.took_s += session.waited_s - before

    def _by_lines(self, question: Question) -> Said:
        with self.session(question) as session:
            return answered(session, question)


def answered(session: Session, question: Question, prompt: list[int] | None = None) -> Said:
    """Have a prompt encoded and continued.

    Args:
        prompt: ids that are continued instead.
    """
    files = question.files
    model = load(files.checkpoint, files.tokenizer)
    n_steps = min(question.steps, model.checkpoint.config.seq_len)
    found: list[int] = []
    failure: ImplementationError | None = None
    try:
        if prompt is None:
            try:
                prompt = session.encode(question.prompt)
            except Unsupported:
                prompt = model.vocabulary.encode(question.prompt)
        found = session.generate(
            prompt,
            max(1, n_steps - (len(prompt) - 1)),
            temperature=question.temperature,
            topp=question.topp,
            seed=question.seed,
        )
    except ImplementationError as error:
        failure = error
    seen = Observation((), "", b"", stderr_tail=session.stderr_tail, exit_code=None, failure=failure)
    ids = [*(prompt or ()), *found]
    pieces = tuple(model.vocabulary.pieces[i] if i < model.vocabulary.vocab_size else b"" for i in ids)
    return Said(question, seen, session.reproduce, (list(prompt or ()), found), pieces)


def changed_files(relation: Relation, model: Model, files: ModelFiles, draw: Draw) -> ModelFiles:
    """Return the files of a model under the change of a relation, in the cache, written once.

    Raises:
        InputError: they cannot be written.
    """
    assert relation.changed is not None
    key = [_EDITION, files.sha256, files.tokenizer_sha256, relation.name, repr(draw)]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    name = f"{files.name}/{relation.name}"
    weights_path = cache_dir() / "relations" / f"{name.replace('/', '-')}-{digest}.bin"
    words_path = weights_path.with_suffix(".tok")
    if not (weights_path.is_file() and words_path.is_file()):
        changed = relation.changed(model, draw)
        with made_whole(weights_path) as path:
            checkpoints.write(changed.checkpoint, path, version=_VERSIONS[changed.checkpoint.format])
        with made_whole(words_path) as path:
            tokenizer_bin.write(changed.tokenizer, path, changed.tokenizer.layout)
    return replace(
        files,
        name=name,
        checkpoint=weights_path,
        tokenizer=words_path,
        sha256=sha256_of(weights_path),
        tokenizer_sha256=sha256_of(words_path),
        is_embedded=False,
    )
