"""Dispatch: a Typer application in which only the module of the command that is used has been imported."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence

import typer

from harness.cli import COMMANDS

__all__ = ["run"]

_INTERRUPTED = 130


def run(args: Sequence[str]) -> int:
    """Run a command line and return its exit status; what goes wrong in a command is raised.

    A wrong command line prints its usage on stderr and gives 2.
    """
    wanted = next((word for word in args if not word.startswith("-")), "")
    app = typer.Typer(
        name="harness",
        help="Golden-output conformance and benchmark harness for llama-family inference programs.",
        epilog="Exit status: 0 all good, 1 a case failed or nothing green was checked, "
        "2 the request was wrong, 3 a bug of the harness.",
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, what in COMMANDS.items():
        command = _command(name) if name == wanted else _absent
        app.command(name, help=None if name == wanted else what, short_help=what)(command)
    app.callback()(_options)
    try:
        typer.main.get_command(app)(args=list(args), prog_name="harness")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


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
