"""Run files of benchmarks, made ready for a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness import benchfile
from harness.bench import compare
from harness.bench.rows import summarise, with_ratios
from harness.benchfile import BenchFile, Key, Row, grouped
from harness.report.speeds import Ratio, Speeds, gather

__all__ = ["load_speeds"]


def load_speeds(paths: Sequence[Path]) -> Speeds:
    """Read run files of benchmarks, with the rows of one that was killed and the paired ratios within each.

    Raises:
        RunFileError: one is no such file, or damaged.
    """
    files = [_with_rows(benchfile.read(path)) for path in paths]
    return gather(files, [_ratios(file) for file in files])


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
