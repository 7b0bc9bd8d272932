"""numpy's .npz: every tensor by its canonical name, and the configuration as JSON bytes under "config".

    >>> import json, numpy as np                                                     # doctest: +SKIP
    >>> with np.load("model.npz") as file:
    ...     config, wq = json.loads(bytes(file["config"])), file["layers.0.wq"]

The archive's entries are stored (`zip_archive`), each NAME.npy: the magic "\\x93NUMPY", version 1.0, a uint16 length,
and a header in the one spelling that numpy writes, {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }. Other
types, objects among them, and Fortran's order are refused; nothing is unpickled. This format can hold every model.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint import Checkpoint, LazyTensors, Streamed, expected_shapes
from harness.checkpoint.files import replaced
from harness.errors import CheckpointError
from harness.formats import stored, zip_archive
from harness.formats.files import mapped, parse_json
from harness.formats.format import Format, WriteOptions
from harness.formats.stored import Stored
from harness.model_config import Block, ModelConfig, RopeScaling

__all__ = ["FORMAT", "read", "write"]

_DTYPES = ("float32", "float16", "float64")
_WORDS = {"float32": "<f4", "float16": "<f2", "float64": "<f8", "uint8": "|u1"}
_TYPES = {word: dtype for dtype, word in _WORDS.items()}
_HEADER = re.compile(
    rb"\{'descr': '(?P<word>[<|][a-z][0-9]{1,2})', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:[0-9]{1,18}(?:, [0-9]{1,18})*,?)?)\), \} *\n"
)
_MAX_CONFIG_BYTES = 1 << 16


def read(path: Path) -> Checkpoint:
    """Read an archive; its tensors are views of the file.

    Raises:
        CheckpointError: it lies, or lacks a tensor or the configuration.
    """
    content = mapped(path)
    found = zip_archive.entries(content, path)
    if "config.npy" not in found:
        raise CheckpointError('there is no "config" in the archive', path=path, hint="harness convert writes one")
    config = _config(_array(found.pop("config.npy"), "config", path), path)
    if config.n_layers > len(found):
        raise CheckpointError("there are fewer tensors than layers", path=path, actual=len(found))
    tensors = {name.removesuffix(".npy"): array for name, array in found.items()}
    shapes = expected_shapes(config)
    for name in tensors:
        if name not in shapes:
            raise CheckpointError(f"tensor {name[:120]} does not belong to this model", path=path)
    sources = {name: stored.source(_array(array, name, path)) for name, array in tensors.items()}
    stored.check_shapes(config, sources, path, str)
    return Checkpoint(config, LazyTensors({name: sources[name] for name in shapes}), FORMAT.name, path=path)


def _array(content: NDArray[np.uint8], name: str, path: Path) -> Stored:
    head = content[:10].tobytes()
    length = struct.unpack("<H", head[8:])[0] if len(head) == 10 and head.startswith(b"\x93NUMPY\x01\x00") else 0
    match = _HEADER.fullmatch(content[10 : 10 + length].tobytes())
    if not match or match["word"].decode() not in _TYPES:
        raise CheckpointError(
            f"the array {name[:120]} has another header than numpy writes for floating point", path=path
        )
    dtype = _TYPES[match["word"].decode()]
    shape = tuple(int(n) for n in re.findall(rb"[0-9]+", match["shape"]))
    data = content[10 + length :]
    width = np.dtype(_WORDS[dtype]).itemsize
    if data.size != math.prod(shape) * width:
        raise CheckpointError(
            f"the array {name[:120]} has another length than its shape says",
            path=path,
            expected=f"{math.prod(shape) * width:,} bytes",
            actual=f"{data.size:,}",
        )
    return Stored(data.view(_WORDS[dtype]).reshape(shape), dtype)


def _config(array: Stored, path: Path) -> ModelConfig:
    if array.dtype != "uint8" or array.bits.size > _MAX_CONFIG_BYTES:
        raise CheckpointError('"config" is no text', path=path)
    document = parse_json(array.bits.tobytes(), path)
    scaling, block = document.get("rope_scaling"), document.get("block", {})
    try:
        made = ModelConfig(
            **{
                **document,
                "rope_scaling": RopeScaling(**scaling) if scaling is not None else None,
                "block": Block(**block),
            }
        )
        for part in (made, made.block, made.rope_scaling):
            if part is not None:
                _check_types(part)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise CheckpointError(f"the configuration is impossible: {error}", path=path, where="config") from error
    return made


_PLAIN_TYPES = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "int | None": (int, type(None)),
}


def _check_types(part: Any) -> None:
    for field in fields(part):
        allowed = _PLAIN_TYPES.get(str(field.type))
        if allowed and type(getattr(part, field.name)) not in allowed:
            raise ValueError(f"{field.name} is {str(getattr(part, field.name))[:40]}, must be {field.type}")


def write(checkpoint: Checkpoint, path: Path, options: WriteOptions) -> None:
    """Write an archive that `numpy.load` reads."""
    checkpoint.validate()
    shapes = expected_shapes(checkpoint.config)
    tensors = Streamed(checkpoint.tensors)
    text = json.dumps(asdict(checkpoint.config)).encode()
    with replaced(path) as file, zip_archive.Writer(file) as archive:
        archive.add("config.npy", _header("uint8", (len(text),)) + text)
        for name, dtype in stored.dtypes_to_store(checkpoint, options, _DTYPES).items():
            header = _header(dtype, shapes[name])
            with archive.entry(f"{name}.npy", len(header) + stored.tensor_bytes(shapes[name], dtype)) as entry:
                entry.write(header)
                stored.write_tensor(entry, name, stored.floats(tensors[name]), dtype, path)
            options.progress(file.tell())


def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '{_WORDS[dtype]}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    padded = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


def _detect(path: Path, head: bytes) -> bool:
    n_name = struct.unpack_from("<H", head, 26)[0] if len(head) >= 30 else 0
    return head.startswith(zip_archive.MAGIC) and head[30 : 30 + n_name].endswith(b".npy")


FORMAT = Format(
    name="npz",
    what="numpy's archive, tensors by their canonical names",
    suffixes=(".npz",),
    detect=_detect,
    read=read,
    write=write,
    dtypes=_DTYPES,
)
