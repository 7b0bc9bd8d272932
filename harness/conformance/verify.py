"""verify: cases x one implementation on one model -> Verdicts.

1. every case is run (through `observe`, which may run several at a time) and its text is found in the output
2. all golden sequences of the model are confirmed against the reference in one teacher-forced pass
3. text equal to the golden one, in any known way of printing: EXACT
4. else the golden ids hold up to the first difference, and from there the text is walked with the reference:
   ties get certificates, and where the honest prompt ids explain nothing the known wrong ones are tried, so that
   the tokenizer and the forward pass each get a verdict
5. programs whose seeded runs show another random generator are judged by nucleus membership alone
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from harness.adapters import extract
from harness.adapters.implementation import Implementation
from harness.adapters.manifest import Manifest
from harness.adapters.process import Limits
from harness.conformance.case import Case
from harness.conformance.reference import Reference
from harness.engine import blas_threads, clamp_steps
from harness.engine.sampler import Xorshift, sample
from harness.errors import BuildFailed, CaseError, InputError, MissingDependency, TokenizerError
from harness.judging.floor import MULTIPLE
from harness.judging.printing import LLAMA2C, Printing
from harness.judging.sampling import could_be_in_nucleus
from harness.judging.text_walk import Choice, Greedy, Sampled, Walk, walk
from harness.models import ModelFiles, cache_dir, load, prepare
from harness.results import Divergence, Kind, Observation, Request, Verdict, kind_of_failure
from harness.tokenizer.bpe import KNOWN_WRONG

__all__ = ["Observe", "files_for", "reference_of", "verify_group"]

MIN_JUDGED = 32
"""Generated tokens that must be judged before a green verdict, unless the golden itself has fewer."""

_SHOWN = 48  # bytes of each continuation that a divergence shows
_MAX_TIMEOUTS = 3  # after so many the rest of a group is BLOCKED
_SURPRISE_NATS = 9.0  # evidence that a seeded run follows llama2.c's coins: chance of it by luck is 1 in 8,000

Observe = Callable[[Callable[[Case], Observation], Sequence[Case]], Iterable[tuple[Case, Observation]]]
"""Runs a function over cases and yields (case, observation) in their order; `jobs.run_jobs` is one."""

_references: dict[tuple[str, str], Reference] = {}


def reference_of(files: ModelFiles) -> Reference:
    """Return the judge's model of these files, made once for each content."""
    key = (files.sha256, files.tokenizer_sha256)
    if key not in _references:
        _references[key] = Reference(load(files.checkpoint, files.tokenizer))
    return _references[key]


def _in_turn(run: Callable[[Case], Observation], cases: Sequence[Case]) -> Iterable[tuple[Case, Observation]]:
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
) -> list[Verdict]:
    """Judge the cases of one model on one implementation.

    Args:
        cases: all of the same model.
        impl: the implementation.
        files: the model's files, or the reason why they are not there.
        limits: for each run.
        threads: that the program is asked to use.
        observe: runs the cases.
        on_observed: called after each run, for progress.

    Returns:
        One verdict for each case, in order.

    Raises:
        CaseError: a golden disagrees with the reference, so nothing can be judged by it.
    """
    if isinstance(files, str):
        return [_verdict(case, impl, Kind.SKIPPED, files) for case in cases]
    verdicts: dict[str, Verdict] = {}
    runnable: list[Case] = []
    try:
        given = files_for(impl.manifest, files)
    except InputError as unfit:
        return [_verdict(case, impl, Kind.UNSUPPORTED, str(unfit)) for case in cases]
    for case in cases:
        unsupported = _unsupported(case, impl.manifest)
        if unsupported:
            verdicts[case.key] = _verdict(case, impl, Kind.UNSUPPORTED, unsupported)
        else:
            runnable.append(case)

    n_timeouts = 0

    def run(case: Case) -> Observation | str:
        nonlocal n_timeouts
        if n_timeouts >= _MAX_TIMEOUTS:
            return f"{n_timeouts} cases before it ran into their limits; not run"
        seen = impl.run(case.request(given, threads), limits)
        if seen.failure is not None and kind_of_failure(seen.failure) in (Kind.TIMED_OUT, Kind.START_FAILED):
            n_timeouts += 1
        return seen

    claims: list[_Claim] = []
    try:
        for case, seen in observe(run, runnable):  # type: ignore[arg-type]
            if isinstance(seen, str):
                verdicts[case.key] = _verdict(case, impl, Kind.BLOCKED, seen)
                continue
            claims.append(_Claim(case, seen, case.request(given, threads)))
            if on_observed:
                on_observed(case, seen)
    except BuildFailed as failure:
        reason = f"{failure.what}: {_last_line(failure.stderr_tail)}"
        return [
            verdicts.get(case.key) or _verdict(case, impl, Kind.BUILD_FAILED, reason, reproduce=failure.command)
            for case in cases
        ]
    except MissingDependency as missing:
        return [verdicts.get(case.key) or _verdict(case, impl, Kind.SKIPPED, str(missing)) for case in cases]

    judge = _Judge(impl, files)
    judge.confirm([claim.case for claim in claims])
    with blas_threads(1):
        for claim in claims:
            verdicts[claim.case.key] = judge.verdict(claim)
        judge.settle_generator(claims, verdicts)
    return [verdicts[case.key] for case in cases]


# ---- what can be asked of a program ------------------------------------------------------------------------------


def files_for(manifest: Manifest, files: ModelFiles) -> ModelFiles:
    """Return files that the program can read and that compute the same function.

    Raises:
        InputError: there are none; the message is the reason.
    """
    needs = manifest.needs
    container = files.format
    if container not in manifest.formats:
        others = [f for f in manifest.formats if (f == "llama2c-v2") == (container == "llama2c-v2")]
        if not others:
            raise InputError(f"reads {', '.join(manifest.formats)}; the model is {container}")
        container = others[0]
    plain = container == files.format and needs.tokenizer_layout in (None, "today")
    if plain and not (needs.mha or needs.vocab_size or needs.hidden_multiple > 1 or needs.tied is not None):
        made = files
    else:
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
    config = reference_of(made).config
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


def _unsupported(case: Case, manifest: Manifest) -> str:
    """Why a program cannot be asked this, or nothing."""
    if case.is_chat:
        return "" if manifest.chat and "chat" in manifest.modes else "has no chat"
    words = " ".join([*manifest.run, manifest.stdin, *manifest.env.values(), *manifest.files.values()])
    if case.prompt and "{prompt" not in words:
        return "has no way to be given a prompt"
    if "{temperature}" not in words and case.temperature != 1.0:
        return "has no temperature: it cannot decode greedily" if not case.is_sampled else "has no temperature"
    if case.is_sampled and "{seed}" not in words:
        return "has no seed"
    if case.is_sampled and "{topp}" not in words and case.topp != 0.9:
        return "has no top-p"
    if case.prompt and b"\0" in case.prompt:
        return "a NUL cannot be passed as an argument"
    return ""


# ---- judging one claim -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Claim:
    """What a program claims the answer to a case is."""

    case: Case
    seen: Observation
    request: Request
    printing: Printing | None = None
    prefix: list[int] = field(default_factory=list)  # ids that were right before the wrong one
    rest: bytes = b""  # the continuation after the prompt's echo


@dataclass(frozen=True, slots=True)
class _Reading:
    """The output read in one way of printing: how far it agrees with the golden ids."""

    text: bytes
    printing: Printing
    conventions: tuple[str, ...]
    pieces: list[bytes]  # what each golden id prints
    n_agreed: int  # golden ids, prompt included, that are printed in full
    used: int  # bytes of the text that those are
    is_exact: bool


class _Judge:
    def __init__(self, impl: Implementation, files: ModelFiles) -> None:
        self.impl = impl
        self.manifest = impl.manifest
        self.reference = reference_of(files)
        self.tokenizer = self.reference.model.tokenizer
        self.bos = self.tokenizer.bos_id

    # -- the goldens themselves --------------------------------------------------------------------------------

    def confirm(self, cases: Sequence[Case]) -> None:
        """Check greedy goldens against the reference, all in one pass, each once: a stale golden judges nobody."""
        confirmed: set[tuple[int, ...]] = self.reference.__dict__.setdefault("confirmed", set())
        todo = [
            case
            for case in cases
            if case.ids
            and case.n_generated
            and not case.is_sampled
            and not case.is_chat
            and not self.reference.is_int8
            and (self.bos, *case.ids) not in confirmed
        ]
        if not todo:
            return
        sequences = [[*case.prompt_ids, *(case.ids or ())[len(case.prompt_ids) - 1 :]] for case in todo]
        for case, sequence, judged in zip(
            todo, sequences, self.reference.judge(sequences, [len(c.prompt_ids) for c in todo]), strict=True
        ):
            worst = int(judged.regret.argmax())
            if judged.regret[worst] > 0:
                prefix = sequence[: len(case.prompt_ids) + worst]
                if judged.regret[worst] > MULTIPLE * self.reference.floor(prefix):
                    raise CaseError(
                        f"the golden's token {int(judged.chosen[worst])} at step {worst} is not what the reference"
                        f" chooses, {int(judged.best[worst])}",
                        path=case.path,
                        where="key expected.ids",
                        hint=f"the model or the golden has changed; see `harness record --case {case.name}`",
                    )
            confirmed.add((self.bos, *(case.ids or ())))

    # -- one case ------------------------------------------------------------------------------------------------

    def verdict(self, claim: _Claim) -> Verdict:
        case, seen = claim.case, claim.seen
        if seen.failure is not None:
            reason = seen.failure.what
            tail = _last_line(seen.stderr_tail)
            return self._verdict(claim, kind_of_failure(seen.failure), f"{reason}: {tail}" if tail else reason)
        if seen.stdout == case.stdout:
            return self._exact(claim, case.n_generated)
        if case.is_chat:
            return self._chat(claim)
        if case.ids is None:
            return self._against_text(claim)
        reading = self._read(claim)
        claim.printing = reading.printing
        conventions = _named(reading)
        if reading.is_exact:
            if self.manifest.conventions == "llama2.c":
                what = "; ".join(conventions) or "its bytes differ"
                return self._verdict(
                    claim,
                    Kind.MISMATCH,
                    f"the tokens are right, but it claims to print as llama2.c does: {what}",
                    forward=Kind.EXACT,
                    tokenizer=Kind.EXACT,
                    n_judged=case.n_generated,
                    conventions=conventions,
                )
            return self._exact(claim, case.n_generated, conventions)
        return self._differs(claim, reading, conventions)

    def _exact(self, claim: _Claim, n_judged: int, conventions: tuple[str, ...] = ()) -> Verdict:
        return self._verdict(
            claim,
            Kind.EXACT,
            tokenizer=Kind.EXACT if claim.case.prompt else None,
            forward=Kind.EXACT,
            n_judged=n_judged,
            conventions=conventions,
        )

    def _read(self, claim: _Claim) -> _Reading:
        """Find the text in the output, in the way of printing that agrees with the golden furthest."""
        case = claim.case
        ids = [case.prompt_ids[0], *(case.ids or ())]
        n_prompt = len(case.prompt_ids) - 1
        found: _Reading | None = None
        for printing in self.reference.printings:
            pieces = printing.render(ids)
            whole = b"".join(pieces)
            echo = b"".join(pieces[:n_prompt])
            read = extract.best(
                claim.seen.stdout,
                prompt=case.prompt or b"",
                expected=whole,
                pattern=self.manifest.text,
                echo=self.manifest.echo,
            )
            text, conventions = read.text, read.conventions
            shown = pieces
            if not read.echoes_prompt:
                shown = [b""] * n_prompt + pieces[n_prompt:]
                if extract.NO_LEADING_SPACE in conventions and len(shown) > n_prompt:
                    shown[n_prompt] = shown[n_prompt].removeprefix(b" ")
            elif extract.AS_GIVEN in conventions and case.prompt and text.startswith(case.prompt):
                shown = [case.prompt, *[b""] * (n_prompt - 1), *pieces[n_prompt:]] if n_prompt else pieces
            elif not text.startswith(echo) and case.prompt and text.startswith(case.prompt) and n_prompt:
                shown = [case.prompt, *[b""] * (n_prompt - 1), *pieces[n_prompt:]]
            n_agreed, used = _agreement(text, shown)
            reading = _Reading(text, printing, conventions, shown, n_agreed, used, text == b"".join(shown))
            if found is None or (reading.is_exact, reading.n_agreed, reading.used) > (
                found.is_exact,
                found.n_agreed,
                found.used,
            ):
                found = reading
            if reading.is_exact:
                break
        assert found is not None
        return found

    def _differs(self, claim: _Claim, reading: _Reading, conventions: tuple[str, ...]) -> Verdict:
        """Judge a text that is not the golden one in any way of printing."""
        case = claim.case
        ids = list(case.ids or ())
        n_prompt = len(case.prompt_ids) - 1
        n_agreed = reading.n_agreed
        text = reading.text
        n_echo = sum(map(len, reading.pieces[:n_prompt]))
        claim.rest = text[n_echo:] if n_agreed >= min(n_prompt, len(ids)) else b""
        if n_agreed < n_prompt:
            return self._echo_differs(claim, reading, conventions)
        if not case.n_generated:
            # The golden is nothing but a cut-off echo, and the program printed more.
            return self._beyond(claim, reading, conventions)
        n_generated = n_agreed - n_prompt
        if n_agreed == len(ids):
            return self._beyond(claim, reading, conventions)
        remaining = text[reading.used :]
        if not remaining:
            return self._stopped_short(claim, n_generated, conventions)
        prefix = [case.prompt_ids[0], *ids[:n_agreed]]
        path = self._walk(claim, remaining, prefix, n_generated)
        if path.wrong is None:
            return self._explained(claim, path, conventions)
        wrong = self._as_wrong_encoding(claim, path, conventions)
        return wrong or self._mismatch(claim, path, conventions)

    def _rule(self, case: Case) -> Greedy | Sampled:
        reference = self.reference
        class_floor = reference.class_floor(self.manifest.precision)
        config = reference.config
        if not case.is_sampled:
            argmax = reference.exact.ops.argmax
            return Greedy(lambda logits: argmax(config, logits), reference.floor, class_floor)
        rng = Xorshift.from_argument(case.seed)
        coins = [rng.coin() for _ in range(clamp_steps(case.steps, config.seq_len) + 1)]
        return Sampled(
            lambda logits, coin: sample(logits, temperature=case.temperature, topp=case.topp, coin=coin),
            coins,
            case.temperature,
            case.topp,
            reference.floor,
            class_floor,
        )

    def _walk(self, claim: _Claim, text: bytes, prefix: Sequence[int], n_generated: int) -> Walk:
        assert claim.printing is not None
        return walk(
            text,
            prefix,
            session=self.reference.session(),
            printing=claim.printing,
            rule=self._rule(claim.case),
            n_generated=n_generated,
            max_tokens=self.reference.config.seq_len,
        )

    # -- what a difference turns out to be -----------------------------------------------------------------------

    def _explained(self, claim: _Claim, path: Walk, conventions: tuple[str, ...]) -> Verdict:
        """The whole text is what the reference allows."""
        case = claim.case
        n_judged = len(path.ids) - len(case.prompt_ids)
        certificates = tuple(path.certificates)
        kind = path.kind
        if kind is Kind.EXACT:
            reason = ""
        elif kind is Kind.TIE:
            reason = _ties(certificates)
        else:
            reason = f"inside the noise of {self.manifest.precision}, the precision that it declares"
        wanted = clamp_steps(case.steps, self.reference.config.seq_len) - (len(case.prompt_ids) - 1)
        ended = path.next_id == self.bos
        if n_judged < min(MIN_JUDGED, case.n_generated) and not ended:
            kind, reason = Kind.INCONCLUSIVE, f"only {n_judged} generated tokens could be judged"
        elif n_judged < wanted - 1 and not ended and path.next_id != self.tokenizer.eos_id:
            kind, reason = Kind.INCONCLUSIVE, f"it stopped after {n_judged} of {wanted} tokens without a stop"
        return self._verdict(
            claim,
            kind,
            reason,
            tokenizer=Kind.EXACT if case.prompt else None,
            forward=path.kind,
            n_judged=n_judged,
            certificates=certificates,
            conventions=conventions,
        )

    def _stopped_short(self, claim: _Claim, n_generated: int, conventions: tuple[str, ...]) -> Verdict:
        """Everything printed is right, and then it ends before the golden does."""
        case = claim.case
        missing = case.n_generated - n_generated
        next_id = (case.ids or ())[len(case.prompt_ids) - 1 + n_generated]
        if next_id == self.tokenizer.eos_id:
            how = "stops at EOS"
        elif missing == 1:
            how = "runs one position fewer than it is asked to"
        elif "{steps}" not in " ".join([*self.manifest.run, self.manifest.stdin]):
            how = "has a number of steps of its own"
        else:
            short = f"it stopped after {n_generated} of {case.n_generated} tokens without a stop"
            return self._verdict(
                claim, Kind.INCONCLUSIVE, short, forward=Kind.EXACT, n_judged=n_generated, conventions=conventions
            )
        conventions = (*conventions, how)
        if n_generated < min(MIN_JUDGED, case.n_generated - 1) and next_id != self.tokenizer.eos_id:
            return self._verdict(
                claim,
                Kind.INCONCLUSIVE,
                f"only {n_generated} generated tokens could be judged",
                n_judged=n_generated,
                conventions=conventions,
            )
        if self.manifest.conventions == "llama2.c":
            return self._verdict(
                claim,
                Kind.MISMATCH,
                f"the tokens are right, but it claims to stop as llama2.c does: {how}",
                forward=Kind.EXACT,
                n_judged=n_generated,
                conventions=conventions,
            )
        return self._exact(claim, n_generated, conventions)

    def _beyond(self, claim: _Claim, reading: _Reading, conventions: tuple[str, ...]) -> Verdict:
        """All of the golden is there, and more text after it."""
        case = claim.case
        ids = [case.prompt_ids[0], *(case.ids or ())]
        n_prompt = len(case.prompt_ids) - 1
        extra = reading.text[reading.used :]
        if self.manifest.conventions == "llama2.c":
            return self._verdict(
                claim,
                Kind.MISMATCH,
                f"goes on where llama2.c stops, with {_text(extra[:_SHOWN])!r}",
                forward=Kind.EXACT,
                n_judged=case.n_generated,
                conventions=conventions,
            )
        if case.ends == "bos":
            return self._exact(claim, case.n_generated, (*conventions, "goes on after BOS, the end of a text"))
        path = self._walk(claim, extra, ids, case.n_generated)
        if path.wrong is not None:
            return self._mismatch(claim, path, conventions)
        n_more = len(path.ids) - len(ids)
        if n_more == n_prompt and n_prompt > 1:
            how = "steps count generated tokens only"
        elif n_more == 1:
            how = "runs one position more than it is asked to"
        else:
            how = f"runs {n_more} positions more than it is asked to"
        n_judged = case.n_generated + n_more
        if path.kind is Kind.EXACT:
            return self._exact(claim, n_judged, (*conventions, how))
        return self._explained(claim, path, (*conventions, how))

    def _echo_differs(self, claim: _Claim, reading: _Reading, conventions: tuple[str, ...]) -> Verdict:
        """The prompt is not echoed as the honest ids would be: other ids, or no echo that can be found."""
        wrong = self._as_wrong_encoding(claim, None, conventions)
        if wrong is not None:
            return wrong
        case = claim.case
        expected = b"".join(reading.pieces)
        at = reading.used
        return self._verdict(
            claim,
            Kind.MISMATCH,
            "the prompt's echo is not what its tokens print"
            if case.prompt
            else "the text is not the reference's from its first token on",
            tokenizer=Kind.MISMATCH if case.prompt else None,
            conventions=conventions,
            divergence=Divergence(
                step=0,
                position=reading.n_agreed + 1,
                expected=(case.ids or (None,))[min(reading.n_agreed, len(case.ids or (None,)) - 1)],
                actual=None,
                regret=math.nan,
                floor=math.nan,
                before=_text(expected[:at][-_SHOWN:]),
                expected_text=_text(expected[at : at + _SHOWN]),
                actual_text=_text(reading.text[at : at + _SHOWN]),
            ),
        )

    def _as_wrong_encoding(self, claim: _Claim, honest: Walk | None, conventions: tuple[str, ...]) -> Verdict | None:
        """Try the known wrong prompt ids: if one explains the text, the tokenizer is wrong and named."""
        case = claim.case
        if not case.prompt and honest is not None and len(honest.ids) > MIN_JUDGED:
            return None
        seen = {tuple(case.prompt_ids)}
        prompt = case.prompt or b""
        n_honest = 0 if honest is None else len(honest.ids) - len(case.prompt_ids)
        for name, description, rules in KNOWN_WRONG:
            try:
                ids = self.tokenizer.encode(prompt, bos=True, rules=rules)
            except TokenizerError:
                continue
            if not ids or tuple(ids) in seen:
                continue
            seen.add(tuple(ids))
            for printing, rest in self._continuations(claim, ids):
                claim.printing = printing
                path = self._walk(claim, rest, ids, 0)
                n_judged = len(path.ids) - len(ids)
                if path.wrong is not None or n_judged < min(MIN_JUDGED, case.n_generated) or n_judged <= n_honest:
                    continue
                kind = path.kind
                return self._verdict(
                    claim,
                    Kind.MISMATCH,
                    f"tokenizer: {description} ({name}); given those ids the forward pass is {kind}",
                    tokenizer=Kind.MISMATCH,
                    forward=kind,
                    n_judged=n_judged,
                    conventions=conventions,
                    certificates=tuple(path.certificates),
                    divergence=Divergence(
                        step=0,
                        position=0,
                        expected=None,
                        actual=None,
                        regret=math.nan,
                        floor=math.nan,
                        before="",
                        expected_text=f"prompt ids {_ids(case.prompt_ids)}",
                        actual_text=f"prompt ids {_ids(ids)}",
                    ),
                )
        return None

    def _continuations(self, claim: _Claim, ids: Sequence[int]) -> list[tuple[Printing, bytes]]:
        """What follows the prompt, if the prompt had these ids: (way of printing, bytes), without repeats."""
        case = claim.case
        found: dict[bytes, Printing] = {}
        for printing in self.reference.printings:
            pieces = printing.render(ids) if len(ids) > 1 else []
            echo = b"".join(pieces)
            first = printing.usual[ids[0]] if ids[0] != self.bos else b""
            for whole in dict.fromkeys((echo, first + echo, (first + echo).removeprefix(b" "), case.prompt or b"")):
                read = extract.best(
                    claim.seen.stdout,
                    prompt=case.prompt or b"",
                    expected=whole,
                    pattern=self.manifest.text,
                    echo=self.manifest.echo,
                )
                if read.echoes_prompt and read.text.startswith(whole):
                    found.setdefault(read.text[len(whole) :].removesuffix(b"\n"), printing)
                elif not read.echoes_prompt:
                    found.setdefault(read.text, printing)
        return [(printing, rest) for rest, printing in found.items() if rest]

    def _mismatch(self, claim: _Claim, path: Walk, conventions: tuple[str, ...]) -> Verdict:
        wrong = path.wrong
        assert wrong is not None
        assert claim.printing is not None
        case = claim.case
        claim.prefix = path.ids
        step = len(path.ids) - len(case.prompt_ids)
        divergence = self._divergence(claim, path, wrong, step)
        return self._verdict(
            claim,
            Kind.MISMATCH,
            _wrong_token(divergence, self._hint(wrong, path.ids)),
            tokenizer=Kind.EXACT if case.prompt and step > 0 else None,
            forward=Kind.MISMATCH,
            n_judged=step + 1,
            divergence=divergence,
            certificates=tuple(path.certificates),
            conventions=conventions,
        )

    def _hint(self, wrong: Choice, ids: Sequence[int]) -> str:
        """Say so where a lower precision than the declared one would explain the choice."""
        if wrong.token is None or not math.isfinite(wrong.regret) or self.manifest.precision != "f32":
            return ""
        if self.reference.is_int8:
            return ""
        for precision in ("f16", "bf16", "q8"):
            floor = self.reference.class_floor(precision)
            if floor is not None and wrong.regret <= MULTIPLE * floor(ids):
                return f"; within the noise of {precision}: if that is what it computes in, declare it"
        return ""

    def _divergence(self, claim: _Claim, path: Walk, wrong: Choice, step: int) -> Divergence:
        printing = claim.printing
        assert printing is not None
        case = claim.case
        shown = b"".join(printing.render(path.ids))
        ahead = [path.ids[-1], wrong.expected]
        session = self.reference.session()
        logits = session.extend([*path.ids, wrong.expected])[-1]
        rule = self._rule(case)
        for n in range(12):
            if ahead[-1] == self.bos or len(path.ids) + len(ahead) >= self.reference.config.seq_len:
                break
            ahead.append(rule.choose([], logits, range(len(logits)), step + 1 + n).expected)
            logits = session.extend([ahead[-1]])[-1]
        expected = b"".join(printing.of(a, b) for a, b in itertools.pairwise(ahead))
        rest = self._text_after(claim, shown)
        return Divergence(
            step=step,
            position=len(path.ids),
            expected=wrong.expected,
            actual=wrong.token,
            regret=wrong.regret,
            floor=wrong.floor,
            before=_text(shown[-_SHOWN:]),
            expected_text=_text(expected[:_SHOWN]),
            actual_text=_text(rest[:_SHOWN]),
        )

    def _text_after(self, claim: _Claim, shown: bytes) -> bytes:
        """The program's own bytes after the part that is right."""
        stdout = claim.seen.stdout
        tail = shown[-_SHOWN:]
        at = stdout.find(shown)
        if at >= 0:
            return stdout[at + len(shown) :]
        at = stdout.find(tail) if tail else 0
        return stdout[at + len(tail) :] if at >= 0 else b""

    # -- cases of other kinds ------------------------------------------------------------------------------------

    def _chat(self, claim: _Claim) -> Verdict:
        """A transcript is compared byte for byte: its conventions are what is tested."""
        case, stdout = claim.case, claim.seen.stdout
        if stdout.rstrip(b"\n") == case.stdout.rstrip(b"\n") and self.manifest.conventions != "llama2.c":
            return self._exact(claim, max(1, case.n_generated), ("no final newline",))
        at = next(
            (i for i, (a, b) in enumerate(zip(stdout, case.stdout, strict=False)) if a != b),
            min(len(stdout), len(case.stdout)),
        )
        return self._verdict(
            claim,
            Kind.MISMATCH,
            f"the transcript differs from byte {at:,} on",
            divergence=Divergence(
                step=0,
                position=at,
                expected=None,
                actual=None,
                regret=math.nan,
                floor=math.nan,
                before=_text(case.stdout[max(0, at - _SHOWN) : at]),
                expected_text=_text(case.stdout[at : at + _SHOWN]),
                actual_text=_text(stdout[at : at + _SHOWN]),
            ),
        )

    def _against_text(self, claim: _Claim) -> Verdict:
        """A golden of which only the text is published: the whole continuation is walked."""
        case = claim.case
        expected = case.stdout.removesuffix(b"\n")
        prompt = case.prompt or b""
        read = extract.best(claim.seen.stdout, prompt=prompt, expected=expected, pattern=self.manifest.text)
        if read.text == expected:
            return self._exact(claim, MIN_JUDGED, read.conventions)
        claim.printing = self.reference.printings[0]
        echo = b"".join(claim.printing.render(case.prompt_ids)) if read.echoes_prompt else b""
        path = self._walk(claim, read.text[len(echo) :], case.prompt_ids, 0)
        if path.wrong is None:
            return self._explained(claim, path, read.conventions)
        return self._as_wrong_encoding(claim, path, read.conventions) or self._mismatch(claim, path, read.conventions)

    # -- programs with another random generator ------------------------------------------------------------------

    def settle_generator(self, claims: Sequence[_Claim], verdicts: dict[str, Verdict]) -> None:
        """Where the seeded runs show another generator than llama2.c's, judge by nucleus membership alone.

        A port whose generator is llama2.c's agrees with its coins up to the step that is wrong; one with another
        generator agrees by luck only. The evidence is the surprise of the agreement, summed over the runs.
        """
        sampled = [c for c in claims if c.case.is_sampled and not c.case.is_chat]
        wrong = [c for c in sampled if verdicts[c.case.key].kind is Kind.MISMATCH and c.prefix]
        if not wrong or self.manifest.conventions == "llama2.c":
            return
        surprise = sum(self._surprise(claim, verdicts[claim.case.key]) for claim in sampled)
        if surprise > _SURPRISE_NATS:
            return
        for claim in wrong:
            verdicts[claim.case.key] = self._by_nucleus(claim, verdicts[claim.case.key])

    def _surprise(self, claim: _Claim, verdict: Verdict) -> float:
        """How unlikely the agreement with the known coins is by luck: -log of the drawn tokens' probability."""
        case = claim.case
        if verdict.kind is Kind.MISMATCH and not claim.prefix:
            return 0.0
        if verdict.kind is Kind.MISMATCH:
            ids = claim.prefix
        elif verdict.kind.is_green and case.ids:
            ids = [case.prompt_ids[0], *case.ids]
        else:
            return 0.0
        first = len(case.prompt_ids) - 1
        if len(ids) <= first + 1:
            return 0.0
        logits = self.reference.exact.logits(ids[:-1], first=first).astype(np.float64) / case.temperature
        logits -= logits.max(axis=1, keepdims=True)
        drawn = logits[np.arange(len(logits)), ids[first + 1 :]] - np.log(np.exp(logits).sum(axis=1))
        return float(-drawn.sum())

    def _by_nucleus(self, claim: _Claim, verdict: Verdict) -> Verdict:
        case = claim.case
        assert claim.printing is not None
        rule = _Member(case, self.reference.floor)
        rest = claim.rest
        path = walk(
            rest,
            case.prompt_ids,
            session=self.reference.session(),
            printing=claim.printing,
            rule=rule,
            max_tokens=self.reference.config.seq_len,
        )
        if path.wrong is not None or not path.choices:
            return replace(verdict, reason=f"{verdict.reason}; nor is it in the nucleus, whatever the generator")
        return replace(
            verdict,
            kind=Kind.UNSUPPORTED,
            reason=f"has another random generator than llama2.c; all {len(path.choices)} sampled tokens lie in"
            " the nucleus",
            divergence=None,
            n_judged=len(path.choices),
        )

    # ------------------------------------------------------------------------------------------------------------

    def _verdict(self, claim: _Claim, kind: Kind, reason: str = "", **facts: object) -> Verdict:
        verdict = _verdict(claim.case, self.impl, kind, reason, reproduce=_reproduce(claim))
        return replace(
            verdict,
            wall_s=claim.seen.wall_s,
            peak_rss_bytes=claim.seen.peak_rss_bytes,
            reported_tps=claim.seen.reported_tps,
            **facts,
        )


@dataclass(frozen=True)
class _Member:
    """The rule for programs with a generator of their own: any token of the nucleus will do."""

    case: Case
    floor: Callable[[Sequence[int]], float]

    def choose(self, ids: Sequence[int], logits: np.ndarray, candidates: Sequence[int], step: int) -> Choice:  # type: ignore[type-arg]
        best = int(logits.argmax())
        for token in sorted(candidates, key=lambda c: -float(logits[c])):
            if could_be_in_nucleus(logits, token, floor=1e-4, temperature=self.case.temperature, topp=self.case.topp):
                return Choice(token, Kind.EXACT, best)
            break
        return Choice(None, Kind.MISMATCH, best, math.inf)


# ---- small things ------------------------------------------------------------------------------------------------


def _agreement(text: bytes, pieces: Sequence[bytes]) -> tuple[int, int]:
    """How many pieces the text begins with, and how many bytes those are."""
    at = 0
    for n, piece in enumerate(pieces):
        if not text.startswith(piece, at):
            return n, at
        at += len(piece)
    return len(pieces), at


def _named(reading: _Reading) -> tuple[str, ...]:
    name = reading.printing.name
    return reading.conventions if name == LLAMA2C else (*reading.conventions, name)


def _verdict(case: Case, impl: Implementation, kind: Kind, reason: str = "", *, reproduce: str = "") -> Verdict:
    return Verdict(
        case=case.name,
        suite=case.suite,
        tags=case.tags,
        impl=impl.name,
        model=case.model.name,
        kind=kind,
        reason=reason,
        reproduce=reproduce,
    )


def _reproduce(claim: _Claim) -> str:
    line = claim.seen.command_line
    if claim.request.stdin:
        quoted = claim.request.stdin.decode("utf-8", "backslashreplace").replace("\n", "\\n").replace("'", "'\\''")
        line = f"printf '{quoted}' | {line}"
    cwd = claim.seen.cwd
    return f"cd {cwd} && {line}" if cwd and Path(cwd).is_dir() else line


def _wrong_token(d: Divergence, hint: str) -> str:
    if d.actual is None:
        return f"step {d.step}: no token prints what follows; the reference says {d.expected_text[:12]!r}"
    return (
        f"step {d.step}: token {d.actual} where {d.expected} is right; regret {d.regret:.3g}"
        f" against a floor of {d.floor:.2g}{hint}"
    )


def _ties(certificates: Sequence[object]) -> str:
    n = len(certificates)
    return f"{n} near tie{'s' if n != 1 else ''} taken the other way, each within the noise floor"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _ids(ids: Sequence[int]) -> str:
    shown = " ".join(map(str, ids[:24]))
    return f"{shown} ..." if len(ids) > 24 else shown


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
