"""Dispatch: a Typer application in which only the module of the command that is used has been imported."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import typer

from harness.cli import COMMANDS

__all__ = ["run"]

_INTERRUPTED = 130

# Click's UsageError, wherever this version of Typer keeps it.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def run(args: Sequence[str]) -> int:
    """Run a command line and return its exit status; what goes wrong in a command is raised.

    A wrong command line is told in one line on stderr and gives 2; an empty one prints the help.
    """
    wanted = next((word for word in args if not word.startswith("-")), "")
    app = typer.Typer(
        name="harness",
        help="Golden-output conformance and benchmark harness for llama-family inference programs.",
        epilog="Exit status: 0 all good, 1 a case failed or nothing green was checked, "
        "2 the request was wrong, 3 a bug of the harness.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, what in COMMANDS.items():
        command = _command(name) if name == wanted else _absent
        app.command(name, help=None if name == wanted else what, short_help=what)(command)
    app.callback()(_options)
    try:
        command = typer.main.get_command(app)
        status = command(args=list(args) or ["--help"], prog_name="harness", standalone_mode=False)
    except _UsageError as error:
        print(f"harness: {_what_is_wrong(error)}", file=sys.stderr)
        return 2
    except typer.Abort:
        return _INTERRUPTED
    except SystemExit as end:  # nobody reads what is printed
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return int(status or 0) if args else 2


def _what_is_wrong(error: Exception) -> str:
    usage = cast(Any, error)
    message = " ".join(usage.format_message().split()).rstrip(".")
    message = message.replace(": Value error, ", ": ")  # which Pydantic puts before what was meant
    see = " See" if message.endswith("?") else "; see"
    command = usage.ctx.command_path if usage.ctx else "harness"
    return f"{message[:1].lower()}{message[1:]}{see} {command} --help"


def _command(name: str) -> Callable[..., None]:
    command: Callable[..., int | None] = importlib.import_module(f"harness.cli.{name}").command

    @functools.wraps(command)
    def run_it(*args: object, **options: object) -> None:
        # Typer turns Ctrl-C into an exit status of its own, which differs between its versions.
        try:
            status = command(*args, **options)
        except KeyboardInterrupt:
            status = _INTERRUPTED
        raise typer.Exit(status or 0)

    return run_it


def _absent() -> None:
    """Stand for a command that this command line does not use."""


def _options(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """`--version` comes here only for `--help`: `harness.__main__` answers it before Typer is imported."""
