"""What a self-test's routes of diagnosis said: shares, confusion matrices, disagreements; sections of its report."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.rates import rate

__all__ = ["OUTCOMES", "ROUTES", "header", "line", "routes_lines", "routes_section", "share"]

Row = Mapping[str, Any]
ROUTES = {
    "text": "what `harness check` says, from what was printed",
    "probes": "`harness probe`, by self-naming checkpoints",
    "tracer": "`harness trace`, from text alone",
}
OUTCOMES = {
    "exact": "named alone",
    "class": "named among others",
    "sibling": "another of the same part",
    "wrong": "one of another part",
    "unknown": "unknown",
    "lower precision": "lower precision",
    "none": "nothing wrong",
    "refused": "refused",
}
_SEVERAL = "several parts"
_WITHOUT_NAME = ("unknown", "lower precision", "none", "refused")


def routes_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each route, for a terminal."""
    lines = []
    for route in ROUTES:
        seen = [row for row in rows if row["route"] == route and row["sees"]]
        unseen = [row for row in rows if row["route"] == route and not row["sees"]]
        if not seen and not unseen:
            continue
        counts = ", ".join(f"{n} {OUTCOMES[what]}" for what, n in _outcomes(seen).items() if n)
        told = f"{ROUTES[route]}: of {len(seen)} bugs that it can see {counts}" if seen else f"{ROUTES[route]}:"
        if unseen:
            told += f"; of {len(unseen)} that it cannot see it names {sum(bool(row['names']) for row in unseen)}"
        if placed := [row for row in seen if row.get("true_place")]:
            told += f"; first wrong sub-block right in {_n_right_places(placed)} of {len(placed)}"
        lines.append(told)
    return lines


def routes_section(rows: Sequence[Row]) -> str:
    """All sections about the routes; empty where none was asked."""
    if not rows:
        return ""
    parts = [_shares(rows), _matrices(rows), _places(rows), _not_exact(rows), _disagreements(rows), _by_fault(rows)]
    return "\n".join(part for part in parts if part)


def _outcomes(found: Iterable[Row]) -> dict[str, int]:
    counts = Counter(row["outcome"] for row in found)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


# ---- how often it is right ---------------------------------------------------------------------------------------


def _shares(rows: Sequence[Row]) -> str:
    lines = [
        "## What each route says of them",
        "",
        *(f"- {route}: {what}" for route, what in ROUTES.items()),
        "",
        "Of the faults that a route can see: how many it names by one name, by one or two of which one is right, and",
        "by any number that cannot be told apart; then what it says. Intervals are exact (Clopper and Pearson,",
        "95 %); seconds: median, of everything that the route does.",
        "",
        *header("route, program", ["faults", "one name", "one or two", "any number", *OUTCOMES.values(), "seconds"]),
    ]
    unseen = []
    for route, program in _pairs(rows):
        some = [row for row in rows if (row["route"], row["program"]) == (route, program)]
        seen = [row for row in some if row["sees"]]
        if len(some) > len(seen):
            named = [row["fault"] for row in some if not row["sees"] and row["names"]]
            said = ", ".join(f"`{fault}`" for fault in named) or "none"
            unseen.append(f"- {route}, {program}: {len(some) - len(seen)} that it cannot see; named: {said}")
        if not seen:
            continue
        right = [row for row in seen if row["outcome"] in ("exact", "class")]
        within = [sum(len(row["names"]) <= size for row in right) for size in (1, 2)]
        cells = [str(len(seen)), *(share(n, len(seen)) for n in (*within, len(right)))]
        cells += [*map(str, _outcomes(seen).values()), f"{statistics.median(row['took_s'] for row in seen):.1f}"]
        lines.append(line(f"{route}, {program}", cells))
    sizes = []
    for route in ROUTES:
        if n := [len(row["names"]) for row in rows if row["route"] == route and row["outcome"] in ("exact", "class")]:
            sizes.append(f"{route} {statistics.median(n):g}, at most {max(n)}")
    lines += ["", f"Size of a class that has the bug: median of {'; '.join(sizes)}.", ""] if sizes else [""]
    return "\n".join([*lines, *unseen, *([""] if unseen else [])])


def _pairs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    there = dict.fromkeys((row["route"], row["program"]) for row in rows)
    return [pair for route in ROUTES for pair in there if pair[0] == route]


# ---- what is taken for what --------------------------------------------------------------------------------------


def _matrices(rows: Sequence[Row]) -> str:
    lines = []
    for route in ROUTES:
        some = [row for row in rows if row["route"] == route and row["sees"]]
        if some:
            lines += [f"### What {route} takes for what", "", *_matrix(some, _part_of, _said_part), ""]
    if lines:
        what = "Rows are the part of a program that the fault is in, columns the part that the route names."
        lines = [what, "", *lines]
    return "\n".join(lines)


def _part_of(row: Row) -> str:
    return str(row["component"])


def _said_part(row: Row) -> str:
    if not row["names"]:
        return str(row["outcome"])
    return str(row["parts"][0]) if len(row["parts"]) == 1 else _SEVERAL


def _matrix(rows: Sequence[Row], actual: Callable[[Row], str], said: Callable[[Row], str]) -> list[str]:
    counts = Counter((actual(row), said(row)) for row in rows)
    down = list(dict.fromkeys(actual(row) for row in rows))
    others = {said(row) for row in rows} - set(down)
    last = [name for name in (_SEVERAL, "nothing", *_WITHOUT_NAME) if name in others]
    across = [*down, *sorted(others - set(last)), *last]
    headings = [OUTCOMES.get(name, name) for name in across]
    lines = header("", headings)
    for part in down:
        lines.append(line(part, [str(counts[part, name] or "") for name in across]))
    return lines


def _places(rows: Sequence[Row]) -> str:
    placed = [row for row in rows if row["sees"] and row.get("true_place")]
    if not placed:
        return ""
    lines = [
        "### The first wrong sub-block",
        "",
        "As the tracer reads it from text, against what the program records itself (rows).",
        "",
        *_matrix(placed, lambda row: str(row["true_place"]), lambda row: str(row["place"])),
        "",
    ]
    for program in dict.fromkeys(row["program"] for row in placed):
        some = [row for row in placed if row["program"] == program]
        none, refused = (sum(row["place"] == what for row in some) for what in ("nothing", "refused"))
        right = _n_right_places(some)
        lines.append(
            f"- {program}: right {share(right, len(some))} of {len(some)}, wrong "
            f"{len(some) - right - none - refused}, nothing found {none}, refused {refused}"
        )
        for row in some:
            if row["place"] != row["true_place"]:
                lines.append(f"  - `{row['fault']}`: {row['place']}; it is {row['true_place']}")
    return "\n".join([*lines, ""])


def _n_right_places(rows: Iterable[Row]) -> int:
    return sum(row["place"] == row["true_place"] for row in rows)


# ---- by name -----------------------------------------------------------------------------------------------------


def _not_exact(rows: Sequence[Row]) -> str:
    lines = ["Not named alone:", ""]
    for row in rows:
        if row["sees"] and row["outcome"] != "exact":
            said = ", ".join(f"`{name}`" for name in row["names"]) or OUTCOMES[row["outcome"]]
            why = f": {cell(row['problem'])}" if row["problem"] else ""
            lines.append(f"- {row['route']}, {row['program']}, `{row['fault']}`: {said}{why}")
    return "\n".join([*lines, ""]) if len(lines) > 2 else ""


def _disagreements(rows: Sequence[Row]) -> str:
    """Programs of which two routes name classes without a common fault, and those that only some can name."""
    apart, silent = [], []
    agree: Counter[str] = Counter()
    for key in dict.fromkeys((row["program"], row["fault"]) for row in rows):
        some = [row for row in rows if (row["program"], row["fault"]) == key and row["sees"]]
        said = {row["route"]: set(row["names"]) for row in some if row["names"]}
        named = list(said)
        pairs = [(a, b) for i, a in enumerate(named) for b in named[i + 1 :]]
        for a, b in pairs:
            agree[f"{a} and {b}: " + ("agree" if said[a] & said[b] else "contradict one another")] += 1
            if not said[a] & said[b]:
                told = f"{a} says {', '.join(sorted(said[a]))}; {b} says {', '.join(sorted(said[b]))}"
                apart.append(f"- {key[0]}, `{key[1]}`: {told}")
        if named and (mute := [f"{row['route']} {OUTCOMES[row['outcome']]}" for row in some if not row["names"]]):
            silent.append(f"- {key[0]}, `{key[1]}`: {' and '.join(named)} name a bug; {', '.join(mute)}")
    lines = ["### Where routes disagree", "", *(f"- {what} on {n} programs" for what, n in agree.items()), ""]
    excluding = ["They name bugs that exclude one another:", "", *apart, ""]
    lines += excluding if apart else ["No two routes disagree.", ""]
    if silent:
        lines += ["One names a bug, and another that could see it does not:", "", *silent, ""]
    return "\n".join(lines)


def _by_fault(rows: Sequence[Row]) -> str:
    asked = [route for route in ROUTES if any(row["route"] == route for row in rows)]
    places = ["sub-block"] if any("place" in row for row in rows) else []
    lines = ["### By fault", "", *header("program, fault", [*asked, *places], numbers=False)]
    for key in dict.fromkeys((row["program"], row["fault"]) for row in rows):
        some = {row["route"]: row for row in rows if (row["program"], row["fault"]) == key}
        cells = [_worth(some.get(route)) for route in asked]
        cells += [_place(some.get("tracer"))] if places else []
        lines.append(line(f"{key[0]}, `{key[1]}`", cells))
    return "\n".join([*lines, "", "-: the route cannot see it, or has nothing to go by, and names nothing.", ""])


def _worth(row: Row | None) -> str:
    if row is None or (not row["sees"] and not row["names"]):
        return "-"
    if row["outcome"] == "class":
        return f"class of {len(row['names'])}"
    return str(row["outcome"])


def _place(row: Row | None) -> str:
    if row is None or "place" not in row:
        return "-"
    if row["place"] == row["true_place"]:
        return "right" if row["sees"] else "-"
    return str(row["place"]) if row["place"] in ("nothing", "refused") else "wrong"


# ---- tables ------------------------------------------------------------------------------------------------------


def share(count: int, n: int) -> str:
    """A count, and the rate with its interval."""
    found = rate(count, n)
    return f"{count} ({count / n:.1%}, {found.low:.1%} to {found.high:.1%})"


def header(first: str, others: Sequence[str], *, numbers: bool = True) -> list[str]:
    """The two lines that begin a table."""
    rule = " ---: |" if numbers else " --- |"
    return [line(first, others), "| --- |" + rule * len(others)]


def line(first: str, cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {first} | " + " | ".join(cells) + " |"


def cell(text: str) -> str:
    """A text that may stand in a row of a table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
