"""The line protocol over the reference engine: a request a line, a reply a line (docs/protocol.md).

LLAMA_ARITHMETIC chooses how it computes, as for run.py.
"""

from __future__ import annotations

import os
import signal
from itertools import islice
from typing import TYPE_CHECKING, Any

import run  # first: it limits BLAS to one thread before numpy is imported

from harness import formats
from harness.engine import Engine, generate
from harness.line_program import LineProgram
from harness.tokenizer import AnyTokenizer

if TYPE_CHECKING:
    import numpy.typing as npt


class Program(LineProgram):
    """The reference engine, which the protocol asks about one model at a time."""

    name = "numpy"
    threads = int(os.environ["OPENBLAS_NUM_THREADS"])
    engine: Engine
    vocabulary: AnyTokenizer

    def load(self, checkpoint: str, tokenizer: str) -> tuple[int, int]:
        self.__dict__.pop("engine", None)  # two large models would not fit
        engine = run.load(os.fsencode(checkpoint))
        self.vocabulary = formats.read_tokenizer(tokenizer, engine.config.vocab_size)
        self.engine = engine
        return engine.config.vocab_size, engine.config.seq_len

    def encode(self, text: bytes, *, bos: bool, eos: bool) -> list[int]:
        return self.vocabulary.encode(text, bos=bos, eos=eos)

    def decode(self, ids: list[int]) -> bytes:
        return self.vocabulary.decode(ids)

    def logits(self, ids: list[int], *, first: int) -> npt.NDArray[Any]:
        return self.engine.logits(ids, first=first)

    def generate(self, ids: list[int], n: int, temperature: float, topp: float, seed: int) -> list[int]:
        steps = min(len(ids) - 1 + n, self.engine.config.seq_len)
        found: list[int] = []
        options = {"steps": steps, "temperature": temperature, "topp": topp, "seed": seed, "stop": frozenset()}
        for token in islice(generate(self.engine, ids, **options), len(ids) - 1, steps if n else 0):
            found.append(token)
            if token in self.vocabulary.stop_ids:
                break
        return found


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    Program().serve()
