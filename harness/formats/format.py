"""What a format is: a value with a name, how to recognise it, to read it and to write it, and what it can hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint import Checkpoint
from harness.model_config import ModelConfig
from harness.tokenizer import AnyTokenizer

__all__ = ["Format", "WriteOptions"]


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a checkpoint is to be written.

    Attributes:
        dtype: what the matrices are stored as, a word of the format's `dtypes`; None: what they are stored as now if
            the format has it, else its first. Norms and biases stay float32 where the format allows.
        group_size: values per scale, for int8 of llama2.c; None: as they are, else 64.
        tokenizer: goes along where the format has a place for one; None: the file has none.
        progress: told the bytes written so far, after each tensor.
    """

    dtype: str | None = None
    group_size: int | None = None
    tokenizer: AnyTokenizer | None = None
    progress: Callable[[int], None] = field(default=lambda n_bytes: None)


def _holds_all(config: ModelConfig) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Format:
    """A way in which models are published.

    Attributes:
        name: as `--to` takes it and as `Checkpoint.format` says it.
        what: one line for help and lists.
        suffixes: of its files, with the dot, lower case; what `DST` has if it is to be of this format. A format of
            directories has "" among them.
        is_directory: whether a model is a directory.
        detect: (path, head) -> whether this is one; head is the first 512 bytes, empty for a directory. It may look
            into a directory, and must not read more of a file.
        read: path -> Checkpoint, its tensors mapped or lazy; every size checked against the file before anything is
            allocated. Raises CheckpointError.
        write: (checkpoint, path, options); None where it is only read. The result appears whole or not at all
            (`harness.checkpoint.files.replaced`, `harness.formats.files.replaced_directory`). Tensors are taken one
            at a time through `Streamed`.
        dtypes: what matrices may be stored as, the default first.
        refuses: config -> why a model of this kind cannot be held, or None.
        own_logits: (path, ids) -> logits (n_tokens, vocab_size) in float64, computed by the format's own names and
            conventions and sharing no table with `read` and `write`: what shows a reader and a writer that are wrong
            alike. None where the tensors lie as they do here.
        error_bound: (float32 values, word of `dtypes`) -> largest |stored - value| of each, for types that are no
            floats and are read back as float32.
        read_tokenizer: path -> the tokenizer that lies in it, None where there is none. A format without it has no
            place for one.
    """

    name: str
    what: str
    suffixes: tuple[str, ...]
    detect: Callable[[Path, bytes], bool]
    read: Callable[[Path], Checkpoint]
    write: Callable[[Checkpoint, Path, WriteOptions], None] | None = None
    dtypes: tuple[str, ...] = ("float32",)
    refuses: Callable[[ModelConfig], str | None] = _holds_all
    own_logits: Callable[[Path, Sequence[int]], NDArray[np.float64]] | None = None
    error_bound: Callable[[NDArray[Any], str], NDArray[np.float64]] | None = None
    read_tokenizer: Callable[[Path], AnyTokenizer | None] | None = None
    is_directory: bool = False
