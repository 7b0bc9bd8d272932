"""Measure programs: interleaved in rounds of random order, one run at a time, every run's tokens verified.

    group     the programs on one model, in one precision, with so many threads
    warm-up   each program once short and once longer: it must verify, and shows how long a round will take
    round     a fresh prompt; every program in random order makes its three runs (see `rows`) in random order, and
              the probe of the machine's limits has its turn among them; then the texts are judged

A program whose text is not right, in the warm-up or in a timed run, has no row. Prompts are drawn at random, so a
program cannot have learnt the answers. Nothing is judged while something is timed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from harness import tokenizer
from harness.adapters.implementation import Implementation
from harness.adapters.process import Limits
from harness.bench.machine import Usage, usage
from harness.bench.rows import summarise
from harness.bench.workload import Workload
from harness.benchfile import Absent, Key, Limit, Record, Row, Sample
from harness.errors import ImplementationError, InputError, MissingDependency
from harness.model_config import ModelConfig
from harness.models import ModelFiles
from harness.results import Kind, Observation, Request, kind_of_failure

__all__ = ["Checked", "Group", "Lengths", "Outcome", "Progress", "Prompt", "lengths", "measure", "prompt_of"]

RUNS = ("short", "long", "prompt")
_WARM_MORE = 24  # tokens that the longer warm-up run generates beyond the short one
_LEAST_MORE = 64  # tokens between the short and the long run that a budget leaves at least
_TRIES = 20  # prompts drawn for a real model until one is followed by enough tokens


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and how many ids it is, BOS included."""

    text: bytes
    n_ids: int


@dataclass(frozen=True, slots=True)
class Checked:
    """What the judge says of one run.

    Attributes:
        n_generated: tokens after the prompt that the run did generate.
    """

    kind: Kind
    n_generated: int
    reason: str = ""


Verify = Callable[[Implementation, Workload, Request, Prompt, int, Observation], Checked]
"""Judge a run: who, what model, what was asked, with which prompt, how many tokens, what was seen."""

Probe = Callable[[int, int], tuple[float, float, float, str]]
"""(bytes of the working set, threads) -> bytes read, bytes of a product, operations per second; how."""


@dataclass(frozen=True, slots=True)
class Group:
    """What is compared with one another.

    Attributes:
        impls: each with the files that it is given.
    """

    workload: Workload
    threads: int
    impls: tuple[tuple[Implementation, ModelFiles], ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Ids of the two prompts, and generated tokens of the short and the long run."""

    n_prompt: int
    n_long_prompt: int
    n_short: int
    n_long: int


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


def lengths(config: ModelConfig) -> Lengths:
    """Choose run lengths that fit into the context, far enough apart for tokens to outweigh what start-up varies."""
    n_prompt = 8 if config.seq_len >= 64 else 4
    room = config.seq_len - n_prompt
    n_long = room if config.n_params < 1_000_000 else min(room, 256)
    n_short = min(8, max(1, n_long // 4))
    return Lengths(n_prompt, max(n_prompt + 1, min(264, config.seq_len // 2)), n_short, n_long)


def measure(
    groups: Sequence[Group],
    *,
    verify: Verify,
    rounds: int = 9,
    budget_s: float | None = None,
    seed: int = 0,
    probe: Probe | None = None,
    room: Callable[[Workload, Prompt, int], int] | None = None,
    n_cpus: int = 1,
    record: Callable[[Record], None] = lambda _: None,
    progress: Callable[[Progress], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    look: Callable[[], Usage] = usage,
) -> Outcome:
    """Measure groups one after another. Ctrl-C ends it, and what was measured is returned.

    Args:
        verify: judges each run.
        rounds: at most, of each group.
        budget_s: seconds for everything; the groups share it, and one that gets no round has no row.
        seed: of orders and prompts.
        probe: of the machine's limits.
        room: how many tokens a real model generates before it stops by itself, up to so many.
        record: told every record as it arises.
    """
    session = _Session(verify, probe, room, n_cpus, record, progress, clock, look, random.Random(seed))
    end = None if budget_s is None else clock() + budget_s
    try:
        for number, group in enumerate(groups):
            share = None if end is None else clock() + max(0.0, end - clock()) / (len(groups) - number)
            session.measure(group, rounds, share, len(groups) - number)
    except KeyboardInterrupt:
        session.outcome.interrupted = True
    return session.outcome


def prompt_of(work: Workload, n_ids: int, rng: random.Random) -> Prompt:
    """Draw a prompt of exactly n_ids ids for a synthetic model, of about as many for a real one."""
    if work.is_synthetic:
        letters = bytes(rng.choice(b"abcdefghijklmnopqrstuvwxyz") for _ in range(max(0, n_ids - 2)))
        return Prompt(letters, len(letters) + 2 if letters else 1)
    words = tokenizer.read(work.files.tokenizer, work.config.vocab_size)
    text = ""
    while True:
        longer = f"{text} {rng.choice(_STORY)}".strip()
        ids = words.encode(longer)
        if len(ids) > n_ids and text:
            return Prompt(text.encode(), len(words.encode(text)))
        text = longer
        if len(ids) >= n_ids:
            return Prompt(text.encode(), len(ids))


# Enough of these in any order make a prompt that a model of children's stories goes on from.
_STORY = (
    *("Once", "upon", "a", "time", "there", "was", "a", "little", "girl", "who", "had", "a", "big", "red", "ball"),
    *("One", "day", "Tom", "and", "his", "friend", "Lily", "went", "to", "the", "park", "and", "saw", "the", "dog"),
    *("They", "like", "to", "play", "with", "cars", "books", "blocks", "very", "happy", "because", "the", "sun"),
)


class _Session:
    """One benchmark under way."""

    def __init__(
        self,
        verify: Verify,
        probe: Probe | None,
        room: Callable[[Workload, Prompt, int], int] | None,
        n_cpus: int,
        record: Callable[[Record], None],
        progress: Callable[[Progress], None],
        clock: Callable[[], float],
        look: Callable[[], Usage],
        rng: random.Random,
    ) -> None:
        self.outcome = Outcome()
        self._verify, self._probe, self._room = verify, probe, room
        self._n_cpus, self._record, self._progress = n_cpus, record, progress
        self._clock, self._look, self._rng = clock, look, rng

    def measure(self, group: Group, rounds: int, deadline: float | None, groups_left: int) -> None:
        """Measure one group and add its rows."""
        work, n = group.workload, lengths(group.workload.config)
        try:
            alive, round_s, n = self._warm_up(group, n, rounds, deadline)
            started = self._clock()
            for number in range(rounds):
                now = self._clock()
                per_round = (now - started) / number if number else round_s
                if not alive or (deadline is not None and now + (per_round if number else 0) > deadline):
                    break
                left = per_round * (rounds - number) * groups_left
                self._progress(Progress(f"{work.name} {work.precision}", number, rounds, left))
                self._one_round(group, alive, number, n, deadline)
        finally:  # an interruption keeps what there is
            self._conclude(group)

    def _warm_up(
        self, group: Group, n: Lengths, rounds: int, deadline: float | None
    ) -> tuple[list[tuple[Implementation, ModelFiles]], float, Lengths]:
        """Run everything once; return what may be timed, the seconds of a round, and the lengths that fit."""
        work = group.workload
        prompt, _ = self._prompts(work, n)
        alive, cost = [], []
        middle = min(n.n_long, n.n_short + _WARM_MORE)
        for impl, files in group.impls:
            self._progress(Progress(f"{work.name} {work.precision}: warming up {impl.name}", 0, rounds, None))
            key = Key(work.name, work.precision, group.threads, impl.name)
            if deadline is not None and self._clock() > deadline:
                self._absent(key, "SKIPPED", "the budget was used up before its turn")
                continue
            try:
                seen = [
                    self._run(group, impl, files, key, prompt, count, -1, "short", deadline)
                    for count in (n.n_short, middle)
                ]
            except MissingDependency as missing:
                self._absent(key, Kind.SKIPPED.value, str(missing))
                continue
            except InputError as unfit:
                self._absent(key, Kind.UNSUPPORTED.value, str(unfit))
                continue
            if all(self._judged(group, impl, key, one) for one in seen):
                alive.append((impl, files))
                walls = [one.observation.wall_s for one in seen]
                cost.append((walls[0], max(0.0, (walls[1] - walls[0]) / max(1, middle - n.n_short))))
        if deadline is not None and alive:
            left = deadline - self._clock()
            while min(rounds, 5) * _round_s(cost, n) > left and n.n_long - n.n_short >= 2 * _LEAST_MORE:
                half = n.n_short + (n.n_long - n.n_short) // 2
                n = Lengths(n.n_prompt, n.n_prompt + (n.n_long_prompt - n.n_prompt) // 2, n.n_short, half)
        return alive, _round_s(cost, n), n

    def _one_round(
        self,
        group: Group,
        alive: list[tuple[Implementation, ModelFiles]],
        number: int,
        n: Lengths,
        deadline: float | None,
    ) -> None:
        work = group.workload
        short, longer = self._prompts(work, n)
        counts = {"short": (short, n.n_short), "long": (short, n.n_long), "prompt": (longer, n.n_short)}
        turns: list[tuple[Implementation, ModelFiles] | None] = [*alive]
        if self._probe is not None:
            turns.append(None)
        self._rng.shuffle(turns)
        for turn in turns:
            if turn is None:
                self._limit(group, number)
                continue
            impl, files = turn
            key = Key(work.name, work.precision, group.threads, impl.name)
            runs = [*RUNS]
            self._rng.shuffle(runs)
            seen = [self._run(group, impl, files, key, *counts[run], number, run, deadline) for run in runs]
            judged = [self._judged(group, impl, key, one) for one in seen]
            if not all(judged):
                alive.remove(turn)

    def _prompts(self, work: Workload, n: Lengths) -> tuple[Prompt, Prompt]:
        """Draw a short and a long prompt; those of a real model must be followed by enough tokens."""

        def draw(n_ids: int, n_tokens: int) -> Prompt:
            best, most = prompt_of(work, n_ids, self._rng), -1
            if work.is_synthetic or self._room is None:
                return best
            for _ in range(_TRIES):
                drawn = prompt_of(work, n_ids, self._rng)
                found = self._room(work, drawn, n_tokens)
                if found > most:
                    best, most = drawn, found
                if found >= n_tokens:
                    break
            return best

        return draw(n.n_prompt, n.n_long), draw(n.n_long_prompt, n.n_short)

    # ---- one run -------------------------------------------------------------------------------------------------

    def _run(
        self,
        group: Group,
        impl: Implementation,
        files: ModelFiles,
        key: Key,
        prompt: Prompt,
        n_tokens: int,
        number: int,
        run: str,
        deadline: float | None,
    ) -> _Seen:
        n_tokens = min(n_tokens, group.workload.config.seq_len - prompt.n_ids + 1)
        request = Request(
            files.checkpoint,
            files.tokenizer,
            prompt=prompt.text,
            steps=prompt.n_ids - 1 + n_tokens,
            temperature=0.0,
            threads=group.threads,
        )
        patience = impl.manifest.timeout_s or 600.0
        if deadline is not None:
            patience = min(patience, max(10.0, deadline - self._clock() + 10.0))
        size = files.checkpoint.stat().st_size if files.checkpoint.exists() else 0
        before = self._look()
        observation = impl.run(request, Limits(time_s=patience, memory_bytes=max(8 << 30, 3 * size)))
        after = self._look()
        wall = observation.wall_s
        other = steal = None
        if wall > 0 and before.busy_s is not None and after.busy_s is not None:
            other = max(0.0, (after.busy_s - before.busy_s - observation.cpu_s) / wall)
        if wall > 0 and before.steal_s is not None and after.steal_s is not None:
            steal = max(0.0, (after.steal_s - before.steal_s) / wall / self._n_cpus)
        sample = Sample(
            key=key,
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
            other_cpus=other,
            steal=steal,
            load=after.load,
            hz=after.hz,
        )
        return _Seen(request, prompt, n_tokens, observation, sample)

    def _judged(self, group: Group, impl: Implementation, key: Key, seen: _Seen) -> bool:
        """Verify a run and keep its sample; False, and the key is absent, if its tokens are not right."""
        failure = seen.observation.failure
        if failure is not None:
            checked = Checked(kind_of_failure(failure), 0, _reason(failure))
        else:
            checked = self._verify(impl, group.workload, seen.request, seen.prompt, seen.n_tokens, seen.observation)
        sample = _with_verdict(seen.sample, checked)
        self.outcome.samples.append(sample)
        self._record(sample)
        if not checked.kind.is_green:
            self._absent(key, checked.kind.value, checked.reason)
        return checked.kind.is_green

    def _limit(self, group: Group, number: int) -> None:
        assert self._probe is not None
        work = group.workload
        limit = Limit(work.name, work.precision, group.threads, number, *self._probe(work.token_bytes, group.threads))
        self.outcome.limits.append(limit)
        self._record(limit)

    # ---- the end of a group --------------------------------------------------------------------------------------

    def _conclude(self, group: Group) -> None:
        work = group.workload
        limits = [
            limit
            for limit in self.outcome.limits
            if (limit.model, limit.precision, limit.threads) == (work.name, work.precision, group.threads)
        ]
        gone = {one.key for one in self.outcome.absent}
        for impl, _ in group.impls:
            key = Key(work.name, work.precision, group.threads, impl.name)
            if key in gone:
                continue
            samples = [s for s in self.outcome.samples if s.key == key and s.round >= 0]
            found = summarise(
                key,
                samples,
                limits,
                is_synthetic=work.is_synthetic,
                token_bytes=work.token_bytes,
                n_cpus=self._n_cpus,
            )
            if isinstance(found, Row):
                self.outcome.rows.append(found)
                self._record(found)
            else:
                self._absent(key, found.kind, found.reason)

    def _absent(self, key: Key, kind: str, reason: str) -> None:
        if any(one.key == key for one in self.outcome.absent):
            return
        absent = Absent(key, kind, reason)
        self.outcome.absent.append(absent)
        self._record(absent)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A run that is not judged yet."""

    request: Request
    prompt: Prompt
    n_tokens: int
    observation: Observation
    sample: Sample


def _with_verdict(sample: Sample, checked: Checked) -> Sample:
    return replace(sample, verdict=checked.kind.value, n_generated=checked.n_generated)


def _round_s(cost: Sequence[tuple[float, float]], n: Lengths) -> float:
    """Seconds of a round, by the seconds of a short run and of one more token of each program."""
    more = n.n_long - n.n_short + n.n_long_prompt - n.n_prompt
    return sum(3 * short + more * token for short, token in cost)


def _reason(failure: ImplementationError) -> str:
    lines = failure.stderr_tail.strip().splitlines()
    return f"{failure.what}: {lines[-1][:200]}" if lines else failure.what
