"""Record the goldens that hold no run: texts with their ids, and fingerprints of logits.

Texts are fixed hard texts of a kind (`harness.tokenizer.hard_texts`) when a golden is made; one that is there asks
what it always asked. Their ids are our encoder's, and each must be the ids of every named program too; those that
SentencePiece defines (Unicode without U+2581, which it takes for a space) must also be the library's, which is given
the same pieces. Logits are the float64 reference's; a named program's must lie within the noise floor.
"""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from harness.adapters.implementation import Implementation
from harness.conformance.case import Case, ModelRef, Provenance, by_ids
from harness.conformance.judge_rows import judge_rows
from harness.conformance.record import PlannedCase, answer
from harness.conformance.reference import Reference
from harness.conformance.rows import Encoding, is_text, rounded
from harness.conformance.tokenizer_causes import shown
from harness.conformance.verify import files_for, reference_of
from harness.errors import CaseError, MissingDependency, TokenizerError
from harness.judging.fingerprint import fingerprint
from harness.models import ModelFiles, locate
from harness.results import Kind
from harness.tokenizer import Tokenizer, sentencepiece_model
from harness.tokenizer.hard_texts import each_hard_text, long_text

__all__ = ["record_rows"]

_META_SPACE = "\u2581".encode()
_MOST = 160  # texts of one golden, but for bytes
_LONG = (600, 1_500)  # bytes of the long texts: longer than usual buffers, and than the context


def record_rows(plan: PlannedCase, *, agree: Mapping[str, Implementation], old: Case | None = None) -> Case:
    """Answer a planned case of texts or logits, and have the answer confirmed.

    Args:
        agree: independent programs that speak the line protocol, by the name that the provenance gives them.
        old: the golden that is there: its texts are asked again.

    Raises:
        ModelNotFound: the model is not on this machine.
        MissingDependency: the package sentencepiece is not installed.
        CaseError: somebody does not agree.
        ValueError: nobody was asked to agree.
    """
    if not agree:
        raise ValueError("a golden needs an independent source beside the reference")
    files = locate(plan.model)
    reference = reference_of(files)
    case, sources = _texts(plan, files, reference, old) if plan.texts else _logits(plan, files, reference)
    for name, impl in agree.items():
        given = files_for(impl.manifest, files)
        verdict = judge_rows([case], impl, given, reference, levels=impl.manifest.levels)[case.key]
        if verdict.kind is not Kind.EXACT:
            raise CaseError(
                f"{case.key}: {name} does not agree: {verdict.kind}: {verdict.reason}",
                hint="a golden that two honest programs read differently is none: change the case",
            )
    agreed = tuple(dict.fromkeys((*sources, *agree)))
    if old is not None and (old.texts, old.decoded, old.fed, old.model) == (
        case.texts,
        case.decoded,
        case.fed,
        case.model,
    ):
        agreed = tuple(dict.fromkeys((*old.provenance.agreed, *agreed)))
    return replace(case, provenance=replace(case.provenance, agreed=agreed))


def _case(plan: PlannedCase, files: ModelFiles, mode: str, source: str, note: str = "", **answers: object) -> Case:
    model = ModelRef(plan.model, files.sha256, files.tokenizer_sha256, files.format)
    return by_ids(
        mode=mode,
        name=plan.name,
        suite=plan.suite,
        tags=plan.tags,
        why=plan.why,
        model=model,
        provenance=Provenance(source, (), note),
        **answers,  # type: ignore[arg-type]  # each is a field of Case
    )


# ---- texts and ids -------------------------------------------------------------------------------------------------


def _texts(
    plan: PlannedCase, files: ModelFiles, reference: Reference, old: Case | None
) -> tuple[Case, tuple[str, ...]]:
    tokenizer = reference.model.tokenizer
    if old is not None:
        texts, lists = [row.text for row in old.texts], [row.ids for row in old.decoded]
    else:
        texts, lists = list(_chosen(plan, tokenizer)), list(_id_lists(tokenizer)) if plan.texts == "decode" else []
    rows = tuple(Encoding(text, tuple(tokenizer.encode(text))) for text in texts)
    decoded = tuple(Encoding(tokenizer.decode(ids), tuple(ids)) for ids in lists)
    n_shared, name = _require_sentencepiece(plan, tokenizer, rows)
    note = f"sentencepiece was asked for the {n_shared} of {len(rows)} texts that it defines" if n_shared else ""
    # In the file those that are no UTF-8 come last.
    in_order = [tuple(sorted(some, key=lambda row: not is_text(row.text))) for some in (rows, decoded)]
    case = _case(plan, files, "encode", "harness tokenizer", note, texts=in_order[0], decoded=in_order[1])
    return case, (name,) if n_shared else ()


def _chosen(plan: PlannedCase, tokenizer: Tokenizer) -> Iterator[bytes]:
    """Yield the texts of a kind, each once, as far as the vocabulary can say them."""
    found: Iterator[bytes]
    if plan.texts == "long text":
        found = (long_text(n) for n in _LONG)
    elif plan.texts == "decode":
        found = iter(())
    else:
        found = (text for kind, text in each_hard_text(tokenizer) if kind == plan.texts)
        found, one_more = itertools.tee(found)
        if next(one_more, None) is None:
            raise CaseError(f"{plan.key}: there are no texts of the kind {plan.texts}")
    texts = list(dict.fromkeys(text for text in found if plan.texts != "byte" or len(text) == 1))
    most = len(texts) if plan.texts == "byte" else min(_MOST, len(texts))
    for text in (texts[n * len(texts) // most] for n in range(most)):
        try:
            tokenizer.encode(text)
        except TokenizerError:
            continue
        yield text


def _id_lists(tokenizer: Tokenizer) -> Iterator[tuple[int, ...]]:
    """Yield ids that no text becomes: byte pieces of characters that are pieces, and pieces out of their place."""
    bos = tokenizer.bos_id
    yield from ((), (bos,), (bos, bos))
    spaced = [id_ for id_, piece in enumerate(tokenizer.pieces) if piece.startswith(b" ")]
    for id_ in spaced[:12]:
        yield from ((id_,), (bos, id_), (bos, id_, id_), (id_, id_))
    first = tokenizer.rules.byte_offset
    yield from ((bos, first + byte) for byte in range(1, 256))
    yield tuple(range(first + 1, first + 256))
    yield tuple(range(first + 256, tokenizer.vocab_size))


def _require_sentencepiece(plan: PlannedCase, tokenizer: Tokenizer, rows: Sequence[Encoding]) -> tuple[int, str]:
    """Ask the library for the ids of the texts that it defines; return how many, and its name."""
    shared = [row for row in rows if is_text(row.text) and _META_SPACE not in row.text]
    if not shared:
        return 0, ""
    encode, name = _sentencepiece(tokenizer)
    for row in shared:
        ids = [tokenizer.bos_id, *encode(row.text.decode())]
        if tuple(ids) != row.ids:
            raise CaseError(
                f"{plan.key}: {name} does not agree on {row.text[:60]!r}", expected=shown(row.ids), actual=shown(ids)
            )
    return len(shared), name


def _sentencepiece(tokenizer: Tokenizer) -> tuple[Callable[[str], list[int]], str]:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingDependency("sentencepiece is not installed; these goldens need it to agree") from error
    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model.dump(tokenizer))
    return model.encode, f"sentencepiece {importlib.metadata.version('sentencepiece')}"


# ---- logits --------------------------------------------------------------------------------------------------------


def _logits(plan: PlannedCase, files: ModelFiles, reference: Reference) -> tuple[Case, tuple[str, ...]]:
    if reference.is_int8:
        raise CaseError(f"{plan.key}: int8 logits depend on the order of sums, a golden cannot hold them")
    run = answer(plan)
    fed = [*run.prompt_ids[:1], *(run.ids or ())][: reference.config.seq_len]
    if max(plan.positions) >= len(fed):
        raise CaseError(f"{plan.key}: the run has {len(fed)} positions", expected=f"position {max(plan.positions)}")
    fed = fed[: max(plan.positions) + 1]
    exact, floors = reference.exact_logits(fed), reference.floors_along(fed)
    rows = tuple(rounded(fingerprint(at, exact[at], float(floors[at]))) for at in sorted(set(plan.positions)))
    return _case(
        plan, files, "logits", "float64 reference", prompt_ids=tuple(fed[:1]), ids=tuple(fed[1:]), rows=rows
    ), ()
