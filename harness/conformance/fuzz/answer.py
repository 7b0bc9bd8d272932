"""A question about any model as a golden case, answered by the reference on the spot."""

from __future__ import annotations

from collections.abc import Sequence

from harness.conformance.case import Case, ModelRef, Provenance
from harness.conformance.fuzz.recipe import Ask
from harness.conformance.reference import Reference
from harness.engine import generate

__all__ = ["SUITE", "golden"]

SUITE = "fuzz"


def golden(reference: Reference, prompt: Sequence[int], ask: Ask) -> Case:
    """Make a golden case of an ask, answered by the reference.

    Args:
        prompt: its ids, BOS first.
    """
    tokenizer, n_prompt = reference.model.tokenizer, len(prompt)
    steps = min(n_prompt - 1 + ask.n, reference.config.seq_len)
    ids = list(
        generate(reference.exact, prompt, steps=steps, temperature=ask.temperature, topp=ask.topp, seed=ask.seed)
    )
    return Case(
        name="sampled" if ask.temperature else "greedy",
        suite=SUITE,
        tags=(),
        why="a generated model",
        model=ModelRef(SUITE, "", "", ""),
        mode="generate",
        prompt=tokenizer.decode(list(prompt)),
        steps=steps,
        temperature=ask.temperature,
        topp=ask.topp,
        seed=ask.seed,
        system=None,
        stdin=b"",
        prompt_ids=tuple(prompt),
        ids=tuple(ids),
        stdout=tokenizer.print_text([prompt[0], *ids]) + b"\n",
        ends="bos" if len(ids) >= n_prompt and ids[-1] == tokenizer.bos_id else "steps",
        margins=(),
        provenance=Provenance("float64 reference"),
    )
