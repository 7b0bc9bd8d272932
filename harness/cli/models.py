"""`harness models`: which there are, where they are, and how to get them."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from harness.bench.workload import SHAPES, make_synthetic
from harness.cli.output import tell
from harness.errors import InputError
from harness.models import ModelNotFound, known_names, locate, pull

__all__ = ["command"]


class _Action(enum.StrEnum):
    LIST = "list"
    PULL = "pull"
    PATH = "path"
    MAKE = "make"


class _Precision(enum.StrEnum):
    F32 = "f32"
    Q8 = "q8"


def command(
    action: Annotated[
        _Action,
        typer.Argument(
            help="list: every name, and whether it is here. pull: fetch published files into the cache. path: print "
            "where the checkpoint is. make: make a derived model, or a synthetic one of a published shape."
        ),
    ],
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Models, or files of pull.")] = None,
    tokenizer: Annotated[bool, typer.Option("--tokenizer", help="With path, the tokenizer's instead.")] = False,
    precision: Annotated[
        _Precision, typer.Option("--precision", help="Of a synthetic model: float32, or int8 in groups.")
    ] = _Precision.F32,
) -> int:
    """List, fetch, find and make models."""
    if action is _Action.LIST:
        for name in names or known_names():
            print(_line(name))
        return 0
    if not names:
        raise InputError(f"harness models {action.value} needs a name", hint="harness models list names all")
    for name in names:
        if action is _Action.PULL:
            for path in pull.pull(name, told=tell):
                print(path)
        elif action is _Action.MAKE and name in SHAPES:
            made = make_synthetic(name, SHAPES[name], precision.value, told=tell)
            print(made.tokenizer if tokenizer else made.checkpoint)
        else:  # a derived model is made when it is located
            found = locate(name)
            print(found.tokenizer if tokenizer else found.checkpoint)
    return 0


def _line(name: str) -> str:
    try:
        files = locate(name)
    except ModelNotFound:
        fetched = f"; harness models pull {name}" if name in pull.names() else ""
        return f"{name:<24} not here{fetched}"
    parts = files.checkpoint.iterdir() if files.checkpoint.is_dir() else [files.checkpoint]
    n_bytes = sum(part.stat().st_size for part in parts)
    return f"{name:<24} {files.format:<11}  {n_bytes:>13,} bytes  {files.checkpoint}"
