"""What keeps a self-test from passing: bars that are missed, and what the recorded run could that this one cannot.

Each fault is to be stopped where it was stopped, and named where it was named; no honest program may be called wrong,
and the bars hold. They are for programs whose faults were all tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.conformance.selftest.record import LOWER, UNDECLARED, key_of
from harness.diagnosis import Fate

__all__ = ["BARS", "MOST_BELOW_NOISE", "shortfalls", "survivors"]

# Of the killable faults of a program, by configuration: what must be stopped.
BARS = {"quick": 0.95, "full": 1.0}
MOST_BELOW_NOISE = 8
MOST_WRONG_ROUNDED = 0.01  # of the prompts of a program that declares a lower precision
# Of the faults of a program that a route can see, what must be named: within a class of at most so many.
NAMED = {("text", 0): 0.95, ("probes", 1): 0.85, ("probes", 2): 0.97}
PLACED = 0.95  # of the first wrong sub-blocks

Row = dict[str, Any]


def survivors(rows: Iterable[Row], program: str, configuration: str) -> list[str]:
    """The killable faults in a program that a configuration lets pass."""
    return [
        row["fault"]
        for row in rows
        if row["program"] == program and _is_tried(row) and configuration not in row["killed_in"]
    ]


def _is_tried(row: Row) -> bool:
    return bool(row["fate"] == Fate.KILLABLE.value and not row["obstacle"] and not row["broken"])


def shortfalls(document: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[str]:
    """What keeps a self-test from passing, each in one line.

    Args:
        before: the recorded document; without one only the bars count.
    """
    rows: list[Row] = document["kills"]
    found = [f"{key_of(row)}: was not built: {_first(row['broken'])}" for row in rows if row["broken"]]
    for row in rows:
        if row["fate"] == Fate.EQUIVALENT.value and row["killed_in"]:
            found.append(f"{key_of(row)}: computes the same function, and {row['by'][0]} calls it wrong")
    found += _lost(rows, before)
    found += _below_bars(rows, document["whole"])
    n_below = len({row["fault"] for row in rows if row["fate"] == Fate.BELOW_NOISE.value})
    if n_below > MOST_BELOW_NOISE:
        found.append(f"{n_below} faults are called too small to be seen, at most {MOST_BELOW_NOISE} may be")
    for row in document["alarms"]:
        found += _alarms_of(row)
    for row in document["honest_names"]:
        if row["names"]:
            found.append(f"{row['program']}: {row['route']} accuses an honest program of {', '.join(row['names'])}")
    return found + _misnamed(document["names"], document["whole_names"], before)


def _lost(rows: Sequence[Row], before: Mapping[str, Any] | None) -> list[str]:
    """Faults that a configuration stopped before, and no longer does."""
    old = {key_of(row): row for row in (before["kills"] if before else [])}
    found = []
    for row in rows:
        if not _is_tried(row) or key_of(row) not in old:
            continue
        missing = [name for name in old[key_of(row)]["killed_in"] if name not in row["killed_in"]]
        if missing:
            found.append(f"{key_of(row)}: no longer stopped in {'; '.join(missing)}")
    return found


def _below_bars(rows: Sequence[Row], whole: Sequence[str]) -> list[str]:
    """Kill rates below the bars, of programs whose faults were all tried; a survivor of everything always counts."""
    found = []
    for program in dict.fromkeys(row["program"] for row in rows):
        tried = [row for row in rows if row["program"] == program and _is_tried(row)]
        for configuration, bar in BARS.items():
            left = survivors(rows, program, configuration)
            if left and (program in whole or bar == 1.0) and 1 - len(left) / len(tried) < bar:
                named = ", ".join(left[:8]) + (", ..." if len(left) > 8 else "")
                found.append(
                    f"{program}: {configuration} stops {len(tried) - len(left)} of {len(tried)}, "
                    f"{bar:.0%} are wanted; it lets pass {named}"
                )
    return found


# ---- names -------------------------------------------------------------------------------------------------------


def _misnamed(rows: Sequence[Row], whole: Sequence[str], before: Mapping[str, Any] | None) -> list[str]:
    """Names and places that are wrong, or worse than they were, and shares below their bars."""
    found = []
    old = {(key_of(row), row["route"]): row for row in (before.get("names", []) if before else [])}
    for row in rows:
        said = ", ".join(row["names"]) or row["conclusion"]
        was = old.get((key_of(row), row["route"]))
        if row["route"] != "text" and row["names"] and not _is_named(row):
            found.append(f"{key_of(row)}: {row['route']} names another bug: {said}")
        elif was and _is_named(was) and not (_is_named(row) and len(row["names"]) <= len(was["names"])):
            found.append(f"{key_of(row)}: {row['route']} said {', '.join(was['names'])}, and now {said}")
        if was and _is_placed(was) and not _is_placed(row):
            found.append(f"{key_of(row)}: {row['route']} no longer finds its place, {was['true_place']}")
    for program in whole:
        found += _below_named([row for row in rows if row["program"] == program and row["sees"]], program)
    return found


def _below_named(rows: Sequence[Row], program: str) -> list[str]:
    found = []
    for (route, size), bar in NAMED.items():
        some = [row for row in rows if row["route"] == route]
        right = [row for row in some if _is_named(row) and (not size or len(row["names"]) <= size)]
        if some and len(right) < bar * len(some):
            within = f" within {size}" if size > 1 else " alone" if size else ""
            found.append(f"{program}: {route} names {len(right)} of {len(some)}{within}, {bar:.0%} are wanted")
    placed = [row for row in rows if row.get("true_place")]
    right = [row for row in placed if _is_placed(row)]
    if placed and len(right) < PLACED * len(placed):
        found.append(f"{program}: tracer finds the place of {len(right)} of {len(placed)}, {PLACED:.0%} are wanted")
    return found


def _is_named(row: Row) -> bool:
    return row["outcome"] in ("exact", "class")


def _is_placed(row: Row) -> bool:
    return bool(row.get("true_place")) and row["place"] == row["true_place"]


# ---- honest programs ---------------------------------------------------------------------------------------------


def _alarms_of(row: Row) -> list[str]:
    wrong, label = row["alarms"], f"{row['program']} on {row['models']} models"
    if row["models"] in (LOWER, UNDECLARED):
        label = row["program"]
        if len(wrong) <= MOST_WRONG_ROUNDED * row["cases"]:
            wrong = []
    found = [f"{label}: false alarm: {case}: {kind}: {_first(reason)}" for case, kind, reason, _ in wrong[:3]]
    if len(wrong) > 3:
        found.append(f"{label}: {len(wrong) - 3} more false alarms")
    return found + [f"{label}: an honest program is accused of {name}" for name in row["accused"][:3]]


def _first(text: str) -> str:
    return text.partition("\n")[0]
