"""Does the slope between two run lengths measure what a clock inside the program does?

    python tools/slope_against_clock.py --model 15M --impls c,zig --rounds 30

In each round, in random order, a program makes a short and a long run as `harness bench` would ask for them, and the
long one once more with a small library preloaded that notes the monotonic clock at each token that it prints
(stamps.c). The slope between the first two is compared with the third's own seconds per token over the same tokens,
the last ones. Printed are the medians of both and of their ratio in a round, with its interval; the exit status is 1
if a ratio is further from 1 than --within.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.adapters import toolchain
from harness.adapters.implementation import ProcessImplementation, resolve
from harness.adapters.process import Limits
from harness.bench import workload
from harness.bench.machine import machine
from harness.bench.plan import lengths, prompt_of
from harness.bench.stats import median
from harness.conformance.verify import files_for
from harness.errors import HarnessError
from harness.models import impls_dir
from harness.results import Observation, Request

LIMITS = Limits(time_s=600.0, pause_s=0.1)


def build(directory: Path) -> Path:
    """Compile the library that notes the clock."""
    library = directory / "stamps.so"
    source = Path(__file__).with_name("stamps.c")
    command = [*toolchain.tool("cc"), "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


@contextmanager
def preloaded(library: Path, stamps: Path) -> Iterator[None]:
    os.environ |= {"LD_PRELOAD": str(library), "STAMPS": str(stamps)}
    try:
        yield
    finally:
        del os.environ["LD_PRELOAD"], os.environ["STAMPS"]


def run(impl: ProcessImplementation, request: Request) -> Observation:
    seen = impl.run(request, LIMITS)
    if seen.failure is not None:
        raise seen.failure
    return seen


def clock_inside(stamps: Path, n_positions: int, n_tokens: int) -> float:
    """Seconds per token of the last tokens, by the program's own stamps."""
    times = [float(line) for line in stamps.read_text().split()]
    if not n_positions <= len(times) <= n_positions + 3:  # line ends and a last flush may follow
        raise SystemExit(f"{len(times)} flushes for {n_positions} tokens: this program does not print token by token")
    return (times[n_positions - 1] - times[n_positions - 1 - n_tokens]) / n_tokens


def compare(impl: ProcessImplementation, work: workload.Workload, rounds: int, library: Path, threads: int) -> float:
    """Print the comparison of one program; return how far the median ratio is from 1."""
    rng = random.Random(0)
    files = files_for(impl.manifest, work.files)
    n = lengths(work.config)
    n_more = n.n_long - n.n_short
    slopes, clocks = [], []
    with tempfile.TemporaryDirectory() as directory:
        stamps = Path(directory) / "stamps"
        for _ in range(rounds):
            prompt = prompt_of(work, n.n_prompt, rng)

            def ask(n_tokens: int, text: bytes = prompt.text, n_ids: int = prompt.n_ids) -> Request:
                steps = n_ids - 1 + n_tokens
                model, words = files.checkpoint, files.tokenizer
                return Request(model, words, prompt=text, steps=steps, temperature=0.0, threads=threads)

            seen: dict[str, Observation] = {}
            for name in rng.sample(["short", "long", "inside"], 3):
                if name == "inside":
                    with preloaded(library, stamps):
                        seen[name] = run(impl, ask(n.n_long))
                else:
                    seen[name] = run(impl, ask(n.n_short if name == "short" else n.n_long))
            if seen["inside"].stdout != seen["long"].stdout:
                raise SystemExit(f"{impl.name} printed something else with the clock preloaded")
            slopes.append((seen["long"].wall_s - seen["short"].wall_s) / n_more)
            clocks.append(clock_inside(stamps, prompt.n_ids - 1 + n.n_long, n_more))
    ratio = median([slope / clock for slope, clock in zip(slopes, clocks, strict=True)])
    print(
        f"{impl.name} on {work.name} {work.precision}: slope {1 / median(slopes).value:.2f} tok/s, clock inside"
        f" {1 / median(clocks).value:.2f} tok/s; slope over clock {ratio.value:.4f}, {ratio.low:.4f} to"
        f" {ratio.high:.4f} ({ratio.confidence:.0%}, {ratio.n} rounds)",
        flush=True,
    )
    return abs(ratio.value - 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="15M")
    parser.add_argument("--precision", default="f32", choices=workload.PRECISIONS)
    parser.add_argument("--impls", default="c,zig")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--within", type=float, default=0.03)
    options = parser.parse_args()
    print(machine(), flush=True)
    work = workload.find(options.model, options.precision, synthetic=True)  # real models stop where they like
    apart = 0.0
    with tempfile.TemporaryDirectory() as directory:
        library = build(Path(directory))
        for name in options.impls.split(","):
            for impl in resolve(name, impls_dir()):
                apart = max(apart, compare(impl, work, options.rounds, library, options.threads))
    return 0 if apart <= options.within else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HarnessError as error:
        sys.exit(f"slope_against_clock: {error}")
