"""Checkpoint files to Checkpoint values and back. A new format is one module and one line in `_FORMATS`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from harness.checkpoint import llama2c_bin
from harness.checkpoint.checkpoint import Checkpoint, expected_shapes
from harness.checkpoint.files import opened
from harness.checkpoint.streamed import Streamed
from harness.checkpoint.tensors import LazyTensors, Source, Tensor, is_quantised, shape_and_dtype
from harness.model_config import ModelConfig

__all__ = [
    "Checkpoint",
    "LazyTensors",
    "Source",
    "Streamed",
    "Tensor",
    "expected_shapes",
    "file_bytes",
    "is_quantised",
    "read",
    "sha256_of",
    "shape_and_dtype",
    "write",
]


class _Format(Protocol):
    """What a format's module has."""

    def sniff(self, head: bytes) -> str | None: ...

    def read(self, path: str | os.PathLike[str]) -> Checkpoint: ...


# Asked in this order. llama2c_bin comes last: its version 0 has no
# magic, so a file that nobody recognises is tried as one, and its reader's error says what was found instead.
_FORMATS: tuple[_Format, ...] = (llama2c_bin,)
_HEAD_BYTES = llama2c_bin.HEAD_BYTES


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint of any known format.

    Raises:
        CheckpointError: the path cannot be read, or the file is no valid checkpoint.
    """
    path = Path(path)
    with opened(path) as file:
        head = file.read(_HEAD_BYTES)
    chosen = next((format_ for format_ in _FORMATS if format_.sniff(head)), _FORMATS[-1])
    return chosen.read(path)


def write(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    version: int,
    group_size: int | None = None,
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Write a llama2.c checkpoint of the given version (see `llama2c_bin.write`)."""
    llama2c_bin.write(checkpoint, path, version, group_size, progress)


def file_bytes(config: ModelConfig, *, version: int, group_size: int | None = None) -> int:
    """Size of the file that `write` makes of these dimensions."""
    return llama2c_bin.file_bytes(config, version, group_size)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return a file's sha256 in hex, read in small pieces."""
    with opened(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
