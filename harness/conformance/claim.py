"""Claim: what a program says the answer to a case is; and Reading: its text, found in all that it printed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.adapters import extract
from harness.adapters.manifest import Manifest
from harness.conformance.case import Case
from harness.judging.printing import LLAMA2C, Printing
from harness.judging.text_walk import Choice, Walk
from harness.results import Kind, Observation, Request, Verdict

__all__ = ["BLANK", "Claim", "Reading", "agreement", "find_text", "last_line", "plain_verdict"]

BLANK = b"\0\t\n\v\f\r "
_MAX_OUTPUT = (1 << 18, 1 << 19)  # bytes of a long output that are read: of its head, and of its end
_LONG_OUTPUT = 1 << 16
_ENOUGH = 16  # bytes of a continuation that can tell one text from another


@dataclass(slots=True)
class Claim:
    """What a program claims the answer to a case is, and what the judge finds out on the way.

    Attributes:
        prefix: the ids that were right before the wrong one, prompt included; empty if none was found wrong.
        rest: the continuation, after the prompt's echo.
        wrong: the choice that failed.
        encodings: names of the wrong tokenizers that explain the text.
        honest: the walk after the honest prompt ids, where that failed.
        texts: the plausible readings of the output, once they were needed.
    """

    case: Case
    seen: Observation
    request: Request
    printing: Printing | None = None
    prefix: list[int] = field(default_factory=list)
    rest: bytes = b""
    wrong: Choice | None = None
    encodings: tuple[str, ...] = ()
    honest: Walk | None = None
    texts: list[bytes] | None = None

    @property
    def reproduce(self) -> str:
        """A command line that shows it again."""
        line = self.seen.command_line
        if self.request.stdin:
            text = self.request.stdin.decode("utf-8", "backslashreplace").replace("\\", "\\\\").replace("%", "%%")
            line = f"printf {shlex.quote(text)} | {line}"
        cwd = self.seen.cwd
        return f"cd {shlex.quote(cwd)} && {line}" if cwd and Path(cwd).is_dir() else line

    @property
    def stdout(self) -> bytes:
        """What was printed; of a flood, head and end only."""
        whole = self.seen.stdout
        head, end = _MAX_OUTPUT
        left_out = len(whole) - head - end
        return whole if left_out <= 0 else b"%b\n[%d bytes]\n%b" % (whole[:head], left_out, whole[-end:])


@dataclass(frozen=True, slots=True)
class Reading:
    """The output read in one way of printing.

    Attributes:
        pieces: what each golden id prints, as far as this reading shows it.
        n_agreed: golden ids, prompt included, that the text shows in full.
        used: bytes of the text that those are.
    """

    text: bytes
    printing: Printing
    conventions: tuple[str, ...]
    pieces: list[bytes]
    n_agreed: int
    used: int

    @property
    def is_exact(self) -> bool:
        return self.n_agreed == len(self.pieces) and self.used == len(self.text)

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        n_seen = self.n_agreed  # what prints nothing agrees with anything
        while n_seen and not self.pieces[n_seen - 1]:
            n_seen -= 1
        return (self.is_exact, n_seen, self.used, -len(self.named))

    @property
    def named(self) -> tuple[str, ...]:
        """The conventions, that of printing among them."""
        name = self.printing.name
        return self.conventions if name == LLAMA2C else (*self.conventions, name)


def find_text(claim: Claim, printings: Sequence[Printing], manifest: Manifest) -> Reading:
    """Find the text, in the way of printing that agrees with the golden furthest, then the plainest."""
    case = claim.case
    ids = [case.prompt_ids[0], *(case.ids or ())]
    n_prompt = min(len(case.prompt_ids) - 1, len(ids) - 1)
    found: Reading | None = None
    enough = 0
    for printing in printings:
        pieces = printing.render(ids)
        n_shown = sum(len(piece.strip(BLANK)) for piece in pieces[n_prompt:])
        if found is None:
            enough = min(_ENOUGH, n_shown)
        elif n_shown < enough:
            continue  # so little of the golden is printed this way that anything would agree with it
        read = extract.best(
            claim.stdout,
            prompt=case.prompt or b"",
            expected=b"".join(pieces),
            pattern=manifest.text,
            echo=manifest.echo,
        )
        echo = b"".join(pieces[:n_prompt])
        if not read.echoes_prompt:
            pieces[:n_prompt] = [b""] * n_prompt
            if extract.NO_LEADING_SPACE in read.conventions and len(pieces) > n_prompt:
                pieces[n_prompt] = pieces[n_prompt].removeprefix(b" ")
        elif n_prompt and case.prompt and not read.text.startswith(echo) and read.text.startswith(case.prompt):
            pieces[:n_prompt] = [case.prompt, *[b""] * (n_prompt - 1)]
        reading = Reading(read.text, printing, read.conventions, pieces, *agreement(read.text, pieces))
        if found is None or reading.rank > found.rank:
            found = reading
        if reading.is_exact and not read.conventions:
            break
        if found.used < enough and len(claim.stdout) > _LONG_OUTPUT:
            break  # a flood that holds nothing of the golden
    assert found is not None
    return found


def plain_verdict(case: Case, impl: str, kind: Kind, reason: str = "") -> Verdict:
    """Make a verdict that says nothing beyond its kind and reason."""
    return Verdict(
        case=case.name,
        suite=case.suite,
        tags=case.tags,
        impl=impl,
        model=case.model.name,
        kind=kind,
        reason=reason,
    )


def last_line(text: str) -> str:
    """Return the last line of a text that says something, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def agreement(text: bytes, pieces: Sequence[bytes]) -> tuple[int, int]:
    """Return how many pieces the text begins with, and how many bytes those are."""
    at = 0
    for n, piece in enumerate(pieces):
        if not text.startswith(piece, at):
            return n, at
        at += len(piece)
    return len(pieces), at
