"""The catalogue's faults in numpy as implementations: their texts in this process, their lines from a real one."""

from __future__ import annotations

import contextlib
import shlex
import time
from pathlib import Path

import numpy as np

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.in_process import InProcess
from harness.adapters.manifest import FILE_NAME, Manifest
from harness.adapters.process import Limits
from harness.adapters.protocol import Session
from harness.diagnosis import Port, PortCrashed
from harness.diagnosis import Request as PortRequest
from harness.diagnosis.faulty import CRASHED, opened, port_of
from harness.engine import blas_threads
from harness.errors import Crashed
from harness.results import Observation, Request

__all__ = ["PROGRAM", "PortedFault"]

PROGRAM = "numpy"
_PYTHON = ("{python}", "-m", "harness.diagnosis.faulty")
# What a real program reads behind the end of an array for, numpy refuses to.
_ENDS = (PortCrashed, ValueError, IndexError)
_FLAGS = (
    "-z",
    "{tokenizer}",
    "-t",
    "{temperature}",
    "-p",
    "{topp}",
    "-s",
    "{seed}",
    "-n",
    "{steps}",
    "-i",
    "{prompt}",
)


class PortedFault(InProcess):
    """The port with one fault of the catalogue, or with none.

    A run is answered in this process, as `python -m harness.diagnosis.faulty` would answer it: starting Python for
    each would cost more than everything else together. A session of the line protocol is that very program's.
    """

    def __init__(self, fault: str = "none") -> None:
        self.fault = fault
        self.port: Port = port_of(fault)
        self.manifest = Manifest(
            path=Path(__file__).parent / FILE_NAME,
            name=f"{PROGRAM}+{fault}",
            formats=("llama2c-v0", "llama2c-v2"),
            levels=("TEXT", "TOKENS", "LOGITS"),
            conventions="llama2.c",
            run=(*_PYTHON, fault, "{model}", *_FLAGS),
            protocol=(*_PYTHON, fault, "--lines"),
        )
        self._process = ProcessImplementation(self.manifest)

    def run(self, request: Request, limits: Limits | None = None) -> Observation:
        """Answer a request; where the program would be ended, that is the failure."""
        command = tuple(self._process.command(request))
        start = time.perf_counter()
        asked = PortRequest(request.prompt or b"", request.steps, request.temperature, request.topp, request.seed)
        failure, text = None, b""
        with blas_threads(1), np.errstate(all="ignore"):
            try:
                text = self.port.answer(opened(self.port, request.model, request.tokenizer), asked).text
            except _ENDS as crash:
                failure = Crashed(f"it would end here: {crash}", command=shlex.join(command), exit_code=CRASHED)
        return Observation(command, "", text, failure=failure, wall_s=time.perf_counter() - start)

    def session(
        self,
        model: Path,
        tokenizer: Path,
        *,
        threads: int = 1,
        limits: Limits | None = None,
        shape: tuple[int, int] | None = None,
    ) -> contextlib.AbstractContextManager[Session]:
        """Open a session with the program."""
        return self._process.session(model, tokenizer, threads=threads, limits=limits, shape=shape)
