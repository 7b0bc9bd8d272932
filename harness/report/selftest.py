"""The document of a self-test as text: tables of kills, survivors, false alarms and names; as lines for a terminal.

A document is what `harness.conformance.selftest.record` describes: plain tables and numbers, out of JSON.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.rates import upper_limit
from harness.report.selftest_routes import cell, header, line, routes_lines, routes_section, share

__all__ = ["markdown", "terminal"]

Row = Mapping[str, Any]
_KILLABLE = "killable"


# ---- for a terminal ----------------------------------------------------------------------------------------------


def terminal(document: Row, problems: Sequence[str]) -> str:
    """The result in a screenful: rates, survivors by name, alarms, what fell short."""
    rows: list[Row] = document["kills"]
    lines: list[str] = []
    for program in _programs(rows):
        tried = _tried(rows, program)
        if not tried:
            continue
        counts = ", ".join(f"{_killed(tried, name)} by {_words(name)}" for name in document["configurations"])
        lines.append(f"{program}: of {len(tried)} bugs that show, `harness check` stops {counts}")
        for name in document["configurations"]:
            left = [row["fault"] for row in tried if name not in row["killed_in"]]
            if left and (name == document["configurations"][-1] or len(left) <= 12):
                lines.append(f"  {_words(name)} lets pass: {', '.join(left)}")
    if times := [row["took_s"] for row in rows if row["killed_in"]]:
        lines.append(f"seconds per kill: median {statistics.median(times):.1f}, most {max(times):.1f}")
    lines += [f"not tried: {program}: {reason}" for program, reason in _obstacles(rows)]
    for models in dict.fromkeys(row["models"] for row in document["alarms"]):
        some = [row for row in document["alarms"] if row["models"] == models and not row["obstacle"]]
        n_tokens, n_wrong = sum(row["tokens"] for row in some), sum(len(row["alarms"]) for row in some)
        told = f"honest programs, {models}: {len(some)} of them, {n_tokens:,} tokens, {n_wrong} false alarms"
        if n_tokens:
            told += f" (at most {upper_limit(n_wrong, n_tokens):.1e} a token, with 95 % confidence)"
        if n_diagnoses := sum(row["diagnoses"] for row in some):
            told += f", {sum(len(row['accused']) for row in some)} accused in {n_diagnoses:,} diagnoses"
        lines.append(told)
    lines += routes_lines(document["names"])
    lines += [f"FALLS SHORT: {problem}" for problem in problems]
    if not document["complete"]:
        lines.append("interrupted: this is what had been measured; with --out and --resume it would go on")
    return "\n".join(lines) + "\n"


def _words(configuration: str) -> str:
    """A configuration without its comma: "quick", "quick (text alone)"."""
    name, _, shown = configuration.partition(", ")
    return f"{name} ({shown} alone)" if shown else name


# ---- as a page ---------------------------------------------------------------------------------------------------


def markdown(document: Row, problems: Sequence[str]) -> str:
    """The whole report."""
    parts = [_head(document, problems), _rates(document), _parts(document), _left(document), _unseen(document)]
    parts += [_alarms(document), routes_section(document["names"]), _adequacy(document), _runs(document)]
    return "\n".join(part for part in parts if part)


def _head(document: Row, problems: Sequence[str]) -> str:
    lines = [
        "# Self-test",
        "",
        "Programs that are known to be wrong, and honest ones, put to the gate that `harness check` is: what it",
        f"stops, what it lets pass, and whom it calls wrong. Made by `{document['command']}`, version",
        f"{document['harness']}, on {document['machine']}, in {document['took_s'] / 60:,.0f} minutes"
        f"{'' if document['complete'] else '; interrupted'}. docs/selftest.md explains each figure.",
        "",
        f"Suites: {', '.join(document['suites'])}.",
        "",
    ]
    if document["missing"]:
        lines += [f"Not measured: {'; '.join(document['missing'])}.", ""]
    lines += [f"- **falls short**: {cell(problem)}" for problem in problems]
    return "\n".join(lines) + ("\n" if problems else "")


def _runs(document: Row) -> str:
    """The runs that the document is put together from."""
    rows: list[Row] = document["parts"]
    if not rows:
        return ""
    lines = ["## Runs", "", *header("part", ["results", "minutes", "ended (UTC)", "sources"])]
    for row in rows:
        minutes = f"{row['took_s'] / 60:.1f}"
        lines.append(line(row["part"], [f"{row['n']:,}", minutes, row["ended"], f"`{row['sources']}`"]))
    return "\n".join(
        [*lines, "", "Sources: a digest of the judging code; where they differ, it changed in between.", ""]
    )


def _rates(document: Row) -> str:
    rows: list[Row] = document["kills"]
    names: list[str] = document["configurations"]
    lines = ["## Kill rates", "", *header("program", ["faults", *names, "seconds per kill"])]
    for program in _programs(rows):
        tried = _tried(rows, program)
        if not tried:
            continue
        cells = [str(len(tried)), *(share(_killed(tried, name), len(tried)) for name in names)]
        times = [row["took_s"] for row in rows if row["program"] == program and row["killed_in"]]
        cells.append(f"{statistics.median(times):.1f}" if times else "")
        lines.append(line(program, cells))
    lines += ["", "Of the faults that can be seen; intervals are exact (Clopper and Pearson, 95 %). Seconds: median."]
    lines += [f"- not tried: {program}: {cell(reason)}" for program, reason in _obstacles(rows)]
    return "\n".join(lines) + "\n"


def _parts(document: Row) -> str:
    tried = _tried(document["kills"], "numpy")
    names: list[str] = document["configurations"]
    if not tried:
        return ""
    lines = ["## By part of a program", "", "The catalogue, in numpy.", "", *header("part", ["faults", *names])]
    for part in dict.fromkeys(row["component"] for row in tried):
        some = [row for row in tried if row["component"] == part]
        lines.append(line(part, [str(len(some)), *(str(_killed(some, name)) for name in names)]))
    return "\n".join(lines) + "\n"


def _left(document: Row) -> str:
    rows: list[Row] = document["kills"]
    lines = ["## What passes", ""]
    for name in document["configurations"]:
        for program in _programs(rows):
            left = [row["fault"] for row in _tried(rows, program) if name not in row["killed_in"]]
            if left:
                lines.append(f"- {name}, {program}: {', '.join(f'`{fault}`' for fault in left)}")
    if len(lines) == 2:
        lines.append("Nothing that can be seen passes any configuration.")
    return "\n".join(lines) + "\n"


def _unseen(document: Row) -> str:
    found: dict[str, Row] = {}
    for row in document["kills"]:
        if row["fate"] != _KILLABLE:
            found.setdefault(row["fault"], row)
    if not found:
        return ""
    lines = ["## What cannot be seen", "", *header("fault", ["", "stopped by", "why"], numbers=False)]
    for fault, row in found.items():
        stopped = ", ".join(row["by"][:2]) or "nothing"
        lines.append(line(f"`{fault}`", [row["fate"], stopped, cell(document["arguments"].get(fault, ""))]))
    return "\n".join(lines) + "\n"


def _alarms(document: Row) -> str:
    rows: list[Row] = document["alarms"]
    if not rows:
        return ""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["kinds"]))
    lines = ["## Honest programs", ""]
    for models in dict.fromkeys(row["models"] for row in rows):
        some = [row for row in rows if row["models"] == models]
        lines += header(models, ["cases", "tokens", *kinds, "ties", "false alarms", "diagnoses", "accused"])
        for row in some:
            if row["obstacle"]:
                why_not = "not run: " + cell(row["obstacle"].partition("\n")[0])
                lines.append(line(row["program"], [why_not, *[""] * (len(kinds) + 5)]))
                continue
            cells = [row["cases"], row["tokens"], *(row["kinds"].get(kind, 0) for kind in kinds), row["ties"]]
            cells += [len(row["alarms"]), row["diagnoses"], len(row["accused"])]
            lines.append(line(row["program"], [f"{cell:,}" for cell in cells]))
        n_tokens, n_cases = sum(row["tokens"] for row in some), sum(row["cases"] for row in some)
        n_wrong = sum(len(row["alarms"]) for row in some)
        lines += [
            "",
            _most_tokens(some),
            f"{n_tokens:,} tokens, {n_wrong} false alarms: at most {upper_limit(n_wrong, n_tokens):.1e} a token, "
            f"{upper_limit(n_wrong, n_cases):.1e} a case (95 %, one-sided, all taken for independent).",
            "",
        ]
    for route in dict.fromkeys(row["route"] for row in document["honest_names"]):
        counts = Counter(row["conclusion"] for row in document["honest_names"] if row["route"] == route)
        said = ", ".join(f"{what} {n}" for what, n in counts.items())
        lines += [f"Asked about honest programs, {route} said: {said}.", ""]
    return "\n".join(lines)


def _most_tokens(rows: Sequence[Row]) -> str:
    """How many programs were judged on how many tokens, at least: the smallest number of a program that was run."""
    least = min((row["tokens"] for row in rows if not row["obstacle"]), default=0)
    return f"{sum(not row['obstacle'] for row in rows)} programs, each judged on at least {least:,} tokens."


# ---- adequacy ----------------------------------------------------------------------------------------------------


def _adequacy(document: Row) -> str:
    found = document.get("adequacy")
    if not found:
        return ""
    lines = [
        "## What each case is worth",
        "",
        "Cases in the order in which they are worth most: each time the one that adds the most, for each second, to",
        "what those before it stop, and then to the pairs of faults that they tell apart.",
        "",
        *_sets(found),
        *header("case", ["quick", "seconds", "stops", "new", "in all", "new pairs", "pairs in all"]),
    ]
    for row in found["order"]:
        cells = ["yes" if row["quick"] else "", f"{row['seconds']:.2f}"]
        cells += [f"{row[key]:,}" for key in ("kills", "new_kills", "kills_in_all", "new_pairs", "pairs_in_all")]
        lines.append(line(row["case"], cells))
    lines += ["", f"{found['n_faults']:,} faults, {found['n_pairs']:,} pairs.", ""]
    lines += [f"- `{case}` adds nothing to these: {reason}" for case, reason in found["idle"].items()]
    return "\n".join(lines) + "\n"


def _sets(found: Row) -> list[str]:
    """What whole selections of cases are worth, for each second that they take."""
    columns = ["cases", "seconds", "faults stopped", "a second", "pairs told apart", "a second"]
    lines = header("selection", columns)
    for row in found["sets"]:
        per = [row[key] / row["seconds"] if row["seconds"] else 0 for key in ("kills", "pairs")]
        stops, tells = (
            f"{row[key]:,} of {found[of]:,} ({row[key] / found[of]:.1%})"
            for key, of in (("kills", "n_faults"), ("pairs", "n_pairs"))
        )
        cells = [str(row["cases"]), f"{row['seconds']:.2f}", stops, f"{per[0]:,.1f}", tells, f"{per[1]:,.0f}"]
        lines.append(line(row["name"], cells))
    seconds = "Seconds: of our program in C at one thread, run and judged, of one of several tries the least."
    return [*lines, "", seconds, ""]


# ---- small things ------------------------------------------------------------------------------------------------


def _programs(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["program"] for row in rows))


def _tried(rows: Iterable[Row], program: str) -> list[Row]:
    return [
        row
        for row in rows
        if row["program"] == program and row["fate"] == _KILLABLE and not row["obstacle"] and not row["broken"]
    ]


def _killed(rows: Iterable[Row], configuration: str) -> int:
    return sum(configuration in row["killed_in"] for row in rows)


def _obstacles(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return list(
        dict.fromkeys((row["program"], row["obstacle"].partition("\n")[0]) for row in rows if row["obstacle"])
    )
