"""verify: the cases of one model x one implementation -> Verdicts.

1. every case is run (through `observe`, which may run several at a time)
2. all golden sequences are confirmed against the reference in one teacher-forced pass
3. each claim is judged (`judge.py`)
4. what only all claims together show is settled: another random generator, the one wrong tokenizer that explains
   them all, a lower precision than the declared one
5. after a MISMATCH, the bug that explains them all is looked for (`naming.py`)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from harness.adapters.implementation import Implementation
from harness.adapters.manifest import Manifest
from harness.adapters.process import Limits
from harness.conformance.case import Case
from harness.conformance.claim import Claim, last_line, plain_verdict
from harness.conformance.draws import FairDraws
from harness.conformance.judge import Judge
from harness.conformance.judge_ids import IdClaim, IdJudge
from harness.conformance.judge_rows import confirm, judge_rows
from harness.conformance.levels import LEVELS, ask, merged
from harness.conformance.naming import name_the_bug
from harness.conformance.prompted import NO_PROMPTS, runs_of, verdict_of
from harness.conformance.reference import Reference
from harness.conformance.relations.judge import judge_relations
from harness.diagnosis import CATALOGUE, Fault
from harness.engine import blas_threads
from harness.engine.sampler import Xorshift, sample
from harness.errors import BuildFailed, CaseError, InputError, MissingDependency
from harness.formats import format_named
from harness.jobs import run_jobs
from harness.judging.floor import MULTIPLE
from harness.judging.sampling import Draw, Surprise
from harness.models import ModelFiles, cache_dir, load, prepare
from harness.results import Kind, Observation, Verdict, kind_of_failure
from harness.tokenizer.bpe import KNOWN_WRONG

__all__ = ["Observe", "files_for", "reference_of", "unsupported", "verify_group"]

# Deviations from the mean surprise of fair draws, on stories260K: numpy's generator came to 4.0 in one text and 2.3
# in all, above the mean since it is guessed where a token ends (on a small model at temperature 2 to 10); wrong heads
# came to 39, a missing layer to 86, always taking the likeliest token to -23.
_TOO_IMPROBABLE = 15.0
_TOO_PROBABLE = -6.0
_TOO_MANY_HITS = 5.0  # deviations from the number of steps at which unrelated coins would draw the same
_MAX_TIMEOUTS = 3  # after so many the rest of a group is BLOCKED

Observe = Callable[[Callable[[Case], Observation | str], Sequence[Case]], Iterable[tuple[Case, Observation | str]]]
"""Runs a function over cases and yields (case, result) in their order; `jobs.run_jobs` is one."""

_references: dict[tuple[str, str], Reference] = {}
_MOST_WEIGHTS = 100_000_000  # of all models that are kept at a time; their engines hold several copies


def reference_of(files: ModelFiles) -> Reference:
    """Return the judge's model of these files; kept as long as the models used since are not too large together."""
    key = (files.sha256, files.tokenizer_sha256)
    reference = _references.pop(key, None) or Reference(load(files.checkpoint, files.tokenizer))
    _references[key] = reference
    while len(_references) > 1 and sum(r.config.n_params for r in _references.values()) > _MOST_WEIGHTS:
        del _references[next(iter(_references))]
    return reference


def _in_turn(
    run: Callable[[Case], Observation | str], cases: Sequence[Case]
) -> Iterable[tuple[Case, Observation | str]]:
    return ((case, run(case)) for case in cases)


def verify_group(
    cases: Sequence[Case],
    impl: Implementation,
    *,
    files: ModelFiles | str,
    limits: Limits | None = None,
    threads: int = 1,
    observe: Observe = _in_turn,
    on_observed: Callable[[Case, Observation], None] | None = None,
    on_settled: Callable[[Verdict], None] | None = None,
    levels: Sequence[str] = LEVELS,
    jobs: int = 1,
    suspects: Sequence[Fault] = CATALOGUE,
) -> list[Verdict]:
    """Judge the cases of one model on one implementation, at every level that it claims.

    Args:
        cases: all of the same model.
        impl: the implementation.
        files: the model's files, or the reason why they are not there.
        limits: for each run.
        threads: that the program is asked to use.
        observe: runs the cases that print a text.
        on_observed: called after each run, for progress.
        on_settled: called with a verdict that nothing can change any more while other cases still run: output that
            is the golden one to the byte, where no other level is to be judged.
        levels: those to judge at, of the ones that the manifest claims.
        jobs: sessions of the line protocol at a time, among which the cases are shared out.
        suspects: after a MISMATCH, the faults among which one that explains all answers is sought; none: it is not.

    Returns:
        One verdict for each case, in order.

    Raises:
        CaseError: a golden disagrees with the reference, so nothing can be judged by it.
    """
    if isinstance(files, str):
        return [plain_verdict(case, impl.name, Kind.SKIPPED, files) for case in cases]
    try:
        given = files_for(impl.manifest, files)
    except InputError as unfit:
        return [plain_verdict(case, impl.name, Kind.UNSUPPORTED, str(unfit)) for case in cases]
    reference = reference_of(files)
    claimed = [level for level in LEVELS if level in impl.manifest.levels and level in levels]
    runs = [case for case in cases if case.is_run]
    whole = _by_question(cases, impl, reference, files, given, limits, threads, claimed)
    if claimed == ["TEXT"] and "TOKENS" not in impl.manifest.levels:
        whole |= _by_prompts(cases, impl, reference, given, limits, threads, observe)
    by_level: dict[str, dict[str, Verdict]] = {}
    if "TEXT" in claimed and runs:
        early = on_settled if claimed == ["TEXT"] else None
        by_level["TEXT"] = _by_text(
            runs, impl, reference, given, limits, threads, observe, on_observed, early, suspects
        )
    if set(claimed) - {"TEXT"}:
        samples = not impl.manifest.greedy_only
        asked = [case for case in runs if not case.is_chat and (samples or not case.is_sampled)]
        by_level |= _by_protocol(asked, impl, reference, given, limits, threads, claimed, jobs, suspects)
    nothing = f"speaks no level of {', '.join(levels)}"
    verdicts = []
    for case in cases:
        if case.key in whole:
            verdicts.append(whole[case.key])
            continue
        found = {level: by_level[level][case.key] for level in by_level if case.key in by_level[level]}
        why = (unsupported(case, impl.manifest) if case.is_run and claimed else "") or nothing
        verdicts.append(merged(found) if found else plain_verdict(case, impl.name, Kind.UNSUPPORTED, why))
    return verdicts


def _version(given: ModelFiles) -> int:
    """Of llama2.c's container, as far as the file is in one; others are read by nobody's faults."""
    return 1 if given.format == "llama2c-v1" else 0


_CANNOT_RUN = (BuildFailed, MissingDependency)


def _cannot_run(case: Case, impl: Implementation, error: BuildFailed | MissingDependency) -> Verdict:
    if isinstance(error, BuildFailed):
        reason = f"{error.what}: {last_line(error.stderr_tail)}"
        return plain_verdict(case, impl.name, Kind.BUILD_FAILED, reason)
    return plain_verdict(case, impl.name, Kind.SKIPPED, str(error))


def _by_text(
    cases: Sequence[Case],
    impl: Implementation,
    reference: Reference,
    given: ModelFiles,
    limits: Limits | None,
    threads: int,
    observe: Observe,
    on_observed: Callable[[Case, Observation], None] | None,
    on_settled: Callable[[Verdict], None] | None,
    suspects: Sequence[Fault],
) -> dict[str, Verdict]:
    """Run every case and judge what is printed; verdicts by the case's key."""
    verdicts = {
        case.key: plain_verdict(case, impl.name, Kind.UNSUPPORTED, reason)
        for case in cases
        if (reason := unsupported(case, impl.manifest))
    }
    runnable = [case for case in cases if case.key not in verdicts]
    n_timeouts = 0

    def run(case: Case) -> Observation | str:
        nonlocal n_timeouts
        if n_timeouts >= _MAX_TIMEOUTS:
            return f"{n_timeouts} cases before it could not be run to their end; not run"
        seen = impl.run(case.request(given, threads), limits)
        if seen.failure is not None and kind_of_failure(seen.failure) in (Kind.TIMED_OUT, Kind.START_FAILED):
            n_timeouts += 1
        return seen

    judge = Judge(impl, reference)
    claims: list[Claim] = []
    try:
        for case, seen in observe(run, runnable):
            if isinstance(seen, str):
                verdicts[case.key] = plain_verdict(case, impl.name, Kind.BLOCKED, seen)
                continue
            claim = Claim(case, seen, case.request(given, threads))
            claims.append(claim)
            if on_observed:
                on_observed(case, seen)
            if on_settled and seen.failure is None and seen.stdout == case.stdout:
                on_settled(judge.verdict(claim))
    except _CANNOT_RUN as error:
        return {case.key: verdicts.get(case.key) or _cannot_run(case, impl, error) for case in cases}

    with blas_threads(1):
        _judge_together(judge, claims, verdicts, partial(_settle_tokenizer, judge, claims, verdicts))
        name_the_bug(judge, claims, verdicts, suspects, version=_version(given))
    return verdicts


def _by_protocol(
    cases: Sequence[Case],
    impl: Implementation,
    reference: Reference,
    given: ModelFiles,
    limits: Limits | None,
    threads: int,
    levels: Sequence[str],
    jobs: int,
    suspects: Sequence[Fault],
) -> dict[str, dict[str, Verdict]]:
    """Put every case through the line protocol and judge what comes; verdicts by level and the case's key."""
    if not cases:
        return {}
    ask_some = partial(
        ask, impl=impl, files=given, reference=reference, levels=levels, limits=limits, threads=threads
    )
    shares = [cases[i::jobs] for i in range(min(jobs, len(cases)))]
    try:
        answers = [list(one) for _, one in run_jobs(ask_some, shares, jobs=jobs)]
    except _CANNOT_RUN as error:
        return {"TOKENS": {case.key: _cannot_run(case, impl, error) for case in cases}}
    found = [answers[i % len(shares)][i // len(shares)] for i in range(len(cases))]
    judge = IdJudge(impl, reference)
    claims = [one for one in found if isinstance(one, IdClaim)]
    verdicts = {case.key: one for case, one in zip(cases, found, strict=True) if isinstance(one, Verdict)}
    with blas_threads(1):
        _judge_together(judge, claims, verdicts, partial(judge.settle_tokenizer, claims, verdicts))
        name_the_bug(judge, claims, verdicts, suspects, version=_version(given))
        logits = {claim.case.key: judge.logits_verdict(claim) for claim in claims if claim.logits is not None}
    found_at = {"TOKENS": verdicts, "LOGITS": logits}
    return {level: found_at[level] for level in levels if level in found_at}


def _by_question(
    cases: Sequence[Case],
    impl: Implementation,
    reference: Reference,
    files: ModelFiles,
    given: ModelFiles,
    limits: Limits | None,
    threads: int,
    levels: Sequence[str],
) -> dict[str, Verdict]:
    """Judge the cases that are no runs, each by its own questions of all levels; verdicts by the case's key."""
    related = [case for case in cases if case.mode == "relation"]
    rows = [case for case in cases if not case.is_run and case.mode != "relation"]
    by_relations = partial(judge_relations, related, impl, files, given, fitting=partial(files_for, impl.manifest))
    by_rows = partial(judge_rows, rows, impl, given, reference)
    verdicts: dict[str, Verdict] = {}
    for judged, judge in ((rows, by_rows), (related, by_relations)):
        try:
            verdicts |= judge(levels=levels, limits=limits, threads=threads)
        except _CANNOT_RUN as error:
            verdicts |= {case.key: _cannot_run(case, impl, error) for case in judged}
    return verdicts


def _by_prompts(
    cases: Sequence[Case],
    impl: Implementation,
    reference: Reference,
    given: ModelFiles,
    limits: Limits | None,
    threads: int,
    observe: Observe,
) -> dict[str, Verdict]:
    """Judge the texts of a program that only prints in part, by runs of which they are the prompts."""
    with blas_threads(1):
        texts = [case for case in cases if case.texts]
        for case in texts:
            confirm(reference, case)
        runs = {case.key: runs_of(case, reference) for case in texts}
    together = [run for some in runs.values() for run in some]
    found = _by_text(together, impl, reference, given, limits, threads, observe, None, None, ())
    return {
        case.key: verdict_of(case, impl.name, [found[run.key] for run in runs[case.key]])
        if runs[case.key]
        else plain_verdict(case, impl.name, Kind.UNSUPPORTED, NO_PROMPTS)
        for case in texts
    }


# ---- what can be asked of a program ------------------------------------------------------------------------------


def files_for(manifest: Manifest, files: ModelFiles) -> ModelFiles:
    """Return files that the program can read and that compute the same function.

    Raises:
        InputError: there are none; the message is the reason.
    """
    needs = manifest.needs
    container = files.format
    if container not in manifest.formats:
        container = _container_for(manifest, files)
    made = prepare(
        files,
        format=container,
        mha=needs.mha,
        untied=needs.tied is False,
        vocab_size=needs.vocab_size,
        hidden_multiple=needs.hidden_multiple if needs.hidden_multiple > 1 else None,
        tokenizer_layout=needs.tokenizer_layout or "today",
        out_dir=cache_dir() / "prepared",
    )
    config = reference_of(files).config
    if needs.tied and not config.is_tied:
        raise InputError("needs a tied classifier; this model's is separate")
    for name, value, multiple in (
        ("dim", config.dim, needs.dim_multiple),
        ("head_dim", config.head_dim, needs.head_dim_multiple),
    ):
        if value % multiple:
            raise InputError(f"needs {name} to be a multiple of {multiple}; this model's is {value}")
    if needs.max_seq_len is not None and config.seq_len > needs.max_seq_len:
        raise InputError(f"holds {needs.max_seq_len} positions; this model's context is {config.seq_len}")
    return made


def _container_for(manifest: Manifest, files: ModelFiles) -> str:
    """Return the first of a program's formats that can hold a model of another one.

    Raises:
        InputError: there is none; the message is the reason.
    """
    others = [name for name in manifest.formats if (name == "llama2c-v2") == (files.format == "llama2c-v2")]
    config = reference_of(files).config
    reasons = [format_named(name).refuses(config) for name in others]
    for name, reason in zip(others, reasons, strict=True):
        if reason is None:
            return name
    why = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
    raise InputError(
        f"reads {', '.join(manifest.formats)}; the model is {files.format}" + (f": {why}" if why else "")
    )


def unsupported(case: Case, manifest: Manifest) -> str:
    """Why a program cannot be asked this, or nothing."""
    if case.is_chat:
        return "" if manifest.chat and "chat" in manifest.modes else "has no chat"
    if case.is_sampled and manifest.greedy_only:
        return "decodes greedily only"
    if "conventions" in case.tags and manifest.conventions != "llama2.c":
        return f"asks for llama2.c's own conventions, which it does not claim: {case.why}"
    given = " ".join([*manifest.run, manifest.stdin, *manifest.env.values(), *manifest.files.values()])
    has_prompt = "{prompt}" in given or "{prompt_args}" in given
    if case.prompt and not has_prompt:
        return "has no way to be given a prompt"
    if "{temperature}" not in given and case.temperature != 1.0 and not manifest.greedy_only:
        return "has no temperature" if case.is_sampled else "has no temperature, so it cannot decode greedily"
    if case.is_sampled and "{seed}" not in given:
        return "has no seed"
    if case.is_sampled and "{topp}" not in given and case.topp != 0.9:
        return "has no top-p"
    if case.prompt and b"\0" in case.prompt:
        return "a NUL cannot be passed as an argument"
    return ""


# ---- the goldens themselves --------------------------------------------------------------------------------------


def _confirm(reference: Reference, cases: Sequence[Case]) -> None:
    """Check goldens against the reference, each once, greedy ones all in one pass: a stale golden judges nobody."""
    known = [case for case in cases if case.ids is not None and not case.is_chat]
    for case in known:
        _confirm_text(reference, case)
    todo = [
        case
        for case in known
        if case.n_generated and not reference.is_int8 and (case.ids or ()) not in reference.confirmed
    ]
    greedy = [case for case in todo if not case.is_sampled]
    sequences = [[case.prompt_ids[0], *(case.ids or ())] for case in greedy]
    judged = reference.judge(sequences, [len(case.prompt_ids) for case in greedy]) if greedy else []
    for case, sequence, scores in zip(greedy, sequences, judged, strict=True):
        worst = int(scores.regret.argmax())
        if scores.regret[worst] > 0:
            floor = reference.floor_at(sequence[: len(case.prompt_ids) + worst])
            if scores.regret[worst] > MULTIPLE * floor:
                raise _stale(case, worst, expected=int(scores.best[worst]), actual=int(scores.chosen[worst]))
        reference.confirmed.add(case.ids or ())
    for case in todo:
        if case.is_sampled:
            _confirm_draws(reference, case)
            reference.confirmed.add(case.ids or ())


def _confirm_text(reference: Reference, case: Case) -> None:
    """Check what a golden says of its own ids, prompt and text."""
    tokenizer = reference.model.vocabulary
    prompt_ids, ids = tuple(tokenizer.encode(case.prompt or b"")), case.ids or ()
    if prompt_ids != case.prompt_ids:
        raise CaseError("are not the ids of the prompt", path=case.path, where="key expected.prompt_ids")
    if tokenizer.print_text([prompt_ids[0], *ids]) + b"\n" != case.stdout:
        raise CaseError("is not the text of its ids", path=case.path, where="key expected.text")


def _confirm_draws(reference: Reference, case: Case) -> None:
    """Check that the known coins draw the ids of a sampled golden, as far as float32 can tell."""
    sequence = [case.prompt_ids[0], *(case.ids or ())]
    first = len(case.prompt_ids) - 1
    rng = Xorshift.from_argument(case.seed)
    rows = reference.exact.logits(sequence[:-1], first=first)
    for step, (row, token) in enumerate(zip(rows, sequence[first + 1 :], strict=True)):
        coin = rng.coin()
        drawn = sample(row, temperature=case.temperature, topp=case.topp, coin=coin)
        if drawn == token:
            continue
        floor = reference.floor_at(sequence[: first + 1 + step])
        draw = Draw(row, temperature=case.temperature, topp=case.topp)
        if not draw.drawable(np.array([token]), floor=floor, coin=float(coin))[0]:
            raise _stale(case, step, expected=drawn, actual=token)


def _stale(case: Case, step: int, *, expected: int, actual: int) -> CaseError:
    return CaseError(
        f"token {actual} at step {step} is not what the reference chooses",
        path=case.path,
        where="key expected.ids",
        expected=expected,
        actual=actual,
        hint=f"the model or the golden has changed; see `harness record --case {case.name}`",
    )


# ---- what only all claims together show --------------------------------------------------------------------------


def _judge_together(
    judge: Judge, claims: Sequence[Claim], verdicts: dict[str, Verdict], settle_tokenizer: Callable[[], None]
) -> None:
    """Judge each claim, then settle what only all of them show; verdicts are put in by the case's key."""
    _confirm(judge.reference, [claim.case for claim in claims])
    for claim in claims:
        verdicts[claim.case.key] = judge.verdict(claim)
    _settle_generator(judge, claims, verdicts)
    settle_tokenizer()
    _settle_precision(judge, claims, verdicts)


def _settle_tokenizer(judge: Judge, claims: Sequence[Claim], verdicts: dict[str, Verdict]) -> None:
    """Name the wrong tokenizer over all cases, or acquit it.

    A wrong tokenizer explains texts (for it), and would have changed prompts whose texts are right (against it). One
    text alone can be explained by luck, where two encodings lead into the same story; then there is more against than
    for it, and the verdict on the honest ids stands.
    """
    wrong = [claim for claim in claims if claim.encodings]
    if not wrong:
        return
    right = [claim.case for claim in claims if claim.case.prompt and verdicts[claim.case.key].kind.is_green]
    # Given the wrong ids the forward pass is right, so each text that it spoils speaks against all of them.
    n_spoilt = sum(verdicts[claim.case.key].forward is Kind.MISMATCH and not claim.encodings for claim in claims)
    balance = {
        name: sum(name in claim.encodings for claim in wrong)
        - sum(not judge.encodes_alike(case, name) for case in right)
        - n_spoilt
        for claim in wrong
        for name in claim.encodings
    }
    best = max(balance.values())
    named = [name for name, _, _ in KNOWN_WRONG if balance.get(name) == best]
    what = ", or ".join(description for name, description, _ in KNOWN_WRONG if name in named)
    for claim in wrong:
        verdict = verdicts[claim.case.key]
        if best < 0 or (best == 0 and n_spoilt):
            verdicts[claim.case.key] = judge.on_honest_ids(claim) or verdict
            continue
        reason = f"tokenizer: {what} ({', '.join(named)}); given its ids the forward pass is {verdict.forward}"
        # Several may explain one text; the ids that are shown are those of the one that explains them all.
        ids = next((judge.encoded_wrong(claim.case.prompt or b"", n) for n in named if n in claim.encodings), None)
        divergence = judge.other_ids(claim.case, ids) if ids else verdict.divergence
        verdicts[claim.case.key] = replace(verdict, reason=reason, divergence=divergence)


def _settle_generator(judge: Judge, claims: Sequence[Claim], verdicts: dict[str, Verdict]) -> None:
    """Where the seeded runs show another generator than llama2.c's, say so, if the draws can be fair ones.

    A port with llama2.c's generator agrees with the known coins until it goes wrong, one with another agrees by luck.
    By luck the surprise of one run is at most exponentially distributed, that of n runs Gamma(n): beyond its mean by
    four deviations and a constant, luck is ruled out.

    The same holds after the first difference: where llama2.c's coins go on to draw what was drawn more often than
    unrelated ones would, the generator is llama2.c's and the sampler is wrong.

    Another generator excuses nothing else: the greedy cases must be right, the tokens must lie in the nucleus, and
    they must be about as probable as fair draws are.
    """
    sampled = [c for c in claims if c.case.is_sampled and not c.case.is_chat]
    wrong = [c for c in sampled if verdicts[c.case.key].kind is Kind.MISMATCH and c.prefix]
    if not wrong or judge.is_llama2c:
        return
    greedy = [verdicts[c.case.key] for c in claims if not c.case.is_sampled]
    if any(verdict.forward is Kind.MISMATCH for verdict in greedy):
        return
    surprises = [judge.surprise(claim, verdicts[claim.case.key]) for claim in sampled]
    n = sum(surprise > 0 for surprise in surprises)
    if sum(surprises) > n + 4 * math.sqrt(n) + 6:
        return
    drawn = [judge.by_nucleus(claim) for claim in wrong]
    together = _deviation([surprise for run in drawn if run for surprise in run.surprises])
    hits = _excess_of_hits([run for run in drawn if run])
    n_outside = sum(run is None for run in drawn)
    for claim, run in zip(wrong, drawn, strict=True):
        verdict = verdicts[claim.case.key]
        if run is None:
            why_not = "no other generator could draw it either (outside the nucleus)"
        elif n_outside > len(drawn) / 4:
            why_not = "no other generator could draw what its sampled texts hold (outside the nucleus)"
        elif hits > _TOO_MANY_HITS:
            why_not = "the coins are llama2.c's, the draws are not"
        elif max(together, _deviation(run.surprises)) > _TOO_IMPROBABLE:
            why_not = "no other generator is the reason either: its tokens are too improbable for fair draws"
        elif together < _TOO_PROBABLE:
            why_not = "no other generator is the reason either: its tokens are too probable for fair draws"
        else:
            n = len(run.surprises)
            kind = Kind.UNSUPPORTED
            reason = f"has another random generator than llama2.c; all {n} sampled tokens lie in the nucleus"
            if not run.is_whole:
                kind, reason = Kind.INCONCLUSIVE, f"it stopped after {n} tokens without a stop"
            verdicts[claim.case.key] = replace(
                verdict, kind=kind, reason=reason, forward=None, divergence=None, n_judged=n
            )
            continue
        verdicts[claim.case.key] = replace(verdict, reason=f"{verdict.reason}; {why_not}")


def _deviation(draws: Sequence[Surprise]) -> float:
    """How far the surprise of some draws is from that of fair ones, in standard deviations."""
    variance = sum(draw.variance for draw in draws)
    excess = sum(draw.actual - draw.mean for draw in draws)
    return excess / math.sqrt(variance) if variance > 1e-9 else 0.0


def _excess_of_hits(runs: Sequence[FairDraws]) -> float:
    """How far the number of hits is from what unrelated coins would come to, in standard deviations."""
    chances = [math.exp(-surprise.actual) for run in runs for surprise in run.surprises]
    variance = sum(chance * (1 - chance) for chance in chances)
    excess = sum(sum(run.hits) for run in runs) - sum(chances)
    return excess / math.sqrt(variance) if variance > 1e-9 else 0.0


def _settle_precision(judge: Judge, claims: Sequence[Claim], verdicts: dict[str, Verdict]) -> None:
    """Say so where a lower precision than the declared one would explain every wrong choice."""
    wrong = [c for c in claims if c.wrong is not None and verdicts[c.case.key].kind is Kind.MISMATCH]
    reference = judge.reference
    wrong = [c for c in wrong if not c.case.is_sampled]  # a coin makes a large regret of a small difference
    if not wrong or judge.manifest.precision != "f32" or reference.is_int8:
        return
    regrets = [c.wrong.regret for c in wrong if c.wrong is not None]
    sequence = [wrong[0].case.prompt_ids[0], *(wrong[0].case.ids or ())[:-1]]
    for precision in ("f16", "bf16", "q8"):
        if max(regrets) <= MULTIPLE * reference.run_floor(precision, sequence):
            for claim in wrong:
                verdict = verdicts[claim.case.key]
                hint = f"{verdict.reason}; within the noise of {precision}: if it computes in that, declare it"
                verdicts[claim.case.key] = replace(verdict, reason=hint)
            return
