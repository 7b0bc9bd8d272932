"""`harness bench`: tokens per second of every implementation, measured from outside, each run's tokens verified."""

from __future__ import annotations

import dataclasses
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import harness
from harness.adapters.implementation import ProcessImplementation
from harness.bench import compare, roofline, workload
from harness.bench.machine import machine, memory_bytes
from harness.bench.measure import Outcome, Progress, measure
from harness.bench.run import Group
from harness.bench.stats import Result
from harness.bench.workload import PRECISIONS, Workload
from harness.benchfile import Absent, BenchFile, BenchWriter, Header, Key, ModelFacts, read
from harness.cli import bench_calibrate
from harness.cli.bench_self import of_the_engine
from harness.cli.bench_verify import Verifier, build_hash
from harness.cli.options import words
from harness.cli.output import check_targets, emit, emit_all, is_stdout, tell, terminal_size
from harness.cli.speeds import load_speeds
from harness.conformance.check import implementations
from harness.conformance.verify import files_for
from harness.errors import ImplementationError, InputError, MissingDependency
from harness.models import cache_dir
from harness.report import csv, document, html, markdown, terminal
from harness.results import Kind, kind_of_failure

__all__ = ["command", "console_for_stdout", "print_changes", "share_of"]

_MODELS = "260K,15M,42M,110M"
_ROUNDS = 9
_TELL_EVERY_S = 60.0
_WIDTH = 118  # where stdout is no terminal


def command(
    is_self: Annotated[
        bool, typer.Option("--self", help="Measure the reference engine beside this machine's limits.")
    ] = False,
    models: Annotated[
        str | None,
        typer.Option(
            "--models",
            help=f"Model shapes, of {', '.join(workload.SHAPES)}; or models by name, such as llama3.",
            show_default=_MODELS,
        ),
    ] = None,
    impls: Annotated[
        str | None,
        typer.Option("--impls", help="Names in impls/, manifests or programs.", show_default="all of ours"),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="Of f32 and q8; q8 takes each program's variant.")
    ] = "f32",
    threads: Annotated[
        str, typer.Option("--threads", help="Threads each program is to use; a list measures each.")
    ] = "1",
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, max=10000, help="Interleaved rounds at most.", show_default=str(_ROUNDS)),
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", min=1, help="Seconds for everything.", show_default="none")
    ] = None,
    contexts: Annotated[
        str | None,
        typer.Option("--contexts", help="Context lengths to decode up to, as 64,256,1024.", show_default="none"),
    ] = None,
    is_synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Made-up weights also where the real ones are at hand.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of orders and prompts.", show_default="a new one each time")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON; - is stdout.")] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write the tables as markdown; - is stdout.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write one self-contained page with plots.")
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a line for each row.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Run file, written as results arrive.", show_default="one in the cache"),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="A run file to compare with: exit status 1 if a row is slower.")
    ] = None,
    tolerance: Annotated[str, typer.Option("--tolerance", help="Difference that counts for nothing.")] = "5%",
    other_builds: Annotated[
        bool, typer.Option("--other-builds", help="Compare with the baseline although programs have changed.")
    ] = False,
    is_calibration: Annotated[
        bool,
        typer.Option("--calibrate", help="Compare one program with itself: what verdicts are worth on this machine."),
    ] = False,
    series: Annotated[
        Path | None,
        typer.Option("--series", help="Calibrate by the run file of an earlier calibration; nothing is measured."),
    ] = None,
) -> int:
    """Measure tokens per second from outside, in interleaved rounds; only runs whose tokens are right have a row.

    Decode and prefill speeds are slopes between run lengths, so start-up and loading do not count. Models whose
    weights are not at hand are synthetic ones of the same shape, and labelled so.
    """
    if series is not None and not is_calibration:
        raise InputError("is for a calibration", where="--series", hint="say --calibrate as well")
    if is_calibration:
        models, impls = models or "260K", impls or "c"
        rounds, budget = rounds or bench_calibrate.ROUNDS, budget or bench_calibrate.BUDGET_S
    names, rounds = words(_MODELS if models is None else models) or [], rounds or _ROUNDS
    if not names:
        raise InputError("no model is selected", where="--models", hint=f"there are {', '.join(workload.SHAPES)}")
    for name in names:
        for kind in _precisions(precision):
            workload.named(name, kind, synthetic=is_synthetic)  # what cannot be is told before anything is built
    check_targets(json_file, markdown_file, html_file, csv_file)
    if is_self:
        return of_the_engine(names, rounds, json_file)
    slack = share_of(tolerance)
    if series is not None:
        return bench_calibrate.of_series(
            read(series), tolerance=slack, json_file=json_file, markdown_file=markdown_file
        )
    old = read(baseline) if baseline is not None else None
    counts, kinds = _numbers(threads, "--threads"), _precisions(precision)
    lengths = _numbers(contexts, "--contexts") if contexts is not None else []
    path = out or cache_dir() / "runs" / ("calibration.jsonl" if is_calibration else "bench.jsonl")
    if baseline is not None and path.exists() and path.resolve() == baseline.resolve():
        raise InputError("is the baseline itself", path=path, hint="name another file with --out")
    story = Console(stderr=True, markup=False, highlight=False)
    chosen = implementations(words(impls) or (), progress=story.print)
    with ExitStack() as stack:
        status = stack.enter_context(story.status("preparing", refresh_per_second=1))  # seldom: it is work
        groups, builds, left_out = _groups(
            names, kinds, counts, chosen, named=impls is not None, is_synthetic=is_synthetic, told=status.update
        )
        if is_calibration and (len(groups) != 1 or len(groups[0].impls) != 1):
            hint = "such as --models 260K --impls c"
            raise InputError("needs one program on one model", where="--calibrate", hint=hint)
        seed = secrets.randbelow(2**31) if seed is None else seed
        settings: dict[str, str | int | float | bool] = {"seed": seed, "rounds": rounds, "budget_s": budget or 0.0}
        if lengths:
            settings["contexts"] = ",".join(map(str, lengths))
        options = {
            "--models": models,
            "--impls": impls,
            "--precision": precision,
            "--threads": threads,
            "--rounds": rounds,
            "--budget": None if budget is None else f"{budget:g}",
            "--contexts": contexts,
            "--seed": seed,
        }
        asked = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        settings["command"] = shlex.join(["harness", "bench", *asked, *(["--synthetic"] if is_synthetic else [])])
        head = _header(groups, builds, settings)
        if old is not None:
            compare.refuse_unlike(old.header, head, other_builds=other_builds)
        run = stack.enter_context(BenchWriter.create(path, head))
        run.add(*left_out)
        verifier = Verifier()
        outcome = measure(
            groups,
            verify=verifier,
            rounds=rounds,
            budget_s=budget,
            seed=seed,
            contexts=lengths,
            is_bare=is_calibration,
            probes=None if is_calibration else roofline.probes(story.print),
            room=verifier.room,
            n_cpus=machine().n_cpus,
            memory_bytes=memory_bytes,
            record=run.add,
            progress=_Progress(story, status.update),
        )
        outcome.absent += left_out
        if not outcome.interrupted:
            run.finish()
    if is_calibration:
        if outcome.absent:
            raise InputError(outcome.absent[0].reason, where=outcome.absent[0].kind)
        return bench_calibrate.of_series(
            read(path), tolerance=slack, json_file=json_file, markdown_file=markdown_file
        )
    speeds = load_speeds([path])
    documents = [
        (json_file, lambda: document.render(speeds=speeds)),
        (markdown_file, lambda: markdown.render_speeds(speeds)),
        (html_file, lambda: html.render(speeds=speeds)),
        (csv_file, lambda: csv.render_rows(speeds)),
    ]
    is_printed = any(target is not None and is_stdout(target) for target, _ in documents)
    if not is_printed:
        width, color = terminal_size()
        emit(terminal.render_speeds(speeds, width=width if sys.stdout.isatty() else _WIDTH, color=color))
    emit_all(documents)
    return _concluded(outcome, path, old, slack, other_builds, Console(stderr=True) if is_printed else None)


def share_of(text: str) -> float:
    """Read "5%" or "0.05".

    Raises:
        InputError: it is neither, or no share between 0 and 1.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise InputError("is no share", where="--tolerance", expected="such as 5% or 0.05", actual=text)
    return value


# ---- what is measured --------------------------------------------------------------------------------------------


def _numbers(text: str, option: str) -> list[int]:
    try:
        found = [int(word) for word in words(text) or []]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise InputError("needs whole numbers from 1 on", where=option, actual=text)
    return sorted(set(found))


def _precisions(precision: str) -> list[str]:
    found = words(precision) or []
    if not found or set(found) - set(PRECISIONS):
        raise InputError("no such precision", where="--precision", expected=", ".join(PRECISIONS), actual=precision)
    return [kind for kind in PRECISIONS if kind in found]


def _groups(
    names: Sequence[str],
    precisions: Sequence[str],
    threads: Sequence[int],
    chosen: Sequence[ProcessImplementation],
    *,
    named: bool,
    is_synthetic: bool,
    told: Callable[[str], None],
) -> tuple[list[Group], dict[str, str], list[Absent]]:
    """Bring programs and models together, and say what cannot be built or cannot read a model."""
    groups: list[Group] = []
    builds: dict[str, str] = {}
    left_out: list[Absent] = []
    programs = {precision: _of_precision(chosen, precision, named=named) for precision in precisions}
    every = {impl.name: impl for of in programs.values() for impl in of}.values()
    obstacles = {impl.name: found for impl in every if (found := _obstacle(impl, builds))}
    if not named:  # a program that lies elsewhere, and not on this machine, is a line and no column
        for impl in every:
            if impl.name in obstacles and impl.manifest.variables:
                tell(f"{impl.name} is left out: {obstacles[impl.name][1]}")
        programs = {
            precision: [one for one in of if one.name not in obstacles or not one.manifest.variables]
            for precision, of in programs.items()
        }
    for name in names:
        for precision in precisions:
            if not programs[precision]:
                continue
            work = workload.find(name, precision, synthetic=is_synthetic, told=told)
            fit = []
            for impl in programs[precision]:
                obstacle = obstacles.get(impl.name)
                try:
                    fit += [] if obstacle else [(impl, files_for(impl.manifest, work.files))]
                except InputError as unfit:
                    obstacle = (Kind.UNSUPPORTED, str(unfit))
                if obstacle:
                    kind, reason = obstacle
                    left_out += [Absent(Key(name, precision, n, impl.name), kind.value, reason) for n in threads]
            groups += [Group(work, n, tuple(fit)) for n in threads if fit]
    if not groups:
        hint = (
            "; ".join(dict.fromkeys(f"{one.key.impl}: {one.reason}" for one in left_out))
            or "nothing has this precision"
        )
        raise InputError("nothing can be measured", where="--impls", hint=hint)
    return groups, builds, left_out


def _obstacle(impl: ProcessImplementation, builds: dict[str, str]) -> tuple[Kind, str] | None:
    """Build a program and note what it was built from, or say what keeps it from being run at all."""
    try:
        builds[impl.name] = build_hash(impl)
    except MissingDependency as missing:
        return Kind.SKIPPED, str(missing)
    except ImplementationError as failure:
        return kind_of_failure(failure), failure.what
    return None


def _of_precision(
    chosen: Sequence[ProcessImplementation], precision: str, *, named: bool
) -> list[ProcessImplementation]:
    """The programs that compute in a precision; of a named one that does not, its int8 variant."""
    found = [impl for impl in chosen if (impl.manifest.precision == "q8") == (precision == "q8")]
    if precision == "q8" and named:
        for impl in chosen:
            if impl.manifest.precision != "q8":
                try:
                    found += implementations([f"{impl.name}-q8"])
                except InputError:
                    tell(f"{impl.name} has no int8 variant")
    return list({impl.name: impl for impl in found}.values())


def _header(groups: Sequence[Group], builds: dict[str, str], settings: dict[str, str | int | float | bool]) -> Header:
    return Header(
        harness_version=harness.__version__,
        machine=dataclasses.asdict(machine()),
        models={f"{work.name} {work.precision}": _facts(work) for work in (group.workload for group in groups)},
        builds=builds,
        settings=settings,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _facts(work: Workload) -> ModelFacts:
    files = work.files
    return ModelFacts(files.sha256, files.tokenizer_sha256, work.is_synthetic, work.token_bytes, work.config.n_params)


class _Progress:
    """Tells how far a benchmark is: in place on a terminal, else a line a minute."""

    def __init__(self, console: Console, update: Callable[[str], None]) -> None:
        self._console, self._update = console, update
        self._told_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        self._update(_told(progress))
        if not self._console.is_terminal and time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self._told_at = time.monotonic()
            self._console.print(_told(progress))


def _told(progress: Progress) -> str:
    if progress.left_s is None:
        return progress.what
    left = f"about {progress.left_s:,.0f} s left" if progress.left_s < 90 else f"{progress.left_s / 60:,.0f} min left"
    return f"{progress.what}: round {progress.round + 1} of {progress.rounds}, {left}"


# ---- what is told ------------------------------------------------------------------------------------------------


def _concluded(
    outcome: Outcome, path: Path, old: BenchFile | None, tolerance: float, other_builds: bool, console: Console | None
) -> int:
    """Compare with the baseline, say where the samples are, and return the exit status."""
    failed = not outcome.rows or any(one.kind not in ("SKIPPED", "UNSUPPORTED") for one in outcome.absent)
    if old is not None:
        changes = compare.changes(old, read(path), tolerance=tolerance, other_builds=other_builds)
        print_changes(console or console_for_stdout(), changes)
        failed |= any(
            c.comparison is None or c.comparison.result is Result.SLOWER for c in changes if c.what != "new"
        )
    if outcome.interrupted:
        tell(f"interrupted: what was measured is in {path}")
        return 128 + signal.SIGINT
    tell(f"samples are in {path}")
    return 1 if failed else 0


def console_for_stdout() -> Console:
    """Make the console that results are printed on."""
    return Console(width=None if Console().is_terminal else _WIDTH, markup=False, highlight=False)


def print_changes(console: Console, changes: Sequence[compare.Change]) -> None:
    """Print how rows have changed."""
    shown = Table(title="Against the baseline")
    for n, heading in enumerate(("model", "program", "verdict", "ratio", "interval", "why")):
        shown.add_column(heading, justify="right" if n in (3, 4) else "left")
    for change in changes:
        key, found = change.key, change.comparison
        shown.add_row(
            f"{key.model} {key.precision} {key.threads}t",
            key.impl,
            "" if found is None else found.result.value,
            "" if found is None else f"{found.ratio:.3f}",
            "" if found is None else f"{found.low:.3f} to {found.high:.3f} ({found.confidence:.0%})",
            change.what,
        )
    console.print(shown)
