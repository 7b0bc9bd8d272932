"""InProcess: what implementations have in common that answer in this process, without a program behind them."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from pathlib import Path

from harness.adapters.manifest import Manifest
from harness.adapters.process import Limits
from harness.adapters.protocol import Session
from harness.errors import InputError
from harness.results import Observation, Request

__all__ = ["InProcess"]


class InProcess(ABC):
    """An Implementation that says what it would print; it reads the model's own file and, by default, has no lines.

    Attributes:
        manifest: set by the subclass.
    """

    __slots__ = ()
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    def prepare(self, model: Path, tokenizer: Path) -> Path:
        return model

    @abstractmethod
    def run(self, request: Request, limits: Limits | None = None) -> Observation:
        """Answer a request; what a program would end with is `failure` in what is returned, never an exception."""

    def session(
        self,
        model: Path,
        tokenizer: Path,
        *,
        threads: int = 1,
        limits: Limits | None = None,
        shape: tuple[int, int] | None = None,
    ) -> contextlib.AbstractContextManager[Session]:
        """Open a session of the line protocol.

        Raises:
            InputError: it speaks none.
        """
        raise InputError("speaks no line protocol", path=self.manifest.path, where=f"implementation {self.name}")
