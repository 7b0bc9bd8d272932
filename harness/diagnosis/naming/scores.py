"""Scores: how well a port explains known tokens, all of them in one teacher-forced pass.

The *margin* of a token is its logit minus the largest other one: positive where the port would choose it. Programs of
the same function move logits by a little, so a small negative margin may still be noise. With noise of size s the
log-likelihood of a token is that of a logistic draw, -log(1 + exp(-1.2 m / s)): nothing where the margin is large,
linear in the regret where it is negative. The size is what fits best, from the noise floor of the model's own
arithmetic up to that of the coarsest precision that a port may honestly have.

Margins are taken in units in which a port's logits spread as those of a right one do: a fault that makes all logits
small makes all margins small, and explains nothing by it. Of a sampled token the margin is infinite where the known
coin draws it, else minus the noise that would be needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.naming.evidence import Noise
from harness.diagnosis.port import Port, Request
from harness.diagnosis.sampling import SAMPLER
from harness.engine import LIBRARY, Engine
from harness.engine.consumers import Rows
from harness.engine.ops import Ops
from harness.judging.floor import MULTIPLE
from harness.judging.sampling import Draw
from harness.model_config import ModelConfig

__all__ = [
    "FEW",
    "SHARE",
    "WORST",
    "Chooser",
    "Trial",
    "explained",
    "fitted",
    "level",
    "margins",
    "scale_of",
    "spread_of",
]

Array = npt.NDArray[Any]

WORST = -30.0
"""What one token can speak against a hypothesis at the most, in nats: one misread token must not decide all."""

FEW, SHARE = 3, 0.1
"""Of so many choices, and of this share of all, noise may turn."""

_HOPELESS = 8  # sampled tokens that no noise explains, after which nobody asks any more what noise would
_ROUNDING = 2.0**-23  # of a probability in float32, and so of a logit at temperature 1
_SLOPE = 1.2  # 1.702 / sqrt(2): a logistic is a normal distribution to within 1 %, and two logits move


@dataclass(frozen=True, slots=True)
class Trial:
    """A sequence whose tokens are to be explained.

    Attributes:
        request: that it answers.
        prompt_ids: what was fed first.
        ids: those and the tokens after them.
        accepted: ids of which the next token is one; empty where nothing is known of it.
    """

    request: Request
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    accepted: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        """Tokens to be explained."""
        return max(0, len(self.ids) - len(self.prompt_ids)) + bool(self.accepted)


class Chooser:
    """A port's choice at each step of one run, given the logits there.

    Attributes:
        is_greedy: whether the likeliest token is taken.
        is_honest: whether coins and their use are llama2.c's, so that noise can be allowed for.
    """

    def __init__(self, port: Port, request: Request, n_prompt: int, config: ModelConfig, n_steps: int) -> None:
        self._config = config
        self._sampler = port.sampler
        self._ops = replace(LIBRARY, **port.ops)
        self.temperature, self.topp = port.sampler.settings(request.temperature, request.topp)
        self.is_greedy = port.sampler.is_greedy(self.temperature, self.topp)
        self.is_honest = port.sampler == SAMPLER and not {"draws_coin", "argmax"} & set(port.ops)
        self.coins = [] if self.is_greedy else self._coins(request, n_prompt, n_steps)

    def _coins(self, request: Request, n_prompt: int, n_steps: int) -> list[np.float32]:
        """One for each generated token, in order."""
        sampler, ops = self._sampler, self._ops
        state = sampler.seeded(request.seed, request.clock)
        found: list[np.float32] = []
        for position in range(n_prompt - 1 + n_steps):
            is_forced, coin = position + 1 < n_prompt, np.float32(0)
            temperature = self.temperature or 1.0
            if ops.draws_coin(self._config, position, is_forced=is_forced, temperature=temperature):
                state, coin = sampler.draw(state)
            if not is_forced:
                found.append(coin)
        return found

    def token(self, row: Array, step: int) -> int:
        """The id that is chosen after a row of logits."""
        if self.is_greedy:
            return self._ops.argmax(self._config, row)
        return self._sampler.sample(row, self.temperature, self.topp, self.coins[step])

    def needed(
        self, row: Array, step: int, tokens: Sequence[int], floors: Sequence[float], scale: float = 1.0
    ) -> list[float]:
        """For each of some tokens, the first of rising noise floors at which the coin may draw it; infinite if none.

        Args:
            scale: of the logits, by which floors are divided; however small logits are, probabilities are rounded.
        """
        out = np.full(len(tokens), math.inf)
        if len(tokens) and self.is_honest and not self.is_greedy and np.isfinite(row).all():
            draw = Draw(row, temperature=self.temperature, topp=self.topp)
            coin = float(self.coins[step])
            for floor in reversed(floors):
                least = _ROUNDING * self.temperature
                out[draw.drawable(np.asarray(tokens), floor=max(floor / scale, least), coin=coin)] = floor
        return [float(floor) for floor in out]


def _rows(engine: Engine, trials: Sequence[Trial]) -> list[Array]:
    """The logits that choose the tokens of trials, (n, vocab_size) for each."""
    kept = Rows(sum(trial.n for trial in trials), engine.config.vocab_size, engine.dtype)
    fed = [trial.ids if trial.accepted else trial.ids[:-1] for trial in trials]
    engine.score(fed, kept, first=[len(trial.prompt_ids) - 1 for trial in trials])
    return np.split(kept.logits, np.cumsum([trial.n for trial in trials])[:-1])


@np.errstate(all="ignore")
def _spread(rows: Array) -> float:
    """How far logits lie apart, as a standard deviation over the vocabulary, typical of some rows."""
    found = rows.astype(np.float64).std(axis=1)
    return float(np.median(found[np.isfinite(found)])) if np.isfinite(found).any() else 0.0


def scale_of(usual: float, own: float) -> float:
    """By how much logits are smaller than usual, given their spreads; infinite if all are alike: no noise is."""
    return usual / own if own else math.inf


@np.errstate(all="ignore")
def spread_of(engine: Engine, ids: Sequence[int]) -> float:
    """How far an engine's logits lie apart along a sequence."""
    return _spread(engine.logits(list(ids)))


@np.errstate(all="ignore")  # many a fault divides by zero
def margins(port: Port, engine: Engine, trials: Sequence[Trial], noise: Noise, *, usual: float = 0.0) -> Array:
    """Return the margins of all tokens of some trials, one after another.

    Args:
        engine: the forward pass of the port.
        noise: the sizes that are tried for sampled tokens.
        usual: the spread of a right port's logits; 0 leaves margins as they are.
    """
    trials = [trial for trial in trials if trial.n]
    if not trials:
        return np.zeros(0)
    rows = _rows(engine, trials)
    scale = scale_of(usual, _spread(np.concatenate(rows))) if usual else 1.0
    return np.concatenate(
        [_margins(port, engine.config, *pair, noise, scale) for pair in zip(trials, rows, strict=True)]
    )


def _margins(port: Port, config: ModelConfig, trial: Trial, rows: Array, noise: Noise, scale: float) -> Array:
    targets = trial.ids[len(trial.prompt_ids) :]
    chooser = Chooser(port, trial.request, len(trial.prompt_ids), config, len(rows))
    if chooser.is_greedy and chooser.is_honest:
        ops = replace(LIBRARY, **port.ops)
        if math.isinf(scale):
            return np.array([_chosen(ops, config, rows, targets, trial.accepted, step) for step in range(len(rows))])
        return scale * _by_logits(ops, config, rows, targets, trial.accepted)
    floors = [floor for _, floor in noise.levels]
    out = np.empty(len(rows))
    n_hopeless = 0
    for step, row in enumerate(rows):
        wanted = (targets[step],) if step < len(targets) else trial.accepted
        if chooser.token(row, step) in wanted:
            out[step] = math.inf
        else:
            needed = min(chooser.needed(row, step, wanted, floors, scale)) if n_hopeless < _HOPELESS else math.inf
            n_hopeless += math.isinf(needed)
            out[step] = -MULTIPLE * needed
    return out


def _by_logits(ops: Ops, config: ModelConfig, rows: Array, targets: Sequence[int], accepted: Sequence[int]) -> Array:
    """Margins of greedy choices."""
    n = len(targets)
    index = np.arange(n)
    others = rows.astype(np.float64)
    own = np.empty(len(rows))
    own[:n] = others[index, targets]
    others[index, targets] = -np.inf
    if len(rows) > n:
        ids = np.asarray(accepted)
        own[n] = others[n, ids].max()
        others[n, ids] = -np.inf
    out: Array = own - others.max(axis=1)
    for step in np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist():  # what NaN loses to is the port's affair
        out[step] = _chosen(ops, config, rows, targets, accepted, step)
    return out


def _chosen(
    ops: Ops, config: ModelConfig, rows: Array, targets: Sequence[int], accepted: Sequence[int], step: int
) -> float:
    """The margin of a choice in which logits have no say."""
    wanted = (targets[step],) if step < len(targets) else accepted
    return math.inf if ops.argmax(config, rows[step]) in wanted else -math.inf


def _likelihood(found: Array, size: float) -> float:
    """The log-likelihood of tokens of these margins under noise of one size, in nats."""
    with np.errstate(over="ignore", invalid="ignore"):
        cost = -np.logaddexp(0.0, -_SLOPE * found / size)
    return float(np.maximum(cost, WORST).sum())


def fitted(found: Array, noise: Noise) -> float:
    """The log-likelihood under noise of the size that fits best."""
    least, most = max(noise.own, 1e-7), max(noise.levels[-1][1], noise.own, 1e-7)
    n = 1 + math.ceil(math.log2(most / least))
    return max(_likelihood(found, min(least * 2.0**i, most)) for i in range(n + 1))


def explained(found: Array, floor: float) -> Array:
    """Which tokens are what would be chosen, up to noise of that floor."""
    out: Array = found >= -MULTIPLE * floor
    return out


def level(found: Array, noise: Noise, *, missed: int = 0) -> str | None:
    """The finest precision whose noise explains all tokens: "" for the model's own, None if none does.

    Noise turns few choices; where many are turned, each by little, that is another function.

    Args:
        missed: tokens that need not be explained.
    """
    turned = int((found < 0).sum())
    for name, floor in noise.levels:
        if int((~explained(found, floor)).sum()) <= missed and turned <= FEW + SHARE * len(found):
            return name
    return None
