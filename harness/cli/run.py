"""`harness run`: write a text with the reference engine."""

from __future__ import annotations

import enum
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from harness import formats
from harness.checkpoint import Checkpoint
from harness.cli.output import tell
from harness.cli.run_chat import converse
from harness.cli.run_cost import Cost, OperationClock, memory
from harness.engine import LIBRARY, STRICT, Engine, Ops, blas_threads, clamp_steps, generate
from harness.engine.llama_np import Choice, generate_uniform
from harness.engine.sampler import nucleus_candidates, probabilities
from harness.errors import InputError
from harness.models import locate, tokenizer_beside
from harness.tokenizer import AnyTokenizer

__all__ = ["command"]

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


class _Sampler(enum.StrEnum):
    LLAMA2C = "llama2c"
    UNIFORM = "uniform"


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint file, or the name of a model that the harness knows.")],
    prompt: Annotated[str, typer.Option("-i", "--prompt", help="How the text begins.")] = "",
    prompt_file: Annotated[
        Path | None, typer.Option("-f", "--prompt-file", help="A file that the text begins with; - is stdin.")
    ] = None,
    tokenizer_file: Annotated[
        Path | None,
        typer.Option(
            "-z", "--tokenizer", help="Tokenizer file.", show_default="the one beside the checkpoint that fits"
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            "-n",
            "--steps",
            min=0,
            help="Positions, the prompt's too (in a chat: of an answer); 0: the context.",
        ),
    ] = 256,
    temperature: Annotated[
        float, typer.Option("-t", "--temperature", min=0.0, help="0: always the likeliest token.")
    ] = 1.0,
    topp: Annotated[
        float, typer.Option("-p", "--topp", min=0.0, max=1.0, help="Nucleus size; 0 or 1: the whole distribution.")
    ] = 0.9,
    seed: Annotated[int, typer.Option("-s", "--seed", help="Of the random generator; 0: the time.")] = 0,
    sampler: Annotated[
        _Sampler,
        typer.Option(
            "--sampler",
            help="llama2.c's, or llama-np's: uniformly among the nucleus, with Python's generator; -n then bounds "
            "positions with the whole prompt as one, and may exceed the context.",
        ),
    ] = _Sampler.LLAMA2C,
    candidates: Annotated[
        int, typer.Option("--candidates", min=0, help="Tell on stderr so many of the likeliest tokens of each step.")
    ] = 0,
    dtype: Annotated[
        _DType | None,
        typer.Option(
            "--dtype",
            help="Arithmetic; strict has llama2.c's bits, slowly.",
            show_default="float32; strict for int8 checkpoints",
        ),
    ] = None,
    cache: Annotated[_Cache, typer.Option("--cache", help="How keys and values are kept.")] = _Cache.IN_PLACE,
    chat: Annotated[
        bool, typer.Option("--chat", help="Answer the lines of stdin, by Llama 2's or Llama 3's template.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", help="The system prompt of a chat.", show_default="none")
    ] = None,
    prefill: Annotated[
        _Prefill, typer.Option("--prefill", help="Feed the prompt as one sequence, or a token at a time.")
    ] = _Prefill.SEQUENCE,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the matrix products.")] = 1,
    operations: Annotated[
        bool,
        typer.Option(
            "--operations", help="Tell on stderr how long each operation inside a token takes; the run is slower."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Do not tell times and memory on stderr.")] = False,
) -> int:
    """Write a text with the reference engine, and tell its times and memory on stderr."""
    if math.isnan(topp):
        raise InputError("a number is needed", where="--topp")
    if not temperature <= _MAX_TEMPERATURE:
        raise InputError(f"must be at most {_MAX_TEMPERATURE:g}", where="--temperature", actual=temperature)
    if operations and chat:
        raise InputError("tells of one text, not of a chat", where="--operations")
    cost, clock = Cost(), OperationClock() if operations else None
    with cost.loading():
        checkpoint, vocabulary = _read(model, tokenizer_file)
        engine = _engine(checkpoint, dtype, clock)
    if chat and (prompt or prompt_file):
        raise InputError("a chat takes its questions from stdin", hint="leave out --prompt and --prompt-file")
    if system is not None and not chat:
        raise InputError("a system prompt belongs to --chat", where="--system")
    ids = vocabulary.encode(b"" if chat else _prompt(prompt, prompt_file))
    if not ids and not chat:
        raise InputError("this model has no BOS, so a text needs a beginning", hint="give one with --prompt")
    if sampler is _Sampler.UNIFORM and topp == 0:
        raise InputError("must be above 0 for this sampler", where="--topp")
    settings: dict[str, Any] = {"temperature": temperature, "topp": topp, "seed": seed or int(time.time())}
    feeding: dict[str, Any] = {"cache": cache.value, "one_by_one": prefill is _Prefill.TOKEN}
    with blas_threads(threads):
        with cost.loading():
            engine.warm()
        if chat:
            context = engine.config.seq_len

            def answer(dialog: list[int]) -> Iterator[int]:
                end = min(len(dialog) - 1 + (steps or context), context)
                if sampler is _Sampler.UNIFORM:
                    choices = generate_uniform(engine, dialog, length=end, stop=frozenset(), **settings, **feeding)
                    return (choice.token for choice in choices)
                tokens = generate(engine, dialog, steps=end, stop=frozenset(), **settings, **feeding)
                return islice(tokens, len(dialog) - 1, None)

            converse(vocabulary, system, context, answer)
            return 0
        stop = vocabulary.stop_ids
        if sampler is _Sampler.UNIFORM:
            stop = stop - {vocabulary.bos_id} | {vocabulary.eos_id}
            length = steps or engine.config.seq_len
            choices = generate_uniform(engine, ids, length=length, stop=stop, **settings, **feeding)
            tokens: Iterator[int] = chain(ids[1:], _told(choices, vocabulary, candidates))
        else:
            seen = partial(_tell_nucleus, vocabulary, candidates, temperature, topp) if candidates else None
            tokens = generate(engine, ids, steps=steps, stop=stop, seen=seen, **settings, **feeding)
        _write(tokens, vocabulary, ids, stop, cost)
    if not quiet:
        room = length if sampler is _Sampler.UNIFORM else clamp_steps(steps, engine.config.seq_len)
        itemsize, group_size = engine.dtype.itemsize, checkpoint.group_size
        tell(cost.stages())
        tell(memory(engine.config, itemsize=itemsize, group_size=group_size, n_positions=room))
    for line in clock.lines(cost) if clock else ():
        tell(line)
    return 0


def _prompt(prompt: str, file: Path | None) -> bytes:
    if file is None:
        return prompt.encode("utf-8", "surrogateescape")
    if prompt:
        raise InputError("give either --prompt or --prompt-file")
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=file) from error


def _told(choices: Iterable[Choice], vocabulary: AnyTokenizer, n: int) -> Iterator[int]:
    """Pass on the tokens, and tell what they were chosen from."""
    for choice in choices:
        if n:
            tell(_candidates(vocabulary, choice.candidates[:n], choice.probabilities[:n], len(choice.candidates)))
        yield choice.token


def _tell_nucleus(vocabulary: AnyTokenizer, n: int, temperature: float, topp: float, logits: NDArray[Any]) -> None:
    p = probabilities(logits, temperature or 1.0)
    ids = nucleus_candidates(p, topp)[0] if temperature and 0 < topp < 1 else np.argsort(-p, kind="stable")
    ids = ids if temperature else ids[:1]
    tell(_candidates(vocabulary, ids[:n], p[ids[:n]], len(ids)))


def _candidates(vocabulary: AnyTokenizer, ids: NDArray[Any], p: NDArray[Any], n_all: int) -> str:
    named = (
        f"{id_} {vocabulary.pieces[id_].decode(errors='backslashreplace')!r} {share:.3g}"
        for id_, share in zip(ids.tolist(), p.tolist(), strict=True)
    )
    return f"of {n_all:,}: {', '.join(named)}"


def _read(model: str, tokenizer_file: Path | None) -> tuple[Checkpoint, AnyTokenizer]:
    """Find a model and read it: by its path, or by a name that the harness knows."""
    path, beside = Path(model), None
    if not path.exists() and not path.suffix:
        files = locate(model)
        path, beside = files.checkpoint, files.tokenizer
    form = formats.detect(path)
    found = form.read(path)
    vocab_size = found.config.vocab_size
    vocabulary = form.read_tokenizer(path) if form.read_tokenizer and not tokenizer_file else None
    if vocabulary is None:
        file = tokenizer_file or beside or tokenizer_beside(path, vocab_size)
        vocabulary = formats.read_tokenizer(file, vocab_size)
    return found, vocabulary


def _engine(checkpoint: Checkpoint, dtype: _DType | None, clock: OperationClock | None) -> Engine:
    if dtype is None:
        dtype = _DType.FLOAT32 if checkpoint.group_size is None else _DType.STRICT
    ops: Ops = STRICT if dtype is _DType.STRICT else LIBRARY
    width = np.dtype(np.float32 if dtype is _DType.STRICT else dtype.value)
    return Engine(checkpoint.config, checkpoint.tensors, dtype=width, ops=clock.timed(ops) if clock else ops)


def _write(
    tokens: Iterable[int], vocabulary: AnyTokenizer, ids: Sequence[int], stop: frozenset[int], cost: Cost
) -> None:
    """Write the text as it comes, and take its time; prefill ends with the first token after the prompt."""
    out = sys.stdout.buffer
    before, n = ids[0], 0
    first = last = start = time.perf_counter()
    for token in tokens:
        n += 1
        last = time.perf_counter()
        if n <= len(ids):
            first = last
        if token in stop:
            break
        out.write(vocabulary.printed(before, token))
        out.flush()
        before = token
    out.write(b"\n")
    out.flush()
    cost.n_prefilled, cost.prefill_s = min(n, len(ids)), first - start
    cost.n_decoded, cost.decode_s = n - cost.n_prefilled, last - first
