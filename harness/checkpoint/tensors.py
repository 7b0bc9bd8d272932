"""What a checkpoint's tensors are: arrays at hand, or made from the file each time they are asked for.

A llama2.c file is mapped, and its tensors are views. Other files order the rows of a matrix otherwise, cut it into
shards, or store numbers that numpy has no type for. `LazyTensors` makes such a tensor when it is asked for, keeps
nothing, and says its shape and stored type without making it, so that a file larger than memory can be described,
converted and judged tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from harness.quant import QuantTensor

__all__ = ["LazyTensors", "Source", "Tensor", "is_quantised", "shape_and_dtype", "without"]

Tensor = NDArray[Any] | QuantTensor


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor that can be had.

    Attributes:
        shape: of what `load` returns.
        dtype: how the numbers are stored: float32, float64, float16, bfloat16, int8, or a format's own word (q8_0).
        load: returns a floating-point array (bfloat16 widened to float32, exactly) or a QuantTensor.
        peek: returns a few of the values, in any order, at little cost; None where that cannot be.
    """

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Tensor]
    peek: Callable[[], NDArray[Any]] | None = None


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, made anew each time: who needs one twice keeps it."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = dict(sources)

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __getitem__(self, name: str) -> Tensor:
        return self._sources[name].load()

    def source(self, name: str) -> Source:
        return self._sources[name]


def shape_and_dtype(tensors: Mapping[str, Tensor], name: str) -> tuple[tuple[int, ...], str]:
    """Return a tensor's shape and the word for its stored type, without making it.

    >>> import numpy as np
    >>> shape_and_dtype({"wq": np.zeros((2, 3), np.float16)}, "wq")
    ((2, 3), 'float16')
    """
    if isinstance(tensors, LazyTensors):
        source = tensors.source(name)
        return source.shape, source.dtype
    tensor = tensors[name]
    return tensor.shape, "int8" if isinstance(tensor, QuantTensor) else tensor.dtype.name


def is_quantised(tensors: Mapping[str, Tensor], name: str) -> bool:
    """Whether a tensor is stored as codes and scales; a lazy one that is no float is, by its reader's word."""
    if isinstance(tensors, LazyTensors):
        return not tensors.source(name).dtype.startswith(("float", "bfloat"))
    return isinstance(tensors[name], QuantTensor)


def without(tensors: Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
    """Leave one tensor out, making none."""
    if isinstance(tensors, LazyTensors):
        return LazyTensors({each: tensors.source(each) for each in tensors if each != name})
    return {each: tensor for each, tensor in tensors.items() if each != name}
