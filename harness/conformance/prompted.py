"""Texts with their ids, put as prompts to a program that only prints: a part of what the line protocol would show.

The echo of the prompt and the tokens after it are judged as any run is. Ids that print alike and lead into the same
text cannot be told apart, and each text costs a run, so that few are put: whatever comes of it is called partial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.conformance.case import Case
from harness.conformance.claim import plain_verdict
from harness.conformance.reference import Reference
from harness.conformance.rows import is_text
from harness.engine import generate
from harness.results import Kind, Verdict

__all__ = ["GENERATED", "NO_PROMPTS", "PARTIAL", "can_be_prompt", "runs_of", "verdict_of"]

GENERATED = 36
"""Tokens after each prompt: enough to be judged."""

NO_PROMPTS = "no text of it can be a prompt of a program that only prints"
PARTIAL = "partial: the tokenizer is judged by the text after some prompts (`harness tokenizer` puts more)"
_RUNS = 3  # texts of a case that are put
_PROMPT_BYTES = 120
_GREENS = (Kind.EXACT, Kind.TIE, Kind.WITHIN)


def can_be_prompt(text: bytes) -> bool:
    """Whether a text can stand on any program's command line, and is short."""
    return 0 < len(text) <= _PROMPT_BYTES and not text.startswith(b"-") and is_text(text)


def runs_of(case: Case, reference: Reference) -> list[Case]:
    """Make runs of some texts of a case of mode "encode", answered by the reference; none, if it has no fit text."""
    vocabulary, seq_len = reference.model.vocabulary, reference.config.seq_len
    fit = [one for one in case.texts if can_be_prompt(one.text) and len(one.ids) - 1 + GENERATED <= seq_len]
    runs = []
    for n, one in enumerate(fit[i * len(fit) // _RUNS] for i in range(min(_RUNS, len(fit)))):
        steps = len(one.ids) - 1 + GENERATED
        ids = tuple(generate(reference.exact, one.ids, steps=steps, stop=vocabulary.stop_ids))
        ends = "steps"
        if len(ids) >= len(one.ids) and ids[-1] in vocabulary.stop_ids:
            ends = "bos" if ids[-1] == one.ids[0] else "eos"
        run = replace(
            case,
            name=f"{case.name}-{n}",
            mode="generate",
            prompt=one.text,
            steps=steps,
            temperature=0.0,
            prompt_ids=one.ids,
            ids=ids,
            stdout=vocabulary.print_text([one.ids[0], *ids]) + b"\n",
            ends=ends,
            texts=(),
            decoded=(),
        )
        runs.append(run)
    return runs


def verdict_of(case: Case, impl: str, found: Sequence[Verdict]) -> Verdict:
    """Make one verdict of those on the runs of a case: a wrong tokenizer, else what is not green, else what is."""
    wrong = [one for one in found if one.tokenizer is Kind.MISMATCH]
    bad = wrong or [one for one in found if not one.kind.is_green]
    share = f"{len(found)} of its {len(case.texts)} texts were put, as prompts"
    if bad:
        first = bad[0]
        kind = Kind.MISMATCH if wrong else first.kind
        return replace(
            first,
            case=case.name,
            kind=kind,
            reason=f"{first.reason}; {len(bad)} prompts of {len(found)}; partial: {share}",
            n_judged=sum(one.n_judged for one in found),
            levels=(("TEXT", kind),),
        )
    kind = max((one.kind for one in found), key=_GREENS.index)
    return replace(
        plain_verdict(case, impl, kind, f"partial: {share}"),
        tokenizer=Kind.EXACT,
        conventions=(*dict.fromkeys(convention for one in found for convention in one.conventions), PARTIAL),
        n_judged=sum(one.n_judged for one in found),
        wall_s=sum(one.wall_s for one in found),
        peak_rss_bytes=max(one.peak_rss_bytes for one in found),
        levels=(("TEXT", kind),),
    )
