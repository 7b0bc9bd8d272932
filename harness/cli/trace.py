"""`harness trace`: where a program goes wrong first, from what it records, or from its text alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.adapters.implementation import ProcessImplementation, resolve
from harness.adapters.process import Limits
from harness.cli.output import check_targets, emit, emit_all, is_stdout, tell, terminal_size
from harness.conformance.black_box import trace_black_box
from harness.conformance.tracing import trace
from harness.conformance.verify import files_for
from harness.errors import InputError
from harness.models import ModelFiles, impls_dir, locate
from harness.report import black_box as black_box_report
from harness.report import traces

__all__ = ["command"]

_DEFAULT_MODELS = ("gqa", "mha", "gqa-q8", "mha-q8")  # the first that a program can read
_PROMPT, _STEPS = "Once upon a time", 24


def command(
    impl: Annotated[
        str,
        typer.Argument(metavar="IMPL", help="A name in impls/, the path of an impl.toml, or a program beside one."),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", help="The model that it runs.", show_default="gqa, or the first that it reads"),
    ] = None,
    black_box: Annotated[
        bool, typer.Option("--black-box", help="From its text alone, even if it records what it computes.")
    ] = False,
    prompt: Annotated[
        str | None, typer.Option("-i", "--prompt", help="Text to begin with, where it records.", show_default=_PROMPT)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("-n", "--steps", min=1, help="Positions to run, where it records.", show_default=str(_STEPS)),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads the program is to use.")] = 1,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.001, help="Seconds for a run.")] = 60.0,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with the heat map; - is stdout.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write a JSON document; - is stdout.")] = None,
) -> int:
    """Name the first place where a program goes wrong: an operation, or a sub-block of a layer.

    A program of level TRACE records what it computes where the environment variable HARNESS_TRACE says
    (docs/trace.md), and every operation is judged by what it made of its own inputs. Any other is run on crafted
    checkpoints whose tokens are angles of its hidden states: a few dozen short runs. Exit status 1 if something is
    wrong.
    """
    found = resolve(impl, impls_dir(), progress=tell)
    if len(found) > 1:
        named = ", ".join(one.name for one in found)
        raise InputError(f"is {len(found)} implementations", where=impl, hint=f"name one: {named}")
    program, limits = found[0], Limits(time_s=timeout_s)
    records = "TRACE" in program.manifest.levels and not black_box
    if not records and (prompt is not None or steps is not None):
        raise InputError("the black-box tracer has prompts of its own", where="-i and -n", hint="leave them out")
    report: Any = traces if records else black_box_report
    targets: list[tuple[Path | None, Callable[[Any], str]]] = [(html, report.page), (json, report.document)]
    check_targets(*(target for target, _ in targets))
    files = locate(model) if model else _first_that_fits(program)
    result: Any
    if records:
        result = trace(
            program,
            files,
            prompt=(_PROMPT if prompt is None else prompt).encode("utf-8", "surrogateescape"),
            steps=steps or _STEPS,
            threads=threads,
            limits=limits,
            progress=tell,
        )
    else:
        why = "asked for by --black-box" if black_box else ""
        result = trace_black_box(program, files, threads=threads, limits=limits, reason=why, progress=tell)
    if not any(is_stdout(target) for target, _ in targets):
        width, color = terminal_size()
        emit(report.text(result, width=width, color=color))
    emit_all((target, partial(render, result)) for target, render in targets)
    is_wrong = result.wrong if records else result.is_wrong
    return 1 if is_wrong else 0


def _first_that_fits(program: ProcessImplementation) -> ModelFiles:
    """The first of the embedded models that a program can read.

    Raises:
        InputError: there is none.
    """
    refusals: list[str] = []
    for name in _DEFAULT_MODELS:
        files = locate(name)
        try:
            files_for(program.manifest, files)
        except InputError as error:
            refusals.append(f"{name}: {error}")
        else:
            return files
    raise InputError(f"no model for it ({'; '.join(refusals)})", where=program.name, hint="name one with --model")
