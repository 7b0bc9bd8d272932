"""The tables of a report, each laid out once; markdown, terminal and page supply only their syntax."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from harness.benchfile import LATE, Comparison, Estimate, Result, Row
from harness.report.speeds import PRECISIONS, Group, Section, counted, program
from harness.report.summary import Summary, duration
from harness.report.summary import number as three_digits

__all__ = [
    "README",
    "Cell",
    "Column",
    "Style",
    "Table",
    "asides",
    "details",
    "known",
    "number",
    "scaling",
    "share",
    "speeds",
    "ties",
    "verdicts",
]


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; numbers stand at the right. `what` explains it."""

    heading: str
    is_number: bool = False
    what: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell as text, with the number that it is sorted by.

    Attributes:
        tone: "best", "warn", "absent", "good", "bad" or "other", for renderers that can show it.
        bold: what stands before the text, in bold.
    """

    text: str
    value: float | None = None
    tone: str = ""
    bold: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, and lines of as many cells."""

    columns: tuple[Column, ...]
    lines: tuple[tuple[Cell, ...], ...]

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The cells as text, without the heading."""
        return tuple(tuple(cell.bold + cell.text for cell in line) for line in self.lines)


def number(value: float) -> str:
    """Write tokens per second with three digits, or as many as there are before the point.

    >>> [number(x) for x in (0.00312, 5.014, 77.94, 1234.6)]
    ['0.00312', '5.01', '77.9', '1,235']
    """
    if value >= 99.95:
        return f"{value:,.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.995 else f"{value:.3g}"


def speed(seconds: float) -> str:
    """Write the speed at so many seconds a token; "?" where noise has left no time for it."""
    return number(1 / seconds) if seconds > 0 else "?"


def share(value: float) -> str:
    """Write a share of a limit; above the limit is impossible, so it is marked."""
    return f"{value:.0%}" if value <= 1 else f"{value:.0%} !"


@dataclass(frozen=True, slots=True)
class Style:
    """How the short tables are written.

    Attributes:
        corner: heading of the column of models.
        unit: after every speed.
        nothing: where a program was not measured.
        thread: what threads are called.
        number: writes a speed.
    """

    corner: str = "model"
    unit: str = ""
    nothing: str = "–"
    thread: str = "thread"
    number: Callable[[float], str] = number


README = Style()

# ---- the table of a README ---------------------------------------------------------------------------------------


def speeds(section: Section, style: Style = README) -> Table:
    """Lay out decode speeds: a line for each model, a column for each program, and what is to be known."""
    groups = section.groups
    shows_precision = len({g.precision for g in groups}) > 1 or any(g.precision != "f32" for g in groups)
    shows_threads = len({g.threads for g in groups}) > 1
    lines = []
    for group in groups:
        label = [group.model]
        if shows_precision:
            label.append(PRECISIONS.get(group.precision, group.precision))
        if shows_threads:
            label.append(counted(group.threads, style.thread))
        cells = {program(one.key): Cell(one.kind, tone="absent") for one in group.absent}
        best = max((row.decode_tps for row in group.rows), default=math.nan)
        for row in group.rows:
            tone = "best" if row.decode_tps == best and len(group.rows) > 1 else ""
            cells[program(row.key)] = Cell(style.number(row.decode_tps) + style.unit, row.decode_tps, tone)
        speeds = [cells.get(name, Cell(style.nothing)) for name in section.programs]
        lines.append((Cell(", ".join(label)), *speeds, Cell(_notes(group))))
    columns = [Column(name, is_number=True) for name in section.programs]
    return Table((Column(style.corner), *columns, Column("notes")), tuple(lines))


def _notes(group: Group) -> str:
    rows = group.rows
    common = [note for note in (rows[0].notes if rows else ()) if all(note in row.notes for row in rows)]
    found = [*common]
    shares = [f"{program(row.key)} {row.share.value:.0%}" for row in rows if row.share is not None]
    if shares:
        found.append(f"of the read limit: {', '.join(shares)}")
    said: dict[str, list[str]] = {}
    for row in rows:
        for note in (*row.notes, row.claim):
            if note and note not in common:
                said.setdefault(note, []).append(program(row.key))
    for one in group.absent:
        if one.reason:
            said.setdefault(one.reason, []).append(program(one.key))
    return "; ".join(found + [f"{', '.join(names)}: {note}" for note, names in said.items()])


# ---- everything that a row says ----------------------------------------------------------------------------------

_DETAILS = (
    Column("model", what="shape, precision and threads"),
    Column("program"),
    Column("tok/s", True, "tokens generated per second, one at a time: the slope between a short and a long run"),
    Column("interval", True, "of the median, from the order of the samples, with its confidence"),
    Column("prefill", True, "prompt tokens per second: the slope between a short and a long prompt"),
    Column("load ms", True, "what is left of a run without any token: starting and loading"),
    Column("first ms", True, "from the start to the first byte of output, with a short prompt"),
    Column("MB", True, "largest resident memory of the runs"),
    Column("read", True, "share of what reading in order gives, in the same rounds, at the same size and threads"),
    Column("product", True, "share of a bare product of a matrix of so many bytes with a vector; float32 only"),
    Column("claims", True, "tokens per second that the program itself prints; ! where that is more than 3 % off"),
    Column("paired", True, "its speed over that of the first program of the group, paired by rounds"),
    Column("to fp32", True, "speed of an int8 row over that of the same program in float32"),
    Column("to 1 thread", True, "speed of a row with several threads over that with one"),
    Column("disk MB", True, "read from the disks for each token, where memory does not hold the model"),
    Column("harness", True, "of the time of the runs: what may be the doing of the harness"),
    Column("rounds", True, "interleaved rounds that the row rests on"),
    Column("tokens", what="the verdict on the tokens of the timed runs, the weakest of them"),
)


def details(section: Section) -> Table:
    """Lay out everything that is known of each row; what has no row has its reason in the last column.

    Columns that would be empty are left out.
    """
    lines: list[tuple[Cell, ...]] = []
    for group in section.groups:
        label = f"{group.model} {group.precision} {group.threads}t"
        lines += [(Cell(label), Cell(row.key.impl), *_facts(row, section)) for row in group.rows]
        empty = (Cell(""),) * (len(_DETAILS) - 3)
        lines += [(Cell(label), Cell(one.key.impl), *empty, Cell(one.kind, tone="absent")) for one in group.absent]
    kept = [n for n in range(len(_DETAILS)) if any(line[n].text for line in lines)]
    return Table(tuple(_DETAILS[n] for n in kept), tuple(tuple(line[n] for n in kept) for line in lines))


def _facts(row: Row, section: Section) -> tuple[Cell, ...]:
    ratio = section.ratios.get(row.key)
    claimed = "" if row.reported_tps is None else number(row.reported_tps) + (" !" if row.claim else "")
    return (
        Cell(number(row.decode_tps), row.decode_tps, "warn" if row.is_busy else ""),
        Cell(interval(row.decode_s), row.decode_tps),
        _of(row.prefill_s, speed, lambda s: 1 / s if s > 0 else math.inf),
        _of(row.load_s, lambda s: f"{s * 1e3:,.0f}"),
        _of(row.first_byte_s, lambda s: f"{s * 1e3:,.1f}"),
        Cell(f"{row.peak_rss_bytes / 1e6:,.0f}", row.peak_rss_bytes),
        _of(row.share, share, warn=1.0),
        _of(row.product_share, share, warn=1.0),
        Cell(claimed, row.reported_tps, "warn" if row.claim else ""),
        _compared(None if ratio is None else ratio.comparison, "" if ratio is None else f" × {ratio.to}"),
        _compared(row.to_fp32),
        _compared(row.scaling),
        known(row.disk_token_bytes, lambda size: f"{size / 1e6:,.0f}"),
        known(row.harness_share, lambda part: f"{part:.2%}"),
        Cell(f"{row.rounds:,}", row.rounds),
        Cell(row.verdict + (", busy" if row.is_busy else ""), tone="warn" if row.is_busy else ""),
    )


def _of(
    found: Estimate | None,
    text: Callable[[float], str],
    value: Callable[[float], float] = lambda s: s,
    *,
    warn: float = math.inf,
) -> Cell:
    if found is None:
        return Cell("")
    return Cell(text(found.value), value(found.value), "warn" if found.value > warn else "")


def known(value: float | None, text: Callable[[float], str]) -> Cell:
    """Return the cell of a number that may not be known."""
    return Cell("") if value is None else Cell(text(value), value)


def _compared(found: Comparison | None, to: str = "") -> Cell:
    if found is None or not math.isfinite(found.ratio):
        return Cell("")
    sure = found.result.value if found.result in (Result.FASTER, Result.SLOWER) else "?"
    return Cell(f"{found.ratio:.2f}{to} {sure}", found.ratio)


def interval(decode_s: Estimate) -> str:
    """Write the interval of a decode speed, from the seconds of a token; one sample has none."""
    if decode_s.n < 2:
        return ""
    return f"{speed(decode_s.high)}–{speed(decode_s.low)} ({decode_s.confidence:.0%})"


# ---- how speed grows with threads --------------------------------------------------------------------------------


def scaling(sections: Sequence[Section], style: Style = README) -> Table:
    """Lay out the speed with the fewest threads and with the best number of them, of each program on each model.

    Machines are named where there are several. The ends of an interval stand beside a speed as differences; where the
    fewest threads are best the speed is bold.
    """
    rows = [(section, row) for section in sections for row in section.rows]
    fewest = min((row.key.threads for _, row in rows), default=1)
    names = list(dict.fromkeys(program(row.key) for _, row in rows))
    lines: list[tuple[Cell, ...]] = []
    for section in sections:
        machine = str(section.machine.get("cpu", ""))
        ordered = sorted(section.rows, key=partial(_place, section=section))
        for (model, precision, own), found in groupby(
            ordered, key=lambda r: (r.key.model, r.key.precision, program(r.key))
        ):
            by_threads = {row.key.threads: row for row in found}
            least = by_threads.get(fewest)
            best = max(by_threads.values(), key=lambda row: row.decode_tps)
            label = model if precision == "f32" else f"{model} {PRECISIONS.get(precision, precision)}"
            lines.append(
                (
                    *([Cell(machine)] if len(sections) > 1 else []),
                    Cell(label),
                    *([Cell(own)] if len(names) > 1 else []),
                    Cell("") if least is None else _spread(least, style, is_best=least is best),
                    _best(best, fewest, style),
                )
            )
            machine = ""
    machines = [Column("machine")] if len(sections) > 1 else []
    columns = [*machines, Column("model"), *([Column("program")] if len(names) > 1 else [])]
    return Table((*columns, Column(counted(fewest, style.thread), True), Column("best")), tuple(lines))


def _place(row: Row, section: Section) -> tuple[int, str, int]:
    model, precision, _, own = section.place(row.key)
    return model, precision, own


def _best(row: Row, fewest: int, style: Style) -> Cell:
    if row.key.threads == fewest:
        return Cell(str(fewest), row.decode_tps)
    spread = _spread(row, style)
    return Cell(f"{counted(row.key.threads, style.thread)}: {spread.text}", spread.value)


def _spread(row: Row, style: Style, *, is_best: bool = False) -> Cell:
    """Write a speed and how far the ends of its interval are from it, with as many decimals as the speed has."""
    seconds, middle = row.decode_s, style.number(row.decode_tps)
    of = (seconds.high, seconds.low) if seconds.n > 1 else ()
    ends = (1 / s - row.decode_tps if s > 0 else math.inf for s in of)
    n_decimals = len(middle.partition(".")[2])
    text = "".join(f" {_difference(end, n_decimals)}" for end in ends)
    if is_best:
        return Cell(text, row.decode_tps, "best", bold=middle)
    return Cell(middle + text, row.decode_tps)


def _difference(value: float, n_decimals: int) -> str:
    """Write a difference with its sign; none is 0."""
    if not math.isfinite(value):
        return "+?"
    text = f"{abs(value):,.{n_decimals}f}"
    return f"{'+' if value > 0 else '−'}{text}" if round(value, n_decimals) else "0"


# ---- what stands beneath the tables ------------------------------------------------------------------------------


def asides(section: Section) -> list[str]:
    """Say what has no place in a table: intervals of ratios, speed by position, the harness's own share."""
    found = []
    for row in section.rows:
        who = f"{row.key.model} {row.key.precision} {row.key.threads}t {row.key.impl}"
        for what, ratio in (("int8 to fp32", row.to_fp32), (f"{row.key.threads} threads to one", row.scaling)):
            if ratio is not None:
                ends = f" ({ratio.low:.2f} to {ratio.high:.2f}, {ratio.confidence:.0%})" if ratio.n > 1 else ""
                found.append(f"{who}: {what} {ratio.ratio:.2f}{ends}")
        if row.contexts:
            speeds = [f"{at.begin}–{at.end}: {speed(at.decode_s.value)}" for at in row.contexts]
            found.append(f"{who}: tok/s by position {', '.join(speeds)}")
    late = Counter(one.key for one in section.samples if one.run.endswith(LATE))
    if late:
        whose = ", ".join(f"{key.model} {key.precision} {key.threads}t {key.impl} {n}" for key, n in late.items())
        found.append(f"Runs whose start stalled, and that were made again: {whose}.")
    shares = [(row.harness_share, row.key) for row in section.rows if row.harness_share is not None]
    if shares:
        most, key = max(shares)
        told = (
            f"The harness itself worked for at most {most:.2%} of the time that a speed rests on"
            f" ({key.model} {key.precision} {key.impl})"
        )
        if added := [limit.spawn_s for limit in section.limits if limit.spawn_s is not None]:
            ms = statistics.median(added) * 1e3
            told += f"; starting and ending a program adds {ms:.1f} ms to its run, which slopes cancel"
        found.append(f"{told}.")
    return found


# ---- verdicts ----------------------------------------------------------------------------------------------------


def verdicts(summary: Summary) -> Table:
    """Lay out the counts of each program on each suite and model."""
    kinds = summary.judged_kinds
    tones = {kind: "good" if kind.is_green else "bad" if kind.is_failure else "other" for kind in kinds}
    names = (Column("implementation"), Column("suite"), Column("model"))
    counts = (Column(kind.value, is_number=True) for kind in kinds)
    lines = tuple(
        (
            *map(Cell, (row.impl, row.suite, row.model)),
            *(
                Cell(f"{row.counts[kind]:,}", row.counts[kind], tones[kind]) if kind in row.counts else Cell("-")
                for kind in kinds
            ),
            Cell(f"{row.n_judged:,}", row.n_judged),
            Cell(duration(row.wall_s), row.wall_s),
        )
        for row in summary.judged_rows
    )
    return Table((*names, *counts, Column("tokens", True), Column("time", True)), lines)


def ties(summary: Summary) -> Table:
    """Lay out the certificates of near ties."""
    headings = ("position", "expected", "actual", "regret", "noise floor")
    columns = (Column("implementation"), Column("case"), *(Column(heading, True) for heading in headings))
    lines = tuple(
        (
            Cell(verdict.impl),
            Cell(f"{verdict.suite}/{verdict.case}"),
            *(Cell(str(value), value) for value in (tie.position, tie.expected, tie.actual)),
            *(Cell(three_digits(value), value) for value in (tie.regret, tie.floor)),
        )
        for verdict in summary.verdicts
        for tie in verdict.certificates
    )
    return Table(columns, lines)
