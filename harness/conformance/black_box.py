"""Trace a program that only prints text: write the crafted files, run it on each, say where it goes wrong first."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness import checkpoint as checkpoints
from harness import formats
from harness.adapters.implementation import Implementation
from harness.adapters.manifest import Manifest
from harness.adapters.process import Limits
from harness.checkpoint import Checkpoint
from harness.conformance.verify import files_for
from harness.diagnosis import CATALOGUE, by_name
from harness.diagnosis.black_box import LIMIT, VOCAB_SIZE, Found, Subject, Tracer, alphabet, explaining, narrowed
from harness.diagnosis.diagnosis import Conclusion, Diagnosis, suspect
from harness.diagnosis.fault import Fate
from harness.engine import LIBRARY, STRICT, Ops
from harness.engine.honest import rounded
from harness.errors import InputError
from harness.formats import WriteOptions, format_named
from harness.formats.files import tokenizer_file_in
from harness.model_config import ModelConfig
from harness.models import ModelFiles, load, older_layout
from harness.results import BlackBoxTrace, Cut, Request
from harness.tokenizer import Tokenizer, tokenizer_bin

__all__ = ["trace_black_box"]

_VERSIONS = {"llama2c-v0": 0, "llama2c-v1": 1, "llama2c-v2": 2}


def trace_black_box(
    implementation: Implementation,
    model: ModelFiles,
    *,
    threads: int = 1,
    limits: Limits | None = None,
    narrow: bool = True,
    reason: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> BlackBoxTrace:
    """Find the first wrong sub-block of a program from its text alone.

    Args:
        implementation: what to run; some dozens of runs.
        model: whose weights it is tried on.
        narrow: whether to go on, behind the first wrong sub-block, to the operation and the bug.
        reason: why this tracer is asked; by default that the program claims no level TRACE.

    Raises:
        InputError: it cannot be traced so; the message is the reason.
        ImplementationError: the program failed.
    """
    manifest = implementation.manifest
    can_prompt = _require_text(manifest)
    own = files_for(manifest, model)
    if format_named(own.format).write is None:
        raise InputError(f"reads {own.format}, which is not written", where=f"implementation {implementation.name}")
    if manifest.needs.tied:
        raise InputError(
            "reads tied classifiers only; the black-box tracer needs one of its own",
            where=f"implementation {implementation.name}",
        )
    found_model = load(own.checkpoint, own.tokenizer).checkpoint
    subject = Subject.of(found_model, manifest.needs.vocab_size)
    tokenizer = older_layout(
        alphabet(manifest.needs.vocab_size or VOCAB_SIZE), manifest.needs.tokenizer_layout or "today"
    )
    with tempfile.TemporaryDirectory(prefix="harness-trace-") as directory:
        pieces, weights = Path(directory, "tokenizer.bin"), Path(directory)
        tokenizer_bin.write(tokenizer, pieces, tokenizer.layout)
        n_written = 0

        def ask(checkpoint: Checkpoint, prompt: bytes, steps: int) -> bytes:
            nonlocal n_written
            n_written += 1  # a new name each time: what a program made of another file is not this one's
            path = _written(checkpoint, tokenizer, weights / str(n_written), own.format)
            given = tokenizer_file_in(path) if path.is_dir() else pieces
            request = Request(path, given or pieces, prompt, steps=steps, temperature=0.0, seed=1, threads=threads)
            seen = implementation.run(request, limits)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            if seen.failure is not None:
                raise seen.failure
            return seen.stdout

        tracer = Tracer(
            subject,
            tokenizer,
            ask,
            can_prompt=can_prompt,
            declared=_declared(manifest, subject.config, is_int8=subject.is_int8),
            undeclared=_undeclared(manifest, subject.config, is_int8=subject.is_int8),
            progress=progress,
        )
        progress(f"{implementation.name} on {model.name}")
        found = tracer.trace()
        first, conclusion = found.first, ""
        cuts: tuple[Cut, ...] = ()
        if found.first is not None and narrow:
            progress("narrowing down what still diverges")
            result = narrowed(tracer, found)
            first, cuts, conclusion = result.first, tuple(result.cuts), result.conclusion
            progress("trying the faults of the catalogue")
        diagnosis = _diagnosis(tracer, found, narrow=narrow)
    why = reason or f"{implementation.name} records no trace (no level TRACE), so what it prints is traced"
    return BlackBoxTrace(
        impl=implementation.name,
        model=model.name,
        reason="; ".join([why, *found.notes]),
        readings=tuple(found.readings),
        limit=LIMIT,
        first=first,
        cuts=cuts,
        conclusion=conclusion or found.why,
        diagnosis=diagnosis,
        n_runs=tracer.n_runs,
    )


def _written(checkpoint: Checkpoint, tokenizer: Tokenizer, path: Path, format: str) -> Path:
    """Write a crafted checkpoint in the program's format, with its tokenizer where the format has a place for one."""
    chosen = format_named(format)
    if format in _VERSIONS:
        path = path.with_suffix(".bin")
        checkpoints.write(checkpoint, path, version=_VERSIONS[format])
        return path
    path = path.with_suffix(next(iter(chosen.suffixes), ""))
    formats.write(checkpoint, path, format, WriteOptions(tokenizer=tokenizer if chosen.read_tokenizer else None))
    return path


def _require_text(manifest: Manifest) -> bool:
    """Return whether a program takes a prompt.

    Raises:
        InputError: it cannot be asked to choose the largest logit.
    """
    given = " ".join([*manifest.run, manifest.stdin, *manifest.env.values(), *manifest.files.values()])
    if "{temperature}" not in given:
        raise InputError(
            "has no temperature, so it cannot decode greedily",
            path=manifest.path,
            where=f"implementation {manifest.name}",
            hint="name {temperature} in run",
        )
    return "{prompt}" in given or "{prompt_args}" in given


def _declared(manifest: Manifest, config: ModelConfig, *, is_int8: bool) -> Sequence[Ops]:
    """Simulations of the precision that a manifest declares, where that is not the model's own."""
    precision = manifest.precision
    if precision == "f32" or (precision == "q8" and is_int8):
        return ()
    return rounded(precision, group_size=_group(config))


def _undeclared(manifest: Manifest, config: ModelConfig, *, is_int8: bool) -> dict[str, Sequence[Ops]]:
    """Simulations of what a program may compute in that declares float32."""
    if is_int8 or manifest.precision != "f32":
        return {}
    return {name: rounded(name, group_size=_group(config)) for name in ("f16", "bf16", "q8")}


def _group(config: ModelConfig) -> int:
    return next(g for g in (64, 32, 16, 8, 4, 2, 1) if not config.dim % g and not config.hidden_dim % g)


def _diagnosis(tracer: Tracer, found: Found, *, narrow: bool) -> Diagnosis:
    """The faults that give every angle of the first wrong sub-block, and those behind the last."""
    total = sum(len(reading.expected) for reading in found.readings)
    right = sum(
        math.isfinite(b) and abs(a - b) <= LIMIT * reading.floor
        for reading in found.readings
        for a, b in zip(reading.expected, reading.observed, strict=True)
    )
    if found.first is None:
        conclusion = Conclusion.LOWER_PRECISION if found.precision else Conclusion.NONE
        return Diagnosis("tracer", conclusion, total=total, right=right, precision=found.precision)
    if not narrow:
        return Diagnosis("tracer", Conclusion.UNKNOWN, total=total, right=right, reason="no fault was tried")
    family = STRICT if tracer.subject.is_int8 else LIBRARY
    faults = [
        (fault.name, replace(family, **fault.change.steps))
        for fault in CATALOGUE
        if fault.change.part == "ops" and fault.fate is Fate.KILLABLE
    ]
    names, explained, n_tried = explaining(tracer, found, faults)
    return Diagnosis(
        "tracer",
        Conclusion.NAMED if names else Conclusion.UNKNOWN,
        tuple(suspect([by_name(name)], explained) for name in names),
        explained=explained,
        total=total,
        right=right,
        n_tried=n_tried,
    )
