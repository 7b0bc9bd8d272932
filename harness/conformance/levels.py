"""Levels beyond text: cases put to a program through the line protocol, and one verdict from all its levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.adapters.implementation import Implementation
from harness.adapters.process import Limits
from harness.adapters.protocol import Session
from harness.conformance.case import Case
from harness.conformance.claim import plain_verdict
from harness.conformance.judge_ids import IdClaim
from harness.conformance.reference import Reference
from harness.engine import clamp_steps
from harness.errors import ImplementationError, ProtocolViolation, Unsupported
from harness.models import ModelFiles
from harness.results import Kind, Observation, Request, Verdict

__all__ = ["LEVELS", "ask", "merged"]

LEVELS = ("TEXT", "TOKENS", "LOGITS")
_MAX_LOGITS = 1 << 22  # numbers in one reply: 32 MiB of text
_MAX_LOST = 3  # times in a row that a program is started anew, before the rest is BLOCKED


def ask(
    cases: Sequence[Case],
    impl: Implementation,
    files: ModelFiles,
    reference: Reference,
    *,
    levels: Sequence[str] = ("TOKENS",),
    limits: Limits | None = None,
    threads: int = 1,
) -> list[IdClaim | Verdict]:
    """Put cases to a program, all in one session: prompts to encode, honest prompt ids to continue, logits to give.

    Args:
        cases: of one model, none of them a chat.
        files: that the program is given.
        reference: the model as the judge sees it.
        levels: TOKENS, LOGITS or both.

    Returns:
        For each case a claim, or a verdict where there is none: BLOCKED, after the program was lost several times in
        a row.
    """
    config = reference.config
    shape = (impl.manifest.needs.vocab_size or config.vocab_size, config.seq_len)
    vocabulary = reference.model.vocabulary
    found: list[IdClaim | Verdict] = []
    n_lost = 0
    with impl.session(files.checkpoint, files.tokenizer, threads=threads, limits=limits, shape=shape) as session:
        session.stops = vocabulary.stop_ids | {vocabulary.eos_id}
        for case in cases:
            if n_lost >= _MAX_LOST:
                reason = f"{n_lost} cases before it could not be asked; not asked"
                found.append(plain_verdict(case, impl.name, Kind.BLOCKED, reason))
                continue
            claim = _ask(case, case.request(files, threads), reference, session)
            if "LOGITS" in levels:
                _ask_logits(claim, reference, session)
            failure = claim.seen.failure
            n_lost = n_lost + 1 if failure is not None and not isinstance(failure, Unsupported) else 0
            found.append(claim)
        try:
            session.quit()
        except ImplementationError as failure:
            last = found[-1]
            if isinstance(last, IdClaim) and last.seen.failure is None and isinstance(failure, ProtocolViolation):
                last.seen = replace(last.seen, failure=failure)
    return found


def _ask(case: Case, request: Request, reference: Reference, session: Session) -> IdClaim:
    """Put one case; what goes wrong is the claim's failure."""
    encoded: list[int] | None = None
    generated: list[int] = []
    failure: ImplementationError | None = None
    before = session.waited_s
    prompt_ids = case.prompt_ids
    n = clamp_steps(case.steps, reference.config.seq_len) - (len(prompt_ids) - 1)
    asked = ""
    try:
        try:
            encoded = session.encode(case.prompt or b"")
        except Unsupported:
            encoded = None
        if encoded != list(prompt_ids):
            asked = session.reproduce
        if n > 0:
            generated = session.generate(prompt_ids, n, temperature=case.temperature, topp=case.topp, seed=case.seed)
    except ImplementationError as error:
        failure = error
    seen = Observation(
        command=(),
        cwd="",
        stdout=b"",
        stderr_tail=session.stderr_tail,
        failure=failure,
        wall_s=session.waited_s - before,
        peak_rss_bytes=session.peak_rss_bytes,
    )
    return IdClaim(case, seen, request, encoded=encoded, generated=generated, asked=asked or session.reproduce)


def _ask_logits(claim: IdClaim, reference: Reference, session: Session) -> None:
    """Ask for the logits of a golden sequence, of as many of its last positions as fit."""
    case, config = claim.case, reference.config
    claim.fed = list(case.prompt_ids if case.ids is None else [case.prompt_ids[0], *case.ids[:-1]])[: config.seq_len]
    claim.first = max(0, len(claim.fed) - _MAX_LOGITS // config.vocab_size)
    try:
        claim.logits = session.logits(claim.fed, first=claim.first)[:, : config.vocab_size]
    except ImplementationError as failure:
        claim.logits = failure
    claim.asked_logits = session.reproduce


def merged(found: Mapping[str, Verdict]) -> Verdict:
    """Return one verdict on a case from those of several levels, by level.

    A failure at any level is the verdict; where several levels fail, that of token ids, which leave nothing to guess,
    and the others are told in its reason. Where none fails, what a poorer level could not judge does not count beside
    a richer one that is green, and the least exact of the green ones is the verdict.
    """
    levels = tuple((level, found[level].kind) for level in LEVELS if level in found)
    if len(levels) == 1:
        return replace(found[levels[0][0]], levels=() if levels[0][0] == "TEXT" else levels)
    failed = [level for level in ("TOKENS", "LOGITS", "TEXT") if level in found and found[level].kind.is_failure]
    green = [level for level, kind in levels if kind.is_green]
    if failed:
        decides = failed[0]
    elif green:
        order = (Kind.EXACT, Kind.TIE, Kind.WITHIN)
        decides = max(green, key=lambda level: order.index(found[level].kind))
    else:
        decides = next((level for level, kind in levels if kind is Kind.INCONCLUSIVE), levels[0][0])
    verdict = found[decides]
    others = [
        f"{level} {found[level].kind}" + (f": {found[level].reason}" if found[level].reason else "")
        for level, kind in levels
        if level != decides and (failed or not kind.is_green)
    ]
    reason = "; ".join([f"{decides}: {verdict.reason}" if verdict.reason else "", *others]).removeprefix("; ")
    return replace(
        verdict,
        reason=reason if failed or others or verdict.reason else "",
        n_judged=max(one.n_judged for one in found.values()),
        conventions=tuple(dict.fromkeys(how for level, _ in levels for how in found[level].conventions)),
        wall_s=found[levels[0][0]].wall_s,
        peak_rss_bytes=max(one.peak_rss_bytes for one in found.values()),
        reported_tps=next((one.reported_tps for one in found.values() if one.reported_tps is not None), None),
        levels=levels,
    )
