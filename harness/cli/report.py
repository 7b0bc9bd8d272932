"""`harness report`: render run files, of checks and of benchmarks."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from harness import benchfile
from harness.cli.options import AllowSkip
from harness.cli.output import check_targets, emit_all, is_stdout, last_run, terminal_size
from harness.cli.speeds import load_speeds
from harness.errors import InputError
from harness.report import Summary, badge, csv, document, html, junit, markdown, readme, summarise, terminal
from harness.report.speeds import Speeds, counted
from harness.results import Verdict
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
    CSV = "csv"
    SAMPLES = "samples"


def command(
    runfiles: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUNFILE",
            help="Run files of harness check and harness bench, rendered together; none: that of the last check.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[Form | None, typer.Option("--to", help="What to make of them.", show_default="terminal")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; - is stdout.", show_default="stdout")
    ] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write markdown; - is stdout.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write one self-contained page.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write a JSON document.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a line for each row of a benchmark.")] = None,
    samples_file: Annotated[
        Path | None, typer.Option("--samples", help="Write a line for each timed run, as CSV.")
    ] = None,
    readme_file: Annotated[
        Path | None,
        typer.Option(
            "--readme", help=f"Renew the table of speeds between {readme.BEGIN} and {readme.END} of a file."
        ),
    ] = None,
    allow_skip: AllowSkip = False,
) -> int:
    """Render run files. The exit status says whether they could be rendered, not what is in them."""
    named = {
        Form.MARKDOWN: markdown_file,
        Form.HTML: html_file,
        Form.JSON: json_file,
        Form.CSV: csv_file,
        Form.SAMPLES: samples_file,
    }
    check_targets(out, *named.values(), readme_file)
    paths = runfiles or [last_run()]
    if not runfiles and not paths[0].is_file():
        raise InputError("there is no last run", path=paths[0], hint="run harness check, or name a run file")
    is_bench = [benchfile.is_bench(path) for path in paths]
    checks = [path for path, one in zip(paths, is_bench, strict=True) if not one]
    benches = [path for path, one in zip(paths, is_bench, strict=True) if one]
    summary = load(checks, allow_skip=allow_skip) if checks else None
    speeds = load_speeds(benches) if benches else None
    documents: list[tuple[Path | None, Callable[[], str]]] = []
    if readme_file is not None:
        whole = _renewed(
            readme_file, markdown.block(_needed(speeds, "--readme"))
        )  # refused before anything is written
        documents.append((readme_file, lambda: whole))
    for form, target in named.items():
        documents.append((target, partial(_rendered, form, summary, speeds)))
    if to is not None or out is not None or not any(target for target, _ in documents):
        form = to or Form.TERMINAL
        documents.append((out or Path("-"), partial(_rendered, form, summary, speeds, to_file=out is not None)))
    emit_all(documents)
    return 0


def _rendered(form: Form, summary: Summary | None, speeds: Speeds | None, *, to_file: bool = True) -> str:
    match form:
        case Form.TERMINAL:
            width, color = terminal_size()
            color = color and not to_file
            parts = [terminal.render(summary, width=width, color=color)] if summary else []
            parts += [terminal.render_speeds(speeds, width=width, color=color)] if speeds else []
            return "\n".join(parts)
        case Form.MARKDOWN:
            parts = [markdown.render(summary)] if summary else []
            return "\n".join(parts + ([markdown.render_speeds(speeds)] if speeds else []))
        case Form.HTML:
            return html.render(summary, speeds)
        case Form.JSON:
            return document.render(summary, speeds)
        case Form.CSV:
            return csv.render_rows(_needed(speeds, form))
        case Form.SAMPLES:
            return csv.render_samples(_needed(speeds, form))
    if summary is None:
        raise InputError("is of a check, and there is none among the run files", where=form)
    return junit.render(summary) if form is Form.JUNIT else badge.render(summary)


def _needed(speeds: Speeds | None, where: str) -> Speeds:
    if speeds is None:
        raise InputError("is of a benchmark, and there is none among the run files", where=where)
    return speeds


def _renewed(path: Path, block: str) -> str:
    if is_stdout(path):
        raise InputError("names a file that is there", where="--readme", actual="-")
    try:
        content = path.read_bytes()
        return readme.renewed(content, block, path).decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8", path=path, where=f"byte {error.start:,}") from error


def load(paths: Sequence[Path], *, allow_skip: bool = False) -> Summary:
    """Read run files of checks and summarise them; what is not whole is said in the notes.

    Where two of them have a verdict on the same case of the same program, the later one counts.

    Raises:
        RunFileError: one is no run file, or damaged.
    """
    notes: list[str] = []
    verdicts: dict[tuple[str, str, str], Verdict] = {}
    named: list[str] = []
    n_replaced, complete = 0, True
    for path in paths:
        run = read(path)
        of = f"{path.name}: " if len(paths) > 1 else ""
        notes += [f"{of}{run.damage}"] if run.damage else []
        if not run.complete:
            n_all = len(run.header.impls) * len(run.header.cases)
            notes.append(f"{of}the run was cut short: {len(run.verdicts)} of {n_all} verdicts")
        complete &= run.complete
        named += run.header.named
        own = {(v.impl, v.suite, v.case): v for v in run.verdicts}
        n_replaced += len(own.keys() & verdicts.keys())
        verdicts |= own
    if n_replaced:
        notes.append(f"in more than one run file: {counted(n_replaced, 'verdict')}; the later file counts")
    return summarise(verdicts.values(), named=named, allow_skip=allow_skip, complete=complete, notes=notes)
