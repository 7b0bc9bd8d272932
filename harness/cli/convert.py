"""`harness convert`: a model in another format, checked by its tensors and by its logits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness import formats
from harness.cli.output import tell
from harness.conversion.convert import Conversion, convert
from harness.engine import blas_threads
from harness.errors import InputError
from harness.formats import WriteOptions

__all__ = ["command"]

_DTYPES = sorted({dtype for one in formats.FORMATS if one.write for dtype in one.dtypes})


def command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A checkpoint file, or a directory that holds one.")],
    path: Annotated[
        Path,
        typer.Argument(metavar="DST", help="What to write; without a suffix, a Hugging Face directory."),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help=f"Format to write: {', '.join(one.name for one in formats.FORMATS if one.write)}.",
            show_default="by the suffix of DST",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype", help=f"Store weights as {', '.join(_DTYPES)}.", show_default="as they are, where DST can"
        ),
    ] = None,
    group_size: Annotated[
        int | None, typer.Option("--group-size", min=1, help="Values per scale, for llama2c-v2.", show_default="64")
    ] = None,
    tokenizer_file: Annotated[
        Path | None,
        typer.Option(
            "-z",
            "--tokenizer",
            help="A tokenizer to go along: a file of any format, a checkpoint or a directory that holds one.",
            show_default="SRC's own",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not tell what is being done.")] = False,
) -> int:
    """Convert a checkpoint, then read it back and compare every tensor, and the logits on a prompt.

    DST appears only if the checks pass.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise InputError("there is no such type", where="--dtype", expected=", ".join(_DTYPES), actual=dtype)
    vocabulary = formats.read_tokenizer(tokenizer_file) if tokenizer_file else None
    progress = _Progress(is_shown=not quiet and sys.stderr.isatty())
    options = WriteOptions(dtype=dtype, group_size=group_size, tokenizer=vocabulary, progress=progress.bytes)
    with blas_threads(1):
        done = convert(source, path, to=to, options=options, story=tell if not quiet else _silent)
    progress.end()
    for line in _lines(done):
        print(line)
    return 0


def _silent(text: str) -> None:
    """Take a story and tell nobody."""


class _Progress:
    """A counter on one line of a terminal."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown

    def bytes(self, n_bytes: int) -> None:
        if self._is_shown:
            print(f"\rharness: {n_bytes / 1e6:,.0f} MB written", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._is_shown:
            print(file=sys.stderr)


def _lines(done: Conversion) -> list[str]:
    lines = [f"{done.source} ({done.source_format}) -> {done.path} ({done.format})"]
    if done.roundings:
        lines += [
            f"{one.n_tensors} of {done.n_tensors} tensors rounded to {one.dtype}, as stated: by at most "
            f"{one.largest:.2g} of the largest value"
            for one in done.roundings
        ]
    else:
        lines.append(f"all {done.n_tensors} tensors are the same, bit for bit")
    n = len(done.ids)
    lines.append(
        f"logits on {n} tokens: largest difference {done.largest:.2g} of their spread, same likeliest token at "
        f"{done.agreeing} of {n}"
    )
    if done.by_own_names:
        lines.append(f"and as computed by the own names of {' and of '.join(done.by_own_names)}")
    if done.tokenizer:
        lines.append(done.tokenizer)
    return lines
