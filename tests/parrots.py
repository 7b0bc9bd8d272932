"""Stand-ins for the parts around an orchestration: three goldens, a program that knows them, a judge of bytes.

A parrot takes llama2.c's flags and prints the golden text of its prompt, unless told to do worse.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from harness.adapters.implementation import Implementation
from harness.adapters.process import Limits
from harness.conformance.case import Case, ModelRef, Provenance, write_case
from harness.models import ModelFiles, locate
from harness.results import Divergence, Kind, Observation, Verdict, kind_of_failure

TEXTS = {"once": "Once upon a time", "two": "Two dogs ran", "three": "Three é"}


def make_case(name: str, suite: str = "core", *, model: str = "gqa", tags: tuple[str, ...] = ()) -> Case:
    files = locate(model)
    return Case(
        name=name,
        suite=suite,
        tags=tags,
        why="a parrot can say it",
        model=ModelRef(model, files.sha256, files.tokenizer_sha256, files.format),
        mode="generate",
        prompt=name.encode(),
        steps=16,
        temperature=0.0,
        topp=0.9,
        seed=1,
        system=None,
        stdin=b"",
        prompt_ids=(1,),
        ids=None,
        stdout=TEXTS[name].encode() + b"\n",
        ends="steps",
        margins=(),
        provenance=Provenance("published"),
    )


def make_goldens(root: Path) -> list[Case]:
    """Write a golden tree: suite core with `once` (quick) and `two`, suite tinystories with `three`."""
    cases = [
        make_case("once", tags=("quick",)),
        make_case("two", model="mha"),
        make_case("three", "tinystories"),
    ]
    for case in cases:
        write_case(case, root / case.suite / f"{case.name}.toml")
    return cases


def make_parrot(path: Path, *, says: dict[str, str] | None = None, dies_on: Sequence[str] = ()) -> Path:
    """Write a program that prints the text of its prompt.

    Args:
        says: prompts to answer with another text.
        dies_on: prompts to crash on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""#!{sys.executable} -S
import os, sys
prompt = sys.argv[sys.argv.index("-i") + 1]
if prompt in {list(dies_on)!r}:
    os.abort()
sys.stdout.buffer.write({ {**TEXTS, **(says or {})}!r}[prompt].encode() + b"\\n")
"""
    )
    path.chmod(0o755)
    return path


def judge_bytes(
    cases: Sequence[Case],
    impl: Implementation,
    *,
    files: ModelFiles | str,
    limits: Limits,
    threads: int,
    observe: Callable[..., Iterable[tuple[Case, Observation]]],
    on_observed: Callable[[Case, Observation], None] | None = None,
    on_settled: Callable[[Verdict], None] | None = None,
    levels: Sequence[str] = (),
    jobs: int = 1,
    suspects: Sequence[object] = (),
) -> list[Verdict]:
    """Judge by equality of bytes: the signature of `verify_group` without its cost."""

    def run(case: Case) -> Observation:
        seen = impl.run(case.request(files, threads), limits)
        if on_observed is not None:
            on_observed(case, seen)
        return seen

    if isinstance(files, str):
        return [
            Verdict(c.name, impl.name, c.model.name, Kind.SKIPPED, files, suite=c.suite, tags=c.tags) for c in cases
        ]
    verdicts = []
    for case, seen in observe(run, cases):
        reason, divergence, kind = "", None, Kind.EXACT
        if seen.failure is not None:
            kind, reason = kind_of_failure(seen.failure), seen.failure.what
        elif seen.stdout != case.stdout:
            kind, reason = Kind.MISMATCH, "wrong from the first byte on"
            divergence = Divergence(
                0, 1, 5, 6, 1.25, 0.5e-5, "", case.stdout.decode(), seen.stdout.decode(errors="replace")
            )
        verdicts.append(
            Verdict(
                case=case.name,
                impl=impl.name,
                model=case.model.name,
                kind=kind,
                reason=reason,
                n_judged=40,
                divergence=divergence,
                reproduce=seen.command_line,
                suite=case.suite,
                tags=case.tags,
            )
        )
    return verdicts
