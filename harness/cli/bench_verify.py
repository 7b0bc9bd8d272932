"""Judge the runs of a benchmark: each by its own tokens, with the judge that `harness check` uses.

The texts of synthetic models can be read in one way only, so the ids that a program claims are known, and one
teacher-forced pass of the reference over them is the whole judgement. Where a text is not right in every token, or is
a real model's, the reference writes its own continuation, and the text is judged as if that were a golden.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from harness.adapters import extract
from harness.adapters.build import inputs
from harness.adapters.implementation import Implementation, ProcessImplementation
from harness.adapters.manifest import Manifest
from harness.adapters.process import Limits
from harness.bench.measure import Checked, Prompt
from harness.bench.workload import Workload
from harness.conformance.case import Case, ModelRef, Provenance
from harness.conformance.verify import reference_of, verify_group
from harness.engine import blas_threads, generate
from harness.errors import ManifestError
from harness.results import Observation, Request

__all__ = ["Verifier", "build_hash"]

_PIECE_BYTES = 4  # of synthetic pieces that are generated


@dataclass(frozen=True, slots=True)
class _Replay:
    """An implementation that has been run already."""

    manifest: Manifest
    seen: Observation

    @property
    def name(self) -> str:
        return self.manifest.name

    def prepare(self, model: Path, tokenizer: Path) -> Path:
        return model

    def run(self, request: Request, limits: Limits | None = None) -> Observation:
        return self.seen


class Verifier:
    """Judges runs, and remembers the right continuations of prompts."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], list[int]] = {}  # generated ids, the longest known
        self._judged: dict[tuple[object, ...], Checked] = {}

    def __call__(
        self, impl: Implementation, work: Workload, request: Request, prompt: Prompt, n_tokens: int, seen: Observation
    ) -> Checked:
        key = (impl.name, work.files.sha256, prompt.text, n_tokens, seen.stdout)
        if key not in self._judged:
            self._judged[key] = self._judge(impl, work, prompt, n_tokens, seen)
        return self._judged[key]

    def room(self, work: Workload, prompt: Prompt, n_tokens: int) -> int:
        """How many tokens the model generates after a prompt before it stops by itself, up to so many."""
        tokens = self._continuation(work, prompt, n_tokens)
        return min(n_tokens, len(tokens) - (tokens[-1:] == [self._bos(work)]))

    def _judge(
        self, impl: Implementation, work: Workload, prompt: Prompt, n_tokens: int, seen: Observation
    ) -> Checked:
        if work.is_synthetic and len(self._known.get((work.files.sha256, prompt.text), ())) < n_tokens:
            self._learn(impl, work, prompt, n_tokens, seen)
        tokens = self._continuation(work, prompt, n_tokens)[:n_tokens]
        verdict = verify_group(
            [_case(work, prompt, tokens, n_tokens)], _Replay(impl.manifest, seen), files=work.files
        )[0]
        n_generated = verdict.n_judged if verdict.kind.is_green and verdict.n_judged else len(tokens)
        return Checked(verdict.kind, n_generated, verdict.reason)

    def _learn(self, impl: Implementation, work: Workload, prompt: Prompt, n_tokens: int, seen: Observation) -> None:
        """Take a program's own ids for the continuation if the reference chooses every one of them."""
        reference = reference_of(work.files)
        words = reference.model.tokenizer
        before = words.encode(prompt.text)
        ids = {piece: number for number, piece in enumerate(words.pieces)}
        for read in extract.candidates(seen.stdout, prompt=prompt.text, pattern=impl.manifest.text):
            rest = read.text[len(prompt.text) :] if read.echoes_prompt else read.text
            claimed = [
                ids.get(rest[i : i + _PIECE_BYTES], -1) for i in range(0, n_tokens * _PIECE_BYTES, _PIECE_BYTES)
            ]
            if -1 in claimed:
                continue
            (judged,) = reference.judge([[*before, *claimed]], [len(before)])
            if float(judged.regret.max()) == 0.0:
                self._known[work.files.sha256, prompt.text] = claimed
                return

    def _continuation(self, work: Workload, prompt: Prompt, n_tokens: int) -> list[int]:
        """The reference's own tokens after a prompt, at least so many unless it stops."""
        key = (work.files.sha256, prompt.text)
        known = self._known.get(key, [])
        if len(known) < n_tokens and known[-1:] != [self._bos(work)]:
            reference = reference_of(work.files)
            before = reference.model.tokenizer.encode(prompt.text)
            with blas_threads(1):
                ids = list(generate(reference.exact, before, steps=len(before) - 1 + n_tokens))
            self._known[key] = ids[len(before) - 1 :]
        return self._known[key]

    @staticmethod
    def _bos(work: Workload) -> int:
        return reference_of(work.files).model.tokenizer.bos_id


def _case(work: Workload, prompt: Prompt, tokens: list[int], n_tokens: int) -> Case:
    """The golden that this run is judged by."""
    words = reference_of(work.files).model.tokenizer
    before = words.encode(prompt.text)
    ids = (*before[1:], *tokens)
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
        ends="bos" if tokens[-1:] == [words.bos_id] else "steps",
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
