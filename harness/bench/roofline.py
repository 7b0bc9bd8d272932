"""The limits: what this machine can do at the very most in the terms of the work at hand.

matrix-product peak   floating-point operations per second of a large square product in BLAS
matrix-vector bound   tokens per second if decoding a token were its matrix-vector products and nothing else:
                      the same matrices, in the same order, each read once
read bandwidth        bytes per second of reading a model's bytes over and over, with so many threads
product bandwidth     the same bytes, taken for a float matrix and multiplied with a vector
multiply-add peak     floating-point operations per second of multiply-adds that wait for nothing
disk bandwidth        bytes per second of reading a model's file that memory does not hold

The bandwidths of memory and the multiply-add peak are a C program of our own (probe.c), built like any
implementation; without a compiler numpy stands in, with one thread and nearer to what numpy reaches than to the
limit, and whatever is reported says so.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.adapters import process
from harness.adapters.build import build
from harness.adapters.manifest import Manifest
from harness.errors import ImplementationError, MissingDependency
from harness.model_config import ModelConfig

__all__ = [
    "Probes",
    "disk_rate",
    "matrix_product_peak",
    "matrix_vector_pass",
    "numpy_limits",
    "probes",
    "product_flops",
]

_PEAK_SIZE = 1536  # large enough that BLAS is at its best, small enough for a tenth of a second


_PROBE = Manifest(
    path=Path(__file__).with_name("impl.toml"),
    name="limits-probe",
    build=(("{cc}", "-O3", "-march=native", "-std=gnu11", "-pthread", "-o", "{out}/probe", "{src}/probe.c"),),
    inputs=("probe.c",),
    run=("{out}/probe",),
)
_NUMPY_CAP_BYTES = 256 << 20
_NUMPY_S = 0.05
_NUMPY_COLUMNS = 512
_BATCH_BYTES = 8 << 20
_DISK_BYTES, _DISK_BLOCK = 1 << 30, 8 << 20


@dataclass(frozen=True, slots=True)
class Probes:
    """What tells of the machine's limits.

    Attributes:
        limits: (bytes, threads) -> bytes read, bytes of a product, operations per second, and how.
        spawn_s: seconds that the harness adds to the time of any run; None where nothing can tell.
        disk: (file) -> bytes per second of reading it from the disk.
    """

    limits: Callable[[int, int], tuple[float, float, float, str]]
    spawn_s: Callable[[], float | None] = lambda: None
    disk: Callable[[Path], float] | None = None


def probes(progress: Callable[[str], None] | None = None) -> Probes:
    """Build the C program, if it was not built before; where it cannot be built numpy stands in."""
    try:
        program = build(_PROBE, progress=progress) / "probe"
    except (MissingDependency, ImplementationError):
        return Probes(numpy_limits, disk=disk_rate)

    def spawn_s() -> float | None:
        seen = process.run([str(program)], cwd="/")
        try:
            return max(0.0, seen.wall_s - float(seen.stdout))
        except ValueError:
            return None

    def probe(n_bytes: int, threads: int) -> tuple[float, float, float, str]:
        limits = process.Limits(time_s=120.0, memory_bytes=max(8 << 30, 2 * n_bytes))
        seen = process.run([str(program), str(n_bytes), str(threads)], cwd="/", limits=limits)
        try:
            read, product, flops = map(float, seen.stdout.split())
        except ValueError:
            return numpy_limits(n_bytes, threads)
        return read, product, flops, "C"

    return Probes(probe, spawn_s, disk_rate)


def disk_rate(path: Path, *, n_bytes: int = _DISK_BYTES) -> float:
    """Bytes per second of reading a part of a file from the disk, in order, after the system was told to forget it.

    Where it cannot be told that, what the system remembers counts as the disk.
    """
    size = path.stat().st_size
    n_bytes = min(n_bytes, size)
    start = random.randrange(size - n_bytes + 1) // _DISK_BLOCK * _DISK_BLOCK
    block = bytearray(_DISK_BLOCK)
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), start, n_bytes, os.POSIX_FADV_DONTNEED)
        file.seek(start)
        done, begun = 0, time.perf_counter()
        while done < n_bytes and (got := file.readinto(block)):
            done += got
        return done / (time.perf_counter() - begun)


def numpy_limits(n_bytes: int, threads: int) -> tuple[float, float, float, str]:
    """Probe the limits with numpy alone: a dot product and a matrix-vector product of the bytes, in one thread."""
    data = np.ones(
        (max(_NUMPY_COLUMNS, min(n_bytes, _NUMPY_CAP_BYTES) // 4) // _NUMPY_COLUMNS, _NUMPY_COLUMNS), np.float32
    )
    flat, vector = data.ravel(), data[0].copy()
    peak = matrix_product_peak(np.float32)
    read = _best_rate(lambda: flat.dot(flat), data.nbytes)
    return read, _best_rate(lambda: data.dot(vector), data.nbytes), max(peak(), peak()), "numpy"


def _best_rate(work: Callable[[], object], n_bytes: int) -> float:
    """Bytes per second of the fastest of some batches of a piece of work on so many bytes."""
    n = max(1, _BATCH_BYTES // n_bytes)
    best, started = 0.0, time.perf_counter()
    while not best or time.perf_counter() - started < _NUMPY_S:
        begun = time.perf_counter()
        for _ in range(n):
            work()
        best = max(best, n * n_bytes / (time.perf_counter() - begun))
    return best


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
