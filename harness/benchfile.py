"""The records of a benchmark and the run file that holds them; the one of a check is `harness.runfile`.

A run file is ASCII text, one JSON object a line; `record` tells them apart:

    header    first: the machine, the models and builds by their hashes, the settings
    sample    one run of one program, as it ended
    limit     what the machine could do at most, probed in the same round
    absent    why there is no row for a (program, model, precision, threads)
    row       the summary of one; it can be computed from the samples again
    footer    last: the benchmark came to its end

Each line is written and flushed before the next measurement begins, so a benchmark that is killed at any instant
keeps what it measured; without its footer it is not complete. Times are seconds.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pydantic import TypeAdapter, ValidationError

from harness.documents import first_problem
from harness.errors import RunFileError

__all__ = [
    "LATE",
    "SCHEMA_VERSION",
    "Absent",
    "AtContext",
    "BenchFile",
    "BenchWriter",
    "Comparison",
    "Estimate",
    "Header",
    "Key",
    "Limit",
    "ModelFacts",
    "Record",
    "Result",
    "Round",
    "Row",
    "Sample",
    "finite",
    "grouped",
    "is_bench",
    "plain",
    "read",
    "whole_rounds",
]

SCHEMA_VERSION = 1
_MAX_LINE_BYTES = 1 << 20
_FIRST = b'{"record": "header", "command": "bench"'


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median and where it lies.

    Attributes:
        value, low, high: in the unit of the samples.
        confidence: of the interval, as it is and not as it was wished for.
        n: samples.
    """

    value: float
    low: float
    high: float
    confidence: float
    n: int


class Result(enum.StrEnum):
    """How a comparison of speeds ends."""

    FASTER = "FASTER"
    SLOWER = "SLOWER"
    SAME = "SAME"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two speeds compared.

    Attributes:
        result: the verdict.
        ratio, low, high: of the new speed to the old one, with its interval.
        n: samples, or pairs.
        reason: what the verdict rests on, where it is not the interval alone.
    """

    result: Result
    ratio: float
    low: float
    high: float
    confidence: float
    n: int
    reason: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What a row is of."""

    model: str
    precision: str
    threads: int
    impl: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model that was run.

    Attributes:
        sha256, tokenizer_sha256: of the files.
        is_synthetic: whether the weights are made up.
        token_bytes: bytes of weights that one decoded token must read.
        n_params: weights.
    """

    sha256: str
    tokenizer_sha256: str
    is_synthetic: bool
    token_bytes: int
    n_params: int


@dataclass(frozen=True, slots=True)
class Header:
    """What was asked, and where.

    Attributes:
        machine: the fields of `harness.bench.machine.Machine`; runs of different ones are not compared.
        models: "NAME PRECISION" -> facts.
        builds: implementation -> hash of its manifest and what it was built from.
        settings: options that change results.
        started: ISO time.
    """

    harness_version: str
    machine: dict[str, str | int]
    models: dict[str, ModelFacts]
    builds: dict[str, str]
    settings: dict[str, str | int | float | bool]
    started: str = ""
    command: str = "bench"
    schema_version: int = SCHEMA_VERSION


LATE = " late"
"""Behind the name of a run whose start stalled."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one program.

    Attributes:
        round: within the key, from 0; -1 for the warm-up, which counts for nothing.
        run: "short", "long" (more generated tokens), "prompt" (a longer prompt), or "context N" (as short, but up to
            N positions: n_prompt + n_generated - 1 = N, unless the model stopped before). One of these with LATE
            behind it started late and was made again; it counts for nothing.
        n_prompt: ids of the prompt, BOS included.
        n_generated: tokens generated after it, counted by the harness.
        wall_s, first_byte_s, cpu_s, peak_rss_bytes, reported_tps: as in `Observation`.
        n_bytes: of its output.
        verdict: of its tokens.
        other_cpus: processors that others kept busy meanwhile, on average.
        steal: share of the time that the hypervisor took.
        load, hz: of the machine, afterwards.
        harness_cpu_s: processor time that the harness itself took while the program ran.
        disk_bytes: that the machine read from its disks meanwhile, for anybody.
        major_faults: times that somebody waited for a page from there.
    """

    key: Key
    round: int
    run: str
    n_prompt: int
    n_generated: int
    wall_s: float
    first_byte_s: float | None
    cpu_s: float
    peak_rss_bytes: int
    reported_tps: float | None
    n_bytes: int
    verdict: str
    other_cpus: float | None = None
    steal: float | None = None
    load: float | None = None
    hz: float | None = None
    harness_cpu_s: float | None = None
    disk_bytes: int | None = None
    major_faults: int | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """What the machine can do at most, as far as a probe of ours reaches it.

    Attributes:
        read_bytes_per_s: reading the model's bytes over and over with so many threads.
        product_bytes_per_s: taking them for a float matrix and multiplying that with a vector.
        flops_per_s: single-precision multiply-adds, each counted as two.
        how: the probe: "C" or "numpy".
        spawn_s: what the harness adds to the time of any run: of a program that took down its own start and end, how
            much longer it ran as seen from outside. Loading that small program is part of it.
        disk_bytes_per_s: reading the model's file from the disk; only where memory does not hold the model.
    """

    model: str
    precision: str
    threads: int
    round: int
    read_bytes_per_s: float
    product_bytes_per_s: float
    flops_per_s: float
    how: str
    spawn_s: float | None = None
    disk_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """Why a row is not there."""

    key: Key
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class AtContext:
    """Decoding speed where so much context has come before.

    Attributes:
        begin, end: positions (0 is BOS's) that were decoded, the last one excluded.
        decode_s: seconds per token, their mean.
    """

    begin: int
    end: int
    decode_s: Estimate


@dataclass(frozen=True, slots=True)
class Row:
    """The speed of one program on one model, all of its tokens verified.

    Attributes:
        rounds: that it rests on.
        decode_s: seconds per generated token, the slope between the two run lengths.
        prefill_s: seconds per prompt token, the slope between the two prompt lengths; None where a program takes no
            time that could be told for it.
        load_s: what remains of a run without any token: start-up and loading.
        first_byte_s: from the start to the first byte printed, with a short prompt.
        peak_rss_bytes: largest resident size over the runs.
        reported_tps: median of its own claims in the long runs.
        claim: how its claim can be explained where it is not the measured speed.
        share: of the read bandwidth measured in the same rounds that decoding reaches by its weights alone.
        product_share: likewise of a bare product of a matrix with a vector; float32 only.
        verdict: the weakest of its runs' (EXACT, TIE, WITHIN).
        other_cpus, steal: means over its runs.
        is_busy: whether these leave too little of the machine: nothing is concluded from such a row.
        notes: what a reader must know.
        harness_share: of the time that decode_s rests on that may be the harness's doing: the processor time that
            its longer wait took, as if all of it had held the program up. What starting and ending a program adds to
            every run (`Limit.spawn_s`) cancels in decode_s.
        contexts: decoding speed against context length, in order, where it was asked for.
        disk_token_bytes: bytes that the machine read from its disks for each decoded token, where memory does not
            hold the model; else None.
        to_fp32: of an int8 row, its speed over that of the same program in float32, where the run has both.
        scaling: of a row with several threads, its speed over that with one, where the run has both.
    """

    key: Key
    is_synthetic: bool
    rounds: int
    decode_s: Estimate
    prefill_s: Estimate | None
    load_s: Estimate
    first_byte_s: Estimate | None
    peak_rss_bytes: int
    reported_tps: float | None
    claim: str
    share: Estimate | None
    verdict: str
    other_cpus: float | None = None
    steal: float | None = None
    is_busy: bool = False
    product_share: Estimate | None = None
    notes: tuple[str, ...] = field(default=())
    harness_share: float | None = None
    contexts: tuple[AtContext, ...] = field(default=())
    disk_token_bytes: float | None = None
    to_fp32: Comparison | None = None
    scaling: Comparison | None = None

    @property
    def decode_tps(self) -> float:
        return 1 / self.decode_s.value if self.decode_s.value > 0 else math.inf


_KINDS: dict[str, TypeAdapter[Any]] = {
    "header": TypeAdapter(Header),
    "sample": TypeAdapter(Sample),
    "limit": TypeAdapter(Limit),
    "absent": TypeAdapter(Absent),
    "row": TypeAdapter(Row),
}
_NAMES = {Header: "header", Sample: "sample", Limit: "limit", Absent: "absent", Row: "row"}

Record = Header | Sample | Limit | Absent | Row


@dataclass(frozen=True, slots=True)
class BenchFile:
    """A run file of a benchmark that was read.

    Attributes:
        complete: whether the footer is there.
    """

    path: Path
    header: Header
    samples: tuple[Sample, ...]
    limits: tuple[Limit, ...]
    absent: tuple[Absent, ...]
    rows: tuple[Row, ...]
    complete: bool


def is_bench(path: str | os.PathLike[str]) -> bool:
    """Whether a file is the run file of a benchmark, by its first bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_FIRST)) == _FIRST
    except OSError:
        return False


def read(path: str | os.PathLike[str]) -> BenchFile:
    """Read the run file of a benchmark, complete or not; a last line that was cut short is dropped.

    Raises:
        RunFileError: it cannot be read, is no such file, or is damaged before its last line.
    """
    path = Path(path)
    found: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    complete = False
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_MAX_LINE_BYTES):
                number += 1
                try:
                    kind, record = _parsed(line, is_first=number == 1)
                except ValueError as error:
                    if number > 1 and not line.endswith(b"\n") and not file.read(1):
                        break
                    raise RunFileError(f"is no record: {error}", path=path, where=f"line {number}") from error
                if complete:
                    raise RunFileError("comes after the footer", path=path, where=f"line {number}")
                if kind == "footer":
                    complete = True
                else:
                    found[kind].append(record)
    except OSError as error:
        raise RunFileError(f"cannot be read: {error.strerror}", path=path) from error
    if not found["header"]:
        raise RunFileError("is no run file of a benchmark", path=path, hint="harness bench --out makes one")
    return BenchFile(
        path,
        found["header"][0],
        tuple(found["sample"]),
        tuple(found["limit"]),
        tuple(found["absent"]),
        tuple(found["row"]),
        complete,
    )


def _parsed(line: bytes, *, is_first: bool) -> tuple[str, Record | None]:
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    kind = content.pop("record", None)
    if is_first != (kind == "header"):
        raise ValueError("the first line, and only it, is the header")
    if kind == "header" and (content.get("command"), content.get("schema_version")) != ("bench", SCHEMA_VERSION):
        raise ValueError(f"it is of {content.get('command')!r}, version {content.get('schema_version')!r}")
    if kind == "footer":
        return kind, None
    if kind not in _KINDS:
        raise ValueError(f"it is a {kind!r}")
    try:
        return kind, _KINDS[kind].validate_python(content)
    except ValidationError as error:
        raise ValueError(": ".join(first_problem(error))) from error


def plain(record: Record) -> dict[str, Any]:
    """Return a record as what JSON can hold."""
    content = finite(dataclasses.asdict(record))
    assert isinstance(content, dict)
    first = {"record": _NAMES[type(record)], **({"command": "bench"} if isinstance(record, Header) else {})}
    return {**first, **content}


def finite(value: object) -> Any:
    """Return a value in which numbers that JSON lacks are strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


class BenchWriter:
    """Appends records to a run file of its own."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    @classmethod
    def create(cls, path: str | os.PathLike[str], header: Header) -> Self:
        """Begin a run file; an older one of a benchmark is replaced, any other file is refused.

        Raises:
            RunFileError: the path holds something else, or cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size and not is_bench(path):
                hint = "name another file with --out"
                raise RunFileError("is there and is no run file of a benchmark", path=path, hint=hint)
            writer = cls(path, open(path, "wb"))  # noqa: SIM115
        except OSError as error:
            raise RunFileError(f"cannot be written: {error.strerror}", path=path) from error
        writer.add(header)
        return writer

    def add(self, *records: Record) -> None:
        """Append records and have them on their way to the disk."""
        for record in records:
            self._write(plain(record))
        self._file.flush()

    def finish(self) -> None:
        """Append the footer."""
        self._write({"record": "footer", "complete": True})
        self._file.flush()

    def _write(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content, allow_nan=False).encode("ascii") + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def grouped(samples: Sequence[Sample]) -> dict[Key, list[Sample]]:
    """Sort samples by what they are of, warm-ups left out, in the order of their first appearance."""
    found: dict[Key, list[Sample]] = {}
    for sample in samples:
        if sample.round >= 0:
            found.setdefault(sample.key, []).append(sample)
    return found


@dataclass(frozen=True, slots=True)
class Round:
    """The runs that one program made in one round, as far as its speed is their slope.

    Attributes:
        short, long: with the same prompt; `long` generated more tokens.
        prompt: with a longer prompt; None where it was not measured any more.
    """

    short: Sample
    long: Sample
    prompt: Sample | None

    @property
    def n_more(self) -> int:
        return self.long.n_generated - self.short.n_generated

    @property
    def decode_s(self) -> float:
        """Seconds of a generated token."""
        return (self.long.wall_s - self.short.wall_s) / self.n_more

    @property
    def decode_cpu_s(self) -> float:
        return (self.long.cpu_s - self.short.cpu_s) / self.n_more


def whole_rounds(samples: Sequence[Sample]) -> dict[int, Round]:
    """Return the rounds of one key that have both a short and a long run, by their numbers."""
    runs: dict[int, dict[str, Sample]] = {}
    for sample in samples:
        runs.setdefault(sample.round, {})[sample.run] = sample
    return {
        number: found
        for number, run in sorted(runs.items())
        if "short" in run
        and "long" in run
        and (found := Round(run["short"], run["long"], run.get("prompt"))).n_more > 0
    }
