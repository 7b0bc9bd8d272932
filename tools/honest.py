"""Honest float32 programs: other orders of sums, other formulas, other compilers. All compute the same function.

`SIMULATED` are engine operations; `BUILDS` are the compiler command lines for impls/c/run.c that `harness selftest`
has. Calibration of the noise floor's multiple uses them as the programs that must never be called wrong.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.adapters.toolchain import tool
from harness.conformance.selftest.honest import BUILDS, Build
from harness.engine import LIBRARY, STRICT, Ops, Step
from harness.engine.honest import moved_embedding
from harness.errors import MissingDependency
from harness.models import impls_dir

__all__ = ["BUILDS", "SIMULATED", "Build", "compiled"]

Array = npt.NDArray[Any]
Sum = Callable[[Array], Array]  # (k, ...) float32 terms to their float32 sum over the first axis


# ---- orders of a sum ---------------------------------------------------------------------------------------------


def left_to_right(terms: Array) -> Array:
    out: Array = np.add.reduce(terms, axis=0)
    return out


def right_to_left(terms: Array) -> Array:
    return left_to_right(np.ascontiguousarray(terms[::-1]))


def pairwise(terms: Array) -> Array:
    """A balanced tree."""
    while len(terms) > 1:
        half = len(terms) // 2
        joined = terms[0 : 2 * half : 2] + terms[1 : 2 * half : 2]
        terms = np.concatenate([joined, terms[2 * half :]]) if len(terms) % 2 else joined
    out: Array = terms[0]
    return out


def lanes(n: int) -> Sum:
    """n partial sums side by side, as SIMD registers hold them, added as a tree; then what is left over."""

    def summed(terms: Array) -> Array:
        whole = len(terms) // n * n
        if not whole:
            return left_to_right(terms)
        total = pairwise(left_to_right(terms[:whole].reshape(whole // n, n, *terms.shape[1:])))
        for term in terms[whole:]:
            total = total + term
        return total

    return summed


def in_double(terms: Array) -> Array:
    out: Array = np.add.reduce(terms.astype(np.float64), axis=0).astype(np.float32)
    return out


def fused(terms: Array) -> Array:
    """Multiply-add with one rounding: terms are float64, which holds a product of two float32 numbers exactly."""
    total = np.zeros(terms.shape[1:], np.float32)
    for term in terms:
        total = (total + term).astype(np.float32)
    return total


_BLOCK = 1 << 21  # terms held at a time


def product(x: Array, w: Array, summed: Sum) -> Array:
    """x (n, k) times w (m, k), each sum over k in the given order."""
    (n, k), m = x.shape, len(w)
    wide = np.float64 if summed in (fused, in_double) else np.float32
    out = np.empty((n, m), np.float32)
    columns = max(1, min(m, _BLOCK // k))
    rows = max(1, _BLOCK // (k * columns))
    left = np.ascontiguousarray(x.T, dtype=wide)
    for first in range(0, m, columns):
        right = np.ascontiguousarray(w[first : first + columns].T, dtype=wide)
        for row in range(0, n, rows):
            terms = left[:, row : row + rows, None] * right[:, None, :]
            out[row : row + rows, first : first + columns] = summed(terms)
    return out


def with_sums(summed: Sum, base: Ops = STRICT) -> Ops:
    """llama2.c's operations with every sum in another order."""

    def norm(step: Step, x: Array, gain: Array) -> Array:
        wide = np.float64 if summed in (fused, in_double) else np.float32
        squares = summed(np.ascontiguousarray((x.astype(wide) * x).T))[:, None]
        root = np.sqrt(squares / np.float32(x.shape[1]) + np.float32(step.config.norm_eps))
        out: Array = gain * ((np.float32(1) / root) * x)
        return out

    def matmul(step: Step, name: str, x: Array, w: Any) -> Array:
        return product(x, w, summed)

    def scores(step: Step, q: Array, k: Array) -> Array:
        pairs = [product(q[0, :, h], k[0, :, h], summed) for h in range(q.shape[2])]
        return np.stack(pairs)[None]

    def mix(step: Step, weights: Array, v: Array) -> Array:
        heads = [product(weights[0, h], np.ascontiguousarray(v[0, :, h].T), summed) for h in range(v.shape[2])]
        return np.stack(heads, axis=1)[None]

    return replace(base, attn_norm=norm, ffn_norm=norm, final_norm=norm, matmul=matmul, scores=scores, mix=mix)


# ---- other formulas ----------------------------------------------------------------------------------------------


def exp_in_double(x: Array) -> Array:
    with np.errstate(over="ignore"):
        out: Array = np.exp(x.astype(np.float64)).astype(np.float32)
    return out


def silu_in_double(step: Step, gate: Array) -> Array:
    with np.errstate(over="ignore"):
        wide = gate.astype(np.float64)
        out: Array = (wide / (1 + np.exp(-wide))).astype(np.float32)
    return out


def silu_by_tanh(step: Step, gate: Array) -> Array:
    half = np.float32(0.5)
    out: Array = half * gate * (1 + np.tanh(half * gate))
    return out


def _softmax(step: Step, scores: Array, seen: Array, *, with_max: bool, exp: Callable[[Array], Array]) -> Array:
    x = np.where(seen, scores, np.float32(-np.inf))
    if with_max:
        x = x - x.max(axis=-1, keepdims=True)
    x = exp(x)
    total = np.cumsum(x, axis=-1, dtype=np.float32)[..., -1:]
    out: Array = x * (np.float32(1) / total)
    return out


def softmax_without_max(step: Step, scores: Array, seen: Array) -> Array:
    return _softmax(step, scores, seen, with_max=False, exp=np.exp)


def softmax_in_double(step: Step, scores: Array, seen: Array) -> Array:
    return _softmax(step, scores, seen, with_max=True, exp=exp_in_double)


def angles_by_steps(step: Step) -> tuple[Array, Array]:
    """Frequencies by repeated multiplication in float32, as ports without a power function have them."""
    if "angles" not in step.memo:
        config = step.config
        ratio = np.float32(config.rope_theta ** (-2.0 / config.head_dim))
        factors = np.full(config.head_dim // 2, ratio, np.float32)
        factors[0] = 1
        angle = step.pos.astype(np.float32)[:, None] * np.multiply.accumulate(factors)
        step.memo["angles"] = np.cos(angle), np.sin(angle)
    cos, sin = step.memo["angles"]
    return cos, sin


def scaled_queries(step: Step, q: Array, k: Array) -> Array:
    """Scores of queries that were scaled before the product."""
    return STRICT.scores(step, q * np.float32(1 / math.sqrt(step.config.head_dim)), k)


SIMULATED: dict[str, Ops] = {
    "sums right to left": with_sums(right_to_left),
    "sums as a tree": with_sums(pairwise),
    "4 partial sums": with_sums(lanes(4)),
    "8 partial sums": with_sums(lanes(8)),
    "16 partial sums": with_sums(lanes(16)),
    "32 partial sums": with_sums(lanes(32)),
    "fused multiply-add": with_sums(fused),
    "double accumulators": with_sums(in_double),
    "exp in double": replace(STRICT, activation=silu_in_double, softmax=softmax_in_double),
    "silu by tanh": replace(STRICT, activation=silu_by_tanh),
    "softmax without maximum": replace(STRICT, softmax=softmax_without_max),
    "scale before the scores": replace(STRICT, scores=scaled_queries, scale=lambda step, scores: scores),
    "angles from double": replace(STRICT, angles=LIBRARY.angles),
    "angles by repeated multiplication": replace(STRICT, angles=angles_by_steps),
    "library, angles of the C library": replace(LIBRARY, angles=STRICT.angles),
    "library, inputs moved (seed 11)": replace(LIBRARY, embed=moved_embedding(11)),
    "library, inputs moved (seed 12)": replace(LIBRARY, embed=moved_embedding(12)),
    "library, inputs moved (seed 13)": replace(LIBRARY, embed=moved_embedding(13)),
    "8 partial sums, all formulas other": replace(
        with_sums(lanes(8)), activation=silu_by_tanh, softmax=softmax_without_max, angles=LIBRARY.angles
    ),
}


# ---- other compilers ---------------------------------------------------------------------------------------------


def compiled(build: Build, source: Path, directory: Path) -> Path | None:
    """Compile one C file that includes run.c, or run.c itself; None where the compiler is absent."""
    try:
        words = [*tool("zig"), "cc"] if build.compiler == "zig" else tool("cc")
    except MissingDependency:
        return None
    out = directory / "".join(c if c.isalnum() else "_" for c in f"{source.stem} {build.name}")
    if not out.exists():
        fresh = out.with_suffix(".new")
        command = [*words, *build.flags, "-std=gnu11", f"-I{impls_dir() / 'c'}", "-o", str(fresh), str(source), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{build.name}: {done.stderr}")
        shutil.move(fresh, out)
    return out


_LOGITS_C = r"""
#define main run_main
#include "run.c"
#undef main
/* Read a count and as many ids (int32) again and again from stdin; write float32 logits for each id. */
int main(int argc, char **argv) {
    if (argc != 2) return 2;
    Model model = load_model(argv[1]);
    int32_t n, id;
    while (fread(&n, sizeof n, 1, stdin) == 1) {
        State state = new_state(&model.config, model.group, n);
        for (int pos = 0; pos < n; pos++) {
            if (fread(&id, sizeof id, 1, stdin) != 1) return 1;
            const float *logits = forward(&model, &state, id, pos);
            fwrite(logits, sizeof *logits, (size_t)model.config.vocab_size, stdout);
        }
        free_state(&state);
    }
    free_model(&model);
    return 0;
}
"""


def logits_of(build: Build, checkpoint: Path, sequences: list[list[int]], vocab_size: int) -> list[Array] | None:
    """Return what a build of run.c computes for whole sequences: (n, vocab_size) float32 each."""
    directory = Path(tempfile.gettempdir()) / "honest-builds"
    directory.mkdir(exist_ok=True)
    source = directory / "logits.c"
    if not source.exists() or source.read_text() != _LOGITS_C:
        source.write_text(_LOGITS_C)
    program = compiled(build, source, directory)
    if program is None:
        return None
    asked = b"".join(np.array([len(s), *s], np.int32).tobytes() for s in sequences)
    done = subprocess.run([program, checkpoint], input=asked, capture_output=True, check=True)
    rows = np.frombuffer(done.stdout, np.float32).reshape(-1, vocab_size)
    return np.split(rows, np.cumsum([len(s) for s in sequences])[:-1])
