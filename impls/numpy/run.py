"""llama2.c's command line over the reference engine: same flags, same stdout, same exit status; any format.

LLAMA_ARITHMETIC chooses how it computes: float32, float64, or strict (left-to-right float32 sums and the C library's
functions: llama2.c's bits). Version 0 and 1 checkpoints default to float32. Version 2 (int8) is strict always,
because its text is defined by no other order.
"""

# ruff: noqa: E402  (the environment is read when numpy is imported)

from __future__ import annotations

import os

# One BLAS thread unless the user says otherwise: on small models more are slower, and they take long to start.
for library in ("OPENBLAS", "MKL", "OMP", "VECLIB_MAXIMUM"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import contextlib
import ctypes
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from harness import formats
from harness.engine import LIBRARY, STRICT, Engine, clamp_steps, generate
from harness.engine.ops import Tap
from harness.engine.sampler import Xorshift, sample
from harness.errors import HarnessError, InputError
from harness.tokenizer import AnyTokenizer, Tokenizer
from harness.trace.stream import VARIABLE, TraceWriter

USAGE = """\
usage: run.py CHECKPOINT [-t X] [-p X] [-s N] [-n N] [-i TEXT] [-z FILE] [-m MODE] [-y TEXT]
  example: run.py model.bin -n 256 -i "Once upon a time"
  -t X     temperature; 0 picks the likeliest token (default 1.0)
  -p X     nucleus size; 0 or 1 samples from the whole distribution (default 0.9)
  -s N     seed; 0 takes the time (default 0)
  -n N     positions to compute; 0 fills the context (default 256)
  -i TEXT  prompt, or first message in chat mode
  -z FILE  tokenizer (default tokenizer.bin)
  -m MODE  generate or chat (default generate)
  -y TEXT  system prompt, in chat mode
"""
Taps = Callable[[int, Sequence[int]], Tap]
EOS = 2
LINE_BYTES = 511  # a longer line of chat input counts as several


@dataclass(frozen=True, slots=True)
class Options:
    temperature: float
    topp: float
    seed: int
    steps: int
    prompt: bytes | None
    tokenizer: bytes
    mode: bytes
    system: bytes | None


def leave_with_usage() -> NoReturn:
    sys.stderr.write(USAGE)
    raise SystemExit(1)


def parse(words: list[bytes]) -> Options:
    """Read pairs of flag and value, numbers as C's atof and atoi read them."""
    values: dict[bytes, bytes] = {}
    for i in range(0, len(words), 2):
        if i + 1 == len(words) or len(words[i]) != 2 or words[i][:1] != b"-" or words[i][1:] not in b"tpsnizmy":
            leave_with_usage()
        values[words[i][1:]] = words[i + 1]
    libc = ctypes.CDLL(None)
    libc.atof.restype = ctypes.c_double
    temperature = float(np.float32(libc.atof(values.get(b"t", b"1.0"))))
    topp = float(np.float32(libc.atof(values.get(b"p", b"0.9"))))
    return Options(
        temperature=0.0 if temperature < 0 else temperature,
        topp=0.9 if topp < 0 or topp > 1 else topp,
        seed=libc.atoi(values.get(b"s", b"0")) or int(time.time()),
        steps=libc.atoi(values.get(b"n", b"256")),
        prompt=values.get(b"i"),
        tokenizer=values.get(b"z", b"tokenizer.bin"),
        mode=values.get(b"m", b"generate"),
        system=values.get(b"y"),
    )


def load(path: bytes) -> Engine:
    found = formats.read(os.fsdecode(path))
    arithmetic = os.environ.get("LLAMA_ARITHMETIC", "float32")
    if arithmetic not in ("float32", "float64", "strict"):
        raise InputError("LLAMA_ARITHMETIC", expected="float32, float64 or strict", actual=arithmetic)
    if found.group_size is not None or arithmetic == "strict":
        return Engine(found.config, found.tensors, ops=STRICT)
    return Engine(found.config, found.tensors, dtype=arithmetic, ops=LIBRARY)


def put(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def write_text(engine: Engine, vocabulary: AnyTokenizer, options: Options, taps: Taps | None = None) -> None:
    """Print the prompt and its continuation; the speed counts from the end of the first position on."""
    ids = vocabulary.encode(options.prompt or b"")
    pos, start, before = 0, 0.0, ids[0]
    for token in generate(
        engine,
        ids,
        steps=options.steps,
        temperature=options.temperature,
        topp=options.topp,
        seed=options.seed,
        stop=vocabulary.stop_ids,
        taps=taps,
    ):
        pos += 1
        if token in vocabulary.stop_ids:
            break
        put(vocabulary.printed(before, token))
        before = token
        start = start or time.perf_counter()
    put(b"\n")
    if pos > 1:
        sys.stderr.write(f"achieved tok/s: {(pos - 1) / (time.perf_counter() - start):.6f}\n")


def ask(question: bytes, otherwise: bytes) -> bytes:
    """Read a line of at most LINE_BYTES; after the end of the input the answer is `otherwise`."""
    put(question)
    line = sys.stdin.buffer.readline(LINE_BYTES)
    return line.removesuffix(b"\n").partition(b"\0")[0] if line else otherwise


def chat(engine: Engine, vocabulary: Tokenizer, options: Options) -> None:
    """Hold one dialogue in one context. Every position draws a token, those of a prompt included."""
    steps = clamp_steps(options.steps, engine.config.seq_len)
    session = engine.session(capacity=steps)
    rng = Xorshift.from_argument(options.seed)
    is_user_turn, user, drawn = True, b"", vocabulary.bos_id
    prompt: list[int] = []
    for pos in range(steps):
        if is_user_turn:
            system = b""
            if pos == 0:
                system = ask(b"Enter system prompt (optional): ", b"") if options.system is None else options.system
            user = options.prompt if pos == 0 and options.prompt is not None else ask(b"User: ", user)
            opening = b"<<SYS>>\n" + system + b"\n<</SYS>>\n\n" if system else b""
            prompt = vocabulary.encode(b"[INST] " + opening + user + b" [/INST]")
            put(b"Assistant: ")
        token = prompt.pop(0) if prompt else drawn
        is_user_turn = token == EOS
        logits = session.extend([token])[0]
        if options.temperature == 0:
            drawn = engine.ops.argmax(engine.config, logits)
        else:
            drawn = sample(logits, temperature=options.temperature, topp=options.topp, coin=rng.coin())
        if drawn == EOS:
            put(b"\n")
        elif not prompt:
            put(vocabulary.printed(token, drawn))
    put(b"\n")


def main(words: list[bytes]) -> None:
    if not words:
        leave_with_usage()
    options = parse(words[1:])
    try:
        engine = load(words[0])
        vocabulary = formats.read_tokenizer(os.fsdecode(options.tokenizer), engine.config.vocab_size)
        if options.mode == b"generate":
            trace = os.environ.get(VARIABLE)
            with open(trace, "wb") if trace else contextlib.nullcontext() as file:
                write_text(engine, vocabulary, options, TraceWriter(file).at if file else None)
        elif options.mode == b"chat":
            if not isinstance(vocabulary, Tokenizer):
                raise InputError("the chat is llama2.c's", expected="a vocabulary with scores", actual="byte-level")
            chat(engine, vocabulary, options)
        else:
            sys.stderr.write(f"run: unknown mode: {os.fsdecode(options.mode)}\n")
            leave_with_usage()
    except HarnessError as error:
        sys.stderr.write(f"run: {error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly when the reader of stdout leaves, as C programs do
    main([os.fsencode(word) for word in sys.argv[1:]])
