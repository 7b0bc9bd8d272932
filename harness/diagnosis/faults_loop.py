"""Faults of the loop: prompts, steps and what ends a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from harness.diagnosis.fault import Fault, loop, ops, printer
from harness.diagnosis.port import PortCrashed
from harness.engine import clamp_steps
from harness.model_config import ModelConfig

__all__ = ["LOOP"]


def _forced_one_short(config: ModelConfig, pos: int, prompt: Sequence[int]) -> int | None:
    return prompt[pos + 1] if pos + 2 < len(prompt) else None


def _forced_one_long(config: ModelConfig, pos: int, prompt: Sequence[int]) -> int | None:
    if pos + 1 == len(prompt):
        raise PortCrashed("it reads behind the end of the prompt")
    return prompt[pos + 1] if pos + 1 < len(prompt) else None


def _with_the_stop(fed: Sequence[int], stops: frozenset[int]) -> Iterator[tuple[int, int]]:
    yield from pairwise(fed)


LOOP = (
    Fault(
        "steps-without-prompt",
        "loop",
        "a prompted run prints -n tokens and the prompt besides",
        "steps count new tokens only",
        "steps are positions: the prompt's count too",
        loop(
            n_positions=lambda steps, n_prompt, config: clamp_steps(
                clamp_steps(steps, config.seq_len) + n_prompt - 1, config.seq_len
            )
        ),
        as_if="-n counted new tokens only",
    ),
    Fault(
        "steps-count-bos",
        "loop",
        "every run is one token short",
        "BOS counts as the first of the steps",
        "a step is one forward pass, and BOS's prints the first token",
        loop(n_positions=lambda steps, n_prompt, config: clamp_steps(steps, config.seq_len) - 1),
        as_if="BOS counted as the first of the -n steps",
    ),
    Fault(
        "steps-unclamped",
        "loop",
        "runs beyond the context: a cache overrun, or nonsense after seq_len tokens",
        "-n is used as it is",
        "at most seq_len",
        loop(n_positions=lambda steps, n_prompt, config: steps if steps > 0 else config.seq_len),
        as_if="-n were not cut to seq_len",
    ),
    Fault(
        "steps-zero-nothing",
        "loop",
        "-n 0 prints nothing",
        "0 steps are no steps",
        "0 means the whole context",
        loop(n_positions=lambda steps, n_prompt, config: min(max(steps, 0), config.seq_len)),
        as_if="-n 0 meant no step at all",
    ),
    Fault(
        "stops-at-eos",
        "loop",
        "a run goes on behind BOS, and ends at EOS",
        "the run ends at id 2",
        "at BOS, id 1; EOS is printed like any other piece",
        loop(stops_at=lambda tokenizer: frozenset({tokenizer.eos_id})),
        as_if="the run ended at EOS (id 2) and not at BOS (id 1)",
    ),
    Fault(
        "stops-at-eos-too",
        "loop",
        "a run that produces EOS is shorter than it should be",
        "the run ends at ids 1 and 2",
        "at BOS only, as llama2.c (most programs stop at EOS; say so in the manifest)",
        loop(stops_at=lambda tokenizer: frozenset({tokenizer.bos_id, tokenizer.eos_id})),
        as_if="the run ended at EOS (id 2) as well as at BOS (id 1)",
    ),
    Fault(
        "bos-does-not-stop",
        "loop",
        "a run goes on behind the end of a story, with the next one",
        "nothing ends the run but the steps",
        "end it when BOS is the next token",
        loop(stops_at=lambda tokenizer: frozenset()),
        as_if="BOS (id 1) did not end the run",
    ),
    Fault(
        "bos-printed",
        "loop",
        "<s> between empty lines at the end",
        "the stop is tested after printing",
        "test before printing",
        printer(printed_ids=_with_the_stop),
        as_if="the BOS that ends the run were printed",
    ),
    Fault(
        "forced-one-short",
        "loop",
        "the last token of the prompt is replaced by a sampled one",
        "pos < n_prompt - 2 decides whether the prompt goes on",
        "pos < num_prompt_tokens - 1",
        ops(forced=_forced_one_short),
        as_if="the prompt ended one token early: pos < num_prompt_tokens - 2",
    ),
    Fault(
        "forced-one-long",
        "loop",
        "a crash, or a stray token, after the prompt",
        "pos < n_prompt decides whether the prompt goes on",
        "pos < num_prompt_tokens - 1",
        ops(forced=_forced_one_long),
        as_if="the prompt went on one token too long: pos < num_prompt_tokens",
    ),
    Fault(
        "newline-missing",
        "loop",
        "the shell's prompt follows the text directly",
        "no newline is printed at the end",
        "print one always",
        printer(ending=b""),
        as_if="no newline were printed at the end",
    ),
    Fault(
        "speed-on-stdout",
        "loop",
        "a line about tokens per second ends the text",
        "the speed is printed to stdout",
        "print it to stderr",
        printer(ending=b"\nachieved tok/s: 123.456789\n"),
        as_if="the speed were printed to stdout",
    ),
)
