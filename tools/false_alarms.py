"""Look for false alarms: honest builds of our C program, judged by the code that judges everybody.

    python tools/false_alarms.py --out false-alarms.jsonl

For each model many cases are made on the fly: prompts are beginnings of the model's own texts (and none at all), half
of them continued greedily, half drawn from seeds at several temperatures and nuclei; the reference engine answers
them. Each build of `tools/honest.py` is then judged by `verify_group` on all of them. A verdict that is not green is
a false alarm.

A line is written for each (model, batch of cases, build); started again with the same file, it goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from honest import BUILDS, Build

from harness.adapters import manifest as manifests
from harness.adapters.implementation import ProcessImplementation
from harness.adapters.process import Limits
from harness.conformance.case import Case
from harness.conformance.record import PlannedCase, answer
from harness.conformance.verify import reference_of, verify_group
from harness.engine import blas_threads, generate
from harness.errors import MissingDependency
from harness.models import ModelNotFound, impls_dir, locate
from harness.results import Kind

FLOAT32 = ("gqa", "mha", "mqa", "stories260K")
INT8 = ("gqa-q8", "mha-q8", "mqa-q8")
BATCH = 24
# (temperature, top-p); greedy every other time.
SAMPLERS = ((1.0, 0.9), (1.0, 1.0), (0.8, 0.9), (1.3, 0.95), (0.5, 0.5))


def beginning(model: str, rng: random.Random) -> bytes | None:
    """A beginning of a text that the model itself might write, cut anywhere; sometimes none."""
    if rng.random() < 0.1:
        return None
    reference = reference_of(locate(model))
    vocabulary = reference.model.tokenizer
    with blas_threads(1):
        fast = reference.ensemble[0]
        ids = list(generate(fast, [1], steps=120, temperature=1.0, topp=1.0, seed=rng.getrandbits(31)))
    text = vocabulary.print_text([1, *ids]).decode("utf-8", "ignore")
    return text[: rng.randrange(1, max(2, min(len(text), 160)))].rstrip("\0").encode() or None


def cases(model: str, batch: int) -> list[Case]:
    """Make one batch: the same for the same model and number."""
    rng = random.Random(f"{model} {batch}")
    made = []
    for i in range(BATCH):
        temperature, topp = (0.0, 0.9) if i % 2 == 0 else SAMPLERS[(i // 2) % len(SAMPLERS)]
        plan = PlannedCase(
            name=f"{model}-{batch}-{i}",
            suite="false-alarms",
            tags=(),
            why="an honest program must not be called wrong",
            model=model,
            prompt=beginning(model, rng),
            steps=rng.choice((0, 256, 256, 400)),
            temperature=temperature,
            topp=topp,
            seed=rng.getrandbits(31),
        )
        made.append(answer(plan))
    return made


def implementation(build: Build, *, is_int8: bool) -> ProcessImplementation:
    """Our C program, compiled this way."""
    base = manifests.load(impls_dir() / "c")[0]
    compiler = ("{zig}", "cc") if build.compiler == "zig" else ("{cc}",)
    command = (*compiler, *build.flags, "-std=gnu11", "-o", "{out}/run", "{src}/run.c", "-lm")
    changes: dict[str, Any] = {
        "name": "".join(c if c.isalnum() else "-" for c in build.name),
        "build": (command,),
    }
    if is_int8:
        changes |= {"precision": "q8", "formats": ("llama2c-v2",)}
    return ProcessImplementation(base.model_copy(update=changes))


def judge(made: list[Case], build: Build, model: str) -> dict[str, Any]:
    """Run and judge one build on one batch."""
    impl = implementation(build, is_int8=model in INT8)
    threads = 2 if "-fopenmp" in build.flags else 1
    verdicts = verify_group(made, impl, files=locate(model), limits=Limits(time_s=120), threads=threads)
    return {
        "model": model,
        "build": build.name,
        "cases": len(verdicts),
        "tokens": sum(v.n_judged for v in verdicts),
        "kinds": Counter(str(v.kind) for v in verdicts),
        "ties": sum(len(v.certificates) for v in verdicts),
        "wrong": [[v.case, str(v.kind), v.reason, v.reproduce] for v in verdicts if not v.kind.is_green],
    }


def upper_limit(n: int, alpha: float = 0.05) -> float:
    """Clopper-Pearson upper limit of a rate of which 0 of n were seen, one-sided."""
    return 1.0 if n == 0 else 1 - alpha ** (1 / n)


def render(rows: list[dict[str, Any]]) -> str:
    """Two tables, by build and by model."""
    kinds = [str(k) for k in Kind if any(str(k) in row["kinds"] for row in rows)]
    lines = []
    for title, models in (("float32 models", FLOAT32), ("int8 models", INT8)):
        here = [row for row in rows if row["model"] in models]
        if not here:
            continue
        for key in ("build", "model"):
            lines += [f"| {title}, by {key} | cases | tokens judged | {' | '.join(kinds)} | tied tokens |"]
            lines += ["| --- |" + " ---: |" * (len(kinds) + 3)]
            for name in dict.fromkeys(row[key] for row in here):
                some = [row for row in here if row[key] == name]
                counts = [sum(row["kinds"].get(k, 0) for row in some) for k in kinds]
                cells = [sum(row["cases"] for row in some), sum(row["tokens"] for row in some), *counts]
                cells.append(sum(row["ties"] for row in some))
                lines.append(f"| {name} | " + " | ".join(f"{c:,}" for c in cells) + " |")
            lines.append("")
        n = sum(row["tokens"] for row in here)
        n_wrong = sum(len(row["wrong"]) for row in here)
        lines.append(f"{n:,} tokens, {n_wrong} false alarms.")
        if not n_wrong:
            lines.append(f"Upper limit (95 %): {upper_limit(n):.1e} per token.")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("false-alarms.jsonl"))
    parser.add_argument("--batches", type=int, default=5, help=f"batches of {BATCH} cases for each float32 model")
    parser.add_argument("--int8-batches", type=int, default=2, help="the same for each int8 model")
    parser.add_argument("--models", help="comma list; default: all that are here")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["model"], row["batch"], row["build"]) for row in rows}
    for model in options.models.split(",") if options.models else (*FLOAT32, *INT8):
        try:
            locate(model)
        except ModelNotFound as absent:
            print(f"{model}: skipped, {absent}", file=sys.stderr)
            continue
        for batch in range(options.int8_batches if model in INT8 else options.batches):
            todo = [build for build in BUILDS if (model, batch, build.name) not in done]
            if not todo:
                continue
            start = time.perf_counter()
            made = cases(model, batch)
            for build in todo:
                try:
                    row = {"batch": batch, **judge(made, build, model)}
                except MissingDependency as absent:
                    print(f"{build.name}: skipped, {absent}", file=sys.stderr)
                    continue
                rows.append(row)
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                for wrong in row["wrong"]:
                    print(f"{model}, {build.name}: {wrong}", file=sys.stderr)
            spent = math.ceil(time.perf_counter() - start)
            print(f"{model}: batch {batch}, {spent} s; {sum(r['tokens'] for r in rows):,} tokens", file=sys.stderr)
    print(render(rows))
    return 1 if any(row["wrong"] for row in rows) or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
