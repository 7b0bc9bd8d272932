"""After a MISMATCH: what all answers of one program about one model say together about its bug.

The judge's claims become evidence for the dictionary (`harness.diagnosis.naming`), and what it says is put beside
every verdict that it explains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from harness.adapters import extract
from harness.conformance.claim import Claim
from harness.conformance.judge import Judge
from harness.conformance.judge_ids import IdClaim
from harness.conformance.reference import Reference
from harness.diagnosis import CATALOGUE, Fault, Request
from harness.diagnosis.naming import Evidence, Noise, diagnose
from harness.diagnosis.naming.evidence import certain
from harness.judging.printing import Printing
from harness.results import Kind, Verdict

__all__ = ["evidence_of", "name_the_bug", "noise_of"]

_MOST_WEIGHTS = 60_000_000  # of a model on which every fault is tried: a hundred prefills
_MAX_READINGS = 6
_ENOUGH = 16  # bytes of a text that tell one reading of an output from another
_PRECISIONS = ("f16", "bf16", "q8")


def name_the_bug(
    judge: Judge,
    claims: Sequence[Claim],
    verdicts: dict[str, Verdict],
    suspects: Sequence[Fault] = CATALOGUE,
    *,
    version: int = 0,
) -> None:
    """Put a diagnosis beside every MISMATCH.

    Args:
        suspects: the faults that are tried; with none nothing is said.
        version: of llama2.c's container that the program read.
    """
    reference = judge.reference
    if not suspects or reference.config.n_params > _MOST_WEIGHTS or not _is_llama2c(reference):
        return
    usual = _usual_printing(judge, claims, verdicts)
    right = [verdict for verdict in verdicts.values() if verdict.kind.is_green]
    is_plain = not any(set(verdict.conventions) & extract.MORE_THAN_TEXT for verdict in right)
    evidence = [
        one
        for claim in claims
        if (one := evidence_of(judge, claim, verdicts[claim.case.key], usual, is_plain=is_plain))
    ]
    if all(one.is_right for one in evidence):
        return
    sequence = max((one.ids for one in evidence), key=len)[: reference.config.seq_len]
    found = diagnose(reference.model, evidence, noise=noise_of(reference, sequence), faults=suspects, version=version)
    for claim in claims:
        verdict = verdicts[claim.case.key]
        if verdict.kind is Kind.MISMATCH:
            verdicts[claim.case.key] = replace(verdict, diagnosis=found)


def noise_of(reference: Reference, sequence: Sequence[int]) -> Noise:
    """The noise of honest programs of a model, and of those of lower precisions, near a sequence."""
    if reference.is_int8:
        return Noise(reference.run_floor("int8", sequence))
    return Noise(reference.usual_floor, {one: reference.run_floor(one, sequence) for one in _PRECISIONS})


def _is_llama2c(reference: Reference) -> bool:
    """Whether the model has nothing that llama2.c's have not: the catalogue is about ports of llama2.c."""
    config = reference.config
    return config.block == type(config.block)() and config.rope_scaling is None


def _usual_printing(judge: Judge, claims: Sequence[Claim], verdicts: dict[str, Verdict]) -> Printing | None:
    """How a program prints, by its right texts; None where it has none."""
    first = judge.reference.printings[0]
    right = [claim.printing or first for claim in claims if verdicts[claim.case.key].kind.is_green]
    names = Counter(one.name for one in right)
    return max(right, key=lambda one: names[one.name], default=None)


def evidence_of(
    judge: Judge, claim: Claim, verdict: Verdict, usual: Printing | None, *, is_plain: bool
) -> Evidence | None:
    """What a claim says about its program's bug; None where it was not judged, or is no plain run.

    Args:
        usual: how the program prints, if that is known: a text with a wrong echo does not show it.
        is_plain: whether the program prints nothing but the text, as far as its right answers show.
    """
    case = claim.case
    is_right = verdict.kind.is_green
    if case.is_chat or case.ids is None or not (is_right or verdict.kind is Kind.MISMATCH):
        return None
    request = Request(
        prompt=case.prompt or b"",
        steps=case.steps,
        temperature=case.temperature,
        topp=case.topp,
        seed=case.seed,
    )
    prompt, golden = case.prompt_ids, (case.prompt_ids[0], *case.ids)
    printing = claim.printing or judge.reference.printings[0]
    if isinstance(claim, IdClaim):
        encoded = None if claim.encoded is None else tuple(claim.encoded)
        ids = (*prompt, *claim.generated)[: judge.reference.config.seq_len + 1]
        return Evidence(request, prompt, ids, is_right, True, printing, encoded=encoded)
    stdout = claim.seen.stdout
    texts = () if is_right else _texts(judge, claim)
    if is_right or (
        verdict.forward is not None and verdict.forward.is_green and verdict.tokenizer is not Kind.MISMATCH
    ):
        known = tuple(claim.prefix) or golden
        ids = known[: len(prompt) + verdict.n_judged] if len(golden) >= len(prompt) else golden
        text = b"".join(printing.render(ids))
        if is_right or not is_plain or text in texts[:1]:
            return Evidence(request, prompt, ids, is_right, True, printing, texts=(text,), stdout=stdout)
    ids = tuple(claim.prefix) if len(claim.prefix) >= len(prompt) else prompt
    shown = b"".join(printing.render(ids)[len(prompt) - 1 :])
    rest: bytes | None = claim.rest or None
    if verdict.tokenizer is Kind.MISMATCH or not claim.rest.startswith(shown):
        ids, printing = prompt, usual or printing  # and whatever follows an honest echo is read anew
    echo = b"".join(printing.render(prompt))
    if is_plain and len(shown) < _ENOUGH and texts and texts[0].startswith(echo):
        literal = texts[0][len(echo) :]  # no other reading agrees with more than luck would have it
        ids, rest = (ids, rest) if rest == literal else (prompt, literal or None)
    ids = certain(ids, len(prompt), printing, rest or b"")
    return Evidence(request, prompt, ids, False, False, printing, rest=rest, texts=texts, stdout=stdout)


def _texts(judge: Judge, claim: Claim) -> tuple[bytes, ...]:
    """Plausible readings of all that was printed."""
    if claim.texts is not None:
        return tuple(claim.texts)
    readings = extract.candidates(claim.stdout, prompt=claim.case.prompt or b"", pattern=judge.manifest.text)
    return tuple(reading.text for reading in readings[:_MAX_READINGS])
