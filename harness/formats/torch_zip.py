"""PyTorch's files: a zip archive of stored entries, mapped in place, around a pickle that is never executed.

    TOP/data.pkl        the pickle (`torch_pickle`)
    TOP/data/KEY        the little-endian elements of storage KEY
    TOP/byteorder       "little", if there at all
    TOP/version         "3"; other entries are left alone

TOP is any one name. Files of PyTorch before 1.6 are no archives but several pickles in a row: they are recognised and
refused with the way to convert them.

Written are pickles of protocol 2 with the same calls, and nothing else.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from harness.checkpoint.files import replaced
from harness.errors import CheckpointError
from harness.formats import numbers, stored, torch_pickle, zip_archive
from harness.formats.files import mapped
from harness.formats.stored import Stored

__all__ = ["Planned", "load", "read_state", "write"]

# The pickle 0x1950a86a20f9469cfc6c, which begins PyTorch's files before 1.6.
_LEGACY = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
# Of real ones: some kilobytes for a model, a few megabytes with an optimizer.
_MAX_PICKLE_BYTES = 64 << 20


def load(path: Path) -> Any:
    """Return what a file holds: dicts, lists, numbers, strings, with a Stored for each tensor.

    Raises:
        CheckpointError: it is no such archive, is damaged, or its pickle asks for anything but tensors.
    """
    content = mapped(path)
    head = content[:32].tobytes()
    if not head.startswith(zip_archive.MAGIC):
        if _LEGACY in head:
            raise CheckpointError(
                "the file is of PyTorch's format before 1.6, several pickles in a row",
                path=path,
                expected="a zip archive",
                hint="load and save it once with a newer PyTorch: torch.save(torch.load(PATH), PATH)",
            )
        raise CheckpointError("not a PyTorch file", path=path, expected="a zip archive", actual=repr(head[:8]))
    entries = zip_archive.entries(content, path)
    tops = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(tops) != 1:
        raise CheckpointError("the archive has no one data.pkl in its top directory", path=path, actual=len(tops))
    top = tops[0]
    if entries.get(f"{top}/byteorder", np.zeros(0, np.uint8))[:8].tobytes() == b"big":
        raise CheckpointError("the numbers are big-endian", path=path, expected="little-endian")
    text = entries[f"{top}/data.pkl"]
    if text.size > _MAX_PICKLE_BYTES:
        raise CheckpointError("the pickle is too long", path=path, expected=f"at most {_MAX_PICKLE_BYTES:,} bytes")
    found = torch_pickle.load(text.tobytes(), path)
    return _with_views(found, lambda tensor: _view(tensor, entries, top, path))


def read_state(path: Path) -> dict[str, Stored]:
    """Return a file's dict of tensors by name: the whole of it, as pytorch_model.bin and Meta's shards have it."""
    found = load(path)
    if type(found) is not dict or not all(isinstance(name, str) for name in found):
        raise CheckpointError("the file holds no dict of names", path=path, actual=type(found).__name__)
    return {name: value for name, value in found.items() if isinstance(value, Stored)}


def _with_views(found: Any, view: Callable[[torch_pickle.Tensor], Stored]) -> Any:
    """Replace tensors by views in a value and in the dicts at its top two levels, where checkpoints have them."""
    if isinstance(found, torch_pickle.Tensor):
        return view(found)
    if type(found) is not dict:
        return found
    return {
        key: {inner: view(one) if isinstance(one, torch_pickle.Tensor) else one for inner, one in value.items()}
        if type(value) is dict
        else view(value)
        if isinstance(value, torch_pickle.Tensor)
        else value
        for key, value in found.items()
    }


def _view(tensor: torch_pickle.Tensor, entries: Mapping[str, NDArray[np.uint8]], top: str, path: Path) -> Stored:
    storage = tensor.storage
    content = entries.get(f"{top}/data/{storage.key}")
    width = torch_pickle.STORAGE_BYTES[storage.dtype]
    if content is None:
        raise CheckpointError(f"storage {storage.key[:80]} is missing", path=path)
    if content.size != storage.n_elements * width:
        raise CheckpointError(
            f"storage {storage.key[:80]} has another size than the pickle says",
            path=path,
            expected=f"{storage.n_elements * width:,} bytes",
            actual=f"{content.size:,}",
        )
    if storage.dtype not in numbers.BYTES:
        return Stored(content, storage.dtype)
    elements = content.view(numbers.storage_type(storage.dtype))[tensor.offset :]
    if 0 in tensor.shape:
        return Stored(elements[:0].reshape(tensor.shape), storage.dtype)
    strides = tuple(stride * width for stride in tensor.strides)
    return Stored(as_strided(elements, tensor.shape, strides, writeable=False), storage.dtype)


# ---- writing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor to be written: under which key its numbers will lie, its shape and stored type."""

    key: str
    shape: tuple[int, ...]
    dtype: str


def write(path: Path, tree: Any, value_of: Callable[[str], NDArray[Any]], progress: Callable[[int], None]) -> None:
    """Write an archive; the file appears whole or not at all.

    Args:
        tree: dicts by str of Planned, dicts, str, numbers and None; Planned of one key share their numbers.
        value_of: key -> the floats of a storage, asked for once each, in the order of the tree.
    """
    planned = list({one.key: one for one in _planned(tree)}.values())
    with replaced(path) as file, zip_archive.Writer(file) as archive:
        archive.add("archive/data.pkl", b"\x80\x02" + b"".join(_pickled(tree)) + b".")
        archive.add("archive/byteorder", b"little")
        for one in planned:
            n_bytes = stored.tensor_bytes(one.shape, one.dtype)
            with archive.entry(f"archive/data/{one.key}", n_bytes) as entry:
                stored.write_tensor(entry, one.key, value_of(one.key), one.dtype, path)
            progress(file.tell())
        archive.add("archive/version", b"3\n")


def _planned(tree: Any) -> Iterator[Planned]:
    if isinstance(tree, Planned):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _planned(value)


def _pickled(value: Any) -> Iterator[bytes]:
    """Yield the opcodes that push a value."""
    match value:
        case None:
            yield b"N"
        case bool():
            yield b"\x88" if value else b"\x89"
        case int():
            yield b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
        case float():
            yield b"G" + struct.pack(">d", value)
        case str():
            yield b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            yield from (b"(", *itertools.chain.from_iterable(map(_pickled, value)), b"t")
        case dict():
            yield b"}("
            for key, one in value.items():
                yield from _pickled(key)
                yield from _pickled(one)
            yield b"u"
        case Planned():
            n = math.prod(value.shape)
            strides = tuple(math.prod(value.shape[i + 1 :]) for i in range(len(value.shape)))
            yield b"ctorch._utils\n_rebuild_tensor_v2\n(("
            yield from _pickled("storage")
            yield b"ctorch\n" + _STORAGE_CLASSES[value.dtype].encode() + b"\n"
            for one in (value.key, "cpu", n):
                yield from _pickled(one)
            yield b"tQ"
            for one in (0, value.shape, strides, False):
                yield from _pickled(one)
            yield b"ccollections\nOrderedDict\n)RtR"
        case _:
            raise ValueError(f"a {type(value).__name__} is not written")


_STORAGE_CLASSES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
}
