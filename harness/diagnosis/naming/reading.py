"""Reading: the tokens of a text, as a given port would have written it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.diagnosis.naming.evidence import Evidence, Noise
from harness.diagnosis.naming.scores import Chooser
from harness.diagnosis.port import Port
from harness.engine import Engine
from harness.engine.ops import Array
from harness.judging.floor import MULTIPLE
from harness.judging.text_walk import Choice, walk
from harness.results import Kind

__all__ = ["read_text"]


def read_text(
    port: Port,
    engine: Engine,
    one: Evidence,
    prompt_ids: Sequence[int],
    rest: bytes,
    noise: Noise,
    floor: float,
    scale: float = 1.0,
) -> tuple[tuple[int, ...], int, bool]:
    """Read the text after a prompt as a port would have written it.

    Args:
        engine: the forward pass of the port.
        one: what was asked, and what of the answer is known, which is not read again.
        prompt_ids: what the port was fed first, the honest ids or others.
        noise: the sizes that are tried for sampled tokens.
        floor: how much noise is allowed for.
        scale: of the logits, by which they are multiplied before that.

    Returns:
        The prompt's ids and those after it, a wrong one last; how many bytes are explained; whether all are.
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
    if path.wrong is None:
        return tuple(path.ids), path.used, True
    last = () if path.wrong.token is None or len(path.ids) > limit else (path.wrong.token,)
    return (*path.ids, *last), path.used, False


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
        regret = self.scale * (float(logits[expected]) - float(logits[token]))
        if not self.chooser.is_greedy:
            floors = [floor / self.scale for _, floor in self.noise.levels if floor <= self.floor]
            regret = MULTIPLE * self.scale * self.chooser.needed(logits, step, [token], floors)
        kind = Kind.WITHIN if regret <= MULTIPLE * self.floor else Kind.MISMATCH
        return Choice(token, kind, expected, regret)

    def others(
        self, ids: Sequence[int], logits: Array, candidates: Sequence[int], step: int, taken: Choice
    ) -> list[Choice]:
        return []
