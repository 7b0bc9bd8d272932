"""The one exception tree.

    HarnessError
      InputError             the user's file or flag is wrong          -> one line, exit 2
        CheckpointError  TokenizerError  TraceFormatError  ManifestError  CaseError  RunFileError
      ImplementationError    the program under test misbehaved         -> becomes a Verdict, the run goes on
        BuildFailed  StartFailed  Crashed  TimedOut  OutputLimit  MemoryLimit  NoOutput
        ProtocolViolation  Refused  Unsupported
      MissingDependency      an optional package, compiler or runtime is absent -> skip with reason, or exit 2

A message says what, where, expected against got, and the next step, in that order. The same facts are
fields, so that tests and reports read fields and never prose. A wrong number is no exception: it is a Verdict.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any

__all__ = [
    "BuildFailed",
    "CaseError",
    "CheckpointError",
    "Crashed",
    "HarnessError",
    "ImplementationError",
    "InputError",
    "ManifestError",
    "MemoryLimit",
    "MissingDependency",
    "NoOutput",
    "OutputLimit",
    "ProtocolViolation",
    "Refused",
    "RunFileError",
    "StartFailed",
    "TimedOut",
    "TokenizerError",
    "TraceFormatError",
    "Unsupported",
]


class HarnessError(Exception):
    """Every error that the harness raises on purpose."""


class InputError(HarnessError):
    """A file or an argument that the user gave cannot be used.

    Args:
        what: the fault, in a few words ("tensor layers.2.wk is cut short").
        path: the file it was found in, if any.
        where: the place in it ("byte 91,204", "line 7", "key run").
        expected, actual: what was needed and what was there.
        hint: the next step for the user.
    """

    def __init__(
        self,
        what: str,
        *,
        path: str | PathLike[str] | None = None,
        where: str | None = None,
        expected: object = None,
        actual: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.path = None if path is None else fspath(path)
        self.where = where
        self.expected = expected
        self.actual = actual
        self.hint = hint
        super().__init__(self._message())

    def _message(self) -> str:
        place = ": ".join(part for part in (self.path, self.where) if part)
        text = f"{place}: {self.what}" if place else self.what
        if self.expected is not None:
            text += f": expected {self.expected}"
            if self.actual is not None:
                text += f", got {self.actual}"
        elif self.actual is not None:
            text += f": got {self.actual}"
        if self.hint:
            text += f"; {self.hint}"
        return text


class CheckpointError(InputError):
    """A checkpoint file is not what it should be."""


class TokenizerError(InputError):
    """A tokenizer file is not what it should be, or a text cannot be encoded with it."""


class TraceFormatError(InputError):
    """A trace file is not what it should be."""


class ManifestError(InputError):
    """An impl.toml is wrong; `where` names the line and the key."""


class CaseError(InputError):
    """A golden file is wrong, or a case cannot be run as it is written."""


class RunFileError(InputError):
    """A run file is damaged, incomplete, or of other inputs than those at hand."""


class ImplementationError(HarnessError):
    """The program under test misbehaved.

    Args:
        what: one line.
        command: the command line that was run, shell-quoted, so that it can be pasted.
        stderr_tail: the end of what it wrote on stderr.
        limit: the limit that was reached, in the unit its name says (seconds or bytes).
        exit_code: as in `subprocess`: negative for a signal.
    """

    def __init__(
        self,
        what: str,
        *,
        command: str = "",
        stderr_tail: str = "",
        limit: float | None = None,
        exit_code: int | None = None,
    ) -> None:
        self.what = what
        self.command = command
        self.stderr_tail = stderr_tail
        self.limit = limit
        self.exit_code = exit_code
        super().__init__(what)


class BuildFailed(ImplementationError):
    """Its build command failed."""


class StartFailed(ImplementationError):
    """The program could not be started at all."""


class Crashed(ImplementationError):
    """It ended by a signal or with a non-zero exit code."""


class TimedOut(ImplementationError):
    """It did not end within its limit of time."""


class OutputLimit(ImplementationError):
    """It wrote more than its limit of output."""


class MemoryLimit(ImplementationError):
    """Its processes together held more resident memory than their limit."""


class NoOutput(ImplementationError):
    """It ended well and wrote nothing."""


class ProtocolViolation(ImplementationError):
    """It answered with something that the protocol does not allow.

    Args:
        fault: "malformed" (the line is no reply, or a word of it cannot stand there), "count" (more or fewer things
            than it says, or than were asked for), "echo" (other parameters than it was given), "number" (the reply to
            another request), "unasked" (lines that nobody asked for) or "version".
        sent, received: the request, and what came, as bytes.
    """

    def __init__(
        self, what: str, *, fault: str = "malformed", sent: bytes = b"", received: bytes = b"", **facts: Any
    ) -> None:
        self.fault = fault
        self.sent = sent
        self.received = received
        super().__init__(what, **facts)


class Refused(ImplementationError):
    """It understood a request and answered that it cannot do it."""


class Unsupported(ImplementationError):
    """It answered that it does not offer what it was asked for."""


class MissingDependency(HarnessError):
    """An optional package, compiler, runtime or program is absent.

    Args:
        what: what is absent, and who needs it.
        install: the command that brings it.
        hint: what to do where no command brings it.
    """

    def __init__(self, what: str, *, install: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.install = install
        self.hint = f"install it with: {install}" if install else hint
        super().__init__(f"{what} is not available" + (f"; {self.hint}" if self.hint else ""))
