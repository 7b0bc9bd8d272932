"""Tensors of a written checkpoint against those that it was made from: bit for bit, or within the stated rounding.

Rounding is repeated and compared exactly where its rule is ours (float16, bfloat16, int8 of llama2.c); block formats
are held against the bound that their format states. A tensor that is wrong is looked for elsewhere in its layer, so
that an exchange or a missing permutation is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint import Checkpoint, Streamed, Tensor, expected_shapes, shape_and_dtype
from harness.errors import CheckpointError
from harness.formats import Format, numbers
from harness.formats.rotary import to_adjacent, to_halves
from harness.formats.stored import floats
from harness.model_config import ModelConfig
from harness.quant import QuantTensor, quantize_weights

__all__ = ["Rounding", "check_tensors"]


@dataclass(frozen=True, slots=True)
class Rounding:
    """What became of the tensors that were stored as another type.

    Attributes:
        dtype: that type.
        n_tensors: how many.
        largest: of |written - source| over the largest |source| of its tensor.
    """

    dtype: str
    n_tensors: int
    largest: float


def check_tensors(
    source: Checkpoint, written: Checkpoint, form: Format, progress: Callable[[str], None] = lambda name: None
) -> list[Rounding]:
    """Compare every tensor; return what rounding did, by type (empty: everything is the same to the bit).

    Raises:
        CheckpointError: naming the first tensor that is not what it should be, and what it seems to be.
    """
    before, after = Streamed(source.tensors), Streamed(written.tensors)
    largest: dict[str, list[float]] = {}
    for name in expected_shapes(written.config):
        progress(name)
        origin = name if name in source.tensors else "tok_embedding"  # a tied classifier that was written out
        _, own = shape_and_dtype(source.tensors, origin)
        _, dtype = shape_and_dtype(written.tensors, name)
        expected, actual = before[origin], after[name]
        if not _agree(expected, actual, dtype, form):
            raise CheckpointError(
                f"tensor {name} is not what was written: {_what_it_is(source, name, actual)}", path=written.path
            )
        if own != dtype and (error := _error(floats(expected), floats(actual))):
            largest.setdefault(dtype, []).append(error)
    return [Rounding(dtype, len(errors), max(errors)) for dtype, errors in largest.items()]


def _agree(expected: Tensor, actual: Tensor, dtype: str, form: Format) -> bool:
    if isinstance(actual, QuantTensor):
        if not isinstance(expected, QuantTensor):
            expected = quantize_weights(expected, actual.group_size)
        same_groups = expected.group_size == actual.group_size
        return same_groups and _same(expected.codes, actual.codes) and _same(expected.scales, actual.scales)
    values = floats(expected)
    if values.shape != actual.shape:
        return False
    if dtype in numbers.BYTES:
        return all(_bits_equal(numbers.rounded(a, dtype), b) for a, b in _blocks(values, actual))
    assert form.error_bound, f"{form.name} states no bound for {dtype}"
    return all(
        bool((np.abs(a.astype(np.float64) - b) <= form.error_bound(a, dtype)).all()) for a, b in _rows(values, actual)
    )


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.shape == b.shape and all(_bits_equal(one, other) for one, other in _blocks(a, b))


def _bits_equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays have the same bits, in the wider of their types where these differ."""
    if a.dtype != b.dtype:
        wide = np.result_type(a, b)
        a, b = a.astype(wide), b.astype(wide)
    return bool(np.array_equal(_bits(a), _bits(b)))


def _bits(a: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(a).view(np.dtype(f"u{a.dtype.itemsize}"))


def _blocks(a: NDArray[Any], b: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    return zip(numbers.blocks(a), numbers.blocks(b), strict=True)


def _rows(a: NDArray[Any], b: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    step = max(1, (1 << 20) // max(1, a[0].size))
    return ((a[i : i + step], b[i : i + step]) for i in range(0, len(a), step))


def _error(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    largest, size = 0.0, 0.0
    for a, b in _blocks(expected, actual):
        largest = max(largest, float(np.abs(a.astype(np.float64) - b).max(initial=0)))
        size = max(size, float(np.abs(a).max(initial=0)))
    return largest / size if size else 0.0


# ---- what it is instead --------------------------------------------------------------------------

_NEARLY = 0.1  # of the values' size; roundings are far below, other weights far above


def _what_it_is(source: Checkpoint, name: str, actual: Tensor) -> str:
    """Say which tensor of the source, reordered or not, this one seems to be."""
    values = floats(actual)
    layer, _, kind = name.rpartition(".")
    peers = [peer for peer in source.tensors if peer.rpartition(".")[0] == layer]
    for peer in [name, *(peer for peer in peers if peer != name)]:
        if peer not in source.tensors or shape_and_dtype(source.tensors, peer)[0] != values.shape:
            continue
        candidate = floats(source.tensors[peer])
        for how, reordered in _orders(candidate, source.config):
            if peer == name and how == "as it is":
                continue
            if _error(reordered, values) < _NEARLY:
                other = peer.rpartition(".")[2]
                if other == kind:
                    return f"its rows are {how}"
                exchanged = {"w_gate": "gate", "w_up": "up"}
                return (
                    f"it holds {other}; {exchanged.get(kind, kind)} and {exchanged.get(other, other)} are exchanged"
                    + ("" if how == "as it is" else f", and its rows {how}")
                )
    return "its values are of no tensor of this layer"


def _orders(values: NDArray[Any], config: ModelConfig) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "as it is", values
    if len(values) % config.head_dim == 0 and config.rotary_dim > 2:
        heads = config.head_dim, config.rotary_dim
        yield "in halves: the permutation of wq and wk is missing", to_halves(values, *heads)
        yield "permuted the wrong way", to_adjacent(values, *heads)
