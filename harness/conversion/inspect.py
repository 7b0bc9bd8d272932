"""What a checkpoint is, and what looks wrong with it, told from its header and a few rows of each tensor.

The size of the file does not matter. What only shows when the model runs is `by_text`'s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from harness import formats
from harness.checkpoint import Checkpoint, LazyTensors, expected_shapes, shape_and_dtype
from harness.formats import Format, numbers
from harness.formats.hf_config import architecture_of
from harness.model_config import ModelConfig
from harness.tokenizer import AnyTokenizer

__all__ = ["Description", "available_memory", "describe", "read_rate", "token_bytes"]

_PEEK_BYTES = 1 << 20  # tensors that are made when asked for are looked at up to this size
_RATE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Description:
    """What is known without running the model.

    Attributes:
        architecture: in Hugging Face's word, or "of no published architecture".
        n_bytes: of the file, or of all files of the directory.
        stored: stored type -> (tensors, values).
        tensors: (name, shape, stored type), in the order of the forward pass.
        tokenizer: of the file itself, if it holds one.
        problems: what looks wrong, each a sentence.
    """

    path: Path
    format: Format
    config: ModelConfig
    architecture: str
    n_bytes: int
    stored: dict[str, tuple[int, int]]
    tensors: list[tuple[str, tuple[int, ...], str]]
    tokenizer: AnyTokenizer | None
    problems: list[str]


def describe(path: Path) -> tuple[Description, Checkpoint]:
    """Read what the header says, and a few rows.

    Raises:
        CheckpointError: there is no valid checkpoint.
    """
    form = formats.detect(path)
    checkpoint = form.read(path)
    checkpoint.validate()
    tensors = []
    stored: dict[str, tuple[int, int]] = {}
    for name in expected_shapes(checkpoint.config):
        shape, dtype = shape_and_dtype(checkpoint.tensors, name)
        tensors.append((name, shape, dtype))
        n, values = stored.get(dtype, (0, 0))
        stored[dtype] = n + 1, values + math.prod(shape)
    tokenizer = form.read_tokenizer(path) if form.read_tokenizer else None
    files = [each for each in path.iterdir() if each.is_file()] if path.is_dir() else [path]
    description = Description(
        path=path,
        format=form,
        config=checkpoint.config,
        architecture=architecture_of(checkpoint.config) or "of no published architecture",
        n_bytes=sum(file.stat().st_size for file in files),
        stored=stored,
        tensors=tensors,
        tokenizer=tokenizer,
        problems=[
            *_problems_of_header(checkpoint, tokenizer),
            *_problems_of_values(checkpoint, tensors),
        ],
    )
    return description, checkpoint


def _problems_of_header(checkpoint: Checkpoint, tokenizer: AnyTokenizer | None) -> Iterator[str]:
    config, group_size = checkpoint.config, checkpoint.group_size
    if tokenizer is not None and tokenizer.vocab_size != config.vocab_size:
        yield (
            f"the tokenizer has {tokenizer.vocab_size:,} pieces and the model {config.vocab_size:,} ids"
            + (": the rest can never be written" if tokenizer.vocab_size < config.vocab_size else "")
        )
    if group_size:
        for name, width in (("dim", config.dim), ("hidden_dim", config.hidden_dim)):
            if width % group_size:
                yield (
                    f"{name} {width:,} is no multiple of the group size {group_size}: llama2.c's runq leaves out the "
                    f"last {width % group_size} activations of each"
                )
    if config.vocab_size == 128256 and config.rope_theta != 500000:
        yield f"the vocabulary is Llama 3's, but rope_theta is {config.rope_theta:g}, where Llama 3's is 500000"


def _problems_of_values(checkpoint: Checkpoint, tensors: list[tuple[str, tuple[int, ...], str]]) -> Iterator[str]:
    """Look at the first and last rows of each tensor that is at hand, and at all values of small ones."""
    wrong: dict[str, list[str]] = {"has values that are no finite numbers": [], "is zero where it was looked at": []}
    not_finite, zero = wrong.values()
    for name, shape, _ in tensors:
        seen = _peek(checkpoint, name, shape)
        if seen is None:
            continue
        if not np.isfinite(seen).all():
            not_finite.append(name)
        elif not seen.any() and not name.endswith("_bias"):
            zero.append(name)
    for what, names in wrong.items():
        if len(names) == 1:
            yield f"tensor {names[0]} {what}"
        elif names:
            yield f"each of {len(names)} tensors, {names[0]} to {names[-1]}, {what}"


def _peek(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> NDArray[Any] | None:
    if isinstance(checkpoint.tensors, LazyTensors):
        source = checkpoint.tensors.source(name)
        if source.peek is not None:
            return np.asarray(source.peek(), np.float32)
        if 4 * math.prod(shape) > _PEEK_BYTES:
            return None
    tensor = checkpoint.tensors[name]
    if not isinstance(tensor, np.ndarray):
        per_row = shape[-1] // tensor.group_size or 1
        return np.concatenate([tensor.scales[:per_row], tensor.scales[-per_row:]])
    return np.concatenate([tensor[:2].ravel(), tensor[-2:].ravel()]).astype(np.float32)


# ---- speed ---------------------------------------------------------------------------------------


def token_bytes(description: Description) -> int:
    """Bytes of weights that decoding one token reads, as they are stored: all but a table that is only looked up."""
    total = 0.0
    for name, shape, dtype in description.tensors:
        if name == "tok_embedding" and not description.config.is_tied:
            continue
        total += math.prod(shape) * _VALUE_BYTES.get(dtype, numbers.BYTES.get(dtype, 1))
    return round(total)


# Bytes of a value of block formats, scales included.
_VALUE_BYTES = {"int8": 1 + 4 / 64, "q8_0": 34 / 32, "q4_0": 18 / 32}


# Limits of a container and what it uses of them, by the two versions of Linux's control groups.
_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def available_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that a program can still have: what the machine has left, or a container's limit leaves.

    What a container's cache of files takes counts as used, so there this is the least that it can have.
    """
    available = int(psutil.virtual_memory().available)
    for limit, used in _LIMITS:
        try:
            left = int((groups / limit).read_text()) - int((groups / used).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        available = min(available, max(0, left))
    return available


def read_rate(n_bytes: int) -> float:
    """Measure, in a tenth of a second, how many bytes of memory numpy reads in a second.

    In as many threads as BLAS is set to (`harness.engine.blas_threads`), over as many bytes as a token needs, at most
    128 MiB: a model that the caches hold is read faster.
    """
    data = np.ones(max(1 << 10, min(n_bytes, _RATE_BYTES) // 4), np.float32)
    best, end = 0.0, time.perf_counter() + 0.1
    while best == 0 or time.perf_counter() < end:
        begun = time.perf_counter()
        data.dot(data)
        best = max(best, data.nbytes / max(1e-9, time.perf_counter() - begun))
    return best
