"""`harness selftest`: programs with known faults, and honest ones, put to the gate."""

from __future__ import annotations

import json as json_text
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import harness
from harness.cli.options import words
from harness.cli.output import check_targets, emit, emit_all, is_stdout, tell
from harness.conformance.case import suite_names
from harness.conformance.selftest import record, run
from harness.conformance.selftest.adequacy import adequacy
from harness.conformance.selftest.honest import programs, rounded_programs
from harness.conformance.selftest.kills import Outcome, embedded_suites
from harness.conformance.selftest.naming import accusations, asked, named, routes
from harness.errors import InputError
from harness.report import summarise
from harness.report.selftest import markdown, terminal
from harness.results import Verdict

__all__ = ["command"]

_TOKENS = 100_000  # of float32 models, for each honest program
_INT8_TOKENS = 20_000
_QUICK_TOKENS = 2_000
_QUICK_HONEST = 3
_PARTS = ("kills", "alarms", "names", "adequacy")


def command(
    quick: Annotated[
        bool, typer.Option("--quick", help="What CI runs: the recorded kills again, a few builds; minutes.")
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
        typer.Option("--part", help="Only these parts: kills, alarms, names, adequacy.", show_default="all"),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="Tokens of float32 models for each honest program.")
    ] = _TOKENS,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="The document to hold it against.", show_default="reports/selftest.json"),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the JSON document; - is stdout.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the report.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Append each result to this file as it arrives.")] = None,
) -> int:
    """Put programs with known faults, and honest ones, to the gate: what it stops, what passes, whom it calls wrong.

    Exit status 1 if a fault passes that was stopped before, an honest program is called wrong, or a bar is missed.
    Ctrl-C ends it and keeps what was measured.
    """
    check_targets(json, markdown_file, out)
    parts = words(part) or [*_PARTS[:2], *([] if quick else _PARTS[2:])]
    if strange := sorted(set(parts) - set(_PARTS)):
        raise InputError(f"{strange[0]} is no part", where="--part", expected=", ".join(_PARTS))
    suites = words(suite) or list(embedded_suites())
    if strange := sorted(set(suites) - set(suite_names())):
        raise InputError(f"{strange[0]} is no suite", where="--suite", expected=", ".join(suite_names()))
    path = against or record.recorded()
    before = record.read(path) if path is not None else None
    document = _empty(quick, suites, selected=bool(impls or fault or suite or part))
    story, start = _Story(out), time.monotonic()
    try:
        if "kills" in parts:
            named_too = "names" in parts
            _kills(document, story, words(impls) or [], words(fault) or [], before, with_names=named_too)
        if "alarms" in parts and not (impls or fault):
            _alarms(document, story, _QUICK_TOKENS if quick else tokens, with_names="names" in parts)
        if "adequacy" in parts and not (impls or fault):
            document["adequacy"] = adequacy(suites, progress=story.at)
        document["complete"] = True
    except KeyboardInterrupt:
        pass
    story.end()
    document["took_s"] = round(time.monotonic() - start, 1)
    problems = record.shortfalls(document, before)
    emit_all(
        [
            (json, lambda: json_text.dumps(document, indent=1) + "\n"),
            (markdown_file, lambda: markdown(document, problems)),
        ]
    )
    if json is None or not is_stdout(json):
        emit(terminal(document, problems))
    if not document["complete"]:
        return 128 + signal.SIGINT
    return 1 if problems or not (document["kills"] or document["alarms"] or document["adequacy"]) else 0


def _empty(quick: bool, suites: Sequence[str], *, selected: bool) -> dict[str, Any]:
    return {
        "schema": record.SCHEMA,
        "harness": harness.__version__,
        "command": "harness selftest" + (" --quick" if quick else ""),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "complete": False,
        "quick": quick,
        "selected": selected or quick,
        "suites": list(suites),
        "configurations": list(record.CONFIGURATION_NAMES),
        "took_s": 0.0,
        "kills": [],
        "arguments": {},
        "alarms": [],
        "names": [],
        "honest_names": [],
        "adequacy": None,
    }


def _passed(verdicts: Sequence[Verdict], name: str) -> bool:
    """Whether `harness check` would exit with 0."""
    return summarise(verdicts, named=[name]).passed


def _kills(
    document: dict[str, Any],
    story: _Story,
    impls: list[str],
    faults: list[str],
    before: dict[str, Any] | None,
    *,
    with_names: bool,
) -> None:
    quick: bool = document["quick"]
    found = run.subjects(impls, faults, quick=quick)
    document["arguments"] = {one.fault.name: one.fault.argument for one in found if one.fault.argument}
    again = record.killers(before) if quick and before else {}
    ask = routes()
    to_name = set(asked(found)) if with_names else set()
    judged = run.kills(found, passed=_passed, suites=document["suites"], killers=again, quick=quick, diagnose=to_name)
    for number, (subject, outcome) in enumerate(judged, 1):
        document["kills"].append(story.keep("kill", record.kill_row(subject, outcome)))
        if outcome.killed_in and subject.key in to_name:
            document["names"] += [story.keep("name", row) for row in named(subject, outcome, ask)]
        story.at(number, len(found), f"{subject.key}: {_fate(outcome)}")


def _fate(outcome: Outcome) -> str:
    if outcome.obstacle or outcome.broken:
        return "not tried"
    return f"stopped, {outcome.by[0]}" if outcome.killed_in else "passes"


def _alarms(document: dict[str, Any], story: _Story, tokens: int, *, with_names: bool) -> None:
    quick: bool = document["quick"]
    honest = programs()
    rounded = [] if quick else list(rounded_programs())
    undeclared = [] if quick else list(rounded_programs(is_declared=False))
    if quick:
        honest = honest[2 : 2 + _QUICK_HONEST]
    results = run.alarms(
        honest, tokens=tokens, int8_tokens=min(tokens, _INT8_TOKENS), rounded=rounded, undeclared=undeclared
    )
    so_far = []
    names = [one.name for one in rounded], [one.name for one in undeclared]
    for number, one in enumerate(results, 1):
        so_far.append(one)
        document["alarms"] = record.alarm_rows(so_far, *names)
        n_tokens = sum(result.n_tokens for result in so_far)
        story.at(number, 0, f"{one.program} on {one.batch.model}: {n_tokens:,} tokens judged")
    for row in document["alarms"]:
        story.keep("alarms", row)
    if with_names:
        both = [*honest, *rounded]
        for number, program in enumerate(both, 1):
            for row in accusations(program, routes()):
                document["honest_names"].append(story.keep("honest name", row))
            story.at(number, len(both), f"{program.name}: asked for its bug")


class _Story:
    """How far it has come, on stderr: a line that changes on a terminal, else one now and then. Keeps --out."""

    def __init__(self, out: Path | None) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._told = self._start = time.monotonic()
        self._out = out

    def keep(self, kind: str, row: dict[str, Any]) -> dict[str, Any]:
        if self._out is not None:
            with self._out.open("a", encoding="utf-8") as file:
                file.write(json_text.dumps({"is": kind, **row}) + "\n")
        return row

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
        elif now - self._told >= 30:
            self._told = now
            tell(line)

    def end(self) -> None:
        if self._is_terminal:
            print(file=sys.stderr)
