"""Open a checkpoint file and replace one, with every failure of the file system told as a CheckpointError."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from harness.errors import CheckpointError

__all__ = ["opened", "replaced"]


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; directories, pipes and devices are refused."""
    if "\0" in str(path):
        raise CheckpointError("cannot be read: the path contains a NUL", path=path)
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError("not a file", path=path, expected="a regular file", actual="a pipe or a device")
            yield file
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", path=path) from error


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside `path` that takes its place when the block ends well, and vanishes otherwise."""
    temporary = path.parent / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"cannot be written: {error.strerror or error}", path=path) from error
    finally:
        temporary.unlink(missing_ok=True)
