"""Where results go: stdout, files named by options, and the story of the run on stderr."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from harness.errors import InputError
from harness.models import cache_dir

__all__ = ["check_targets", "emit", "is_stdout", "last_run", "tell", "terminal_size"]


def check_targets(*targets: Path | None) -> None:
    """Refuse, before any work is done, files that could not be written at its end.

    Raises:
        InputError: a directory is missing, or stdout was asked for twice.
    """
    given = [target for target in targets if target is not None]
    if sum(map(is_stdout, given)) > 1:
        raise InputError("only one result can go to stdout", where="-")
    for target in given:
        if target.is_dir():
            raise InputError("is a directory, expected a file", path=target)
        if not is_stdout(target) and not target.parent.is_dir():
            raise InputError("the directory does not exist", path=target.parent, hint="make it first")


def emit(text: str, target: Path | None = None) -> None:
    """Write a result to a file, or to stdout ("-", or nothing given).

    Raises:
        InputError: the file cannot be written.
    """
    if target is None or is_stdout(target):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        target.write_text(text, "utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", path=target) from error


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
