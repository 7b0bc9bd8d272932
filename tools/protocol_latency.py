"""How long a request of the line protocol takes, how many texts a minute `harness tokenizer` puts to a program, and
what starting a program through the runner costs over a bare start.

    python tools/protocol_latency.py [--impls c,zig] [--model gqa] [--requests 10000] [--texts 20000]

A round trip is the time from before a request is written to after its reply is read and checked, in a session whose
program runs. What it includes of ours is all that a user of a session waits for. The figures are of the machine and
the moment: measure on an idle one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

from harness.adapters.implementation import resolve_lines
from harness.adapters.process import run
from harness.conformance.tokenizer_check import check_sides
from harness.conformance.verify import files_for
from harness.errors import HarnessError
from harness.models import impls_dir, locate

WARM_UP = 200
NOTHING = shutil.which("true") or "/bin/true"


def timed(ask: Callable[[], object], n: int) -> tuple[float, float, float]:
    """Seconds of a round trip: median, 99 % quantile, largest."""
    for _ in range(WARM_UP):
        ask()
    took = sorted(seconds(ask) for _ in range(n))
    return statistics.median(took), took[int(0.99 * (n - 1))], took[-1]


def over_a_bare_start(n: int = 200) -> float:
    """Seconds that running a program which does nothing takes longer than its bare start and end, median of pairs."""

    def bare() -> None:
        os.waitpid(os.posix_spawn(NOTHING, [NOTHING], os.environ), 0)

    with tempfile.TemporaryDirectory() as directory:
        ours = partial(run, [NOTHING], cwd=Path(directory))
        for _ in range(3):
            ours()
        return statistics.median(seconds(ours) - seconds(bare) for _ in range(n))


def seconds(act: Callable[[], object]) -> float:
    begin = perf_counter()
    act()
    return perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--impls",
        default="c",
        help="comma list of programs that speak the line protocol: names, manifests or command lines",
    )
    parser.add_argument("--model", default="gqa")
    parser.add_argument("--requests", type=int, default=10_000, help="of each kind that is timed; at least 1")
    parser.add_argument("--texts", type=int, default=20_000, help="put to the tokenizer")
    options = parser.parse_args()
    if options.requests < 1:
        parser.error("--requests: at least 1")
    print(f"a start through the runner: {1000 * over_a_bare_start():.2f} ms over a bare one, median\n")
    print("| program | info: median, 99 %, largest | encode of 16 bytes | texts of `harness tokenizer` |")
    print("| --- | --- | --- | --- |")
    status = 0
    for spec in options.impls.split(","):
        try:
            impl = resolve_lines(spec, impls_dir())
            files = files_for(impl.manifest, locate(options.model))
            with impl.session(files.checkpoint, files.tokenizer) as session:
                asked = timed(session.info, options.requests)
                encoded = timed(partial(session.encode, b"Once upon a time"), options.requests)
            check = check_sides(impl, files=locate(options.model), n_texts=options.texts)
        except HarnessError as error:
            print(f"{spec}: {error}", file=sys.stderr)
            status = 1
            continue
        ms = ["  ".join(f"{1000 * value:.3f}" for value in values) + " ms" for values in (asked, encoded)]
        rate = 60 * check.n_texts / check.took_s
        print(f"| {impl.name} | {ms[0]} | {ms[1]} | {rate:,.0f} a minute ({check.verdict}) |", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
