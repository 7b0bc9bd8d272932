"""Judge of the goldens that hold no run: texts with their ids, and fingerprints of logits, asked by line protocol.

The reference is only asked whether it still agrees with a golden (`confirm`); what a program answers is compared with
the golden alone. So these goldens also judge the reference, and programs that never ran beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from harness.adapters.implementation import Implementation
from harness.adapters.process import Limits
from harness.adapters.protocol import Session
from harness.conformance.case import Case
from harness.conformance.claim import last_line, plain_verdict
from harness.conformance.reference import Reference
from harness.conformance.rows import Encoding
from harness.conformance.tokenizer_causes import REFUSED, EncodeCauses, decode_cause, encode_causes, shown
from harness.engine import blas_threads
from harness.errors import CaseError, ImplementationError, Refused, Unsupported
from harness.judging.fingerprint import same_reference, worst
from harness.judging.floor import MULTIPLE
from harness.judging.logits import Fit
from harness.models import ModelFiles
from harness.results import Kind, Verdict, kind_of_failure
from harness.tokenizer import Tokenizer

__all__ = ["LEVEL_OF", "confirm", "judge_rows"]

LEVEL_OF = {"encode": "TOKENS", "logits": "LOGITS"}
"""Mode of a case -> the level at which it is asked."""

_MAX_LOST = 3  # times in a row that a program is started anew, before the rest is BLOCKED


def judge_rows(
    cases: Sequence[Case],
    impl: Implementation,
    files: ModelFiles,
    reference: Reference,
    *,
    levels: Sequence[str],
    limits: Limits | None = None,
    threads: int = 1,
) -> dict[str, Verdict]:
    """Put cases of modes "encode" and "logits" to a program, all in one session.

    Args:
        cases: of one model.
        files: that the program is given.
        levels: at which it is judged, of those that it claims.

    Returns:
        Verdicts by the case's key; UNSUPPORTED at a level that is not among `levels`.

    Raises:
        CaseError: the reference does not agree with a golden.
        BuildFailed, MissingDependency: the program cannot be run here.
    """
    found: dict[str, Verdict] = {}
    todo: list[Case] = []
    for case in cases:
        level = LEVEL_OF[case.mode]
        if level in levels:
            todo.append(case)
        else:
            reason = f"asked by the line protocol, at level {level}, which it does not speak"
            if level == "TOKENS":
                reason += "; what only prints a text is judged by prompts, where there are texts"
            found[case.key] = plain_verdict(case, impl.name, Kind.UNSUPPORTED, reason)
    if not todo:
        return found
    with blas_threads(1):
        for case in todo:
            confirm(reference, case)
    tokenizer, config = reference.model.tokenizer, reference.config
    shape = (impl.manifest.needs.vocab_size or config.vocab_size, config.seq_len)
    asked: dict[str, _Asked] = {}
    took_s: dict[str, float] = {}
    n_lost = 0
    with impl.session(files.checkpoint, files.tokenizer, threads=threads, limits=limits, shape=shape) as session:
        for case in todo:
            if n_lost >= _MAX_LOST:
                reason = f"{n_lost} cases before it could not be asked; not asked"
                found[case.key] = plain_verdict(case, impl.name, Kind.BLOCKED, reason)
                continue
            before = session.waited_s
            try:
                if case.mode == "logits":
                    found[case.key] = _logits(case, impl, reference, session)
                else:
                    asked[case.key] = _ask_texts(case, session)
                n_lost = 0
            except ImplementationError as failure:
                found[case.key] = _failed(case, impl, failure, session)
                n_lost = 0 if isinstance(failure, Unsupported) else n_lost + 1
            took_s[case.key] = session.waited_s - before
        try:
            session.quit()
        except ImplementationError as failure:
            found[todo[-1].key] = _failed(todo[-1], impl, failure, session)
    common = encode_causes(
        tokenizer,
        [(row.text, ids) for one in asked.values() for row, ids in one.wrong],
        [(row.text, row.ids) for one in asked.values() for row in one.right],
    )
    for case in todo:
        if case.key in asked and case.key not in found:
            found[case.key] = _texts_verdict(case, impl, tokenizer, asked[case.key], common)
    found |= {key: replace(found[key], wall_s=seconds) for key, seconds in took_s.items()}
    return {case.key: _at(LEVEL_OF[case.mode], found[case.key]) for case in cases}


def _at(level: str, verdict: Verdict) -> Verdict:
    return verdict if verdict.kind is Kind.UNSUPPORTED else replace(verdict, levels=((level, verdict.kind),))


def _failed(case: Case, impl: Implementation, failure: ImplementationError, session: Session) -> Verdict:
    tail = "" if isinstance(failure, Unsupported | Refused) else last_line(session.stderr_tail)
    reason = f"{failure.what}: {tail}" if tail else failure.what
    return replace(
        plain_verdict(case, impl.name, kind_of_failure(failure), reason),
        reproduce=session.reproduce,
        peak_rss_bytes=session.peak_rss_bytes,
    )


# ---- the goldens themselves ----------------------------------------------------------------------------------------


def confirm(reference: Reference, case: Case) -> None:
    """Check a golden against the reference, once.

    Raises:
        CaseError: they disagree, so nobody can be judged by it.
    """
    if case in reference.confirmed:
        return
    hint = f"the tokenizer, the engine or the golden has changed; see `harness record --case {case.name}`"
    if case.mode == "logits":
        rows = reference.exact.logits(case.fed)
        for row in case.rows:
            if where := same_reference(row, rows[row.position]):
                place = f"key expected.rows, position {row.position}"
                raise CaseError(f"are not the reference's logits: {where}", path=case.path, where=place, hint=hint)
    else:
        tokenizer = reference.model.tokenizer
        for one in case.texts:
            ids = tokenizer.encode(one.text)
            if tuple(ids) != one.ids:
                what = f"are not the ids of {one.text[:60]!r}"
                expected, actual = shown(ids), shown(one.ids)
                raise CaseError(
                    what, path=case.path, where="key expected.texts", expected=expected, actual=actual, hint=hint
                )
        for one in (*case.texts, *case.decoded):
            if tokenizer.decode(one.ids) != one.text:
                what = f"{one.text[:60]!r} is not the text of {shown(one.ids)}"
                raise CaseError(what, path=case.path, where="key expected", hint=hint)
    reference.confirmed.add(case)


# ---- texts and ids -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Asked:
    """What a program answered to one case.

    Attributes:
        wrong: texts whose ids are wrong, with those ids.
        right: the other texts.
        wrong_texts: ids that it decodes wrongly, with what it said.
        reproduce: a command line that puts the shortest wrong one again.
        decodes: whether it offers that.
    """

    wrong: list[tuple[Encoding, list[int]]] = field(default_factory=list)
    right: list[Encoding] = field(default_factory=list)
    wrong_texts: list[tuple[Encoding, bytes]] = field(default_factory=list)
    reproduce: str = ""
    decodes: bool = True
    peak_rss_bytes: int = 0


def _ask_texts(case: Case, session: Session) -> _Asked:
    found = _Asked()
    for row in case.texts:
        ids = _encoded(session, row.text)
        if ids == list(row.ids):
            found.right.append(row)
        else:
            found.wrong.append((row, ids))
    for row in (*case.texts, *case.decoded):
        try:
            said = _decoded(session, row.ids)
        except Unsupported:
            if not case.texts:
                raise
            found.decodes = False
            break
        if said != row.text:
            found.wrong_texts.append((row, said))
    if found.wrong:
        _encoded(session, min((row for row, _ in found.wrong), key=lambda row: len(row.text)).text)
    elif found.wrong_texts:
        _decoded(session, min((row for row, _ in found.wrong_texts), key=lambda row: len(row.ids)).ids)
    found.reproduce = session.reproduce
    found.peak_rss_bytes = session.peak_rss_bytes
    return found


def _encoded(session: Session, text: bytes) -> list[int]:
    try:
        return session.encode(text)
    except Refused:
        return REFUSED


def _decoded(session: Session, ids: Sequence[int]) -> bytes:
    try:
        return session.decode(ids)
    except Refused as refusal:
        return b"error: " + refusal.what.encode()


def _texts_verdict(
    case: Case, impl: Implementation, tokenizer: Tokenizer, asked: _Asked, common: EncodeCauses
) -> Verdict:
    words = []
    if asked.wrong:
        wrong = [(row.text, ids) for row, ids in asked.wrong]
        causes = (
            common if common.whole else encode_causes(tokenizer, wrong, [(row.text, row.ids) for row in asked.right])
        )
        row, ids = min(asked.wrong, key=lambda one: len(one[0].text))
        cause = ", or ".join(causes.whole) or "in no known way"
        words.append(
            f"tokenizer: {len(wrong)} of {len(case.texts)} texts have other ids: {cause}; "
            f"{row.text[:60]!r}: expected {shown(row.ids)}, actual {shown(ids)}"
        )
    if asked.wrong_texts:
        n = len(case.texts) + len(case.decoded)
        cause = (
            decode_cause(tokenizer, [(row.ids, said, row.text) for row, said in asked.wrong_texts])
            or "in no known way"
        )
        row, said = min(asked.wrong_texts, key=lambda one: len(one[0].ids))
        words.append(
            f"decode: {len(asked.wrong_texts)} of {n} wrong: {cause}; "
            f"{shown(row.ids)}: expected {row.text[:60]!r}, actual {said[:60]!r}"
        )
    kind = Kind.MISMATCH if words else Kind.EXACT
    if not asked.decodes:
        words.append("does not offer decode: the way back was not judged")
    return replace(
        plain_verdict(case, impl.name, kind, "; ".join(words)),
        tokenizer=kind,
        reproduce=asked.reproduce,
        peak_rss_bytes=asked.peak_rss_bytes,
    )


# ---- logits --------------------------------------------------------------------------------------------------------


def _logits(case: Case, impl: Implementation, reference: Reference, session: Session) -> Verdict:
    first = case.rows[0].position
    rows = session.logits(case.fed, first=first)[:, : reference.config.vocab_size]
    off = [worst(row, rows[row.position - first]) for row in case.rows]
    distance = np.array([one for one, _ in off])
    floors = np.array([row.floor for row in case.rows])
    kind, reason = Kind.EXACT, ""
    if not Fit(distance, (0, 0), "").is_within(floors):
        precision = impl.manifest.precision
        declared = None if precision == "f32" else reference.floors(precision, case.fed).declared
        if declared is not None and distance.max() <= MULTIPLE * declared:
            kind, reason = Kind.WITHIN, f"inside the noise of {precision}, the precision it declares"
        else:
            at = int(np.argmax(distance / floors))
            kind = Kind.MISMATCH
            reason = (
                f"logits: most at position {case.rows[at].position}, {off[at][1]}, "
                f"{distance[at] / floors[at]:.3g} noise floors apart"
            )
    return replace(
        plain_verdict(case, impl.name, kind, reason),
        forward=kind,
        reproduce=session.reproduce,
        peak_rss_bytes=session.peak_rss_bytes,
    )
