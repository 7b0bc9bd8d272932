"""A trace as text for a terminal, as a page, and as JSON: the sentence, the heat map, and every wrong operation."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text

from harness.benchfile import finite
from harness.report import html
from harness.report.console import console_into_text
from harness.report.summary import visible
from harness.report.tables import Cell, Column, Table
from harness.results import Trace, WrongOperation

__all__ = ["STYLES", "document", "heat_cell", "page", "text", "times"]

# What a point is, for somebody who has not read docs/trace.md.
_MEANINGS = {
    "embedding": "the token embedding",
    "attn_norm": "the norm before the attention",
    "q_raw": "wq's product",
    "k_raw": "wk's product",
    "v": "wv's product",
    "q": "the rotation of the queries",
    "k": "the rotation of the keys",
    "scores": "the attention scores",
    "attn_mix": "softmax and values",
    "attn_out": "wo's product",
    "attn_residual": "the residual after the attention",
    "ffn_norm": "the norm before the feed-forward block",
    "gate": "w_gate's product",
    "up": "w_up's product",
    "ffn_mix": "the activation times up",
    "ffn_out": "w_down's product",
    "ffn_residual": "the residual after the feed-forward block",
    "final_norm": "the last norm",
    "logits": "the classifier's product",
}
_FAR = 1000.0
# Of a cell's tone, in a terminal.
STYLES = {"right": "green", "near": "yellow", "wrong": "red", "far": "bold red"}


@dataclass(frozen=True, slots=True)
class _Heat:
    """Lines of cells: a layer a line, a point a column; None where nothing was recorded."""

    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Cell | None, ...]], ...]


def text(trace: Trace, *, width: int = 100, color: bool = False) -> str:
    """Render for a terminal of so many columns, with ANSI colours or without."""
    console, stream = console_into_text(width, color)
    console.print(Text(_basis(trace), "dim" if color else ""))
    heat = _heat(trace)
    table = RichTable(box=None, padding=(0, 0), pad_edge=False, show_header=True)
    table.add_column("layer", no_wrap=True)
    for number, _ in enumerate(heat.columns):
        table.add_column(f"{number:>3}", justify="right", no_wrap=True)
    for label, cells in heat.lines:
        row = [Text(f"{c.text:>4}", STYLES[c.tone.split()[0]]) if c else Text("   ·", "dim") for c in cells]
        table.add_row(label, *row)
    console.print(table)
    console.print(Text("  ".join(f"{i} {name}" for i, name in enumerate(heat.columns)), "dim" if color else ""))
    console.print(
        Text(f"cells: distance from float64 in noise floors; above {trace.limit:g} is wrong", "dim" if color else "")
    )
    for line in _sentences(trace):
        console.print(Text(line, "bold red" if trace.wrong and line.startswith("first") else ""))
    verdict = Text(f"{visible(trace.impl)}: {_verdict(trace)}", "bold red" if trace.wrong else "bold green")
    console.print(verdict)
    return stream.getvalue()


def page(trace: Trace) -> str:
    """Render as an HTML page that needs nothing else.

    Raises:
        MissingDependency: Jinja2 is not installed.
    """
    return html.page(
        f"{trace.impl} on {trace.model}: {_verdict(trace)}",
        trace=trace,
        verdict=_verdict(trace),
        basis=_basis(trace),
        sentences=_sentences(trace),
        heat=_heat(trace),
        wrong=_wrong(trace),
    )


def document(trace: Trace) -> str:
    """Render as JSON; a distance without a limit is the string "inf"."""
    return json.dumps(finite(dataclasses.asdict(trace)), indent=2) + "\n"


def _verdict(trace: Trace) -> str:
    if not trace.wrong:
        return "every recorded operation is right"
    first = trace.wrong[0]
    return f"{first.name}{_of_layer(first.layer)} is the first wrong operation"


def _basis(trace: Trace) -> str:
    return (
        f"level TRACE: {trace.n_tokens} tokens of {visible(trace.impl)} on {visible(trace.model)}, "
        f"{trace.n_judged:,} values of single operations judged"
    )


def _of_layer(layer: int) -> str:
    return f" of layer {layer}" if layer >= 0 else ""


def _sentences(trace: Trace) -> list[str]:
    if not trace.wrong:
        return []
    first = trace.wrong[0]
    since = (
        f"; {' and '.join(first.since)}, which it is computed from, {_are(first.since)} right" if first.since else ""
    )
    lines = [
        f"first wrong: {first.name}{_of_layer(first.layer)} ({_MEANINGS[first.name]}) at position {first.position}: "
        f"{times(first.ratio)} as far from the exact value as rounding can be{since}",
        f"its worst element is {first.index}: expected {first.expected:.7g}, got {first.actual:.7g}",
    ]
    others = [w for w in trace.wrong[1:] if w.name != first.name]
    same = sum(w.name == first.name for w in trace.wrong) - 1
    if same:
        lines.append(f"{first.name} is wrong in {same} more {'layer' if same == 1 else 'layers'}")
    if others:
        names = sorted({w.name for w in others}, key=[w.name for w in others].index)
        lines.append(f"wrong by themselves, too: {', '.join(names)}")
    for name, cause, fix in trace.explanations:
        lines.append(f"it behaves as if {cause} ({name}); the fix: {fix}")
    if not trace.explanations:
        lines.append("none of the known bugs (docs/faults.md) by itself explains these values")
    return lines


def _are(names: tuple[str, ...]) -> str:
    return "is" if len(names) == 1 else "are"


def times(ratio: float) -> str:
    """A ratio in words: "12.3 times"."""
    return f"{ratio:,.1f} times" if ratio < _FAR else f"{ratio:.1e} times"


def _heat(trace: Trace) -> _Heat:
    columns = tuple(dict.fromkeys(name for name, _, _ in trace.heat))
    inner = [c for c in _MEANINGS if c in columns]
    found = {(name, layer): ratio for name, layer, ratio in trace.heat}
    first = (trace.wrong[0].name, trace.wrong[0].layer) if trace.wrong else None
    lines = []
    for layer in sorted({layer for _, layer, _ in trace.heat}):
        cells = [
            heat_cell(found[name, layer], trace.limit, is_first=(name, layer) == first)
            if (name, layer) in found
            else None
            for name in inner
        ]
        lines.append(("-" if layer < 0 else str(layer), tuple(cells)))
    return _Heat(tuple(inner), tuple(lines))


def heat_cell(ratio: float, limit: float, *, is_first: bool = False) -> Cell:
    """A ratio as a cell of a heat map: green up to half of the limit, red above it."""
    tone = "right" if ratio <= limit / 2 else "near" if ratio <= limit else "wrong" if ratio < _FAR else "far"
    if not math.isfinite(ratio):
        shown = "inf"
    elif ratio < 10:
        shown = f"{ratio:.1f}"
    elif ratio < _FAR:
        shown = f"{ratio:.0f}"
    else:
        shown = f"e{math.floor(math.log10(ratio))}"
    return Cell(shown, ratio, tone=f"{tone} first" if is_first else tone)


def _wrong(trace: Trace) -> Table:
    columns = (
        Column("operation"),
        Column("layer", is_number=True),
        Column("from position", is_number=True),
        Column("computed from"),
        Column("distance / floor", is_number=True),
        Column("element", is_number=True),
        Column("expected", is_number=True),
        Column("got", is_number=True),
    )

    def line(w: WrongOperation) -> tuple[Cell, ...]:
        return (
            Cell(w.name),
            Cell(str(w.layer) if w.layer >= 0 else "", w.layer),
            Cell(str(w.position), w.position),
            Cell(", ".join(w.since)),
            Cell(times(w.ratio).removesuffix(" times"), w.ratio),
            Cell(str(w.index), w.index),
            Cell(f"{w.expected:.7g}", w.expected),
            Cell(f"{w.actual:.7g}", w.actual),
        )

    return Table(columns, tuple(line(w) for w in trace.wrong))
