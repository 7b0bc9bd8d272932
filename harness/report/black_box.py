"""A black-box trace as text for a terminal, as a page, and as JSON: the first wrong sub-block, and every angle."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

from rich.table import Table as RichTable
from rich.text import Text

from harness.benchfile import finite
from harness.report import html
from harness.report.console import console_into_text
from harness.report.summary import visible
from harness.report.tables import Cell, Column, Table
from harness.report.traces import STYLES, heat_cell, times
from harness.results import AngleReading, BlackBoxTrace

__all__ = ["document", "page", "text"]


def text(trace: BlackBoxTrace, *, width: int = 100, color: bool = False) -> str:
    """Render for a terminal of so many columns, with ANSI colours or without."""
    console, stream = console_into_text(width, color)
    dim = "dim" if color else ""
    console.print(Text(_basis(trace), dim))
    table = RichTable(box=None, padding=(0, 1), pad_edge=False, show_header=True)
    layout = _angles(trace, _worst(trace.readings))
    for column in layout.columns:
        table.add_column(column.heading, justify="right" if column.is_number else "left", no_wrap=True)
    for line in layout.lines:
        row = [Text(cell.text, STYLES[cell.tone.split()[0]] if cell.tone else "") for cell in line]
        table.add_row(*row)
    console.print(table)
    console.print(Text(_key(trace), dim))
    for sentence in _sentences(trace):
        console.print(Text(sentence, "bold red" if sentence.startswith("first") else ""))
    console.print(Text(f"{visible(trace.impl)}: {_verdict(trace)}", "bold red" if trace.is_wrong else "bold green"))
    return stream.getvalue()


def page(trace: BlackBoxTrace) -> str:
    """Render as an HTML page that needs nothing else.

    Raises:
        MissingDependency: Jinja2 is not installed.
    """
    return html.page(
        f"{trace.impl} on {trace.model}: {_verdict(trace)}",
        black_box=trace,
        verdict=_verdict(trace),
        basis=_basis(trace),
        sentences=_sentences(trace),
        key=_key(trace),
        columns=_grid_columns(trace),
        lines=_grid(trace),
        angles=_angles(trace, trace.readings),
        cuts=_cuts(trace),
    )


def document(trace: BlackBoxTrace) -> str:
    """Render as JSON; a figure that is no number is a string."""
    found = dataclasses.asdict(trace)
    for reading, one in zip(found["readings"], trace.readings, strict=True):
        reading["ratio"] = one.ratio
    return json.dumps(finite(found), indent=2) + "\n"


# ---- words -------------------------------------------------------------------------------------------------------


def _basis(trace: BlackBoxTrace) -> str:
    n = sum(len(reading.expected) for reading in trace.readings)
    return (
        f"black box: {visible(trace.reason)}; {trace.n_runs} runs of {visible(trace.impl)} on crafted copies of "
        f"{visible(trace.model)} printed {n} angles of its hidden state x"
    )


def _key(trace: BlackBoxTrace) -> str:
    return (
        "where x points behind each sub-block, in radians, at the worst position; honest: how far rounding may turn "
        f"it; off by more than {trace.limit:g} times that is wrong, e5 is 10^5 times"
    )


def _verdict(trace: BlackBoxTrace) -> str:
    if trace.first is None and trace.diagnosis.precision:
        return f"no sub-block is wrong for a program in {trace.diagnosis.precision}, which it does not declare"
    if trace.first is None:
        return "no sub-block is wrong"
    return f"{_place(*trace.first)} is the first wrong sub-block"


def _place(layer: int, block: str) -> str:
    return f"{block} of layer {layer}" if layer >= 0 else block


def _sentences(trace: BlackBoxTrace) -> list[str]:
    if trace.first is None:
        return []
    lines = [f"first wrong: {_place(*trace.first)}"]
    shown = [r for r in trace.readings if (r.layer, r.block) == trace.first and not r.ratio <= trace.limit]
    if shown:
        worst = max(shown, key=lambda r: r.ratio)
        seen = worst.observed[worst.worst]
        said = f"{_radians(seen)} rad" if math.isfinite(seen) else "no angle at all"
        lines[0] += (
            f": expected {_radians(worst.expected[worst.worst])} rad, observed {said} at position "
            f"{worst.position + worst.worst} ({times(worst.ratio)} what rounding may do)"
        )
    if trace.conclusion:
        lines.append(trace.conclusion)
    for one in trace.diagnosis.suspects:
        lines.append(f"it behaves as if {one.cause} ({one.name}); the fix: {one.fix}")
    if trace.diagnosis.n_tried and not trace.diagnosis.suspects:
        lines.append(f"none of the {trace.diagnosis.n_tried} known bugs that were tried (docs/faults.md) explains it")
    return lines


def _radians(angle: float) -> str:
    if math.isnan(angle):
        return "none"
    return "0" if angle == 0 else f"{angle:.2g}"


# ---- tables ------------------------------------------------------------------------------------------------------


def _worst(readings: Sequence[AngleReading]) -> list[AngleReading]:
    """One reading for each sub-block, the furthest off, in the order of computation."""
    best: dict[tuple[int, str], AngleReading] = {}
    for reading in readings:
        key = reading.layer, reading.block
        if key not in best or reading.ratio > best[key].ratio:
            best[key] = reading
    return list(best.values())


def _angles(trace: BlackBoxTrace, readings: Sequence[AngleReading]) -> Table:
    columns = (
        Column("layer"),
        Column("sub-block"),
        Column("run"),
        Column("position", is_number=True),
        Column("expected", is_number=True),
        Column("observed", is_number=True),
        Column("honest", is_number=True),
        Column("off by", is_number=True, what="distance over what an honest program may be off"),
    )

    def line(r: AngleReading) -> tuple[Cell, ...]:
        at = r.worst
        return (
            Cell(str(r.layer) if r.layer >= 0 else "-", r.layer),
            Cell(r.block),
            Cell(r.run),
            Cell(str(r.position + at), r.position + at),
            Cell(_radians(r.expected[at]), r.expected[at]),
            Cell(_radians(r.observed[at]), r.observed[at] if math.isfinite(r.observed[at]) else None),
            Cell(f"{r.floor:.1e}", r.floor),
            heat_cell(r.ratio, trace.limit, is_first=(r.layer, r.block) == trace.first),
        )

    return Table(columns, tuple(line(r) for r in readings))


def _grid_columns(trace: BlackBoxTrace) -> list[tuple[str, str]]:
    """(sub-block, run) of every column of the heat map."""
    order = ("embedding", "attention", "feed-forward", "final norm")
    found = dict.fromkeys((r.block, r.run) for r in trace.readings)
    return sorted(found, key=lambda column: order.index(column[0]))


def _grid(trace: BlackBoxTrace) -> list[tuple[str, list[Cell | None]]]:
    found = {(r.layer, r.block, r.run): r for r in trace.readings}
    lines = []
    for layer in sorted({r.layer for r in trace.readings}):
        cells = [
            heat_cell(found[key].ratio, trace.limit, is_first=(layer, block) == trace.first)
            if (key := (layer, block, run)) in found
            else None
            for block, run in _grid_columns(trace)
        ]
        lines.append(("-" if layer < 0 else str(layer), cells))
    return lines


def _cuts(trace: BlackBoxTrace) -> Table:
    columns = (Column("with"), Column("the program"), Column("off by", is_number=True))
    lines = tuple(
        (
            Cell(cut.what),
            Cell("still diverges" if cut.diverges else "agrees", tone="bad" if cut.diverges else "good"),
            heat_cell(cut.ratio, trace.limit),
        )
        for cut in trace.cuts
    )
    return Table(columns, lines)
