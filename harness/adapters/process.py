"""One child process, from its start to the end of everything it started: limits, capture, resource use.

`run` returns an Observation for whatever the program does, and never hangs: it is back at most one second
after the limit of time. Both pipes are drained all the while, so no program blocks on a full one. When the
process itself has ended, what it left behind is given `GRACE_S` to finish writing and is then killed,
wherever it hid: children start below a small spawner (spawner.py) to which daemonised processes return. On
systems other than Linux that last promise is weaker: processes that left are looked for by a mark in their
environment.

Memory is limited by what the processes hold and cannot give back (anonymous and shared pages, summed and
sampled): never by address space, which virtual machines reserve by the terabyte, and not by mapped files,
which are cache.

This is no sandbox: a program may do whatever its user may. See docs/trust.md.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import shlex
import shutil
import signal
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.adapters.memory import below, held_bytes, high_water
from harness.adapters.spawners import (
    KILL_S,
    MARK,
    Spawner,
    SpawnerLost,
    give_back,
    kill_marked,
    take_spawner,
    terminate_all,
)
from harness.errors import (
    Crashed,
    ImplementationError,
    InputError,
    MemoryLimit,
    NoOutput,
    OutputLimit,
    StartFailed,
    TimedOut,
)
from harness.results import Observation

__all__ = [
    "Command",
    "Descriptors",
    "Limits",
    "failed",
    "prepare",
    "read_now",
    "run",
    "runs",
    "signal_name",
    "terminate_all",
]

GRACE_S = 0.2  # for processes that outlive the main one to finish writing
PAUSE_S = 0.003  # between two reads of a slow stream: a wake-up for each token would disturb what is measured
READ_BYTES = 1 << 18
# How fast memory can be filled, at most: sets how long one may look away while far below the limit.
FILL_BYTES_PER_S = 16 << 30
SAMPLE_MIN_S, SAMPLE_MAX_S = 0.02, 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use before it is stopped.

    Attributes:
        time_s: from its start to its end.
        output_bytes: on stdout.
        stderr_bytes: the end of stderr that is kept; it may write without limit, and all of it is drained.
        memory_bytes: resident, over all its processes, mapped files not counted.
        pause_s: between two reads of a stream that brings little; the first byte is seen at once all the same.
    """

    time_s: float = 60.0
    output_bytes: int = 16 << 20
    stderr_bytes: int = 8 << 10
    memory_bytes: int = 8 << 30
    pause_s: float = PAUSE_S


DEFAULT_LIMITS = Limits()


def run(
    command: Sequence[str | bytes],
    *,
    cwd: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    limits: Limits = DEFAULT_LIMITS,
) -> Observation:
    """Run one program to its end, or to a limit, and leave no process of it behind.

    May be called from several threads at once. Interrupted (by ^C, say), it kills the program and passes the
    interruption on.

    Args:
        command: argv; a name without a slash is looked up in PATH, a relative path is relative to `cwd`.
        cwd: working directory.
        env: the whole environment; None: that of the harness.
        stdin: fed to the program, then closed.
        limits: what it may use.

    Returns:
        What it did. `failure` is None, or StartFailed, Crashed (signal or non-zero exit), TimedOut,
        OutputLimit, MemoryLimit, or NoOutput (exit 0, stdout empty); stdout holds what was printed in any
        case.

    Raises:
        InputError: the command is empty or an argument holds a NUL byte, which no argument can carry.
    """
    wanted = prepare(command, env)
    if wanted.path is None:
        return _Run(wanted, os.fspath(cwd), limits).observation(wanted.not_found())
    for attempt in range(2):
        spawner = take_spawner()
        try:
            watched = _Run(wanted, os.fspath(cwd), limits)
            try:
                watched.go(spawner, stdin)
            except SpawnerLost:
                kill_marked(wanted.mark)
                spawner.close()
                if watched.pid is None and attempt == 0 and not spawner.is_ending:
                    continue  # it had died while it was idle: nothing was started
                what = "was cancelled" if spawner.is_ending else "ended the spawner that it was started from"
                failure = failed(Crashed, what, wanted.argv, watched.tail())
                return watched.observation(failure)
        except BaseException:
            spawner.close()
            if not spawner.is_subreaper:
                kill_marked(wanted.mark)
            raise
        if watched.is_clean:
            give_back(spawner)
        else:
            spawner.close(wait=False)  # it goes on killing on its own
        if not spawner.is_subreaper and watched.killed:
            kill_marked(wanted.mark)
        return watched.observation(watched.verdict())
    raise AssertionError("a fresh spawner was lost before it started anything")


@dataclass(frozen=True, slots=True)
class Command:
    """A command line that can be started.

    Attributes:
        path: of the program; None if it is not in PATH.
        mark: value of the variable `MARK`, by which its processes can be told.
    """

    argv: list[bytes]
    path: bytes | None
    environment: dict[bytes, bytes]
    mark: str

    def start(self, spawner: Spawner, run: int, cwd: str, fds: Sequence[int]) -> None:
        """Have a spawner start it, with the descriptors of stdin, stdout and stderr."""
        spawner.send((run, "start", self.path, self.argv, os.fsencode(cwd), self.environment), fds)

    def not_found(self) -> ImplementationError:
        return failed(StartFailed, f"{os.fsdecode(self.argv[0])}: not found in PATH", self.argv)

    def not_started(self, where: str, number: int, cwd: str) -> ImplementationError:
        """Say why a spawner could not start it: its message "failed"."""
        name = cwd if where == "cwd" else os.fsdecode(self.argv[0])
        hint = ""
        if number == errno.ENOEXEC:
            hint = "; a script needs a #! line"
        elif number == errno.ENOENT and where == "exec" and os.path.exists(os.path.join(cwd, name)):
            hint = ", though the file is there: its interpreter or loader is missing"
        return failed(StartFailed, f"{name}: {os.strerror(number)}{hint}", self.argv)


def prepare(command: Sequence[str | bytes], env: Mapping[str, str] | None) -> Command:
    """Check a command line, find its program, and mark its environment.

    Raises:
        InputError: it is empty, or an argument holds a NUL byte.
    """
    argv = [os.fsencode(word) for word in command]
    if not argv or not argv[0]:
        raise InputError("the command is empty")
    for index, word in enumerate(argv):
        if b"\0" in word:
            what = "an argument holds a NUL byte, which no program can be given"
            raise InputError(what, where=f"argument {index}")
    environment = {os.fsencode(k): os.fsencode(v) for k, v in (os.environ if env is None else env).items()}
    mark = uuid.uuid4().hex
    environment[MARK.encode()] = mark.encode()
    path: bytes | None = argv[0]
    if b"/" not in argv[0]:
        search = os.fsdecode(environment.get(b"PATH", os.fsencode(os.defpath)))
        found = shutil.which(os.fsdecode(argv[0]), path=search)
        path = None if found is None else os.fsencode(found)
    return Command(argv, path, environment, mark)


def failed(
    kind: type[ImplementationError],
    what: str,
    argv: Sequence[bytes],
    tail: str = "",
    *,
    limit: float | None = None,
    exit_code: int | None = None,
) -> ImplementationError:
    command = shlex.join(os.fsdecode(word) for word in argv)
    return kind(what, command=command, stderr_tail=tail, limit=limit, exit_code=exit_code)


runs = itertools.count(1)


# ---- one run


@dataclass(slots=True)
class _Run:
    """The state of one run, and the loop that drives it."""

    command: Command
    cwd: str
    limits: Limits
    run: int = field(default_factory=lambda: next(runs))
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    pid: int | None = None
    start: float = 0.0
    end: float | None = None
    first_byte: float | None = None
    my_cpu_s: float | None = None
    exit_code: int | None = None
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    high_water_bytes: int = 0
    floor_bytes: int = 0
    is_clean: bool = False
    killed: bool = False
    failure: ImplementationError | None = None

    def go(self, spawner: Spawner, stdin: bytes) -> None:
        """Start the program and stay until it, and all that it started, is gone."""
        with contextlib.ExitStack() as stack:
            ends = [os.pipe(), os.pipe()]
            source = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1)
            mine = [fd for fd in (ends[0][0], ends[1][0], source[1]) if fd >= 0]
            theirs = [source[0], ends[0][1], ends[1][1]]
            closing = Descriptors([*mine, *theirs])
            stack.callback(closing.close_all)
            for fd in mine:
                os.set_blocking(fd, False)
            self.start = time.monotonic()
            self.command.start(spawner, self.run, self.cwd, theirs)
            for fd in theirs:
                closing.close(fd)
            self._loop(spawner, closing, ends[0][0], ends[1][0], source[1], memoryview(stdin))

    def _loop(self, spawner: Spawner, fds: Descriptors, out: int, err: int, feed: int, stdin: memoryview) -> None:
        poll = select.poll()
        control = spawner.control.fileno()
        poll.register(control, select.POLLIN)
        poll.register(out, select.POLLIN)
        poll.register(err, select.POLLIN)
        if feed >= 0:
            poll.register(feed, select.POLLOUT)
        open_streams = {out: self._take_stdout, err: self._take_stderr}
        paused: dict[int, float] = {}  # stream -> when to look at it again
        deadline = self.start + self.limits.time_s
        sample_at = self.start + SAMPLE_MIN_S
        is_early = True  # the look at a program that says nothing: its own size, not that of what started it
        grace_until: float | None = None
        give_up = float("inf")
        while True:
            now = time.monotonic()
            if now >= min([sample_at, *paused.values()]):  # each wake-up disturbs, so one looks at everything
                for fd in paused:
                    poll.register(fd, select.POLLIN)
                paused.clear()
            if not self.killed:
                if self.end is None and now >= deadline:
                    limit = self.limits.time_s
                    self.fail(TimedOut, f"did not end within {limit:g} s", limit=limit)
                elif now >= sample_at and self.pid is not None:
                    sample_at = now + self._sample(spawner)
                outlived = grace_until is not None and (now >= min(grace_until, deadline) or not open_streams)
                if self.failure is not None or outlived:
                    self.killed = True
                    spawner.send((self.run, "kill"))
                    give_up = now + KILL_S
            elif now >= give_up:
                break
            if is_early and self.first_byte is not None:  # that brought a look: the next is for the limit alone
                is_early, sample_at = False, max(sample_at, self.start + self._safe_s(0))
            look_at = deadline if self.pid is None else sample_at  # nothing to look at before it has started
            wake = give_up if self.killed else min(deadline, look_at, grace_until or deadline)
            wake = min([wake, *paused.values()])
            for fd, _ in poll.poll(max(0.0, (wake - now) * 1000.0 + 0.5)):
                if fd == control:
                    for message in spawner.receive():
                        self._hear(message)
                    if self.end is not None and grace_until is None:
                        self.floor_bytes = high_water(spawner.process.pid)
                        grace_until = time.monotonic() + GRACE_S
                elif fd == feed:
                    stdin = self._feed(feed, stdin)
                    if not stdin:
                        poll.unregister(feed)
                        fds.close(feed)
                elif fd in open_streams:
                    data = read_now(fd)
                    if data == b"":
                        poll.unregister(fd)
                        del open_streams[fd]
                    elif data is not None:
                        open_streams[fd](data)
                        if len(data) < 4096 and self.end is None:
                            poll.unregister(fd)
                            paused[fd] = time.monotonic() + self.limits.pause_s
            if self.is_clean:
                break
        for fd, take in open_streams.items():  # what is still in the pipes, now that nobody writes to them
            budget = self.limits.output_bytes + (1 << 20)
            while budget > 0 and (data := read_now(fd)):
                take(data)
                budget -= len(data)

    def _hear(self, message: tuple[Any, ...]) -> None:
        run, kind, *rest = message
        if run != self.run:
            return
        if kind == "started":
            self.pid, self.start = rest
            self.my_cpu_s = -time.process_time()
        elif kind == "failed":
            where, number = rest
            self.failure = self.failure or self.command.not_started(where, number, self.cwd)
            self.is_clean = True
        elif kind == "exited":
            status, self.end, self.max_rss_bytes = rest
            if self.my_cpu_s is not None:
                self.my_cpu_s += time.process_time()
            self.exit_code = os.waitstatus_to_exitcode(status)
        elif kind == "clean":
            (self.cpu_s,) = rest
            self.is_clean = True

    def _take_stdout(self, data: bytes) -> None:
        if self.first_byte is None:
            self.first_byte = time.monotonic()
            if self.pid is not None:
                self.high_water_bytes = max(self.high_water_bytes, high_water(self.pid))
        room = self.limits.output_bytes - len(self.stdout)
        self.stdout += data[:room]
        if len(data) > room:
            limit = self.limits.output_bytes
            self.fail(OutputLimit, f"wrote more than {limit:,} bytes", limit=limit)

    def _take_stderr(self, data: bytes) -> None:
        self.stderr += data
        if len(self.stderr) > 2 * self.limits.stderr_bytes + (1 << 16):
            del self.stderr[: -self.limits.stderr_bytes or None]

    def _feed(self, feed: int, stdin: memoryview) -> memoryview:
        try:
            return stdin[os.write(feed, stdin[: 1 << 16]) :]
        except BlockingIOError:
            return stdin
        except OSError:  # it does not want to read (EPIPE)
            return stdin[:0]

    def _sample(self, spawner: Spawner) -> float:
        """Look at the memory in use; return the seconds until the next look."""
        limit = self.limits.memory_bytes
        assert self.pid is not None
        self.high_water_bytes = max(self.high_water_bytes, high_water(self.pid))
        used = sum(map(held_bytes, below(spawner.process.pid)))
        if used > limit:
            self.fail(MemoryLimit, f"held {used:,} bytes of memory, the limit is {limit:,}", limit=limit)
        return self._safe_s(used)

    def _safe_s(self, used: int) -> float:
        """For how many seconds one may look away from memory of which so many bytes are used."""
        free = self.limits.memory_bytes - used
        return min(max(free / FILL_BYTES_PER_S, SAMPLE_MIN_S), SAMPLE_MAX_S)

    def fail(self, kind: type[ImplementationError], what: str, *, limit: float | None = None) -> None:
        if self.failure is None:
            self.failure = failed(kind, what, self.command.argv, limit=limit)

    def tail(self) -> str:
        kept = self.limits.stderr_bytes
        return bytes(self.stderr[-kept:] if kept else b"").decode("utf-8", "replace")

    def verdict(self) -> ImplementationError | None:
        """Say why this is no result, or None."""
        tail = self.tail()
        if self.failure is not None:
            self.failure.stderr_tail = tail
            return self.failure
        code = self.exit_code
        if code is None:
            return failed(TimedOut, "could not be ended", self.command.argv, tail, limit=self.limits.time_s)
        if code < 0:
            return failed(Crashed, f"ended by {signal_name(-code)}", self.command.argv, tail, exit_code=code)
        if code > 0:
            return failed(Crashed, f"ended with exit code {code}", self.command.argv, tail, exit_code=code)
        if not self.stdout:
            return failed(NoOutput, "ended well and wrote nothing on stdout", self.command.argv, tail, exit_code=0)
        return None

    def observation(self, failure: ImplementationError | None) -> Observation:
        end = self.end if self.end is not None else time.monotonic()
        by_limit = isinstance(failure, (TimedOut, OutputLimit, MemoryLimit, StartFailed))
        return Observation(
            command=tuple(os.fsdecode(word) for word in self.command.argv),
            cwd=self.cwd,
            stdout=bytes(self.stdout),
            stderr_tail=self.tail(),
            exit_code=None if by_limit else self.exit_code,
            failure=failure,
            wall_s=end - self.start if self.pid is not None else 0.0,
            first_byte_s=None if self.first_byte is None else min(self.first_byte, end) - self.start,
            cpu_s=self.cpu_s,
            harness_cpu_s=None if self.end is None else self.my_cpu_s,
            peak_rss_bytes=self._peak_rss_bytes(),
        )

    def _peak_rss_bytes(self) -> int:
        # The kernel's figure starts at the spawner's own size: below that, the samples are nearer the truth.
        if self.max_rss_bytes > self.floor_bytes or not self.high_water_bytes:
            return max(self.max_rss_bytes, self.high_water_bytes)
        return self.high_water_bytes


class Descriptors:
    """File descriptors that are closed exactly once."""

    def __init__(self, fds: Sequence[int]) -> None:
        self.open = set(fds)

    def close(self, fd: int) -> None:
        if fd in self.open:
            self.open.remove(fd)
            os.close(fd)

    def close_all(self) -> None:
        for fd in list(self.open):
            self.close(fd)


def read_now(fd: int) -> bytes | None:
    """Read what is there: b"" at the end of the stream, None if there is nothing now."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
