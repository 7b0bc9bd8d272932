"""The run file: what was asked, every verdict as it arrived, and whether the run came to its end.

A run file is ASCII text, one JSON object a line, each line ended by "\\n". The key `record` tells them apart:

    {"record": "header", "schema_version": 1, "harness_version": ..., "command": "check",
     "impls": {...}, "cases": {...}, "settings": {...}, "machine": {...}, "started": ...}
    {"record": "verdict", "case": ..., "impl": ..., "kind": "EXACT", ...}
    ...
    {"record": "footer", "complete": true, "counts": {"EXACT": 41, ...}}

`impls` maps a name to the hash of its manifest, `cases` maps suite/name to the hash of the golden; a
verdict has the fields of `harness.results.Verdict`. Numbers that JSON lacks are the strings "nan", "inf"
and "-inf". Each line is flushed and synced before the next result is awaited, so a run that is killed at
any instant loses at most the record in flight. Without a footer the run is not complete, and
`RunFile.complete` says so. A last line that is damaged is dropped and reported; any other damage is a
RunFileError.

History: version 1 is the first.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.benchfile import finite
from harness.documents import first_problem
from harness.errors import RunFileError
from harness.results import Verdict, count

__all__ = ["SCHEMA_VERSION", "Header", "RunFile", "RunWriter", "dump_verdict", "load_verdict", "read"]

SCHEMA_VERSION = 1

# A verdict is a few hundred bytes; a line of this length is no run file.
_MAX_LINE_BYTES = 16 << 20
_FIRST_BYTES = b'{"record": "header"'


class Header(BaseModel):
    """What a run was asked to do, and where.

    Attributes:
        command: the command that made the file ("check").
        impls: name -> hash of the manifest.
        cases: suite/name -> hash of the golden.
        named: the implementations that were asked for by name, which must not go unjudged.
        settings: options that change results.
        machine: facts about the machine; two runs may differ in them and still be one run.
        started: ISO time; likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    record: Literal["header"] = "header"
    schema_version: int = SCHEMA_VERSION
    harness_version: str
    command: str = "check"
    impls: dict[str, str]
    cases: dict[str, str]
    named: tuple[str, ...] = ()
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    machine: dict[str, str] = Field(default_factory=dict)
    started: str = ""

    def difference(self, other: Header) -> str:
        """Say, in words, the first few inputs in which two runs differ ("": they have the same inputs)."""
        found = [
            f"{name} {getattr(other, name)} is now {getattr(self, name)}"
            for name in ("schema_version", "harness_version", "command")
            if getattr(self, name) != getattr(other, name)
        ]
        for noun in ("impls", "cases", "settings"):
            found += _changes(noun.removesuffix("s"), getattr(other, noun), getattr(self, noun))
        return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


class _Footer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    record: Literal["footer"] = "footer"
    complete: Literal[True] = True
    counts: dict[str, int]


def _changes(noun: str, before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    lost = [f"{noun} {name} is no longer asked for" for name in before if name not in after]
    new = [f"{noun} {name} is new" for name in after if name not in before]
    changed = [f"{noun} {name} has changed" for name in before if name in after and before[name] != after[name]]
    return changed + lost + new


@dataclasses.dataclass(frozen=True, slots=True)
class RunFile:
    """A run file that was read.

    Attributes:
        complete: whether the footer is there.
        damage: what was dropped at the end of the file; "" for nothing.
    """

    path: Path
    header: Header
    verdicts: tuple[Verdict, ...]
    complete: bool
    damage: str = ""


# ---- one record ----------------------------------------------------------------------------------------

_VERDICT = TypeAdapter(Verdict)


def dump_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return a Verdict as what JSON can hold."""
    plain = finite(dataclasses.asdict(verdict))
    assert isinstance(plain, dict)
    return plain


def load_verdict(record: Mapping[str, Any]) -> Verdict:
    """Return the Verdict that `dump_verdict` wrote.

    Raises:
        ValidationError: it is none.
    """
    return _VERDICT.validate_python(dict(record))


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode("ascii") + b"\n"


# ---- reading -------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> RunFile:
    """Read a run file, complete or not.

    Raises:
        RunFileError: it cannot be opened, is no run file, or is damaged before its last line.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(path, file)[0]
    except OSError as error:
        raise RunFileError(f"cannot be read: {error.strerror}", path=path) from error


def _read(path: Path, file: BinaryIO) -> tuple[RunFile, int]:
    """Return the run file and the number of its bytes that are whole records."""
    header: Header | None = None
    footer: _Footer | None = None
    verdicts: list[Verdict] = []
    damage, n_good, number = "", 0, 0
    while line := file.readline(_MAX_LINE_BYTES):
        number += 1
        if len(line) == _MAX_LINE_BYTES:
            raise RunFileError("is too long for a record", path=path, where=f"line {number}")
        try:
            record = _record(line, is_first=number == 1)
        except ValueError as error:
            if number == 1 or file.read(1):
                raise RunFileError(f"is no record: {error}", path=path, where=f"line {number}") from error
            damage = f"line {number}, the last, is damaged and was dropped ({len(line):,} bytes)"
            break
        if footer is not None:
            raise RunFileError("comes after the footer", path=path, where=f"line {number}")
        match record:
            case Header():
                header = record
            case _Footer():
                footer = record
            case Verdict():
                verdicts.append(record)
        n_good += len(line)
    if header is None:
        raise RunFileError("holds no complete header", path=path, hint="it is no run file, or was cut short at once")
    if footer is not None and footer.counts != _counts(verdicts):
        raise RunFileError("has lost or gained lines", path=path, expected=footer.counts, actual=_counts(verdicts))
    return RunFile(path, header, tuple(verdicts), footer is not None, damage), n_good


def _record(line: bytes, *, is_first: bool) -> Header | _Footer | Verdict:
    """Return the record of one line; ValueError (pydantic's included) where it holds none."""
    try:
        content = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    kind = content.get("record")
    if is_first != (kind == "header"):
        raise ValueError("the first line, and only it, is the header")
    if kind == "header":
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"its schema_version is {version!r}, this harness reads {SCHEMA_VERSION}")
    try:
        match kind:
            case "header":
                return Header.model_validate(content)
            case "footer":
                return _Footer.model_validate(content)
            case "verdict":
                return load_verdict(content)
    except ValidationError as error:
        raise ValueError(": ".join(first_problem(error))) from error
    raise ValueError(f"it is a {kind!r}, expected header, verdict or footer")


def _counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    return {kind.value: n for kind, n in count(list(verdicts)).items()}


# ---- writing -------------------------------------------------------------------------------------------


class RunWriter:
    """Appends verdicts to a run file that it holds alone. Only `finish` writes the footer.

    Attributes:
        path: the file.
        verdicts: those that the file holds, in its order.
    """

    def __init__(self, path: Path, file: BinaryIO, verdicts: Iterable[Verdict] = ()) -> None:
        self.path = path
        self.verdicts = list(verdicts)
        self._file = file

    @classmethod
    def create(cls, path: str | os.PathLike[str], header: Header) -> Self:
        """Begin a run file; an older run file of that name is replaced, any other file is refused.

        Raises:
            RunFileError: the path holds something else, or cannot be written, or another run writes to it.
        """
        path, file = _open_alone(path)
        if not _is_ours(file.read(len(_FIRST_BYTES))):
            file.close()
            raise RunFileError("is there and is no run file", path=path, hint="name another file with --out")
        file.seek(0)
        file.truncate()
        writer = cls(path, file)
        writer._append([header.model_dump()])
        return writer

    @classmethod
    def resume(cls, path: str | os.PathLike[str], header: Header) -> Self:
        """Go on with a run file of the same inputs, or begin it where there is none.

        Raises:
            RunFileError: its inputs differ, it is damaged, or as for `create`.
        """
        path, file = _open_alone(path)
        first = file.readline(_MAX_LINE_BYTES)
        if _is_ours(first) and not first.endswith(b"\n"):
            file.close()  # not even its header is whole
            return cls.create(path, header)
        file.seek(0)
        try:
            run, n_good = _read(path, file)
            difference = header.difference(run.header)
            if difference:
                hint = "run without --resume, or name another file with --out"
                raise RunFileError(f"is of another run: {difference}", path=path, hint=hint)
        except BaseException:
            file.close()
            raise
        writer = cls(path, file, run.verdicts)
        writer._cut(n_good, drop_footer=run.complete)
        return writer

    def add(self, verdicts: Iterable[Verdict]) -> None:
        """Append verdicts and wait until they are on disk."""
        verdicts = list(verdicts)
        self._append([{"record": "verdict", **dump_verdict(verdict)} for verdict in verdicts])
        self.verdicts += verdicts

    def finish(self) -> None:
        """Append the footer: every case that was asked for has its verdict."""
        self._append([_Footer(counts=_counts(self.verdicts)).model_dump()])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _append(self, records: Iterable[Mapping[str, Any]]) -> None:
        for record in records:
            self._file.write(_line(record))
            self._file.flush()
        self._sync()

    def _sync(self) -> None:
        with suppress(OSError):  # a pipe or a device has nothing to sync
            os.fsync(self._file.fileno())

    def _cut(self, n_good: int, *, drop_footer: bool) -> None:
        """Remove what was cut short, and the footer, which will be written again."""
        self._file.seek(0)
        lines = self._file.read(n_good).splitlines(keepends=True)
        if drop_footer:
            n_good -= len(lines.pop())
        self._file.truncate(n_good)
        self._file.seek(n_good)
        if lines and not lines[-1].endswith(b"\n"):
            self._file.write(b"\n")


def _is_ours(start: bytes) -> bool:
    """Whether a file that begins so may be replaced: it is empty, a run file, or the beginning of one."""
    return _FIRST_BYTES.startswith(start[: len(_FIRST_BYTES)])


def _open_alone(path: str | os.PathLike[str]) -> tuple[Path, BinaryIO]:
    """Open for reading and writing, made if need be, locked against other writers."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")
    except OSError as error:
        raise RunFileError(f"cannot be written: {error.strerror}", path=path) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RunFileError(
            "is being written by another run", path=path, hint="name another file with --out"
        ) from error
    return path, file
