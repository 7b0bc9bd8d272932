"""The generation loop of llama2.c: forced prompt tokens, then sampled ones, until BOS or the step budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.engine.kv_cache import CacheKind
from harness.engine.model import Engine
from harness.engine.ops import Tap
from harness.engine.ops import forced as plain_forced
from harness.engine.sampler import Xorshift, sample

__all__ = ["clamp_steps", "generate"]

BOS = 1


def clamp_steps(steps: int, seq_len: int) -> int:
    """Positions to run: 0, negative or too many mean the whole context.

    >>> clamp_steps(0, 512), clamp_steps(600, 512), clamp_steps(7, 512)
    (512, 512, 7)
    """
    return seq_len if steps <= 0 or steps > seq_len else steps


def generate(
    engine: Engine,
    prompt_ids: Sequence[int],
    *,
    steps: int,
    temperature: float = 0.0,
    topp: float = 0.9,
    seed: int = 1,
    stop: frozenset[int] = frozenset({BOS}),
    cache: CacheKind = "in-place",
    one_by_one: bool = False,
    taps: Callable[[int, Sequence[int]], Tap] | None = None,
    seen: Callable[[NDArray[Any]], None] | None = None,
) -> Iterator[int]:
    """Yield the token after each position: the rest of the prompt, then what the model says.

    Args:
        prompt_ids: the prompt with its BOS; at least one id.
        steps: forward passes at most, prompt positions included (clamped to the context).
        temperature: rounded to float32; 0 is greedy and draws no random number.
        topp: nucleus size, rounded to float32; outside (0, 1) the whole distribution.
        seed: as on llama2.c's command line (sign-extended from 32 bits).
        stop: ids that end the generation; the stopping id is yielded.
        cache: how keys and values are kept.
        one_by_one: feed the prompt a token at a time instead of as one sequence.
        taps: makes the tap of a call from the position of its first token and its tokens.
        seen: told the logits, (vocab_size,), that a token is about to be chosen from.
    """
    config, ops = engine.config, engine.ops
    temperature, topp = float(np.float32(temperature)), float(np.float32(topp))  # 1e-50 is greedy
    rng = Xorshift.from_argument(seed)
    steps = clamp_steps(steps, config.seq_len)
    session = engine.session(cache=cache, capacity=steps)
    token = prompt_ids[0]
    position = 0
    if not one_by_one and ops.forced is plain_forced and len(prompt_ids) > 1:
        # All forced positions at once; the loop below goes on with the prompt's last token.
        n_forced = min(len(prompt_ids) - 1, steps)
        for at in range(n_forced):
            if ops.draws_coin(config, at, is_forced=True, temperature=temperature):
                rng.coin()
            yield prompt_ids[at + 1]
            if prompt_ids[at + 1] in stop:
                return
        if n_forced == steps:
            return
        session.extend(prompt_ids[:n_forced], tap=taps(0, prompt_ids[:n_forced]) if taps else None)
        token, position = prompt_ids[n_forced], n_forced
    while position < steps:
        logits = session.extend([token], tap=taps(position, [token]) if taps else None)[0]
        follows = ops.forced(config, position, prompt_ids)
        drawn = ops.draws_coin(config, position, is_forced=follows is not None, temperature=temperature)
        coin = rng.coin() if drawn else np.float32(0)
        if follows is None:
            if seen is not None:
                seen(logits)
            if temperature == 0:
                follows = ops.argmax(config, logits)
            else:
                follows = sample(logits, temperature=temperature, topp=topp, coin=coin)
        position += 1
        yield follows
        if follows in stop:
            return
        token = follows
