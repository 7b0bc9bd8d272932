"""From a failing golden case to a directory that shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.adapters.implementation import ProcessImplementation
from harness.conformance.case import Case
from harness.conformance.check import check
from harness.conformance.fuzz import saved
from harness.conformance.fuzz.trial import Trier, write
from harness.conformance.shrink.repro import repro_of
from harness.conformance.shrink.search import Progress, Shrunk, shrink
from harness.conformance.verify import files_for
from harness.engine import blas_threads
from harness.errors import InputError
from harness.models import load, locate
from harness.results import Verdict

__all__ = ["Failing", "failing", "keep", "shrink_case"]

_CONTAINERS = ("llama2c-v0", "llama2c-v1", "llama2c-v2")


@dataclass(frozen=True, slots=True)
class Failing:
    """A golden case, and the verdict that it failed with."""

    case: Case
    verdict: Verdict


def failing(impl: ProcessImplementation, cases: Sequence[Case], *, time_s: float | None = None) -> Iterator[Failing]:
    """Judge cases and yield those that fail, of each model the one with the least to it first."""
    known = {(case.suite, case.name): case for case in cases}
    for verdicts in check([impl], cases, time_s=time_s, diagnose=False):
        wrong = [
            Failing(known[verdict.suite, verdict.case], verdict)
            for verdict in verdicts
            if verdict.kind.is_failure and known[verdict.suite, verdict.case].mode == "generate"
        ]
        yield from sorted(
            wrong, key=lambda one: (one.case.is_sampled, _where(one.verdict), one.case.steps or 1 << 30)
        )


def _where(verdict: Verdict) -> int:
    return verdict.divergence.position if verdict.divergence is not None else 1 << 30


def shrink_case(
    impl: ProcessImplementation,
    found: Failing,
    *,
    seconds: float = 60.0,
    time_s: float = 10.0,
    progress: Progress = lambda repro, n_tried: None,
) -> Shrunk | None:
    """Shrink the failure of a golden case; see `shrink`."""
    ref = found.case.model
    files = locate(ref.name, sha256=ref.sha256, tokenizer_sha256=ref.tokenizer_sha256)
    given = files_for(impl.manifest, files)
    if given.format not in _CONTAINERS:
        what = f"is given {given.format}, and small models are written as {', '.join(_CONTAINERS)}"
        raise InputError(what, path=impl.manifest.path, where=f"implementation {impl.name}")
    start = repro_of(found.case, load(given.checkpoint, given.tokenizer))
    return shrink(impl, start, found.verdict, format=given.format, seconds=seconds, time_s=time_s, progress=progress)


def keep(
    impl: ProcessImplementation, shrunk: Shrunk, directory: Path, *, called: str, time_s: float = 10.0
) -> saved.Failure:
    """Save what was found, with a command line that prints it as text where the program fails in text too.

    Raises:
        InputError: the directory cannot be written.
    """
    repro, subject = shrunk.repro, shrunk.subject
    prompt = repro.prompt_ids
    levels = dict.fromkeys(("TEXT", shrunk.found.what)) if "TEXT" in impl.manifest.levels else (shrunk.found.what,)
    for level in levels:
        with Trier(impl, levels=(level,), time_s=time_s) as trier, blas_threads(1), TemporaryDirectory() as home:
            files = write(repro.model, Path(home), shrunk.format, impl.manifest.needs.tokenizer_layout)
            found = trier.try_files(files, subject, prompt, [repro.ask])[-1]
            if found.verdict.kind is shrunk.found.verdict.kind or level == shrunk.found.what:
                wrong = found if found.verdict.kind.is_failure else shrunk.found
                return saved.keep(
                    subject,
                    prompt,
                    [repro.ask],
                    wrong,
                    trier,
                    directory,
                    format=shrunk.format,
                    called=called,
                    after=0,
                    is_shrunk=shrunk.is_whole,
                )
    raise AssertionError("the level at which it was found is the last")
