"""The same run in several processes: programs are dealt out among them, and the tallies gathered again.

The judge computes as much as the programs do, so that one process keeps one processor busy. Each process has models
and answers of its own; one seed gives all of them the same.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.manifest import Manifest
from harness.conformance.fuzz.run import Outcome, Progress, Tally, fuzz
from harness.errors import HarnessError, InputError

__all__ = ["fuzz_side_by_side"]

# Ctrl-C in a terminal reaches every process of the run, `kill -INT` one. So that both end each worker once, workers
# leave the interruption to the first process, which hands it on under another name.
_INTERRUPTION = signal.SIGUSR1
_READY = "ready to be interrupted"


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
    workers: dict[Connection, SpawnProcess] = {}
    try:
        for n in range(n_jobs):
            ours, theirs = context.Pipe(duplex=False)
            manifests = [impl.manifest for impl in impls[n::n_jobs]]
            worker = context.Process(target=_work, args=(theirs, manifests, options), daemon=True)
            worker.start()
            theirs.close()
            workers[ours] = worker
        outcomes = _gathered(workers, progress)
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
    is_interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        raise KeyboardInterrupt

    def tell(tally: Tally, left_s: float) -> None:
        if is_interrupted:  # but in a callback of the garbage collector, say, whose exceptions go nowhere
            raise KeyboardInterrupt
        answers.send((tally, left_s))

    signal.signal(_INTERRUPTION, interrupt)
    # No SIG_IGN, which the programs that it starts would inherit.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    answers.send(_READY)
    try:
        answers.send(fuzz([ProcessImplementation(manifest) for manifest in manifests], progress=tell, **options))
    except HarnessError as error:
        answers.send(str(error))


def _gathered(workers: Mapping[Connection, SpawnProcess], progress: Progress) -> list[Outcome]:
    """Wait for all of them; interrupted, have them keep what they have and say so."""
    outcomes: list[Outcome] = []
    pending = dict(workers)
    with _interruption() as interruption:
        while pending:
            for end in wait(list(pending)):
                assert isinstance(end, Connection)
                try:
                    said = end.recv()
                except EOFError:
                    raise RuntimeError("a process of the run ended early; what it said is above") from None
                if said == _READY:
                    interruption.reaches(pending[end])
                elif isinstance(said, str):
                    raise InputError(said)
                elif isinstance(said, Outcome):
                    outcomes.append(said)
                    del pending[end]
                else:
                    progress(*said)
    return outcomes


class _Interruption:
    """Hands an interruption on to each worker, once, as soon as it can take it."""

    def __init__(self) -> None:
        self._happened = False
        self._untold: list[SpawnProcess] = []

    def happens(self, *_: object) -> None:
        self._happened = True
        while self._untold:
            worker = self._untold.pop()
            if worker.pid is not None and worker.is_alive():
                os.kill(worker.pid, _INTERRUPTION)

    def reaches(self, worker: SpawnProcess) -> None:
        """Say that a worker can take it from now on."""
        self._untold.append(worker)
        if self._happened:
            self.happens()


@contextlib.contextmanager
def _interruption() -> Iterator[_Interruption]:
    found = _Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield found  # which Ctrl-C does not reach
        return
    before = signal.signal(signal.SIGINT, found.happens)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)
