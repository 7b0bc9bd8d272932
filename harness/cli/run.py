"""`harness run`: write a text with the reference engine."""

from __future__ import annotations

import enum
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from harness import checkpoint, tokenizer
from harness.cli.output import tell
from harness.engine import LIBRARY, STRICT, Engine, blas_threads, generate
from harness.errors import InputError
from harness.models import locate, tokenizer_beside
from harness.tokenizer import Tokenizer

__all__ = ["command"]

_BOS = 1
_MAX_TEMPERATURE = 1e30  # it is a float32 for the sampler, whose own limit is 3.4e38


class _DType(enum.StrEnum):
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    STRICT = "strict"


class _Cache(enum.StrEnum):
    IN_PLACE = "in-place"
    CONCAT = "concat"
    NONE = "none"


class _Prefill(enum.StrEnum):
    SEQUENCE = "sequence"
    TOKEN = "token"


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint file, or the name of a model that the harness knows.")],
    prompt: Annotated[str, typer.Option("-i", "--prompt", help="How the text begins.")] = "",
    tokenizer_file: Annotated[
        Path | None,
        typer.Option(
            "-z", "--tokenizer", help="Tokenizer file.", show_default="the one beside the checkpoint that fits"
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option("-n", "--steps", min=0, help="Positions, the prompt's included; 0: the context.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option("-t", "--temperature", min=0.0, help="0: always the likeliest token.")
    ] = 1.0,
    topp: Annotated[
        float, typer.Option("-p", "--topp", min=0.0, max=1.0, help="Nucleus size; 0 or 1: the whole distribution.")
    ] = 0.9,
    seed: Annotated[int, typer.Option("-s", "--seed", help="Of llama2.c's random generator; 0: the time.")] = 0,
    dtype: Annotated[
        _DType | None,
        typer.Option(
            "--dtype",
            help="Arithmetic; strict has llama2.c's bits, slowly.",
            show_default="float32; strict for int8 checkpoints",
        ),
    ] = None,
    cache: Annotated[_Cache, typer.Option("--cache", help="How keys and values are kept.")] = _Cache.IN_PLACE,
    prefill: Annotated[
        _Prefill, typer.Option("--prefill", help="Feed the prompt as one sequence, or a token at a time.")
    ] = _Prefill.SEQUENCE,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the matrix products.")] = 1,
) -> int:
    """Write a text with the reference engine, and tell its speed on stderr."""
    if math.isnan(topp):
        raise InputError("a number is needed", where="--topp")
    if not temperature <= _MAX_TEMPERATURE:
        raise InputError(f"must be at most {_MAX_TEMPERATURE:g}", where="--temperature", actual=temperature)
    engine, vocabulary = _load(model, tokenizer_file, dtype)
    ids = vocabulary.encode(prompt.encode("utf-8", "surrogateescape"))
    with blas_threads(threads):
        engine.warm()
        tokens = generate(
            engine,
            ids,
            steps=steps,
            temperature=temperature,
            topp=topp,
            seed=seed or int(time.time()),
            cache=cache.value,
            one_by_one=prefill is _Prefill.TOKEN,
        )
        tell(_write(tokens, vocabulary, ids))
    return 0


def _load(model: str, tokenizer_file: Path | None, dtype: _DType | None) -> tuple[Engine, Tokenizer]:
    path, beside = Path(model), None
    if not path.exists() and not path.suffix:
        files = locate(model)
        path, beside = files.checkpoint, files.tokenizer
    found = checkpoint.read(path)
    vocab_size = found.config.vocab_size
    vocabulary = tokenizer.read(tokenizer_file or beside or tokenizer_beside(path, vocab_size), vocab_size)
    if dtype is None:
        dtype = _DType.FLOAT32 if found.group_size is None else _DType.STRICT
    if dtype is _DType.STRICT:
        return Engine(found.config, found.tensors, ops=STRICT), vocabulary
    return Engine(found.config, found.tensors, dtype=np.dtype(dtype.value), ops=LIBRARY), vocabulary


def _write(tokens: Iterable[int], vocabulary: Tokenizer, ids: Sequence[int]) -> str:
    """Write the text as it comes; return how fast it came.

    Prefill ends with the first token after the prompt.
    """
    out = sys.stdout.buffer
    before, n = ids[0], 0
    first = last = start = time.perf_counter()
    for token in tokens:
        n += 1
        last = time.perf_counter()
        if n <= len(ids):
            first = last
        if token == _BOS:
            break
        out.write(vocabulary.printed(before, token))
        out.flush()
        before = token
    out.write(b"\n")
    out.flush()
    n_fed = min(n, len(ids))
    return f"prefill {_speed(n_fed, first - start)}, decode {_speed(n - n_fed, last - first)}"


def _speed(n_tokens: int, seconds: float) -> str:
    if not n_tokens or seconds <= 0:
        return "0 tokens"
    return f"{n_tokens:,} token{'s' if n_tokens > 1 else ''} at {n_tokens / seconds:,.0f} tok/s"
