"""Zip archives whose entries are stored, not compressed: mapped in place, and written one after the other.

What claims to be compressed or encrypted, overlaps another entry, or lies outside the file is refused. Every number
of the directory is held against the file before anything is made of it. Large archives have 64-bit fields where the
32-bit ones are all ones.
"""

from __future__ import annotations

import itertools
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import CheckpointError

__all__ = ["MAGIC", "Writer", "entries"]

MAGIC = b"PK\x03\x04"
_ALL_ONES = 0xFFFFFFFF
# Entries up to this size have their checksum verified: what is larger are weights, which are not read for that.
_CHECKED_BYTES = 64 << 20
_TENSOR_ALIGNMENT = 64
# The extra field that PyTorch pads with.
_PADDING = 0x4246


def entries(content: NDArray[np.uint8], path: Path) -> dict[str, NDArray[np.uint8]]:
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
        if name.endswith(("/data.pkl", ".json")) and unpacked <= _CHECKED_BYTES and _crc(found[name]) != crc:
            raise _Damaged(f"the checksum of {name[:80]} is wrong")
    spans.sort()
    if any(one[1] > other[0] for one, other in itertools.pairwise(spans)):
        raise _Damaged("two entries overlap")
    return found


def _crc(content: NDArray[np.uint8]) -> int:
    return zlib.crc32(content.tobytes())


def _directory(content: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return the number of entries, and the size and place of the directory."""
    tail = content[max(0, content.size - 65557) :].tobytes()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise _Damaged("its end is missing")
    end = content.size - len(tail) + at
    n_entries, size, begin, n_comment = _unpack("<8x2xH2IH", content, end)
    if end + 22 + n_comment != content.size:
        raise _Damaged("bytes follow its end, or its comment is cut short")
    if n_entries == 0xFFFF or _ALL_ONES in (size, begin):
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
    if _ALL_ONES not in numbers_:
        return unpacked, packed, local
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == 1:
            for i, number in enumerate(numbers_):
                if number == _ALL_ONES:
                    numbers_[i] = struct.unpack_from("<Q", extra[: at + length], at)[0]
                    at += 8
            return numbers_[0], numbers_[1], numbers_[2]
        at += length
    raise _Damaged("a 64-bit field is missing")


# ---- writing -------------------------------------------------------------------------------------


class Writer:
    """Appends entries to a file that can be sought in; their data begin at multiples of 64 bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._zip.close()

    def add(self, name: str, content: bytes) -> None:
        with self.entry(name, len(content)) as file:
            file.write(content)

    @contextmanager
    def entry(self, name: str, n_bytes: int) -> Iterator[IO[bytes]]:
        """Yield a file for the n_bytes of an entry."""
        is_large = n_bytes >= 1 << 31
        entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        entry.file_size = n_bytes
        header = 30 + len(name.encode()) + 4 + (20 if is_large else 0)
        padding = -(self._file.tell() + header) % _TENSOR_ALIGNMENT
        entry.extra = struct.pack("<2H", _PADDING, padding) + bytes(padding)
        with self._zip.open(entry, "w", force_zip64=is_large) as file:
            yield file
