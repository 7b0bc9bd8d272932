"""The report as text for a terminal: tables, failures with the continuations side by side, conclusions."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.report import tables
from harness.report.console import console_into_text
from harness.report.speeds import Speeds
from harness.report.summary import (
    Summary,
    counted,
    describe_divergence,
    duration,
    headline,
    is_problem,
    particulars,
    reasons,
    reproduction,
    visible,
)
from harness.results import Divergence, Kind, Verdict

__all__ = ["render", "render_speeds"]

# Failures shown in full for each implementation; the rest get a line each, as do those whose reason was given
# already. A program that is wrong everywhere is wrong in one way, and forty screens say it no better than three
# examples; the other forms of the report hold all of them.
_N_IN_FULL = 3

# Characters of a continuation: enough to see what happened, short enough for two columns.
_MAX_TEXT = 160


def render(summary: Summary, *, width: int = 100, color: bool = False) -> str:
    """Render a summary for a terminal.

    Args:
        width: columns available.
        color: use ANSI colours.
    """
    console, stream = console_into_text(width, color)
    if summary.rows:
        table = _table(summary)
        fits = console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width
        console.print(table if fits else Group(*_list(summary), Text("")))
    for part in _failures(summary):
        console.print(part, crop=False)  # a command line runs on past the width
    for standing in summary.standings:
        style = "green" if standing.passed else "red"
        console.print(Text.assemble((f"{visible(standing.impl)}: ", "bold"), (visible(standing.conclusion), style)))
        for line in standing.diagnosis:
            console.print(Padding(Text(visible(line), "bold"), (0, 0, 0, 2)))
        if standing.conventions:
            console.print(Text(f"  conventions: {visible('; '.join(standing.conventions))}", "dim"))
    for skip in summary.skips:
        console.print(Text(visible(skip), "yellow"))
    for note in summary.notes:
        console.print(Text(f"note: {visible(note)}", "yellow"))
    if summary.passed:
        console.print(Text("PASS", "bold green"))
    else:
        console.print(Text.assemble(("FAIL", "bold red"), f": {visible('; '.join(summary.problems))}"))
    return _written(stream)


def render_speeds(speeds: Speeds, *, width: int = 118, color: bool = False) -> str:
    """Render benchmarks for a terminal.

    Args:
        width, color: as for `render`.
    """
    console, stream = console_into_text(width, color)
    for section in speeds.sections:
        console.print(_speed_table(tables.speeds(section), "Tokens per second, one at a time"))
        if len({row.key.threads for row in section.rows}) > 1:
            console.print(_speed_table(tables.scaling([section]), "Threads"))
        if section.rows:
            rounds = max(row.rounds for row in section.rows)
            for part in _fitting(tables.details(section), console, n_names=2):
                console.print(_speed_table(part, f"In detail, up to {rounds} rounds"))
        for aside in tables.asides(section):
            console.print(Text(visible(aside)))
        probes = {limit.how for limit in section.limits}
        probe = (
            "numpy in one thread, for want of a compiler" if "numpy" in probes else "a C program in the same rounds"
        )
        console.print(Text(_MEASURED.format(probe=probe), "dim"))
        console.print(Text(visible(section.machine_text), "dim"))
    for note in speeds.notes:
        console.print(Text(f"note: {visible(note)}", "yellow"))
    return _written(stream)


_MEASURED = (
    "Medians of interleaved rounds, with the interval that the order of the samples gives. Decode: the slope between"
    " two run lengths, start-up and loading left out. Prefill: between two prompt lengths, in tok/s. First: to the"
    " first byte of a short prompt. Claims: its own tok/s. Read, product: its share of what this machine reads, or"
    " multiplies with a vector, at the model's size with these threads, measured by {probe}. Paired: its speed over"
    " that of another program, by rounds."
)


def _written(stream: io.StringIO) -> str:
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _speed_table(of: tables.Table, title: str) -> Table:
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in of.columns:
        justify: Literal["left", "right"] = "right" if column.is_number else "left"
        shown.add_column(column.heading, justify=justify, overflow="fold", no_wrap=column.is_number)
    for line in of.lines:
        shown.add_row(*(Text(visible(cell.bold + cell.text), _TONES.get(cell.tone, "")) for cell in line))
    return shown


def _fitting(of: tables.Table, console: Console, n_names: int) -> Iterator[tables.Table]:
    """Cut a table that is too wide into several, each beginning with the columns of names."""
    names = [*range(n_names)]
    kept: list[int] = []
    for n in range(n_names, len(of.columns)):
        wider = _only(of, [*names, *kept, n])
        if (
            kept
            and console.measure(_speed_table(wider, ""), options=console.options.update(max_width=1000)).maximum
            > console.width
        ):
            yield _only(of, [*names, *kept])
            kept = []
        kept.append(n)
    yield _only(of, [*names, *kept])


def _only(of: tables.Table, kept: list[int]) -> tables.Table:
    return tables.Table(tuple(of.columns[n] for n in kept), tuple(tuple(line[n] for n in kept) for line in of.lines))


_TONES = {"best": "bold", "warn": "yellow", "absent": "red"}


def _style(kind: Kind) -> str:
    if kind.is_green:
        return "green"
    return "red" if is_problem(kind) else "yellow"


def _table(summary: Summary) -> Table:
    kinds = summary.judged_kinds
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("implementation", "suite", "model"):
        table.add_column(name, overflow="fold")
    for kind in kinds:
        table.add_column(kind.value, justify="right", style=_style(kind))
    table.add_column("tokens", justify="right")
    table.add_column("time", justify="right", no_wrap=True)
    previous = None
    for row in summary.judged_rows:
        name = visible(row.impl) if row.impl != previous else ""
        previous = row.impl
        numbers = [f"{row.counts[kind]:,}" if kind in row.counts else "-" for kind in kinds]
        cells = [name, visible(row.suite), visible(row.model), *numbers, f"{row.n_judged:,}", duration(row.wall_s)]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _list(summary: Summary) -> list[RenderableType]:
    """Return the rows of the table as lines, for a terminal that is too narrow for columns."""
    return [
        Text(
            f"{visible(row.impl)} {visible(row.suite)} {visible(row.model)}: {counted(row.counts)}; "
            f"{row.n_judged:,} tokens, {duration(row.wall_s)}"
        )
        for row in summary.judged_rows
    ]


def _failures(summary: Summary) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for standing in summary.standings:
        failures = [v for v in summary.failures if v.impl == standing.impl]
        said: set[str] = set()
        for n, verdict in enumerate(failures):
            is_repeated = verdict.divergence is None and verdict.reason in said
            said.add(verdict.reason)
            short = n >= _N_IN_FULL or is_repeated
            parts.append(Text(_in_one_line(verdict, is_repeated)) if short else _failure(verdict))
        if failures:
            parts.append(Text(""))
    return parts


def _in_one_line(verdict: Verdict, is_repeated: bool) -> str:
    why = [] if is_repeated else reasons(verdict)
    if not why and verdict.divergence:
        why = [f"step {verdict.divergence.step}"]
    return ": ".join([headline(verdict), *why[:1]])


def _failure(verdict: Verdict) -> RenderableType:
    parts: list[RenderableType] = [Text(headline(verdict), f"bold {_style(verdict.kind)}")]
    parts += [_indented(line) for line in reasons(verdict)]
    if verdict.divergence:
        parts += [_indented(line) for line in describe_divergence(verdict.divergence)]
        parts.append(Padding(_side_by_side(verdict.divergence), (0, 0, 0, 2)))
    parts += [_indented(line) for line in particulars(verdict)]
    if verdict.reproduce:
        # One line however narrow the terminal, so that it can be copied.
        parts.append(Text(f"  {reproduction(verdict)}", no_wrap=True, overflow="ignore"))
    return Group(*parts)


def _indented(line: str) -> RenderableType:
    return Padding(Text(line), (0, 0, 0, 2))


def _side_by_side(divergence: Divergence) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column("expected", ratio=1, overflow="fold", style="green")
    table.add_column("actual", ratio=1, overflow="fold", style="red")
    table.add_row(Text(_clipped(divergence.expected_text)), Text(_clipped(divergence.actual_text)))
    return table


def _clipped(text: str) -> str:
    return visible(text, quoted=True) if len(text) <= _MAX_TEXT else visible(text[:_MAX_TEXT], quoted=True) + "..."
