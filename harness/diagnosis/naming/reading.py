"""Reading: the tokens of a text, as a given port would have written it.

A port that would have printed that very output gives its tokens with it. Otherwise the text is walked: what could
have printed the bytes that follow is tried, and of several tokens those that the port could have chosen, noise
allowed for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harness.diagnosis.naming.evidence import Evidence, Noise
from harness.diagnosis.naming.scores import FEW, SHARE, Chooser
from harness.diagnosis.port import Port
from harness.engine import Engine
from harness.engine.ops import Array
from harness.judging.floor import MULTIPLE
from harness.judging.text_walk import Choice, walk
from harness.models import Model
from harness.results import Kind

__all__ = ["Text", "read_text", "said_by"]

_AT_ONCE = 4  # tokens after which a run is compared with what was heard
_FEW_PIECES = 4096  # in a vocabulary of which every draw is looked at, however sure it is


class Text(NamedTuple):
    """A text that was read.

    Attributes:
        ids: the prompt's and those after it, a wrong one last.
        used: how many bytes they explain.
        is_explained: whether those are all.
        is_chance: more choices than noise turns would have been turned: a port that says whatever is wanted. It was
            read as far as that.
    """

    ids: tuple[int, ...]
    used: int
    is_explained: bool = False
    is_chance: bool = False


@np.errstate(all="ignore")  # many a fault divides by zero
def said_by(port: Port, engine: Engine, model: Model, one: Evidence) -> tuple[int, ...] | None:
    """Run a port freely for as long as it prints what was heard.

    Args:
        engine: the forward pass of the port.
        one: what was asked, and what came out of it.

    Returns:
        The prompt's ids and those after it, if the port prints all of stdout to the byte; else None.
    """
    if one.stdout is None or tuple(port.prompt_ids(model, one.request.prompt)) != one.prompt_ids:
        return None
    heard, prompt = one.stdout, list(one.prompt_ids)
    if not heard.endswith(port.printer.ending):
        return None
    session = engine.session()
    rows = session.extend(prompt, all_logits=True)

    def logits(position: int, token: int) -> Array:
        row: Array = rows[position] if position < len(prompt) else session.extend([token])[0]
        return row

    found: list[int] = []
    for token in port.choices(model, prompt, one.request, logits):
        found.append(token)
        if len(found) % _AT_ONCE == 0:
            said = port.text(model, one.request.prompt, prompt, found)
            if not heard.startswith(said.removesuffix(port.printer.ending)):
                return None
    return (prompt[0], *found) if port.text(model, one.request.prompt, prompt, found) == heard else None


@np.errstate(all="ignore")
def read_text(
    port: Port,
    engine: Engine,
    one: Evidence,
    prompt_ids: Sequence[int],
    rest: bytes,
    noise: Noise,
    floor: float,
    scale: float = 1.0,
) -> Text:
    """Read the text after a prompt as a port would have written it.

    Args:
        engine: the forward pass of the port.
        one: what was asked, and what of the answer is known, which is not read again.
        prompt_ids: what the port was fed first, the honest ids or others.
        noise: the sizes that are tried for sampled tokens.
        floor: how much noise is allowed for.
        scale: of the logits, by which they are multiplied before that.
    """
    limit = engine.config.seq_len
    is_honest = tuple(prompt_ids) == one.prompt_ids
    rule = _OfPort(Chooser(port, one.request, len(prompt_ids), engine.config, limit + 1), noise, floor, scale)
    path = walk(
        rest,
        prompt_ids,
        session=engine.session(),
        printing=one.printing,
        rule=rule,
        agreed=one.ids[len(one.prompt_ids) :] if is_honest else (),
        max_positions=limit,
    )
    turned = [i for i, choice in enumerate(path.choices) if choice.kind is Kind.WITHIN]
    for n, i in enumerate(turned):
        if n + 1 > FEW + SHARE * (i + 1):
            ids = path.ids[: len(path.ids) - len(path.choices) + (path.wrong is not None) + i]
            return Text(tuple(ids), sum(map(len, one.printing.render(ids)[len(prompt_ids) - 1 :])), is_chance=True)
    if path.wrong is None:
        return Text(tuple(path.ids), path.used, is_explained=True)
    last = () if path.wrong.token is None or len(path.ids) > limit else (path.wrong.token,)
    return Text((*path.ids, *last), path.used)


@dataclass(frozen=True)
class _OfPort:
    """The rule of a walk: what a port would choose, up to the noise."""

    chooser: Chooser
    noise: Noise
    floor: float
    scale: float

    def choose(self, ids: Sequence[int], logits: Array, candidates: Sequence[int], step: int) -> Choice:
        expected = self.chooser.token(logits, step)
        if expected in candidates:
            return Choice(expected, Kind.EXACT, expected)
        if not candidates:
            return Choice(None, Kind.MISMATCH, expected, math.inf)
        token = max(candidates, key=lambda c: float(logits[c]))
        if self.chooser.is_greedy:
            regret = self._regret(logits, token, expected)
            return Choice(token, self._kind(regret), expected, regret)
        drawn = self._drawn(logits, candidates, step, expected)
        return drawn[0] if drawn else Choice(token, Kind.MISMATCH, expected, math.inf)

    def others(
        self, ids: Sequence[int], logits: Array, candidates: Sequence[int], step: int, taken: Choice
    ) -> list[Choice]:
        """What else may have been chosen: of coins, near a border; of greedy choices, where noise decided already."""
        rest = [c for c in candidates if c != taken.token]
        if not self.chooser.is_greedy:
            return self._drawn(logits, rest, step, taken.expected) if len(logits) <= _FEW_PIECES else []
        if taken.kind is Kind.EXACT:
            return []
        regrets = [(self._regret(logits, c, taken.expected), c) for c in rest]
        return [
            Choice(c, Kind.WITHIN, taken.expected, regret)
            for regret, c in sorted(regrets)
            if self._kind(regret) is Kind.WITHIN
        ]

    def _regret(self, logits: Array, token: int, expected: int) -> float:
        """By how much a token is not the likeliest, in a right model's logits."""
        gap = float(logits[expected]) - float(logits[token])
        return self.scale * gap if math.isfinite(self.scale) else math.inf

    def _kind(self, regret: float) -> Kind:
        return Kind.WITHIN if regret <= MULTIPLE * self.floor else Kind.MISMATCH

    def _drawn(self, logits: Array, candidates: Sequence[int], step: int, expected: int) -> list[Choice]:
        """The candidates that the coin draws with noise of a size that is allowed, those that need least first."""
        floors = [floor for _, floor in self.noise.levels if floor <= self.floor]
        needed = zip(self.chooser.needed(logits, step, candidates, floors, self.scale), candidates, strict=True)
        return [
            Choice(c, Kind.WITHIN, expected, MULTIPLE * floor)
            for floor, c in sorted(needed, key=lambda pair: (pair[0], -float(logits[pair[1]])))
            if math.isfinite(floor)
        ]
