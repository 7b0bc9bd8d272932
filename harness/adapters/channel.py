"""A child process that is kept: one line to its standard input, one line from its standard output, again and again.

The same promises as for a run to the end (`process`): each question has limits of time and output, memory is limited
over all processes that the child started, stderr is drained all the while, and at the end nothing of it is left. A
channel is for one thread at a time. After any failure the child is gone; `start` begins again.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from harness.adapters.memory import below, held_bytes, high_water
from harness.adapters.process import (
    FILL_BYTES_PER_S,
    GRACE_S,
    READ_BYTES,
    SAMPLE_MAX_S,
    SAMPLE_MIN_S,
    Command,
    Descriptors,
    Limits,
    failed,
    prepare,
    read_now,
    runs,
    signal_name,
)
from harness.adapters.spawners import (
    KILL_S,
    Spawner,
    SpawnerLost,
    give_back,
    kill_marked,
    take_spawner,
)
from harness.errors import Crashed, ImplementationError, MemoryLimit, OutputLimit, TimedOut

__all__ = ["Channel"]

_END_S = 2.0  # for a program whose input has ended to end by itself


class Channel:
    """One program and its pipes.

    Args:
        command, cwd, env: as for `process.run`.
        limits: `time_s` and `output_bytes` are for one question unless `ask` is given others.

    Attributes:
        peak_rss_bytes: the largest resident size seen of the program itself.
        n_starts: how often it was started.
        waited_s: how long all questions took to be answered, together.
    """

    def __init__(
        self,
        command: Sequence[str | bytes],
        *,
        cwd: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._command: Command = prepare(command, env)
        self._cwd = os.fspath(cwd)
        self.limits = limits or Limits()
        self.peak_rss_bytes = 0
        self.n_starts = 0
        self.waited_s = 0.0
        self._spawner: Spawner | None = None

    @property
    def is_running(self) -> bool:
        return self._spawner is not None

    @property
    def stderr_tail(self) -> str:
        """The end of what the program wrote on stderr, decoded with replacement; of the last one, if it has ended."""
        kept = self.limits.stderr_bytes
        return bytes(self._stderr[-kept:] if kept else b"").decode("utf-8", "replace") if self.n_starts else ""

    @property
    def leftover(self) -> bytes:
        """What it had written and nobody read, after it has ended."""
        return bytes(self._buffer) if self.n_starts else b""

    # ---- begin and end

    def start(self) -> None:
        """Start the program, whether or not it can be: what goes wrong is raised by the first question."""
        assert self._spawner is None
        if self._command.path is None:
            raise self._command.not_found()
        self._run = next(runs)
        self._buffer = bytearray()
        self._stderr = bytearray()
        self._pid: int | None = None
        self._exit_code: int | None = None
        self._is_clean = False
        self._closed_at: float | None = None
        self._start_failure: ImplementationError | None = None
        self._spawner = take_spawner()
        stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
        self._feed, self._out, self._err = stdin[1], stdout[0], stderr[0]
        theirs = [stdin[0], stdout[1], stderr[1]]
        self._fds = Descriptors([self._feed, self._out, self._err, *theirs])
        for fd in (self._feed, self._out, self._err):
            os.set_blocking(fd, False)
        try:
            self._command.start(self._spawner, self._run, self._cwd, theirs)
        except SpawnerLost:  # it had died while it was idle
            self._spawner.close()
            self._spawner = take_spawner()
            self._command.start(self._spawner, self._run, self._cwd, theirs)
        finally:
            for fd in theirs:
                self._fds.close(fd)
        self.n_starts += 1
        self._sample_at = time.monotonic() + SAMPLE_MIN_S
        self._poll = select.poll()
        for fd in (self._spawner.control.fileno(), self._out, self._err):
            self._poll.register(fd, select.POLLIN)

    def close(self) -> int | None:
        """End its input, give it a moment to end, and leave nothing of it; return its exit code if it did."""
        if self._spawner is None:
            return None
        try:
            self._fds.close(self._feed)
            with contextlib.suppress(ImplementationError):
                self._wait(time.monotonic() + _END_S, lambda: self._exit_code is not None or self._is_clean)
        finally:
            self.kill()
        return self._exit_code

    def kill(self) -> None:
        """End the program and all that it started, at once."""
        spawner, self._spawner = self._spawner, None
        if spawner is None:
            return
        try:
            if not self._is_clean:
                spawner.send((self._run, "kill"))
            give_up = time.monotonic() + KILL_S
            while not self._is_clean and time.monotonic() < give_up:
                self._turn(spawner, give_up)
        except SpawnerLost:
            kill_marked(self._command.mark)
        finally:
            self._fds.close_all()
            if self._is_clean:
                give_back(spawner)
            else:
                spawner.close(wait=False)  # it goes on killing on its own
            if not spawner.is_subreaper:
                kill_marked(self._command.mark)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- one question

    def unasked(self) -> bytes:
        """Return what it has written without being asked, as far as it has arrived."""
        if self._spawner is not None and (data := read_now(self._out)):
            self._buffer += data
        return bytes(self._buffer)

    def ask(self, line: bytes, *, time_s: float | None = None, output_bytes: int | None = None) -> bytes:
        """Write a line, which must end in a newline, and return the next line that comes, without its newline.

        Raises:
            StartFailed, Crashed, TimedOut, OutputLimit, MemoryLimit: there is no such line; the program is gone.
        """
        assert self._spawner is not None
        limit_s = self.limits.time_s if time_s is None else time_s
        limit_bytes = self.limits.output_bytes if output_bytes is None else output_bytes
        start = time.monotonic()
        try:
            return self._ask(line, limit_s, limit_bytes)
        except SpawnerLost as lost:
            what = "was cancelled" if self._spawner.is_ending else "ended the spawner that it was started from"
            self.kill()
            raise self._failed(Crashed, what) from lost
        except BaseException:
            self.kill()
            raise
        finally:
            self.waited_s += time.monotonic() - start

    def _ask(self, line: bytes, limit_s: float, limit_bytes: int) -> bytes:
        deadline = time.monotonic() + limit_s
        rest = self._write(memoryview(line))
        if rest:
            self._poll.register(self._feed, select.POLLOUT)
        scanned = 0
        buffer = self._buffer
        while True:
            at = buffer.find(b"\n", scanned)
            if 0 <= at <= limit_bytes:
                if rest:
                    self._poll.unregister(self._feed)
                answer = bytes(buffer[:at])
                del buffer[: at + 1]
                return answer
            scanned = len(buffer)
            if scanned > limit_bytes:
                raise self._failed(OutputLimit, f"answered with more than {limit_bytes:,} bytes", limit=limit_bytes)
            assert self._spawner is not None
            until = deadline if self._closed_at is None else min(deadline, self._closed_at + GRACE_S)
            events = self._turn(self._spawner, until)
            if rest and any(fd == self._feed for fd, _ in events):
                rest = self._write(rest)
                if not rest:
                    self._poll.unregister(self._feed)
            if self._start_failure is not None:
                raise self._start_failure
            if len(buffer) > scanned:
                continue
            if self._exit_code is not None:
                while data := read_now(self._out):
                    buffer += data
                if len(buffer) == scanned:
                    raise self._failed(Crashed, self._how_it_ended(), exit_code=self._exit_code)
            elif self._closed_at is not None and time.monotonic() >= self._closed_at + GRACE_S:
                raise self._failed(Crashed, "closed its standard output instead of answering")
            elif time.monotonic() >= deadline:
                what = f"did not answer within {limit_s:g} s"
                if buffer:
                    what += f"; its answer has no end after {len(buffer):,} bytes"
                raise self._failed(TimedOut, what, limit=limit_s)

    def _how_it_ended(self) -> str:
        code = self._exit_code
        assert code is not None
        how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        return f"{how} instead of answering" + (" to the end" if self._buffer else "")

    def _write(self, rest: memoryview) -> memoryview:
        """Write what goes in now; a program that does not want to read is found out by its silence or its end."""
        try:
            return rest[os.write(self._feed, rest) :]
        except BlockingIOError:
            return rest
        except OSError:
            return rest[:0]

    def _wait(self, deadline: float, is_over: Any) -> None:
        while not is_over() and time.monotonic() < deadline and self._spawner is not None:
            try:
                self._turn(self._spawner, deadline)
            except SpawnerLost:
                return

    def _turn(self, spawner: Spawner, deadline: float) -> list[tuple[int, int]]:
        """Wait for something to happen, and take note of it."""
        now = time.monotonic()
        if now >= self._sample_at and self._pid is not None and self._exit_code is None:
            self._sample_at = now + self._sample(spawner)
        wake = min(deadline, max(self._sample_at, now + SAMPLE_MIN_S))
        events = self._poll.poll(max(0.0, (wake - now) * 1000.0 + 0.5))
        for fd, _ in events:
            if fd == self._out:
                self._take(fd, self._buffer)
            elif fd == self._err:
                self._take(fd, self._stderr)
                if len(self._stderr) > 2 * self.limits.stderr_bytes + (1 << 16):
                    del self._stderr[: -self.limits.stderr_bytes or None]
            elif fd == spawner.control.fileno():
                for message in spawner.receive():
                    self._hear(message)
        return events

    def _take(self, fd: int, into: bytearray) -> None:
        data = os.read(fd, READ_BYTES)
        if data:
            into += data
        else:
            self._poll.unregister(fd)
            if fd == self._out:
                self._closed_at = time.monotonic()

    def _hear(self, message: tuple[Any, ...]) -> None:
        run, kind, *rest = message
        if run != self._run:
            return
        if kind == "started":
            self._pid = rest[0]
        elif kind == "failed":
            where, number = rest
            self._start_failure = self._command.not_started(where, number, self._cwd)
            self._is_clean = True
        elif kind == "exited":
            status, _, max_rss_bytes = rest
            self._exit_code = os.waitstatus_to_exitcode(status)
            self.peak_rss_bytes = max(self.peak_rss_bytes, max_rss_bytes)
        elif kind == "clean":
            self._is_clean = True

    def _sample(self, spawner: Spawner) -> float:
        """Look at the memory in use; return the seconds until the next look."""
        limit = self.limits.memory_bytes
        assert self._pid is not None
        self.peak_rss_bytes = max(self.peak_rss_bytes, high_water(self._pid))
        used = sum(map(held_bytes, below(spawner.process.pid)))
        if used > limit:
            raise self._failed(MemoryLimit, f"held {used:,} bytes of memory, the limit is {limit:,}", limit=limit)
        return min(max((limit - used) / FILL_BYTES_PER_S, SAMPLE_MIN_S), SAMPLE_MAX_S)

    def _failed(
        self,
        kind: type[ImplementationError],
        what: str,
        *,
        limit: float | None = None,
        exit_code: int | None = None,
    ) -> ImplementationError:
        return failed(kind, what, self._command.argv, self.stderr_tail, limit=limit, exit_code=exit_code)
