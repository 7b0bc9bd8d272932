"""A program that has one fault of the catalogue, or none: llama2.c's command line, and the line protocol.

    python -m harness.diagnosis.faulty FAULT MODEL -z TOKENIZER [-t X] [-p X] [-s N] [-n N] [-i TEXT]
    python -m harness.diagnosis.faulty FAULT --lines

`harness selftest` puts it to the gate, as anybody's program is put; "none" is the port without a fault. Where a real
program with that fault would die it exits with 70. A request of the line protocol sees what the one before it left
behind, if the fault is to leave something.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.fault import faulted
from harness.diagnosis.faults import by_name
from harness.diagnosis.port import Port, PortCrashed, Request
from harness.errors import HarnessError, InputError
from harness.line_program import LineProgram
from harness.models import Model, load
from harness.tokenizer import tokenizer_bin

__all__ = ["CRASHED", "Lines", "main", "opened", "port_of", "printed"]

CRASHED = 70  # exit status where a program with the fault would be ended
_OPTIONS = {"-z": "tokenizer", "-t": "temperature", "-p": "topp", "-s": "seed", "-n": "steps", "-i": "prompt"}


def port_of(name: str) -> Port:
    """The port with that fault; "none" is the one without.

    Raises:
        InputError: there is no such fault.
    """
    return Port() if name == "none" else faulted(by_name(name))


def opened(port: Port, checkpoint: str | os.PathLike[str], tokenizer: str | os.PathLike[str]) -> Model:
    """Read a model as the port does, which may refuse its tokenizer.

    Raises:
        PortCrashed: it does.
        HarnessError: these are no such files.
    """
    model = load(checkpoint, tokenizer)
    if not port.encoder.fits(model.tokenizer, tokenizer_bin.count_pieces(tokenizer), model.checkpoint.config):
        raise PortCrashed("it refuses a tokenizer of more pieces than the model has")
    return model


def printed(port: Port, words: Sequence[bytes]) -> bytes:
    """What the program prints for a command line.

    Raises:
        InputError: it is none.
        PortCrashed: there it would end.
    """
    given: dict[str, bytes] = {"tokenizer": b"tokenizer.bin"}
    for flag, value in itertools.zip_longest(words[1::2], words[2::2]):
        if flag.decode("ascii", "replace") not in _OPTIONS or value is None:
            raise InputError(f"{os.fsdecode(flag)} is no option, or has no value", expected=", ".join(_OPTIONS))
        given[_OPTIONS[flag.decode()]] = value
    model = opened(port, os.fsdecode(words[0]), os.fsdecode(given["tokenizer"]))
    request = Request(
        given.get("prompt", b""),
        int(given.get("steps", b"256")),
        float(given.get("temperature", b"1.0")),
        float(given.get("topp", b"0.9")),
        int(given.get("seed", b"0")),
    )
    return port.answer(model, request).text


class Lines(LineProgram):
    """The line protocol. A request whose answer would end the program raises PortCrashed."""

    def __init__(self, name: str) -> None:
        self.name, self.port = name, port_of(name)
        self._model: Model | None = None
        self._before: list[int] = []  # what was fed for the last request

    @property
    def model(self) -> Model:
        assert self._model is not None
        return self._model

    def load(self, checkpoint: str, tokenizer: str) -> tuple[int, int]:
        self._model = opened(self.port, checkpoint, tokenizer)
        config = self._model.checkpoint.config
        return config.vocab_size, config.seq_len

    def encode(self, text: bytes, *, bos: bool, eos: bool) -> list[int]:
        ids = self.port.encoder.encoded(self.model.tokenizer, text)
        return (ids if bos else ids[1:]) + ([self.model.tokenizer.eos_id] if eos else [])

    def decode(self, ids: list[int]) -> bytes:
        return self.model.tokenizer.decode(ids)

    def logits(self, ids: list[int], *, first: int) -> npt.NDArray[Any]:
        return self.port.engine(self.model).logits(ids, first=first)

    def generate(self, ids: list[int], n: int, temperature: float, topp: float, seed: int) -> list[int]:
        request, model = Request(b"", len(ids) - 1 + n, temperature, topp, seed), self.model
        left = self.port.loop.carried_over(self._before)
        session = self.port.engine(model).session(capacity=len(left) + len(ids) + n + 2)
        if left:
            session.extend(left)
        fed: list[int] = []

        def feed(position: int, token: int) -> npt.NDArray[Any]:
            fed.append(token)
            row: npt.NDArray[Any] = session.extend([token])[0]
            return row

        chosen = list(self.port.choices(model, ids, request, feed)) if n else []
        self._before = fed
        return chosen[len(ids) - 1 :]


@np.errstate(all="ignore")
def main(words: Sequence[bytes]) -> int:
    """Run; return the exit status."""
    if len(words) < 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    name = os.fsdecode(words[0])
    try:
        if words[1] == b"--lines":
            Lines(name).serve()
        else:
            sys.stdout.buffer.write(printed(port_of(name), words[1:]))
    except (PortCrashed, ValueError, IndexError) as crash:  # numpy refuses what a real program leaves its arrays for
        sys.stderr.write(f"it would end here: {crash}\n")
        return CRASHED
    except HarnessError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main([os.fsencode(word) for word in sys.argv[1:]]))
