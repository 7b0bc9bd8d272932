"""The report as GitHub-flavoured markdown, made for a step summary, a pull request comment or a README."""

from __future__ import annotations

import re

from harness.report.speeds import Section, Speeds, counted
from harness.report.summary import Summary, describe, visible
from harness.report.tables import README, Style, Table, asides, details, scaling, speeds, verdicts

__all__ = ["block", "render", "render_speeds", "table"]

# A step summary holds 1 MiB; what is left out is in the run file and in the JUnit file.
_MAX_FAILURES = 50


def render(summary: Summary) -> str:
    """Render a summary as markdown."""
    lines = [f"### Conformance: {'pass' if summary.passed else 'fail'}", ""]
    lines += [f"- {_text(problem)}" for problem in summary.problems]
    lines += [f"- note: {_text(note)}" for note in summary.notes]
    if summary.problems or summary.notes:
        lines.append("")
    if summary.rows:
        lines.append(table(verdicts(summary)))
    for standing in summary.standings:
        lines.append(f"- **{_text(standing.impl)}**: {_text(standing.conclusion)}")
        lines += [f"  - {_text(line.strip())}" for line in standing.diagnosis]
        lines += [f"  - convention: {_text(convention)}" for convention in standing.conventions]
    lines += [f"- {_text(skip)}" for skip in summary.skips]
    for verdict in summary.failures[:_MAX_FAILURES]:
        head, *rest = describe(verdict)
        lines += ["", f"<details><summary>{_text(head)}</summary>", "", *_fenced(rest), "", "</details>"]
    if len(summary.failures) > _MAX_FAILURES:
        lines += ["", f"{len(summary.failures) - _MAX_FAILURES:,} more failures are not shown."]
    return "\n".join(lines) + "\n"


# ---- speed -------------------------------------------------------------------------------------------------------


def render_speeds(found: Speeds) -> str:
    """Render benchmarks: for each machine the table of a README, how speed grows with threads, and every figure."""
    lines = ["### Speed", "", *(f"- note: {_text(note)}" for note in found.notes)]
    lines += [""] if found.notes else []
    for section in found.sections:
        lines += [*_short(section, README), ""]
        if len({row.key.threads for row in section.rows}) > 1:
            lines += ["#### Threads", "", table(scaling([section]))]
        detailed = details(section)
        lines += ["#### In detail", "", table(detailed)]
        if beneath := asides(section):
            lines += [*(f"- {_text(aside)}" for aside in beneath), ""]
        lines += [f"- {_text(column.heading)}: {_text(column.what)}" for column in detailed.columns if column.what]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def block(found: Speeds, style: Style = README) -> str:
    """Render what stands in a README: for each machine a table, and a line that says how it was measured."""
    parts = [*(f"Note: {_text(note)}." for note in found.notes)]
    parts += ["\n".join(_short(section, style)) for section in found.sections]
    return "\n\n".join(parts) + "\n"


def _short(section: Section, style: Style) -> list[str]:
    if not section.rows and not section.absent:
        return ["Nothing was measured.", "", _measured(section)]
    return [table(speeds(section, style)), _measured(section)]


def _measured(section: Section) -> str:
    n = sorted({row.rounds for row in section.rows})
    rounds = counted(n[-1] if n else 0, "interleaved round")
    rounds = f"{n[0]} to {rounds}" if len(n) > 1 else rounds
    when = f", {section.when}" if section.when else ""
    made = "".join(f"\n\nMeasured by {_code(command)}." for command in section.commands)
    told = _text(
        f"Tokens per second, one at a time: medians of {rounds}, the tokens of every run verified."
        f" {section.machine_text}{when}."
    )
    return told + made


def table(of: Table, *, is_aligned: bool = True) -> str:
    """Write a table; an empty cell is one blank.

    Args:
        is_aligned: put numbers at the right.
    """
    rule = ["---:" if column.is_number and is_aligned else "---" for column in of.columns]
    cells = [[(f"**{_text(c.bold)}**" if c.bold else "") + _text(c.text) for c in line] for line in of.lines]
    return "".join(f"{_line(line)}\n" for line in ([_text(c.heading) for c in of.columns], rule, *cells))


# ------------------------------------------------------------------------------------------------------------------


def _line(cells: list[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _text(text: str) -> str:
    """Return text that markdown and HTML leave as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", visible(text))


def _code(text: str) -> str:
    """Return text as code within a line."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    blank = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{blank}{visible(text)}{blank}{ticks}"


def _fenced(lines: list[str]) -> list[str]:
    """Return a code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *lines, fence]
