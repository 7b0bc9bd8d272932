"""Judge the runs of a benchmark: each by its own tokens, with the judge that `harness check` uses.

The texts of synthetic models can be read in one way only, so the ids that programs claim are known, and one
teacher-forced pass of the reference over those of all runs of a round is the whole judgement: a model that memory
does not hold is read once. Where a text is not right in every token, or is a real model's, the reference writes its
own continuation, and the text is judged as if that were a golden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.adapters import extract
from harness.adapters.build import inputs
from harness.adapters.implementation import ProcessImplementation
from harness.adapters.in_process import InProcess
from harness.adapters.manifest import Manifest
from harness.adapters.process import Limits
from harness.bench.plan import Prompt
from harness.bench.run import Checked, Run
from harness.bench.workload import Workload
from harness.conformance.case import Case, ModelRef, Provenance
from harness.conformance.verify import reference_of, verify_group
from harness.engine import blas_threads, generate
from harness.errors import ManifestError
from harness.results import Observation, Request

__all__ = ["Verifier", "build_hash"]

_PIECE_BYTES = 4  # of synthetic pieces that are generated


@dataclass(frozen=True, slots=True)
class _Replay(InProcess):
    """An implementation that has been run already."""

    manifest: Manifest
    seen: Observation

    def run(self, request: Request, limits: Limits | None = None) -> Observation:
        return self.seen


class Verifier:
    """Judges runs, and remembers the right continuations of prompts."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], list[int]] = {}  # generated ids, the longest known
        self._judged: dict[tuple[object, ...], Checked] = {}

    def __call__(self, work: Workload, runs: Sequence[Run]) -> list[Checked]:
        if work.is_synthetic:
            self._learn(work, runs)
        return [self._checked(work, run) for run in runs]

    def _checked(self, work: Workload, run: Run) -> Checked:
        key = (run.impl.name, work.files.sha256, run.prompt.text, run.n_tokens, run.observation.stdout)
        if key not in self._judged:
            self._judged[key] = self._judge(work, run)
        return self._judged[key]

    def room(self, work: Workload, prompt: Prompt, n_tokens: int) -> int:
        """How many tokens the model generates after a prompt before it stops by itself, up to so many."""
        tokens = self._continuation(work, prompt, n_tokens)
        return min(n_tokens, len(tokens) - (tokens[-1] in _stops(work) if tokens else 0))

    def _judge(self, work: Workload, run: Run) -> Checked:
        tokens = self._continuation(work, run.prompt, run.n_tokens)[: run.n_tokens]
        case = _case(work, run.prompt, tokens, run.n_tokens)
        reference_of(work.files).confirmed.add(case.ids or ())  # the reference's own, or judged by it
        manifest = run.impl.manifest.model_copy(update={"levels": ("TEXT",), "protocol": ()})
        (verdict,) = verify_group([case], _Replay(manifest, run.observation), files=work.files)
        n_generated = verdict.n_judged if verdict.kind.is_green and verdict.n_judged else len(tokens)
        return Checked(verdict.kind, n_generated, verdict.reason)

    def _learn(self, work: Workload, runs: Sequence[Run]) -> None:
        """Take programs' own ids for the continuations of their prompts where the reference chooses every one."""
        reference = reference_of(work.files)
        words = reference.model.tokenizer
        ids = {piece: number for number, piece in enumerate(words.pieces)}
        claims: dict[tuple[bytes, tuple[int, ...]], None] = {}
        for run in runs:
            known = self._known.get((work.files.sha256, run.prompt.text), ())
            if len(known) < run.n_tokens:
                claims |= dict.fromkeys((run.prompt.text, claimed) for claimed in _claims(run, ids))
        # A shorter claim that a longer one begins with is judged with it.
        todo = [
            (text, claimed)
            for text, claimed in claims
            if not any(t == text and len(c) > len(claimed) and c[: len(claimed)] == claimed for t, c in claims)
        ]
        if not todo:
            return
        before = [words.encode(text) for text, _ in todo]
        judged = reference.judge(
            [[*prompt, *claimed] for prompt, (_, claimed) in zip(before, todo, strict=True)], list(map(len, before))
        )
        for (text, claimed), scores in zip(todo, judged, strict=True):
            key = (work.files.sha256, text)
            wrong = np.flatnonzero(scores.regret > 0)
            right = list(claimed) if not len(wrong) else [*claimed[: wrong[0]], int(scores.best[wrong[0]])]
            if len(right) > len(self._known.get(key, ())):
                self._known[key] = right

    def _continuation(self, work: Workload, prompt: Prompt, n_tokens: int) -> list[int]:
        """The reference's own tokens after a prompt, at least so many unless it stops."""
        key = (work.files.sha256, prompt.text)
        known = self._known.get(key, [])
        if len(known) < n_tokens and not (known and known[-1] in _stops(work)):
            reference = reference_of(work.files)
            before = reference.model.vocabulary.encode(prompt.text)
            before += known
            with blas_threads(1):
                n = len(before) - 1 + n_tokens - len(known)
                ids = list(generate(reference.exact, before, steps=n, stop=_stops(work)))
            self._known[key] = [*known, *ids[len(before) - 1 :]]
        return self._known[key]


def _stops(work: Workload) -> frozenset[int]:
    return reference_of(work.files).model.vocabulary.stop_ids


def _claims(run: Run, ids: dict[bytes, int]) -> Iterator[tuple[int, ...]]:
    """The generated ids that a text can be read as, in each way of finding it in the output."""
    for read in extract.candidates(run.observation.stdout, prompt=run.prompt.text, pattern=run.impl.manifest.text):
        rest = read.text[len(run.prompt.text) :] if read.echoes_prompt else read.text
        claimed = [
            ids.get(rest[i : i + _PIECE_BYTES], -1) for i in range(0, run.n_tokens * _PIECE_BYTES, _PIECE_BYTES)
        ]
        if -1 not in claimed:
            yield tuple(claimed)


def _case(work: Workload, prompt: Prompt, tokens: list[int], n_tokens: int) -> Case:
    """The golden that this run is judged by."""
    words = reference_of(work.files).model.vocabulary
    before = words.encode(prompt.text)
    ids = (*before[1:], *tokens)
    ends = "steps"
    if tokens and tokens[-1] in _stops(work):
        ends = "bos" if tokens[-1] == words.bos_id else "eos"
    return Case(
        name=f"bench-{work.name}-{work.precision}",
        suite="bench",
        tags=(),
        why="the tokens of a timed run",
        model=ModelRef(work.files.name, work.files.sha256, work.files.tokenizer_sha256, work.files.format),
        mode="generate",
        prompt=prompt.text,
        steps=len(before) - 1 + n_tokens,
        temperature=0.0,
        topp=0.9,
        seed=1,
        system=None,
        stdin=b"",
        prompt_ids=tuple(before),
        ids=ids,
        stdout=words.print_text([before[0], *ids]) + b"\n",
        ends=ends,
        margins=(),
        provenance=Provenance("the reference, for this run"),
    )


def build_hash(impl: ProcessImplementation) -> str:
    """Identify a program: its manifest, and what it was built from or is.

    Raises:
        MissingDependency, BuildFailed: there is none.
    """
    manifest, out = impl.manifest, impl.out()
    digest = hashlib.sha256(manifest.model_dump_json(exclude={"path"}).encode())
    if manifest.build:
        digest.update(out.name.encode())  # ends in the key of the build's cache
        return digest.hexdigest()
    try:
        files = inputs(manifest) if manifest.inputs else [Path(manifest.run[0])]
    except ManifestError:
        files = []
    for path in (*files, *manifest.given_files):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()
