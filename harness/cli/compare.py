"""`harness compare`: what has changed between two run files, of two checks or of two benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness import benchfile, runfile
from harness.bench import compare
from harness.cli.bench import console_for_stdout, print_changes, share_of
from harness.errors import InputError
from harness.results import Verdict
from harness.runfile import RunFile

__all__ = ["command"]


def command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A run file of harness check or harness bench.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another one, of the same command.")],
    tolerance: Annotated[
        str, typer.Option("--tolerance", help="Difference of speeds that counts for nothing.")
    ] = "5%",
    other_builds: Annotated[
        bool, typer.Option("--other-builds", help="Compare speeds although programs have changed.")
    ] = False,
) -> int:
    """Say what became wrong, was fixed or lost between two checks, or faster or slower between two benchmarks.

    Exit status 1 if something got worse. Speeds of different machines, models or builds are refused.
    """
    console = console_for_stdout()
    is_bench = [benchfile.is_bench(path) for path in (old, new)]
    if all(is_bench):
        changes = compare.changes(
            benchfile.read(old), benchfile.read(new), tolerance=share_of(tolerance), other_builds=other_builds
        )
        print_changes(console, changes)
        return int(any(change.is_worse or change.what == compare.NOT_ASKED for change in changes))
    if any(is_bench):
        raise InputError("one is of a benchmark and the other of a check", path=new if is_bench[1] else old)
    found = _verdict_changes(runfile.read(old), runfile.read(new))
    shown = Table(title="What has changed")
    for heading in ("program", "case", "was", "is", "change"):
        shown.add_column(heading)
    for line in found:
        shown.add_row(*line)
    console.print(shown if found else "Every verdict is what it was.")
    return int(any(line[-1] in _WORSE for line in found))


_WORSE = ("became wrong", "coverage lost", "newly skipped")


def _verdict_changes(old: RunFile, new: RunFile) -> list[tuple[str, str, str, str, str]]:
    """List (program, case, old kind, new kind, what that means), what is worse first."""
    before, after = _by_case(old.verdicts), _by_case(new.verdicts)
    found = []
    for key in [*before, *(key for key in after if key not in before)]:
        a, b = before.get(key), after.get(key)
        what = _change(a, b)
        if what:
            found.append((key[0], key[1], a.kind.value if a else "", b.kind.value if b else "", what))
    return sorted(found, key=lambda line: line[-1] not in _WORSE)


def _by_case(verdicts: tuple[Verdict, ...]) -> dict[tuple[str, str], Verdict]:
    return {(v.impl, f"{v.suite}/{v.case}"): v for v in verdicts}


def _change(old: Verdict | None, new: Verdict | None) -> str:
    if old is None or new is None:
        return "new" if old is None else "coverage lost"
    if old.kind is new.kind:
        return ""
    if new.kind.is_failure and not old.kind.is_failure:
        return "became wrong"
    if old.kind.is_green and not new.kind.is_green:
        return "became wrong" if new.kind.is_failure else "newly skipped"
    if new.kind.is_green and not old.kind.is_green:
        return "fixed" if old.kind.is_failure else "newly judged"
    return "changed"
