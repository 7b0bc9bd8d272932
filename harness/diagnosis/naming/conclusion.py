"""The conclusion: what is named, if anything is, by how well each hypothesis explains what a program said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnoses import once
from harness.diagnosis.diagnosis import Conclusion, Diagnosis, Suspect
from harness.diagnosis.naming.evidence import Noise
from harness.diagnosis.naming.hypotheses import Hypothesis
from harness.diagnosis.naming.scores import explained, fitted, level

__all__ = ["WEIGHED", "Score", "concluded", "reached"]

Array = npt.NDArray[Any]

WEIGHED = 16
"""Suspects that explain everything, told to whoever puts models together, at the most."""

_NEAR = 4  # of those that do not
_MISREAD = 200  # tokens of text of which one may be misread: bytes that two pieces print, pieces that print none
_SAME = 0.5  # nats within which faults that explain everything are one class


@dataclass(frozen=True, slots=True)
class Score:
    """How well a hypothesis explains all evidence: margins of its tokens, one array for each piece of evidence."""

    hypothesis: Hypothesis
    found: tuple[Array, ...]
    likelihood: float
    rivals: tuple[Array, ...] = ()  # what a right port makes of the same tokens after the honest prompt, where any

    @property
    def margins(self) -> Array:
        return np.concatenate(self.found)


def concluded(right: Score, scores: Sequence[Score], noise: Noise, *, needed: float, n_tried: int) -> Diagnosis:
    """Name what explains everything, and is likelier by so many nats than a right port of any precision.

    Args:
        right: of the right port.
        scores: of all others.
        n_tried: that is told.
    """
    scores = sorted(scores, key=lambda score: -score.likelihood)
    # What explains everything comes first, however well something else that does not fits on the whole.
    whole = [score for score in scores if reached(score, noise) is not None]
    best = (whole or scores or [right])[0]
    at = reached(best, noise)
    precision = level(right.margins, noise)
    tolerance = dict(noise.levels)[at or ""]
    total = len(best.margins) if at is not None else max(len(right.margins), len(best.margins))

    def n_explained(score: Score) -> int:
        return min(total, int(explained(score.margins, tolerance).sum()))

    gain = best.likelihood - _best_right(right, best, noise)
    is_named = at is not None and bool(best.hypothesis.faults) and gain >= needed
    named = [
        score
        for score in whole
        if is_named and reached(score, noise) == at and score.likelihood >= best.likelihood - _SAME
    ]
    names = {score.hypothesis.name for score in named}
    rest = [score for score in scores if score.hypothesis.name not in names]
    second = rest[0] if rest else None

    def described(score: Score) -> Suspect:
        return score.hypothesis.suspect(
            n_explained(score),
            gain=score.likelihood - _best_right(right, score, noise),
            explains_all=reached(score, noise) is not None,
        )

    conclusion = Conclusion.NAMED if named else Conclusion.LOWER_PRECISION if precision else Conclusion.UNKNOWN
    return Diagnosis(
        "text",
        conclusion,
        suspects=once(map(described, named)),
        explained=n_explained(best if named else right),
        total=total,
        right=n_explained(right),
        runner_up=described(second) if second else None,
        gap=best.likelihood - second.likelihood if named and second else 0.0,
        gain=gain if best.hypothesis.faults else 0.0,
        n_tried=n_tried,
        precision=(at if named else precision) or "",
        weighed=tuple(map(described, [*whole[:WEIGHED], *(one for one in rest[:_NEAR] if one not in whole)])),
    )


def _best_right(right: Score, best: Score, noise: Noise) -> float:
    """The likelihood of a right port, which may have chosen the tokens that another prompt's ids explain."""
    if not best.rivals:
        return right.likelihood
    pairs = zip(right.found, best.rivals, strict=True)
    found = [max(pair, key=lambda one: fitted(one, noise)) for pair in pairs]
    return fitted(np.concatenate(found), noise)


def reached(score: Score, noise: Noise) -> str | None:
    """The precision at which a hypothesis explains everything, but for what a text may have been misread in."""
    return level(score.margins, noise, missed=len(score.margins) // _MISREAD)
