"""The text route of diagnosis: a program on golden runs of several models, and what they say of its bug together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.adapters.implementation import Implementation
from harness.conformance.case import Case, select
from harness.conformance.verify import verify_group
from harness.diagnoses import combined
from harness.diagnosis import CATALOGUE, Fault
from harness.models import locate
from harness.results import Conclusion, Diagnosis, Kind

__all__ = ["Told", "by_text", "text_cases"]


@dataclass(frozen=True, slots=True)
class Told:
    """What the text of a program says of its bug.

    Attributes:
        found: one diagnosis; several where models name bugs that exclude each other; none where nothing is wrong, or
            nothing could be judged.
        n_wrong: cases with a mismatch.
    """

    found: tuple[Diagnosis, ...]
    n_wrong: int

    @property
    def is_contradictory(self) -> bool:
        """Whether models name bugs that exclude each other."""
        return len(self.found) > 1 and self.found[0].conclusion is Conclusion.NAMED

    @property
    def names(self) -> tuple[str, ...]:
        """The class that is named; nothing where models contradict each other."""
        return () if not self.found or self.is_contradictory else self.found[0].names


def text_cases(
    models: Sequence[str] = ("gqa", "mha", "mqa"), suites: Sequence[str] = ("core",), *, quick: bool = False
) -> list[Case]:
    """The golden runs of some models, and of those that are altered from them."""
    found = select(suites, quick=quick)
    return [
        case for case in found if case.is_run and not case.is_chat and case.model.name.partition("/")[0] in models
    ]


def by_text(impl: Implementation, cases: Sequence[Case], *, suspects: Sequence[Fault] = CATALOGUE) -> Told:
    """Judge what a program prints, and put together what is said of its bug on each model.

    Args:
        cases: golden runs of models whose files are here.
        suspects: the faults that are tried.
    """
    verdicts = []
    for model in dict.fromkeys(case.model for case in cases):
        group = [case for case in cases if case.model == model]
        verdicts += verify_group(group, impl, files=locate(model.name), levels=("TEXT",), suspects=suspects)
    return Told(tuple(combined(verdicts)), sum(verdict.kind is Kind.MISMATCH for verdict in verdicts))
