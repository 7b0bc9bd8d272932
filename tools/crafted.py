"""What relations and shrinking come to on faults that are compiled into our programs, and on honest ones.

    python tools/crafted.py relations    # which relation each compiled fault breaks
    python tools/crafted.py honest       # relations on honest builds: none may break
    python tools/crafted.py rounded      # the same on programs of lower precisions
    python tools/crafted.py shrinking    # bytes and tokens of the smallest failure of each compiled fault

docs/relations.md and docs/shrinking.md have the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness.adapters.implementation import Implementation, ProcessImplementation
from harness.conformance.case import select
from harness.conformance.check import check
from harness.conformance.selftest.compiled import Compiled, Patch, fault_files, patched
from harness.conformance.selftest.honest import programs, rounded_programs
from harness.conformance.shrink.cases import failing, keep, shrink_case
from harness.models import impls_dir
from harness.results import Kind, Verdict

# Faults that take the wrong weights, the wrong index or the wrong wire: what changes that cancel are about.
WIRING = (
    "rope-half-split",
    "rope-half-of-k",
    "heads-modulo",
    "heads-first",
    "heads-by-kv-heads",
    "cache-without-layers",
    "norm-gain-ignored",
    "norm-gain-plus-one",
    "norm-final-missing",
    "norm-ffn-gain-of-attention",
    "norm-centred",
    "ffn-no-product",
    "ffn-gate-up-swapped",
    "wq-transposed",
    "wo-transposed",
    "wk-wv-swapped",
    "attention-residual-missing",
    "ffn-residual-missing",
    "last-layer-skipped",
    "v0-ffn-norm-second",
    "v0-w3-before-w2",
)


def compiled_faults(program: str, only: list[str]) -> Iterator[tuple[Compiled, Patch]]:
    """The faults of one of our programs."""
    for compiled in fault_files(impls_dir()):
        if compiled.program == program:
            yield from ((compiled, patch) for patch in compiled.patches if not only or patch.name in only)


def judged(impl: Implementation, suites: list[str], levels: list[str]) -> list[Verdict]:
    """Every verdict on some suites."""
    cases = select(suites)
    return [v for group in check([impl], cases, levels=levels, diagnose=False) for v in group]


def relations(program: str, only: list[str], levels: list[str]) -> dict[str, list[str]]:
    """Which relations each fault breaks."""
    broken = {}
    for compiled, patch in compiled_faults(program, only):
        start = time.process_time()
        found = judged(ProcessImplementation(patched(compiled, patch)), ["relations"], levels)
        broken[patch.name] = [v.case for v in found if v.kind.is_failure]
        told = ", ".join(broken[patch.name]) or "-"
        print(f"{patch.name:32} {time.process_time() - start:5.1f} s  {told}", flush=True)
    wiring = [name for name in broken if name in WIRING]
    print(f"wiring: {sum(bool(broken[name]) for name in wiring)} of {len(wiring)} break a relation")
    print(f"all: {sum(map(bool, broken.values()))} of {len(broken)}")
    by_name: dict[str, int] = {}
    for names in broken.values():
        for name in names:
            by_name[name] = by_name.get(name, 0) + 1
    print("by relation:", json.dumps(dict(sorted(by_name.items(), key=lambda one: -one[1]))))
    return broken


def honest(levels: list[str], *, only_rounded: bool) -> int:
    """Relations on honest programs; return how many break. Those in numpy are asked about one model alone."""
    n_broken = n_programs = n_held = n_tokens = 0
    for one in rounded_programs() if only_rounded else programs():
        cases = select(["relations"], models=["gqa"] if only_rounded else None)
        if only_rounded:  # they have no command line, which is what these are about
            cases = [case for case in cases if "conventions" not in case.tags]
        found = [v for group in check([one.impl], cases, levels=levels, diagnose=False) for v in group]
        wrong = [v for v in found if v.kind.is_failure or v.kind is Kind.INCONCLUSIVE]
        held = [v for v in found if v.kind.is_green]
        ties = [v.case for v in held if v.kind is not Kind.EXACT]
        if not held:
            print(f"{one.name:40} not run: {found[0].reason}", flush=True)
            continue
        n_programs += 1
        n_broken += len(wrong)
        n_held += len(held)
        n_tokens += sum(v.n_judged for v in held)
        told = "; ".join(f"{v.case} {v.kind}: {v.reason.splitlines()[0]}" for v in wrong) or "none broken"
        print(f"{one.name:40} {len(held)} hold ({len(ties)} at a tie: {', '.join(ties)}), {told}", flush=True)
    print(f"{n_programs} programs, {n_held} relations hold, {n_tokens} tokens compared, {n_broken} broken")
    return n_broken


def shrinking(program: str, only: list[str], seconds: float) -> None:
    """The size of each fault's smallest failure."""
    sizes = []
    suites = (select(["core"], quick=True), select(["core"]), select(["stress"]))
    for compiled, patch in compiled_faults(program, only):
        impl = ProcessImplementation(patched(compiled, patch))
        wrong = next((one for cases in suites for one in failing(impl, cases)), None)
        if wrong is None:
            print(f"{patch.name:32} nothing fails", flush=True)
            continue
        start = time.monotonic()
        found = shrink_case(impl, wrong, seconds=seconds)
        took_s = time.monotonic() - start
        if found is None:
            print(f"{patch.name:32} not shown again  {wrong.case.key} {wrong.verdict.kind}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as home:
            failure = keep(impl, found, Path(home), called=impl.name)
        repro = found.repro
        sizes.append((failure.checkpoint_bytes, repro.tokenizer_bytes, len(repro.prompt_ids) - 1, repro.n_positions))
        print(
            f"{patch.name:32} {failure.checkpoint_bytes:8,} + {repro.tokenizer_bytes:6,} bytes  "
            f"{len(repro.prompt_ids) - 1:3} + {repro.ask.n:3} tokens  {found.n_tried:5} tried  {took_s:5.1f} s  "
            f"{failure.verdict.kind} at {failure.level}{'' if found.is_whole else ', not to the end'}",
            flush=True,
        )
    for what, column in (("checkpoint bytes", 0), ("tokenizer bytes", 1), ("prompt tokens", 2), ("positions", 3)):
        values = sorted(size[column] for size in sizes)
        if values:
            print(f"{what}: median {statistics.median(values):g}, largest {values[-1]:,} of {len(values)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("relations", "honest", "rounded", "shrinking"))
    parser.add_argument("--program", default="c", help="in which the faults are compiled")
    parser.add_argument("--fault", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--level", default="TEXT", help="levels to judge at, separated by commas")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each shrinking")
    given = parser.parse_args()
    levels = given.level.split(",")
    if given.what == "relations":
        relations(given.program, given.fault, levels)
    elif given.what in ("honest", "rounded"):
        raise SystemExit(bool(honest(levels, only_rounded=given.what == "rounded")))
    else:
        shrinking(given.program, given.fault, given.seconds)


if __name__ == "__main__":
    main()
