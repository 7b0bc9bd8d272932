"""Run files of benchmarks, made ready for a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness import benchfile
from harness.bench import compare
from harness.bench.rows import summarise, with_ratios
from harness.benchfile import BenchFile, Key, Row, grouped
from harness.errors import RunFileError
from harness.report.speeds import Ratio, Speeds, gather
from harness.results import Kind

__all__ = ["load_speeds"]

_LEAST, _MOST = 1e-12, 1e12  # seconds, and shares, that may be: beyond them their inverses are no numbers


def load_speeds(paths: Sequence[Path]) -> Speeds:
    """Read run files of benchmarks, with the rows of one that was killed and the paired ratios within each.

    Raises:
        RunFileError: one is no such file, damaged, or holds figures that no benchmark writes.
    """
    files = [benchfile.read(path) for path in paths]
    for file in files:
        _refuse_nonsense(file)
    files = [_with_rows(file) for file in files]
    return gather(files, [_ratios(file) for file in files])


def _refuse_nonsense(file: BenchFile) -> None:
    found: list[tuple[str, Key, str, list[float]]] = [
        *(("row", row.key, row.verdict, [*_times(row)]) for row in file.rows),
        *(("sample", one.key, one.verdict, [one.wall_s, one.cpu_s]) for one in file.samples),
    ]
    for what, key, verdict, times in found:
        who = f"a {what} of {key.impl} on {key.model}"
        if f"{key.model} {key.precision}" not in file.header.models:
            raise RunFileError(f"has {who}, which is no model of its header", path=file.path)
        if verdict not in list(Kind):
            raise RunFileError(f"has {who} with the verdict {verdict!r}", path=file.path)
        if not all(time == 0 or _LEAST < abs(time) < _MOST for time in times):
            raise RunFileError(f"has {who} with a time that is none", path=file.path)
    if any(row.decode_s.value <= 0 for row in file.rows):
        raise RunFileError("has a row with tokens that take no time", path=file.path)
    if not isinstance(file.header.machine.get("n_cpus", 1), int):
        raise RunFileError("does not know the number of processors", path=file.path)


def _times(row: Row) -> Iterator[float]:
    """Every time of a row, and its shares, with their intervals."""
    own = (row.decode_s, row.prefill_s, row.load_s, row.first_byte_s, row.share, row.product_share)
    for found in (*own, *(at.decode_s for at in row.contexts)):
        if found is not None:
            yield from (found.value, found.low, found.high)


def _with_rows(file: BenchFile) -> BenchFile:
    """Add rows of what was measured before the benchmark was killed; they are written when a group ends."""
    rows, absent = [*file.rows], [*file.absent]
    known = {row.key for row in rows} | {one.key for one in absent}
    for key, samples in grouped(file.samples).items():
        if key in known:
            continue
        facts = file.header.models[f"{key.model} {key.precision}"]
        own = (key.model, key.precision, key.threads)
        limits = [limit for limit in file.limits if (limit.model, limit.precision, limit.threads) == own]
        found = summarise(
            key,
            samples,
            limits,
            is_synthetic=facts.is_synthetic,
            token_bytes=facts.token_bytes,
            n_cpus=int(file.header.machine.get("n_cpus", 1)),
            in_memory=all(limit.disk_bytes_per_s is None for limit in limits),
        )
        if isinstance(found, Row):
            rows.append(with_ratios(found, rows, file.samples))
        else:
            absent.append(found)
    return replace(file, rows=tuple(rows), absent=tuple(absent))


def _ratios(file: BenchFile) -> dict[Key, Ratio]:
    """Compare every program with the first of its group, by the rounds that both have."""
    bases: dict[tuple[str, str, int], Key] = {}
    for row in file.rows:
        bases.setdefault((row.key.model, row.key.precision, row.key.threads), row.key)
    return {
        key: Ratio(base.impl, found)
        for base in bases.values()
        for key, found in compare.against(file.samples, base).items()
    }
