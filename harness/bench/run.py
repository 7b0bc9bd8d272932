"""One timed run of a program: what it was asked, what was seen, and how busy the machine was meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.adapters.implementation import Implementation
from harness.adapters.process import Limits
from harness.bench.machine import Usage, forget, usage
from harness.bench.plan import Prompt
from harness.bench.workload import Workload
from harness.benchfile import Key, Sample
from harness.models import ModelFiles
from harness.results import Kind, Observation, Request, kind_of_failure

__all__ = ["Checked", "Clocks", "Group", "OutOfTime", "Run", "Verify", "timed"]

_PATIENCE_S, _PATIENCE_BYTES_PER_S = 600.0, 50e6  # how long a run may take, or as long as a slow disk would
# Between two looks at what a program has printed: each takes the harness half a millisecond, because the model has
# driven its code out of the caches. What is printed meanwhile waits in the pipe, which holds 64 KiB.
_PAUSE_S = 0.5


class OutOfTime(Exception):
    """The budget ended while a program ran."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """What time it is, and how busy the machine.

    Attributes:
        now: seconds.
        n_cpus: of the machine.
    """

    now: Callable[[], float] = time.monotonic
    look: Callable[[], Usage] = usage
    n_cpus: int = 1


@dataclass(frozen=True, slots=True)
class Checked:
    """What the judge says of one run.

    Attributes:
        n_generated: tokens after the prompt that the run did generate.
    """

    kind: Kind
    n_generated: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is not judged yet: who was asked what, for so many tokens, and what was seen."""

    impl: Implementation
    request: Request
    prompt: Prompt
    n_tokens: int
    observation: Observation
    sample: Sample


Verify = Callable[[Workload, Sequence[Run]], list[Checked]]
"""Judge runs on a model, in their order."""


@dataclass(frozen=True, slots=True)
class Group:
    """What is compared with one another.

    Attributes:
        impls: each with the files that it is given.
    """

    workload: Workload
    threads: int
    impls: tuple[tuple[Implementation, ModelFiles], ...]

    def key(self, impl: Implementation) -> Key:
        return Key(self.workload.name, self.workload.precision, self.threads, impl.name)


def timed(
    group: Group,
    impl: Implementation,
    files: ModelFiles,
    prompt: Prompt,
    n_tokens: int,
    *,
    number: int,
    run: str,
    deadline: float | None,
    clocks: Clocks,
    is_cold: bool = False,
) -> Run:
    """Run a program once; its sample has no verdict yet.

    Args:
        number: of the round.
        run: its name in the round.
        deadline: when the budget ends.
        is_cold: have the model's file read from the disk, whatever of it was in memory.

    Raises:
        OutOfTime: the budget ended the run.
        MissingDependency, InputError: as `Implementation.run`.
    """
    work = group.workload
    n_tokens = min(n_tokens, work.config.seq_len - prompt.n_ids + 1)
    request = Request(
        files.checkpoint,
        files.tokenizer,
        prompt=prompt.text,
        steps=prompt.n_ids - 1 + n_tokens,
        temperature=0.0,
        threads=group.threads,
    )
    usual = max(_PATIENCE_S, request.steps * work.token_bytes / _PATIENCE_BYTES_PER_S)
    patience = impl.manifest.timeout_s or usual
    if deadline is not None:
        patience = min(patience, max(10.0, deadline - clocks.now() + 10.0))
    size = files.checkpoint.stat().st_size if files.checkpoint.exists() else 0
    if is_cold:
        forget(files.checkpoint)
    before = clocks.look()
    observation = impl.run(request, Limits(patience, memory_bytes=max(8 << 30, 3 * size), pause_s=_PAUSE_S))
    after = clocks.look()
    is_late = observation.failure is not None and kind_of_failure(observation.failure) is Kind.TIMED_OUT
    if is_late and deadline is not None and clocks.now() > deadline:
        raise OutOfTime
    wall = observation.wall_s
    other, steal = _difference(before.busy_s, after.busy_s), _difference(before.steal_s, after.steal_s)
    sample = Sample(
        key=group.key(impl),
        round=number,
        run=run,
        n_prompt=prompt.n_ids,
        n_generated=n_tokens,
        wall_s=wall,
        first_byte_s=observation.first_byte_s,
        cpu_s=observation.cpu_s,
        peak_rss_bytes=observation.peak_rss_bytes,
        reported_tps=observation.reported_tps,
        n_bytes=len(observation.stdout),
        verdict="",
        other_cpus=None if other is None or wall <= 0 else max(0.0, (other - observation.cpu_s) / wall),
        steal=None if steal is None or wall <= 0 else max(0.0, steal / wall / clocks.n_cpus),
        load=after.load,
        hz=after.hz,
        harness_cpu_s=observation.harness_cpu_s,
        disk_bytes=_difference(before.disk_bytes, after.disk_bytes),
        major_faults=_difference(before.major_faults, after.major_faults),
    )
    return Run(impl, request, prompt, n_tokens, observation, sample)


_Number = TypeVar("_Number", int, float)


def _difference(before: _Number | None, after: _Number | None) -> _Number | None:
    return None if before is None or after is None else after - before
