"""Where results go: stdout, files named by options, and the story of the run on stderr."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from harness.errors import HarnessError, InputError
from harness.models import cache_dir

__all__ = ["check_targets", "emit", "emit_all", "is_stdout", "last_run", "size", "tell", "terminal_size"]


def check_targets(*targets: Path | None) -> None:
    """Refuse, before any work is done, files that could not be written at its end.

    Raises:
        InputError: a directory is missing or cannot be written to, or stdout was asked for twice.
    """
    given = [target for target in targets if target is not None]
    if sum(map(is_stdout, given)) > 1:
        raise InputError("only one result can go to stdout", where="-")
    for target in given:
        if not is_stdout(target):
            try:
                _check_target(target)
            except OSError as error:
                raise InputError(f"cannot be written: {error.strerror}", path=target) from error


def _check_target(target: Path) -> None:
    if not target.parent.is_dir():
        raise InputError("the directory does not exist", path=target.parent, hint="make it first")
    with contextlib.suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError("is a directory, expected a file", path=target)
        if not os.access(target, os.W_OK):
            raise InputError("cannot be written: permission denied", path=target)
        if not stat.S_ISREG(mode):
            return  # a pipe or a device
    with tempfile.TemporaryFile(dir=target.parent):
        pass


def emit(text: str, target: Path | None = None) -> None:
    """Write a result to a file, or to stdout ("-", or nothing given).

    Raises:
        InputError: the file cannot be written.
    """
    if target is None or is_stdout(target):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    content = text.encode("utf-8", "backslashreplace")
    try:
        if target.exists() and not target.is_file():  # a pipe or a device
            target.write_bytes(content)
        else:
            _write_whole(target, content)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", path=target) from error


def emit_all(documents: Iterable[tuple[Path | None, Callable[[], str]]]) -> None:
    """Render and write several results; one that fails does not keep the others from being written.

    Raises:
        HarnessError: the first that could not be rendered or written.
    """
    first: HarnessError | None = None
    for target, render in documents:
        if target is not None:
            try:
                emit(render(), target)
            except HarnessError as error:
                first = first or error
    if first:
        raise first


def _write_whole(target: Path, content: bytes) -> None:
    """Write a file that is there whole or, where that fails, as it was before."""
    target = target.resolve()  # a link stays a link
    temporary = target.with_name(f".harness-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def last_run() -> Path:
    """Return the run file of a check that named none."""
    return cache_dir() / "runs" / "check.jsonl"


def tell(text: str) -> None:
    """Say something about the run, on stderr."""
    print(f"harness: {text}", file=sys.stderr)


def terminal_size() -> tuple[int, bool]:
    """Return the width of stdout in columns, and whether to use colours there."""
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return shutil.get_terminal_size((100, 24)).columns, color


def is_stdout(target: Path | None) -> bool:
    """Whether an option's value means stdout."""
    return str(target) == "-"


def size(n_bytes: float) -> str:
    """Spell a number of bytes in three digits.

    >>> size(0), size(1234), size(999_999), size(26953662492)
    ('0 B', '1.23 kB', '1 MB', '27 GB')
    """
    power = min(4, max(0, int(math.log10(max(1, n_bytes)) // 3)))
    power += power < 4 and round(n_bytes / 1000**power) >= 1000
    return f"{n_bytes / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
