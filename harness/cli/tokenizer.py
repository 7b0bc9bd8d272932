"""`harness tokenizer`: put thousands of hard texts to an encoder and decoder, and compare with another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from harness.adapters.implementation import ProcessImplementation, resolve, resolve_lines
from harness.adapters.manifest import FILE_NAME
from harness.adapters.process import Limits
from harness.cli.options import words
from harness.cli.output import emit, tell
from harness.conformance.tokenizer_check import Check, Disagreement, check_by_text, check_sides
from harness.conformance.tokenizer_sides import SUFFIXES, File, Side, other_pieces, read_file
from harness.errors import ImplementationError, InputError
from harness.models import impls_dir, locate
from harness.results import Kind, Verdict, kind_of_failure

__all__ = ["command"]

_MOST_BY_TEXT = 48  # each is a run of the program
_SHOWN = 5


def command(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="A tokenizer file, a name in impls/, an impl.toml, or a quoted command line."
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            "--against", "-z", help="What is right: a tokenizer file, or a program.", show_default="the model's own"
        ),
    ] = None,
    models: Annotated[str, typer.Option("--models", help="Models whose vocabularies are used.")] = "gqa",
    texts: Annotated[int, typer.Option("--texts", min=1, help="Texts for each model.")] = 5000,
    seed: Annotated[int, typer.Option("--seed", help="Of the mixtures that follow the fixed texts.")] = 1,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="Seconds for each request.")] = 10.0,
) -> int:
    """Put thousands of hard texts to an encoder and decoder, and say what it does otherwise than another.

    A file is a tokenizer.bin, a tokenizer.json, a SentencePiece model, a list of ranks, or a GGUF or .lmw file with
    one. A program speaks the line protocol (docs/protocol.md); one that only prints text is checked in part, by 48
    runs. Exit status 1 if something is wrong, or was not checked.
    """
    judged, right = _side(subject), None if against is None else _side(against)
    sides = [side for side in (judged, right) if side is not None]
    if any(isinstance(side, ProcessImplementation) and not side.manifest.protocol for side in sides):
        if right is not None or not isinstance(judged, ProcessImplementation):
            hint = "leave --against out to check it in part, against its model's tokenizer"
            raise InputError("a program that only prints text has no ids to compare", where="--against", hint=hint)
        return _by_text(judged, words(models) or [], min(texts, _MOST_BY_TEXT), timeout_s)
    has_files_only = right is not None and all(isinstance(side, File) for side in sides)
    kinds: list[Kind] = []
    for model in [None] if has_files_only else words(models) or []:
        files = None if model is None else locate(model)
        name = _named(subject, judged) + (f" against {_named(against, right)}" if against and right else "")
        name += f" on {model}" if model else ""
        try:
            found = check_sides(judged, right, files=files, n_texts=texts, seed=seed, limits=Limits(time_s=timeout_s))
        except ImplementationError as failure:
            kinds.append(kind_of_failure(failure))
            emit(f"{name}: {kinds[-1]}: {failure.what}\n")
            continue
        kinds.append(found.verdict)
        pieces = ""
        if isinstance(judged, File) and isinstance(right, File):
            pieces = other_pieces(judged.tokenizer, right.tokenizer)
        emit(_described(name, found, pieces))
    return 0 if kinds and all(kind is Kind.EXACT for kind in kinds) else 1


def _side(spec: str) -> Side:
    path = Path(spec)
    is_file = path.suffix.lower() in SUFFIXES and path.is_file()
    if is_file or (path.is_dir() and not (path / FILE_NAME).is_file()):
        return read_file(path)
    return _program(spec)


def _named(spec: str, side: Side) -> str:
    return Path(spec).name if isinstance(side, File) else side.name


def _program(spec: str) -> ProcessImplementation:
    try:
        return resolve_lines(spec, impls_dir(), progress=tell)
    except InputError:
        known = [impl for impl in resolve(spec, impls_dir(), progress=tell) if not impl.manifest.protocol]
        if not known:
            raise
        return known[0]


def _by_text(impl: ProcessImplementation, models: Sequence[str], n_texts: int, timeout_s: float) -> int:
    kinds = []
    for name in models:
        verdicts = check_by_text(impl, locate(name), n_texts=n_texts, limits=Limits(time_s=timeout_s))
        kinds.append(_kind_by_text(verdicts))
        emit(_described_by_text(impl.name, name, kinds[-1], verdicts))
    return 0 if kinds and all(kind is Kind.EXACT for kind in kinds) else 1


def _kind_by_text(verdicts: Sequence[Verdict]) -> Kind:
    if any(verdict.tokenizer is Kind.MISMATCH for verdict in verdicts):
        return Kind.MISMATCH
    bad = [verdict.kind for verdict in verdicts if not verdict.kind.is_green]
    return bad[0] if bad else Kind.EXACT


def _described_by_text(impl: str, model: str, kind: Kind, verdicts: Sequence[Verdict]) -> str:
    n_right = sum(verdict.tokenizer is Kind.EXACT for verdict in verdicts)
    lines = [f"{impl} on {model}: {kind}, partial: {n_right} of {len(verdicts)} texts right, by what it prints"]
    wrong = [verdict for verdict in verdicts if not verdict.kind.is_green]
    lines += [f"  {verdict.case}: {verdict.kind}: {verdict.reason}" for verdict in wrong[:_SHOWN]]
    return "\n".join(lines) + "\n"


def _described(name: str, found: Check, pieces: str) -> str:
    rate = found.n_texts / found.took_s if found.took_s else 0.0
    lines = [f"{name}: {found.verdict}: {found.n_texts:,} texts in {found.took_s:.1f} s ({rate:,.0f}/s)"]
    if pieces:
        lines.append(f"  vocabulary: {pieces}")
    if found.unsupported:
        lines.append(f"  it does not offer {' and '.join(found.unsupported)}")
    if found.encode_wrong:
        cause = found.encode_cause or "in no known way"
        lines.append(f"  encode: {found.encode_wrong:,} wrong: {cause}")
        lines += [f"    {share:.0%} of them as if: {what}" for what, share in found.partly]
        lines += [f"    {kind}: {wrong:,} of {n:,}" for kind, (n, wrong) in found.by_kind.items() if wrong]
    if found.decode_wrong:
        cause = found.decode_cause or "in no known way"
        lines.append(f"  decode: {found.decode_wrong:,} of {found.n_decoded:,} wrong: {cause}")
    lines += [line for example in found.examples for line in _example(example)]
    grows = f"the time grows with the length to the power of {found.exponent:.1f}"
    if found.late_bytes:
        grown = "" if math.isnan(found.exponent) else f"; {grows}"
        lines.append(f"  slow: {found.late_bytes:,} bytes are not encoded in time (--timeout-s){grown}")
    elif found.is_quadratic:
        lines.append(f"  slow: 16,000 bytes take {found.long_s:.2f} s to encode; {grows}")
    return "\n".join(lines) + "\n"


def _example(one: Disagreement) -> list[str]:
    what = f"decode {' '.join(map(str, one.ids))}" if one.ids else f"encode {one.text!r}"
    return [f"  {one.kind}: {what}", f"    expected {one.expected}", f"    actual   {one.actual}"]
