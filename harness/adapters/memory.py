"""What processes hold in memory, as the system tells it."""

from __future__ import annotations

import contextlib
import os

import psutil

__all__ = ["below", "held_bytes", "high_water"]


def below(pid: int) -> list[int]:
    """List the live processes below one, near ones first."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                    children = [int(word) for word in file.read().split()]
                found += children
                waiting += children
        except FileNotFoundError:
            if not os.path.exists("/proc/self/task"):
                return _below_slowly(pid)
        except OSError:
            continue
    return found


def _below_slowly(pid: int) -> list[int]:
    try:
        return [process.pid for process in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def held_bytes(pid: int) -> int:
    """Return the resident bytes that a process holds: anonymous and shared pages, not mapped files."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = file.read()
    except FileNotFoundError:
        if os.path.exists("/proc/self/status"):
            return 0
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(pid).memory_info().rss)
        return 0
    except OSError:
        return 0
    return _status_field(text, b"RssAnon:") + _status_field(text, b"RssShmem:")


def high_water(pid: int) -> int:
    """Return the largest resident size that a process has had since its exec; 0 if it cannot be told."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return _status_field(file.read(), b"VmHWM:")
    except OSError:
        return 0


def _status_field(status: bytes, name: bytes) -> int:
    place = status.find(name)
    return int(status[place + len(name) :].split(None, 1)[0]) * 1024 if place >= 0 else 0
