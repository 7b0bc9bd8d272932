"""GGUF, the container: key-value metadata and named tensors, mapped when read and streamed when written.

Little-endian, version 2 or 3 (whose layouts are the same; version 1 had 32-bit counts and is refused):

    0    4 bytes   "GGUF"
    4    uint32    version
    8    uint64    number of tensors
    16   uint64    number of keys
    24   keys      string key; uint32 type; value
    ..   tensors   string name; uint32 rank (1 to 4); rank x uint64 sizes, the innermost first; uint32 type;
                   uint64 offset into the data
    ..   zeros     up to a multiple of the alignment (key general.alignment, uint32, 32 if absent)
    ..   data      each tensor at its offset, a multiple of the alignment; gaps are allowed, overlaps are not

A string is a uint64 length and so many bytes of UTF-8. Types of values: 0 uint8, 1 int8, 2 uint16, 3 int16, 4 uint32,
5 int32, 6 float32, 7 bool (a byte, 0 or 1), 8 string, 9 array (uint32 element type, uint64 count, the elements; here
to a depth of 4), 10 uint64, 11 int64, 12 float64.

Every count and length is held against the bytes that are left before anything is made of it, so a header that lies
costs no memory. Strings that are no UTF-8 are kept with surrogate escapes, and written back as the bytes they were.

Source: the GGUF specification in ggml's documentation.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint.files import replaced
from harness.errors import CheckpointError
from harness.formats import gguf_types
from harness.formats.files import mapped
from harness.formats.gguf_types import Encoding

__all__ = ["MAGIC", "Entry", "GgufFile", "Value", "read", "write"]

MAGIC = b"GGUF"
ALIGNMENT = 32
# Metadata and tensor list together; the largest vocabularies take some 20 MiB.
_MAX_HEADER_BYTES = 256 << 20
_MAX_KEY_BYTES = 1 << 16
_MAX_DEPTH = 4
_MAX_RANK = 4

_SCALARS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_BOOL, _STRING, _ARRAY = 7, 8, 9

# A scalar is bool, int, float or str; an array of numbers an ndarray, any other a list.
Value = bool | int | float | str | NDArray[Any] | list[Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor as the file lists it.

    Attributes:
        shape: outermost axis first, as numpy has it: the file's sizes in reverse.
        encoding: how the numbers are stored.
        offset: of its first byte in the file.
    """

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    offset: int

    @property
    def n_bytes(self) -> int:
        return self.encoding.n_bytes(math.prod(self.shape))


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile:
    """A file that was read: its metadata, its tensors by name in file order, and the mapped bytes."""

    path: Path
    version: int
    metadata: dict[str, Value]
    entries: dict[str, Entry]
    content: NDArray[np.uint8]

    def raw(self, name: str) -> NDArray[np.uint8]:
        """Return a tensor's bytes, a view of the file."""
        entry = self.entries[name]
        return self.content[entry.offset : entry.offset + entry.n_bytes]


# ---- reading -------------------------------------------------------------------------------------


def read(path: Path) -> GgufFile:
    """Read the header and map the rest.

    Raises:
        CheckpointError: the file cannot be opened, or its header cannot be true of it.
    """
    content = mapped(path)
    size = content.size
    reader = _Reader(path, content)
    version = reader.version()
    n_tensors, n_keys = reader.number("<Q"), reader.number("<Q")
    # The shortest key takes 13 bytes (an empty name, a type, a byte), the shortest tensor 32.
    reader.check_count(n_keys, 13, "keys")
    metadata: dict[str, Value] = {}
    for _ in range(n_keys):
        start = reader.at
        key = reader.name("key")
        if key in metadata:
            reader.fail(f"key {key} is there twice", start)
        metadata[key] = reader.value(reader.number("<I"), key, 1)
    reader.check_count(n_tensors, 32, "tensors")
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 8 or alignment % 8 or alignment > 1 << 20:
        raise CheckpointError(
            "general.alignment is out of range",
            path=path,
            expected="a multiple of 8 up to 1,048,576",
            actual=alignment,
        )
    entries: dict[str, Entry] = {}
    for _ in range(n_tensors):
        start = reader.at
        entry = reader.entry(alignment)
        if entry.name in entries:
            reader.fail(f"tensor {entry.name} is there twice", start)
        entries[entry.name] = entry
    data = -(-reader.at // alignment) * alignment
    placed = {name: Entry(name, entry.shape, entry.encoding, data + entry.offset) for name, entry in entries.items()}
    _check_places(placed, size, path)
    return GgufFile(path, version, metadata, placed, content)


def _check_places(entries: Mapping[str, Entry], size: int, path: Path) -> None:
    """Hold the tensors' places against the file and against each other."""
    end, before = 0, ""
    for entry in sorted(entries.values(), key=lambda one: (one.offset, one.n_bytes)):
        if entry.offset + entry.n_bytes > size:
            raise CheckpointError(
                f"tensor {entry.name} is cut short",
                path=path,
                where=f"byte {entry.offset:,}",
                expected=f"{entry.n_bytes:,} bytes",
                actual=f"{max(0, size - entry.offset):,} left",
                hint="the file looks truncated: fetch it again",
            )
        if entry.offset < end:
            raise CheckpointError(
                f"tensors {before} and {entry.name} overlap",
                path=path,
                where=f"byte {entry.offset:,}",
                expected=f"a start at or behind byte {end:,}",
                actual=f"{entry.offset:,}",
            )
        end, before = entry.offset + entry.n_bytes, entry.name


class _Reader:
    """A place in the header, and what can be read there."""

    def __init__(self, path: Path, content: NDArray[np.uint8]) -> None:
        self.path = path
        self.end = min(len(content), _MAX_HEADER_BYTES)
        self.is_capped = self.end < len(content)
        self.content = content
        self.at = 0

    def fail(self, what: str, at: int, **facts: Any) -> NoReturn:
        raise CheckpointError(what, path=self.path, where=f"byte {at:,}", **facts)

    def take(self, n: int, what: str) -> NDArray[np.uint8]:
        if n > self.end - self.at:
            left = self.end - self.at
            if self.is_capped:
                self.fail(f"{what} is beyond what a header may have ({_MAX_HEADER_BYTES >> 20} MiB)", self.at)
            self.fail(f"{what} is cut short", self.at, expected=f"{n:,} bytes", actual=f"{left:,} left")
        self.at += n
        return self.content[self.at - n : self.at]

    def number(self, code: str) -> int:
        return int(struct.unpack(code, self.take(struct.calcsize(code), "a number of the header").tobytes())[0])

    def check_count(self, n: int, least_bytes: int, what: str) -> None:
        if n > (self.end - self.at) // least_bytes:
            self.fail(
                f"there is no room for so many {what}",
                self.at,
                expected=f"at most {(self.end - self.at) // least_bytes:,}",
                actual=f"{n:,}",
            )

    def version(self) -> int:
        magic = self.take(4, "the magic").tobytes()
        if magic != MAGIC:
            self.fail("not a GGUF file", 0, expected=MAGIC, actual=magic)
        version = self.number("<I")
        if version not in (2, 3):
            is_big_endian = version in (2 << 24, 3 << 24)
            hint = "the file is big-endian, which is not read" if is_big_endian else None
            self.fail("GGUF of another version", 4, expected="2 or 3", actual=version, hint=hint)
        return version

    def text(self, what: str, longest: int | None = None) -> str:
        start = self.at
        n = self.number("<Q")
        if longest is not None and n > longest:
            self.fail(f"{what} is too long", start, expected=f"at most {longest:,} bytes", actual=f"{n:,}")
        return self.take(n, what).tobytes().decode("utf-8", "surrogateescape")

    def name(self, what: str) -> str:
        start = self.at
        name = self.text(f"the name of a {what}", _MAX_KEY_BYTES)
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            self.fail(f"the name of a {what} is not UTF-8", start)
        return name

    def value(self, kind: int, key: str, depth: int) -> Value:
        start = self.at - 4
        if kind == _STRING:
            return self.text(f"the value of {key}")
        if kind == _ARRAY:
            return self.array(key, depth)
        if kind not in _SCALARS:
            self.fail(f"the value of {key} is of unknown type", start, expected="0 to 12", actual=kind)
        value = self.take(_SCALARS[kind].itemsize, f"the value of {key}").view(_SCALARS[kind])[0].item()
        if kind == _BOOL:
            if value > 1:
                self.fail(f"the value of {key} is no truth value", self.at - 1, expected="0 or 1", actual=value)
            return bool(value)
        assert isinstance(value, int | float)
        return value

    def array(self, key: str, depth: int) -> NDArray[Any] | list[Any]:
        start = self.at
        if depth > _MAX_DEPTH:
            self.fail(f"the arrays of {key} are nested too deeply", start, expected=f"at most {_MAX_DEPTH} levels")
        kind, n = self.number("<I"), self.number("<Q")
        if kind in _SCALARS:
            dtype = _SCALARS[kind]
            values = self.take(n * dtype.itemsize, f"the array {key}").view(dtype)
            if kind == _BOOL and len(values) and values.max() > 1:
                self.fail(f"the array {key} has what is no truth value", start, expected="0 or 1")
            return values.astype(np.bool_) if kind == _BOOL else values.copy()
        if kind == _STRING:
            self.check_count(n, 8, f"strings in the array {key}")
            return [self.text(f"a string of the array {key}") for _ in range(n)]
        if kind != _ARRAY:
            self.fail(f"the array {key} is of unknown type", start, expected="0 to 12", actual=kind)
        self.check_count(n, 12, f"arrays in the array {key}")
        return [self.array(key, depth + 1) for _ in range(n)]

    def entry(self, alignment: int) -> Entry:
        name = self.name("tensor")
        start = self.at
        rank = self.number("<I")
        if not 1 <= rank <= _MAX_RANK:
            self.fail(f"the rank of tensor {name} is out of range", start, expected=f"1 to {_MAX_RANK}", actual=rank)
        shape = tuple(self.number("<Q") for _ in range(rank))[::-1]
        if min(shape) < 1 or math.prod(shape) >= 1 << 63:
            self.fail(f"the sizes of tensor {name} are impossible", start + 4, actual=shape)
        start = self.at
        kind = self.number("<I")
        encoding = gguf_types.BY_CODE.get(kind)
        if encoding is None:
            known = ", ".join(one.name for one in gguf_types.BY_CODE.values())
            self.fail(f"tensor {name} is of a type that is not read", start, expected=known, actual=f"type {kind}")
        if shape[-1] % encoding.block:
            self.fail(
                f"the rows of tensor {name} are not whole blocks",
                start,
                expected=f"a multiple of {encoding.block} for {encoding.name}",
                actual=shape[-1],
            )
        start = self.at
        offset = self.number("<Q")
        if offset % alignment:
            self.fail(f"the offset of tensor {name} is not aligned", start, expected=alignment, actual=offset)
        return Entry(name, shape, encoding, offset)


# ---- writing -------------------------------------------------------------------------------------


def write(
    path: Path,
    metadata: Mapping[str, Value],
    entries: Sequence[tuple[str, tuple[int, ...], Encoding]],
    blocks: Callable[[str], Iterable[NDArray[Any]]],
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Write a file of version 3; it appears complete or not at all.

    Python's int becomes uint32, or int32 if negative, or 64 bits where it must; float becomes float32.

    Args:
        entries: name, shape (outermost axis first) and encoding, in file order.
        blocks: name -> the tensor's stored bytes, as contiguous arrays one after another.
        progress: told the bytes written so far, after each tensor.
    """
    header = bytearray(MAGIC + struct.pack("<IQQ", 3, len(entries), len(metadata)))
    for key, value in metadata.items():
        header += _string(key) + _typed(value)
    offset = 0
    for name, shape, encoding in entries:
        header += _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        header += struct.pack("<IQ", encoding.code, offset)
        offset += _aligned(encoding.n_bytes(math.prod(shape)))
    header += bytes(_aligned(len(header)) - len(header))
    with replaced(path) as file:
        file.write(header)
        for name, shape, encoding in entries:
            n_written = 0
            for block in blocks(name):
                file.write(block.data)
                n_written += block.nbytes
            n_bytes = encoding.n_bytes(math.prod(shape))
            assert n_written == n_bytes, f"{name}: {n_written} bytes written, not {n_bytes}"
            file.write(bytes(_aligned(n_bytes) - n_bytes))
            progress(file.tell())


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    content = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(content)) + content


def _typed(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<IB", _BOOL, value)
        case int():
            if -(1 << 31) <= value < 1 << 32:
                return struct.pack("<Ii", 5, value) if value < 0 else struct.pack("<II", 4, value)
            return struct.pack("<Iq", 11, value) if value < 0 else struct.pack("<IQ", 10, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", _STRING) + _string(value)
        case _:
            return struct.pack("<I", _ARRAY) + _array(value)


def _array(values: NDArray[Any] | list[Any]) -> bytes:
    if isinstance(values, np.ndarray):
        kind = _BOOL if values.dtype == np.bool_ else _kind_of(values.dtype)
        return struct.pack("<IQ", kind, len(values)) + np.ascontiguousarray(values).tobytes()
    if all(isinstance(value, str) for value in values):
        return struct.pack("<IQ", _STRING, len(values)) + b"".join(map(_string, values))
    return struct.pack("<IQ", _ARRAY, len(values)) + b"".join(map(_array, values))


def _kind_of(dtype: np.dtype[Any]) -> int:
    return next(kind for kind, known in _SCALARS.items() if known == dtype and kind != _BOOL)
