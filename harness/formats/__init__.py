"""Every form in which a llama is published, read and written through one table.

    checkpoint = read("some/path")                      the format goes by content
    write(checkpoint, "model.gguf", to="gguf")          atomic, tensor by tensor

A new format is one module with a `Format` value, and its line in `FORMATS`. A module may import an optional package
only inside the function that needs it.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.checkpoint import Checkpoint
from harness.checkpoint.files import opened
from harness.errors import CheckpointError, InputError
from harness.formats import gguf, huggingface, llama2c, llama2c_pt, lmw, meta, npz
from harness.formats.files import TOKENIZER_FILES, tokenizer_file_in
from harness.formats.format import Format, WriteOptions
from harness.tokenizer import AnyTokenizer, ByteLevelTokenizer, read_any
from harness.tokenizer.any_format import of_a_model

__all__ = [
    "FORMATS",
    "Format",
    "WriteOptions",
    "detect",
    "fits",
    "format_for",
    "format_named",
    "read",
    "read_tokenizer",
    "write",
]

# Asked in this order. Version 0 of llama2.c comes last: it has no magic number, so a file that nobody recognises is
# tried as one, and its reader's error says what was found instead.
FORMATS: tuple[Format, ...] = (
    gguf.FORMAT,
    *huggingface.FORMATS,
    meta.FORMAT,
    npz.FORMAT,
    llama2c_pt.FORMAT,
    *lmw.FORMATS,
    *llama2c.FORMATS,
)

HEAD_BYTES = 512


def detect(path: str | os.PathLike[str]) -> Format:
    """Say of what format a file or directory is, by its content.

    Raises:
        CheckpointError: it cannot be read, or is a directory of no known format.
    """
    path = Path(path)
    head = b""
    if not path.is_dir():
        with opened(path) as file:
            head = file.read(HEAD_BYTES)
    for one in FORMATS:
        if one.is_directory == path.is_dir() and one.detect(path, head):
            return one
    if path.is_dir():
        raise CheckpointError(
            "no model is in this directory",
            path=path,
            hint="a Hugging Face directory has config.json and weights, Meta's params.json and consolidated.*.pth",
        )
    return FORMATS[-1]


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint of any known format; its tensors are mapped, or made when asked for.

    Raises:
        CheckpointError: the path cannot be read, or holds no valid checkpoint.
    """
    return detect(path).read(Path(path))


def write(
    checkpoint: Checkpoint, path: str | os.PathLike[str], to: str | None = None, options: WriteOptions | None = None
) -> None:
    """Write a checkpoint; the result appears whole or not at all.

    Args:
        to: a format's name; None: by the suffix of `path`, where no suffix is a Hugging Face directory.

    Raises:
        CheckpointError: the format cannot hold the model, or the path cannot be written.
        InputError: there is no such format.
    """
    path, options = Path(path), options or WriteOptions()
    chosen = format_named(to) if to else format_for(path)
    if chosen.write is None:
        raise InputError(f"the format {chosen.name} is only read", hint=f"written are {_names(writable=True)}")
    if options.dtype and options.dtype not in chosen.dtypes:
        raise InputError(
            f"{chosen.name} does not store {options.dtype}", expected=" or ".join(chosen.dtypes), actual=options.dtype
        )
    if why := chosen.refuses(checkpoint.config):
        raise CheckpointError(f"{chosen.name} cannot hold this model: {why}", path=checkpoint.path)
    if options.tokenizer and not fits(options.tokenizer, checkpoint.config.vocab_size):
        raise CheckpointError(
            "the tokenizer is of another vocabulary",
            path=checkpoint.path,
            expected=f"{checkpoint.config.vocab_size} pieces",
            actual=options.tokenizer.vocab_size,
        )
    chosen.write(checkpoint, path, options)


def fits(tokenizer: AnyTokenizer, vocab_size: int) -> bool:
    """Whether the ids are a model's; tables of models with byte-level vocabularies are often padded."""
    is_padded = isinstance(tokenizer, ByteLevelTokenizer) and tokenizer.vocab_size < vocab_size
    return is_padded or tokenizer.vocab_size == vocab_size


def read_tokenizer(path: str | os.PathLike[str], vocab_size: int | None = None) -> AnyTokenizer:
    """Read a tokenizer from any file that may hold one: its own, a checkpoint, or a directory in which it lies.

    Args:
        vocab_size: of the model, as `harness.tokenizer.read_any` takes it.

    Raises:
        CheckpointError, TokenizerError: the file is damaged, or of no known format, or of another vocabulary.
        InputError: no tokenizer is in it.
    """
    path = Path(path)
    if path.is_dir():
        file = tokenizer_file_in(path)
        if file is None:
            raise InputError("no tokenizer is in this directory", path=path, expected=" or ".join(TOKENIZER_FILES))
        return read_any(file, vocab_size)
    form = detect(path)
    if form.read_tokenizer is None:
        return read_any(path, vocab_size)
    found = form.read_tokenizer(path)
    if found is None:
        raise InputError(f"no tokenizer is in this {form.name} file", path=path, hint="name another with -z")
    return of_a_model(found, vocab_size, path)


def format_named(name: str) -> Format:
    """Find a format by its name.

    Raises:
        InputError: there is none.
    """
    for one in FORMATS:
        if one.name == name:
            return one
    raise InputError(f"there is no format {name}", hint=f"the formats are {_names()}")


def format_for(path: Path) -> Format:
    """Choose the format to write by the suffix of a path.

    Raises:
        InputError: no format has the suffix.
    """
    suffix = path.suffix.lower()
    for one in FORMATS:
        if suffix in one.suffixes and one.write:
            return one
    raise InputError(
        f"no format is written to files that end in {suffix or 'nothing'}",
        path=path,
        hint=f"say --to, one of {_names(writable=True)}",
    )


def _names(*, writable: bool = False) -> str:
    return ", ".join(one.name for one in FORMATS if one.write or not writable)
