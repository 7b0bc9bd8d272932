"""The tensors of a mapped file, read through without being held: for models that memory has no room for.

Pages of a mapped file count for the process that touched them until they are given back. Here those of a tensor are
given back when another one is asked for; who still reads the first gets them from the system's cache, or from the
file, again.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint.tensors import Tensor
from harness.quant import QuantTensor

__all__ = ["Streamed"]


class Streamed(Mapping[str, Tensor]):
    """Tensors by name, as a Checkpoint has them; arrays that are no part of a mapped file are left alone."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._last: tuple[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        if self._last and self._last[0] == name:
            return self._last[1]
        self.release()
        tensor = self._tensors[name]
        self._last = (name, tensor)
        return tensor

    def release(self) -> None:
        """Give back the pages of the tensor that was asked for last."""
        if self._last is None:
            return
        tensor = self._last[1]
        self._last = None
        if isinstance(tensor, QuantTensor):
            _give_back(tensor.codes)
            _give_back(tensor.scales)
        else:
            _give_back(tensor)


def _give_back(array: NDArray[Any]) -> None:
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = _address(array) - _address(np.frombuffer(base, np.uint8))
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    base.madvise(mmap.MADV_DONTNEED, first, start + array.nbytes - first)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
