"""Implementations that run in this process, with one thing about them that is wrong or unusual."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.adapters.in_process import InProcess
from harness.adapters.manifest import Manifest
from harness.adapters.process import Limits
from harness.conformance.reference import rounded
from harness.engine import LIBRARY, Engine, Ops, clamp_steps, generate
from harness.engine.sampler import sample
from harness.errors import Crashed, ImplementationError
from harness.models import load
from harness.results import Observation, Request
from harness.tokenizer.bpe import HONEST, EncodeRules

_OPTIONS = {"-z": "tokenizer", "-t": "temperature", "-p": "topp", "-s": "seed", "-n": "steps", "-i": "prompt"}
LLAMA2C_FLAGS = ("run", "{model}", *(word for name in _OPTIONS for word in (name, f"{{{_OPTIONS[name]}}}")))


def manifest(name: str = "fake", **more: Any) -> Manifest:
    return Manifest(path=Path("impl.toml"), name=name, run=tuple(LLAMA2C_FLAGS), **more)


@dataclass
class Fake(InProcess):
    """An honest port in float32, unless told otherwise.

    Attributes:
        ops: its forward pass.
        rules: its tokenizer.
        show: what it prints for (printing function, ids): default llama2.c's way.
        stop: ids that end it.
        more_steps: positions it runs beyond what is asked ("prompt": as many as the prompt has).
        generator: its coin after n draws; None: llama2.c's.
        wrap: what else it prints around the text.
    """

    manifest: Manifest = dataclasses.field(default_factory=manifest)
    ops: Ops = LIBRARY
    dtype: Any = np.float32
    rules: EncodeRules = HONEST
    show: Callable[[Any, list[int]], bytes] | None = None
    stop: frozenset[int] = frozenset({1})
    more_steps: int | str = 0
    generator: np.random.Generator | None = None
    wrap: Callable[[bytes], bytes] = lambda text: text + b"\n"
    failure: ImplementationError | None = None
    precision: tuple[str, int] | None = None

    def run(self, request: Request, limits: Limits | None = None) -> Observation:
        command = ("fake", "-i", (request.prompt or b"").decode("utf-8", "replace"))
        if self.failure is not None:
            return Observation(command, "", b"", failure=self.failure)
        model = load(request.model, request.tokenizer)
        ops = self.ops
        if self.precision:
            group = next(g for g in (16, 8, 4, 2) if not model.checkpoint.config.hidden_dim % g)
            ops = rounded(self.precision[0], group_size=group)[self.precision[1]]
        engine = Engine(model.checkpoint.config, model.checkpoint.tensors, dtype=self.dtype, ops=ops)
        ids = model.tokenizer.encode(request.prompt or b"", rules=self.rules)
        if not ids:
            return Observation(command, "", b"", failure=Crashed("no tokens to start from"))
        limit = model.checkpoint.config.seq_len
        more = len(ids) - 1 if self.more_steps == "prompt" else int(self.more_steps)
        steps = min(clamp_steps(request.steps, limit) + more, limit)
        if self.generator is None or request.temperature == 0:
            out = list(
                generate(
                    engine,
                    ids,
                    steps=steps,
                    temperature=request.temperature,
                    topp=request.topp,
                    seed=request.seed,
                    stop=self.stop,
                )
            )
        else:
            out = self._with_own_generator(engine, ids, steps, request)
        if out and out[-1] == 1:
            out = out[:-1]
        shown = [ids[0], *out]
        if self.show is None:
            text = model.tokenizer.print_text(shown)
        else:
            text = self.show(model.tokenizer, shown)
        return Observation(command, "", self.wrap(text))

    def _with_own_generator(self, engine: Engine, ids: list[int], steps: int, request: Request) -> list[int]:
        assert self.generator is not None
        session = engine.session()
        out = ids[1 : steps + 1]
        logits = session.extend(ids)[-1]
        while len(out) < steps:
            coin = np.float32(self.generator.random())
            out.append(sample(logits, temperature=request.temperature, topp=request.topp, coin=coin))
            if out[-1] in self.stop or len(out) == steps:
                break
            logits = session.extend([out[-1]])[-1]
        return out
