"""The machine that a measurement was made on, and how busy it was."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from threadpoolctl import threadpool_info

__all__ = ["Machine", "Usage", "forget", "machine", "memory_bytes", "steal_s", "usage"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What must agree before two measurements may be compared.

    Attributes:
        cpu: the processor's own name.
        n_cpus: logical processors that this process may use.
        system: operating system and architecture.
        python, numpy, blas: versions; blas with the kernel it chose.
    """

    cpu: str
    n_cpus: int
    system: str
    python: str
    numpy: str
    blas: str

    def __str__(self) -> str:
        return f"{self.cpu}, {self.n_cpus} CPUs, {self.system}, Python {self.python}, numpy {self.numpy}, {self.blas}"


def machine() -> Machine:
    """Describe this machine."""
    blas = [p for p in threadpool_info() if p.get("user_api") == "blas"]
    return Machine(
        cpu=_cpu_name(),
        n_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        numpy=np.__version__,
        blas=_blas_name(blas[0]) if blas else "no BLAS found",
    )


@dataclass(frozen=True, slots=True)
class Usage:
    """How busy the machine is; what the machine does not tell is None.

    Attributes:
        busy_s: seconds that all its processors together have worked since it started, for anybody.
        steal_s: seconds that the hypervisor has taken.
        load: processes that want to run, over the last minute.
        hz: mean frequency of the processors now.
        disk_bytes: read from disks since it started, for anybody.
        major_faults: times that somebody waited for a page from a disk.
    """

    busy_s: float | None = None
    steal_s: float | None = None
    load: float | None = None
    hz: float | None = None
    disk_bytes: int | None = None
    major_faults: int | None = None


def usage() -> Usage:
    """Look at how busy the machine is now."""
    try:
        load = os.getloadavg()[0]
    except OSError:
        load = None
    return Usage(_busy_s(), steal_s(), load, _hz(), *_paged_in())


def _busy_s() -> float | None:
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq = map(int, first[1:8])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None


def _paged_in() -> tuple[int | None, int | None]:
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
        found = {name: int(value) for name, value in (line.split() for line in lines)}
        return 1024 * found["pgpgin"], found["pgmajfault"]
    except (OSError, ValueError, KeyError):
        return None, None


def memory_bytes() -> int:
    """Memory that can be had now without anybody else losing what he holds; caches of files count as free."""
    return int(psutil.virtual_memory().available)


def forget(path: Path) -> None:
    """Have the system drop what it holds of a file in memory, where it can be told to."""
    if hasattr(os, "posix_fadvise") and path.exists():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _hz() -> float | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = [float(line.split(":", 1)[1]) * 1e6 for line in lines if line.startswith("cpu MHz")]
    except (OSError, ValueError):
        return None
    return sum(found) / len(found) if found else None


def steal_s() -> float | None:
    """Seconds that the hypervisor has taken from this machine since it started; None where it does not tell."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return int(first[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def _blas_name(pool: dict[str, Any]) -> str:
    return " ".join(str(pool[key]) for key in ("internal_api", "version", "architecture") if pool.get(key))


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
