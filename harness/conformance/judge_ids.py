"""Judge of token ids: what a program answered through the line protocol, turned into a Verdict.

Ids leave nothing to guess: a continuation that is not the golden one is judged as it is, one token at a time, and a
wrong tokenizer and a wrong forward pass are told apart, because the forward pass is always given the honest ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.conformance.claim import Claim, last_line
from harness.conformance.judge import Judge
from harness.errors import ImplementationError
from harness.judging.floor import MULTIPLE, RUN_QUANTILE
from harness.judging.logits import Fit, fit, how_wrong, quality
from harness.judging.text_walk import Rule, Walk
from harness.results import Kind, Verdict, kind_of_failure
from harness.tokenizer.bpe import KNOWN_WRONG

__all__ = ["IdClaim", "IdJudge"]

Array = npt.NDArray[Any]


@dataclass(slots=True)
class IdClaim(Claim):
    """What a program answered to one case.

    Attributes:
        encoded: the ids that it gave for the prompt; None where it does not offer that.
        generated: the ids that it gave after the honest prompt ids.
        asked: a command line that puts the deciding request again.
        fed, first, logits, asked_logits: the sequence whose logits were asked for, from which position on, what
            came, and the command line; empty where they were not.
    """

    encoded: list[int] | None = None
    generated: list[int] = field(default_factory=list)
    asked: str = ""
    fed: list[int] = field(default_factory=list)
    first: int = 0
    logits: npt.NDArray[np.float32] | ImplementationError | None = None
    asked_logits: str = ""

    @property
    def reproduce(self) -> str:
        return self.asked


class IdJudge(Judge):
    """Judges claims in ids."""

    def verdict(self, claim: Claim) -> Verdict:
        """Judge one claim."""
        assert isinstance(claim, IdClaim)
        case, failure = claim.case, claim.seen.failure
        claim.printing = self.reference.printings[0]
        if failure is not None:
            tail = last_line(claim.seen.stderr_tail)
            return self._verdict(claim, kind_of_failure(failure), f"{failure.what}: {tail}" if tail else failure.what)
        found = self._forward(claim)
        if claim.encoded is None:
            return replace(found, tokenizer=None)
        if claim.encoded == list(case.prompt_ids):
            return replace(found, tokenizer=Kind.EXACT)
        claim.encodings = self._encodings(case.prompt or b"", claim.encoded)
        return replace(
            found,
            kind=Kind.MISMATCH,
            reason=self._wrong_tokenizer(claim, claim.encodings, found),
            tokenizer=Kind.MISMATCH,
        )

    def logits_verdict(self, claim: IdClaim) -> Verdict:
        """Judge the logits along the golden sequence, against the noise floor of each position."""
        assert claim.logits is not None
        if isinstance(claim.logits, ImplementationError):
            failure = claim.logits
            verdict = self._verdict(claim, kind_of_failure(failure), failure.what)
            return replace(verdict, reproduce=claim.asked_logits)
        reference = self.reference
        exact = reference.exact_logits(claim.fed, claim.first)
        # Where the reference has no number, none is right.
        numbers = np.isfinite(exact).all(axis=0) | np.isfinite(claim.logits).any(axis=0)
        exact, claim.logits = exact[:, numbers], claim.logits[:, numbers]
        usual = np.full(len(exact), reference.floors(self.manifest.precision, claim.fed).usual)
        found = fit(exact, claim.logits, usual)
        floors = usual
        if found.distance.max() > MULTIPLE * usual[0]:
            for floors in reference.rising_floors(claim.fed, claim.first):
                found = fit(exact, claim.logits, floors)
                if found.is_within(floors) and not found.convention:
                    break
        kind, reason = Kind.EXACT, ""
        declared = reference.floors(self.manifest.precision, claim.fed).declared
        if not found.is_within(floors):
            kind = Kind.MISMATCH
            if declared is not None and np.quantile(found.distance, RUN_QUANTILE) <= MULTIPLE * declared:
                kind, reason = (
                    Kind.WITHIN,
                    f"inside the noise of {self.manifest.precision}, the precision it declares",
                )
        if kind is Kind.MISMATCH:
            reason = self._wrong_logits(claim, exact, claim.logits, floors, found)
        return replace(
            self._verdict(claim, kind, reason),
            reproduce=claim.asked_logits,
            n_judged=max(0, len(claim.fed) - max(claim.first, len(claim.case.prompt_ids) - 1)),
            conventions=(found.convention,) if found.convention else (),
        )

    def _wrong_logits(self, claim: IdClaim, exact: Array, actual: Array, floors: Array, found: Fit) -> str:
        """Say how the logits are wrong, where most, and what that does to the text."""
        row, id_ = found.worst
        following = claim.fed[claim.first + 1 :]
        words = [how_wrong(exact, actual, floors)]
        in_floors = found.distance[row] / max(float(floors[row]), 1e-30)
        words.append(
            f"most at position {claim.first + row}, id {id_}: expected {exact[row, id_]:.6g}, "
            f"actual {actual[row, id_]:.6g}, {in_floors:.3g} noise floors apart"
        )
        if np.isfinite(actual).all():
            means = quality(exact, actual, following)
            words.append(
                f"KL {means.kl.mean:.2g} nats (99 %: {means.kl_99:.2g}), same likeliest id {means.top_1.mean:.1%}, "
                f"perplexity {means.perplexity:.4g} for {means.reference_perplexity:.4g}"
            )
        return "; ".join(words)

    def settle_tokenizer(self, claims: Sequence[IdClaim], verdicts: dict[str, Verdict]) -> None:
        """Name the tokenizer that explains the ids of all prompts; where none does, each keeps its own names."""
        wrong = {claim.case.key: claim for claim in claims if verdicts[claim.case.key].tokenizer is Kind.MISMATCH}
        judged = [claim for claim in claims if claim.encoded is not None]
        everywhere = [
            name
            for name, _, _ in KNOWN_WRONG
            if all(
                name in claim.encodings if claim.case.key in wrong else self.encodes_alike(claim.case, name)
                for claim in judged
            )
        ]
        for key, claim in wrong.items() if everywhere else ():
            verdict = verdicts[key]
            verdicts[key] = replace(verdict, reason=self._wrong_tokenizer(claim, everywhere, verdict))

    def _wrong_tokenizer(self, claim: IdClaim, names: Sequence[str], found: Verdict) -> str:
        """Say what is wrong with a tokenizer, given the known wrong ones that explain it."""
        what = ", or ".join(description for name, description, _ in KNOWN_WRONG if name in names)
        if not what:
            what = "the prompt's ids are wrong, in no known way"
        honest, actual = list(claim.case.prompt_ids), claim.encoded or []
        pairs = enumerate(zip(actual, honest, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(actual), len(honest)))
        shown = [" ".join(map(str, ids[at : at + 6])) or "nothing" for ids in (actual, honest)]
        named = f" ({', '.join(names)})" if names else ""
        return (
            f"tokenizer: {what}{named}: from id {at} on {shown[0]} where {shown[1]} is right; "
            f"given the right ids the forward pass is {found.forward or 'not asked'}"
        )

    def _encodings(self, prompt: bytes, actual: list[int]) -> tuple[str, ...]:
        """Name the known wrong tokenizers that give these ids."""
        return tuple(name for name, _, _ in KNOWN_WRONG if self.encoded_wrong(prompt, name) == tuple(actual))

    def _forward(self, claim: IdClaim) -> Verdict:
        """Judge the continuation of the honest prompt ids."""
        case, generated = claim.case, claim.generated
        expected = None if case.ids is None else list(case.ids[len(case.prompt_ids) - 1 :])
        if expected is not None and generated == expected:
            claim.prefix = [case.prompt_ids[0], *(case.ids or ())]
            return replace(self._exact(claim, len(generated)), forward=Kind.EXACT if generated else None)
        eos = self.tokenizer.eos_id
        if expected is not None and generated[-1:] == [eos] and generated == expected[: len(generated)]:
            how = "stops at EOS"
            if self.is_llama2c:
                return self._unlike_llama2c(claim, f"stop as llama2.c does: {how}", len(generated), (how,))
            return self._exact(claim, len(generated), (how,))
        path = self._walk(claim, b"", case.prompt_ids, 0)
        if path.wrong is not None:
            return self._mismatch(claim, path, ())
        path.next_id = generated[-1] if generated and generated[-1] in self.ends | {eos} else None
        return self._explained(claim, path, ())

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
        """Judge the generated ids one by one; there is no text to be read."""
        assert isinstance(claim, IdClaim)
        assert claim.printing is not None
        rule = rule or self._rule(claim.case)
        sequence = [*prefix, *claim.generated]
        pieces = [
            claim.printing.of(a, b) if b not in self.ends else b"" for a, b in pairwise(sequence[len(prefix) - 1 :])
        ]
        path = Walk(list(prefix), b"".join(pieces))
        limit = self.reference.config.seq_len
        rows = self.reference.exact.logits(sequence[:-1][:limit], first=len(prefix) - 1)
        for step, (row, token, piece) in enumerate(zip(rows, claim.generated, pieces, strict=True)):
            choice = rule.choose(path.ids, row, [token], step)
            path.choices.append(choice)
            if choice.kind is Kind.MISMATCH:
                path.wrong = choice
                break
            path.ids.append(token)
            path.used += len(piece)
        return path
