"""Map a file, read JSON from a file that may lie, find a directory's tokenizer, replace a directory as a whole."""

from __future__ import annotations

import json
import mmap
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint.files import opened
from harness.errors import CheckpointError, TokenizerError
from harness.tokenizer import AnyTokenizer, read_any

__all__ = [
    "TOKENIZER_FILES",
    "mapped",
    "parse_json",
    "read_json",
    "replaced_directory",
    "tokenizer_file_in",
    "tokenizer_in",
]

# A directory's tokenizer, the first that is there.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer.bin")

# Of config.json, params.json and an index: far above any real one.
_MAX_JSON_BYTES = 64 << 20


def mapped(path: Path) -> NDArray[np.uint8]:
    """Map a file as bytes; an empty one is an empty array."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return np.zeros(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)


def parse_json(text: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object; one that repeats a key, nests without end or has endless numbers is refused.

    Raises:
        CheckpointError: it is not one.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError as error:
        raise CheckpointError("the JSON nests too deeply", path=path) from error
    except ValueError as error:
        raise CheckpointError(f"the JSON cannot be read: {error}", path=path) from error
    if not isinstance(found, dict):
        raise CheckpointError("the JSON is no table", path=path, actual=type(found).__name__)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read a small file that holds a JSON object.

    Raises:
        CheckpointError: it cannot be read, or holds none.
    """
    with opened(path) as file:
        text = file.read(_MAX_JSON_BYTES + 1)
    if len(text) > _MAX_JSON_BYTES:
        raise CheckpointError("the JSON is too large", path=path, expected=f"at most {_MAX_JSON_BYTES:,} bytes")
    return parse_json(text, path)


def tokenizer_file_in(directory: Path) -> Path | None:
    """Return the file of a directory's tokenizer, None where there is none.

    Where a tokenizer.model has the pieces of the tokenizer.json beside it, it comes first: it has the scores too.
    """
    found = [directory / name for name in TOKENIZER_FILES if (directory / name).is_file()]
    if [path.name for path in found[:2]] == ["tokenizer.json", "tokenizer.model"]:
        try:
            if read_any(found[0]).vocab_size == read_any(found[1]).vocab_size:
                return found[1]
        except TokenizerError:
            pass
    return found[0] if found else None


def tokenizer_in(directory: Path) -> AnyTokenizer | None:
    """Read a directory's tokenizer, None where there is none.

    Raises:
        TokenizerError: it is damaged, or of a kind that is not read.
    """
    file = tokenizer_file_in(directory)
    return None if file is None else read_any(file)


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
