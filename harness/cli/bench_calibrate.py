"""`harness bench --calibrate`: what verdicts are worth on this machine, told and written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from harness.bench.calibrate import MOST_FALSE, N_TRIALS, Calibration, calibrate, markdown, spread
from harness.bench.rows import slopes
from harness.benchfile import BenchFile, Key, grouped
from harness.cli.output import emit, emit_all, is_stdout, tell
from harness.errors import InputError

__all__ = ["BUDGET_S", "ROUNDS", "of_series"]

ROUNDS = 2000  # of a calibration, unless something else is asked for
BUDGET_S = 1500.0


def of_series(run: BenchFile, *, tolerance: float, json_file: Path | None, markdown_file: Path | None) -> int:
    """Cut trials from the rounds of one program in a run file; tell and write what they came to.

    Returns:
        0 if false verdicts are as rare as they are to be and no slowdown beyond the tolerance is called SAME, or 1.

    Raises:
        InputError: the file holds several programs, or none.
    """
    found = {key: list(slopes(samples).values()) for key, samples in grouped(run.samples).items()}
    if len(found) != 1:
        raise InputError("a calibration rests on one program on one model", path=run.path, actual=len(found))
    ((key, series),) = found.items()
    calibrations = calibrate(series, tolerance=tolerance)
    text = _story(run, key, series, calibrations, tolerance)
    facts = {
        "machine": run.header.machine,
        "key": dataclasses.asdict(key),
        "settings": run.header.settings,
        "tolerance": tolerance,
        "spread": spread(series),
        "series": series,
        "calibrations": [dataclasses.asdict(one) for one in calibrations],
    }
    documents = [(json_file, lambda: json.dumps(facts, indent=1) + "\n"), (markdown_file, lambda: text)]
    emit_all(documents)
    if not any(target is not None and is_stdout(target) for target, _ in documents):
        emit(text)
    if not calibrations:
        tell("too few rounds for a trial: ask for more with --rounds")
    tell(f"the series is in {run.path}: harness bench --calibrate --series {run.path} analyses it again")
    return 0 if calibrations and all(one.is_good for one in calibrations) else 1


def _story(run: BenchFile, key: Key, series: list[float], calibrations: list[Calibration], tolerance: float) -> str:
    machine, busy = run.header.machine, [s.other_cpus for s in run.samples if s.other_cpus is not None]
    lines = [
        f"{key.impl} on {key.model} {key.precision} with {key.threads} thread{'s' * (key.threads > 1)}, compared with"
        f" itself: {len(series):,} rounds recorded on {machine.get('cpu')}, {machine.get('n_cpus')} CPUs.",
        f"Half of all neighbouring rounds differ by at most {spread(series):.1%}.",
    ]
    if busy:
        lines.append(f"Others kept {sum(busy) / len(busy):.2f} processors busy meanwhile, on average.")
    if calibrations:
        apart = ", ".join(f"{one.n_apart} of {one.n_pairs} pairs" for one in calibrations)
        lines += [
            f"{N_TRIALS} trials of each size, cut from the series at random ({apart} would lie side by side; the"
            " trials overlap, so the intervals are somewhat too narrow).",
            f"Nominally 1 % of verdicts are false, at most {MOST_FALSE:.0%} are accepted; a slowdown counts from"
            f" {tolerance:.0%} on; 95 % intervals in brackets.",
        ]
    return "\n".join(lines) + "\n\n" + markdown(calibrations)
