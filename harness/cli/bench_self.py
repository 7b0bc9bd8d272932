"""`harness bench --self`: how fast the reference engine verifies and decodes, beside this machine's limits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.bench import reference_speed
from harness.bench.machine import machine
from harness.bench.reference_speed import Speed
from harness.cli.output import emit, is_stdout
from harness.report.tables import share

__all__ = ["of_the_engine"]


def of_the_engine(names: list[str], rounds: int, json_file: Path | None) -> int:
    """Verify and decode of the reference engine, beside matrix-product peak and matrix-vector bound."""
    story = Console(stderr=True)
    rows: list[Speed] = []
    with story.status("measuring") as status:
        for row in reference_speed.measure(names, rounds=rounds, progress=status.update):
            rows.append(row)
    facts = {"machine": dataclasses.asdict(machine()), "rows": [dataclasses.asdict(row) for row in rows]}
    if json_file:
        emit(json.dumps(facts, indent=1) + "\n", json_file)
        if is_stdout(json_file):
            return 0
    out = Console(width=None if Console().is_terminal else 110)
    out.print(_table_of_the_engine(rows))
    out.print(
        "Synthetic weights of these shapes, one BLAS thread, medians of interleaved rounds. Verify: 1,024 tokens a"
        " batch through the call that `harness check` uses; its share is of the matrix-product peak. Decode: one"
        " token at a time from position 32; its share is of the bound: the same matrices times a vector, no more.",
        style="dim",
    )
    out.print(str(machine()), style="dim")
    return 0


def _table_of_the_engine(rows: list[Speed]) -> Table:
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
            share(row.verify_share),
            f"{row.decode_tps:,.0f}",
            f"{row.bound_tps:,.0f}",
            share(row.decode_share),
        )
    return table
