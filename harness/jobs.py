"""Run independent jobs, one after another or in threads, and hand back their results in order.

Threads suffice: the work of a job is a child process that the job waits for. The threads are daemons, so that
an interrupted run ends at once and does not wait for the slowest child; children die with their owner.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["run_jobs"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_jobs(fn: Callable[[Item], Result], items: Iterable[Item], *, jobs: int = 1) -> Iterator[tuple[Item, Result]]:
    """Yield (item, fn(item)) in the order of the items, each as soon as it and all before it are done.

    No further item is started once a call has raised, the caller has closed the iterator, or Ctrl-C came in.
    An exception of `fn` is raised where its item's turn comes.

    Args:
        jobs: calls at a time, at least 1. With 1 everything happens in the calling thread.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, must be at least 1")
    pending = list(items)
    if jobs == 1 or len(pending) <= 1:
        return ((item, fn(item)) for item in pending)
    return _in_threads(fn, pending, min(jobs, len(pending)))


def _in_threads(fn: Callable[[Item], Result], items: list[Item], n_threads: int) -> Iterator[tuple[Item, Result]]:
    done: queue.SimpleQueue[tuple[int, Result | None, BaseException | None]] = queue.SimpleQueue()
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(items)):
        waiting.put(index)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, fn(items[index]), None))
            except BaseException as error:  # crosses to the caller's thread, which raises it
                stop.set()
                done.put((index, None, error))

    for n in range(n_threads):
        threading.Thread(target=work, name=f"job-{n}", daemon=True).start()
    arrived: dict[int, tuple[Result | None, BaseException | None]] = {}
    try:
        for index, item in enumerate(items):
            while index not in arrived:
                number, result, error = done.get()
                arrived[number] = (result, error)
                if error is not None and index not in arrived:
                    raise error
            result, error = arrived.pop(index)
            if error is not None:
                raise error
            yield item, result  # type: ignore[misc]  # None only where None is what fn returned
    finally:
        stop.set()
