"""LineProgram: the answering side of the line protocol (docs/protocol.md), over any model in this process.

A program says how it loads, encodes, generates; what a request looks like, and what can be answered to it by anybody,
stands here.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, InputError

if TYPE_CHECKING:  # a program may have to set up its libraries first
    import numpy.typing as npt

__all__ = ["EMPTY", "NAME", "VERSION", "LineProgram", "hexed"]

NAME = "llama-lines"
VERSION = 1
EMPTY = b"-"
_VERBS = (b"info", b"load", b"encode", b"decode", b"generate", b"logits", b"quit")


class LineProgram(ABC):
    """What has been loaded, and an answer to each request about it.

    Attributes:
        name: as "info" gives it.
        threads: likewise.
        shape: (vocab_size, seq_len) of the model that is loaded; None: there is none.
    """

    name: str
    threads: int = 1
    shape: tuple[int, int] | None = None

    @abstractmethod
    def load(self, checkpoint: str, tokenizer: str) -> tuple[int, int]:
        """Load a model in the place of the one before; return its (vocab_size, seq_len)."""

    @abstractmethod
    def encode(self, text: bytes, *, bos: bool, eos: bool) -> list[int]:
        """Return the ids of a text."""

    @abstractmethod
    def decode(self, ids: list[int]) -> bytes:
        """Return the text of ids."""

    @abstractmethod
    def generate(self, ids: list[int], n: int, temperature: float, topp: float, seed: int) -> list[int]:
        """Return up to `n` ids after these, which fit the model."""

    @abstractmethod
    def logits(self, ids: list[int], *, first: int) -> npt.NDArray[Any]:
        """Return logits from position `first` on, (n_tokens - first, vocab_size), of ids that fit the model."""

    def answer(self, verb: bytes, words: Sequence[bytes]) -> bytes:
        """Return what follows the number in the reply.

        Raises:
            HarnessError, ValueError, IndexError: the request cannot be done.
        """
        if verb == b"info":
            known = (NAME.encode(), VERSION, self.name.encode(), *(self.shape or (0, 0)), self.threads)
            return b"ok %b %d %b %d %d %d %b" % (*known, b" ".join(_VERBS))
        if verb == b"load":
            checkpoint, tokenizer = (os.fsdecode(_text(word)) for word in words)
            self.shape = None
            self.shape = self.load(checkpoint, tokenizer)
            return b"ok %d %d" % self.shape
        if verb == b"quit":
            return b"ok"
        if verb not in _VERBS:
            return b"unsupported"
        if self.shape is None:
            return b"error no model is loaded"
        return self._about(self.shape, verb, words)

    def _about(self, shape: tuple[int, int], verb: bytes, words: Sequence[bytes]) -> bytes:
        if verb == b"encode":
            bos, eos = int(words[0]), int(words[1])
            ids = self.encode(_text(words[2]), bos=bool(bos), eos=bool(eos))
            return b"ok %d %d %b" % (bos, eos, _listed(ids))
        if verb == b"decode":
            return b"ok %d %b" % (len(words), hexed(self.decode(list(map(int, words)))))
        ids = list(map(int, words[1 if verb == b"logits" else 4 :]))
        vocab_size, seq_len = shape
        if not 0 < len(ids) <= seq_len or min(ids) < 0 or max(ids) >= vocab_size:
            raise InputError("ids that the model cannot take")
        if verb == b"logits":
            first = int(words[0])
            rows = self.logits(ids, first=first).astype("<f4")
            return b"ok %d %d %d %b" % (first, *rows.shape, hexed(rows.tobytes()))
        asked = int(words[0]), float(words[1]), float(words[2]), int(words[3])
        return b"ok %d %.9g %.9g %d %b" % (*asked, _listed(self.generate(ids, *asked)))

    def serve(self) -> None:
        """Answer what comes on stdin, until it ends or says "quit"."""
        for line in sys.stdin.buffer:
            number, verb, *words = line.rstrip(b"\n").split(b" ")
            try:
                reply = self.answer(verb, words)
            except (HarnessError, ValueError, IndexError) as error:
                reply = b"error " + str(error).encode("ascii", "backslashreplace").replace(b"\n", b" ")
            sys.stdout.buffer.write(number + b" " + reply + b"\n")
            sys.stdout.buffer.flush()
            if verb == b"quit":
                return


def hexed(text: bytes) -> bytes:
    """Write a text as a word.

    >>> hexed(b"Hi"), hexed(b"")
    (b'4869', b'-')
    """
    return text.hex().encode() or EMPTY


def _text(word: bytes) -> bytes:
    return b"" if word == EMPTY else bytes.fromhex(word.decode())


def _listed(ids: Sequence[int]) -> bytes:
    return b" ".join(b"%d" % value for value in [len(ids), *ids])
