"""What a right program's residual stream is behind every sub-block, and what honest programs make of it.

One pass with taps gives the state behind every cut at once: a checkpoint whose later blocks are zeros adds nothing to
the residual stream, so what reaches the last norm is the stream as it was there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.engine import LIBRARY, STRICT, Engine, Ops, Step, blas_threads
from harness.engine.honest import moved_embedding, turned_angles
from harness.engine.ops import Tap, Weight
from harness.model_config import ModelConfig
from harness.trace.points import SCORES

__all__ = ["EMBEDDING", "FINAL_NORM", "Place", "Program", "exact_program", "honest_programs", "places"]

Array = npt.NDArray[Any]
Place = tuple[int, str]  # layer (-1 outside of the blocks) and sub-block

EMBEDDING: Place = (-1, "embedding")
FINAL_NORM: Place = (-1, "final norm")
_BEHIND = {"embedding": "embedding", "attn_residual": "attention", "ffn_residual": "feed-forward"}
_ULP = float(np.finfo(np.float32).eps)


def places(config: ModelConfig) -> list[Place]:
    """Every sub-block, in the order of computation."""
    inner = [(layer, block) for layer in range(config.n_layers) for block in ("attention", "feed-forward")]
    return [EMBEDDING, *inner, FINAL_NORM]


@dataclass(frozen=True, slots=True)
class Program:
    """An arithmetic: operations, and the dtype of activations."""

    ops: Ops
    dtype: npt.DTypeLike

    def streams(
        self, config: ModelConfig, tensors: Mapping[str, Weight], ids: Sequence[int], n_read: int
    ) -> dict[Place, Array]:
        """The residual stream (n_read, dim) behind every sub-block, at the last positions of ids.

        Behind the last norm's place it is what was computed last; a sub-block that did not run is not there.
        """
        parts: dict[Place, list[Array]] = {}  # several where a fault needs one position at a time

        def tap(name: str, layer: int, value: Array) -> None:
            if name in _BEHIND:
                parts.setdefault((layer, _BEHIND[name]), []).append(value[-n_read:].copy())

        self._run(config, tensors, ids, tap)
        found = {place: np.concatenate(part)[-n_read:] for place, part in parts.items()}
        found[FINAL_NORM] = found[next(reversed(found))]
        return found

    def largest_score(self, config: ModelConfig, tensors: Mapping[str, Weight], ids: Sequence[int]) -> float:
        """The largest magnitude of a scaled score in layer 0."""
        largest = [0.0]

        def tap(name: str, layer: int, value: Array) -> None:
            if name == SCORES and layer == 0:
                seen = value[np.isfinite(value)]
                largest.append(float(np.abs(seen).max(initial=0)))

        self._run(config, tensors, ids, tap)
        return max(largest)

    def normalised(self, config: ModelConfig, stream: Array, gain: Array) -> Array:
        """The last norm of a stream (n, dim)."""
        with np.errstate(all="ignore"):
            return self.ops.final_norm(self._step(config, stream), stream, gain.astype(self.dtype))

    def logits(self, config: ModelConfig, stream: Array, gain: Array, classifier: Weight) -> Array:
        """(n, n_rows) what the classifier makes of a stream (n, dim)."""
        rows = self.ops.weight(config, -1, "lm_head", lambda layer, name: classifier)
        if isinstance(rows, np.ndarray):
            rows = rows.astype(self.dtype)
        step = self._step(config, stream)
        with np.errstate(all="ignore"):
            product = self.ops.matmul(step, "lm_head", self.normalised(config, stream, gain), rows)
            return self.ops.logits(step, product)

    def _run(self, config: ModelConfig, tensors: Mapping[str, Weight], ids: Sequence[int], tap: Tap) -> None:
        one_token = {"final_norm": np.ones(config.dim, np.float32), "lm_head": np.ones((1, config.dim), np.float32)}
        engine = Engine(config, {**tensors, **one_token}, dtype=self.dtype, ops=self.ops)
        with blas_threads(1), np.errstate(all="ignore"):
            engine.logits(ids, first=len(ids) - 1, tap=tap)

    def _step(self, config: ModelConfig, stream: Array) -> Step:
        return Step(config, -1, np.arange(len(stream)), self.dtype, {})


def exact_program(*, is_int8: bool) -> Program:
    """The one whose angles are taken for true: float64, or for int8 models llama2.c's own order of float32 sums."""
    return Program(STRICT, np.float32) if is_int8 else Program(LIBRARY, np.float64)


def honest_programs(*, is_int8: bool, declared: Sequence[Ops] = (), few: bool = False) -> list[Program]:
    """Other orders of sums, inputs and rotary frequencies moved by a unit in the last place, declared precisions.

    Args:
        few: only the quick ones, where what is looked for is far larger than the noise.
    """
    moved = [replace(LIBRARY, embed=moved_embedding(seed)) for seed in (1, 2)]
    turned = [replace(LIBRARY, angles=turned_angles(unit)) for unit in (-_ULP, _ULP)]
    if few:
        return [Program(ops, np.float32) for ops in (LIBRARY, moved[0], turned[0], *declared)]
    second = Program(LIBRARY, np.float64) if is_int8 else Program(STRICT, np.float32)
    return [second, *(Program(ops, np.float32) for ops in (LIBRARY, *moved, *turned, *declared))]
