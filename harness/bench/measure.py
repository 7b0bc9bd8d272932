"""Measure programs: interleaved in rounds of random order, one run at a time, every run's tokens verified.

    group     the programs on one model, in one precision, with so many threads
    warm-up   each program once short and, unless tokens are slow, once longer: it must verify, and shows how long a
              round will take
    round     a fresh prompt; every program in random order makes its runs (see `rows`) in random order, and the
              probes of the machine's limits have their turn among them; then the texts are judged, all in one go

A program whose text is not right, in the warm-up or in a timed run, has no row. Prompts are drawn at random, so a
program cannot have learnt the answers. Nothing is judged while something is timed.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from harness.adapters.implementation import Implementation
from harness.bench.machine import Usage, usage
from harness.bench.plan import Cost, Lengths, Prompt, guessed_token_s, lengths, prompt_of, round_s, shortened
from harness.bench.roofline import Probes
from harness.bench.rows import summarise, with_ratios
from harness.bench.run import Checked, Clocks, Group, OutOfTime, Run, Verify, timed
from harness.bench.starts import AGAIN, Starts
from harness.bench.workload import Workload
from harness.benchfile import LATE, Absent, Key, Limit, Record, Row, Sample
from harness.errors import ImplementationError, InputError, MissingDependency
from harness.models import ModelFiles
from harness.results import Kind, kind_of_failure

__all__ = ["Outcome", "Progress", "measure"]

_WARM_MORE = 24  # tokens that the longer warm-up run generates beyond the short one
_SLOW_S = 1.0  # of a token: the longer warm-up run is left out
_TRIES = 20  # prompts drawn for a real model until one is followed by enough tokens
_IN_MEMORY = 0.9  # of the memory that can be had: what a model may take to be held by it
_PROBED = 0.25  # of the memory that can be had: what a probe takes at most
_PROBED_BYTES = 1 << 30  # beside a model that memory does not hold


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a benchmark is; left_s is an estimate, None before the first round."""

    what: str
    round: int
    rounds: int
    left_s: float | None


@dataclass(slots=True)
class Outcome:
    """What was measured.

    Attributes:
        interrupted: whether it was ended before its end.
    """

    rows: list[Row] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    interrupted: bool = False


def measure(
    groups: Sequence[Group],
    *,
    verify: Verify,
    rounds: int = 9,
    budget_s: float | None = None,
    seed: int = 0,
    contexts: Sequence[int] = (),
    is_bare: bool = False,
    probes: Probes | None = None,
    room: Callable[[Workload, Prompt, int], int] | None = None,
    n_cpus: int = 1,
    memory_bytes: Callable[[], int] | None = None,
    record: Callable[[Record], None] = lambda _: None,
    progress: Callable[[Progress], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    look: Callable[[], Usage] = usage,
) -> Outcome:
    """Measure groups one after another. Ctrl-C ends it, and what was measured is returned.

    Args:
        verify: judges the runs.
        rounds: at most, of each group.
        budget_s: seconds for everything; the groups share it, and one that gets no round has no row.
        seed: of orders and prompts.
        contexts: context lengths up to which further runs of every round go.
        is_bare: rounds are the two runs that a decoding speed needs, and nothing else.
        probes: of the machine's limits.
        room: how many tokens a real model generates before it stops by itself, up to so many.
        memory_bytes: that can be had; tells models that memory does not hold. Without it every model is taken to fit.
        record: told every record as it arises.
    """
    session = _Session(
        verify=verify,
        probes=probes,
        room=room,
        contexts=tuple(contexts),
        is_bare=is_bare,
        memory_bytes=memory_bytes,
        record=record,
        progress=progress,
        clocks=Clocks(clock, look, n_cpus),
        rng=random.Random(seed),
    )
    end = None if budget_s is None else clock() + budget_s
    try:
        for number, group in enumerate(groups):
            share = None if end is None else clock() + max(0.0, end - clock()) / (len(groups) - number)
            session.measure(group, rounds, share, len(groups) - number)
    except KeyboardInterrupt:
        session.outcome.interrupted = True
    return session.outcome


@dataclass(slots=True)
class _Session:
    """One benchmark under way."""

    verify: Verify
    probes: Probes | None
    room: Callable[[Workload, Prompt, int], int] | None
    contexts: tuple[int, ...]
    is_bare: bool
    memory_bytes: Callable[[], int] | None
    record: Callable[[Record], None]
    progress: Callable[[Progress], None]
    clocks: Clocks
    rng: random.Random
    starts: Starts = field(default_factory=Starts)
    outcome: Outcome = field(default_factory=Outcome)

    def measure(self, group: Group, rounds: int, deadline: float | None, groups_left: int) -> None:
        """Measure one group and add its rows."""
        work = group.workload
        in_memory = self._holds(work)
        token_s = guessed_token_s(work.token_bytes, in_memory=in_memory)
        n = lengths(work.config, token_s, self.contexts)
        if self.is_bare:
            n = replace(n, n_long_prompt=n.n_prompt)
        try:
            alive, expected_s, n = self._warm_up(
                group, n, rounds, deadline, is_slow=token_s > _SLOW_S, in_memory=in_memory
            )
            started = self.clocks.now()
            for number in range(rounds):
                now = self.clocks.now()
                per_round = (now - started) / number if number else expected_s
                if not alive or (deadline is not None and now + (per_round if number else 0) > deadline):
                    break
                left = per_round * (rounds - number) * groups_left
                if deadline is not None:
                    left = min(left, max(0.0, deadline - now) * groups_left)
                self.progress(Progress(f"{work.name} {work.precision}", number, rounds, left))
                self._one_round(group, alive, number, n, deadline, in_memory=in_memory)
        except OutOfTime:
            pass
        finally:  # an interruption keeps what there is
            self._conclude(group, in_memory=in_memory)

    def _holds(self, work: Workload) -> bool:
        return self.memory_bytes is None or work.token_bytes <= _IN_MEMORY * self.memory_bytes()

    def _warm_up(
        self, group: Group, n: Lengths, rounds: int, deadline: float | None, *, is_slow: bool, in_memory: bool
    ) -> tuple[list[tuple[Implementation, ModelFiles]], float, Lengths]:
        """Run everything once; return what may be timed, the seconds of a round, and the lengths that fit."""
        work = group.workload
        prompt, _ = self._prompts(work, n)
        middle = min(n.n_long, n.n_short + _WARM_MORE)
        seen: list[tuple[Implementation, ModelFiles, list[Run]]] = []
        for impl, files in group.impls:
            self.progress(Progress(f"{work.name} {work.precision}: warming up {impl.name}", 0, rounds, None))
            if deadline is not None and self.clocks.now() > deadline:
                self._absent(group.key(impl), "SKIPPED", "the budget was used up before its turn")
                continue
            try:
                runs = [
                    timed(
                        *(group, impl, files, prompt, count),
                        number=-1,
                        run="short",
                        deadline=deadline,
                        clocks=self.clocks,
                        is_cold=not in_memory,
                    )
                    for count in ([n.n_short] if is_slow else [n.n_short, middle])
                ]
            except MissingDependency as missing:
                self._absent(group.key(impl), Kind.SKIPPED.value, str(missing))
            except InputError as unfit:
                self._absent(group.key(impl), Kind.UNSUPPORTED.value, str(unfit))
            else:
                seen.append((impl, files, runs))
                for one in runs:
                    self.starts.note(one.sample)
        self._judge(group, [run for _, _, runs in seen for run in runs])
        gone = {one.key for one in self.outcome.absent}
        alive, costs = [], []
        for impl, files, runs in seen:
            if group.key(impl) not in gone:
                alive.append((impl, files))
                costs.append(_cost(runs))
        if deadline is not None and alive:
            n = shortened(n, costs, rounds, deadline - self.clocks.now())
        return alive, round_s(costs, n), n

    def _one_round(
        self,
        group: Group,
        alive: list[tuple[Implementation, ModelFiles]],
        number: int,
        n: Lengths,
        deadline: float | None,
        *,
        in_memory: bool,
    ) -> None:
        work = group.workload
        short, longer = self._prompts(work, n)
        counts = {"short": (short, n.n_short), "long": (short, n.n_long)}
        if n.n_long_prompt > n.n_prompt:
            counts["prompt"] = (longer, n.n_short)
        for end in n.contexts:
            counts[f"context {end}"] = (short, end - short.n_ids + 1)
        turns: list[tuple[Implementation, ModelFiles] | None] = [*alive]
        if self.probes is not None:
            turns.append(None)
        self.rng.shuffle(turns)
        seen: list[Run] = []
        try:
            for turn in turns:
                if turn is None:
                    self._limit(group, number, in_memory=in_memory)
                    continue
                impl, files = turn
                names = [*counts]
                self.rng.shuffle(names)
                for name in names:
                    make = partial(
                        timed,
                        *(group, impl, files, *counts[name]),
                        number=number,
                        run=name,
                        deadline=deadline,
                        clocks=self.clocks,
                        is_cold=not in_memory,
                    )
                    self._make(make, seen, deadline, is_timely=not in_memory)
        finally:
            self._judge(group, seen)
        gone = {one.key for one in self.outcome.absent}
        alive[:] = [turn for turn in alive if group.key(turn[0]) not in gone]

    def _make(self, make: Callable[[], Run], seen: list[Run], deadline: float | None, *, is_timely: bool) -> None:
        """Make a run, and again before the deadline if its start stalled; the one that began first counts.

        Args:
            seen: that all of them are added to.
            is_timely: whenever it starts; so it is where every run waits for the disk.
        """
        first = len(seen)
        for _ in range(1 + AGAIN):
            one = make()
            seen.append(one)
            is_late = not is_timely and self.starts.is_late(one.sample)
            self.starts.note(one.sample)
            if not is_late or (deadline is not None and self.clocks.now() >= deadline):
                break
        counts = min(seen[first:], key=lambda one: one.sample.first_byte_s or math.inf)
        for at, one in enumerate(seen[first:], first):
            if one is not counts:
                seen[at] = replace(one, sample=replace(one.sample, run=one.sample.run + LATE))

    def _prompts(self, work: Workload, n: Lengths) -> tuple[Prompt, Prompt]:
        """Draw a short and a long prompt; those of a real model must be followed by enough tokens."""

        def draw(n_ids: int, n_tokens: int) -> Prompt:
            best, most = prompt_of(work, n_ids, self.rng), -1
            if work.is_synthetic or self.room is None:
                return best
            for _ in range(_TRIES):
                drawn = prompt_of(work, n_ids, self.rng)
                found = self.room(work, drawn, n_tokens)
                if found > most:
                    best, most = drawn, found
                if found >= n_tokens:
                    break
            return best

        return draw(n.n_prompt, n.n_long), draw(n.n_long_prompt, n.n_short)

    def _judge(self, group: Group, runs: Sequence[Run]) -> None:
        """Verify runs and keep their samples; a program any of whose tokens are not right is absent."""
        well = [run for run in runs if run.observation.failure is None]
        judged = iter(self.verify(group.workload, well) if well else [])
        for run in runs:
            failure = run.observation.failure
            if failure is None:
                checked = next(judged)
            else:
                checked = Checked(kind_of_failure(failure), 0, _reason(failure))
            sample = replace(run.sample, verdict=checked.kind.value, n_generated=checked.n_generated)
            self.outcome.samples.append(sample)
            self.record(sample)
            if not checked.kind.is_green:
                self._absent(sample.key, checked.kind.value, checked.reason)

    def _limit(self, group: Group, number: int, *, in_memory: bool) -> None:
        """Probe the machine, with as many bytes as the model has, or as memory has room for beside it."""
        assert self.probes is not None
        work = group.workload
        n_bytes = work.token_bytes
        if not in_memory:
            n_bytes = min(n_bytes, _PROBED_BYTES)
        elif self.memory_bytes is not None:
            n_bytes = min(n_bytes, int(_PROBED * self.memory_bytes()))
        disk = None if in_memory or self.probes.disk is None else self.probes.disk(work.files.checkpoint)
        found = self.probes.limits(n_bytes, group.threads)
        limit = Limit(
            *(work.name, work.precision, group.threads, number, *found),
            spawn_s=self.probes.spawn_s(),
            disk_bytes_per_s=disk,
        )
        self.outcome.limits.append(limit)
        self.record(limit)

    # ---- the end of a group --------------------------------------------------------------------------------------

    def _conclude(self, group: Group, *, in_memory: bool) -> None:
        work = group.workload
        limits = [
            limit
            for limit in self.outcome.limits
            if (limit.model, limit.precision, limit.threads) == (work.name, work.precision, group.threads)
        ]
        gone = {one.key for one in self.outcome.absent}
        for impl, _ in group.impls:
            key = group.key(impl)
            if key in gone:
                continue
            found = summarise(
                key,
                [s for s in self.outcome.samples if s.key == key and s.round >= 0],
                limits,
                is_synthetic=work.is_synthetic,
                token_bytes=work.token_bytes,
                n_cpus=self.clocks.n_cpus,
                in_memory=in_memory,
            )
            if isinstance(found, Row):
                found = with_ratios(found, self.outcome.rows, self.outcome.samples)
                self.outcome.rows.append(found)
                self.record(found)
            else:
                self._absent(key, found.kind, found.reason)

    def _absent(self, key: Key, kind: str, reason: str) -> None:
        if any(one.key == key for one in self.outcome.absent):
            return
        absent = Absent(key, kind, reason)
        self.outcome.absent.append(absent)
        self.record(absent)


def _cost(runs: Sequence[Run]) -> Cost:
    """What runs of a program cost, by one short run, or by a short and a longer one."""
    first, last = runs[0], runs[-1]
    more = last.n_tokens - first.n_tokens
    if more:
        token_s = max(0.0, (last.observation.wall_s - first.observation.wall_s) / more)
    else:  # one position is one pass, in the slowest of programs
        token_s = first.observation.wall_s / first.request.steps
    return Cost(first.observation.wall_s, token_s)


def _reason(failure: ImplementationError) -> str:
    lines = failure.stderr_tail.strip().splitlines()
    return f"{failure.what}: {lines[-1][:200]}" if lines else failure.what
