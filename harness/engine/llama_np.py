"""llama-np's way of choosing tokens: uniformly among the likeliest, with Python's own generator.

Source: behaviour of llama-np. Logits are divided by the temperature and put through softmax in float32; the ids, the
likeliest first, are kept up to and with the one at which the running sum reaches top-p; then `random.randint` takes
one of them, whatever their probabilities are. A seed is Python's, so the ids are the same on every machine whose kept
sets agree. Temperature 0 takes the likeliest and draws nothing.

The length bounds positions, not new tokens, in a way of its own: the whole prompt counts as one step, so a prompt of
P ids and a length of N give 1 + max(0, N - P) new ids. The length may exceed the trained context. BOS does not end a
text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.engine.kv_cache import CacheKind
from harness.engine.model import Engine

__all__ = ["Choice", "choose", "generate_uniform"]

_EOS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A chosen token and what it was chosen from.

    Attributes:
        token: the id.
        candidates: ids that could have been chosen, the likeliest first; of a greedy choice, the one.
        probabilities: theirs, float32, among all ids.
    """

    token: int
    candidates: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


def choose(logits: npt.NDArray[Any], temperature: float, topp: float, source: random.Random) -> Choice:
    """Choose a token from one row of logits, (vocab_size,).

    >>> logits = np.log(np.array([0.1, 0.6, 0.3], np.float32))
    >>> choose(logits, 1.0, 0.65, random.Random(34)).candidates.tolist()
    [1, 2]
    """
    scaled = logits.astype(np.float32) / np.float32(temperature or 1)
    p = np.exp(scaled - scaled.max())
    p /= p.sum(dtype=np.float32)
    if temperature == 0:
        best = np.array([int(logits.argmax())])
        return Choice(int(best[0]), best, p[best])
    order = np.argsort(-p, kind="stable")
    reached = np.cumsum(p[order], dtype=np.float32) >= np.float32(topp)
    last = int(reached.argmax()) if reached.any() else len(order) - 1
    kept = order[: last + 1]
    return Choice(int(kept[source.randint(0, last)]), kept, p[kept])


def generate_uniform(
    engine: Engine,
    prompt_ids: Sequence[int],
    *,
    length: int,
    temperature: float = 0.6,
    topp: float = 0.9,
    seed: int | None = None,
    stop: frozenset[int] = frozenset({_EOS}),
    cache: CacheKind = "in-place",
    one_by_one: bool = False,
) -> Iterator[Choice]:
    """Yield the choice after the prompt, and after every token that was chosen.

    Args:
        prompt_ids: the prompt with its BOS; at least one id.
        length: bound of the positions, as above; at least 1.
        temperature: 0 is greedy.
        topp: above 0 and at most 1.
        seed: Python's; None: another one each time.
        stop: ids that end the text; the stopping one is yielded.
        cache: how keys and values are kept.
        one_by_one: feed the prompt a token at a time; gives the same choices.
    """
    source = random.Random(seed)
    session = engine.session(cache=cache, capacity=max(length, len(prompt_ids)) + 1)
    fed: Sequence[int] = prompt_ids
    if one_by_one:
        for token in prompt_ids[:-1]:
            session.extend([token])
        fed = prompt_ids[-1:]
    position = len(prompt_ids)
    while True:
        choice = choose(session.extend(fed)[-1], temperature, topp, source)
        yield choice
        if choice.token in stop or position >= length:
            return
        fed = [choice.token]
        position += 1
