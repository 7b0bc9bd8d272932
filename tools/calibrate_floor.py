"""Calibrate the noise floor's multiple: how far do honest programs stray, in units of the ensemble's floor?

    python tools/calibrate_floor.py --json floor.json

For each model and each honest program (`tools/honest.py`), at every position of some texts:

    error    its logits minus the exact ones
    floor    of the position, as the judge measures it
    stray    the most by which any token's error exceeds that of the exact best token: a choice of this program can
             have no larger regret

`stray / floor` above the multiple is what a false alarm needs; it happens where, besides, the exact logits are that
close. Models of real weights write their own texts; synthetic weights are fed random ids. Everything is seeded.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from honest import BUILDS, SIMULATED, Build, logits_of

from harness import checkpoint
from harness.checkpoint import Checkpoint, expected_shapes
from harness.conformance.reference import Reference
from harness.engine import STRICT, Engine, blas_threads, generate
from harness.judging.floor import MULTIPLE, position_floor
from harness.model_config import ModelConfig
from harness.models import Model, ModelNotFound, load, locate

Array = npt.NDArray[Any]

# name -> (configuration, sequences, positions of each, whether a few channels are very large)
SYNTHETIC: dict[str, tuple[ModelConfig, int, int, bool]] = {
    "dim 288": (ModelConfig(288, 768, 6, 6, 6, 512, 256, is_tied=False), 4, 128, False),
    "dim 288 with large channels": (ModelConfig(288, 768, 6, 6, 6, 512, 256, is_tied=False), 4, 128, True),
    "dim 768": (ModelConfig(768, 2048, 12, 12, 12, 512, 256, is_tied=False), 2, 40, False),
    "dim 4096": (ModelConfig(4096, 11008, 2, 32, 32, 512, 256, is_tied=False), 2, 12, False),
}
REAL = ("gqa", "mha", "mqa", "stories260K")
INT8 = ("gqa-q8", "mha-q8", "mqa-q8")
SEEDS = (3, 4, 5, 6, 7, 8, 9, 10)


@dataclass
class Subject:
    """A model, and the sequences that it is fed."""

    name: str
    reference: Reference
    sequences: list[list[int]]
    path: Path


def real(name: str) -> Subject:
    """A model of real weights and its own texts: one greedy, others drawn with llama2.c's generator."""
    files = locate(name)
    model = load(files.checkpoint, files.tokenizer)
    reference = Reference(model)
    bos = model.tokenizer.bos_id
    texts = [list(generate(reference.exact, [bos], steps=0))]
    texts += [list(generate(reference.exact, [bos], steps=256, temperature=1.0, seed=seed)) for seed in SEEDS]
    return Subject(name, reference, [[bos, *text[:-1]] for text in texts], files.checkpoint)


def synthetic(name: str, directory: Path) -> Subject:
    """Random weights at the scale of trained ones: attention that is sharp, logits with a spread of 4."""
    config, n_sequences, n_positions, has_large = SYNTHETIC[name]
    rng = np.random.default_rng(config.dim)
    depth = math.sqrt(2 * config.n_layers)
    factor = {"wq": 2.0, "wk": 2.0, "wo": 1 / depth, "w_down": 1 / depth, "lm_head": 4.0}
    tensors = {}
    for key, shape in expected_shapes(config).items():
        kind = key.rpartition(".")[2]
        if len(shape) == 1:
            tensors[key] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            scale = 1.0 if kind == "tok_embedding" else factor.get(kind, 1.0) / math.sqrt(shape[1])
            tensors[key] = rng.standard_normal(shape, np.float32) * np.float32(scale)
    if has_large:
        tensors["tok_embedding"][:, :3] *= 30
    sequences = [[1, *rng.integers(3, config.vocab_size, n_positions - 1).tolist()] for _ in range(n_sequences)]
    path = directory / "model.bin"
    checkpoint.write(Checkpoint(config, tensors), path, version=0)
    reference = Reference(Model(Checkpoint(config, tensors), None, name))  # type: ignore[arg-type]
    return Subject(name, reference, sequences, path)


def by_engine(subject: Subject, engine: Engine) -> Array:
    """Logits of all sequences by an engine that keeps no cast weights."""
    reference = subject.reference
    light = Engine(
        reference.config, reference.model.checkpoint.tensors, dtype=engine.dtype, ops=engine.ops, keep_bytes=0
    )
    return np.concatenate([light.logits(sequence) for sequence in subject.sequences])


def one_by_one(subject: Subject) -> Array:
    """The library's float32, a token at a time: matrix-vector products instead of matrix products."""
    reference = subject.reference
    engine = Engine(reference.config, reference.model.checkpoint.tensors, dtype=np.float32)
    rows = []
    for sequence in subject.sequences:
        session = engine.session(capacity=len(sequence))
        rows += [session.extend([token]) for token in sequence]
    return np.concatenate(rows)


def programs(subject: Subject, *, quick: bool) -> Iterator[tuple[str, Array]]:
    """The logits of every honest program."""
    config, tensors = subject.reference.config, subject.reference.model.checkpoint.tensors
    is_int8 = subject.reference.is_int8
    if not is_int8:
        for name, ops in SIMULATED.items():
            yield name, by_engine(subject, Engine(config, tensors, ops=ops, keep_bytes=0))
    yield "library, a token at a time", one_by_one(subject)
    for build in BUILDS:
        if (quick and build.name == "gcc -O0") or not _is_new(build):
            continue
        rows = logits_of(build, subject.path, subject.sequences, config.vocab_size)
        if rows is not None:
            yield build.name, np.concatenate(rows)


def _is_new(build: Build) -> bool:
    return "-fopenmp" not in build.flags  # threads change no bit: each sum is one thread's


def measure(subject: Subject, *, quick: bool) -> dict[str, Any]:
    """Everything the tables say about one model."""
    reference = subject.reference
    exact = by_engine(subject, reference.exact).astype(np.float64)
    members = [by_engine(subject, engine) for engine in reference.ensemble]
    floor = position_floor(exact, members)
    strict = members[1] if not reference.is_int8 else by_engine(subject, Engine(*_parts(reference), ops=STRICT))
    if reference.is_int8:
        own = reference._own_story
        story = [e.logits(own) for e in reference.ensemble]
        both = np.concatenate([floor, position_floor(reference.exact.logits(own), story)])
        floor = np.full(len(floor), np.quantile(both, 0.99))
    ordered = np.sort(exact, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    top = np.argsort(-exact, axis=1, kind="stable")[:, :2]
    rows = np.arange(len(exact))
    found: dict[str, Any] = {
        "n_positions": len(exact),
        "floor_median": float(np.median(floor)),
        "floor_max": float(floor.max()),
        "one_member": {},
        "near_ties": float((margin < 0.1).mean() / 0.1),
        "smallest_margin": float(margin.min()),
        "programs": {},
    }
    for name, member in zip(("library", "strict", "moved 1", "moved 2"), members, strict=True):
        if not reference.is_int8:
            alone = np.abs(member - exact).max(axis=1)
            found["one_member"][name] = float(np.median(alone / floor))
    for name, logits in programs(subject, quick=quick):
        error = logits.astype(np.float64) - exact
        distance = np.abs(error).max(axis=1) / floor
        stray = (error.max(axis=1) - error[rows, top[:, 0]]) / floor
        pair = np.abs(error[rows, top[:, 0]] - error[rows, top[:, 1]]) / floor
        chosen = logits.argmax(axis=1)
        regret = (exact[rows, top[:, 0]] - exact[rows, chosen]) / floor
        found["programs"][name] = {
            "is_strict": bool(np.array_equal(logits, strict)),
            "distance": quantiles(distance),
            "stray": quantiles(stray),
            "pair": quantiles(pair),
            "n_stray_above": {str(m): int((stray > m).sum()) for m in (1, 1.5, 2, 2.5, 3, 4)},
            "n_pair_above": {str(m): int((pair > m).sum()) for m in (1, 1.5, 2, 2.5, 3, 4)},
            "excess": float(np.maximum(stray * floor - MULTIPLE * floor, 0).mean()),
            "n_flips": int((regret > 0).sum()),
            "largest_regret": float(regret.max()),
        }
    return found


def _parts(reference: Reference) -> tuple[ModelConfig, Any]:
    return reference.config, reference.model.checkpoint.tensors


def quantiles(values: Array) -> list[float]:
    """Median, 99 % and maximum."""
    return [float(np.median(values)), float(np.quantile(values, 0.99)), float(values.max())]


def render(results: dict[str, Any]) -> str:
    """Two tables: what each model shows over all programs, and each program over all float32 models."""
    lines = [
        "| model | positions | programs | floor: median | largest | distance: 99 % | largest | stray: 99 % | largest "
        "| above 2 | above 3 | false alarms expected per token: mean | worst program |",
        "| --- |" + " ---: |" * 12,
    ]
    for model, found in results.items():
        # A build that has the bits of the strict arithmetic is a member of the ensemble.
        rows = [row for row in found["programs"].values() if not row["is_strict"]]
        rates = [found["near_ties"] * row["excess"] for row in rows]
        counts = [sum(row["n_stray_above"][m] for row in rows) for m in ("2", "3")]
        n = found["n_positions"] * len(rows)
        cells = [
            f"{found['n_positions']:,}",
            f"{len(rows)}",
            f"{found['floor_median']:.1e}",
            f"{found['floor_max']:.1e}",
            *(f"{max(row[what][at] for row in rows):.2f}" for what in ("distance", "stray") for at in (1, 2)),
            *(f"{count:,} ({100 * count / n:.2f} %)" for count in counts),
            f"{sum(rates) / len(rates):.0e}",
            f"{max(rates):.0e}",
        ]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    models = [found for name, found in results.items() if name not in INT8]
    lines += [
        "",
        "| program | positions | distance: median | 99 % | largest | stray: 99 % | largest | above 2 |",
        "| --- |" + " ---: |" * 7,
    ]
    for name in dict.fromkeys(name for found in models for name in found["programs"]):
        here = [(found["n_positions"], found["programs"][name]) for found in models if name in found["programs"]]
        worst = [max(row[what][at] for _, row in here) for what in ("distance", "stray") for at in (0, 1, 2)]
        del worst[3]  # the median of what strays says nothing
        above = sum(row["n_stray_above"]["2"] for _, row in here)
        label = f"{name} *" if all(row["is_strict"] for _, row in here) else name
        lines.append(
            f"| {label} | {sum(n for n, _ in here):,} | "
            + " | ".join(f"{value:.2f}" for value in worst)
            + f" | {above} |"
        )
    lines += ["", "\\* the bits of the strict arithmetic, a member of the ensemble. Quantiles: of the worst model."]
    n_flips = sum(row["n_flips"] for found in results.values() for row in found["programs"].values())
    largest = max(row["largest_regret"] for found in results.values() for row in found["programs"].values())
    lines.append(f"Choices that differ from the exact one: {n_flips}, the largest regret {largest:.2f} floors.")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="comma list; default: all that are here")
    parser.add_argument(
        "--json", type=Path, default=Path("floor.json"), help="results, model by model; kept if there"
    )
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    names = options.models.split(",") if options.models else [*REAL, *INT8, *SYNTHETIC]
    for name in names:
        if name in results:
            continue
        start = time.perf_counter()
        with blas_threads(1), tempfile.TemporaryDirectory() as directory:
            try:
                subject = synthetic(name, Path(directory)) if name in SYNTHETIC else real(name)
            except ModelNotFound as absent:
                print(f"{name}: skipped, {absent}", file=sys.stderr)
                continue
            results[name] = measure(subject, quick=name == "dim 4096")
        options.json.write_text(json.dumps(results, indent=1))
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(render({name: results[name] for name in names if name in results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
