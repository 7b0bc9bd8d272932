"""The line protocol over the reference engine: a request a line, a reply a line (docs/protocol.md).

LLAMA_ARITHMETIC chooses how it computes, as for run.py.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import islice

import run  # first: it limits BLAS to one thread before numpy is imported

from harness import formats
from harness.engine import Engine, generate
from harness.errors import HarnessError, InputError
from harness.tokenizer import AnyTokenizer

VERBS = b"info load encode decode generate logits quit"


def text(word: bytes) -> bytes:
    return b"" if word == b"-" else bytes.fromhex(word.decode())


def hexed(text: bytes) -> bytes:
    return text.hex().encode() or b"-"


def listed(ids: list[int]) -> bytes:
    return b" ".join(b"%d" % value for value in [len(ids), *ids])


class Program:
    """What has been loaded, and an answer to each request about it."""

    engine: Engine | None = None
    vocabulary: AnyTokenizer

    def answer(self, verb: bytes, words: list[bytes]) -> bytes:
        """Return what follows the number in the reply."""
        if verb == b"info":
            shape = (0, 0) if self.engine is None else (self.engine.config.vocab_size, self.engine.config.seq_len)
            threads = int(os.environ["OPENBLAS_NUM_THREADS"])
            return b"ok llama-lines 1 numpy %d %d %d %b" % (*shape, threads, VERBS)
        if verb == b"load":
            model, vocabulary = map(text, words)
            self.engine = None
            engine = run.load(model)
            self.vocabulary = formats.read_tokenizer(os.fsdecode(vocabulary), engine.config.vocab_size)
            self.engine = engine
            return b"ok %d %d" % (engine.config.vocab_size, engine.config.seq_len)
        if verb == b"quit":
            return b"ok"
        if verb not in VERBS.split():
            return b"unsupported"
        if self.engine is None:
            return b"error no model is loaded"
        return self.about(self.engine, verb, words)

    def about(self, engine: Engine, verb: bytes, words: list[bytes]) -> bytes:
        if verb == b"encode":
            bos, eos = int(words[0]), int(words[1])
            ids = self.vocabulary.encode(text(words[2]), bos=bool(bos), eos=bool(eos))
            return b"ok %d %d %b" % (bos, eos, listed(ids))
        if verb == b"decode":
            return b"ok %d %b" % (len(words), hexed(self.vocabulary.decode(list(map(int, words)))))
        n_before = 1 if verb == b"logits" else 4
        ids = list(map(int, words[n_before:]))
        config = engine.config
        if not ids or len(ids) > config.seq_len or max(ids) >= config.vocab_size:
            raise InputError("ids that the model cannot take")
        if verb == b"logits":
            first = int(words[0])
            rows = engine.logits(ids, first=first).astype("<f4")
            return b"ok %d %d %d %b" % (first, *rows.shape, hexed(rows.tobytes()))
        n, temperature, topp, seed = int(words[0]), float(words[1]), float(words[2]), int(words[3])
        steps = min(len(ids) - 1 + n, config.seq_len)
        found: list[int] = []
        options = {"steps": steps, "temperature": temperature, "topp": topp, "seed": seed, "stop": frozenset()}
        for token in islice(generate(engine, ids, **options), len(ids) - 1, steps if n else 0):
            found.append(token)
            if token in self.vocabulary.stop_ids:
                break
        return b"ok %d %.9g %.9g %d %b" % (n, temperature, topp, seed, listed(found))


def main() -> None:
    program = Program()
    for line in sys.stdin.buffer:
        number, verb, *words = line.rstrip(b"\n").split(b" ")
        try:
            reply = program.answer(verb, words)
        except (HarnessError, ValueError, IndexError) as error:
            reply = b"error " + str(error).encode("ascii", "backslashreplace").replace(b"\n", b" ")
        run.put(number + b" " + reply + b"\n")
        if verb == b"quit":
            break


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
