"""The table of a README: a line for each model, a column for each program, tokens per second, and what to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.benchfile import Absent, Key, Row

__all__ = ["Table", "layout", "markdown", "number"]

_NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; the first line is the heading."""

    heading: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def number(value: float) -> str:
    """Write tokens per second with three digits, or as many as there are before the point.

    >>> [number(x) for x in (0.00312, 5.014, 77.94, 1234.6)]
    ['0.00312', '5.01', '77.9', '1,235']
    """
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def layout(rows: Sequence[Row], absent: Sequence[Absent] = ()) -> Table:
    """Lay out decode speeds; int8 variants stand in the column of the program that they are a variant of."""
    keys = [row.key for row in rows] + [one.key for one in absent]
    columns = list(dict.fromkeys(map(_column, keys)))
    lines = list(dict.fromkeys((key.model, key.precision, key.threads) for key in keys))
    shows_precision = len({line[1] for line in lines}) > 1 or any(line[1] != "f32" for line in lines)
    shows_threads = len({line[2] for line in lines}) > 1
    cells = {(r.key.model, r.key.precision, r.key.threads, _column(r.key)): number(r.decode_tps) for r in rows}
    cells |= {(a.key.model, a.key.precision, a.key.threads, _column(a.key)): a.kind for a in absent}
    out = []
    for line in lines:
        label = [line[0]]
        if shows_precision:
            label.append({"f32": "fp32", "q8": "int8"}[line[1]])
        if shows_threads:
            label.append(f"{line[2]} thread{'s' if line[2] > 1 else ''}")
        own = [row for row in rows if (row.key.model, row.key.precision, row.key.threads) == line]
        gone = [one for one in absent if (one.key.model, one.key.precision, one.key.threads) == line]
        out.append((", ".join(label), *(cells.get((*line, c), _NOTHING) for c in columns), _notes(own, gone)))
    return Table(("model", *columns, "notes"), tuple(out))


def _column(key: Key) -> str:
    return key.impl.removesuffix("-q8") if key.precision == "q8" else key.impl


def _notes(rows: Sequence[Row], absent: Sequence[Absent]) -> str:
    found: list[str] = []
    common = {note for note in rows[0].notes if all(note in row.notes for row in rows)} if rows else set()
    found += [note for note in (rows[0].notes if rows else ()) if note in common]
    shares = [f"{_column(row.key)} {row.share.value:.0%}" for row in rows if row.share is not None]
    if shares:
        found.append(f"of the read limit: {', '.join(shares)}")
    for row in rows:
        own = [note for note in row.notes if note not in common]
        if row.claim:
            own.append(row.claim)
        found += [f"{_column(row.key)}: {note}" for note in own]
    found += [f"{_column(one.key)}: {one.reason}" for one in absent if one.reason]
    return "; ".join(found)


def markdown(table: Table) -> str:
    """Write a table as GitHub's markdown."""
    right = ["---"] + ["---:"] * (len(table.heading) - 2) + ["---"]
    lines = [table.heading, right, *table.lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
