"""The report as GitHub-flavoured markdown, made for a step summary or a pull request comment."""

from __future__ import annotations

import re

from harness.report.summary import Summary, describe, duration, visible

__all__ = ["render"]

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
        lines += [*_table(summary), ""]
    for standing in summary.standings:
        lines.append(f"- **{_text(standing.impl)}**: {_text(standing.conclusion)}")
        lines += [f"  - convention: {_text(convention)}" for convention in standing.conventions]
    lines += [f"- {_text(skip)}" for skip in summary.skips]
    for verdict in summary.failures[:_MAX_FAILURES]:
        head, *rest = describe(verdict)
        lines += ["", f"<details><summary>{_text(head)}</summary>", "", *_fenced(rest), "", "</details>"]
    if len(summary.failures) > _MAX_FAILURES:
        lines += ["", f"{len(summary.failures) - _MAX_FAILURES:,} more failures are not shown."]
    return "\n".join(lines) + "\n"


def _table(summary: Summary) -> list[str]:
    kinds = summary.judged_kinds
    heads = ["implementation", "suite", "model", *(kind.value for kind in kinds), "tokens", "time"]
    aligned = ["---"] * 3 + ["---:"] * (len(kinds) + 2)
    rows = [heads, aligned]
    for row in summary.judged_rows:
        numbers = [f"{row.counts[kind]:,}" if kind in row.counts else "-" for kind in kinds]
        names = [_text(name) for name in (row.impl, row.suite, row.model)]
        rows.append([*names, *numbers, f"{row.n_judged:,}", duration(row.wall_s)])
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _text(text: str) -> str:
    """Return text that markdown and HTML leave as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", visible(text))


def _fenced(lines: list[str]) -> list[str]:
    """Return a code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *lines, fence]
