"""`harness check`: judge implementations on golden cases."""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.adapters.implementation import Implementation
from harness.cli.options import AllowSkip, words
from harness.cli.output import check_targets, emit, emit_all, is_stdout, last_run, tell, terminal_size
from harness.conformance import check as conformance
from harness.conformance.case import Case, select
from harness.conformance.levels import LEVELS
from harness.errors import InputError
from harness.report import Summary, badge, document, junit, markdown, summarise, terminal
from harness.results import Kind, Verdict
from harness.runfile import Header, RunWriter

__all__ = ["command"]

_DEFAULT_SUITES = ",".join(conformance.DEFAULT_SUITES)
_NOT_RUN = (Kind.BUILD_FAILED, Kind.START_FAILED)


def command(
    impl: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMPL",
            help="A name in impls/, the path of an impl.toml, or a program. None: all of ours that can be "
            "built; alternates: other builds of them.",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[str, typer.Option("--suite", help="Suites, separated by commas.")] = _DEFAULT_SUITES,
    case: Annotated[
        str | None, typer.Option("--case", help="Only these cases; * and ? match.", show_default="all")
    ] = None,
    models: Annotated[
        str | None, typer.Option("--models", help="Only cases of these models.", show_default="all")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only the small set that kills most bugs.")] = False,
    level: Annotated[
        str | None,
        typer.Option(
            "--level", help="Only at these levels: TEXT, TOKENS, LOGITS.", show_default="all that it claims"
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Programs that run at a time.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads each program is to use.")] = 1,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout-s", min=0.001, help="Seconds for each run.", show_default="manifest's, or 60"),
    ] = None,
    diagnose: Annotated[
        bool,
        typer.Option("--diagnose/--no-diagnose", help="After a MISMATCH, look for the bug that explains it."),
    ] = True,
    allow_skip: AllowSkip = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write a JSON document; - is stdout.")] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write a markdown summary.")] = None,
    badge_file: Annotated[Path | None, typer.Option("--badge", help="Write shields.io endpoint JSON.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Run file, written as results arrive.", show_default="one in the cache"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run file: skip what it already holds.")
    ] = False,
) -> int:
    """Judge implementations on golden cases: right or wrong, where, and by how much.

    Exit status 1 also if a named implementation has no green case, or a case is BLOCKED or INCONCLUSIVE.
    """
    targets: list[tuple[Path | None, Callable[[Summary], str]]] = [
        (json, document.render),
        (junit_file, junit.render),
        (markdown_file, markdown.render),
        (badge_file, badge.render),
    ]
    check_targets(*(target for target, _ in targets))
    if out is not None:
        if is_stdout(out):
            raise InputError("a run file cannot go to stdout", where="--out", hint="--json - prints a JSON document")
        check_targets(out)
    levels = words(level.upper()) if level else list(LEVELS)
    if strange := sorted(set(levels or ()) - set(LEVELS)):
        raise InputError(f"{strange[0]} is no level", where="--level", hint=f"there are {', '.join(LEVELS)}")
    cases = select(words(suite) or [], cases=words(case), models=words(models), quick=quick)
    if not cases:
        raise InputError("no case is selected", hint="see --suite, --case, --models and --quick")
    with _progress() as progress:
        impls = conformance.implementations(impl or (), progress=progress.console.print)
        named = [one.name for one in impls] if impl else []
        settings: dict[str, str | int | float | bool] = {"threads": threads}
        if level:
            settings["level"] = ",".join(levels or ())
        head = conformance.header(impls, cases, named=named, settings=settings)
        with _run_file(out, head, resume=resume) as run:
            task = progress.add_task("", total=len(impls) * len(cases), completed=len(run.verdicts))

            def observed(one: Implementation, of: Case) -> None:
                progress.update(task, advance=1, description=f"{one.name} on {of.model.name}")

            def settled(verdict: Verdict) -> None:
                run.add([verdict])

            complete = True
            try:
                for verdicts in conformance.check(
                    impls,
                    cases,
                    time_s=timeout_s,
                    jobs=jobs,
                    threads=threads,
                    levels=levels or LEVELS,
                    diagnose=diagnose,
                    done=run.verdicts,
                    on_observed=observed,
                    on_settled=settled,
                ):
                    written = {(v.impl, v.suite, v.case) for v in run.verdicts}
                    run.add([v for v in verdicts if (v.impl, v.suite, v.case) not in written])
                    progress.update(task, completed=len(run.verdicts))
                run.finish()
            except KeyboardInterrupt:
                complete = False
    summary = summarise(run.verdicts, named=named, allow_skip=allow_skip, complete=complete)
    if not any(is_stdout(target) for target, _ in targets):
        width, color = terminal_size()
        emit(terminal.render(summary, width=width, color=color))
    emit_all((target, partial(render, summary)) for target, render in targets)
    if not complete:
        tell(
            f"interrupted: {len(run.verdicts)} of {len(impls) * len(cases)} verdicts are in {run.path}; "
            "the same command with --resume goes on"
        )
        return 128 + signal.SIGINT
    if way_on := _way_on(run.verdicts, cases, impl or ()):
        tell(way_on)
    return 0 if summary.passed else 1


def _way_on(verdicts: Sequence[Verdict], cases: Sequence[Case], specs: Sequence[str]) -> str:
    """The command that makes a failure small, where there is one that can be."""
    generated = {(case.suite, case.name) for case in cases if case.mode == "generate"}
    for verdict in verdicts:
        if verdict.kind.is_failure and verdict.kind not in _NOT_RUN and (verdict.suite, verdict.case) in generated:
            called = specs[0] if len(specs) == 1 else verdict.impl
            command = shlex.join(["harness", "shrink", called, "--case", f"{verdict.suite}/{verdict.case}"])
            return f"the smallest model that shows it: {command}"
    return ""


def _run_file(out: Path | None, head: Header, *, resume: bool) -> RunWriter:
    if resume:
        return RunWriter.resume(out or last_run(), head)
    if out is None:
        with contextlib.suppress(OSError):  # a check that runs now keeps the old file, under no name
            last_run().unlink(missing_ok=True)
    return RunWriter.create(out or last_run(), head)


def _progress() -> Progress:
    """Make a progress display on stderr, silent unless that is a terminal."""
    console = Console(stderr=True, markup=False, highlight=False)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
