"""The limits: what this machine can do at the very most in the terms of the work at hand.

matrix-product peak   floating-point operations per second of a large square product in BLAS
matrix-vector bound   tokens per second if decoding a token were its matrix-vector products and nothing else:
                      the same matrices, in the same order, each read once
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.model_config import ModelConfig

__all__ = ["matrix_product_peak", "matrix_vector_pass", "product_flops"]

_PEAK_SIZE = 1536  # large enough that BLAS is at its best, small enough for a tenth of a second


def matrix_product_peak(dtype: npt.DTypeLike) -> Callable[[], float]:
    """Return a probe: floating-point operations per second of one large square product."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((_PEAK_SIZE, _PEAK_SIZE)).astype(dtype)
    out = np.empty_like(a)

    def probe() -> float:
        started = time.perf_counter()
        np.matmul(a, a, out=out)
        return 2 * _PEAK_SIZE**3 / (time.perf_counter() - started)

    return probe


def matrix_vector_pass(matrices: Sequence[npt.NDArray[Any]]) -> Callable[[], float]:
    """Return a probe: seconds of one product of every matrix with a vector, in order."""
    vectors = {n: np.ones((1, n), matrices[0].dtype) for n in {m.shape[1] for m in matrices}}

    def probe() -> float:
        started = time.perf_counter()
        for matrix in matrices:
            vectors[matrix.shape[1]] @ matrix.T
        return time.perf_counter() - started

    return probe


def product_flops(config: ModelConfig) -> int:
    """Floating-point operations of one token's matrix products; the attention's own are left out."""
    layer = 2 * config.dim**2 + 2 * config.dim * config.kv_dim + 3 * config.dim * config.hidden_dim
    return 2 * (config.n_layers * layer + config.vocab_size * config.dim)
