"""How well the dictionary names bugs: the figures of docs/diagnosis.md.

    python tools/diagnosis_figures.py compiled        # faults compiled into impls/c, through the gate
    python tools/diagnosis_figures.py left-out        # the catalogue in numpy, each fault missing from the dictionary
    python tools/diagnosis_figures.py tokenizer       # faults of the tokenizer, in numpy, through the gate
    python tools/diagnosis_figures.py lower           # right programs of lower precision, one prompt at a time

A program is judged on every case of the suite `core` whose model it reads, and all models together name its bug. With
--only NAME one fault is tried; --verbose tells what was said of each; --json FILE keeps the rows, and a run that is
started again goes on with those that are missing, so that --part 1/3, 2/3 and 3/3 make a whole.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.adapters.implementation import Implementation, ProcessImplementation
from harness.conformance.case import Case
from harness.conformance.reference import rounded
from harness.conformance.selftest.alarms import Batch, cases
from harness.conformance.selftest.compiled import fault_files, patched
from harness.conformance.selftest.naming import outcome_of
from harness.conformance.selftest.ported import PortedFault
from harness.conformance.text_route import Told, by_text, text_cases
from harness.conformance.verify import verify_group
from harness.diagnosis import CATALOGUE, Fate, Fault, Port, by_name
from harness.engine import LIBRARY, Ops, Step
from harness.engine.ops import Weight
from harness.models import impls_dir, load, locate
from harness.results import Conclusion, Diagnosis

Array = npt.NDArray[Any]
Row = dict[str, Any]

KINDS = {
    "f16": ("weights", "weights and cache", "everything"),
    "bf16": ("weights", "weights and cache", "everything"),
    "q8": ("weights", "everything"),
}


def row_of(what: str, fault: Fault, told: Told, took_s: float) -> Row:
    """What was said of one program, and what it was worth."""
    first = told.found[0] if told.found else None
    return {
        "what": what,
        "fault": fault.name,
        "outcome": _outcome(told, fault),
        "names": list(told.names),
        "models": list(first.models) if first else [],
        "explained": first.explained if first else 0,
        "total": first.total if first else 0,
        "right": first.right if first else 0,
        "gain": round(first.gain, 1) if first else 0.0,
        "wrong_cases": told.n_wrong,
        "cpu_s": round(took_s, 2),
    }


def _outcome(told: Told, fault: Fault) -> str:
    if not told.n_wrong:
        return "no mismatch"
    if not told.found:
        return "not diagnosed"
    return "contradictory" if told.is_contradictory else outcome_of(told.found[0], fault)


def compiled() -> Iterator[tuple[str, Implementation]]:
    """Programs of impls/c with one fault each."""
    (program,) = [one for one in fault_files(impls_dir()) if one.program == "c"]
    for patch in program.patches:
        if by_name(patch.name).fate is Fate.KILLABLE:
            manifest = patched(program, patch).model_copy(update={"conventions": "llama2.c"})
            yield patch.name, ProcessImplementation(manifest)


def ported(faults: Sequence[Fault]) -> Iterator[tuple[str, Implementation]]:
    """The same in numpy."""
    for fault in faults:
        if fault.fate is Fate.KILLABLE:
            yield fault.name, PortedFault(fault.name)


def table(rows: Sequence[Row], what: str) -> None:
    """Print what became of all programs."""
    outcomes = Counter(row["outcome"] for row in rows)
    seen = [row for row in rows if row["outcome"] != "no mismatch"]
    good = ("exact", "class") if what != "left-out" else ("unknown", "lower precision", "sibling")
    right = [row for row in seen if row["outcome"] in good]
    sizes = [len(row["names"]) for row in seen if row["outcome"] in ("exact", "class")]
    print(f"{what}: {len(rows)} programs, {len(seen)} with a mismatch")
    print("  " + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common()))
    if seen:
        print(f"  {' or '.join(good)}: {len(right)} of {len(seen)}, {len(right) / len(seen):.1%}")
        seconds = sorted(row["cpu_s"] for row in seen)
        print(f"  CPU seconds for all models: median {statistics.median(seconds):.1f}, largest {seconds[-1]:.1f}")
    if sizes:
        print(f"  class: median {statistics.median(sizes):g}, largest {max(sizes)}")


# ---- lower precisions --------------------------------------------------------------------------------------------


def _in_half(step: Step, name: str, x: Array, w: Weight) -> Array:
    """A product whose sums are kept in float16."""
    assert isinstance(w, np.ndarray)
    terms = x.astype(np.float16)[:, None, :] * w.astype(np.float16)[None, :, :]
    out: Array = np.add.reduce(terms, axis=2, dtype=np.float16).astype(x.dtype)
    return out


def lower(model: str) -> Iterator[tuple[str, Ops]]:
    """Right programs of lower precision."""
    files = locate(model)
    config = load(files.checkpoint, files.tokenizer).checkpoint.config
    group = next(g for g in (64, 32, 16, 8, 4, 2, 1) if not (config.dim % g or config.hidden_dim % g))
    for precision, kinds in KINDS.items():
        yield from zip((f"{precision} {kind}" for kind in kinds), rounded(precision, group_size=group), strict=True)
    yield "f16 sums", replace(LIBRARY, matmul=_in_half)


def accusations(models: Sequence[str], n_prompts: int, *, only: str, verbose: bool) -> None:
    """Judge right programs of lower precision that do not say so, prompt by prompt."""
    total: Counter[str] = Counter()
    gains: list[float] = []
    for model in models:
        goldens = [case for case in cases(Batch(model, 0)) if not case.is_sampled][:n_prompts]
        for name, ops in lower(model):
            if only and name not in only.split(","):
                continue
            impl = PortedFault()
            impl.port = Port(ops={step: getattr(ops, step) for step in ops.differs_from(LIBRARY)})
            impl.manifest = impl.manifest.model_copy(update={"conventions": ""})
            found: Counter[str] = Counter()
            for case in goldens:
                (verdict,) = verify_group([case], impl, files=locate(model), levels=("TEXT",))
                one = verdict.diagnosis
                found[str(one.conclusion) if one else str(verdict.kind)] += 1
                if one:
                    gains.append(one.gain)
                    if verbose or one.conclusion is Conclusion.NAMED:
                        print(f"    {case.name}: {one.conclusion} {one.names} gain {one.gain:.1f} {one.precision}")
            print(f"  {model}, {name}: {dict(found)}", flush=True)
            total += found
            together = verify_group(goldens, impl, files=locate(model), levels=("TEXT",))
            whole = next((v.diagnosis for v in together if v.diagnosis), None)
            if whole:
                print(f"    all together: {whole.conclusion} {whole.names} gain {whole.gain:.1f}", flush=True)
                total[f"together {whole.conclusion}"] += 1
    print(dict(total), "largest gain", max(gains, default=0.0))


def _told(one: Diagnosis) -> str:
    second = f"{one.runner_up.name} {one.runner_up.explained}" if one.runner_up else "none"
    return (
        f"{one.conclusion} {', '.join(one.names)} {one.precision} explains {one.explained}/{one.total}, "
        f"right {one.right}, runner-up {second}, gain {one.gain:.0f}, gap {one.gap:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("compiled", "left-out", "tokenizer", "ported", "lower"))
    parser.add_argument("--only", default="", help="comma list of faults, or of lower precisions")
    parser.add_argument("--prompts", type=int, default=6, help="for each model and precision")
    parser.add_argument("--suite", default="core", help="comma list")
    parser.add_argument("--json", type=Path, help="a row for each program; those in it are not tried again")
    parser.add_argument("--int8", action="store_true", help="on the int8 models of those names")
    parser.add_argument("--models", default="gqa,mha,mqa", help="comma list")
    parser.add_argument("--part", default="1/1", help="every n-th program: 2/3 is the second of three parts")
    parser.add_argument("--quick", action="store_true", help="only the quick cases")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if options.what == "lower":
        accusations(options.models.split(","), options.prompts, only=options.only, verbose=options.verbose)
        return
    models = options.models.split(",")
    chosen = {is_int8: cases_for(models, options, is_int8=is_int8) for is_int8 in (False, True)}
    if options.what == "compiled":
        programs = compiled()
    else:
        tokenizer = [one for one in CATALOGUE if one.component == "tokenizer"]
        programs = ported(tokenizer if options.what == "tokenizer" else CATALOGUE)
    rows = [row for row in kept(options.json) if row["what"] == options.what]
    done = {row["fault"] for row in rows}
    part, _, parts = options.part.partition("/")
    for at, (name, impl) in enumerate(programs):
        if name in done or (options.only and name not in options.only.split(",")):
            continue
        if at % int(parts) != int(part) - 1:
            continue
        fault = by_name(name)
        suspects = [one for one in CATALOGUE if options.what != "left-out" or one.name != name]
        start = time.process_time()
        told = by_text(impl, chosen[_is_of_int8(fault)], suspects=suspects)
        row = row_of(options.what, fault, told, time.process_time() - start)
        rows.append(row)
        if options.json:
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        said = "; ".join(f"{'+'.join(one.models)}: {_told(one)}" for one in told.found)
        if options.verbose or row["outcome"] not in ("exact", "class"):
            print(f"  {row['outcome']:12} {name} ({row['cpu_s']:.1f} s, {told.n_wrong} wrong): {said}", flush=True)
    table(rows, options.what)


def _is_of_int8(fault: Fault) -> bool:
    return fault.component == "int8" or fault.name.startswith("v2-")


def cases_for(models: Sequence[str], options: argparse.Namespace, *, is_int8: bool) -> list[Case]:
    """Golden runs of some models, or of the same in int8."""
    wanted = [f"{model}-q8" for model in models] if is_int8 or options.int8 else models
    return text_cases(wanted, options.suite.split(","), quick=options.quick)


def kept(path: Path | None) -> list[Row]:
    """The rows of an earlier run, which are not measured again."""
    if path is None or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    main()
