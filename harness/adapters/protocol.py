"""A session of the line protocol with one program: typed requests, checked replies; docs/protocol.md specifies it.

Every request ends in one of these ways, which are never mixed up: a checked answer; Unsupported or Refused, after
which the program goes on; ProtocolViolation, Crashed, TimedOut, OutputLimit, MemoryLimit or StartFailed, after which
it is gone. The next request then starts it anew, with the same model, and the session goes on.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from harness.adapters import lines
from harness.adapters.channel import Channel
from harness.adapters.lines import Malformed, Reply, hexed, read_floats, read_hex, read_ids, read_int
from harness.adapters.process import Limits
from harness.errors import ImplementationError, ProtocolViolation, Refused, Unsupported

__all__ = ["VERBS", "Info", "Session"]

VERBS = ("info", "load", "encode", "decode", "generate", "logits", "quit")
STOPS = frozenset({1, 2})  # BOS and EOS of llama2.c's vocabularies: what ends a text
_LINE_BYTES = 1 << 12  # of a reply, beside its ids and numbers
_ID_BYTES = 12
_HEX_BYTES = 1 << 10  # of a decoded id, at most


@dataclass(frozen=True, slots=True)
class Info:
    """What a program says of itself.

    Attributes:
        vocab_size, seq_len: of the model it has loaded; 0 without one.
        threads: that it uses.
        verbs: what it offers.
    """

    name: str
    vocab_size: int
    seq_len: int
    threads: int
    verbs: frozenset[str]


class Session:
    """One program that speaks the line protocol, started when first needed.

    Args:
        command, cwd, env, limits: as for `Channel`; `limits.time_s` is for one request.
        model, tokenizer: files to load first; None where the command line names them already.
        shape: (vocab_size, seq_len) that the model has: a program that says otherwise violates the protocol.

    Attributes:
        sent, received: the last request and its reply, as bytes.
        stops: ids that end a text; others where the vocabulary is another.
    """

    def __init__(
        self,
        command: Sequence[str | bytes],
        *,
        cwd: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        model: Path | None = None,
        tokenizer: Path | None = None,
        shape: tuple[int, int] | None = None,
    ) -> None:
        self._channel = Channel(command, cwd=cwd, env=env, limits=limits)
        self._words = [os.fsdecode(word) for word in command]
        self._files = None if model is None or tokenizer is None else (model, tokenizer)
        self._shape = shape
        self._info: Info | None = None
        self._number = 0
        self._is_loaded = False
        self.sent = b""
        self.received = b""
        self.stops = STOPS

    @property
    def peak_rss_bytes(self) -> int:
        return self._channel.peak_rss_bytes

    @property
    def waited_s(self) -> float:
        """How long all requests took to be answered, the program's start included."""
        return self._channel.waited_s

    @property
    def n_starts(self) -> int:
        """How often the program was started: 1, and 1 more for each time that it was lost."""
        return self._channel.n_starts

    @property
    def stderr_tail(self) -> str:
        return self._channel.stderr_tail

    @property
    def reproduce(self) -> str:
        """A command line that puts the last request to a fresh program."""
        asked = [self.sent]
        if self._files is not None and not self.sent.endswith(b" info\n") and b" load " not in self.sent:
            asked.insert(0, lines.request(0, "load", self._paths()))
        given = " ".join(shlex.quote(line.decode("ascii").removesuffix("\n")) for line in asked if line)
        return f"printf '%s\\n' {given} | {shlex.join(self._words)}"

    @property
    def unread(self) -> bytes:
        """What the program wrote beside its replies: half a line, or lines that nobody asked for."""
        return self._channel.leftover

    # ---- requests

    def info(self) -> Info:
        """Ask what it is, and what it offers."""
        reply = self._ask("info", [])
        words = reply.words
        try:
            if len(words) < 6:
                raise Malformed("expected llama-lines VERSION NAME VOCAB_SIZE SEQ_LEN THREADS VERB...")
            if words[0] != lines.NAME.encode() or words[1] != b"%d" % lines.VERSION:
                what = f"expected {lines.NAME} {lines.VERSION}, got {lines.shown(b' '.join(words[:2]))}"
                raise Malformed(what, fault="version")
            vocab_size, seq_len, threads = (read_int(word, "a number of info") for word in words[3:6])
            if min(vocab_size, seq_len) < 0 or threads < 1:
                raise Malformed("VOCAB_SIZE and SEQ_LEN must not be negative, THREADS must be positive")
        except Malformed as wrong:
            raise self._violation(wrong) from wrong
        verbs = frozenset(word.decode("ascii") for word in words[6:])
        self._info = Info(words[2].decode("ascii"), vocab_size, seq_len, threads, verbs)
        return self._info

    def load(self, model: Path, tokenizer: Path, shape: tuple[int, int] | None = None) -> tuple[int, int]:
        """Load a model; later requests, also of a program that was started anew, are about it.

        Returns:
            vocab_size, seq_len: as the program says.
        """
        self.about(model, tokenizer, shape)
        self._begin()
        assert self._info is not None
        return self._info.vocab_size, self._info.seq_len

    def about(self, model: Path, tokenizer: Path, shape: tuple[int, int] | None = None) -> None:
        """Have the next request loaded with another model first."""
        self._files, self._shape, self._is_loaded = (model, tokenizer), shape, False

    def encode(self, text: bytes, *, bos: bool = True, eos: bool = False) -> list[int]:
        """Return the ids of a text."""
        given = [int(bos), int(eos)]
        return self._ids("encode", [*given, hexed(text)], given, room=len(text) + 3)

    def decode(self, ids: Sequence[int]) -> bytes:
        """Return the text of ids; a BOS in front adds nothing and takes one space off its successor."""
        reply = self._ask("decode", ids, _HEX_BYTES * (len(ids) + 1))
        try:
            self._echoed(reply, [len(ids)])
            if len(reply.words) != 2:
                raise Malformed(f"expected {len(ids)} and one text, got {len(reply.words)} words", fault="count")
            return read_hex(reply.words[1])
        except Malformed as wrong:
            raise self._violation(wrong) from wrong

    def generate(
        self, ids: Sequence[int], n: int, *, temperature: float = 0.0, topp: float = 0.9, seed: int = 1
    ) -> list[int]:
        """Return the n ids that follow: fewer only if the last one is a stop, or the context is full.

        Args:
            ids: the sequence so far, BOS first.
            seed: sent as the signed 32-bit number that llama2.c's command line makes of it.
        """
        low = seed & 0xFFFFFFFF
        given: list[int | float] = [n, temperature, topp, low - (1 << 32) if low >= 1 << 31 else low]
        found = self._ids("generate", [*given, *ids], given, room=n)
        seq_len = self._info.seq_len if self._info else 0
        has_room = not seq_len or len(ids) + len(found) <= seq_len
        if len(found) > n:
            raise self._violation(Malformed(f"asked for {n} ids, it gives {len(found)}", fault="count"))
        if len(found) < n and has_room and (not found or found[-1] not in self.stops):
            what = f"asked for {n} ids, it gives {len(found)}, of which the last is no stop"
            raise self._violation(Malformed(what, fault="count"))
        return found

    def logits(self, ids: Sequence[int], *, first: int = 0) -> npt.NDArray[np.float32]:
        """Return (len(ids) - first, vocab_size) float32: the logits after each of ids[first:]."""
        self._begin()
        assert self._info is not None
        shape = (len(ids) - first, self._info.vocab_size)
        reply = self._ask("logits", [first, *ids], 8 * shape[0] * shape[1])
        try:
            self._echoed(reply, [first])
            if len(reply.words) != 4:
                raise Malformed(f"expected FIRST ROWS COLUMNS and the numbers, got {len(reply.words)} words")
            given = tuple(read_int(word, "rows or columns") for word in reply.words[1:3])
            if given != shape:
                what = f"expected {shape[0]} rows of {shape[1]} logits, got {given[0]} of {given[1]}"
                raise Malformed(what, fault="count")
            return read_floats(reply.words[3], shape)
        except Malformed as wrong:
            raise self._violation(wrong) from wrong

    def offers(self, verb: str) -> bool:
        """Whether the program says that it has a verb."""
        self._begin()
        assert self._info is not None
        return verb in self._info.verbs

    def quit(self) -> int | None:
        """End the program in good order; return its exit code.

        Raises:
            ImplementationError: it did not answer well, or had written more than was asked for.
        """
        if not self._channel.is_running:
            return None
        try:
            self._ask("quit", [])
            code = self._channel.close()
            if extra := self.unread:
                raise self._violation(
                    Malformed(f"after the last reply it wrote {lines.shown(extra)}", fault="unasked")
                )
        finally:
            self._channel.kill()
        return code

    def close(self) -> None:
        """End the program, whatever it is doing."""
        self._channel.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- how they are put

    def _begin(self) -> None:
        """Start the program if it is not running, and load its model."""
        if not self._channel.is_running:
            self._is_loaded = False
            info = self.info()
            if self._files is None and self._shape is not None:
                self._check_shape((info.vocab_size, info.seq_len))
        if self._files is not None and not self._is_loaded:
            self._load()

    def _load(self) -> tuple[int, int]:
        reply = self._ask("load", self._paths())
        try:
            if len(reply.words) != 2:
                raise Malformed(f"expected VOCAB_SIZE and SEQ_LEN, got {len(reply.words)} words")
            vocab_size, seq_len = (read_int(word, "a number of load") for word in reply.words)
        except Malformed as wrong:
            raise self._violation(wrong) from wrong
        if self._shape is not None:
            self._check_shape((vocab_size, seq_len))
        assert self._info is not None
        self._info = dataclasses.replace(self._info, vocab_size=vocab_size, seq_len=seq_len)
        self._is_loaded = True
        return vocab_size, seq_len

    def _paths(self) -> list[bytes]:
        assert self._files is not None
        return [hexed(os.fsencode(Path(path).absolute())) for path in self._files]

    def _check_shape(self, actual: tuple[int, int]) -> None:
        if actual != self._shape:
            what = f"expected the model's vocab_size and seq_len {self._shape}, got {actual}"
            raise self._violation(Malformed(what, fault="echo"))

    def _ask(self, verb: str, words: Iterable[int | float | bytes], more_bytes: int = 0) -> Reply:
        if verb not in ("info", "load"):
            self._begin()
        elif not self._channel.is_running:
            self._channel.start()
        extra = self._channel.unasked()
        if extra:
            raise self._violation(Malformed(f"it wrote {lines.shown(extra)} that nobody asked for", fault="unasked"))
        self._number += 1
        self.sent, self.received = lines.request(self._number, verb, words), b""
        self.received = self._channel.ask(self.sent, output_bytes=_LINE_BYTES + more_bytes)
        try:
            reply = lines.parse(self.received)
            if reply.number != self._number:
                what = f"this is request {self._number}, it answers {reply.number}"
                raise Malformed(f"{what}: {lines.shown(self.received)}", fault="number")
        except Malformed as wrong:
            raise self._violation(wrong) from wrong
        if reply.status == "unsupported":
            raise self._error(Unsupported, f"does not offer {verb}")
        if reply.status == "error":
            text = reply.words[0].decode("ascii")
            raise self._error(Refused, f"answered {verb} with an error: {text}")
        return reply

    def _ids(
        self, verb: str, words: Iterable[int | float | bytes], given: Sequence[int | float], *, room: int
    ) -> list[int]:
        """Ask for something whose reply is the echo of `given`, and ids."""
        reply = self._ask(verb, words, _ID_BYTES * room)
        try:
            self._echoed(reply, given)
            vocab_size = self._info.vocab_size if self._info else 0
            return read_ids(reply.words[len(given) :], vocab_size=vocab_size or None)
        except Malformed as wrong:
            raise self._violation(wrong) from wrong

    def _echoed(self, reply: Reply, given: Sequence[int | float]) -> None:
        """Check that the parameters in force are those that were given: a silent fallback is a lie."""
        if len(reply.words) < len(given):
            raise Malformed(f"expected {len(given)} parameters in force first, got {len(reply.words)} words")
        for word, value in zip(reply.words, given, strict=False):
            if isinstance(value, int):
                is_same = read_int(word, "a parameter in force") == value
            else:
                is_same = lines.same_float(word, value)
            if not is_same:
                asked = " ".join(lines.number(float(v)).decode() for v in given)
                got = b" ".join(reply.words[: len(given)]).decode("ascii")
                raise Malformed(f"asked for {asked}, it went by {got}", fault="echo")

    def _violation(self, wrong: Malformed) -> ProtocolViolation:
        """Give up the program, whose next line could be anything."""
        self._channel.kill()
        error = self._error(ProtocolViolation, str(wrong), fault=wrong.fault, sent=self.sent, received=self.received)
        assert isinstance(error, ProtocolViolation)
        return error

    def _error(self, kind: type[ImplementationError], what: str, **facts: Any) -> ImplementationError:
        return kind(what, command=shlex.join(self._words), stderr_tail=self._channel.stderr_tail, **facts)
