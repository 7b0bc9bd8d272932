"""What can be left out of a question: candidates, each smaller than it in one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from harness.conformance.fuzz.recipe import Ask
from harness.conformance.fuzz.trial import Asked, Subject
from harness.conformance.shrink.repro import READABLE, Repro
from harness.diagnosis import shrink as parts
from harness.models import Model
from harness.results import Verdict

__all__ = ["candidates"]

Redrawn = Callable[[Model], Model]

_REDRAWN = 3  # models drawn anew for each shape that the cut model does not fail on
# Layers, key/value heads, query heads to each, rotary pairs, hidden units: small models that are tried at once.
_BOLD = ((1, 1, 1, 1, 1), (1, 1, 1, 2, 4), (2, 1, 2, 2, 4), (2, 2, 2, 2, 8))
_FEW = 24  # single pieces, or characters, that are left out one by one


def candidates(repro: Repro, found: Asked, subject: Subject, redrawn: Redrawn) -> Iterator[Repro]:
    """Yield smaller questions, the boldest first.

    Args:
        found: the verdict on this one.
        redrawn: a model of the same dimensions and vocabulary, its weights drawn anew.
    """
    yield from _shorter_runs(repro, found.verdict)
    yield from _smaller_models(repro, redrawn)
    yield from _smaller_vocabularies(repro, subject, redrawn)
    yield from _shorter_prompts(repro)
    if repro.ask.n > 1:
        yield _of_tokens(repro, repro.ask.n - 1)
    if repro.ask.temperature != 0:
        yield replace(repro, ask=Ask(repro.ask.n))
    if not repro.config.is_tied:
        yield replace(repro, model=parts.tied(repro.model))
    if repro.config.n_params < READABLE:
        for plain in parts.plainer(repro.model):
            yield replace(repro, model=plain)


def _smaller_models(repro: Repro, redrawn: Redrawn) -> Iterator[Repro]:
    full = parts.whole(repro.config)
    for layers, kv_heads, queries, pairs, hidden in _BOLD:
        kept = parts.first_of(
            repro.config, layers=layers, kv_heads=kv_heads, queries=queries, pairs=pairs, hidden=hidden
        )
        if kept != full:
            yield from _cut_or_redrawn(repro, kept, redrawn)
    for kept in parts.shapes_below(repro.config):
        yield from _cut_or_redrawn(repro, kept, redrawn)


def _cut_or_redrawn(repro: Repro, kept: parts.Kept, redrawn: Redrawn) -> Iterator[Repro]:
    smaller = parts.cut(repro.model, kept)
    yield replace(repro, model=smaller)
    for _ in range(_REDRAWN):
        yield replace(repro, model=redrawn(smaller))


def _smaller_vocabularies(repro: Repro, subject: Subject, redrawn: Redrawn) -> Iterator[Repro]:
    known = repro.model.tokenizer
    case = subject.golden(repro.prompt_ids, repro.ask)
    used = parts.used_pieces(repro.model, case.ids or (), repro.prompt)
    plain = list(range(3, known.vocab_size))
    used_in_prompt = parts.used_pieces(repro.model, (), repro.prompt)
    for keep in (used_in_prompt, used, {*used, *plain[: len(plain) // 2]}, {*used, *plain[len(plain) // 2 :]}):
        if len(keep) < known.vocab_size:
            smaller = parts.fewer_pieces(repro.model, keep)
            yield replace(repro, model=smaller)
            for _ in range(_REDRAWN):
                yield replace(repro, model=redrawn(smaller))
    for one in plain[-1 : -_FEW - 1 : -1]:
        smaller = parts.fewer_pieces(repro.model, [i for i in plain if i != one])
        if smaller.tokenizer.vocab_size < known.vocab_size:
            yield replace(repro, model=smaller)


def _shorter_runs(repro: Repro, verdict: Verdict) -> Iterator[Repro]:
    """Fewer tokens, and a context that holds no more than the run."""
    n = repro.ask.n
    shorter = [1, n // 2]
    if verdict.divergence is not None:
        shorter.insert(0, verdict.divergence.step + 1)
    for fewer in shorter:
        if 0 < fewer < n:
            yield _of_tokens(repro, fewer)
    yield _fitted(repro)


def _of_tokens(repro: Repro, n: int) -> Repro:
    return _fitted(replace(repro, ask=replace(repro.ask, n=n)))


def _fitted(repro: Repro) -> Repro:
    """Cut the context to the run."""
    wanted = max(1, repro.n_positions)
    if wanted >= repro.config.seq_len:
        return repro
    return replace(repro, model=parts.shorter_context(repro.model, wanted))


def _shorter_prompts(repro: Repro) -> Iterator[Repro]:
    text = repro.prompt.decode("utf-8", "surrogateescape")
    if not text:
        return
    half = len(text) // 2
    shorter = ["", text[:half], text[half:], *(text[:i] + text[i + 1 :] for i in range(min(len(text), _FEW)))]
    for one in dict.fromkeys(shorter):
        if one != text:
            yield _fitted(replace(repro, prompt=one.encode("utf-8", "surrogateescape")))
