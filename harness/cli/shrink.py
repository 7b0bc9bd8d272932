"""`harness shrink`: the smallest model and request that a program gets wrong."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from harness.adapters.implementation import ProcessImplementation, resolve
from harness.cli.options import words
from harness.cli.output import emit, last_run, tell
from harness.conformance.case import Case, select, suite_names
from harness.conformance.check import DEFAULT_SUITES
from harness.conformance.fuzz.saved import Failure
from harness.conformance.shrink.cases import Failing, failing, keep, shrink_case
from harness.conformance.shrink.repro import Repro
from harness.conformance.shrink.search import Shrunk
from harness.errors import InputError, RunFileError
from harness.models import cache_dir, impls_dir
from harness.runfile import read

__all__ = ["command"]


def command(
    impl: Annotated[str, typer.Argument(metavar="IMPL", help="A name in impls/, an impl.toml, or a program.")],
    case: Annotated[
        str | None,
        typer.Option("--case", help="Shrink what fails of these cases.", show_default="the last check's, or any"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory to write.", show_default="one in the cache")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1.0, help="After which the smallest so far is kept.")
    ] = 60.0,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="Seconds for each run.")] = 10.0,
) -> int:
    """Turn a failure into the smallest model, vocabulary and request that still show it, with one command to see it.

    Ctrl-C keeps the smallest so far. Exit status 1 if nothing fails.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise InputError("is no directory", path=out, where="--out", hint="name another")
    found = resolve(impl, impls_dir(), progress=tell)
    if len(found) != 1:
        raise InputError(f"{impl} is {len(found)} implementations, expected one", hint="name one of them")
    program = found[0]
    shrunk: Shrunk | None = None
    wrong: Failing | None = None
    for wrong in _failures(program, case, timeout_s):
        tell(f"{wrong.case.key} is a {wrong.verdict.kind}; making it smaller, for {seconds:g} s at most")
        story = _Story()
        shrunk = shrink_case(program, wrong, seconds=seconds, time_s=timeout_s, progress=story)
        story.end()
        break
    if wrong is None:
        tell(f"{program.name}: nothing fails, so there is nothing to shrink")
        return 1
    if shrunk is None:
        tell(f"{program.name}: {wrong.case.key} failed, but not again, or not clearly on anything smaller")
        return 1
    directory = out or cache_dir() / "shrunk" / f"{program.name}-{wrong.case.name}"
    failure = keep(program, shrunk, directory, called=impl, time_s=timeout_s)
    emit(_described(shrunk, failure))
    return 0


def _failures(program: ProcessImplementation, case: str | None, timeout_s: float) -> Sequence[Failing]:
    """The first failure of the cases that are meant: named ones, those that the last check found, all of the gate."""
    if case is not None:
        named = select(suite_names(), cases=words(case))
        return _first(program, named, timeout_s)
    known = _of_last_run(program.name)
    return (
        _first(program, known, timeout_s)
        or _first(program, select(DEFAULT_SUITES, quick=True), timeout_s)
        or _first(program, select(DEFAULT_SUITES), timeout_s)
    )


def _first(program: ProcessImplementation, cases: Sequence[Case], timeout_s: float) -> list[Failing]:
    one = next(failing(program, cases, time_s=timeout_s), None) if cases else None
    return [] if one is None else [one]


def _of_last_run(name: str) -> list[Case]:
    """The cases that an implementation of that name failed in the last check."""
    with contextlib.suppress(RunFileError):
        failed = {(v.suite, v.case) for v in read(last_run()).verdicts if v.impl == name and v.kind.is_failure}
        return [case for case in select(suite_names()) if (case.suite, case.name) in failed]
    return []


class _Story:
    """How small it has become, on stderr."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, repro: Repro, n_tried: int) -> None:
        line = f"{repro.checkpoint_bytes:,} bytes, {_tokens(repro.n_positions)}; {n_tried} tried"
        if self._is_terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            tell(line)

    def end(self) -> None:
        if self._is_terminal:
            print(file=sys.stderr)


def _tokens(n: int) -> str:
    return f"{n} token{'s' * (n != 1)}"


def _described(shrunk: Shrunk, failure: Failure) -> str:
    repro = shrunk.repro
    end = "" if shrunk.is_whole else ", not to the end"
    lines = [
        f"{failure.impl}: {failure.verdict.kind} at {failure.level}, on a model of {failure.checkpoint_bytes:,} "
        f"bytes, {repro.config.vocab_size} pieces, in {_tokens(repro.n_positions)} "
        f"({shrunk.n_tried} models tried in {shrunk.took_s:.0f} s{end})",
        *(f"  {line}" for line in failure.verdict.reason.splitlines()),
        f"  saved:   {failure.directory}/model.bin, tokenizer.bin, README.md",
        f"  by hand: {failure.verdict.reproduce}",
        f"  again:   {failure.again}",
    ]
    return "\n".join(lines) + "\n"
