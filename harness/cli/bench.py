"""`harness bench`: how fast; today of the reference engine itself (`--self`)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.bench.machine import machine
from harness.bench.reference_speed import Speed, measure
from harness.bench.workload import shape_of
from harness.cli.output import check_targets, emit, is_stdout
from harness.errors import InputError

__all__ = ["command"]

_MODELS = "260K,15M,42M,110M"


def command(
    is_self: Annotated[
        bool, typer.Option("--self", help="Measure the reference engine beside this machine's limits.")
    ] = False,
    models: Annotated[str, typer.Option("--models", help="Model shapes, comma-separated.")] = _MODELS,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="Interleaved rounds of each row.")] = 9,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON; - is stdout.")] = None,
) -> int:
    """Measure the reference engine: verify and decode, beside matrix-product peak and matrix-vector bound."""
    if not is_self:
        raise InputError("only the reference engine can be measured yet", hint="add --self")
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names:
        raise InputError("no model is selected", where="--models", hint=f"there are {_MODELS}")
    for name in names:
        shape_of(name)
    check_targets(json_file)
    story = Console(stderr=True)
    rows: list[Speed] = []
    with story.status("measuring") as status:
        for row in measure(names, rounds=rounds, progress=status.update):
            rows.append(row)
    facts = {"machine": dataclasses.asdict(machine()), "rows": [dataclasses.asdict(row) for row in rows]}
    if json_file:
        emit(json.dumps(facts, indent=1) + "\n", json_file)
        if is_stdout(json_file):
            return 0
    out = Console(width=None if Console().is_terminal else 110)
    out.print(_table(rows))
    out.print(
        "Synthetic weights of these shapes, one BLAS thread, medians of interleaved rounds. Verify: 1,024 tokens a"
        " batch through the call that `harness check` uses; its share is of the matrix-product peak. Decode: one"
        " token at a time from position 32; its share is of the bound: the same matrices times a vector, no more.",
        style="dim",
    )
    out.print(str(machine()), style="dim")
    return 0


def _table(rows: list[Speed]) -> Table:
    table = Table(title="The reference engine")
    for heading in ("model", "precision"):
        table.add_column(heading)
    for heading in ("verify tok/s", "peak GFLOP/s", "share", "decode tok/s", "bound tok/s", "share"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.model,
            row.dtype,
            f"{row.verify_tps:,.0f}",
            f"{row.peak_flops / 1e9:,.1f}",
            _share(row.verify_share),
            f"{row.decode_tps:,.0f}",
            f"{row.bound_tps:,.0f}",
            _share(row.decode_share),
        )
    return table


def _share(share: float) -> str:
    """A share of a limit; above the limit is impossible, so it is marked."""
    return f"{share:.0%}" if share <= 1 else f"{share:.0%} !"
