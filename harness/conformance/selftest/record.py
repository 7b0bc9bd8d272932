"""The document of a self-test: what was measured, the figures that follow from it, and what fell below the last ones.

    {"schema": "harness-selftest/1", ..., "kills": [...], "alarms": [...], "names": [...]}

reports/selftest.json of a checkout is such a document of a whole run. A later run, be it quick, is held against it:
each fault is to be stopped where it was stopped, no honest program may be called wrong, and the bars hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.conformance.selftest.alarms import INT8, Judged
from harness.conformance.selftest.kills import CONFIGURATIONS, Outcome
from harness.conformance.selftest.run import Subject
from harness.diagnosis import Fate, by_name
from harness.documents import read_json
from harness.errors import InputError
from harness.models import impls_dir

__all__ = [
    "BARS",
    "CONFIGURATION_NAMES",
    "MOST_BELOW_NOISE",
    "SCHEMA",
    "alarm_rows",
    "argument_of",
    "kill_row",
    "killers",
    "read",
    "recorded",
    "shortfalls",
    "survivors",
]

SCHEMA = "harness-selftest/1"
# Of the killable faults of a program, by configuration: what must be stopped.
BARS = {"quick": 0.95, "full": 1.0}
MOST_BELOW_NOISE = 8
MOST_WRONG_ROUNDED = 0.01  # of the prompts of a program that declares a lower precision

LOWER, UNDECLARED = "lower precision", "lower precision, undeclared"

Row = dict[str, Any]


def kill_row(subject: Subject, outcome: Outcome) -> Row:
    """One program with a fault, as the document has it."""
    fault = subject.fault
    return {
        "program": outcome.program,
        "fault": outcome.fault,
        "component": fault.component,
        "fate": fault.fate.value,
        "killed_in": list(outcome.killed_in),
        "by": list(outcome.by),
        "kinds": list(outcome.kinds),
        "took_s": round(outcome.took_s, 3),
        "obstacle": outcome.obstacle,
        "broken": outcome.broken,
    }


def alarm_rows(found: Iterable[Judged], rounded: Sequence[str] = (), undeclared: Sequence[str] = ()) -> list[Row]:
    """Add up what was said of honest programs, by program and kind of model.

    Args:
        rounded: the programs that declare a lower precision.
        undeclared: those that have one and do not: to call them wrong is right, to accuse them of a bug is not.
    """
    kinds = {**dict.fromkeys(rounded, LOWER), **dict.fromkeys(undeclared, UNDECLARED)}
    rows: dict[tuple[str, str], Row] = {}
    for one in found:
        models = kinds.get(one.program) or ("int8" if one.batch.model in INT8 else "float32")
        row = rows.setdefault(
            (one.program, models),
            {
                "program": one.program,
                "models": models,
                "cases": 0,
                "tokens": 0,
                "kinds": {},
                "ties": 0,
                "alarms": [],
                "diagnoses": 0,
                "accused": [],
                "took_s": 0.0,
                "obstacle": "",
            },
        )
        row["cases"] += one.n_cases
        row["tokens"] += one.n_tokens
        row["kinds"] = dict(sorted((Counter(row["kinds"]) + one.kinds).items()))
        row["ties"] += one.n_ties
        row["alarms"] += [list(alarm) for alarm in one.alarms if models != UNDECLARED]
        row["diagnoses"] += one.n_diagnoses
        row["accused"] += list(one.accused)
        row["took_s"] = round(row["took_s"] + one.took_s, 3)
        row["obstacle"] = row["obstacle"] or one.obstacle
    return list(rows.values())


# ---- the document of before --------------------------------------------------------------------------------------


def recorded() -> Path | None:
    """The document of this checkout; None where there is none, as in an installation."""
    path = impls_dir().parent / "reports" / "selftest.json"
    return path if path.is_file() else None


def read(path: Path) -> dict[str, Any]:
    """Read a document.

    Raises:
        InputError: it is none.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        what = "is no document of a self-test"
        raise InputError(what, path=path, expected=SCHEMA, hint="harness selftest --json writes one")
    return found


def killers(document: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """By program and fault, the smallest configuration that stopped it, and one of the cases that did."""
    return {_key(row): (row["killed_in"][0], row["by"][0]) for row in document["kills"] if row["by"]}


def _key(row: Row) -> str:
    return f"{row['program']}+{row['fault']}"


# ---- what fell short ---------------------------------------------------------------------------------------------


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
    found = [f"{_key(row)}: was not built: {_first(row['broken'])}" for row in rows if row["broken"]]
    for row in rows:
        if row["fate"] == Fate.EQUIVALENT.value and row["killed_in"]:
            found.append(f"{_key(row)}: computes the same function, and {row['by'][0]} calls it wrong")
    found += _lost(rows, before)
    found += _below_bars(rows, whole=bool(document["complete"]) and not document["selected"])
    n_below = len({row["fault"] for row in rows if row["fate"] == Fate.BELOW_NOISE.value})
    if n_below > MOST_BELOW_NOISE:
        found.append(f"{n_below} faults are called too small to be seen, at most {MOST_BELOW_NOISE} may be")
    for row in document["alarms"]:
        found += _alarms_of(row)
    for row in document["honest_names"]:
        if row["names"]:
            found.append(f"{row['program']}: {row['route']} accuses an honest program of {', '.join(row['names'])}")
    return found


def _lost(rows: Sequence[Row], before: Mapping[str, Any] | None) -> list[str]:
    """Faults that a configuration stopped before, and no longer does."""
    old = {_key(row): row for row in (before["kills"] if before else [])}
    found = []
    for row in rows:
        if not _is_tried(row) or _key(row) not in old:
            continue
        missing = [name for name in old[_key(row)]["killed_in"] if name not in row["killed_in"]]
        if missing:
            found.append(f"{_key(row)}: no longer stopped in {'; '.join(missing)}")
    return found


def _below_bars(rows: Sequence[Row], *, whole: bool) -> list[str]:
    """Kill rates below the bars, of programs whose faults were all tried; a survivor of everything always counts."""
    found = []
    for program in dict.fromkeys(row["program"] for row in rows):
        tried = [row for row in rows if row["program"] == program and _is_tried(row)]
        for configuration, bar in BARS.items():
            left = survivors(rows, program, configuration)
            if left and (whole or bar == 1.0) and 1 - len(left) / len(tried) < bar:
                named = ", ".join(left[:8]) + (", ..." if len(left) > 8 else "")
                found.append(
                    f"{program}: {configuration} stops {len(tried) - len(left)} of {len(tried)}, "
                    f"{bar:.0%} are wanted; it lets pass {named}"
                )
    return found


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


def argument_of(fault: str) -> str:
    """Why a fault of the catalogue is equivalent, or below noise."""
    return by_name(fault).argument


CONFIGURATION_NAMES = tuple(configuration.name for configuration in CONFIGURATIONS)
