"""Read a tokenizer file as a whole and replace one, with every failure told as a TokenizerError."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import TokenizerError

__all__ = ["MAX_FILE_BYTES", "content", "json_object", "write"]

MAX_FILE_BYTES = 64 << 20


def content(path: Path) -> bytes:
    """Return a regular file's bytes; what is too large for a tokenizer is not read."""
    if "\0" in str(path):
        raise TokenizerError("cannot be read: the path contains a NUL", path=path)
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TokenizerError("not a file", path=path, expected="a regular file", actual="a pipe or a device")
            if status.st_size > MAX_FILE_BYTES:
                raise TokenizerError(
                    "too large for a tokenizer",
                    path=path,
                    expected=f"at most {MAX_FILE_BYTES:,} bytes",
                    actual=f"{status.st_size:,}",
                )
            return file.read(status.st_size)
    except OSError as error:
        raise TokenizerError(f"cannot be read: {error.strerror or error}", path=path) from error


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file is."""
    try:
        found = json.loads(content(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError and a JSONDecodeError are ValueErrors
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise TokenizerError(f"not JSON: {what}", path=path) from error
    if not isinstance(found, dict):
        raise TokenizerError("not a JSON object", path=path, actual=type(found).__name__)
    return found


def write(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file; it appears complete or not at all."""
    temporary = path.parent / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.writelines(parts)
        os.replace(temporary, path)
    except OSError as error:
        raise TokenizerError(f"cannot be written: {error.strerror or error}", path=path) from error
    finally:
        temporary.unlink(missing_ok=True)
