"""Measure self-naming checkpoints: how often the name is right, honest programs that are accused, unknown bugs.

    python tools/probe_accuracy.py compiled [--impls c,zig,ts]
    python tools/probe_accuracy.py catalogue       every fault of the catalogue in numpy, run freely on the files
    python tools/probe_accuracy.py honest
    python tools/probe_accuracy.py lower [--builds 120]
    python tools/probe_accuracy.py left-out

`compiled` builds programs with one fault each (impls/*/faults.toml) and probes them as `harness probe` would. `lower`
simulates right programs whose values are rounded at some of their steps, drawn at random, to float16, bfloat16 or
int8. `left-out` takes each fault out of the dictionary, and every other that is the same function on all probes, and
puts the fault to what is left. Figures in docs/diagnosis.md are from here.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from harness.adapters.implementation import ProcessImplementation
from harness.conformance.probing import examine
from harness.conformance.selftest.compiled import fault_files, patched
from harness.conformance.selftest.honest import programs, rounded_programs
from harness.conformance.selftest.ported import PortedFault
from harness.diagnosis import CATALOGUE, Fate, Fault, Port, by_name
from harness.diagnosis.diagnosis import Conclusion, Diagnosis
from harness.diagnosis.self_naming.craft import Draft, drafted
from harness.diagnosis.self_naming.files import ProbeFiles, cached, plan_of
from harness.diagnosis.self_naming.outcome import OK, faults_seen, outcome
from harness.diagnosis.self_naming.probe import Probe
from harness.diagnosis.self_naming.reading import read_off, unseen
from harness.diagnosis.self_naming.recipes import by_name as recipe_of
from harness.engine import LIBRARY, Engine, Ops, blas_threads
from harness.models import impls_dir, load, locate
from harness.quant import quantize_weights
from harness.rates import rate

Array = npt.NDArray[Any]

EXACT, PAIR, CLASS, UNKNOWN, MISSED, WRONG = "exact", "class of two", "larger class", "unknown", "missed", "wrong"


@cache
def probes(version: int) -> tuple[ProbeFiles, ...]:
    return tuple(cached(plan_of(None, version), version, progress=lambda text: print(text, file=sys.stderr)))


def kind(found: Diagnosis, fault: Fault) -> str:
    """What a diagnosis is worth, given the fault."""
    if found.conclusion is Conclusion.NAMED:
        if fault.name not in found.names:
            return WRONG
        return {1: EXACT, 2: PAIR}.get(len(found.names), CLASS)
    return UNKNOWN if found.conclusion is Conclusion.UNKNOWN else MISSED


def in_sight(fault: Fault, version: int) -> bool:
    """Whether the probes of this format can show the fault at all."""
    names = {one.name for one in faults_seen() if one.fate is Fate.KILLABLE}
    return fault.name in names - set(unseen([one.probe for one in probes(version)]))


def told(label: str, results: Sequence[tuple[str, str, Diagnosis]]) -> None:
    """Print a count of each kind, and everything that is not exact."""
    counts = Counter(one for _, one, _ in results)
    print(f"{label}: {len(results)} faults")
    for one in (EXACT, PAIR, CLASS, UNKNOWN, MISSED, WRONG):
        print(f"  {one:13} {rate(counts[one], len(results))}")
    print(f"  exact or pair {rate(counts[EXACT] + counts[PAIR], len(results))}")
    for name, one, found in results:
        if one != EXACT:
            print(f"    {one}: {name} -> {found.conclusion} {', '.join(found.names)} {found.reason}")


# ---- faults ------------------------------------------------------------------------------------------------------


def compiled(impls: Sequence[str]) -> None:
    everything: list[tuple[str, str, Diagnosis]] = []
    for program in fault_files(impls_dir()):
        if program.program not in impls:
            continue
        seen, out_of_sight = [], Counter[str]()
        tasks = []
        for patch in program.patches:
            fault = by_name(patch.name)
            version = next((n for n in (0, 1, 2) if _reads(program.manifest.formats, n) and in_sight(fault, n)), None)
            tasks.append((fault, patch, version))
        for fault, patch, version in tasks:
            impl = ProcessImplementation(patched(program, patch))
            found = examine(impl, probes(version if version is not None else 0)).diagnosis
            if version is None:
                out_of_sight[found.conclusion] += 1
                if found.conclusion is Conclusion.NAMED:
                    print(f"  WRONG: {impl.name}, which no probe can see, is named {found.names}")
            else:
                seen.append((impl.name, kind(found, fault), found))
        told(program.program, seen)
        print(f"  out of sight: {dict(out_of_sight)}")
        everything += seen
    told("all", everything)


def _reads(formats: Sequence[str], version: int) -> bool:
    return f"llama2c-v{version}" in formats


def catalogue() -> None:
    for version in (0, 2):
        seen, unnamed = [], Counter[str]()
        for fault in CATALOGUE:
            if fault.change.part == "reader" and version == 2 and fault.change.steps.get("version"):
                continue
            found = examine(PortedFault(fault.name), probes(version)).diagnosis
            if in_sight(fault, version):
                seen.append((fault.name, kind(found, fault), found))
            else:
                unnamed[found.conclusion] += 1
                if found.conclusion is Conclusion.NAMED:
                    print(f"  out of sight, but named: {fault.name} -> {found.names}")
        told(f"catalogue in numpy, {'int8' if version else 'float32'}", seen)
        print(f"  out of sight: {dict(unnamed)}")


# ---- honest programs ---------------------------------------------------------------------------------------------


def honest() -> None:
    for version in (0, 2):
        counts = Counter[str]()
        for one in programs():
            found = examine(one.impl, probes(version), threads=one.threads)
            counts[found.diagnosis.conclusion] += 1
            print(f"  {one.name}: {found.diagnosis.conclusion}, {found.wall_s:.2f} s in the program")
        print(f"honest builds, {'int8' if version else 'float32'}: {dict(counts)}")
    for one in rounded_programs():
        declared = examine(one.impl, probes(0)).diagnosis
        print(f"  {one.name}: {declared.conclusion} {declared.precision}")


def lower(n_builds: int) -> None:
    """Right programs that round some of their steps, and do not say so."""
    counts = Counter[str]()
    draw = random.Random(1)
    for number in range(n_builds):
        name, made = _rounded_somewhere(draw, ("f16", "bf16", "q8")[number % 3])
        heard = []
        for one in probes(0):
            model = load(one.files.checkpoint, one.files.tokenizer)
            engine = Engine(model.checkpoint.config, model.checkpoint.tensors, ops=made)
            said = outcome(
                lambda engine=engine: (Port(), engine),  # type: ignore[misc]
                model,
                one.probe.prompt.encode(),
                one.probe.steps,
                needs_state=False,
            )
            assert said.token is not None
            heard.append((one.probe, one.probe.heard(model.tokenizer.pieces[said.token])))
        found = read_off(heard)
        counts[f"{name[:4].strip()}: {found.conclusion}"] += 1
        if found.conclusion not in (Conclusion.NONE, Conclusion.LOWER_PRECISION):
            print(f"  {name}: {found.conclusion} {found.names} {[said for _, said in heard]}")
    for label, count in sorted(counts.items()):
        print(f"  {label}: {count}")
    accused = sum(count for label, count in counts.items() if label.endswith("named"))
    print(f"lower precisions accused of a bug: {rate(accused, n_builds)}")


def _to_f16(x: Array) -> Array:
    return x.astype(np.float16).astype(np.float32)


def _to_bf16(x: Array) -> Array:
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def _rounded_somewhere(draw: random.Random, precision: str) -> tuple[str, Ops]:
    """Round at steps drawn at random; at least the weights."""
    finer = draw.choice((1, 2))  # int8 groups are as large as can be, or half of that
    cast = _to_bf16 if precision == "bf16" or (precision == "q8" and draw.random() < 0.5) else _to_f16

    def weight(config: Any, layer: int, name: str, lookup: Callable[[int, str], Any]) -> Any:
        found = lookup(layer, name)
        if precision != "q8":
            return cast(np.asarray(found, np.float32))
        if found.ndim == 1:
            return found
        size = next(n for n in (64, 32, 16, 8, 4, 2) if found.shape[1] % n == 0) // finer
        return quantize_weights(np.asarray(found, np.float32), size).dequantize()

    steps: dict[str, Any] = {
        "cached_k": lambda step, k: cast(k),
        "cached_v": lambda step, v: cast(v),
        "matmul": lambda step, name, x, w: cast(cast(x) @ w.T),
        "attn_residual": lambda step, x, delta: cast(x + delta),
        "ffn_residual": lambda step, x, delta: cast(x + delta),
        "attn_norm": lambda step, x, gain: cast(LIBRARY.attn_norm(step, x, gain)),
        "ffn_norm": lambda step, x, gain: cast(LIBRARY.ffn_norm(step, x, gain)),
        "softmax": lambda step, scores, seen: cast(LIBRARY.softmax(step, scores, seen)),
        "gated": lambda step, activated, up: cast(activated * up),
        "rotate_q": lambda step, x, cos, sin: cast(LIBRARY.rotate_q(step, x, cos, sin)),
        "rotate_k": lambda step, x, cos, sin: cast(LIBRARY.rotate_k(step, x, cos, sin)),
        "embed": lambda step, table, ids: cast(LIBRARY.embed(step, table, ids)),
    }
    chosen = [name for name in steps if draw.random() < 0.4]
    name = f"{precision:4} weights, {cast.__name__[4:]}: {', '.join(chosen)}"
    return name, replace(LIBRARY, weight=weight, **{step: steps[step] for step in chosen})


# ---- what the dictionary lacks -----------------------------------------------------------------------------------


def left_out() -> None:
    for version in (0, 2):
        plan = plan_of(None, version)
        with blas_threads(1):
            drafts = [drafted(recipe_of(recipe), _loaded(model), version) for recipe, model in plan]
        known = [one.probe for one in probes(version)]
        results = []
        for fault in faults_seen():
            if not in_sight(fault, version) or fault.fate is not Fate.KILLABLE:
                continue
            alike = {
                other
                for other in (one.name for one in faults_seen())
                if all(probe.says.get(other) == probe.says.get(fault.name) for probe in known)
            }
            heard = [_without(probe, draft, fault.name, alike) for probe, draft in zip(known, drafts, strict=True)]
            results.append((fault, read_off(heard)))
        counts = Counter[str]()
        for fault, found in results:
            if found.conclusion is Conclusion.NAMED:
                parts = {by_name(name).component for name in found.names}
                label = "named a sibling" if parts == {fault.component} else "named another"
                print(f"    {label}: {fault.name} -> {found.names}")
            else:
                label = str(found.conclusion)
                if found.conclusion is not Conclusion.UNKNOWN:
                    print(f"    {label}: {fault.name}")
            counts[label] += 1
        print(f"left out, {'int8' if version else 'float32'}: {len(results)} faults, {dict(counts)}")
        right = counts[Conclusion.UNKNOWN] + counts["named a sibling"]
        print(f"  rejected as unknown: {rate(counts[Conclusion.UNKNOWN], len(results))}")
        print(f"  unknown or a sibling: {rate(right, len(results))}")


def _loaded(model: str) -> Any:
    found = locate(model)
    return load(found.checkpoint, found.tokenizer)


def _without(probe: Probe, draft: Draft, name: str, alike: set[str]) -> tuple[Probe, str]:
    """A probe that never knew some faults, and what the first of them makes it say."""
    known = replace(
        probe,
        says={other: said for other, said in probe.says.items() if other not in alike},
        could_say={
            piece: {p: tuple(one for one in who if one not in alike) for p, who in by_precision.items()}
            for piece, by_precision in probe.could_say.items()
        },
    )
    state = draft.states.get(name)
    if state is None:
        return known, probe.says.get(name, probe.says[OK])
    rows = {token: row for token, row in draft.rows.items() if not set(draft.owners[token]) <= alike}
    best = max(rows, key=lambda token: float(rows[token] @ state))
    return known, probe.says[draft.owners[best][0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("compiled", "catalogue", "honest", "lower", "left-out"))
    parser.add_argument("--impls", default="c,zig,ts")
    parser.add_argument("--builds", type=int, default=120)
    given = parser.parse_args()
    measured = {
        "compiled": lambda: compiled(given.impls.split(",")),
        "catalogue": catalogue,
        "honest": honest,
        "lower": lambda: lower(given.builds),
        "left-out": left_out,
    }
    with blas_threads(1):
        for part in given.parts:
            measured[part]()


if __name__ == "__main__":
    main()
