"""Judge: what one program printed for one case, turned into a Verdict.

The text is found in the output and read in the way of printing that agrees with the golden furthest. Equal text is
EXACT. Otherwise the golden ids hold up to the first difference; from there the text is walked with the reference, and
where the honest prompt ids explain nothing, with the ids that known wrong tokenizers would give: then the tokenizer
and the forward pass each get a verdict of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from harness.adapters import extract
from harness.adapters.implementation import Implementation
from harness.conformance.case import Case
from harness.conformance.claim import BLANK, Claim, Reading, agreement, find_text, last_line, plain_verdict
from harness.conformance.draws import FairDraws, Member, chance
from harness.conformance.reference import Reference
from harness.engine import clamp_steps
from harness.engine.sampler import Xorshift, sample
from harness.errors import TokenizerError
from harness.judging.printing import Printing
from harness.judging.sampling import Draw
from harness.judging.text_walk import Choice, Floors, Greedy, Rule, Sampled, Walk, walk
from harness.results import Divergence, Kind, Verdict, kind_of_failure
from harness.tokenizer import Tokenizer
from harness.tokenizer.bpe import KNOWN_WRONG

__all__ = ["MIN_JUDGED", "Judge"]

MIN_JUDGED = 32
"""Generated tokens that must be judged for a green verdict, unless the golden itself has fewer."""

_SHOWN = 48  # bytes of each continuation that a divergence shows
_AHEAD = 12  # tokens of the reference's continuation that a divergence shows
_TRUSTED = 4  # generated tokens that must agree before what was set aside around them is called a convention
_MAX_READINGS = 6
_FEW_TIES = 4  # in a short text; honest float32 programs part at a near tie once in some ten thousand tokens


class Judge:
    """Judges the claims of one implementation about one model."""

    def __init__(self, impl: Implementation, reference: Reference) -> None:
        self.impl = impl
        self.manifest = impl.manifest
        self.reference = reference
        self.tokenizer = reference.model.vocabulary
        self.bos = self.tokenizer.bos_id
        self.ends = self.tokenizer.stop_ids
        self.is_llama2c = self.manifest.conventions == "llama2.c"

    def verdict(self, claim: Claim) -> Verdict:
        """Judge one claim."""
        case, seen = claim.case, claim.seen
        if seen.failure is not None:
            tail = last_line(seen.stderr_tail)
            reason = f"{seen.failure.what}: {tail}" if tail else seen.failure.what
            return self._verdict(claim, kind_of_failure(seen.failure), reason)
        if seen.stdout == case.stdout:
            return self._exact(claim, case.n_generated)
        if case.is_chat:
            return self._transcript(claim)
        if case.ids is None:
            return self._against_text(claim)
        reading = find_text(claim, self.reference.printings, self.manifest)
        claim.printing = reading.printing
        if not reading.text.strip(BLANK) and any(piece.strip(BLANK) for piece in reading.pieces):
            return self._verdict(claim, Kind.NO_OUTPUT, "it printed no text")
        if not case.n_generated and case.prompt and not any(reading.pieces):
            return self._nothing_asked(claim, reading)
        if not reading.is_exact:
            return self._differs(claim, reading)
        claim.rest = reading.text[sum(map(len, reading.pieces[: len(case.prompt_ids) - 1])) :]
        if self.is_llama2c:
            what = "; ".join(reading.named) or "its bytes differ"
            return self._unlike_llama2c(claim, f"print as llama2.c does: {what}", case.n_generated, reading.named)
        return self._exact(claim, case.n_generated, reading.named)

    # ---- walking ---------------------------------------------------------------------------------------------

    def _floors(self, case: Case) -> Floors:
        sequence = [case.prompt_ids[0], *(case.ids or case.prompt_ids)[:-1]]
        return self.reference.floors(self.manifest.precision, sequence)

    def _rule(self, case: Case) -> Rule:
        reference, config = self.reference, self.reference.config
        floors = self._floors(case)
        if not case.is_sampled:
            argmax = reference.exact.ops.argmax
            return Greedy(lambda logits: argmax(config, logits), floors)
        rng = Xorshift.from_argument(case.seed)
        coins = [rng.coin() for _ in range(clamp_steps(case.steps, config.seq_len) + 1)]
        return Sampled(
            lambda logits, coin: sample(logits, temperature=case.temperature, topp=case.topp, coin=coin),
            coins,
            case.temperature,
            case.topp,
            floors,
        )

    def _walk(
        self,
        claim: Claim,
        text: bytes,
        prefix: Sequence[int],
        n_generated: int,
        *,
        rule: Rule | None = None,
        agreed: Sequence[int] = (),
    ) -> Walk:
        assert claim.printing is not None
        return walk(
            text,
            prefix,
            session=self.reference.session(),
            printing=claim.printing,
            rule=rule or self._rule(claim.case),
            agreed=agreed,
            n_generated=n_generated,
            max_positions=self.reference.config.seq_len,
        )

    # ---- what a difference turns out to be -------------------------------------------------------------------

    def _differs(self, claim: Claim, reading: Reading) -> Verdict:
        """Judge a text that is not the golden one in any way of printing."""
        case = claim.case
        ids = [case.prompt_ids[0], *(case.ids or ())]
        n_prompt = len(case.prompt_ids) - 1
        n_generated = reading.n_agreed - n_prompt
        trusted = reading.named if n_generated >= min(_TRUSTED, case.n_generated) else ()
        if not case.n_generated:
            return self._echo_of_other_length(claim, reading)
        if n_generated < 0:
            return self._echo_differs(claim, reading)
        claim.rest = reading.text[sum(map(len, reading.pieces[:n_prompt])) :]
        if reading.n_agreed == len(ids) - 1:
            return self._goes_on(claim, reading.text[reading.used :], trusted)
        rest, next_id = reading.text[reading.used :], ids[reading.n_agreed + 1]
        if not rest or (
            next_id == self.tokenizer.eos_id and not rest.strip(b"\n")
        ):  # the piece of EOS begins with one
            if rest:
                trusted = tuple(name for name in trusted if name != extract.NO_NEWLINE)
            return self._stopped_short(claim, n_generated, trusted)
        # The ids before the difference may be read otherwise, but for one whose space was dropped.
        first = n_prompt + (extract.NO_LEADING_SPACE in reading.conventions and n_generated > 0)
        path = self._walk(
            claim,
            reading.text[sum(map(len, reading.pieces[:first])) :],
            ids[: first + 1],
            first - n_prompt,
            agreed=ids[first + 1 : reading.n_agreed + 1],
        )
        if path.wrong is None:
            return self._explained(claim, path, trusted)
        found = self._as_wrong_encoding(claim, path)
        if found is not None:
            return found
        found = self._mismatch(claim, path, trusted)
        if reading.pieces[reading.n_agreed].startswith(reading.text[reading.used :]):
            how = f"the text ends in the middle of a token, after {n_generated} of {case.n_generated}"
            found = replace(found, reason=f"{found.reason}; {how}")
        return found

    def _explained(self, claim: Claim, path: Walk, conventions: tuple[str, ...]) -> Verdict:
        """The whole text is what the reference allows; is it enough of it?"""
        case = claim.case
        wanted = clamp_steps(case.steps, self.reference.config.seq_len) - (len(case.prompt_ids) - 1)
        has_ended = path.next_id in self.ends | {self.tokenizer.eos_id}
        if not has_ended and len(path.ids) + path.n_silent - len(case.prompt_ids) < wanted - 1:
            has_ended = self._ends(claim, path)
        claim.prefix = path.ids
        n_judged = len(path.ids) - len(case.prompt_ids)
        kind = path.kind
        if self.is_llama2c and any(tie.floor == 0 for tie in path.certificates):
            return self._unlike_llama2c(claim, "take the first of logits that are equal", n_judged, conventions)
        if n_judged < min(MIN_JUDGED, case.n_generated) and not has_ended:
            kind, reason = Kind.INCONCLUSIVE, f"only {n_judged} generated tokens could be judged"
        elif n_judged + path.n_silent < wanted - 1 and not has_ended:
            kind, reason = Kind.INCONCLUSIVE, f"it stopped after {n_judged} of {wanted} tokens without a stop"
        elif kind is Kind.TIE and len(path.certificates) > max(_FEW_TIES, n_judged // 8):
            kind = Kind.INCONCLUSIVE
            reason = f"{len(path.certificates)} of {n_judged} tokens are near ties: too many to tell anything"
        elif kind is Kind.WITHIN and len(path.certificates) > max(_FEW_TIES, n_judged // 3):
            kind = Kind.INCONCLUSIVE
            reason = (
                f"{len(path.certificates)} of {n_judged} tokens are not the reference's: too many to tell anything"
            )
        elif kind is Kind.TIE:
            n = len(path.certificates)
            reason = f"{n} near tie{'s' * (n != 1)} taken the other way, each within the noise floor"
        elif kind is Kind.WITHIN:
            reason = f"inside the noise of {self.manifest.precision}, the precision that it declares"
        else:
            reason = ""
        return self._verdict(
            claim,
            kind,
            reason,
            tokenizer=Kind.EXACT if case.prompt else None,
            forward=path.kind,
            n_judged=n_judged,
            certificates=tuple(path.certificates),
            conventions=conventions,
        )

    def _ends(self, claim: Claim, path: Walk) -> bool:
        """Whether the noise allows an end behind a text, which then becomes a part of the path."""
        if len(path.ids) >= self.reference.config.seq_len:
            return False
        logits = self.reference.session().extend(path.ids)[-1]
        step = len(path.ids) - len(claim.case.prompt_ids)
        choice = self._rule(claim.case).choose(path.ids, logits, sorted(self.ends), step)
        if choice.token is None or choice.kind is Kind.MISMATCH:
            return False
        path.ids.append(choice.token)
        path.choices.append(choice)
        path.next_id = choice.token
        return True

    def _stopped_short(self, claim: Claim, n_generated: int, conventions: tuple[str, ...]) -> Verdict:
        """Everything printed is right, and then it ends before the golden does."""
        case = claim.case
        missing = case.n_generated - n_generated
        next_id = (case.ids or ())[len(case.prompt_ids) - 1 + n_generated]
        if next_id == self.tokenizer.eos_id:
            how = "stops at EOS"
        elif missing == 1:
            how = "runs one position fewer than it is asked to"
        elif not self._takes("{steps}"):
            how = "has a number of steps of its own"
        else:
            ids = [case.prompt_ids[0], *(case.ids or ())][: len(case.prompt_ids) + n_generated]
            path = Walk(ids, b"", [Choice(one, Kind.EXACT, one) for one in ids[len(case.prompt_ids) :]])
            if self._ends(claim, path):
                return self._explained(claim, path, conventions)
            # The same text in fewer steps: the prompt may have had more ids.
            wrong = self._as_wrong_encoding(claim, None, n_prompt=len(case.prompt_ids) + missing)
            reason = f"it stopped after {n_generated} of {case.n_generated} tokens without a stop"
            return wrong or self._verdict(
                claim,
                Kind.INCONCLUSIVE,
                reason,
                n_judged=n_generated,
                conventions=conventions,
            )
        conventions = (*conventions, how)
        if self.is_llama2c:
            return self._unlike_llama2c(claim, f"stop as llama2.c does: {how}", n_generated, conventions)
        least = 1 if next_id == self.tokenizer.eos_id else min(MIN_JUDGED, case.n_generated - 1)
        if n_generated < least:
            reason = f"only {n_generated} generated tokens could be judged"
            return self._verdict(claim, Kind.INCONCLUSIVE, reason, n_judged=n_generated, conventions=conventions)
        return self._exact(claim, n_generated, conventions)

    def _goes_on(self, claim: Claim, extra: bytes, conventions: tuple[str, ...]) -> Verdict:
        """All of the golden is there, and more text after it."""
        case = claim.case
        if self.is_llama2c:
            what = f"stop where llama2.c does: it goes on with {_text(extra[:_SHOWN])!r}"
            return self._unlike_llama2c(claim, what, case.n_generated, conventions)
        ids = [case.prompt_ids[0], *(case.ids or ())]
        if case.ends != "steps":
            return self._goes_on_after_bos(claim, extra, ids, conventions)
        path = self._walk(claim, extra, ids, case.n_generated)
        if path.wrong is not None:
            return self._as_wrong_encoding(claim, path) or self._mismatch(claim, path, conventions)
        n_more = len(path.ids) - len(ids)
        conventions = (*conventions, _more_positions(n_more, len(case.prompt_ids) - 1))
        if path.kind is Kind.EXACT:
            return self._exact(claim, case.n_generated + n_more, conventions)
        return self._explained(claim, path, conventions)

    def _goes_on_after_bos(
        self, claim: Claim, extra: bytes, ids: Sequence[int], conventions: tuple[str, ...]
    ) -> Verdict:
        """What follows the end of a text is no answer, but must be the model's: of the same sequence or a new one."""
        assert claim.printing is not None
        conventions = (*conventions, "goes on after BOS, the end of a text")
        n_generated = claim.case.n_generated
        paths = []
        for shown in dict.fromkeys((b"", self.tokenizer.pieces[self.bos], self.tokenizer.pieces[self.bos].strip())):
            rest = extra.removeprefix(shown)
            if not rest.strip(BLANK):
                return self._exact(claim, n_generated, conventions)
            if not extra.startswith(shown):
                continue
            for before in (ids, ids[:1]):
                path = self._walk(claim, rest, before, n_generated)
                if path.wrong is None:
                    return self._exact(claim, n_generated, conventions)
                paths.append(path)
        return self._mismatch(claim, max(paths, key=lambda path: path.used), conventions)

    def _nothing_asked(self, claim: Claim, reading: Reading) -> Verdict:
        """The golden is a cut-off echo, and the program echoes nothing: its own text, if any, must be right."""
        case = claim.case
        for text in dict.fromkeys((claim.stdout.removesuffix(b"\n"), b" " + claim.stdout.removesuffix(b"\n"))):
            if not text.strip(BLANK):
                return self._verdict(
                    claim, Kind.UNSUPPORTED, "asked for an echo only, and it does not echo the prompt"
                )
            path = self._walk(claim, text, case.prompt_ids, 0)
            if path.wrong is None and path.kind is Kind.EXACT:
                how = _more_positions(len(path.choices) + len(case.prompt_ids) - 1 - len(case.ids or ()), 0)
                return self._exact(claim, len(path.choices), (extract.NO_ECHO, how))
        return self._echo_differs(claim, reading)

    def _echo_of_other_length(self, claim: Claim, reading: Reading) -> Verdict:
        """The golden is a cut-off echo of a long prompt; the program ran another number of positions."""
        case = claim.case
        text = reading.text
        for printing in self.reference.printings:
            pieces = printing.render(case.prompt_ids)
            n, used = agreement(text, pieces)
            if not used or (used < len(text) and n < len(pieces)):
                continue
            claim.printing, claim.rest = printing, text[used:]
            n_more = n - len(case.ids or ())
            if used < len(text):
                path = self._walk(claim, text[used:], case.prompt_ids, 0)
                if path.wrong is not None:
                    return self._mismatch(claim, path, ())
                n_more += len(path.choices)
            how = _more_positions(n_more, len(case.prompt_ids) - 1)
            if self.is_llama2c:
                return self._unlike_llama2c(claim, f"stop where llama2.c does: it {how}", 0, (how,))
            return self._exact(claim, 0, (how,))
        return self._echo_differs(claim, reading)

    def _echo_differs(self, claim: Claim, reading: Reading) -> Verdict:
        """The prompt is not echoed as the honest ids would be: other ids, or no echo that can be found."""
        wrong = self._as_wrong_encoding(claim, None)
        if wrong is not None:
            return wrong
        return self._without_echo(claim, reading) or self._verdict(
            claim,
            Kind.MISMATCH,
            "the prompt's echo is not what its tokens print",
            divergence=_bytes_differ(
                b"".join(reading.pieces), reading.text, reading.used, position=reading.n_agreed + 1
            ),
        )

    def _without_echo(self, claim: Claim, reading: Reading) -> Verdict | None:
        """Judge the text as a bare continuation that leaves the golden at once; None if that is far-fetched."""
        case = claim.case
        if self.manifest.echo == "prompt":
            return None
        for text in (reading.text, b" " + reading.text):
            claim.rest = text
            path = self._walk(claim, text, case.prompt_ids, 0)
            n_right = len(path.ids) - len(case.prompt_ids)
            if self.manifest.echo == "none" or n_right >= _TRUSTED:
                conventions = (*reading.conventions, extract.NO_ECHO)
                if path.wrong is None:
                    return self._explained(claim, path, conventions)
                return self._mismatch(claim, path, conventions)
        return None

    def _mismatch(self, claim: Claim, path: Walk, conventions: tuple[str, ...]) -> Verdict:
        case, wrong = claim.case, path.wrong
        assert wrong is not None
        claim.prefix, claim.wrong = path.ids, wrong
        step = len(path.ids) - len(case.prompt_ids)
        divergence = self._divergence(claim, path, wrong, step)
        if wrong.token is None:
            reason = f"step {step}: no token prints {divergence.actual_text[:12]!r}"
        else:
            reason = f"step {step}: it writes {self._named(wrong.token)} where {self._named(wrong.expected)} is right"
        return self._verdict(
            claim,
            Kind.MISMATCH,
            reason,
            tokenizer=Kind.EXACT if case.prompt and step > 0 else None,
            forward=Kind.MISMATCH,
            n_judged=step + 1,
            divergence=divergence,
            certificates=tuple(path.certificates),
            conventions=conventions,
        )

    def _divergence(self, claim: Claim, path: Walk, wrong: Choice, step: int) -> Divergence:
        printing = claim.printing
        assert printing is not None
        shown = b"".join(printing.render(path.ids))
        return Divergence(
            step=step,
            position=len(path.ids),
            expected=wrong.expected,
            actual=wrong.token,
            regret=wrong.regret,
            floor=wrong.floor,
            before=_text(shown[-_SHOWN:]),
            expected_text=_text(self._continuation(claim, path.ids, wrong.expected, step)[:_SHOWN]),
            actual_text=_text(path.text[path.used :][:_SHOWN]),
        )

    def _named(self, token: int) -> str:
        return "the end" if token in self.ends else repr(_text(self.tokenizer.pieces[token]))

    def _continuation(self, claim: Claim, ids: Sequence[int], next_id: int, step: int) -> bytes:
        """What the program would print if it went on as the reference does."""
        printing = claim.printing
        assert printing is not None
        session, rule = self.reference.session(), self._rule(claim.case)
        ahead = [ids[-1], next_id]
        room = self.reference.config.seq_len - len(ids) - 1
        if room > 0:
            logits = session.extend([*ids, next_id])[-1]
        for n in range(min(_AHEAD, room)):
            if ahead[-1] in self.ends:
                break
            ahead.append(rule.choose([], logits, range(len(logits)), step + 1 + n).expected)
            logits = session.extend([ahead[-1]])[-1] if n + 1 < room else logits
        return b"".join(printing.of(a, b) for a, b in pairwise(ahead) if b not in self.ends)

    # ---- wrong tokenizers ------------------------------------------------------------------------------------

    def _as_wrong_encoding(self, claim: Claim, honest: Walk | None, *, n_prompt: int | None = None) -> Verdict | None:
        """Try the known wrong prompt ids: if some explain the text, the tokenizer is wrong and named.

        Args:
            honest: the walk after the honest ids, to be outdone.
            n_prompt: only encodings of this many ids.
        """
        case = claim.case
        claim.honest = honest
        n_honest = 0 if honest is None else len(honest.ids) - len(case.prompt_ids)
        encodings: dict[tuple[int, ...], list[tuple[str, str]]] = {}
        for name, description, _ in KNOWN_WRONG:
            ids = self.encoded_wrong(case.prompt or b"", name)
            if ids and ids != case.prompt_ids and (n_prompt is None or len(ids) == n_prompt):
                encodings.setdefault(ids, []).append((name, description))
        explained: Verdict | None = None
        printing = claim.printing
        for wrong_ids, names in encodings.items():
            verdict = self._given_ids(claim, wrong_ids, names[0][1], n_honest)
            if verdict is not None:
                claim.encodings += tuple(name for name, _ in names)
                explained = explained or verdict
        if explained is None:
            claim.printing = printing
        return explained

    def _given_ids(self, claim: Claim, ids: Sequence[int], description: str, n_honest: int) -> Verdict | None:
        """Judge a text as the continuation of wrong prompt ids; None if they do not explain it."""
        case = claim.case
        steps = clamp_steps(case.steps, self.reference.config.seq_len)
        least = max(_TRUSTED, min(MIN_JUDGED, case.n_generated, steps - len(ids)))
        for printing, rest in self._continuations(claim, ids):
            claim.printing = printing
            path = self._walk(claim, rest, ids, 0)
            n_judged = len(path.ids) - len(ids)
            if path.wrong is not None or n_judged < least or n_judged <= n_honest:
                continue
            return self._verdict(
                claim,
                Kind.MISMATCH,
                f"tokenizer: {description}; given its ids the forward pass is {path.kind}",
                tokenizer=Kind.MISMATCH,
                forward=path.kind,
                n_judged=n_judged,
                certificates=tuple(path.certificates),
                divergence=self.other_ids(case, ids),
            )
        return None

    def other_ids(self, case: Case, ids: Sequence[int]) -> Divergence:
        """Show wrong ids of a prompt beside the right ones."""
        return Divergence(
            step=0,
            position=0,
            expected=None,
            actual=None,
            regret=math.nan,
            floor=math.nan,
            before="",
            expected_text=f"prompt ids {_ids(case.prompt_ids)}",
            actual_text=f"prompt ids {_ids(ids)}",
        )

    def on_honest_ids(self, claim: Claim) -> Verdict | None:
        """The verdict if the prompt ids are taken to be right after all; None if they explain nothing."""
        claim.encodings = ()
        if claim.honest is None:
            return None
        claim.printing = claim.printing or self.reference.printings[0]
        return self._mismatch(claim, claim.honest, ())

    def encodes_alike(self, case: Case, name: str) -> bool:
        """Whether a known wrong tokenizer gives the honest ids for a case's prompt."""
        return self.encoded_wrong(case.prompt or b"", name) == case.prompt_ids

    def encoded_wrong(self, prompt: bytes, name: str) -> tuple[int, ...] | None:
        """Return the ids that a known wrong tokenizer gives; None where it has none: all have pieces with scores."""
        if not isinstance(self.tokenizer, Tokenizer):
            return None
        rules = next(rules for known, _, rules in KNOWN_WRONG if known == name)
        try:
            return tuple(self.tokenizer.encode(prompt, rules=rules))
        except TokenizerError:
            return None

    def _continuations(self, claim: Claim, ids: Sequence[int]) -> Iterator[tuple[Printing, bytes]]:
        """What follows the prompt, if the prompt had these ids: each (way of printing, bytes) once."""
        case = claim.case
        prompt = case.prompt or b""
        if claim.texts is None:
            readings = extract.candidates(claim.stdout, prompt=prompt, pattern=self.manifest.text)
            claim.texts = [reading.text for reading in readings[:_MAX_READINGS]]
        seen: set[bytes] = set()
        for printing in self.reference.printings:
            echo = b"".join(printing.render(ids)) if ids[-1] not in self.ends else b""
            first = printing.usual[ids[0]] if ids[0] != self.bos else b""
            for text in claim.texts:
                for whole in dict.fromkeys((echo, first + echo, (first + echo).removeprefix(b" "), prompt)):
                    rest = text[len(whole) :]
                    if text.startswith(whole) and rest and rest not in seen:
                        seen.add(rest)
                        yield printing, rest

    # ---- cases of other kinds --------------------------------------------------------------------------------

    def _transcript(self, claim: Claim) -> Verdict:
        """A chat is compared byte for byte: its conventions are what is tested."""
        case, stdout = claim.case, claim.seen.stdout
        if stdout.rstrip(b"\n") == case.stdout.rstrip(b"\n") and not self.is_llama2c:
            return self._exact(claim, case.n_generated, ("no final newline",))
        at = next(
            (i for i, (a, b) in enumerate(zip(stdout, case.stdout, strict=False)) if a != b),
            min(len(stdout), len(case.stdout)),
        )
        return self._verdict(
            claim,
            Kind.MISMATCH,
            f"the transcript differs from byte {at:,} on",
            divergence=_bytes_differ(case.stdout, stdout, at, position=at),
        )

    def _against_text(self, claim: Claim) -> Verdict:
        """A golden of which only the text is published: the whole continuation is walked."""
        case = claim.case
        expected = case.stdout.removesuffix(b"\n")
        read = extract.best(claim.stdout, prompt=case.prompt or b"", expected=expected, pattern=self.manifest.text)
        claim.printing = self.reference.printings[0]
        echo = b"".join(claim.printing.render(case.prompt_ids)) if read.echoes_prompt else b""
        claim.rest = read.text[len(echo) :]
        path = self._walk(claim, claim.rest, case.prompt_ids, 0)
        if path.wrong is None:
            return self._explained(claim, path, read.conventions)
        return self._as_wrong_encoding(claim, path) or self._mismatch(claim, path, read.conventions)

    # ---- what only all claims together show ------------------------------------------------------------------

    def surprise(self, claim: Claim, verdict: Verdict) -> float:
        """How unlikely the agreement with the known coins is by luck: -log of the drawn tokens' probability.

        For a program with another generator the chance of a surprise of at least s in one run is at most exp(-s).
        """
        case = claim.case
        ids = claim.prefix
        if verdict.kind is Kind.EXACT and case.ids:
            ids = [case.prompt_ids[0], *case.ids]
        first = len(case.prompt_ids) - 1
        if len(ids) <= first + 1:
            return 0.0
        logits = self.reference.exact.logits(ids[:-1], first=first)
        return -sum(
            math.log(max(chance(row, token, case), 1e-12))
            for row, token in zip(logits, ids[first + 1 :], strict=True)
        )

    def by_nucleus(self, claim: Claim) -> FairDraws | None:
        """How probable the draws of a run are; None if some token could not have been drawn by any generator."""
        case = claim.case
        declared = self._floors(case).declared
        member = Member(case) if declared is None else Member(case, declared)
        path = self._walk(claim, claim.rest, case.prompt_ids, 0, rule=member)
        if path.wrong is not None or not path.choices:
            return None
        first = len(case.prompt_ids) - 1
        limit = self.reference.config.seq_len
        rows = self.reference.exact.logits(path.ids[:limit], first=first)
        draws = [Draw(row, temperature=case.temperature, topp=case.topp) for row in rows]
        rng = Xorshift.from_argument(case.seed)
        n = len(path.choices)
        assert claim.printing is not None
        unseen = [*self.ends, self.tokenizer.eos_id, *claim.printing.candidates(path.ids[-1], b"")]
        could_stop = n < len(draws) and float(draws[n].p[unseen].sum()) > 1e-4
        return FairDraws(
            [draw.surprise(token) for draw, token in zip(draws, path.ids[first + 1 :], strict=False)],
            [
                bool(draw.drawable(np.array([token]), floor=member.floor, coin=float(rng.coin()))[0])
                for draw, token in zip(draws, path.ids[first + 1 :], strict=False)
            ],
            is_whole=could_stop or n >= clamp_steps(case.steps, limit) - first - 1,
        )

    # ----------------------------------------------------------------------------------------------------------

    def _takes(self, placeholder: str) -> bool:
        manifest = self.manifest
        given = [*manifest.run, manifest.stdin, *manifest.env.values(), *manifest.files.values()]
        return any(placeholder in word for word in given)

    def _exact(self, claim: Claim, n_judged: int, conventions: tuple[str, ...] = ()) -> Verdict:
        return self._verdict(
            claim,
            Kind.EXACT,
            tokenizer=Kind.EXACT if claim.case.prompt else None,
            forward=Kind.EXACT,
            n_judged=n_judged,
            conventions=conventions,
        )

    def _unlike_llama2c(self, claim: Claim, what: str, n_judged: int, conventions: tuple[str, ...]) -> Verdict:
        return self._verdict(
            claim,
            Kind.MISMATCH,
            f"the tokens are right, but it claims to {what}",
            tokenizer=Kind.EXACT if claim.case.prompt else None,
            forward=Kind.EXACT,
            n_judged=n_judged,
            conventions=conventions,
        )

    def _verdict(self, claim: Claim, kind: Kind, reason: str = "", **facts: Any) -> Verdict:
        return replace(
            plain_verdict(claim.case, self.impl.name, kind, reason),
            reproduce=claim.reproduce,
            wall_s=claim.seen.wall_s,
            peak_rss_bytes=claim.seen.peak_rss_bytes,
            reported_tps=claim.seen.reported_tps,
            **facts,
        )


def _more_positions(n: int, n_prompt: int) -> str:
    if n == n_prompt and n_prompt > 1:
        return "steps count generated tokens only"
    count = "one position" if abs(n) == 1 else f"{abs(n)} positions"
    return f"runs {count} {'more' if n >= 0 else 'fewer'} than it is asked to"


def _bytes_differ(expected: bytes, actual: bytes, at: int, *, position: int) -> Divergence:
    return Divergence(
        step=0,
        position=position,
        expected=None,
        actual=None,
        regret=math.nan,
        floor=math.nan,
        before=_text(expected[max(0, at - _SHOWN) : at]),
        expected_text=_text(expected[at : at + _SHOWN]),
        actual_text=_text(actual[at : at + _SHOWN]),
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _ids(ids: Sequence[int]) -> str:
    shown = " ".join(map(str, ids[:24]))
    return f"{shown} ..." if len(ids) > 24 else shown
