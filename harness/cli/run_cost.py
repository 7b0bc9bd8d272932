"""What a run of the reference costs: seconds of its stages and of the operations inside a token, and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from harness.cli.output import size
from harness.engine import Ops, Step
from harness.model_config import ModelConfig

__all__ = ["Cost", "OperationClock", "memory"]

# Operation -> what it is called in the table; matrix products go by the matrix.
_KINDS = {
    "embed": "embedding",
    "attn_norm": "norms",
    "ffn_norm": "norms",
    "final_norm": "norms",
    "q_norm": "norms",
    "k_norm": "norms",
    "bias": "biases",
    "angles": "rotation",
    "rotate_q": "rotation",
    "rotate_k": "rotation",
    "scores": "attention",
    "scale": "attention",
    "softmax": "attention",
    "mix": "attention",
    "activation": "activation",
    "gated": "activation",
    "attn_residual": "residuals",
    "ffn_residual": "residuals",
    "argmax": "argmax",
}


@dataclass(slots=True)
class Cost:
    """Seconds of the stages of one run, and how many tokens were fed in each.

    Attributes:
        load_s: reading files, casting weights.
        prefill_s: until the first token after the prompt is known.
        decode_s: from there on.
    """

    load_s: float = 0.0
    prefill_s: float = 0.0
    n_prefilled: int = 0
    decode_s: float = 0.0
    n_decoded: int = 0

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Count what is done inside as loading."""
        start = time.perf_counter()
        yield
        self.load_s += time.perf_counter() - start

    def stages(self) -> str:
        """Spell the times."""
        return (
            f"load {self.load_s:.3g} s, prefill {_speed(self.n_prefilled, self.prefill_s)}, "
            f"decode {_speed(self.n_decoded, self.decode_s)}"
        )


def _speed(n_tokens: int, seconds: float) -> str:
    if not n_tokens or seconds <= 0:
        return "0 tokens"
    return f"{n_tokens:,} token{'s' if n_tokens > 1 else ''} at {n_tokens / seconds:,.0f} tok/s"


def memory(config: ModelConfig, *, itemsize: int, group_size: int | None, n_positions: int) -> str:
    """Spell what weights and cache take, and the most that the process had.

    Args:
        itemsize: bytes of a number that is computed with.
        group_size: values per scale of int8 weights, whose codes and scales are kept as they are.
        n_positions: that the cache has room for.
    """
    weights = config.n_params * (1 + 4 / group_size if group_size else itemsize)
    cache = 2 * config.n_layers * config.kv_dim * n_positions * itemsize
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return (
        f"memory: weights {size(weights)}, keys and values of {n_positions:,} positions {size(cache)}, the whole "
        f"process at most {size(most)}"
    )


class OperationClock:
    """Seconds inside the operations of the forward pass, by kind.

    The operations that the engine fuses are computed one by one where they are timed, so a timed run is slower than
    another: what it shows is where the time goes.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def timed(self, ops: Ops) -> Ops:
        """Return the same operations, each of which adds its time here."""
        changes: dict[str, Any] = {name: self._timed(getattr(ops, name), kind) for name, kind in _KINDS.items()}
        return replace(ops, matmul=self._timed_product(ops.matmul), **changes)

    def _timed(self, operation: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            start = time.perf_counter()
            found = operation(*arguments)
            self.seconds[kind] += time.perf_counter() - start
            return found

        return run

    def _timed_product(self, matmul: Callable[..., Any]) -> Callable[..., Any]:
        def run(step: Step, name: str, x: Any, w: Any) -> Any:
            start = time.perf_counter()
            found = matmul(step, name, x, w)
            self.seconds[f"product {name}"] += time.perf_counter() - start
            return found

        return run

    def lines(self, cost: Cost) -> list[str]:
        """Spell the time of each kind as a share of prefill and decoding, the largest first."""
        whole = cost.prefill_s + cost.decode_s
        n = cost.n_prefilled + cost.n_decoded
        if not n or whole <= 0:
            return []
        parts = sorted(self.seconds.items(), key=lambda one: -one[1])
        parts.append(("between them", whole - sum(self.seconds.values())))
        return [f"inside {n:,} tokens, each operation computed by itself:"] + [
            f"  {name:<16} {seconds / n * 1e6:>10,.1f} us a token {seconds / whole:>6.1%}" for name, seconds in parts
        ]
