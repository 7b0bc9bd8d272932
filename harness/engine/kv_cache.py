"""Key/value caches of one sequence: in place, concatenating, or none; all of one interface.

`append(layer, k, v)` adds rows (n_tokens, n_kv_heads, head_dim), `view(layer)` gives everything so far, oldest
first, keys already rotated. `length` counts positions that every layer holds. `truncate(n)` forgets the rest.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from harness.engine.ops import Array
from harness.model_config import ModelConfig

__all__ = ["CacheKind", "Concatenating", "InPlace", "KVCache", "make_cache"]

CacheKind = Literal["in-place", "concat", "none"]


class KVCache(Protocol):
    """What the engine asks of a cache."""

    def append(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]: ...
    def view(self, layer: int) -> tuple[Array, Array]: ...
    def truncate(self, length: int) -> None: ...
    @property
    def length(self) -> int: ...


class InPlace:
    """Arrays of the full capacity, written in place: (n_layers, capacity, n_kv_heads, head_dim)."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: npt.DTypeLike) -> None:
        shape = (config.n_layers, capacity, config.n_kv_heads, config.head_dim)
        self._k = np.zeros(shape, dtype)
        self._v = np.zeros(shape, dtype)
        self._filled = [0] * config.n_layers

    def append(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Write k and v behind what is there, and return the view."""
        start = self._filled[layer]
        end = start + len(k)
        keys, values = self._k[layer], self._v[layer]
        keys[start:end] = k
        values[start:end] = v
        self._filled[layer] = end
        return keys[:end], values[:end]

    def rows(self, layer: int) -> tuple[Array, Array]:
        """All that there is room for, for who writes by itself and calls `fill` afterwards."""
        return self._k[layer], self._v[layer]

    def fill(self, length: int) -> None:
        """Say that every layer holds so many positions."""
        self._filled = [length] * len(self._filled)

    def view(self, layer: int) -> tuple[Array, Array]:
        n = self._filled[layer]
        return self._k[layer, :n], self._v[layer, :n]

    def truncate(self, length: int) -> None:
        self._filled = [min(length, n) for n in self._filled]

    @property
    def length(self) -> int:
        return min(self._filled)


class Concatenating:
    """Arrays that grow by concatenation, as ports in array languages do."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: npt.DTypeLike) -> None:
        empty = np.zeros((0, config.n_kv_heads, config.head_dim), dtype)
        self._k = [empty] * config.n_layers
        self._v = [empty] * config.n_layers

    def append(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        self._k[layer] = np.concatenate([self._k[layer], k])
        self._v[layer] = np.concatenate([self._v[layer], v])
        return self._k[layer], self._v[layer]

    def view(self, layer: int) -> tuple[Array, Array]:
        return self._k[layer], self._v[layer]

    def truncate(self, length: int) -> None:
        self._k = [k[:length] for k in self._k]
        self._v = [v[:length] for v in self._v]

    @property
    def length(self) -> int:
        return min(len(k) for k in self._k)


def make_cache(kind: CacheKind, config: ModelConfig, capacity: int, dtype: npt.DTypeLike) -> KVCache:
    """Make an empty cache. "none" is a concatenating cache that the session empties before every call."""
    return InPlace(config, capacity, dtype) if kind == "in-place" else Concatenating(config, capacity, dtype)
