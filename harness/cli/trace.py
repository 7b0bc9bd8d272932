"""`harness trace`: the first operation of a program that is wrong while its inputs are right."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from harness.adapters.implementation import resolve
from harness.adapters.process import Limits
from harness.cli.output import check_targets, emit, emit_all, is_stdout, tell, terminal_size
from harness.conformance.tracing import trace
from harness.errors import InputError
from harness.models import impls_dir, locate
from harness.report import traces
from harness.results import Trace

__all__ = ["command"]

_DEFAULT_MODELS = ("gqa", "mha", "gqa-q8", "mha-q8")  # the first that a program can read


def command(
    impl: Annotated[
        str,
        typer.Argument(metavar="IMPL", help="A name in impls/, the path of an impl.toml, or a program beside one."),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", help="The model that it runs.", show_default="gqa, or the first that it reads"),
    ] = None,
    prompt: Annotated[str, typer.Option("-i", "--prompt", help="Text to begin with.")] = "Once upon a time",
    steps: Annotated[int, typer.Option("-n", "--steps", min=1, help="Positions to run.")] = 24,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads the program is to use.")] = 1,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.001, help="Seconds for the run.")] = 60.0,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with the heat map; - is stdout.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write a JSON document; - is stdout.")] = None,
) -> int:
    """Name the first operation of a program whose output is wrong while its inputs are right.

    The program records what it computes where the environment variable HARNESS_TRACE says (docs/trace.md), and every
    operation is judged by what it made of its own inputs. Exit status 1 if one is wrong.
    """
    targets = [(html, traces.page), (json, traces.document)]
    check_targets(*(target for target, _ in targets))
    found = resolve(impl, impls_dir(), progress=tell)
    if len(found) > 1:
        named = ", ".join(one.name for one in found)
        raise InputError(f"is {len(found)} implementations", where=impl, hint=f"name one: {named}")
    result: Trace | None = None
    refusals: list[str] = []
    for name in (model,) if model else _DEFAULT_MODELS:
        try:
            result = trace(
                found[0],
                locate(name),
                prompt=prompt.encode("utf-8", "surrogateescape"),
                steps=steps,
                threads=threads,
                limits=Limits(time_s=timeout_s),
                progress=tell,
            )
            break
        except InputError as error:
            if model or "TRACE" in str(error) or "trace" in str(error):
                raise
            refusals.append(f"{name}: {error}")
    if result is None:
        raise InputError(
            f"no model for it ({'; '.join(refusals)})", where=found[0].name, hint="name one with --model"
        )
    if not any(is_stdout(target) for target, _ in targets):
        width, color = terminal_size()
        emit(traces.text(result, width=width, color=color))
    emit_all((target, partial(render, result)) for target, render in targets)
    return 1 if result.wrong else 0
