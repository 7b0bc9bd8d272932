"""The same run in several processes: programs are dealt out among them, and the tallies gathered again.

The judge computes as much as the programs do, so that one process keeps one processor busy. Each process has models
and answers of its own; one seed gives all of them the same.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.manifest import Manifest
from harness.conformance.fuzz.run import Outcome, Progress, Tally, fuzz
from harness.errors import HarnessError, InputError

__all__ = ["fuzz_side_by_side"]


def fuzz_side_by_side(
    impls: Sequence[ProcessImplementation],
    *,
    jobs: int,
    progress: Progress = lambda tally, left_s: None,
    **options: Any,
) -> Outcome:
    """Do as `fuzz` does, in so many processes.

    Args:
        jobs: processes, at least 1; no more than programs are started.
        options: those of `fuzz` but `clock`; `minutes` are those of each process.

    Raises:
        InputError: as `fuzz` does, or in place of what else it raises for the user.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, must be at least 1")
    if jobs == 1 or len(impls) < 2:
        return fuzz(impls, progress=progress, **options)
    begun = time.monotonic()
    # A fresh interpreter: a copy of this one would share the process that starts the programs.
    context = multiprocessing.get_context("spawn")
    n_jobs = min(jobs, len(impls))
    workers: dict[Connection, Any] = {}
    try:
        for n in range(n_jobs):
            ours, theirs = context.Pipe(duplex=False)
            manifests = [impl.manifest for impl in impls[n::n_jobs]]
            worker = context.Process(target=_work, args=(theirs, manifests, options), daemon=True)
            worker.start()
            theirs.close()
            workers[ours] = worker
        outcomes = _gathered(list(workers), progress)
    finally:
        for worker in workers.values():
            worker.terminate()
            worker.join()
    tallies = {tally.impl: tally for outcome in outcomes for tally in outcome.tallies}
    return Outcome(
        outcomes[0].seed,
        tuple(tallies[impl.name] for impl in impls),
        time.monotonic() - begun,
        all(outcome.is_whole for outcome in outcomes),
    )


def _work(answers: Connection, manifests: list[Manifest], options: dict[str, Any]) -> None:
    def tell(tally: Tally, left_s: float) -> None:
        answers.send((tally, left_s))

    try:
        answers.send(fuzz([ProcessImplementation(manifest) for manifest in manifests], progress=tell, **options))
    except HarnessError as error:
        answers.send(str(error))


def _gathered(ends: Sequence[Connection], progress: Progress) -> list[Outcome]:
    """Wait for all of them. Ctrl-C reaches them, too: they keep what they have, and say so."""
    outcomes: list[Outcome] = []
    pending = list(ends)
    with _without_interrupts():
        while pending:
            for end in wait(pending):
                assert isinstance(end, Connection)
                try:
                    said = end.recv()
                except EOFError:
                    raise RuntimeError("a process of the run ended early; what it said is above") from None
                if isinstance(said, str):
                    raise InputError(said)
                if isinstance(said, Outcome):
                    outcomes.append(said)
                    pending.remove(end)
                else:
                    progress(*said)
    return outcomes


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # which Ctrl-C does not reach
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
