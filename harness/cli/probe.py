"""`harness probe`: models that make a program print the name of its own bug."""

from __future__ import annotations

import json as json_format
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from harness.adapters.implementation import resolve
from harness.adapters.process import Limits
from harness.cli.options import words
from harness.cli.output import check_targets, emit, is_stdout, tell
from harness.conformance.probing import Examination, examine, probes_for
from harness.diagnosis.diagnosis import Conclusion
from harness.diagnosis.self_naming.files import make
from harness.errors import InputError
from harness.models import impls_dir

__all__ = ["command", "render"]


def command(
    target: Annotated[
        list[str],
        typer.Argument(
            metavar="IMPL | make DIR",
            help="A name in impls/, the path of an impl.toml, or a program with llama2.c's flags. make DIR: only "
            "write the models, with a README for people who have nothing installed.",
        ),
    ],
    models: Annotated[
        str | None,
        typer.Option(
            "--models", help="Make every probe of each of these models.", show_default="a selection of ours"
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads the program is to use.")] = 1,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout-s", min=0.001, help="Seconds for each run.", show_default="manifest's, or 60"),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write a JSON document; - is stdout.")] = None,
) -> int:
    """Make a program print the name of its own bug.

    The program is run on some crafted models, one greedy token each; the names that it prints are intersected. Exit
    status 1 if a bug is named, or if something is wrong that no known bug explains.
    """
    check_targets(json)
    if target[0] == "make":
        if len(target) != 2:
            raise InputError("needs a directory", where="harness probe make", hint="harness probe make DIR")
        written = make(Path(target[1]), words(models), progress=tell)
        emit(f"{written.n_probes} probes in {target[1]}; start with {written.readme}\n")
        return 0
    spec = target[0] if len(target) == 1 else shlex.join(target)
    found = resolve(spec, impls_dir(), progress=tell)
    if len(found) > 1:
        named = ", ".join(one.name for one in found)
        raise InputError(f"is {len(found)} implementations", where=spec, hint=f"name one: {named}")
    result = examine(
        found[0],
        probes_for(found[0].manifest, words(models), progress=tell),
        threads=threads,
        limits=Limits(time_s=timeout_s) if timeout_s is not None else None,
    )
    if json is not None:
        document = {**asdict(result), "wall_s": result.wall_s}
        emit(json_format.dumps(document, indent=2, ensure_ascii=False) + "\n", json)
    if not is_stdout(json):
        emit(render(result))
    return 0 if result.diagnosis.conclusion in (Conclusion.NONE, Conclusion.LOWER_PRECISION) else 1


def render(result: Examination) -> str:
    """Lay out what each probe made the program say, and what follows."""
    width = max(len(one.probe) for one in result.heard)
    lines = [
        "each probe is a small checkpoint; a right program run on it prints <ok>, one with a bug the bug's name",
        f"{'probe':{width}}  {result.impl} prints",
    ]
    for one in result.heard:
        said = one.said or "was not asked"
        note = f"  ({one.problem})" if one.problem else "" if one.said == one.expected else "  instead of <ok>"
        lines.append(f"{one.probe:{width}}  {said}{note}")
    lines += ["", *_verdict(result), f"{result.wall_s:.2f} s in the program"]
    return "\n".join(lines) + "\n"


def _verdict(result: Examination) -> list[str]:
    found = result.diagnosis
    match found.conclusion:
        case Conclusion.NONE:
            return ["OK: at the end of each of these prompts it has computed what llama2.c's run.c computes"]
        case Conclusion.LOWER_PRECISION:
            return [
                f"OK, in a lower precision: this is what a right program prints that computes in {found.precision}"
            ]
        case Conclusion.UNKNOWN:
            lines = [f"WRONG, and none of the known bugs: {found.reason}"]
            lines.append("  it may be two bugs at once, or one that is not in docs/faults.md")
            lines.append(
                f"  harness trace {result.impl} finds the layer, and whether attention or feed-forward is wrong"
            )
        case Conclusion.NAMED:
            alike = " (these checkpoints cannot tell which)" if len(found.suspects) > 1 else ""
            lines = [f"BUG: {', or '.join(found.names)}{alike}"]
            for one in found.suspects:
                indent = "  "
                if len(found.suspects) > 1:
                    lines.append(f"  {one.name}")
                    indent = "    "
                lines += [f"{indent}look at: {one.component}", f"{indent}it does: {one.cause}"]
                lines.append(f"{indent}the fix: {one.fix}")
            lines.append(
                f"  it explains all {found.total} answers; no other of the {found.n_tried} bugs that were tried does"
            )
            lines.append("  (a bug that is not in docs/faults.md was not tried)")
    if found.runner_up is not None:
        best = found.runner_up
        nearest = "next best" if found.suspects else "nearest"
        lines.append(f"  {nearest}: {best.name}, explains {best.explained} of {found.total} answers")
    return lines
