"""The file in which a self-test keeps its results: one JSON object a line, as they arrive.

    {"is": "self-test", "schema": "harness-selftest-results/1", "suites": [...]}
    {"is": "kill", ...}    {"is": "names", ...}    {"is": "judged", ...}    {"is": "accusations", ...}
    {"is": "adequacy", ...}    {"is": "part", "part": "kills", "took_s": ...}

A run that goes on with a file measures nothing that stands there, so a whole self-test can be put together from parts
that were run at different times, or at the same time: a line is written at once, and several runs may append.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import harness
from harness.conformance.selftest.alarms import Batch, Judged
from harness.errors import InputError

__all__ = ["Kept", "judged_of", "judged_row", "sources"]

_SCHEMA = "harness-selftest-results/1"
Row = dict[str, Any]


class Kept:
    """The results so far, and the file that they go to, if there is one."""

    def __init__(self, rows: Sequence[Row] = (), path: Path | None = None) -> None:
        self._rows = list(rows)
        self._path = path

    @classmethod
    def begun(cls, path: Path | None, suites: Sequence[str], *, resume: bool) -> Self:
        """Begin a file, or go on with one; without a path nothing is kept beyond the process.

        Raises:
            InputError: it is there and is not to be gone on with, is no such file, is of other suites, or is damaged.
        """
        if path is None:
            return cls()
        head = {"is": "self-test", "schema": _SCHEMA, "suites": list(suites)}
        is_there = path.is_file() and path.stat().st_size > 0
        if is_there and not resume:
            raise InputError("is there", path=path, hint="--resume goes on with it; or name another file with --out")
        if not is_there:
            kept = cls((), path)
            kept._append(head)
            return kept
        found = list(_read(path))
        if not found or found[0].get("schema") != _SCHEMA:
            raise InputError("holds no results of a self-test", path=path, expected=_SCHEMA)
        if found[0]["suites"] != head["suites"]:
            was = ",".join(found[0]["suites"])
            raise InputError("is of other suites", path=path, expected=",".join(suites), hint=f"--suite {was}")
        return cls(found[1:], path)

    def add(self, kind: str, row: Row) -> None:
        self._rows.append({"is": kind, **row})
        if self._path is not None:
            self._append(self._rows[-1])

    @property
    def n_results(self) -> int:
        """How many there are."""
        return len(self._rows)

    def rows(self, kind: str) -> list[Row]:
        """The results of a kind, in the order in which they arrived."""
        return [{key: value for key, value in row.items() if key != "is"} for row in self._rows if row["is"] == kind]

    def _append(self, row: Row) -> None:
        assert self._path is not None
        line = (json.dumps(row) + "\n").encode()
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line  # behind one that a run was killed in
            os.write(handle, line)  # in one piece: others may write, too
        finally:
            os.close(handle)


def _read(path: Path) -> Iterator[Row]:
    lines = path.read_text("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            continue  # cut short when a run was killed: that result is measured again
        if not isinstance(row, dict) or "is" not in row:
            raise InputError("is no result of a self-test", path=path, where=f"line {number}")
        yield row


# ---- what is judged of honest programs ---------------------------------------------------------------------------


def judged_row(one: Judged) -> Row:
    """A result as it is kept."""
    return {**{key: getattr(one, key) for key in one.__slots__}, "batch": asdict(one.batch), "kinds": dict(one.kinds)}


def judged_of(row: Row) -> Judged:
    """The result that was kept."""
    changed = {
        "batch": Batch(**row["batch"]),
        "kinds": Counter(row["kinds"]),
        "alarms": tuple(tuple(alarm) for alarm in row["alarms"]),
        "accused": tuple(row["accused"]),
    }
    return Judged(**{**row, **changed})


def sources() -> str:
    """What judged: a digest of this package's modules, the same for the same code."""
    digest = hashlib.sha256()
    root = Path(harness.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
