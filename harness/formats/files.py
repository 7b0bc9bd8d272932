"""Replace a directory as a whole, map a file, and give its pages back."""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint.files import opened
from harness.errors import CheckpointError

__all__ = ["mapped", "replaced_directory"]


def mapped(path: Path) -> NDArray[np.uint8]:
    """Map a file as bytes; an empty one is an empty array."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return np.zeros(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)


@contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """Make a directory beside `path` that takes its place when the block ends well, and vanishes otherwise.

    An empty directory is replaced; one with files in it is refused, because they may be somebody's only copy.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(
            "is there already, and is not an empty directory", path=path, hint="name another, or remove it"
        )
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"cannot be written: {error.strerror or error}", path=path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
