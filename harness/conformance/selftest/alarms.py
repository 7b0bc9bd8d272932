"""False alarms: honest programs on cases made on the fly, judged by the code that judges everybody.

Prompts are beginnings of texts that the model itself writes, cut anywhere, one in ten empty; half of the cases are
greedy, half drawn with llama2.c's generator at several temperatures and nuclei; the reference engine answers them.
All is seeded: the same number makes the same cases. A verdict that is not green is a false alarm.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.adapters.process import Limits
from harness.conformance.case import Case
from harness.conformance.record import PlannedCase, answer
from harness.conformance.selftest.honest import Honest
from harness.conformance.verify import reference_of, verify_group
from harness.engine import blas_threads, generate
from harness.models import ModelNotFound, locate
from harness.results import Kind

__all__ = ["BATCH", "FLOAT32", "INT8", "Batch", "Judged", "available", "cases", "judged"]

FLOAT32 = ("gqa", "mha", "mqa", "stories260K")
INT8 = ("gqa-q8", "mha-q8", "mqa-q8")
BATCH = 24
# (temperature, top-p); greedy every other time.
_SAMPLERS = ((1.0, 0.9), (1.0, 1.0), (0.8, 0.9), (1.3, 0.95), (0.5, 0.5))
_LIMITS = Limits(time_s=120)


@dataclass(frozen=True, slots=True)
class Batch:
    """Cases of one model: the same for the same number."""

    model: str
    number: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judge said of one honest program on one batch.

    Attributes:
        n_tokens: generated tokens judged.
        kinds: verdicts by kind.
        n_ties: tokens that were let pass as ties.
        alarms: (case, kind, reason, command line) of each verdict that is not green.
        n_diagnoses: how often a bug was looked for.
        accused: the faults that were named.
        obstacle: why it was not run.
        part: which of several parts of the batch; -1: all of it.
        n_asked: generated tokens of the right answers.
    """

    program: str
    batch: Batch
    n_cases: int = 0
    n_tokens: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    n_ties: int = 0
    alarms: tuple[tuple[str, str, str, str], ...] = ()
    n_diagnoses: int = 0
    accused: tuple[str, ...] = ()
    took_s: float = 0.0
    obstacle: str = ""
    part: int = -1
    n_asked: int = 0


def available(models: Sequence[str]) -> list[str]:
    """Those of the models whose files are here."""
    found = []
    for name in models:
        try:
            locate(name)
        except ModelNotFound:
            continue
        found.append(name)
    return found


def cases(batch: Batch, n: int = BATCH) -> list[Case]:
    """Make a batch, or the first n of its cases."""
    rng = random.Random(f"{batch.model} {batch.number}")
    made = []
    for i in range(n):
        temperature, topp = (0.0, 0.9) if i % 2 == 0 else _SAMPLERS[(i // 2) % len(_SAMPLERS)]
        plan = PlannedCase(
            name=f"{batch.model}-{batch.number}-{i}",
            suite="false-alarms",
            tags=(),
            why="an honest program must not be called wrong",
            model=batch.model,
            prompt=_beginning(batch.model, rng),
            steps=rng.choice((0, 256, 256, 400)),
            temperature=temperature,
            topp=topp,
            seed=rng.getrandbits(31),
        )
        made.append(answer(plan))
    return made


def _beginning(model: str, rng: random.Random) -> bytes | None:
    """A beginning of a text that the model itself might write, cut anywhere; sometimes none."""
    if rng.random() < 0.1:
        return None
    reference = reference_of(locate(model))
    with blas_threads(1):
        fast = reference.ensemble[0]
        ids = list(generate(fast, [1], steps=120, temperature=1.0, topp=1.0, seed=rng.getrandbits(31)))
    text = reference.model.tokenizer.print_text([1, *ids]).decode("utf-8", "ignore")
    return text[: rng.randrange(1, max(2, min(len(text), 160)))].rstrip("\0").encode() or None


def judged(made: Sequence[Case], batch: Batch, honest: Honest, *, part: int = -1) -> Judged:
    """Run and judge one program on a batch, or on a part of it."""
    start = time.perf_counter()
    verdicts = verify_group(
        made, honest.impl, files=locate(batch.model), limits=_LIMITS, threads=honest.threads, levels=("TEXT",)
    )
    took_s = time.perf_counter() - start
    obstacle = next((v.reason for v in verdicts if v.kind in (Kind.SKIPPED, Kind.BUILD_FAILED)), "")
    if obstacle:
        return Judged(honest.name, batch, part=part, took_s=took_s, obstacle=obstacle)
    found = list({id(v.diagnosis): v.diagnosis for v in verdicts if v.diagnosis is not None}.values())
    return Judged(
        honest.name,
        batch,
        n_cases=len(verdicts),
        part=part,
        n_asked=sum(case.n_generated for case in made),
        n_tokens=sum(v.n_judged for v in verdicts),
        kinds=Counter(str(v.kind) for v in verdicts),
        n_ties=sum(len(v.certificates) for v in verdicts),
        alarms=tuple((v.case, str(v.kind), v.reason, v.reproduce) for v in verdicts if not v.kind.is_green),
        n_diagnoses=len(found),
        accused=tuple(name for one in found for name in one.names),
        took_s=took_s,
    )
