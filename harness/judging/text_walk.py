"""From printed bytes to tokens and a judgement: walk the text with the reference.

Text does not determine tokens. At each step the candidates are the tokens by what *this* program would print for
them after the previous one (pieces that it drops are candidates of width zero), and the reference, fed with the
tokens chosen so far, says how good each is. The best candidate counts: if it is what the reference itself would
choose, the step is exact; if its regret is within the noise, it is a tie with a certificate; else the program is
wrong here.

A tie leaves two ways to read the text that follows. When the walk ends in a mismatch it goes back to its latest
ties and tries the other readings before it gives up. That holds for the ids of a golden too, along which a text is
read as far as it agrees: " very" begins like " ", so a text may have left the golden before it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from harness.judging.floor import MULTIPLE
from harness.judging.printing import Printing
from harness.judging.sampling import Draw
from harness.results import Certificate, Kind

__all__ = ["Choice", "Floors", "Greedy", "Rule", "Sampled", "Session", "Walk", "walk"]

Array = npt.NDArray[Any]

_MAX_BACKTRACKS = 32
_MAX_RETRIED = 512  # tokens walked in vain after the first mismatch, before it is given up
_BLOCK = 32  # positions of a golden that are gone back over at once
_LONGEST = 4096  # bytes that are looked at for one token; no piece is longer
_MAX_WIDTHLESS = 64  # zero-width tokens in a row before the text is taken to have stopped


class Rule(Protocol):
    """How a choice is judged: the best of the candidates, and what it is worth; the others, best first."""

    def choose(self, ids: Sequence[int], logits: Array, candidates: Sequence[int], step: int) -> Choice: ...
    def others(
        self, ids: Sequence[int], logits: Array, candidates: Sequence[int], step: int, taken: Choice
    ) -> list[Choice]: ...


class Session(Protocol):
    """What the walk needs of a reference: one growing sequence."""

    def extend(self, ids: Sequence[int], *, all_logits: bool = False) -> Array: ...
    def truncate(self, length: int) -> None: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A token for one step, and what it is worth: EXACT, TIE, WITHIN or MISMATCH."""

    token: int | None
    kind: Kind
    expected: int
    regret: float = 0.0
    floor: float = 0.0
    actual_logit: float = math.nan
    expected_logit: float = math.nan


@dataclass(frozen=True)
class Floors:
    """How much noise there is.

    Attributes:
        at: the noise floor of the logits after a sequence, in the model's own arithmetic; costs a few passes.
        usual: the largest floor over a typical run of the model; costs nothing once known.
        declared: the floor of the declared lower precision, if one is declared.
    """

    at: Callable[[Sequence[int]], float]
    usual: float
    declared: float | None = None

    # A floor is never this many times the usual one: beyond it there is no need to look.
    _NEVER = 50.0

    def judge(self, ids: Sequence[int], regret: float) -> tuple[Kind, float]:
        """Say what a regret is worth after ids, and the floor that says so."""
        floor = self.usual
        if regret <= MULTIPLE * self.beyond_doubt:
            floor = self.at(ids)
            if regret <= MULTIPLE * floor:
                return Kind.TIE, floor
        if self.declared is not None and regret <= MULTIPLE * self.declared:
            return Kind.WITHIN, self.declared
        return Kind.MISMATCH, floor

    @property
    def beyond_doubt(self) -> float:
        """A floor that is wider than any in the model's own arithmetic."""
        return self._NEVER * self.usual

    @property
    def widest(self) -> float:
        """No floor that could count is wider than this."""
        return max(self.beyond_doubt, self.declared or 0.0)


@dataclass(frozen=True)
class Greedy:
    """The rule of greedy decoding.

    Attributes:
        argmax: the reference's own choice.
        floors: the noise.
    """

    argmax: Callable[[Array], int]
    floors: Floors

    def choose(self, ids: Sequence[int], logits: Array, candidates: Sequence[int], step: int) -> Choice:
        expected = self.argmax(logits)
        if expected in candidates:
            return Choice(expected, Kind.EXACT, expected)
        if not candidates:
            return Choice(None, Kind.MISMATCH, expected, math.inf)
        return self._judge(ids, logits, max(candidates, key=lambda c: float(logits[c])), expected)

    def others(
        self, ids: Sequence[int], logits: Array, candidates: Sequence[int], step: int, taken: Choice
    ) -> list[Choice]:
        """What else of the candidates the program may have chosen, as far as the noise allows."""
        least = float(logits[taken.expected]) - MULTIPLE * self.floors.widest
        near = [c for c in candidates if c != taken.token and float(logits[c]) >= least]
        near.sort(key=lambda c: -float(logits[c]))
        judged = [self._judge(ids, logits, c, taken.expected) for c in near]
        return [choice for choice in judged if choice.kind is not Kind.MISMATCH]

    def _judge(self, ids: Sequence[int], logits: Array, token: int, expected: int) -> Choice:
        best, chosen = float(logits[expected]), float(logits[token])
        kind, floor = self.floors.judge(ids, best - chosen)
        return Choice(token, kind, expected, best - chosen, floor, chosen, best)


@dataclass(frozen=True)
class Sampled:
    """The rule of a seeded draw: step n of the generated tokens uses coin n.

    Attributes:
        sample: the reference's own draw: (logits, coin) to id.
        coins: one for each generated token, in order.
        temperature, topp: of the request.
        floors: the noise.
    """

    sample: Callable[[Array, np.float32], int]
    coins: Sequence[np.float32]
    temperature: float
    topp: float
    floors: Floors

    def choose(self, ids: Sequence[int], logits: Array, candidates: Sequence[int], step: int) -> Choice:
        expected = self.sample(logits, self._coin(step))
        if expected in candidates:
            return Choice(expected, Kind.EXACT, expected)
        if not candidates:
            return Choice(None, Kind.MISMATCH, expected, math.inf)
        possible = self._possible(ids, logits, candidates, step, expected)
        if possible:
            return possible[0]
        token = max(candidates, key=lambda c: float(logits[c]))
        return self._choice(logits, token, expected, Kind.MISMATCH, self.floors.usual)

    def others(
        self, ids: Sequence[int], logits: Array, candidates: Sequence[int], step: int, taken: Choice
    ) -> list[Choice]:
        """What else of the candidates the coin may have drawn, as far as the noise allows."""
        rest = [c for c in candidates if c != taken.token]
        return self._possible(ids, logits, rest, step, taken.expected) if rest else []

    def _possible(
        self, ids: Sequence[int], logits: Array, candidates: Sequence[int], step: int, expected: int
    ) -> list[Choice]:
        """The candidates that some logits within the noise give, most probable first."""
        draw = Draw(logits, temperature=self.temperature, topp=self.topp)
        coin = float(self._coin(step))
        floors = self.floors
        tokens = np.asarray(candidates)
        tokens = tokens[draw.drawable(tokens, floor=floors.widest, coin=coin)]
        if not len(tokens):
            return []
        tokens = tokens[np.argsort(-logits[tokens], kind="stable")]
        ties = draw.drawable(tokens, floor=floors.beyond_doubt, coin=coin)
        floor = 0.0
        if ties.any():  # the exact floor costs some passes, so it is asked only where it could matter
            floor = floors.at(ids)
            ties &= draw.drawable(tokens, floor=floor, coin=coin)
        within = np.zeros(len(tokens), bool)
        if floors.declared is not None:
            within = draw.drawable(tokens, floor=floors.declared, coin=coin)
        found = []
        for token, is_tie, is_within in zip(tokens.tolist(), ties, within, strict=True):
            if is_tie:
                found.append(self._choice(logits, token, expected, Kind.TIE, floor))
            elif is_within and floors.declared is not None:
                found.append(self._choice(logits, token, expected, Kind.WITHIN, floors.declared))
        return found

    def _coin(self, step: int) -> np.float32:
        return self.coins[step] if step < len(self.coins) else np.float32(0)

    @staticmethod
    def _choice(logits: Array, token: int, expected: int, kind: Kind, floor: float) -> Choice:
        best, chosen = float(logits.max()), float(logits[token])
        return Choice(token, kind, expected, best - chosen, floor, chosen, float(logits[expected]))


@dataclass(slots=True)
class Walk:
    """Where the walk got to.

    Attributes:
        ids: the whole sequence, prompt included, as far as it is right.
        choices: one for each token judged by the walk, in order; the last one is the wrong one, if any.
        text: the bytes that were walked.
        used: how many of them the tokens account for.
        wrong: the choice that failed, or None.
        next_id: the reference's next choice where the text, and the silent tokens behind it, ended.
        n_silent: the reference's own choices behind the text that this program would not show.
    """

    ids: list[int]
    text: bytes
    choices: list[Choice] = field(default_factory=list)
    used: int = 0
    wrong: Choice | None = None
    next_id: int | None = None
    n_silent: int = 0

    @property
    def certificates(self) -> list[Certificate]:
        """The proofs of all ties and of what is within the declared precision."""
        first = len(self.ids) - sum(choice.kind is not Kind.MISMATCH for choice in self.choices)
        return [
            Certificate(
                first + i, choice.token, choice.expected, choice.actual_logit, choice.expected_logit, choice.floor
            )
            for i, choice in enumerate(self.choices)
            if choice.token is not None and choice.kind in (Kind.TIE, Kind.WITHIN)
        ]

    @property
    def kind(self) -> Kind:
        kinds = {choice.kind for choice in self.choices}
        for kind in (Kind.MISMATCH, Kind.WITHIN, Kind.TIE):
            if kind in kinds:
                return kind
        return Kind.EXACT


@dataclass(slots=True)
class _Fork:
    """A place to come back to: another token that is a tie with the one that was taken."""

    n_ids: int
    n_choices: int
    used: int
    widthless: int
    choice: Choice


@dataclass(slots=True)
class _Agreed:
    """The ids that a text was found to agree with, to be gone back over in blocks, latest first.

    Attributes:
        ids: the sequence they follow and they themselves.
        first: how many ids precede them.
        left: how many ids are left of which no other reading was tried.
        used: bytes shown before each id, from `first` on.
        widthless: how many zero-width ids end there.
    """

    ids: list[int]
    first: int
    left: int
    used: list[int]
    widthless: list[int]

    def forks(self, session: Session, rule: Rule, printing: Printing, text: bytes, n_generated: int) -> list[_Fork]:
        """Go back to the latest place that can be read otherwise; empty if there is none left."""
        while self.left > self.first:
            begin = max(self.first, self.left - _BLOCK)
            session.truncate(begin - 1)
            rows = session.extend(self.ids[begin - 1 : self.left - 1], all_logits=True)
            while self.left > begin:
                self.left -= 1
                at = self.left - self.first
                before = self.ids[: self.left]
                candidates = printing.candidates(before[-1], text[self.used[at] : self.used[at] + _LONGEST])
                taken = Choice(self.ids[self.left], Kind.EXACT, self.ids[self.left])
                others = rule.others(before, rows[self.left - begin], candidates, n_generated + at, taken)
                if others:
                    return [
                        _Fork(self.left, at, self.used[at], self.widthless[at], other) for other in reversed(others)
                    ]
        return []


def _look_ahead(
    path: Walk,
    logits: Array,
    session: Session,
    printing: Printing,
    rule: Rule,
    n_generated: int,
    max_positions: int,
) -> None:
    """Find what comes behind the text: the reference's choices as long as they are not shown, and the next one."""
    ids = list(path.ids)
    while True:
        path.next_id = rule.choose(ids, logits, range(len(logits)), n_generated + path.n_silent).expected
        is_shown = path.next_id in printing.ends or printing.of(ids[-1], path.next_id)
        if is_shown or path.n_silent >= _MAX_WIDTHLESS or len(ids) >= max_positions:
            return
        ids.append(path.next_id)
        path.n_silent += 1
        logits = session.extend([path.next_id])[-1]


def walk(
    text: bytes,
    ids: Sequence[int],
    *,
    session: Session,
    printing: Printing,
    rule: Rule,
    agreed: Sequence[int] = (),
    n_generated: int = 0,
    max_positions: int = 4096,
) -> Walk:
    """Walk a text that follows `ids`.

    Args:
        text: the bytes printed after those that ids account for.
        ids: the sequence so far, BOS first, already judged.
        session: the reference; fed with ids where it is not yet.
        printing: what the program prints for a token.
        rule: how a choice is judged.
        agreed: right ids that the text begins with; they are followed as long as the text stays right.
        n_generated: how many of ids were generated (the number of coins used).
        max_positions: ids that can be fed (the context): text that needs more of them is wrong.
    """
    path = Walk(list(ids), text)
    known = _Agreed([*ids, *agreed], len(ids), len(ids) + len(agreed), [], [])
    widthless = 0
    for token in agreed:
        known.used.append(path.used)
        known.widthless.append(widthless)
        shown = printing.of(path.ids[-1], token)
        widthless = 0 if shown else widthless + 1
        path.used += len(shown)
        path.choices.append(Choice(token, Kind.EXACT, token))
        path.ids.append(token)
    first_generated = n_generated
    n_generated += len(agreed)
    session.truncate(0)
    logits = session.extend(path.ids[:max_positions])[-1]
    forks: list[_Fork] = []
    n_backtracks = n_retried = 0
    furthest: Walk | None = None
    while True:
        remaining = text[path.used : path.used + _LONGEST]
        is_full = len(path.ids) > max_positions
        if not remaining:
            if not is_full:
                _look_ahead(path, logits, session, printing, rule, n_generated, max_positions)
            return path
        candidates = printing.candidates(path.ids[-1], remaining)
        if widthless >= _MAX_WIDTHLESS:
            candidates = [c for c in candidates if printing.of(path.ids[-1], c)]
        if is_full:
            choice = Choice(None, Kind.MISMATCH, printing.bos_id, math.inf)
        else:
            choice = rule.choose(path.ids, logits, candidates, n_generated)
        if choice.kind is Kind.MISMATCH:
            if furthest is None or path.used > furthest.used:
                furthest = Walk(list(path.ids), text, [*path.choices, choice], path.used, choice)
            if n_backtracks >= _MAX_BACKTRACKS or n_retried > _MAX_RETRIED:
                return furthest
            n_backtracks += 1
            forks = forks or known.forks(session, rule, printing, text, first_generated)
            if not forks:
                return furthest
            fork = forks.pop()
            n_generated -= len(path.ids) - fork.n_ids
            del path.ids[fork.n_ids :], path.choices[fork.n_choices :]
            path.used, widthless, choice = fork.used, fork.widthless, fork.choice
            session.truncate(len(path.ids))
        else:
            forks.extend(
                _Fork(len(path.ids), len(path.choices), path.used, widthless, other)
                for other in reversed(rule.others(path.ids, logits, candidates, n_generated, choice))
            )
        assert choice.token is not None
        shown = printing.of(path.ids[-1], choice.token)
        widthless = 0 if shown else widthless + 1
        path.used += len(shown)
        path.choices.append(choice)
        path.ids.append(choice.token)
        n_generated += 1
        n_retried += n_backtracks > 0
        if len(path.ids) <= max_positions:
            logits = session.extend([choice.token])[-1]
