"""`harness report`: render a run file."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import AllowSkip
from harness.cli.output import check_targets, emit, last_run, terminal_size
from harness.errors import InputError
from harness.report import Summary, badge, document, html, junit, markdown, summarise, terminal
from harness.runfile import read

__all__ = ["command"]


class Form(enum.StrEnum):
    """What a report can be."""

    TERMINAL = "terminal"
    MARKDOWN = "md"
    HTML = "html"
    JUNIT = "junit"
    BADGE = "badge"
    JSON = "json"


_RENDERERS = {
    Form.MARKDOWN: markdown.render,
    Form.HTML: html.render,
    Form.JUNIT: junit.render,
    Form.BADGE: badge.render,
    Form.JSON: document.render,
}


def command(
    runfile: Annotated[
        Path | None,
        typer.Argument(metavar="RUNFILE", help="A run file; none: that of the last check.", show_default=False),
    ] = None,
    to: Annotated[Form, typer.Option("--to", help="What to make of it.")] = Form.TERMINAL,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; - is stdout.", show_default="stdout")
    ] = None,
    allow_skip: AllowSkip = False,
) -> int:
    """Render the run file of a check. The exit status says whether it could be rendered, not what is in it."""
    check_targets(out)
    path = runfile or last_run()
    if runfile is None and not path.is_file():
        raise InputError("there is no last run", path=path, hint="run harness check, or name a run file")
    summary = load(path, allow_skip=allow_skip)
    if to is Form.TERMINAL:
        width, color = terminal_size()
        emit(terminal.render(summary, width=width, color=color and out is None), out)
    else:
        emit(_RENDERERS[to](summary), out)
    return 0


def load(path: Path, *, allow_skip: bool = False) -> Summary:
    """Read a run file and summarise it; what is not whole is said in its notes.

    Raises:
        RunFileError: it is no run file, or damaged.
    """
    run = read(path)
    notes = [run.damage] if run.damage else []
    if not run.complete:
        n_all = len(run.header.impls) * len(run.header.cases)
        notes.append(f"the run was cut short: {len(run.verdicts)} of {n_all} verdicts")
    return summarise(run.verdicts, named=run.header.named, allow_skip=allow_skip, complete=run.complete, notes=notes)
