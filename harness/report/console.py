"""A console of rich that writes into a text, as the reports for a terminal are made."""

from __future__ import annotations

import io

from rich.console import Console

__all__ = ["console_into_text"]


def console_into_text(width: int, color: bool) -> tuple[Console, io.StringIO]:
    """Return a console of so many columns, with ANSI colours or without, and what is printed to it."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=max(width, 20),
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    return console, stream
