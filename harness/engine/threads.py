"""How many threads BLAS may use: pinned, because two can be ten times slower than one on a small model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController

__all__ = ["blas_threads", "max_blas_threads"]


@contextmanager
def blas_threads(n: int = 1) -> Iterator[None]:
    """Limit BLAS to n threads while the context lasts."""
    with ThreadpoolController().limit(limits=n, user_api="blas"):
        yield


def max_blas_threads() -> int:
    """Return how many threads BLAS would use now (1 where none is loaded)."""
    return max((pool["num_threads"] for pool in ThreadpoolController().info()), default=1)
