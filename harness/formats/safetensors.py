"""The safetensors container: a JSON header and raw little-endian tensors, mapped in place.

    0      uint64   N, the header's length in bytes, at most 100,000,000
    8      N bytes  UTF-8 JSON, begins with "{", may end in spaces:
                    {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [BEGIN, END]}, ...,
                     "__metadata__": {"KEY": "VALUE", ...}}
    8 + N  data     offsets count from here. The tensors lie end to end: no holes, no overlap, nothing behind.

Matrices are row-major (out, in), as everywhere in this project. Which names there are is the business of the layer
above. The reader holds every offset against the file before it makes a view, and allocates no tensor.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import CheckpointError
from harness.formats import numbers
from harness.formats.files import mapped, parse_json
from harness.formats.stored import Stored

__all__ = ["MAX_HEADER_BYTES", "header_bytes", "read", "sniff"]

MAX_HEADER_BYTES = 100_000_000
# Above what numpy accepts for an array, and far above any weight's two.
_MAX_DIMENSIONS = 8

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_WORDS = {dtype: word for word, dtype in _DTYPES.items()}
# Of the specification, but not for weights that we read.
_OTHER_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("I16", "U16"), 2),
    **dict.fromkeys(("I32", "U32"), 4),
    **dict.fromkeys(("I64", "U64"), 8),
}


def sniff(head: bytes) -> bool:
    """Whether a file that begins with these bytes may be a safetensors file."""
    return len(head) >= 9 and head[8:9] == b"{" and 2 <= struct.unpack_from("<Q", head)[0] <= MAX_HEADER_BYTES


def read(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Map a file; return its tensors by name, in file order, and its metadata.

    Tensors of integers or of 8 bits are left out of what can be used: asking for one is the caller's error.

    Raises:
        CheckpointError: the header lies, or the file is cut short.
    """
    content = mapped(path)
    size = content.size
    if size < 8:
        raise CheckpointError("the header is cut short", path=path, where="byte 0", expected="8 bytes", actual=size)
    length = struct.unpack("<Q", content[:8].tobytes())[0]
    if length > MAX_HEADER_BYTES or length + 8 > size:
        raise CheckpointError(
            "the length of the header is impossible",
            path=path,
            where="byte 0",
            expected=f"at most {min(MAX_HEADER_BYTES, size - 8):,}",
            actual=f"{length:,}",
            hint="the file is cut short, or is no safetensors file",
        )
    header = parse_json(content[8 : 8 + length].tobytes(), path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("__metadata__ is no table of strings", path=path)
    data = content[8 + length :]
    entries = sorted(
        ((name, *_entry(name, entry, path)) for name, entry in header.items()), key=lambda entry: (entry[3], entry[4])
    )
    end = 0
    tensors = {}
    for name, dtype, shape, begin, finish in entries:
        if begin != end:
            raise CheckpointError(
                f"tensor {name} {'overlaps another' if begin < end else 'leaves a hole before it'}",
                path=path,
                expected=f"offset {end:,}",
                actual=f"{begin:,}",
            )
        if finish > data.size:
            raise CheckpointError(
                f"tensor {name} is cut short",
                path=path,
                where=f"byte {8 + length + begin:,}",
                expected=f"{finish - begin:,} bytes",
                actual=f"{max(0, data.size - begin):,} left",
                hint="fetch the file again",
            )
        end = finish
        tensors[name] = _view(data[begin:finish], dtype, shape)
    if end != data.size:
        raise CheckpointError(
            "bytes follow the last tensor", path=path, expected=f"{8 + length + end:,} bytes", actual=f"{size:,}"
        )
    return tensors, metadata


def _entry(name: str, entry: Any, path: Path) -> tuple[str, tuple[int, ...], int, int]:
    """Check one tensor's entry; return its type's word, shape, begin and end."""
    try:
        word, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers_ = [*shape, begin, end]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the entry of tensor {name} lacks dtype, shape or data_offsets", path=path) from error
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers_) or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"tensor {name} has an impossible shape or offset", path=path, actual=str(entry)[:200])
    width = numbers.BYTES.get(_DTYPES.get(word, "")) or _OTHER_BYTES.get(word) if isinstance(word, str) else None
    if width is None:
        raise CheckpointError(f"tensor {name} is of an unknown type", path=path, actual=str(word)[:40])
    if end - begin != math.prod(shape) * width:
        raise CheckpointError(
            f"tensor {name} has another length than its shape says",
            path=path,
            expected=f"{math.prod(shape) * width:,} bytes",
            actual=f"{end - begin:,}",
        )
    return word, tuple(shape), begin, end


def _view(data: NDArray[np.uint8], word: str, shape: tuple[int, ...]) -> Stored:
    if word not in _DTYPES:
        return Stored(data, word)
    dtype = _DTYPES[word]
    return Stored(data.view(numbers.storage_type(dtype)).reshape(shape), dtype)


# ---- writing -------------------------------------------------------------------------------------


def header_bytes(tensors: Iterable[tuple[str, tuple[int, ...], str]], **metadata: str) -> bytes:
    """Return what stands before the data of tensors (name, shape, dtype), which then follow in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for name, shape, dtype in tensors:
        end = offset + math.prod(shape) * numbers.BYTES[dtype]
        header[name] = {"dtype": _WORDS[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # so that the data begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text
