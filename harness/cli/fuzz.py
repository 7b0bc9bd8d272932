"""`harness fuzz`: put thousands of generated models to programs, and shrink what they get wrong."""

from __future__ import annotations

import json as json_text
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import __version__
from harness.adapters.implementation import ProcessImplementation, resolve
from harness.cli.options import words
from harness.cli.output import check_targets, emit, is_stdout, tell
from harness.conformance.fuzz import saved
from harness.conformance.fuzz.run import EVERY, Outcome, Tally
from harness.conformance.fuzz.saved import Failure
from harness.conformance.fuzz.side_by_side import fuzz_side_by_side
from harness.conformance.fuzz.trial import LEVELS, Trier
from harness.engine import blas_threads
from harness.errors import InputError
from harness.models import impls_dir

__all__ = ["command"]


def command(
    impls: Annotated[
        list[str],
        typer.Argument(metavar="IMPL...", help="Names in impls/, impl.toml files, or programs; all: all of ours."),
    ],
    minutes: Annotated[float, typer.Option("--minutes", min=0.0, help="Minutes, of all programs together.")] = 1.0,
    minutes_each: Annotated[
        float | None, typer.Option("--minutes-each", min=0.0, help="Minutes of one program.", show_default="no limit")
    ] = None,
    models: Annotated[
        int | None, typer.Option("--models", min=1, help="Models for each program, at most.", show_default="no limit")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the models: the same seed gives the same ones.")] = 1,
    level: Annotated[
        str | None,
        typer.Option(
            "--level",
            help="Levels to judge at, of those that a program claims.",
            show_default="all of them",
        ),
    ] = None,
    every: Annotated[
        int,
        typer.Option(
            "--every",
            min=1,
            help="TEXT and TRACE take a start of the program: judge them on one model in so many, where it claims "
            "TOKENS or LOGITS, too.",
        ),
    ] = EVERY,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="No seeded draws: for programs with another random generator.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Directory of failures, tried first and added to.", show_default="fuzz in the cache"
        ),
    ] = None,
    again: Annotated[Path | None, typer.Option("--again", help="Only judge a saved failure once more.")] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Processes, among which the programs are dealt out.")
    ] = 1,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="Seconds for each request.")] = 10.0,
    json: Annotated[Path | None, typer.Option("--json", help="Write a JSON document; - is stdout.")] = None,
) -> int:
    """Put thousands of generated models to programs, and shrink what they get wrong to a few kilobytes.

    Failures of earlier runs are tried first. Ctrl-C ends the run and keeps what was found. Exit status 1 if something
    was wrong, or nothing was judged.
    """
    check_targets(json)
    chosen = words(level) or []
    if strange := sorted(set(chosen) - set(LEVELS)):
        raise InputError(f"no level {strange[0]}", where="--level", expected=", ".join(LEVELS))
    if out is not None and out.exists() and not out.is_dir():
        raise InputError("is no directory", path=out, where="--out", hint="name another")
    meant = {spec: resolve(spec, impls_dir(), progress=tell) for spec in impls}
    programs = list({impl.name: impl for found in meant.values() for impl in found}.values())
    if again is not None:
        return _again(programs, again, chosen, timeout_s)
    story = _Story()
    outcome = fuzz_side_by_side(
        programs,
        jobs=jobs,
        minutes=minutes,
        minutes_each=minutes_each,
        models=models,
        seed=seed,
        levels=chosen,
        every=every,
        is_sampled=not greedy,
        home=out,
        time_s=timeout_s,
        calls={found[0].name: spec for spec, found in meant.items() if len(found) == 1},
        progress=story,
    )
    story.end()
    if json is not None:
        emit(json_text.dumps(_document(outcome, minutes, minutes_each, models, every), indent=2) + "\n", json)
    if json is None or not is_stdout(json):
        emit("".join(map(_described, outcome.tallies)))
    wrong = [tally for tally in outcome.tallies if not tally.is_green and not _is_excused(tally, impls)]
    if not outcome.is_whole and not outcome.failures:
        return 130
    return 1 if wrong or not any(tally.is_green for tally in outcome.tallies) else 0


def _is_excused(tally: Tally, named: list[str]) -> bool:
    """Whether a program was not run, and nobody named it."""
    return bool(tally.skipped) and tally.impl not in named


def _again(programs: list[ProcessImplementation], directory: Path, levels: list[str], time_s: float) -> int:
    n_wrong = 0
    for impl in programs:
        with Trier(impl, levels=levels, time_s=time_s) as trier, blas_threads(1):
            for one in saved.again(directory, trier):
                verdict = one.verdict
                n_wrong += verdict.kind.is_failure
                asked = "" if one.ask is None else f" of {one.ask}"
                emit(f"{impl.name}: {one.what}{asked}: {verdict.kind}" + _because(verdict.reason) + "\n")
                if verdict.kind.is_failure and verdict.reproduce:
                    emit(f"  {verdict.reproduce}\n")
    return 1 if n_wrong else 0


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


class _Story:
    """How far the run has come, on stderr: one line that changes on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._told = 0.0

    def __call__(self, tally: Tally, left_s: float) -> None:
        if tally.skipped:
            tell(f"{tally.impl}: not run: {tally.skipped}")
            return
        left = f"{max(0, int(left_s)) // 60}:{max(0, int(left_s)) % 60:02} left"
        line = f"{tally.impl}: {tally.n_models:,} models, {tally.models_per_minute:,.0f} a minute; {left}"
        if tally.failures:
            line += f"; {tally.failures[-1].verdict.kind} at {tally.failures[-1].level}"
        if self._is_terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif tally.failures or self._told - left_s >= 10 or not self._told:
            self._told = left_s
            tell(line)

    def end(self) -> None:
        if self._is_terminal:
            print(file=sys.stderr)


def _described(tally: Tally) -> str:
    if tally.skipped:
        return f"{tally.impl}: not run: {tally.skipped}\n"
    judged = "; ".join(
        f"{level}: " + ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items()))
        for level, kinds in sorted(tally.kinds.items())
    )
    operations = f", {tally.n_operations:,} operations" if tally.n_operations else ""
    lines = [
        f"{tally.impl}: {tally.n_models:,} models ({tally.models_per_minute:,.0f} a minute), "
        f"{tally.n_judged:,} tokens and rows judged{operations}; {judged or 'nothing judged'}"
    ]
    for failure in tally.failures:
        lines += _shown(failure)
    return "\n".join(lines) + "\n"


def _shown(failure: Failure) -> list[str]:
    when = f"at model {failure.after:,}" if failure.after else "known from before"
    size = f"{failure.checkpoint_bytes:,} bytes" + ("" if failure.is_shrunk else ", not shrunk to the end")
    return [
        f"  {failure.verdict.kind} at {failure.level}, {when}{_because(failure.verdict.reason)}",
        f"    checkpoint: {failure.directory / 'model.bin'} ({size})",
        f"    again:      {failure.again}",
        *([f"    by hand:    {failure.verdict.reproduce}"] if failure.verdict.reproduce else []),
    ]


def _document(
    outcome: Outcome, minutes: float, minutes_each: float | None, models: int | None, every: int
) -> dict[str, Any]:
    return {
        "schema": "harness-fuzz/1",
        "harness": __version__,
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "seed": outcome.seed,
        "minutes": minutes,
        "minutes_each": minutes_each,
        "models": models,
        "every": every,
        "took_s": round(outcome.took_s, 3),
        "is_whole": outcome.is_whole,
        "impls": [
            {
                "impl": tally.impl,
                "skipped": tally.skipped,
                "levels": tally.levels,
                "n_models": tally.n_models,
                "n_without_margins": tally.n_without_margins,
                "n_replayed": tally.n_replayed,
                "n_judged": tally.n_judged,
                "n_operations": tally.n_operations,
                "took_s": round(tally.took_s, 3),
                "verdicts": {level: dict(kinds) for level, kinds in tally.kinds.items()},
                "failures": [
                    {
                        "level": failure.level,
                        "kind": failure.verdict.kind,
                        "reason": failure.verdict.reason,
                        "after": failure.after,
                        "is_shrunk": failure.is_shrunk,
                        "checkpoint_bytes": failure.checkpoint_bytes,
                        "directory": str(failure.directory),
                        "again": failure.again,
                        "reproduce": failure.verdict.reproduce,
                    }
                    for failure in tally.failures
                ],
            }
            for tally in outcome.tallies
        ],
    }
