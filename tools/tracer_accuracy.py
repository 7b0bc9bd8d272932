"""How often the black-box tracer names the right sub-block, on faults compiled into our programs.

    python tools/tracer_accuracy.py [--programs c,zig,ts] [--models gqa,gqa-q8] [--faults NAMES] [--honest]

The truth is what the white-box tracer says of the same build: the sub-block of the first operation that is wrong
while its inputs are right, as the program itself recorded it. Honest programs are traced as well, and must name
nothing. Prints a table of every fault, the counts, and the CPU seconds of the programs' runs and of our arithmetic.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.process import Limits
from harness.conformance.black_box import trace_black_box
from harness.conformance.selftest.compiled import fault_files, patched
from harness.conformance.selftest.honest import Honest, programs, rounded_programs
from harness.conformance.selftest.places import said, truth
from harness.diagnosis import by_name
from harness.errors import HarnessError
from harness.models import impls_dir, locate
from harness.rates import upper_limit
from harness.results import Observation, Request


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default="c", help="comma list of directories in impls/ that have a faults.toml")
    parser.add_argument("--models", default="gqa,gqa-q8")
    parser.add_argument("--faults", help="comma list; default: all of them")
    parser.add_argument("--honest", action="store_true", help="honest programs only")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    for model in options.models.split(","):
        is_int8 = model.endswith("-q8")
        if not options.honest:
            for compiled in fault_files(impls_dir()):
                if compiled.program not in options.programs.split(","):
                    continue
                for patch in compiled.patches:
                    if options.faults and patch.name not in options.faults.split(","):
                        continue
                    if is_int8 != patch.name.startswith("int8"):
                        continue
                    manifest = patched(compiled, patch).model_copy(update={"precision": "q8" if is_int8 else "f32"})
                    counts[_one(ProcessImplementation(manifest), patch.name, model)] += 1
        honest = [*programs(), *([] if is_int8 else rounded_programs())]
        honest += [] if is_int8 else rounded_programs(is_declared=False)
        for one in honest if options.faults is None else []:
            counts[_honest(one, model)] += 1
    print()
    for kind, n in counts.items():
        print(f"{kind}: {n}")
    in_scope = counts["right"] + counts["wrong"]
    if in_scope:
        print(
            f"right: {counts['right'] / in_scope:.1%} of {in_scope}; wrong at most "
            f"{upper_limit(counts['wrong'], in_scope):.1%} (95 %)"
        )
    return 0


class _Counting:
    """An implementation whose processes' CPU time is added up."""

    def __init__(self, inner: ProcessImplementation) -> None:
        self.name, self.manifest = inner.name, inner.manifest
        self.prepare, self.session = inner.prepare, inner.session
        self._inner = inner
        self.cpu_s = 0.0

    def run(self, request: Request, limits: Limits | None = None) -> Observation:
        seen = self._inner.run(request, limits)
        self.cpu_s += seen.cpu_s
        return seen


def _honest(one: Honest, model: str) -> str:
    begin = time.process_time()
    try:
        result = trace_black_box(one.impl, locate(model), threads=one.threads)
    except HarnessError as error:
        print(f"{model} {one.name}: {error}", file=sys.stderr)
        return "honest, not run"
    worst = max(reading.ratio for reading in result.readings)
    seconds = time.process_time() - begin
    seen = f", seen as {result.diagnosis.precision}" if result.diagnosis.precision else ""
    print(
        f"| {model} | {one.name} (honest) | {said(result.first)}{seen} | worst {worst:.2f} floors | "
        f"{seconds:.1f} s own |",
        flush=True,
    )
    return "honest, nothing named" if result.first is None else "honest, accused"


def _one(implementation: ProcessImplementation, name: str, model: str) -> str:
    counting = _Counting(implementation)
    begin, clock = time.process_time(), time.monotonic()
    try:
        result = trace_black_box(counting, locate(model))
    except HarnessError as error:
        print(f"| {model} | {name} | {type(error).__name__}: {error} | | |", flush=True)
        return "refused"
    own, wall = time.process_time() - begin, time.monotonic() - clock
    try:
        expected = truth(implementation, by_name(name), model)
    except HarnessError as error:
        expected = None
        print(f"{name}: {error}", file=sys.stderr)
    named = ", ".join(result.diagnosis.names) or "-"
    kind = "right" if expected == result.first else "wrong"
    if expected is None and result.first is None:
        kind = "out of scope"
    print(
        f"| {model} | {name} | {said(result.first)} | {said(expected)} | {kind} | {named} | {result.conclusion} | "
        f"{result.n_runs} runs, {own:.1f} s own, {counting.cpu_s:.1f} s theirs, {wall:.1f} s wall |",
        flush=True,
    )
    return kind


if __name__ == "__main__":
    sys.exit(main())
