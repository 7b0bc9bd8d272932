"""Checkpoint files to Checkpoint values and back. A new format is one module and one line in `_FORMATS`."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from harness.checkpoint import llama2c_bin
from harness.checkpoint.checkpoint import Checkpoint, Tensor, expected_shapes
from harness.errors import CheckpointError

__all__ = ["Checkpoint", "Tensor", "expected_shapes", "read", "sha256_of", "write"]

# Modules with sniff(head) and read(path), asked in this order. llama2c_bin comes last: its version 0 has no magic,
# so a file that nobody recognises is tried as one, and its reader's error says what was found instead.
_FORMATS = (llama2c_bin,)
_HEAD_BYTES = llama2c_bin.HEAD_BYTES


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint of any known format.

    Raises:
        CheckpointError: the path cannot be read, or the file is no valid checkpoint.
    """
    path = _regular_file(path)
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", path=path) from error
    chosen = next((module for module in _FORMATS if module.sniff(head)), llama2c_bin)
    return chosen.read(path)


def write(
    checkpoint: Checkpoint, path: str | os.PathLike[str], *, version: int, group_size: int | None = None
) -> None:
    """Write a llama2.c checkpoint of the given version (see `llama2c_bin.write`)."""
    llama2c_bin.write(checkpoint, path, version, group_size)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return a file's sha256 in hex, read in small pieces."""
    path = _regular_file(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", path=path) from error


def _regular_file(path: str | os.PathLike[str]) -> Path:
    """Refuse directories and devices before opening: opening a pipe would wait for ever."""
    path = Path(path)
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return path
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise CheckpointError(f"cannot be read: {reason}", path=path) from error
    kind = "a directory" if path.is_dir() else "something else"
    raise CheckpointError("not a file", path=path, expected="a regular file", actual=kind)
