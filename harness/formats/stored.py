"""Tensors as they lie in a file: views of mapped bytes with a stored type; and how they become a Checkpoint's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint import Checkpoint, Source, Tensor, expected_shapes, shape_and_dtype
from harness.errors import CheckpointError
from harness.formats import numbers
from harness.formats.format import WriteOptions
from harness.model_config import ModelConfig
from harness.quant import QuantTensor

__all__ = [
    "Stored",
    "check_shapes",
    "dtype_to_store",
    "dtypes_to_store",
    "floats",
    "same",
    "source",
    "tensor_bytes",
    "write_tensor",
]

Reorder = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor of a mapped file.

    Attributes:
        bits: of the tensor's shape; of bfloat16, uint16. A view of the file, maybe with strides.
        dtype: the stored type, a key of `numbers.BYTES`.
    """

    bits: NDArray[Any]
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape

    def values(self) -> NDArray[Any]:
        """Return floats: a view of the file, except of bfloat16."""
        return numbers.widen(self.bits, self.dtype)


def source(stored: Stored, reorder: Reorder | None = None) -> Source:
    """Offer a stored tensor under a canonical name, its rows reordered when it is asked for."""

    def peek() -> NDArray[Any]:
        rows = stored.bits[:2], stored.bits[-2:]
        return np.concatenate([numbers.widen(np.ascontiguousarray(some), stored.dtype).ravel() for some in rows])

    if reorder is None:
        return Source(stored.shape, stored.dtype, stored.values, peek)

    def load() -> NDArray[Any]:
        return numbers.widen(reorder(stored.bits), stored.dtype)

    return Source(stored.shape, stored.dtype, load, peek)


def same(a: Stored, b: Stored) -> bool:
    """Whether two stored tensors have the same bits; quickly, where they are the same place of a file."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.bits.__array_interface__["data"] == b.bits.__array_interface__["data"]:
        return True
    return all(np.array_equal(a.bits[i : i + 1024], b.bits[i : i + 1024]) for i in range(0, len(a.bits), 1024))


def check_shapes(config: ModelConfig, sources: Mapping[str, Source], path: Path, spell: Callable[[str], str]) -> None:
    """Hold the sources against `expected_shapes`.

    Args:
        spell: canonical name -> the name in the file, for the message.

    Raises:
        CheckpointError: naming the first tensor that is missing or of another shape.
    """
    for name, shape in expected_shapes(config).items():
        found = sources.get(name)
        if found is None:
            raise CheckpointError(f"tensor {spell(name)} is missing", path=path, hint="is a shard missing?")
        if found.dtype not in numbers.BYTES:
            raise CheckpointError(f"tensor {spell(name)} is not of floating point", path=path, actual=found.dtype)
        if found.shape != shape:
            raise CheckpointError(
                f"tensor {spell(name)} has another shape than the configuration says",
                path=path,
                expected=shape,
                actual=found.shape,
            )


# ---- writing -------------------------------------------------------------------------------------


def dtype_to_store(checkpoint: Checkpoint, name: str, options: WriteOptions, dtypes: tuple[str, ...]) -> str:
    """Choose a stored type: the one asked for, else its own if the format has that, else the format's first."""
    if options.dtype:
        return options.dtype
    _, own = shape_and_dtype(checkpoint.tensors, name)
    return own if own in dtypes else dtypes[0]


def dtypes_to_store(checkpoint: Checkpoint, options: WriteOptions, dtypes: tuple[str, ...]) -> dict[str, str]:
    """Choose the stored type of every tensor, in the order of the forward pass."""
    return {name: dtype_to_store(checkpoint, name, options, dtypes) for name in expected_shapes(checkpoint.config)}


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * numbers.BYTES[dtype]


def floats(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor's values; codes times scales in float32."""
    return tensor.dequantize() if isinstance(tensor, QuantTensor) else tensor


def write_tensor(file: IO[bytes], name: str, values: NDArray[Any], dtype: str, path: Path) -> None:
    """Append a tensor's values, narrowed block by block."""
    for piece in numbers.blocks(values):
        try:
            file.write(np.ascontiguousarray(numbers.narrow(piece, dtype)).data)
        except ValueError as error:
            raise CheckpointError(f"tensor {name} cannot be stored: {error}", path=path) from error
