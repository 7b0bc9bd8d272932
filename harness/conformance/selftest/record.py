"""The document of a self-test: what was measured, the figures that follow from it, and what fell below the last ones.

    {"schema": "harness-selftest/1", ..., "kills": [...], "alarms": [...], "names": [...]}

reports/selftest.json of a checkout is such a document of a whole run. A later run, be it quick, is held against it
(`shortfalls`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.conformance.selftest.alarms import INT8, Judged
from harness.conformance.selftest.kills import CONFIGURATIONS, Outcome
from harness.conformance.selftest.run import Subject
from harness.documents import read_json
from harness.errors import InputError
from harness.models import impls_dir

__all__ = [
    "CONFIGURATION_NAMES",
    "LOWER",
    "SCHEMA",
    "UNDECLARED",
    "alarm_rows",
    "key_of",
    "kill_row",
    "killers",
    "read",
    "recorded",
]

SCHEMA = "harness-selftest/1"
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
    return {key_of(row): (row["killed_in"][0], row["by"][0]) for row in document["kills"] if row["by"]}


def key_of(row: Mapping[str, Any]) -> str:
    """The program and the fault that a row is about."""
    return f"{row['program']}+{row['fault']}"


CONFIGURATION_NAMES = tuple(configuration.name for configuration in CONFIGURATIONS)
