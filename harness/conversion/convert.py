"""Convert a model, and let the result have its name only when it is shown to be the same function.

Three checks, each of which can fail where the others pass:

1. The source, as it was read, against its own conventions: the reference's logits on a prompt must be those of a
   computation by the format's own names (`Format.own_logits`). A reader that exchanges two tensors is found here.
2. What was written, read back, against the source: every tensor, bit for bit or within the stated rounding.
3. The written file's logits, by the reference and by its own conventions: a writer and a reader that are wrong
   alike agree with each other, and not with this.

A difference is named by trying the mistakes of `suspects` until one explains it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness import formats
from harness.checkpoint import Checkpoint
from harness.conversion.carried import Carried, carry
from harness.conversion.compare import Rounding, check_tensors
from harness.conversion.logits import distance, prompt_of, reference_logits, tolerance
from harness.conversion.suspects import applicable
from harness.errors import CheckpointError, TokenizerError
from harness.formats import Format, WriteOptions

__all__ = ["Conversion", "check_own_logits", "convert"]

Story = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was done, and how far it was checked.

    Attributes:
        source, path: the two files or directories.
        source_format, format: their formats' names.
        n_tensors: how many were compared.
        roundings: what storing as another type did; empty: all tensors are the same to the bit.
        by_own_names: which of the two ends were held against their own conventions, by format name.
        ids: the prompt.
        largest: difference of a logit on it, as a share of their spread; 0 where nothing was rounded.
        agreeing: positions of the prompt where both have the same likeliest token.
        tokenizer: what became of the tokenizer; empty: there was none, nor is there a place for one.
    """

    source: Path
    path: Path
    source_format: str
    format: str
    n_tensors: int
    roundings: list[Rounding]
    by_own_names: list[str]
    ids: list[int]
    largest: float
    agreeing: int
    tokenizer: str = ""


def convert(
    source: Path,
    path: Path,
    *,
    to: str | None = None,
    options: WriteOptions | None = None,
    ids: Sequence[int] | None = None,
    story: Story = lambda text: None,
) -> Conversion:
    """Convert `source` to `path`, in the format `to` or the one that the suffix says.

    The source's own tokenizer goes along, unless `options` names one: into the result where its format has a place
    for it, else into a file beside it, STEM-tok.bin (or STEM-tok.json, of a byte-level vocabulary), which must not be
    there with another content.

    Args:
        ids: the prompt of the check; None: ids spread over the vocabulary.
        story: told what is being done.

    Raises:
        CheckpointError: the source cannot be read, the format cannot hold it, or a check failed; then nothing is at
            `path` that was not there before.
        InputError: there is no such format.
    """
    chosen = formats.format_named(to) if to else formats.format_for(path)
    if path.exists() and source.exists() and path.samefile(source):
        raise CheckpointError("source and destination are the same", path=path)
    read_as = formats.detect(source)
    checkpoint = read_as.read(source)
    checkpoint.validate()
    options = options or WriteOptions()
    tokenizer = carry(options.tokenizer, read_as, source, checkpoint)
    prompt = list(ids) if ids is not None else prompt_of(checkpoint)
    story(f"{source} is {read_as.name}; checking how it was read")
    expected = reference_logits(checkpoint, prompt)
    checked = []
    if check_own_logits(checkpoint, read_as, source, prompt, expected):
        checked.append(read_as.name)
    with _unnamed(path, chosen) as temporary:
        story(f"writing {chosen.name}")
        _write(checkpoint, temporary, chosen, options, tokenizer)
        try:
            written = chosen.read(temporary)
            story("comparing every tensor")
            roundings = check_tensors(checkpoint, written, chosen)
            story("comparing logits")
            actual = reference_logits(written, prompt)
            if check_own_logits(written, chosen, temporary, prompt, actual):
                checked.append(chosen.name)
        except CheckpointError as error:
            raise CheckpointError(
                f"the conversion is wrong, and was taken back: {error.what}", path=path, hint="please report it"
            ) from error
        largest = distance(actual, expected)
        if not roundings and largest > tolerance(checkpoint):
            raise CheckpointError(
                "the conversion is wrong, and was taken back: the logits differ though the tensors do not",
                path=path,
                expected=f"at most {tolerance(checkpoint):g} of their spread",
                actual=f"{largest:.2g}",
                hint=f"the configurations are {checkpoint.config} and {written.config}",
            )
        if chosen.read_tokenizer is None:
            tokenizer.write_beside(path)
    return Conversion(
        source=source,
        path=path,
        source_format=read_as.name,
        format=chosen.name,
        n_tensors=len(written.tensors),
        roundings=roundings,
        by_own_names=checked,
        ids=prompt,
        largest=largest,
        agreeing=int((actual.argmax(-1) == expected.argmax(-1)).sum()),
        tokenizer=tokenizer.told or ("no tokenizer is in it: -z names one" if chosen.read_tokenizer else ""),
    )


def _write(checkpoint: Checkpoint, path: Path, chosen: Format, options: WriteOptions, tokenizer: Carried) -> None:
    """Write a checkpoint, with its tokenizer where the format has a place for it."""
    inside = tokenizer.tokenizer if chosen.read_tokenizer else None
    try:
        formats.write(checkpoint, path, chosen.name, replace(options, tokenizer=inside))
    except TokenizerError as error:  # before any weight is written
        tokenizer.leave_out(error)
        formats.write(checkpoint, path, chosen.name, replace(options, tokenizer=None))
    if inside is not None and tokenizer.tokenizer is not None:
        tokenizer.told = "the tokenizer is in it"


def check_own_logits(
    checkpoint: Checkpoint, form: Format, path: Path, ids: Sequence[int], actual: NDArray[np.float64]
) -> bool:
    """Hold the reference's logits against the format's own; return whether it has any.

    Raises:
        CheckpointError: they differ; the message names the mistake that explains it, if one does.
    """
    if form.own_logits is None:
        return False
    expected = form.own_logits(path, ids)
    allowed = tolerance(checkpoint)
    apart = distance(actual, expected)
    if apart <= allowed:
        return True
    explained = [
        suspect.what
        for suspect in applicable(checkpoint.config)
        if distance(reference_logits(suspect.mend(checkpoint), ids), expected) <= allowed
    ]
    raise CheckpointError(
        f"the logits are not those of a computation by {form.name}'s own names: "
        + ("; ".join(f"it looks as if {what}" for what in explained) or "no known mistake explains it"),
        path=path,
        expected=f"within {allowed:g} of their spread",
        actual=f"{apart:.2g}",
    )


@contextmanager
def _unnamed(path: Path, chosen: Format) -> Iterator[Path]:
    """Yield a path beside `path` that becomes `path` if the block succeeds, and vanishes if not."""
    if path.exists() and not (path.is_file() or path.is_dir()):  # a device would be replaced by a file
        raise CheckpointError("is there already, and is no file", path=path, hint="name another")
    if chosen.is_directory and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError("is there already, and is no empty directory", path=path, hint="name another")
    temporary = path.parent / f".{os.getpid()}-{secrets.token_hex(4)}-{path.name}"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"cannot be written: {error.strerror or error}", path=path) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
