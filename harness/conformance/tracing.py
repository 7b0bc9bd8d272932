"""Trace an implementation: run it once with a file to record into, and judge every operation by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.process import Limits
from harness.checkpoint import Checkpoint
from harness.conformance.reference import rounded
from harness.conformance.verify import files_for
from harness.diagnosis import CATALOGUE, by_name
from harness.diagnosis.fault import Fate
from harness.diagnosis.white_box import MULTIPLE, ORDER, Checked, check_trace, explanations
from harness.engine import LIBRARY, Ops
from harness.errors import InputError, TraceFormatError
from harness.models import ModelFiles, load
from harness.results import Observation, Request, Trace
from harness.trace.stream import VARIABLE, Record, read_trace

__all__ = ["judged", "read_run", "trace"]


def trace(
    impl: ProcessImplementation,
    files: ModelFiles,
    *,
    prompt: bytes = b"",
    steps: int = 24,
    threads: int = 1,
    limits: Limits | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Trace:
    """Run a program that speaks level TRACE, and find its wrong operations.

    Raises:
        InputError: the manifest claims no TRACE, or the program cannot read the model.
        TraceFormatError: it wrote no trace, or what it wrote is none.
        ImplementationError: the program failed.
    """
    manifest = impl.manifest
    if "TRACE" not in manifest.levels:
        hint = 'docs/trace.md says how to record; then add "TRACE" to levels'
        raise InputError("claims no level TRACE", path=manifest.path, where=f"implementation {impl.name}", hint=hint)
    own = files_for(manifest, files)
    progress(f"{impl.name} on {files.name}")
    request = Request(own.checkpoint, own.tokenizer, prompt, steps=steps, temperature=0.0, seed=1, threads=threads)
    with tempfile.TemporaryDirectory(prefix="harness-trace-") as directory:
        path = Path(directory) / "trace"
        records = read_run(impl.run(request, limits, trace=path), path)
    model = load(own.checkpoint, own.tokenizer)
    config, tensors = model.checkpoint.config, model.checkpoint.tensors
    progress(f"judging {len(records):,} records")
    checked = judged(model.checkpoint, records, precision=manifest.precision)
    named: tuple[tuple[str, str, str], ...] = ()
    if checked.wrong:
        progress("trying the faults of the catalogue")
        faults = [
            (fault.name, replace(LIBRARY, **fault.change.steps))
            for fault in CATALOGUE
            if fault.change.part == "ops" and fault.fate is Fate.KILLABLE
        ]
        fitting = map(by_name, explanations(config, tensors, records, faults))
        named = tuple((fault.name, fault.as_if or fault.cause, fault.fix) for fault in fitting)
    heat = [(name, layer, float(np.nanmax(ratio))) for (name, layer), ratio in checked.ratios.items()]
    heat.sort(key=lambda cell: (_stage(cell[0]), cell[1], ORDER.index(cell[0])))
    n_tokens = max(len(ratio) for ratio in checked.ratios.values()) if checked.ratios else 0
    return Trace(
        impl=impl.name,
        model=files.name,
        n_tokens=n_tokens,
        n_judged=checked.n_judged,
        wrong=checked.wrong,
        heat=tuple(heat),
        limit=MULTIPLE,
        explanations=named,
    )


def read_run(seen: Observation, path: Path) -> list[Record]:
    """Read what a run recorded, which was asked to record into a file.

    Raises:
        TraceFormatError: it wrote no trace, or what it wrote is none.
        ImplementationError: the program failed.
    """
    if seen.failure is not None:
        raise seen.failure
    if not path.is_file():
        raise TraceFormatError(
            "wrote no trace",
            where=seen.command_line,
            expected=f"records in the file that {VARIABLE} names",
            hint="docs/trace.md has the format, and a writer to copy",
        )
    return list(read_trace(path))


def judged(checkpoint: Checkpoint, records: Sequence[Record], *, precision: str) -> Checked:
    """Judge every recorded operation of a run on a model, by the noise of the precision that a program declares.

    Raises:
        TraceFormatError: a record has not the shape that the model gives it, or no token is known.
    """
    config, is_int8 = checkpoint.config, checkpoint.group_size is not None
    declared: list[Ops] = []
    if precision in ("f16", "bf16") or (precision == "q8" and not is_int8):
        group = next(g for g in (64, 32, 16, 8, 4, 2, 1) if not config.dim % g and not config.hidden_dim % g)
        declared = rounded(precision, group_size=group)
    return check_trace(config, checkpoint.tensors, records, declared=declared, precision=precision)


def _stage(name: str) -> int:
    return {"embedding": 0, "final_norm": 2, "logits": 2}.get(name, 1)
