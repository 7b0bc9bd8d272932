"""The small program that children are started from: run as a script, never imported by the harness.

It keeps three promises that a large process cannot: a child's peak memory is its own (what Linux reports
after an exec starts at the size of the process that started it), a process that daemonises comes back here
instead of to init (child subreaper), and when the harness disappears, however suddenly, everything below
ends.

One spawner serves one run at a time, so that every process below it belongs to that run. Messages in both
directions are a 4-byte little-endian length and a marshalled tuple.

    harness -> spawner   (run, "start", path, argv, cwd, env) with the descriptors of stdin, stdout and stderr
                         (run, "kill")
    spawner -> harness   (run, "started", pid, clock)            clock: time.monotonic() just before the start
                         (run, "failed", where, errno)           where: "cwd" or "exec"; nothing is running
                         (run, "exited", status, clock, max_rss_bytes)   the process itself has ended
                         (run, "clean", cpu_s)                   and no other process of this run is left

Usage: python -I -S spawner.py SOCKET_FD
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
import sys
import time
from typing import Any

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
PARENT_POLL_MS = 1000  # how often to look whether the harness is still there, should the socket not tell
MAX_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere: getrusage(2)


def become_subreaper() -> bool:
    """Have orphaned descendants handed to this process; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def descendants() -> list[int]:
    """List every live process below this one, by one pass over /proc (only where it exists)."""
    children: dict[int, list[int]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command name may hold anything, so fields are counted from its closing parenthesis.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state not in (b"Z", b"X"):
            children.setdefault(int(parent), []).append(int(name))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


class Spawner:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        control.set_inheritable(False)  # the program under test has no business here
        self.parent = os.getppid()
        self.is_subreaper = become_subreaper()
        self.buffer = b""
        self.fds: list[int] = []
        self.run = 0
        self.pid = 0  # of the process itself; 0 once it has ended
        self.group = 0
        self.is_clean = True
        self.is_killing = False
        self.cpu_s = 0.0

    def send(self, *message: Any) -> None:
        body = marshal.dumps((self.run, *message))
        self.control.sendall(len(body).to_bytes(4, "little") + body)

    def receive(self) -> list[tuple[Any, ...]] | None:
        """Read what has come; None at the end of the harness."""
        try:
            data, ancillary, _, _ = self.control.recvmsg(1 << 16, socket.CMSG_SPACE(3 * 4))
        except ConnectionError:
            return None
        if not data:
            return None
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self.fds += memoryview(payload[: len(payload) // 4 * 4]).cast("i").tolist()
                for fd in self.fds:
                    os.set_inheritable(fd, False)
        self.buffer += data
        messages = []
        while len(self.buffer) >= 4 + (size := int.from_bytes(self.buffer[:4], "little")):
            messages.append(marshal.loads(self.buffer[4 : 4 + size]))
            self.buffer = self.buffer[4 + size :]
        return messages

    def start(self, run: int, path: bytes, argv: list[bytes], cwd: bytes, env: dict[bytes, bytes]) -> None:
        self.run, self.cpu_s, self.is_killing = run, 0.0, False
        fds, self.fds = self.fds, []
        where = "cwd"
        try:
            os.chdir(cwd)
            where = "exec"
            clock = time.monotonic()
            self.pid = os.posix_spawn(
                path,
                argv,
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(fds)],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM],
            )
        except OSError as error:
            self.send("failed", where, error.errno or 0)
        else:
            self.group, self.is_clean = self.pid, False
            self.send("started", self.pid, clock)
        finally:
            for fd in fds:
                os.close(fd)
            os.chdir("/")

    def reap(self) -> None:
        """Collect every child that has ended, and tell the harness what that means."""
        while not self.is_clean:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                if self.is_subreaper or self.is_killing:
                    self.is_clean = True
                    self.send("clean", self.cpu_s)
                return
            if pid == 0:
                return
            self.cpu_s += usage.ru_utime + usage.ru_stime
            if pid == self.pid:
                self.pid = 0
                self.send("exited", status, time.monotonic(), usage.ru_maxrss * MAX_RSS_UNIT)

    def kill(self) -> None:
        """End every process of this run: first stop them all, so that none can start others meanwhile."""
        self.is_killing = True
        stopped: set[int] = set()
        for _ in range(50):
            fresh = [pid for pid in descendants() if pid not in stopped]
            if not fresh:
                break
            for pid in fresh:
                send_signal(pid, signal.SIGSTOP)
            stopped.update(fresh)
        for pid in descendants():
            send_signal(pid, signal.SIGKILL)
        if self.pid:
            send_signal(self.pid, signal.SIGKILL)
        if not self.is_subreaper:  # orphans do not come back to us here; their group is all that is known
            send_signal(-self.group, signal.SIGKILL)

    def serve(self) -> None:
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        # A Python-level handler is needed for the wake-up byte; ^C and the like are the harness's business.
        # Handlers, not SIG_IGN: an ignored signal would be inherited by the children.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        while True:
            # While a kill is under way, look again: what was starting just then may have slipped through.
            ready = poll.poll(20 if self.is_killing and not self.is_clean else PARENT_POLL_MS)
            if any(fd == wake_read for fd, _ in ready):
                os.read(wake_read, 4096)
            if any(fd == self.control.fileno() for fd, _ in ready):
                messages = self.receive()
                if messages is None:
                    return
                for run, kind, *rest in messages:
                    if kind == "start":
                        self.start(run, *rest)
                    elif kind == "kill" and run == self.run and not self.is_clean:
                        self.kill()
            elif os.getppid() != self.parent:
                return
            self.reap()
            if self.is_killing and not self.is_clean and not ready:
                self.kill()

    def end_everything(self) -> None:
        """Kill until nothing is left; a process stuck in the kernel is given a minute to come out."""
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            self.kill()
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.01)


def send_signal(pid: int, number: int) -> bool:
    """Signal a process, or a group by its negated id; False if it is gone or not ours."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main() -> None:
    spawner = Spawner(socket.socket(fileno=int(sys.argv[1])))
    try:
        spawner.serve()
    except ConnectionError:
        pass
    finally:
        if not spawner.is_clean:
            spawner.end_everything()


if __name__ == "__main__":
    main()
