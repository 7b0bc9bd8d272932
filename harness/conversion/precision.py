"""What rounding the weights costs: the same text read by the model in several precisions, against float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint import Checkpoint, expected_shapes
from harness.conversion.inspect import read_rate
from harness.engine import LIBRARY, Engine, Ops, blas_threads, generate
from harness.engine.ops import Lookup, Weight
from harness.errors import InputError
from harness.formats import gguf_types, numbers
from harness.judging.logits import Quality, quality
from harness.model_config import ModelConfig
from harness.quant import QuantTensor, quantize_weights

__all__ = ["PRECISIONS", "Cost", "costs", "own_text"]

Array = NDArray[Any]

PRECISIONS = ("f32", "f16", "bf16", "q8", "q4")
_GROUPS = (64, 32, 16, 8, 4, 2, 1)
_Q4_BLOCK = gguf_types.Q4_0.block
_MAX_LOGITS = 1 << 24  # of one array: 128 MiB in float64


@dataclass(frozen=True, slots=True)
class Cost:
    """One precision.

    Attributes:
        precision: "f32", "f16", "bf16", "q8" or "q4".
        what: how weights are kept, and what is computed, in words.
        n_bytes: all weights as they would be stored; vectors stay float32.
        limit_tps: tokens per second if decoding were reading the weights of a token from memory, one thread.
        n_positions: tokens that were compared.
        quality: its logits against float64's.
    """

    precision: str
    what: str
    n_bytes: int
    limit_tps: float
    n_positions: int
    quality: Quality


def own_text(checkpoint: Checkpoint, *, n_positions: int, bos: int = 1) -> list[list[int]]:
    """Let the model write texts of its own, sampled at temperature 1, at least so many positions in all."""
    config = checkpoint.config
    engine = Engine(config, checkpoint.tensors)
    texts: list[list[int]] = []
    with blas_threads(1), np.errstate(all="ignore"):
        for seed in range(1, n_positions + 1):
            steps = min(config.seq_len, 256)
            new = generate(engine, [bos], steps=steps, temperature=1.0, topp=1.0, seed=seed, stop=frozenset({bos}))
            texts.append([bos, *new][:steps])
            if sum(map(len, texts)) - len(texts) >= n_positions:
                break
    return texts


def costs(
    checkpoint: Checkpoint,
    texts: Sequence[Sequence[int]],
    *,
    precisions: Sequence[str] = PRECISIONS,
    n_positions: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Cost]:
    """Read texts in each precision, and compare every position's logits with float64's.

    Args:
        checkpoint: in floating point.
        texts: token ids, BOS included; positions beyond what fits into memory are left out.
        n_positions: compare no more than so many.

    Raises:
        InputError: the checkpoint is quantised already, or there is nothing to read.
    """
    if any(isinstance(tensor, QuantTensor) for tensor in checkpoint.tensors.values()):
        raise InputError("holds int8 weights", path=checkpoint.path, expected="a model in floating point")
    config = checkpoint.config
    most = max(1, _MAX_LOGITS // config.vocab_size)
    read = _fitting(texts, most if n_positions is None else min(most, n_positions))
    if not read:
        raise InputError("the text is too short", expected="at least two tokens")
    following = [token for text in read for token in text[1:]]
    with blas_threads(1), np.errstate(all="ignore"):
        progress("float64")
        exact = _logits(Engine(config, checkpoint.tensors, dtype=np.float64), read)
        for precision in precisions:
            progress(precision)
            ops, what, stored = _arithmetic(precision, config)
            actual = _logits(Engine(config, checkpoint.tensors, ops=ops), read)
            per_token = _weights_bytes(config, stored, is_token=True)
            yield Cost(
                precision,
                what,
                n_bytes=round(_weights_bytes(config, stored, is_token=False)),
                limit_tps=read_rate(round(per_token)) / per_token,
                n_positions=len(exact),
                quality=quality(exact, actual, following),
            )


def _fitting(texts: Sequence[Sequence[int]], n_positions: int) -> list[list[int]]:
    """The first texts, the last of them cut, that have so many positions to judge."""
    found: list[list[int]] = []
    for text in texts:
        part = list(text[: n_positions + 1])
        if len(part) > 1:
            found.append(part)
            n_positions -= len(part) - 1
        if n_positions < 1:
            break
    return found


def _logits(engine: Engine, texts: Sequence[Sequence[int]]) -> Array:
    return np.concatenate([engine.logits(text[:-1]) for text in texts])


def _arithmetic(precision: str, config: ModelConfig) -> tuple[Ops, str, Callable[[int], float]]:
    """The operations, what they are in words, and bytes of a value in a matrix by the length of its rows."""

    def rounded(change: Callable[[Array], Weight]) -> Ops:
        def weight(config: ModelConfig, layer: int, name: str, lookup: Lookup) -> Weight:
            found = lookup(layer, name)
            return (
                found if isinstance(found, QuantTensor) or found.ndim == 1 else change(np.asarray(found, np.float32))
            )

        return replace(LIBRARY, weight=weight)

    if precision == "f32":
        return LIBRARY, "float32", lambda _: 4
    if precision in ("f16", "bf16"):
        dtype = {"f16": "float16", "bf16": "bfloat16"}[precision]
        what = f"weights {dtype}, arithmetic float32"
        return rounded(lambda w: numbers.rounded(w, dtype).astype(np.float32)), what, lambda _: 2
    if precision == "q8":
        group = next(g for g in _GROUPS if not config.dim % g and not config.hidden_dim % g and not config.q_dim % g)
        what = f"int8 in groups of {group}, activations too, as llama2.c's runq"
        return rounded(lambda w: quantize_weights(w, group)), what, lambda _: 1 + 4 / group
    if precision != "q4":
        raise InputError(f"there is no precision {precision}", expected=f"one of {', '.join(PRECISIONS)}")
    what = f"Q4_0: 4 bits in blocks of {_Q4_BLOCK}, arithmetic float32"
    if config.dim % _Q4_BLOCK or config.hidden_dim % _Q4_BLOCK or config.q_dim % _Q4_BLOCK:
        what += f"; float16 where rows are no multiple of {_Q4_BLOCK}"

    def through_q4(w: Array) -> Array:
        if w.shape[1] % _Q4_BLOCK:
            return numbers.rounded(w, "float16").astype(np.float32)
        return gguf_types.dequantize(gguf_types.encode(w, gguf_types.Q4_0), gguf_types.Q4_0, w.shape)

    of_block = gguf_types.Q4_0.block_bytes / _Q4_BLOCK
    return rounded(through_q4), what, lambda n: 2 if n % _Q4_BLOCK else of_block


def _weights_bytes(config: ModelConfig, stored: Callable[[int], float], *, is_token: bool) -> float:
    """Bytes of all weights, or of those that a token reads: not an embedding that is only looked up."""
    shapes = expected_shapes(config)
    if is_token and not config.is_tied:
        del shapes["tok_embedding"]
    return sum(math.prod(shape) * (4 if len(shape) == 1 else stored(shape[1])) for shape in shapes.values())
