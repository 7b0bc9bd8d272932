"""`harness record`: make or renew goldens, showing what would change before anything is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from harness.adapters.implementation import ProcessImplementation, resolve
from harness.cli.options import words
from harness.cli.output import emit, tell
from harness.conformance.case import Case, write_case
from harness.conformance.record import (
    PlannedCase,
    difference,
    path_of,
    program_for,
    record,
    source_name,
    wanted,
)
from harness.conformance.record_rows import record_rows
from harness.errors import CaseError, InputError
from harness.models import ModelNotFound, impls_dir, locate

__all__ = ["command"]


def command(
    case: Annotated[
        str | None, typer.Option("--case", help="Only these cases; * and ? match.", show_default="all")
    ] = None,
    suite: Annotated[str, typer.Option("--suite", help="The suite they belong to.")] = "core",
    agree: Annotated[
        str, typer.Option("--agree", help="Independent implementations that must give the very same.")
    ] = "c",
    write: Annotated[bool, typer.Option("--write", help="Write what was shown; without it nothing is.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 1 if a golden differs from what is computed now; write nothing.")
    ] = False,
) -> int:
    """Make or renew goldens: the reference answers, independent programs must agree, and the difference is shown.

    Exit status 1 if a case was refused because a program does not agree, or, with --check, if a golden differs.
    """
    if write and check:
        raise InputError("either --write or --check", where="--write")
    programs = [program for spec in words(agree) or [] for program in resolve(spec, impls_dir(), progress=tell)]
    if not programs:
        raise InputError("a golden needs an independent program", where="--agree")
    found = wanted(suite, words(case))
    if not found:
        raise InputError(f"no case of {suite} can be recorded")
    changed = same = 0
    refused: list[str] = []
    absent: list[ModelNotFound] = []
    for plan, old in found:
        try:
            new = _recorded(plan, old, programs)
        except ModelNotFound as missing:
            tell(f"{plan.key} is skipped: {missing}")
            absent.append(missing)
            continue
        except CaseError as refusal:
            tell(f"refused: {refusal}")
            refused.append(plan.key)
            continue
        if (
            check and old is not None and (old.ids, old.texts) == (new.ids, new.texts)
        ):  # other sources may have agreed when it was made
            new = replace(new, provenance=replace(new.provenance, agreed=old.provenance.agreed))
        shown = difference(old, new)
        emit(shown)
        changed += bool(shown)
        same += not shown
        if shown and write:
            write_case(new, path_of(new))
            tell(f"{new.key} is written")
    if absent and not (changed or same or refused):
        raise absent[0]
    tell(_summary(changed, same, len(refused), len(absent), wrote=write))
    return 1 if refused or (check and changed) else 0


def _recorded(plan: PlannedCase, old: Case | None, programs: list[ProcessImplementation]) -> Case:
    container = locate(plan.model).format
    asked = [program_for(program, container) for program in programs]
    if plan.is_run:
        return record(plan, agree={source_name(program): program.run for program in asked}, old=old)
    return record_rows(plan, agree={source_name(program): program for program in asked}, old=old)


def _summary(changed: int, same: int, refused: int, absent: int, *, wrote: bool) -> str:
    counts = [f"{changed} {'written' if wrote else 'would change'}", f"{same} as they are"]
    if refused:
        counts.append(f"{refused} refused")
    if absent:
        counts.append(f"{absent} skipped")
    hint = "; --write writes them" if changed and not wrote else ""
    return ", ".join(counts) + hint
