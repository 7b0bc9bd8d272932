"""How fast the reference engine verifies and decodes, beside this machine's own limits.

All is measured in one run, in rounds that interleave what is compared, with one BLAS thread; a share of a limit
is the median of the rounds' ratios, so that a machine whose speed drifts still gives a steady share.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.bench import roofline, workload
from harness.engine import Engine, blas_threads
from harness.engine.ops import Weight

__all__ = ["Speed", "measure"]

_BATCH_TOKENS = 1024
_SEQUENCE = 256
_DECODE_FROM = 32  # positions before the decoded ones
_WARMING = 8  # of those decoded untimed, and passes of the bound: caches hold then what they hold in the long run
_DECODE_TOKENS = 32  # in each round; for small models more, so that a round lasts long enough


@dataclass(frozen=True, slots=True)
class Speed:
    """One row: one model shape in one precision.

    Attributes:
        model: name of the shape; the weights are synthetic.
        dtype: of weights and arithmetic.
        verify_tps: tokens judged per second, 1,024 in a batch, through `Engine.judge` as `harness check` calls it.
        peak_flops: matrix-product peak of this precision.
        verify_share: of that peak that the products of verifying reach (attention and the rest count as loss).
        decode_tps: tokens per second, one at a time, with the cache in place.
        bound_tps: tokens per second if decoding were its matrix-vector products alone.
        decode_share: of that bound.
        rounds: how many were measured.
    """

    model: str
    dtype: str
    verify_tps: float
    peak_flops: float
    verify_share: float
    decode_tps: float
    bound_tps: float
    decode_share: float
    rounds: int


def measure(
    models: Sequence[str],
    *,
    dtypes: Sequence[npt.DTypeLike] = (np.float32, np.float64),
    rounds: int = 9,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Speed]:
    """Measure the engine on synthetic models of the named shapes, and yield a row for each shape and precision."""
    with blas_threads(1):
        for model in models:
            config = workload.shape_of(model)
            progress(f"{model}: making weights")
            tensors: dict[str, Weight] = {**workload.synthetic_tensors(config)}
            for dtype in dtypes:
                name = np.dtype(dtype).name
                engine = Engine(config, tensors, dtype=dtype)
                yield _measured(engine, model, name, rounds, progress)
                del engine


def _measured(engine: Engine, model: str, dtype: str, rounds: int, progress: Callable[[str], None]) -> Speed:
    config = engine.config
    sequences = workload.token_sequences(config, _BATCH_TOKENS // _SEQUENCE, _SEQUENCE + 1)
    first = [1] * len(sequences)
    n_judged = sum(len(s) - 1 for s in sequences)
    session = engine.session()
    prefix = sequences[0][:_DECODE_FROM]
    n_decoded = min(config.seq_len - _DECODE_FROM - 1, _DECODE_TOKENS * (4 if config.n_params < 1e6 else 1))
    tokens = sequences[1][1 : n_decoded + 1]
    peak = roofline.matrix_product_peak(engine.dtype)
    bound = roofline.matrix_vector_pass(engine.matrices())

    def verify() -> float:
        started = time.perf_counter()
        engine.judge(sequences, first)
        return n_judged / (time.perf_counter() - started)

    def decode() -> float:
        session.truncate(0)
        session.extend(prefix[:-_WARMING])
        for token in prefix[-_WARMING:]:
            session.extend([token])
        started = time.perf_counter()
        for token in tokens:
            session.extend([token])
        return n_decoded / (time.perf_counter() - started)

    def bare() -> float:
        for _ in range(_WARMING):
            bound()
        return n_decoded / sum(bound() for _ in range(n_decoded))

    verify(), decode(), bare(), peak()  # warm: weights are cast and fused, pages touched
    rows = []
    for n in range(rounds):
        progress(f"{model} {dtype}: round {n + 1} of {rounds}")
        rows.append((verify(), peak(), decode(), bare(), decode(), peak()))
    flops = roofline.product_flops(config)
    verified = [row[0] for row in rows]
    peaks = [max(row[1], row[5]) for row in rows]
    decoded = [(row[2] + row[4]) / 2 for row in rows]
    bounds = [row[3] for row in rows]
    return Speed(
        model=model,
        dtype=dtype,
        verify_tps=statistics.median(verified),
        peak_flops=statistics.median(peaks),
        verify_share=statistics.median(v * flops / p for v, p in zip(verified, peaks, strict=True)),
        decode_tps=statistics.median(decoded),
        bound_tps=statistics.median(bounds),
        decode_share=statistics.median(d / b for d, b in zip(decoded, bounds, strict=True)),
        rounds=rounds,
    )
