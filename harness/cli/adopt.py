"""`harness adopt`: find how a program wants to be called, and write its manifest."""

from __future__ import annotations

import os
import secrets
import shlex
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from harness.adapters.manifest import FILE_NAME
from harness.cli.output import emit, tell
from harness.conformance import adopt as adoption
from harness.errors import InputError

__all__ = ["command"]

_SHOWN_BYTES = 600


def command(
    program: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...", help='A program, or a command line: ./run, "python x.py", "java -cp classes Main".'
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The manifest; - is stdout.", show_default="impl.toml beside the program"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a manifest that is there.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="Seconds for each trial.")] = 10.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not tell of each trial.")] = False,
) -> int:
    """Find how a program wants to be called by running it on a small model, and write its manifest.

    Exit status 1 if no way of calling it was found, 2 if it cannot be started.
    """
    words = _words(program)
    to_stdout = out is not None and str(out) == "-"
    path = adoption.default_path(words) if out is None or to_stdout else out
    if path.is_dir():
        path /= FILE_NAME
    if not to_stdout:
        _check_target(path, force=force)
    found = adoption.adopt(
        words,
        path=path,
        progress=None if quiet else tell,
        limits=adoption.limits(timeout_s),
    )
    if found.outcome is adoption.Outcome.NOT_STARTED:
        raise InputError(f"cannot be started: {found.trials[-1].outcome}")
    if not found.manifest_toml:
        emit(_failure(found))
        return 1
    if to_stdout:
        emit(found.manifest_toml)
        return 0
    _write(path, found.manifest_toml, force=force)
    shown = path if path.is_absolute() and not path.is_relative_to(Path.cwd()) else Path(os.path.relpath(path))
    emit(f"{shown}: {found.outcome} ({len(found.trials)} trials)\nnext: harness check {shlex.quote(str(shown))}\n")
    return 0


def _words(program: list[str]) -> list[str]:
    """Split a command that was given as one word, unless that is a file."""
    if len(program) > 1 or Path(program[0]).is_file():
        return program
    try:
        words = shlex.split(program[0])
    except ValueError as error:
        raise InputError(f"{program[0]}: {error}") from error
    if not words or not words[0]:
        raise InputError("is empty, expected a program", where="COMMAND")
    return words


def _check_target(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise InputError("is there already", path=path, hint="--force overwrites it, --out names another")
    if not path.absolute().parent.is_dir():
        raise InputError("the directory does not exist", path=path.parent, hint="make it first")


def _write(path: Path, text: str, *, force: bool) -> None:
    """Write a file that is there whole or not at all, and that was not there unless forced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        if force:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    except FileExistsError as error:
        raise InputError("is there already", path=path, hint="--force overwrites it") from error
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", path=path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _failure(found: adoption.Adoption) -> str:
    """Show what was tried, and the output that came nearest."""
    lines = [f"{found.outcome}; {len(found.trials)} trials:", ""]
    shapes: dict[str, list[adoption.Trial]] = {}
    for trial in found.trials:
        shapes.setdefault(trial.shape, []).append(trial)
    width = max(map(len, shapes))
    for shape, trials in shapes.items():
        lines.append(f"{trials[0].number:4}  {shape:{width}}  {trials[0].outcome}")
        if len(forms := {trial.form for trial in trials}) > 1:
            lines.append(
                f"{'':4}  {'':{width}}  and with {len(forms) - 1} other forms of the model, none of them right"
            )
    nearest = found.promising
    if nearest is not None:
        lines += ["", f"nearest was trial {nearest.number}: {nearest.command}"]
        for name, text in (("stdout", nearest.stdout.decode("utf-8", "replace")), ("stderr", nearest.stderr_tail)):
            if text.strip():
                lines += [f"{name}:", textwrap.indent(text[:_SHOWN_BYTES].rstrip(), "    ")]
        lines += ["", "write impl.toml by hand (docs/manifest.md), or add the model's flags to the command"]
    return "\n".join(lines) + "\n"
