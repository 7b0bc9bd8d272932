"""`harness tokenizer`: put thousands of hard texts to a program's encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from harness.adapters.implementation import ProcessImplementation, resolve, resolve_lines
from harness.adapters.process import Limits
from harness.cli.options import words
from harness.cli.output import emit, tell
from harness.conformance.tokenizer_check import Check, Disagreement, check_by_text, check_program
from harness.errors import ImplementationError, InputError
from harness.models import impls_dir, locate
from harness.results import Kind, Verdict, kind_of_failure

__all__ = ["command"]

_MOST_BY_TEXT = 48  # each is a run of the program
_SHOWN = 5


def command(
    program: Annotated[
        str, typer.Argument(metavar="IMPL", help="A name in impls/, an impl.toml, or a quoted command line.")
    ],
    models: Annotated[str, typer.Option("--models", help="Models whose vocabularies are used.")] = "gqa",
    texts: Annotated[int, typer.Option("--texts", min=1, help="Texts for each model.")] = 5000,
    seed: Annotated[int, typer.Option("--seed", help="Of the mixtures that follow the fixed texts.")] = 1,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="Seconds for each request.")] = 10.0,
) -> int:
    """Put thousands of hard texts to a program's encoder and decoder, and say what it does wrong.

    The program speaks the line protocol (docs/protocol.md); one that only prints text is checked in part, by 48 runs.
    Exit status 1 if something is wrong, or was not checked.
    """
    impl = _program(program)
    kinds: list[Kind] = []
    for name in words(models) or []:
        if not impl.manifest.protocol:
            n_texts = min(texts, _MOST_BY_TEXT)
            verdicts = check_by_text(impl, locate(name), n_texts=n_texts, limits=Limits(time_s=timeout_s))
            kinds.append(_kind_by_text(verdicts))
            emit(_described_by_text(impl.name, name, kinds[-1], verdicts))
            continue
        try:
            found = check_program(impl, locate(name), n_texts=texts, seed=seed, limits=Limits(time_s=timeout_s))
        except ImplementationError as failure:
            kinds.append(kind_of_failure(failure))
            emit(f"{impl.name} on {name}: {kinds[-1]}: {failure.what}\n")
            continue
        kinds.append(found.verdict)
        emit(_described(impl.name, name, found))
    return 0 if kinds and all(kind is Kind.EXACT for kind in kinds) else 1


def _program(spec: str) -> ProcessImplementation:
    try:
        return resolve_lines(spec, impls_dir(), progress=tell)
    except InputError:
        known = [impl for impl in resolve(spec, impls_dir(), progress=tell) if not impl.manifest.protocol]
        if not known:
            raise
        return known[0]


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


def _described(impl: str, model: str, found: Check) -> str:
    rate = found.n_texts / found.took_s if found.took_s else 0.0
    lines = [f"{impl} on {model}: {found.verdict}: {found.n_texts:,} texts in {found.took_s:.1f} s ({rate:,.0f}/s)"]
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
    if found.is_quadratic:
        lines.append(
            f"  slow: 16,000 bytes take {found.long_s:.2f} s to encode; "
            f"the time grows with the length to the power of {found.exponent:.1f}"
        )
    return "\n".join(lines) + "\n"


def _example(one: Disagreement) -> list[str]:
    what = f"decode {' '.join(map(str, one.ids))}" if one.ids else f"encode {one.text!r}"
    return [f"  {one.kind}: {what}", f"    expected {one.expected}", f"    actual   {one.actual}"]
