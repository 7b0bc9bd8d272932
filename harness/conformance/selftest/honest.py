"""Honest programs, which no judge may call wrong: other compilers, flags, threads, accumulators; lower precisions.

`BUILDS` are compiler command lines for impls/c/run.c; `programs()` are those, and our programs in other languages.
`rounded_programs()` compute in a lower precision and declare it: the same steps on weights, caches and activations
that are rounded to float16 or bfloat16, or weights of int8.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.adapters import manifest as manifests
from harness.adapters.implementation import Implementation, ProcessImplementation
from harness.adapters.in_process import InProcess
from harness.adapters.manifest import FILE_NAME, Manifest
from harness.adapters.process import Limits
from harness.engine import Engine, blas_threads, generate
from harness.engine.honest import rounded
from harness.models import impls_dir, load
from harness.results import Observation, Request

__all__ = ["BUILDS", "Build", "Honest", "build_of", "programs", "rounded_programs"]


@dataclass(frozen=True, slots=True)
class Build:
    """A way to compile impls/c/run.c, whose plain C it is that compilers take to pieces: hence -DSTRICT."""

    name: str
    compiler: Literal["cc", "zig"]
    flags: tuple[str, ...]


BUILDS = (
    Build("gcc -O0", "cc", ("-O0", "-DSTRICT", "-ffp-contract=off")),
    Build("gcc -O2", "cc", ("-O2", "-DSTRICT", "-ffp-contract=off")),
    Build("gcc -O3", "cc", ("-O3", "-DSTRICT", "-ffp-contract=off")),
    Build("gcc -O3 -march=native", "cc", ("-O3", "-DSTRICT", "-march=native")),
    Build("gcc -Ofast", "cc", ("-Ofast", "-DSTRICT")),
    Build("gcc -Ofast -march=native", "cc", ("-Ofast", "-DSTRICT", "-march=native")),
    Build("gcc -O3 -fopenmp", "cc", ("-O3", "-DSTRICT", "-ffp-contract=off", "-fopenmp", "-DPARALLEL_FROM=1")),
    Build("gcc -O3 -DACCUM=double", "cc", ("-O3", "-ffp-contract=off", "-DACCUM=double")),
    Build("gcc -O3, vectors", "cc", ("-O3",)),
    Build("zig cc -O3", "zig", ("-O3", "-DSTRICT")),
    Build("zig cc -O3 -ffast-math -march=native", "zig", ("-O3", "-DSTRICT", "-ffast-math", "-march=native")),
)
_THREADED = Build(
    "gcc -O3, vectors, threads", "cc", ("-O3", "-DPARALLEL_FROM=1")
)  # small models, too, are shared out
_OWN = ("zig", "zig-scalar", "ts", "ts-wasm")  # our programs in other languages, by the names in impls/


@dataclass(frozen=True, slots=True)
class Honest:
    """A program that must not be called wrong.

    Attributes:
        threads: that it is asked to use.
    """

    name: str
    impl: Implementation
    threads: int = 1


def build_of(build: Build) -> ProcessImplementation:
    """Our C program, compiled this way."""
    base = next(iter(manifests.load(impls_dir() / "c")))
    compiler = ("{zig}", "cc") if build.compiler == "zig" else ("{cc}",)
    command = (*compiler, *build.flags, "-std=gnu11", "-pthread", "-o", "{out}/run", "{src}/run.c", "-lm")
    return ProcessImplementation(_both(base, name=_word(build.name), build=(command,)))


def programs() -> list[Honest]:
    """All builds, and our programs in Zig and TypeScript; the parallel ones with two threads."""
    found = [Honest(one.name, build_of(one), 2 if "-fopenmp" in one.flags else 1) for one in BUILDS]
    found.append(Honest("gcc -O3, vectors, 2 threads", build_of(_THREADED), 2))
    others = {one.name: one for one in manifests.discover(impls_dir())}
    return found + [Honest(name, ProcessImplementation(_both(others[name]))) for name in _OWN]


def _both(manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest of a program that is put to float32 and to int8 models, by its text."""
    formats = tuple(dict.fromkeys((*manifest.formats, "llama2c-v2")))
    text = {"formats": formats, "known": (), "levels": ("TEXT",), "protocol": ()}
    return manifest.model_copy(update={**text, **changes})


def _word(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


# ---- lower precisions --------------------------------------------------------------------------------------------


class _Rounded(InProcess):
    """A program in numpy that computes in a lower precision, and says so."""

    def __init__(self, precision: Literal["f16", "bf16", "q8"], member: int, what: str, *, is_declared: bool) -> None:
        self._precision, self._member = precision, member
        run = ("{python}", precision, what, "{model}", "{tokenizer}", "{prompt}", "{steps}", "{temperature}")
        self.manifest = Manifest(
            path=Path(__file__).parent / FILE_NAME,
            name=_word(f"{precision}-{what}"),
            precision=precision if is_declared else "f32",
            conventions="llama2.c",
            run=(*run, "{topp}", "{seed}"),
        )

    def run(self, request: Request, limits: Limits | None = None) -> Observation:
        start = time.perf_counter()
        model = load(request.model, request.tokenizer)
        config = model.checkpoint.config
        group = next(g for g in (64, 32, 16, 8, 4, 2, 1) if not config.dim % g and not config.hidden_dim % g)
        ops = rounded(self._precision, group_size=group)[self._member]
        prompt = model.tokenizer.encode(request.prompt or b"")
        with blas_threads(1), np.errstate(over="ignore"):
            engine = Engine(config, model.checkpoint.tensors, ops=ops)
            ids = list(
                generate(
                    engine,
                    prompt,
                    steps=request.steps,
                    temperature=request.temperature,
                    topp=request.topp,
                    seed=request.seed,
                )
            )
        if ids and ids[-1] == model.tokenizer.bos_id:
            del ids[-1]  # what ended the run is not printed
        text = model.tokenizer.print_text([prompt[0], *ids]) + b"\n"
        return Observation((self.name,), "", text, wall_s=time.perf_counter() - start)


def rounded_programs(*, is_declared: bool = True) -> Iterator[Honest]:
    """Programs of each lower precision: its weights alone, its caches too, its activations too.

    Args:
        is_declared: whether their manifests say so. One that does not is wrong, but has no bug that could be named.
    """
    members: dict[Literal["f16", "bf16", "q8"], tuple[str, ...]] = {
        "f16": ("weights", "weights and cache", "weights, cache, activations"),
        "bf16": ("weights", "weights and cache", "weights, cache, activations"),
        "q8": ("weights", "weights and activations"),
    }
    for precision, parts in members.items():
        for member, what in enumerate(parts):
            impl = _Rounded(precision, member, what, is_declared=is_declared)
            yield Honest(f"{precision} {what}" + ("" if is_declared else ", undeclared"), impl)
