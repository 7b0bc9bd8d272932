"""Options that several commands share, spelled once."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AllowSkip", "words"]

AllowSkip = Annotated[
    bool,
    typer.Option("--allow-skip", help="Pass although nothing green was checked, or a case was not judged enough."),
]


def words(text: str | None) -> list[str] | None:
    """Split a comma list; None, which means "all", stays None.

    >>> words("core, tinystories")
    ['core', 'tinystories']
    """
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]
