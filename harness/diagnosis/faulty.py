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
from harness.models import Model, load
from harness.tokenizer import tokenizer_bin

__all__ = ["CRASHED", "Lines", "main", "opened", "port_of", "printed"]

CRASHED = 70  # exit status where a program with the fault would be ended
_VERBS = b"info load encode decode generate logits quit"
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


class Lines:
    """What has been loaded, and an answer to each request about it (docs/protocol.md)."""

    def __init__(self, name: str) -> None:
        self.name, self.port = name, port_of(name)
        self.model: Model | None = None
        self._before: list[int] = []  # what was fed for the last request

    def answer(self, verb: bytes, words: Sequence[bytes]) -> bytes:
        """Return what follows the number in the reply.

        Raises:
            HarnessError, ValueError, IndexError: the request cannot be done.
            PortCrashed: the program would end.
        """
        if verb == b"info":
            config = self.model.checkpoint.config if self.model else None
            shape = (config.vocab_size, config.seq_len) if config else (0, 0)
            return b"ok llama-lines 1 %b %d %d 1 %b" % (self.name.encode(), *shape, _VERBS)
        if verb == b"load":
            self.model = None
            model = opened(self.port, *(os.fsdecode(_text(word)) for word in words))
            self.model = model
            return b"ok %d %d" % (model.checkpoint.config.vocab_size, model.checkpoint.config.seq_len)
        if verb == b"quit":
            return b"ok"
        if verb not in _VERBS.split():
            return b"unsupported"
        if self.model is None:
            return b"error no model is loaded"
        return self._about(self.model, verb, words)

    def _about(self, model: Model, verb: bytes, words: Sequence[bytes]) -> bytes:
        if verb == b"encode":
            bos, eos = int(words[0]), int(words[1])
            ids = self.port.encoder.encoded(model.tokenizer, _text(words[2]))
            ids = (ids if bos else ids[1:]) + ([model.tokenizer.eos_id] if eos else [])
            return b"ok %d %d %b" % (bos, eos, _listed(ids))
        if verb == b"decode":
            text = model.tokenizer.decode([int(word) for word in words])
            return b"ok %d %b" % (len(words), _hexed(text))
        n_before = 1 if verb == b"logits" else 4
        ids = [int(word) for word in words[n_before:]]
        config = model.checkpoint.config
        if not ids or len(ids) > config.seq_len or max(ids) >= config.vocab_size:
            raise InputError("ids that the model cannot take")
        if verb == b"logits":
            first = int(words[0])
            rows = self.port.engine(model).logits(ids, first=first).astype("<f4")
            return b"ok %d %d %d %b" % (first, *rows.shape, _hexed(rows.tobytes()))
        asked = int(words[0]), float(words[1]), float(words[2]), int(words[3])
        return b"ok %d %.9g %.9g %d %b" % (*asked, _listed(self._generated(model, ids, *asked)))

    def _generated(
        self, model: Model, ids: list[int], n: int, temperature: float, topp: float, seed: int
    ) -> list[int]:
        request = Request(b"", len(ids) - 1 + n, temperature, topp, seed)
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


def _text(word: bytes) -> bytes:
    return b"" if word == b"-" else bytes.fromhex(word.decode())


def _hexed(text: bytes) -> bytes:
    return text.hex().encode() or b"-"


def _listed(ids: Sequence[int]) -> bytes:
    return b" ".join(b"%d" % value for value in [len(ids), *ids])


def _serve(name: str) -> None:
    program = Lines(name)
    for line in sys.stdin.buffer:
        number, verb, *words = line.rstrip(b"\n").split(b" ")
        try:
            reply = program.answer(verb, words)
        except (HarnessError, ValueError, IndexError) as error:
            reply = b"error " + str(error).encode("ascii", "backslashreplace").replace(b"\n", b" ")
        sys.stdout.buffer.write(number + b" " + reply + b"\n")
        sys.stdout.buffer.flush()
        if verb == b"quit":
            return


@np.errstate(all="ignore")
def main(words: Sequence[bytes]) -> int:
    """Run; return the exit status."""
    if len(words) < 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    name = os.fsdecode(words[0])
    try:
        if words[1] == b"--lines":
            _serve(name)
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
