"""`harness selftest`: programs with known faults, and honest ones, put to the gate."""

from __future__ import annotations

import json as json_text
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import words
from harness.cli.output import check_targets, emit, emit_all, is_stdout, tell
from harness.conformance.case import suite_names
from harness.conformance.selftest import record, run
from harness.conformance.selftest.kept import Kept
from harness.conformance.selftest.kills import embedded_suites
from harness.conformance.selftest.parts import PARTS, QUICK_PARTS, Plan, document, measure
from harness.conformance.selftest.shortfalls import shortfalls
from harness.errors import InputError
from harness.report import summarise
from harness.report.selftest import markdown, terminal
from harness.results import Verdict

__all__ = ["command"]

_TOKENS = 100_000  # of float32 models, for each honest program
_NO_PART = "none"


def command(
    quick: Annotated[
        bool, typer.Option("--quick", help="What CI runs: a sample that changes from day to day; 2 to 3 minutes.")
    ] = False,
    impls: Annotated[
        str | None, typer.Option("--impls", help="Only faults in these: numpy, c, zig, ts.", show_default="all")
    ] = None,
    fault: Annotated[
        str | None, typer.Option("--fault", help="Only these faults, by name.", show_default="all")
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="Judge by these suites.", show_default="those that need no download")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option("--part", help=f"Only these parts: {', '.join(PARTS)}; none: only report.", show_default="all"),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="Tokens of float32 models for each honest program.")
    ] = _TOKENS,
    turn: Annotated[
        int | None, typer.Option("--turn", min=0, help="Of --quick: which sample.", show_default="the day's")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="The document to hold it against.", show_default="reports/selftest.json"),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the JSON document; - is stdout.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the report.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep each result in this file as it arrives, as JSON lines.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the file of --out: measure only what it lacks.")
    ] = False,
) -> int:
    """Put programs with known faults, and honest ones, to the gate: what it stops, what passes, whom it calls wrong.

    Exit status 1 if a fault passes that was stopped before, an honest program is called wrong, or a bar is missed.
    Ctrl-C ends it and keeps what was measured.
    """
    check_targets(json, markdown_file, out)
    if resume and out is None:
        raise InputError("is not named", where="--out", hint="--resume goes on with the file of --out")
    if turn is not None and not quick:
        raise InputError("is for --quick", where="--turn", expected="--quick --turn N")
    parts = words(part) or list(QUICK_PARTS if quick else PARTS)
    if strange := sorted(set(parts) - {*PARTS, _NO_PART}):
        raise InputError(f"{strange[0]} is no part", where="--part", expected=", ".join((*PARTS, _NO_PART)))
    suites = words(suite) or list(embedded_suites())
    if strange := sorted(set(suites) - set(suite_names())):
        raise InputError(f"{strange[0]} is no suite", where="--suite", expected=", ".join(suite_names()))
    path = against or record.recorded()
    plan = Plan(
        passed=_passed,
        suites=suites,
        programs=words(impls) or [],
        faults=words(fault) or [],
        tokens=tokens,
        turn=(_today() if turn is None else turn) if quick else None,
        before=record.read(path) if path is not None else None,
    )
    run.subjects(plan.programs, plan.faults)  # a name that means nothing is told before anything is written
    kept = Kept.begun(out, suites, resume=resume)
    if plan.turn is not None:
        tell(f"sample {plan.turn % run.QUICK_ONE_IN + 1} of {run.QUICK_ONE_IN}: --turn {plan.turn} takes it again")
    story, complete = _Story(), True
    try:
        for one in parts:
            story.begin()
            if one != _NO_PART and (line := measure(one, plan, kept, story.at)):
                story.end()
                tell(line)
    except KeyboardInterrupt:
        complete = False
    story.end()
    found = document(plan, kept, complete=complete)
    problems = shortfalls(found, plan.before)
    emit_all(
        [
            (json, lambda: json_text.dumps(found, indent=1) + "\n"),
            (markdown_file, lambda: markdown(found, problems)),
        ]
    )
    if json is None or not is_stdout(json):
        emit(terminal(found, problems))
    if not complete:
        return 128 + signal.SIGINT
    return 1 if problems or not any(found[key] for key in ("kills", "names", "alarms", "adequacy")) else 0


def _passed(verdicts: Sequence[Verdict], name: str) -> bool:
    """Whether `harness check` would exit with 0."""
    return summarise(verdicts, named=[name]).passed


def _today() -> int:
    """The number of the day, by which the samples of quick self-tests take turns."""
    return datetime.now(UTC).toordinal()


class _Story:
    """How far a part has come, on stderr: a line that changes on a terminal, else one now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._told = self._start = time.monotonic()
        self._is_open = False

    def begin(self) -> None:
        self._start = time.monotonic()

    def at(self, number: int, total: int, what: str) -> None:
        """Tell; a total of 0 is one that nobody knows."""
        now = time.monotonic()
        if number == 1:
            self._start = now
        line = f"{number:,}" + (f" of {total:,}" if total else "") + f": {what}"
        if total and number > 2:
            left = int((now - self._start) / (number - 1) * (total - number))
            line += f"; about {left // 60}:{left % 60:02} left"
        if self._is_terminal:
            print(f"\r\x1b[K{line[:110]}", end="", file=sys.stderr, flush=True)
            self._is_open = True
        elif now - self._told >= 30:
            self._told = now
            tell(line)

    def end(self) -> None:
        """Leave the line that changes."""
        if self._is_open:
            print(file=sys.stderr)
            self._is_open = False
