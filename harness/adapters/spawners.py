"""The harness's side of its spawners: a pool of small processes that programs are started from (spawner.py).

A spawner serves one program at a time, and is taken from the pool and given back; `terminate_all` ends every program
that is under way in this process.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import marshal
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

__all__ = ["KILL_S", "MARK", "Spawner", "SpawnerLost", "give_back", "kill_marked", "take_spawner", "terminate_all"]

KILL_S = 0.8  # to wait for killed processes to be gone; together with the limit of time: limit + 1 s
MARK = "HARNESS_RUN"  # environment variable that every process of a run inherits
MAX_IDLE = 16  # spawners kept for later


class SpawnerLost(Exception):
    """The spawner is gone: killed from outside, by the program under test, or by terminate_all."""


class Spawner:
    """A spawner process and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        script = str(Path(__file__).with_name("spawner.py"))
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", script, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self.control = ours
        self.is_subreaper = sys.platform.startswith("linux")
        self.is_ending = False
        self.buffer = b""

    def send(self, message: tuple[Any, ...], fds: Sequence[int] = ()) -> None:
        body = marshal.dumps(message)
        data = len(body).to_bytes(4, "little") + body
        try:
            if fds:
                rights = array.array("i", fds)
                sent = self.control.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                data = data[sent:]
            self.control.sendall(data)
        except OSError as error:
            raise SpawnerLost from error

    def receive(self) -> list[tuple[Any, ...]]:
        """Read what has come; at least something has."""
        try:
            data = self.control.recv(1 << 16)
        except OSError as error:
            raise SpawnerLost from error
        if not data:
            raise SpawnerLost
        self.buffer += data
        messages = []
        while len(self.buffer) >= 4 + (size := int.from_bytes(self.buffer[:4], "little")):
            messages.append(marshal.loads(self.buffer[4 : 4 + size]))
            self.buffer = self.buffer[4 + size :]
        return messages

    def end(self) -> None:
        """Have it kill what runs below it and end; whoever is talking to it finds it lost."""
        self.is_ending = True
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)

    def close(self, *, wait: bool = True) -> None:
        """End it and let go of it; for the one who has it in use."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)
        self.control.close()
        if wait:
            try:
                self.process.wait(KILL_S)
            except subprocess.TimeoutExpired:
                wait = False
        if not wait:
            _leaving.append(self.process)

    def forget(self) -> None:
        """Drop a spawner that belongs to the process this one was forked from."""
        self.control.close()
        self.process.returncode = 0  # not ours to wait for


_lock = threading.Lock()
_idle: list[Spawner] = []
_spawners: weakref.WeakSet[Spawner] = weakref.WeakSet()
_leaving: list[subprocess.Popen[bytes]] = []  # on their way out, still to be waited for


def take_spawner() -> Spawner:
    with _lock:
        if _idle:
            return _idle.pop()
    spawner = Spawner()
    with _lock:
        _spawners.add(spawner)
        _leaving[:] = [process for process in _leaving if process.poll() is None]
    return spawner


def give_back(spawner: Spawner) -> None:
    with _lock:
        if len(_idle) < MAX_IDLE and spawner.control.fileno() >= 0:
            _idle.append(spawner)
            return
    spawner.close()


def terminate_all() -> None:
    """End every run under way in this process, in whatever thread; those calls return as Crashed.

    A run that begins later is not affected: stop giving out work first.
    """
    with _lock:
        idle, busy = list(_idle), [spawner for spawner in _spawners if spawner not in _idle]
        _idle.clear()
    for spawner in busy:
        spawner.end()
    for spawner in idle:
        spawner.close()
    for spawner in busy:
        with contextlib.suppress(subprocess.TimeoutExpired):
            spawner.process.wait(KILL_S)


def kill_marked(mark: str) -> None:
    """Kill every process that carries this run's mark in its environment: the way without a subreaper."""
    for _ in range(10):
        found = False
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == mark:
                    process.kill()
                    found = True
        if not found:
            return
        time.sleep(0.01)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for spawner in list(_spawners):
        spawner.forget()
    _idle.clear()
    _leaving.clear()
    _spawners.clear()


def _at_exit() -> None:
    terminate_all()
    for process in _leaving:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_S)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
