"""The machine that a measurement was made on, and how busy it was."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

__all__ = ["Machine", "machine", "steal_s"]


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
