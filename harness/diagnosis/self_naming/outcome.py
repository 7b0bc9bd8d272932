"""Outcome: what a port does at the end of a prompt, from which both rows and names of a probe are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.fault import Fault, faulted
from harness.diagnosis.faults import CATALOGUE
from harness.diagnosis.port import Port, PortCrashed
from harness.engine import LIBRARY, Engine, clamp_steps
from harness.engine.consumers import Rows
from harness.engine.honest import ensemble, rounded
from harness.model_config import ModelConfig
from harness.models import Model

__all__ = [
    "OK",
    "PRECISIONS",
    "Outcome",
    "Way",
    "angles",
    "faults_seen",
    "group_size_of",
    "honest_outcomes",
    "hypotheses",
    "outcome",
]

Array = npt.NDArray[Any]

OK = "ok"
# Lower precisions, and the names of the simulated programs of each: weights only, the cache too, products too.
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "f16": ("f16-weights", "f16-weights-and-cache", "f16"),
    "bf16": ("bf16-weights", "bf16-weights-and-cache", "bf16"),
    "q8": ("q8-weights", "q8"),
}


class Way(Enum):
    """How a run ended."""

    SPOKE = "spoke"  # a token follows the prompt
    SILENT = "silent"  # the budget of steps ends within what it takes for the prompt
    CRASHED = "crashed"
    UNDEFINED = "undefined"  # no program for a model of this shape can have that fault


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a port does at the last position of the prompt.

    Attributes:
        token: the greedy choice, where it spoke.
        state: (dim,) float64, the final hidden state at unit length; None where it is not finite or not there.
    """

    way: Way
    token: int | None = None
    state: Array | None = None


def faults_seen() -> tuple[Fault, ...]:
    """The faults that can move a final hidden state: of reading, encoding, arithmetic and wiring.

    Those of the sampler, of the loop and of printing are out of sight: the answer is one greedy token. So are faults
    of an exporter, for the file is ours, and weights at random, which are others in every program.
    """
    return tuple(
        fault
        for fault in CATALOGUE
        if fault.change.part in ("reader", "encoder", "ops")
        and fault.component not in ("sampler", "loop", "printing")
        and "written" not in fault.change.steps
        and fault.name != "prefix-not-stripped"
    )


def hypotheses(model: Model, version: int) -> dict[str, Callable[[], tuple[Port, Engine]]]:
    """What a program may be: right, of a lower precision, or with one fault; each makes its port and engine.

    Args:
        version: of the file that it reads, 0 or 1 (int8 models are version 2).
    """
    is_int8 = model.checkpoint.group_size is not None
    found: dict[str, Callable[[], tuple[Port, Engine]]] = {OK: lambda: (Port(), Port().engine(model))}
    config, tensors = model.checkpoint.config, model.checkpoint.tensors
    if not is_int8:
        for precision, names in PRECISIONS.items():
            for name, ops in zip(names, rounded(precision, group_size=group_size_of(model)), strict=True):
                found[name] = lambda ops=ops: (Port(), Engine(config, tensors, ops=ops))  # type: ignore[misc]

    def made(fault: Fault) -> tuple[Port, Engine]:
        port = faulted(fault)
        if fault.change.part == "reader" and not is_int8 and port.reader.version != version:
            port = _reading(port, version)
        return port, port.engine(model)

    for fault in faults_seen():
        if not _is_defined(fault, config):
            continue
        if fault.change.part == "reader" and fault.change.steps.get("version", version) != version:
            continue  # of a container that is not this one
        found[fault.name] = lambda fault=fault: made(fault)  # type: ignore[misc]
    return found


def _is_defined(fault: Fault, config: ModelConfig) -> bool:
    """Whether all programs with a fault do the same on a model of this shape.

    Half of an odd number of heads is rounded or not, and a head that is not there may be anything in memory.
    """
    if fault.name == "rope-half-of-k":
        return config.n_kv_heads % 2 == 0
    if fault.name == "heads-by-kv-heads":
        return (config.n_heads - 1) // config.n_kv_heads < config.n_kv_heads
    return True


def _reading(port: Port, version: int) -> Port:
    return replace(port, reader=replace(port.reader, version=version))


def group_size_of(model: Model) -> int:
    """The groups in which a float32 model's rows can be quantised."""
    config = model.checkpoint.config
    return math.gcd(math.gcd(config.dim, config.hidden_dim), 64)


@np.errstate(all="ignore")  # many a fault divides by zero
def outcome(
    made: Callable[[], tuple[Port, Engine]], model: Model, prompt: bytes, steps: int, *, needs_state: bool = True
) -> Outcome:
    """Run a port over the prompt, as one teacher-forced pass.

    Args:
        steps: positions that the program is given.
        needs_state: without the state attention is computed as a whole, which is quicker.
    """
    try:
        port, engine = made()
        ids = port.prompt_ids(model, prompt)
    except (PortCrashed, IndexError):
        return Outcome(Way.CRASHED)
    except ValueError:  # weights that cannot be laid out so
        return Outcome(Way.UNDEFINED)
    if len(ids) > clamp_steps(steps, model.checkpoint.config.seq_len):
        return Outcome(Way.SILENT)
    kept = Rows(1, engine.config.vocab_size, engine.dtype)
    states: dict[str, Array] = {}

    def tap(name: str, layer: int, value: Array) -> None:
        if name == "final_norm":
            states[name] = np.array(value[-1], np.float64)

    try:
        engine.score([ids], kept, first=[len(ids) - 1], tap=tap if needs_state else None)
    except ValueError:
        return Outcome(Way.UNDEFINED)
    token = engine.ops.argmax(engine.config, kept.logits[0])
    state = states.get("final_norm")
    if state is None or not np.isfinite(state).all() or not state.any():
        return Outcome(Way.SPOKE, token)
    return Outcome(Way.SPOKE, token, state / np.linalg.norm(state))


def honest_outcomes(model: Model, prompt: bytes, steps: int) -> list[Outcome]:
    """Outcomes of the programs whose spread is the noise: other orders of sums, inputs moved by an ulp, float64."""
    config, tensors = model.checkpoint.config, model.checkpoint.tensors
    members = ensemble(config, tensors, is_int8=model.checkpoint.group_size is not None)
    if model.checkpoint.group_size is None:
        members.append(Engine(config, tensors, dtype=np.float64, ops=LIBRARY))
    return [outcome(lambda engine=engine: (Port(), engine), model, prompt, steps) for engine in members]  # type: ignore[misc]


def angles(a: Array, b: Array) -> Array:
    """Angles in radians between unit rows a (n, dim) and b (m, dim): (n, m), exact for small ones too."""
    chord = np.sqrt(np.maximum(0, ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=-1)))
    out: Array = 2 * np.arcsin(np.minimum(1, chord / 2))
    return out
