"""The judge of relations: a program is compared with itself, asked twice in ways between which nothing may change.

No golden answer is needed. Where the two answers are the same, the relation holds. Where they differ, it may be that
both are right and parted at a near tie: then the judges of golden cases say so, about both, and it holds too. And a
program that answers otherwise each time cannot be compared with itself.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

from harness.adapters import extract
from harness.adapters.implementation import Implementation
from harness.adapters.manifest import Manifest
from harness.adapters.process import Limits
from harness.conformance.case import Case
from harness.conformance.claim import Claim, last_line, plain_verdict
from harness.conformance.fuzz.answer import golden
from harness.conformance.fuzz.recipe import Ask
from harness.conformance.judge import MIN_JUDGED, Judge
from harness.conformance.judge_ids import IdClaim, IdJudge
from harness.conformance.reference import Reference
from harness.conformance.relations.asking import Program, Question, Said, answered, changed_files
from harness.diagnosis.gauges import Draw
from harness.diagnosis.relations import Relation, by_name
from harness.engine import blas_threads
from harness.errors import InputError
from harness.models import Model, ModelFiles, load
from harness.results import Divergence, Kind, Verdict, kind_of_failure

__all__ = ["judge_relations"]

_SHOWN = 48  # bytes of each answer that are shown where they part
_BETWEEN = b"The cat"  # asked between two equal requests
_MAX_LOST = 3  # times in a row that a program hangs or does not start, before the rest is BLOCKED


def judge_relations(
    cases: Sequence[Case],
    impl: Implementation,
    files: ModelFiles,
    given: ModelFiles,
    *,
    fitting: Callable[[ModelFiles], ModelFiles],
    levels: Sequence[str],
    limits: Limits | None = None,
    threads: int = 1,
) -> dict[str, Verdict]:
    """Ask a program what may not differ, and compare.

    Args:
        cases: of mode "relation" and of one model.
        files: of the model.
        given: what the program is given in its place, which meets its needs.
        fitting: from files to files of the same function that meet the program's needs; InputError: there are none.
        levels: at which it is judged, of those that it claims: ids leave nothing to guess, texts must do without.

    Returns:
        Verdicts by the case's key.

    Raises:
        BuildFailed, MissingDependency: the program cannot be run here.
    """
    found: dict[str, Verdict] = {}
    if not cases:
        return found
    n_lost = 0
    model = load(files.checkpoint, files.tokenizer)
    with Program(impl, fitting, levels, limits, threads) as program:
        for case in cases:
            if n_lost >= _MAX_LOST:
                reason = f"{n_lost} cases before it could not be asked; not asked"
                found[case.key] = plain_verdict(case, impl.name, Kind.BLOCKED, reason)
                continue
            before = program.took_s
            verdict = _Trial(case, program, model, files, given).verdict()
            verdict = replace(verdict, wall_s=program.took_s - before)
            n_lost = n_lost + 1 if verdict.kind in (Kind.TIMED_OUT, Kind.START_FAILED) else 0
            found[case.key] = verdict
    return found


# ---- comparing ---------------------------------------------------------------------------------------------------


class _Trial:
    """One case."""

    def __init__(self, case: Case, program: Program, model: Model, files: ModelFiles, given: ModelFiles) -> None:
        self.case, self.program, self.model, self.files, self.given = case, program, model, files, given
        relation = by_name(case.relation)
        assert relation is not None, "checked where the case is read"
        self.relation: Relation = relation
        self.manifest: Manifest = program.manifest
        self.n_judged = 0
        self.certificates: list[Verdict] = []

    def verdict(self) -> Verdict:
        """Judge it."""
        reason = self._unsupported()
        if reason:
            return self._plain(Kind.UNSUPPORTED, reason)
        changed = self.given
        if self.relation.changed is not None:
            try:
                changed = self._changed()
            except InputError as unfit:
                return self._plain(Kind.UNSUPPORTED, f"cannot be given the changed model: {unfit}")
        for prompt in self.case.prompts:
            wrong = self._compared(prompt, changed)
            if wrong is not None:
                return wrong
        if self.certificates:
            ties = tuple(tie for verdict in self.certificates for tie in verdict.certificates)
            is_within = any(verdict.kind is Kind.WITHIN for verdict in self.certificates)
            reason = (
                f"the two answers part {'within its precision' if is_within else 'at a near tie'}; both are right"
            )
            kind = Kind.WITHIN if is_within else Kind.TIE
            return replace(self._plain(kind, reason), n_judged=self.n_judged, certificates=ties)
        if self.n_judged < MIN_JUDGED and self.relation.name != "seed-0":
            return replace(
                self._plain(Kind.INCONCLUSIVE, f"only {self.n_judged} tokens could be compared"),
                n_judged=self.n_judged,
            )
        return replace(self._plain(Kind.EXACT), n_judged=self.n_judged)

    def _unsupported(self) -> str:
        name, program, manifest = self.relation.name, self.program, self.manifest
        if not (program.speaks_ids or program.speaks_text):
            return "speaks neither in text nor in ids at these levels"
        if name == "continued" and not program.speaks_ids:
            return "asked by the line protocol, at level TOKENS, which it does not speak"
        if name in ("top-p-beyond-1", "seed-0"):
            if manifest.conventions != "llama2.c":
                return "a convention of llama2.c's, which it does not claim"
            if manifest.greedy_only:
                return "cannot sample"
            if not program.speaks_text:
                return "asked of the command line, at level TEXT"
        if name == "threads" and "threads" not in manifest.placeholders:
            return "cannot be told how many threads to use"
        if name == "own-kv-heads" and manifest.needs.mha:
            return "is always given such models"
        wanted = set() if manifest.greedy_only else {"temperature"}
        wanted |= {"steps"} if name == "more-steps" else set()
        if not program.speaks_ids and (missing := wanted - manifest.placeholders):
            return f"has no {min(missing)}, so it cannot be asked this"
        if (
            not program.speaks_ids
            and any(self.case.prompts)
            and not {"prompt", "prompt_args"} & manifest.placeholders
        ):
            return "has no way to be given a prompt"
        return self.relation.unfit(self.model)

    def _changed(self) -> ModelFiles:
        """Return the files of the changed model as the program can read them, made once."""
        return self.program.fitting(changed_files(self.relation, self.model, self.files, self.draw))

    @property
    def draw(self) -> Draw:
        """How much may be changed: less where numbers have little range, or share scales."""
        is_int8 = self.model.checkpoint.group_size is not None
        precision = self.manifest.precision
        if precision == "q8" and not is_int8:
            return Draw(largest=1, is_uniform=True)
        return Draw(largest=1 if precision == "f16" else 2 if is_int8 else 3)

    # ---- one prompt

    def _compared(self, prompt: bytes, changed: ModelFiles) -> Verdict | None:
        """Ask both ways; return a verdict if it is not that the relation holds."""
        name = self.relation.name
        plain = Question(self.given, prompt, self.case.steps, threads=self.program.threads)
        if name == "continued":
            one, other = self._continued(plain)
        elif name == "asked-again":
            one, other = self._asked_again(plain)
        else:
            in_text = name in ("top-p-beyond-1", "seed-0")
            first, second = self._two_questions(plain, changed)
            one = self.program.known(first, in_text=in_text)
            if one.seen.failure is None:
                other = self.program.ask(second, in_text=in_text)
        for said in (one, other) if one.seen.failure is None else (one,):
            if said.seen.failure is not None:
                return self._failed(said)
        n_same = self._n_same(one, other)
        if name == "seed-0":
            self.n_judged += 1
            if n_same is not None:
                return None
            drawn = self.program.ask(replace(other.question, seed=42), in_text=True)
            if self._n_same(one, drawn) is None:
                return self._plain(Kind.INCONCLUSIVE, "it draws the likeliest token with every seed")
            return self._broken(one, other)
        if n_same is None:
            self.n_judged += self._n_tokens(one)
            return None
        again = self.program.ask(one.question, in_text=one.ids is None)
        if name != "asked-again" and self._n_same(one, again) is not None:
            return self._plain(
                Kind.INCONCLUSIVE, "it answers otherwise each time, so it cannot be compared with itself"
            )
        both = []
        for said in (one, other):
            verdict = self._judged(said)
            if verdict is None or not verdict.kind.is_green:
                return self._broken(one, other)
            both.append(verdict)
        self.certificates += both
        self.n_judged += self._n_tokens(one)
        return None

    def _two_questions(self, plain: Question, changed: ModelFiles) -> tuple[Question, Question]:
        name = self.relation.name
        if name == "more-steps":
            return replace(plain, steps=max(1, plain.steps * 2 // 3)), plain
        if name == "threads":
            return replace(plain, threads=1), replace(plain, threads=2)
        if name == "top-p-beyond-1":
            drawn = replace(plain, temperature=1.0, seed=42)
            return replace(drawn, topp=0.9), replace(drawn, topp=1.5)
        if name == "seed-0":
            return plain, replace(plain, temperature=4.0, topp=0.9, seed=0)
        return plain, replace(plain, files=changed)

    def _continued(self, plain: Question) -> tuple[Said, Said]:
        """An answer, and its first half with what a request that begins behind that half gives."""
        with self.program.session(plain) as session:
            whole = answered(session, plain)
            assert whole.ids is not None
            prompt, found = whole.ids
            if whole.seen.failure is not None or len(found) < 2:
                return whole, whole
            half = [*prompt, *found[: len(found) // 2]]
            rest = answered(session, plain, half)
            if rest.seen.failure is None and rest.ids is not None:
                rest = replace(rest, ids=(prompt, [*found[: len(found) // 2], *rest.ids[1]]))
            return whole, rest

    def _asked_again(self, plain: Question) -> tuple[Said, Said]:
        """The same question twice; where one process answers both, with others in between."""
        if not self.program.speaks_ids:
            first = self.program.ask(plain)
            return first, first if first.seen.failure is not None else self.program.ask(plain)
        with self.program.session(plain) as session:
            first = answered(session, plain)
            if first.seen.failure is None:
                answered(session, replace(plain, prompt=_BETWEEN, temperature=1.0, seed=7))
                answered(session, replace(plain, prompt=_BETWEEN, steps=plain.steps // 2))
            return first, answered(session, plain)

    # ---- whether they are the same

    def _n_same(self, one: Said, other: Said) -> int | None:
        """How many tokens, or bytes, two answers have in common before they part; None: they are the same."""
        if one.ids is not None:
            return _parting(one.pieces, other.pieces, is_prefix=self.relation.name == "more-steps")
        if one.seen.stdout == other.seen.stdout:
            return None
        texts = self._texts(one, other)
        return _parting(*texts, is_prefix=self.relation.name == "more-steps")

    def _texts(self, one: Said, other: Said) -> tuple[bytes, bytes]:
        """The texts in two outputs, without what a program prints around them.

        The first is read as the right text would be found in it, and the second as the first.
        """
        if self.manifest.conventions == "llama2.c":
            return one.seen.stdout.removesuffix(b"\n"), other.seen.stdout.removesuffix(b"\n")

        def text(said: Said, expected: bytes) -> bytes:
            read = extract.best(
                said.seen.stdout,
                prompt=said.question.prompt,
                expected=expected,
                pattern=self.manifest.text,
                echo=self.manifest.echo,
            )
            return read.text

        _, case = self._golden(one.question)
        first = text(one, case.stdout.removesuffix(b"\n"))
        return first, text(other, first)

    def _n_tokens(self, said: Said) -> int:
        if said.ids is not None:
            return len(said.ids[1])
        text = said.seen.stdout.removesuffix(b"\n")
        n_prompt = len(self.model.vocabulary.encode(said.question.prompt))
        return max(0, len(self.model.vocabulary.encode(text.replace(b"\0", b""))) - n_prompt)

    def _judged(self, said: Said) -> Verdict | None:
        """What the judges of golden cases say of an answer; None where nothing can be said."""
        question = said.question
        if question.temperature:
            return None
        key = (question, said.seen.stdout, repr(said.ids))
        if key not in self.program.judged:
            reference, case = self._golden(question)
            with blas_threads(1):
                request = replace(case.request(question.files), threads=question.threads)
                if said.ids is None:
                    verdict = Judge(self.program.impl, reference).verdict(Claim(case, said.seen, request))
                else:
                    claim = IdClaim(case, said.seen, request, encoded=said.ids[0], generated=said.ids[1])
                    verdict = IdJudge(self.program.impl, reference).verdict(claim)
            self.program.judged[key] = verdict
        return self.program.judged[key]

    def _golden(self, question: Question) -> tuple[Reference, Case]:
        """The reference's own answer to a question."""
        files = question.files
        key = (files.sha256, files.tokenizer_sha256, question.prompt, question.steps)
        if key not in self.program.goldens:
            model = load(files.checkpoint, files.tokenizer)
            reference = Reference(model)
            prompt = model.vocabulary.encode(question.prompt)
            n = min(question.steps, model.checkpoint.config.seq_len) - (len(prompt) - 1)
            with blas_threads(1):
                self.program.goldens[key] = reference, golden(reference, prompt, Ask(max(1, n)))
        return self.program.goldens[key]

    # ---- verdicts

    def _plain(self, kind: Kind, reason: str = "") -> Verdict:
        return plain_verdict(self.case, self.program.impl.name, kind, reason)

    def _failed(self, said: Said) -> Verdict:
        failure = said.seen.failure
        assert failure is not None
        tail = last_line(said.seen.stderr_tail)
        where = "" if said.question.files == self.given else f", after {self.relation.what}"
        reason = f"{failure.what}: {tail}" if tail else failure.what
        return replace(self._plain(kind_of_failure(failure), reason + where), reproduce=said.line)

    def _broken(self, one: Said, other: Said) -> Verdict:
        what, look = self.relation.what, self.relation.look
        if self.relation.name == "seed-0":
            reason = f"{what} gives the same text\nlook at: {look}"
            return replace(self._plain(Kind.MISMATCH, reason), n_judged=1, reproduce=other.line)
        is_prefix = self.relation.name == "more-steps"
        if one.ids is not None:
            at = _parting(one.pieces, other.pieces, is_prefix=is_prefix) or 0
            before, expected, actual = (
                b"".join(pieces) for pieces in (one.pieces[:at], one.pieces[at:], other.pieces[at:])
            )
        else:
            first, second = self._texts(one, other)
            at = _parting(first, second, is_prefix=is_prefix) or 0
            before, expected, actual = first[:at], first[at:], second[at:]
        where = f"from {'token' if one.ids is not None else 'byte'} {at} on"
        may = "no bit of a logit may move" if self.relation.is_exact else "more than honest rounding may"
        reason = f"{what} changes the answer {where}: {may}\nlook at: {look}"
        parting = Divergence(
            step=at,
            position=at,
            expected=None,
            actual=None,
            regret=math.nan,
            floor=math.nan,
            before=_shown(before[-_SHOWN:]),
            expected_text=_shown(expected[:_SHOWN]),
            actual_text=_shown(actual[:_SHOWN]),
        )
        line = f"bash -c {shlex.quote(f'diff <({one.line}) <({other.line})')}"
        return replace(
            self._plain(Kind.MISMATCH, reason),
            n_judged=self.n_judged + self._n_tokens(one),
            divergence=parting,
            reproduce=line,
        )


def _parting(one: Sequence[object], other: Sequence[object], *, is_prefix: bool) -> int | None:
    """Where two sequences part; None: nowhere, or, if the first may be shorter, not before its end."""
    n = min(len(one), len(other))
    if one[:n] == other[:n] and (len(one) == len(other) or (is_prefix and len(one) == n)):
        return None
    return next((i for i in range(n) if one[i] != other[i]), n)


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")
