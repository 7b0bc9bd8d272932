"""Programs, a clock and a machine for tests of measuring: time is what they say it is, and nobody waits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.adapters.in_process import InProcess
from harness.adapters.manifest import Manifest
from harness.adapters.process import Limits
from harness.bench.machine import Usage
from harness.bench.run import Checked, Run
from harness.bench.workload import Workload
from harness.errors import ImplementationError
from harness.model_config import ModelConfig
from harness.models import ModelFiles
from harness.results import Kind, Observation, Request

CONFIG = ModelConfig(32, 48, 2, 4, 2, 400, 512)
FILES = ModelFiles("synthetic-tiny", Path("tiny.bin"), Path("tokenizer.bin"), "a" * 64, "b" * 64, "llama2c-v0", False)
TINY = Workload("tiny", "f32", FILES, CONFIG, is_synthetic=True)


@dataclass
class World:
    """A clock, and how busy others keep the machine."""

    now: float = 0.0
    busy_s: float = 0.0
    others: float = 0.0

    def clock(self) -> float:
        return self.now

    def look(self) -> Usage:
        return Usage(busy_s=self.busy_s, steal_s=0.0, load=1.0, hz=2e9)

    def spend(self, wall_s: float, cpu_s: float) -> None:
        self.now += wall_s
        self.busy_s += cpu_s + self.others * wall_s


@dataclass
class Program(InProcess):
    """A program that takes this long to start, for each prompt token and for each generated one.

    Attributes:
        claim: its own tokens per second, of (prompt ids, generated tokens, seconds after the start).
        idle_s: that a short run waits, so that a slope looks small.
        stalls: seconds that its start takes longer, by the number of the run, warm-ups included; 0 where it is not in
            there.
        is_buffered: prints everything at its end.
        wrong_from: the first round of its runs that prints something wrong; None: never.
    """

    world: World
    name: str = "fake"
    start_s: float = 0.05
    prompt_s: float = 0.001
    token_s: float = 0.002
    noise: float = 0.0
    claim: Callable[[int, int, float], float] | None = None
    idle_s: float = 0.0
    stalls: dict[int, float] = field(default_factory=dict)
    is_buffered: bool = False
    wrong_from: int | None = None
    failure: ImplementationError | None = None
    interrupt_after: int | None = None
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manifest = Manifest(path=Path("impl.toml"), name=self.name, run=("run", "{model}"))
        self.rng = random.Random(self.name)

    def run(self, request: Request, limits: Limits | None = None) -> Observation:
        self.requests.append(request)
        if self.interrupt_after is not None and len(self.requests) > self.interrupt_after:
            raise KeyboardInterrupt
        if self.failure is not None:
            return Observation(("fake",), "", b"", failure=self.failure)
        n_prompt = len(request.prompt or b"") + 2
        n_tokens = request.steps - n_prompt + 1
        work_s = (n_prompt * self.prompt_s + n_tokens * self.token_s) * self.rng.lognormvariate(0, self.noise)
        start_s = self.start_s + self.stalls.get(len(self.requests) - 1, 0.0)
        wall_s = start_s + work_s + (self.idle_s if n_tokens < 30 else 0.0)
        self.world.spend(wall_s, work_s)
        is_wrong = self.wrong_from is not None and len(self.requests) > 2 + 3 * self.wrong_from
        return Observation(
            ("fake",),
            "",
            (b"wrong" if is_wrong else b"right") * n_tokens,
            wall_s=wall_s,
            first_byte_s=wall_s if self.is_buffered else start_s + self.prompt_s,
            cpu_s=work_s,
            peak_rss_bytes=1000 + n_tokens,
            reported_tps=self.claim(n_prompt, n_tokens, work_s) if self.claim else None,
            harness_cpu_s=0.003 + 0.01 * wall_s,
        )


def verify(work: Workload, runs: Sequence[Run]) -> list[Checked]:
    """Judge by what the fakes say of themselves."""
    return [
        Checked(Kind.MISMATCH, run.n_tokens, "token 0 is wrong")
        if run.observation.stdout.startswith(b"wrong")
        else Checked(Kind.EXACT, run.n_tokens)
        for run in runs
    ]
