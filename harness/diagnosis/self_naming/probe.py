"""Probe: a self-naming checkpoint as its reader needs it: what each bug makes it say, and who could have said what.

A probe is asked one thing: the token after its prompt. What a program says is compared with what every hypothesis
(right, a lower precision, one fault) would say. Rounding moves a final hidden state a little, so a hypothesis could
also have said any name whose row lies nearly as near as its own: all within a radius that is twice the noise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.diagnosis.self_naming.outcome import OK, PRECISIONS
from harness.errors import InputError

__all__ = ["CRASH", "FLOAT32", "SILENCE", "Probe", "read", "write"]

# What a program may do instead of saying a name.
CRASH = "(crash)"
SILENCE = "(no name)"

FLOAT32 = "f32"
_EDITION = 1


@dataclass(frozen=True)
class Probe:
    """A probe's dictionary.

    Attributes:
        name: of its recipe and model.
        aim: what it is there for.
        model: the files' stem; the tokenizer is the one beside it, "_tok" added.
        prompt: what is asked, exactly.
        steps: positions to run.
        n_prompt: ids of the prompt, BOS included.
        version: of the checkpoint file.
        radius: how far, in radians, rounding may move a final hidden state in float32.
        separation: the smallest angle between two rows.
        noise: the same measured: the largest angle among honest programs of each precision.
        says: hypothesis -> the piece that follows the prompt, or CRASH, or SILENCE. A hypothesis that is not listed
            is undefined for this shape, and could say anything.
        could_say: piece -> precision -> the hypotheses that could say it in that arithmetic.
    """

    name: str
    aim: str
    model: str
    prompt: str
    steps: int
    n_prompt: int
    version: int
    radius: float
    separation: float
    noise: Mapping[str, float]
    says: Mapping[str, str]
    could_say: Mapping[str, Mapping[str, tuple[str, ...]]]

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """Everything in angle brackets that this probe can say."""
        return tuple(self.could_say)

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        longest_first = sorted((piece.encode() for piece in self.pieces), key=len, reverse=True)
        return re.compile(b"|".join(map(re.escape, longest_first)))

    def heard(self, stdout: bytes) -> str:
        """The first name in what a program printed; SILENCE if there is none."""
        found = self._pattern.search(stdout)
        return found[0].decode() if found else SILENCE

    def is_defined(self, hypothesis: str) -> bool:
        """Whether a program for a model of this shape can be so."""
        return hypothesis in self.says

    def explains(self, hypothesis: str, heard: str, precision: str = FLOAT32) -> bool:
        """Whether a program of that kind, in that arithmetic, could have said this."""
        if not self.is_defined(hypothesis) or self.says[hypothesis] == heard:
            return True
        return hypothesis in self.could_say.get(heard, {}).get(precision, ())

    def shows(self, hypothesis: str) -> bool:
        """Whether a program of that kind says what no right program of any precision could."""
        if not self.is_defined(hypothesis):
            return False
        heard = self.says[hypothesis]
        return not any(self.explains(OK, heard, precision) for precision in (FLOAT32, *PRECISIONS))


def write(probe: Probe, path: Path) -> None:
    """Write a probe's dictionary as JSON."""
    content = json.dumps({"edition": _EDITION, **asdict(probe)}, indent=1, ensure_ascii=False)
    path.write_text(content + "\n", "utf-8")


def read(path: Path) -> Probe:
    """Read a probe's dictionary.

    Raises:
        InputError: it cannot be read, or is of another edition.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as a probe: {error}", path=path, hint="make the probes again") from error
    if not isinstance(document, dict) or document.pop("edition", None) != _EDITION:
        raise InputError("is no probe of this edition", path=path, hint="make the probes again")
    try:
        return Probe(**document)
    except TypeError as error:
        raise InputError(f"is no probe: {error}", path=path, hint="make the probes again") from error
