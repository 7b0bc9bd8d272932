"""The tensors of a mapped file, read through without being held: for models that memory has no room for.

Pages of a mapped file count for the process that touched them until they are given back. Here those of the tensors
that were asked for last are given back when another one is asked for; who still reads one of them gets its pages from
the system's cache, or from the file, again.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint.tensors import Tensor
from harness.quant import QuantTensor

__all__ = ["Streamed"]


_N_REMEMBERED = 16  # tensors that may have been read after the next one was asked for: those of a layer


class Streamed(Mapping[str, Tensor]):
    """Tensors by name, as a Checkpoint has them; arrays that are no part of a mapped file are left alone."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._last: deque[str] = deque(maxlen=_N_REMEMBERED)

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        self.release()
        self._last.append(name)
        _advise(tensor, "MADV_WILLNEED")  # read in large pieces, not page by page when it is touched
        return tensor

    def release(self) -> None:
        """Give back the pages of the tensors that were asked for last."""
        for name in self._last:
            _advise(self._tensors[name], "MADV_DONTNEED")


def _advise(tensor: Tensor, advice: str) -> None:
    """Tell the system about the pages of a tensor, if they are a mapped file's and it listens to this."""
    for array in (tensor.codes, tensor.scales) if isinstance(tensor, QuantTensor) else (tensor,):
        base: Any = array
        while base is not None and not isinstance(base, mmap.mmap):
            base = getattr(base, "base", None)
        if base is not None and hasattr(mmap, advice):
            start = _address(array) - _address(np.frombuffer(base, np.uint8))
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            base.madvise(getattr(mmap, advice), first, start + array.nbytes - first)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
