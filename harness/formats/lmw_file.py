"""The container of `.lmw`, the format of llama-np and its relatives, in the two layouts in use, here called A and C.

Little-endian. There were five layouts, all with version 1; they are told apart by what stands at byte 8.

    0   "lumi"; int32 version 1
    8   layout C: string, the model's name
        params: int32 dim, n_layers, n_heads, n_kv_heads, multiple_of, vocab_size, max_seq_len;
                float32 rope_theta, norm_eps
        layout C: uint32 length of a tokenizer's file, its bytes, 4 - length % 4 zeros
        tensors up to the end of the file, in any order, uncounted

    string   uint32 padded length; the bytes; 4 - length % 4 spaces: at least one, even behind a multiple of 4
    tensor   string name; uint32 rank; rank x uint32 sizes, always those of the matrix as it is applied, (out, in);
             layout C: int32 1 if the elements are those of the transposed matrix, else 0; int32 132 float32, 117
             bfloat16 (the upper half of a float32); the elements, row-major

Names are Meta's. Layout C transposes every matrix but tok_embeddings. A classifier absent from layout C is tied;
layout A always has one, so that equal tensors are read as tied. The width of the feed-forward is w1's. Programs of
this family choose the rotation by the model's name: one that begins with "qwen" has biases on q, k and v, and its
rotated pairs half a head apart. multiple_of has no influence on anything; we write the one that llama2.c's rule for
the width would need, else the largest power of two up to 256 that divides it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import CheckpointError
from harness.formats import numbers
from harness.formats.files import mapped
from harness.formats.stored import Stored

__all__ = ["CODES", "MAGIC", "File", "Params", "Record", "layout_of", "read", "write"]

MAGIC = b"lumi"
CODES = {"float32": 132, "bfloat16": 117}
_WORDS = {code: word for word, code in CODES.items()}
_PARAMS = struct.Struct("<7i2f")
_MAX_NAME_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Params:
    """The nine numbers of a file."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    multiple_of: int
    vocab_size: int
    max_seq_len: int
    rope_theta: float
    norm_eps: float

    def packed(self) -> bytes:
        return _PARAMS.pack(*(getattr(self, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Record:
    """A tensor to be written: `shape` as it is applied, `blocks` its elements in the order of the file."""

    name: str
    shape: tuple[int, ...]
    is_transposed: bool
    dtype: str
    blocks: Iterable[NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class File:
    """What a file holds: tensors as views of it, (out, in), with strides where they lie transposed."""

    path: Path
    layout: str
    model: str
    params: Params
    tokenizer: bytes
    tensors: dict[str, Stored]


def read(path: Path) -> File:
    """Read a file of layout A or C.

    Raises:
        CheckpointError: it is of neither, or cut short, or says what cannot be.
    """
    content = mapped(path)
    reader = _Reader(path, content)
    if reader.take(4, "the magic").tobytes() != MAGIC:
        raise CheckpointError("not an .lmw file", path=path, expected=MAGIC, actual=content[:4].tobytes())
    if (version := reader.integer("the version")) != 1:
        raise CheckpointError("the version is unknown", path=path, where="byte 4", expected=1, actual=version)
    layout = layout_of(content[:512].tobytes())
    if layout == "B":
        raise CheckpointError(
            "the file is of the layout of May 2024, which is not read", path=path, hint="convert the model again"
        )
    model = reader.string("the model's name") if layout == "C" else ""
    params = Params(*_PARAMS.unpack(reader.take(_PARAMS.size, "the parameters").tobytes()))
    tokenizer = b""
    if layout == "C":
        n = reader.integer("the tokenizer's length", "<I")
        tokenizer = reader.take(n, "the tokenizer").tobytes()
        reader.take(4 - n % 4, "the tokenizer's padding")
    tensors: dict[str, Stored] = {}
    while reader.at < len(content):
        start = reader.at
        name, tensor = reader.tensor(layout)
        if name in tensors:
            raise CheckpointError(f"tensor {name} is there twice", path=path, where=f"byte {start:,}")
        tensors[name] = tensor
    return File(path, layout, model, params, tokenizer, tensors)


def layout_of(head: bytes) -> str:
    """Tell the layouts apart by what follows the version.

    >>> layout_of(b"lumi" + struct.pack("<iI8s", 1, 8, b"demo    "))
    'C'
    """
    if len(head) >= 12:
        (n,) = struct.unpack_from("<I", head, 8)
        name = head[12 : 12 + n]
        if n % 4 == 0 and 4 <= n <= len(head) - 12 and name.endswith(b" ") and all(0x20 <= c < 0x7F for c in name):
            return "C"
        if n in (2, 3) and len(head) >= 44 and struct.unpack_from("<i", head, 12)[0] > 1 << 12:
            return "B"
    return "A"


class _Reader:
    """A place in the file, and what can be read there."""

    def __init__(self, path: Path, content: NDArray[np.uint8]) -> None:
        self.path, self.content, self.at = path, content, 0

    def take(self, n: int, what: str) -> NDArray[np.uint8]:
        left = len(self.content) - self.at
        if n > left:
            raise CheckpointError(
                f"{what} is cut short",
                path=self.path,
                where=f"byte {self.at:,}",
                expected=f"{n:,} bytes",
                actual=f"{left:,} left",
            )
        self.at += n
        return self.content[self.at - n : self.at]

    def integer(self, what: str, code: str = "<i") -> int:
        return int(struct.unpack(code, self.take(4, what).tobytes())[0])

    def string(self, what: str) -> str:
        start = self.at
        n = self.integer(what, "<I")
        if n % 4 or not 4 <= n <= _MAX_NAME_BYTES:
            raise CheckpointError(
                f"the length of {what} is impossible",
                path=self.path,
                where=f"byte {start:,}",
                expected=f"a multiple of 4 up to {_MAX_NAME_BYTES}",
                actual=f"{n:,}",
            )
        try:
            return self.take(n, what).tobytes().decode("utf-8").rstrip()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{what} is no UTF-8", path=self.path, where=f"byte {start:,}") from error

    def tensor(self, layout: str) -> tuple[str, Stored]:
        name = self.string("a tensor's name")
        start = self.at
        rank = self.integer(f"the rank of {name}", "<I")
        if not 1 <= rank <= 2:
            raise CheckpointError(
                f"the rank of {name} is out of range", path=self.path, where=f"byte {start:,}", expected="1 or 2",
                actual=f"{rank:,}",
            )  # fmt: skip
        shape = tuple(self.integer(f"a size of {name}", "<I") for _ in range(rank))
        is_transposed, code = False, CODES["float32"]
        if layout == "C":
            start = self.at
            flag, code = self.integer(f"the flag of {name}"), self.integer(f"the type of {name}")
            if flag not in (0, 1) or code not in _WORDS or (flag and rank == 1):
                raise CheckpointError(
                    f"the flag or the type of {name} is unknown",
                    path=self.path,
                    where=f"byte {start:,}",
                    expected="0 or 1 (of a matrix), and 132 or 117",
                    actual=f"{flag} and {code}",
                )
            is_transposed = bool(flag)
        dtype = _WORDS[code]
        raw = self.take(math.prod(shape) * numbers.BYTES[dtype], f"tensor {name}")
        bits = raw.view(numbers.storage_type(dtype))
        return name, Stored(bits.reshape(shape[::-1]).T if is_transposed else bits.reshape(shape), dtype)


def write(
    file: IO[bytes], layout: str, params: Params, records: Iterable[Record], model: str = "", tokenizer: bytes = b""
) -> Iterator[int]:
    """Write a file of layout A or C; yields the bytes written so far, after each tensor."""
    file.write(MAGIC + struct.pack("<i", 1))
    if layout == "C":
        file.write(_string(model))
    file.write(params.packed())
    if layout == "C":
        file.write(struct.pack("<I", len(tokenizer)) + tokenizer + bytes(4 - len(tokenizer) % 4))
    for record in records:
        file.write(_string(record.name))
        file.write(struct.pack(f"<I{len(record.shape)}I", len(record.shape), *record.shape))
        if layout == "C":
            file.write(struct.pack("<2i", record.is_transposed, CODES[record.dtype]))
        for block in record.blocks:
            file.write(np.ascontiguousarray(block).data)
        yield file.tell()


def _string(text: str) -> bytes:
    content = text.encode("ascii")
    content += b" " * (4 - len(content) % 4)
    return struct.pack("<I", len(content)) + content
