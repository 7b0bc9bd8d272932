"""What each run asks for: prompts, and lengths that suit the context, the speed and the time that there is."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness import tokenizer
from harness.bench.workload import Workload
from harness.model_config import ModelConfig

__all__ = ["Cost", "Lengths", "Prompt", "guessed_token_s", "lengths", "prompt_of", "shortened"]

_RUN_S = 60.0  # that the tokens of one run may take, by a guess made before anything is measured
_LEAST_LONG = 5  # generated tokens of a long run, however slow they are
# What a slow program reaches: strictly sequential arithmetic out of memory, and a disk.
_MEMORY_BYTES_PER_S, _DISK_BYTES_PER_S = 5e9, 1e9
_LEAST_MORE = 64  # tokens between the short and the long run that a budget leaves at least,
_LEAST_MORE_S = 1.0  # or as many as take this long, and as long as the short run: what start-up varies is little then
_LEAST_ROUNDS = 5  # that a budget is to have room for before runs are made no shorter


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and how many ids it is, BOS included."""

    text: bytes
    n_ids: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """What the runs of a round ask for.

    Attributes:
        n_prompt, n_long_prompt: ids of the two prompts; equal: there is no run with a long one.
        n_short, n_long: generated tokens of the short and the long run.
        contexts: positions up to which further runs go, rising.
    """

    n_prompt: int
    n_long_prompt: int
    n_short: int
    n_long: int
    contexts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a short run of a program, and of one more token."""

    short_s: float
    token_s: float


def guessed_token_s(token_bytes: int, *, in_memory: bool) -> float:
    """Guess the seconds of a token on the safe side, before anything was run."""
    return token_bytes / (_MEMORY_BYTES_PER_S if in_memory else _DISK_BYTES_PER_S)


def lengths(config: ModelConfig, token_s: float = 0.0, contexts: Sequence[int] = ()) -> Lengths:
    """Choose run lengths that fit into the context, far enough apart for tokens to outweigh what start-up varies.

    Args:
        token_s: seconds that a token is guessed to take; where they are many, runs are short.
        contexts: lengths that are wanted; those that the model does not hold, or that no run gets to, are left out.
    """
    most = max(_LEAST_LONG, int(_RUN_S / token_s)) if token_s else config.seq_len
    n_prompt = 8 if config.seq_len >= 64 and token_s < 1 else 4
    room = config.seq_len - n_prompt
    n_long = min(room, most) if config.n_params < 1_000_000 else min(room, most, 256)
    n_short = min(8, max(1, n_long // 4))
    n_long_prompt = max(n_prompt + 1, min(264, config.seq_len // 2, n_prompt + most))
    wanted = sorted({n for n in contexts if n_prompt + n_short - 1 < n <= config.seq_len})
    return Lengths(n_prompt, n_long_prompt, n_short, n_long, tuple(wanted))


def shortened(n: Lengths, costs: Sequence[Cost], rounds: int, left_s: float) -> Lengths:
    """Shorten runs until a few rounds fit into the time that is left, as far as they still tell something.

    The length of contexts is what was asked for, and stays. Where not even one round fits, the long prompt is left
    out.
    """
    telling = [max(_LEAST_MORE_S, cost.short_s) / cost.token_s for cost in costs if cost.token_s > 0]
    least = min(_LEAST_MORE, math.ceil(max(telling))) if telling else _LEAST_MORE
    while min(rounds, _LEAST_ROUNDS) * round_s(costs, n) > left_s and n.n_long - n.n_short >= 2 * least:
        n = replace(
            n,
            n_long=n.n_short + (n.n_long - n.n_short) // 2,
            n_long_prompt=n.n_prompt + max(1, (n.n_long_prompt - n.n_prompt) // 2),
        )
    if round_s(costs, n) > left_s:
        n = replace(n, n_long_prompt=n.n_prompt)
    return n


def round_s(costs: Sequence[Cost], n: Lengths) -> float:
    """Seconds of a round of all programs."""
    short = n.n_prompt + n.n_short - 1  # positions
    n_runs = 2 + (n.n_long_prompt > n.n_prompt) + len(n.contexts)
    more = n.n_long - n.n_short + n.n_long_prompt - n.n_prompt + sum(end - short for end in n.contexts)
    return sum(n_runs * cost.short_s + more * cost.token_s for cost in costs)


def prompt_of(work: Workload, n_ids: int, rng: random.Random) -> Prompt:
    """Draw a prompt of exactly n_ids ids for a synthetic model, of about as many for a real one."""
    if work.is_synthetic:
        letters = bytes(rng.choice(b"abcdefghijklmnopqrstuvwxyz") for _ in range(max(0, n_ids - 2)))
        return Prompt(letters, len(letters) + 2 if letters else 1)
    words = tokenizer.read_any(work.files.tokenizer, work.config.vocab_size)
    text = ""
    while True:
        longer = f"{text} {rng.choice(_STORY)}".strip()
        ids = words.encode(longer)
        if len(ids) > n_ids and text:
            return Prompt(text.encode(), len(words.encode(text)))
        text = longer
        if len(ids) >= n_ids:
            return Prompt(text.encode(), len(ids))


# Enough of these in any order make a prompt that a model of children's stories goes on from.
_STORY = (
    *("Once", "upon", "a", "time", "there", "was", "a", "little", "girl", "who", "had", "a", "big", "red", "ball"),
    *("One", "day", "Tom", "and", "his", "friend", "Lily", "went", "to", "the", "park", "and", "saw", "the", "dog"),
    *("They", "like", "to", "play", "with", "cars", "books", "blocks", "very", "happy", "because", "the", "sun"),
)
