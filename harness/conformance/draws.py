"""Draws of another random generator than llama2.c's: what can be said of a run whose coins are not known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.conformance.case import Case
from harness.engine.sampler import nucleus_candidates, probabilities
from harness.judging.sampling import Draw, Surprise
from harness.judging.text_walk import Choice
from harness.results import Kind

__all__ = ["FairDraws", "Member", "chance"]


@dataclass(frozen=True, slots=True)
class FairDraws:
    """The tokens of a run that some generator may have drawn.

    Attributes:
        surprises: of each token.
        hits: whether llama2.c's coin of that step would have drawn it, too.
        is_whole: whether there are as many as were asked for, or a stop or silence was possible at the end.
    """

    surprises: list[Surprise]
    hits: list[bool]
    is_whole: bool


@dataclass(frozen=True)
class Member:
    """The rule for programs with a generator of their own: any token of the nucleus will do.

    Of those that could have printed the text the longest is taken, unless it is much less probable than another:
    models write their words in as few pieces as there are, and a fair draw is rarely far from the likeliest.
    """

    case: Case
    floor: float = 1e-3  # such a program's logits are noisy too; any floor of a healthy float32 model lies below

    _FAR = 0.01

    def choose(self, ids: Sequence[int], logits: npt.NDArray[Any], candidates: Sequence[int], step: int) -> Choice:
        best = int(logits.argmax())
        ordered = self._ordered(logits, candidates)
        return Choice(ordered[0], Kind.EXACT, best) if ordered else Choice(None, Kind.MISMATCH, best, math.inf)

    def others(
        self,
        ids: Sequence[int],
        logits: npt.NDArray[Any],
        candidates: Sequence[int],
        step: int,
        taken: Choice,
    ) -> list[Choice]:
        rest = [token for token in self._ordered(logits, candidates) if token != taken.token]
        return [Choice(token, Kind.EXACT, taken.expected) for token in rest]

    def _ordered(self, logits: npt.NDArray[Any], candidates: Sequence[int]) -> list[int]:
        """The candidates (given shortest first) that lie in the nucleus, the best guess first."""
        if not len(candidates):
            return []
        draw = Draw(logits, temperature=self.case.temperature, topp=self.case.topp)
        tokens = np.asarray(candidates)[::-1]
        tokens = tokens[draw.in_nucleus(tokens, floor=self.floor)]
        if not len(tokens):
            return []
        p = draw.p[tokens]
        is_far = p < self._FAR * p.max()
        found: list[int] = tokens[np.lexsort((-p * is_far, is_far))].tolist()
        return found


def chance(logits: npt.NDArray[Any], token: int, case: Case) -> float:
    """The probability that a fair coin draws a token."""
    p = probabilities(logits, case.temperature)
    if not 0 < case.topp < 1:
        return float(p[token])
    kept, sums = nucleus_candidates(p, case.topp)
    return float(p[token] / sums[-1]) if token in kept else 0.0
