"""PyTorch's files: a zip archive of stored entries, mapped in place, around a pickle that is never executed.

    TOP/data.pkl        the pickle (`torch_pickle`)
    TOP/data/KEY        the little-endian elements of storage KEY
    TOP/byteorder       "little", if there at all
    TOP/version         "3"; other entries are left alone

TOP is any one name. Entries are stored, never compressed, which is why they can be mapped; what claims otherwise, is
encrypted, overlaps another entry or lies outside the file is refused. Files of PyTorch before 1.6 are no archives but
several pickles in a row: they are recognised and refused with the way to convert them.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from harness.errors import CheckpointError
from harness.formats import numbers, torch_pickle
from harness.formats.files import mapped
from harness.formats.stored import Stored

__all__ = ["ZIP_MAGIC", "load", "read_state"]

ZIP_MAGIC = b"PK\x03\x04"
# The pickle 0x1950a86a20f9469cfc6c, which begins PyTorch's files before 1.6.
_LEGACY = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
# Of real ones: some kilobytes for a model, a few megabytes with an optimizer.
_MAX_PICKLE_BYTES = 64 << 20
_ALIGNMENT = 64
_ZIP64 = 0xFFFFFFFF


def load(path: Path) -> Any:
    """Return what a file holds: dicts, lists, numbers, strings, with a Stored for each tensor.

    Raises:
        CheckpointError: it is no such archive, is damaged, or its pickle asks for anything but tensors.
    """
    content = mapped(path)
    head = content[:32].tobytes()
    if not head.startswith(ZIP_MAGIC):
        if _LEGACY in head:
            raise CheckpointError(
                "the file is of PyTorch's format before 1.6, several pickles in a row",
                path=path,
                expected="a zip archive",
                hint="load and save it once with a newer PyTorch: torch.save(torch.load(PATH), PATH)",
            )
        raise CheckpointError("not a PyTorch file", path=path, expected="a zip archive", actual=repr(head[:8]))
    entries = _entries(content, path)
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


# ---- the archive ---------------------------------------------------------------------------------


def _entries(content: NDArray[np.uint8], path: Path) -> dict[str, NDArray[np.uint8]]:
    """Map every entry of a zip archive.

    Raises:
        CheckpointError: the archive contradicts itself.
    """
    try:
        return _walk(content)
    except (_Damaged, struct.error) as error:
        raise CheckpointError(
            f"the zip archive is damaged: {error}", path=path, hint="fetch the file again"
        ) from error


class _Damaged(Exception):
    pass


def _unpack(code: str, content: NDArray[np.uint8], at: int) -> tuple[Any, ...]:
    if at < 0 or at + struct.calcsize(code) > content.size:
        raise _Damaged(f"something is said to be at byte {at:,} of {content.size:,}")
    return struct.unpack(code, content[at : at + struct.calcsize(code)].tobytes())


def _walk(content: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    n_entries, size, begin = _directory(content)
    if begin + size > content.size or n_entries * 46 > size:
        raise _Damaged("its directory does not fit")
    found: dict[str, NDArray[np.uint8]] = {}
    spans = []
    at = begin
    for _ in range(n_entries):
        magic, flags, method, crc, packed, unpacked, n_name, n_extra, n_comment, local = _unpack(
            "<I4x2H4x3I3H8xI", content, at
        )
        if magic != 0x02014B50:
            raise _Damaged("its directory has an entry that is none")
        name = content[at + 46 : at + 46 + n_name].tobytes().decode("utf-8", "replace")
        extra = content[at + 46 + n_name : at + 46 + n_name + n_extra].tobytes()
        unpacked, packed, local = _wide(extra, unpacked, packed, local)
        at += 46 + n_name + n_extra + n_comment
        if at > begin + size:
            raise _Damaged("its directory is cut short")
        if method or packed != unpacked or flags & 1:
            raise _Damaged(f"entry {name[:80]} is compressed or encrypted, which PyTorch's are not")
        local_magic, local_name, local_extra = _unpack("<I22x2H", content, local)
        if local_magic != 0x04034B50:
            raise _Damaged(f"entry {name[:80]} is not where the directory says")
        start = local + 30 + local_name + local_extra
        if start + unpacked > begin:
            raise _Damaged(f"entry {name[:80]} goes beyond the entries' part of the file")
        if name in found:
            raise _Damaged(f"entry {name[:80]} is there twice")
        found[name] = content[start : start + unpacked]
        spans.append((local, start + unpacked))
        if name.endswith("/data.pkl") and unpacked <= _MAX_PICKLE_BYTES and zlib.crc32(found[name].tobytes()) != crc:
            raise _Damaged(f"the checksum of {name[:80]} is wrong")
    spans.sort()
    if any(one[1] > other[0] for one, other in itertools.pairwise(spans)):
        raise _Damaged("two entries overlap")
    return found


def _directory(content: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return the number of entries, and the size and place of the directory."""
    tail = content[max(0, content.size - 65557) :].tobytes()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise _Damaged("its end is missing")
    end = content.size - len(tail) + at
    n_entries, size, begin = _unpack("<8x2xH2I", content, end)
    if 0xFFFF in (n_entries,) or _ZIP64 in (size, begin):
        magic, wide = _unpack("<I4xQ", content, end - 20)
        if magic != 0x07064B50:
            raise _Damaged("its 64-bit end is missing")
        magic, n_entries, size, begin = _unpack("<I28x3Q", content, wide)
        if magic != 0x06064B50:
            raise _Damaged("its 64-bit end is not where it should be")
    return n_entries, size, begin


def _wide(extra: bytes, unpacked: int, packed: int, local: int) -> tuple[int, int, int]:
    """Replace what did not fit 32 bits by the entry's 64-bit field."""
    numbers_ = [unpacked, packed, local]
    if _ZIP64 not in numbers_:
        return unpacked, packed, local
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == 1:
            for i, number in enumerate(numbers_):
                if number == _ZIP64:
                    numbers_[i] = struct.unpack_from("<Q", extra[: at + length], at)[0]
                    at += 8
            return numbers_[0], numbers_[1], numbers_[2]
        at += length
    raise _Damaged("a 64-bit field is missing")
