"""Benchmarks written by hand: rows and run files with just the figures that a test is about."""

from pathlib import Path

from harness.benchfile import (
    Absent,
    AtContext,
    BenchFile,
    Comparison,
    Estimate,
    Header,
    Key,
    Limit,
    ModelFacts,
    Result,
    Row,
    Sample,
)
from harness.report.speeds import Ratio, gather

MACHINE = {
    "cpu": "Abacus 9",
    "n_cpus": 2,
    "system": "Linux x86_64",
    "python": "3.12.1",
    "numpy": "2.4.0",
    "blas": "none",
}


def seconds(tps, low=None, high=None, n=9):
    """The seconds of a token at a speed whose interval is given as speeds."""
    return Estimate(1 / tps, 1 / (high or tps), 1 / (low or tps), 0.95, n)


def row(impl="c", tps=100.0, low=None, high=None, *, model="15M", precision="f32", threads=1, **fields):
    usual = {
        "is_synthetic": False,
        "rounds": 9,
        "prefill_s": None,
        "load_s": Estimate(0.01, 0.009, 0.011, 0.95, 9),
        "first_byte_s": None,
        "peak_rss_bytes": 64_000_000,
        "reported_tps": None,
        "claim": "",
        "share": None,
        "verdict": "EXACT",
    }
    return Row(Key(model, precision, threads, impl), decode_s=seconds(tps, low, high), **{**usual, **fields})


def samples(of, rounds=3):
    """The three runs of each round of a row, as fast as it says."""
    s = of.decode_s.value
    return tuple(
        Sample(
            of.key,
            n,
            run,
            n_prompt,
            made,
            (n_prompt + made) * s + 0.01,
            0.02,
            0.5,
            64_000_000,
            None,
            made * 4,
            "EXACT",
        )
        for n in range(rounds)
        for run, n_prompt, made in (("short", 8, 8), ("long", 8, 200), ("prompt", 128, 8))
    )


def bench(
    *rows,
    absent=(),
    path="run.jsonl",
    machine=MACHINE,
    complete=True,
    builds=None,
    ratios=False,
    started="2026-01-02T03:04:05",
    command="",
):
    """The run file that holds rows, as it is read."""
    models = {
        f"{one.key.model} {one.key.precision}": ModelFacts(
            "ab" * 32, "cd" * 32, one.is_synthetic, 60_816_384, 15_191_712
        )
        for one in rows
    }
    header = Header(
        "0",
        dict(machine),
        models,
        builds or {one.key.impl: "12" * 32 for one in rows},
        {"seed": 1, "rounds": 9, **({"command": command} if command else {})},
        started,
    )
    limits = tuple(Limit(one.key.model, one.key.precision, one.key.threads, 0, 1e10, 9e9, 1e11, "C") for one in rows)
    runs = tuple(sample for one in rows for sample in samples(one))
    return BenchFile(Path(path), header, runs, limits, tuple(absent), rows, complete)


def everything():
    """A benchmark with something in every place: programs, precisions, threads, contexts, and what is absent."""
    share = Estimate(0.6, 0.5, 0.7, 0.95, 9)
    contexts = (AtContext(15, 63, seconds(105)), AtContext(63, 255, seconds(95)))
    c = row("c", 100.0, 95.0, 104.0, share=share, product_share=share, contexts=contexts, prefill_s=seconds(300))
    zig = row("zig", 250.0, 240.0, 255.0, share=share, reported_tps=300.0, claim="claims +20%, unexplained")
    two = row("c", 180.0, 170.0, 190.0, threads=2, is_busy=True, notes=("busy machine",))
    int8 = row("c-q8", 300.0, precision="q8", to_fp32=Comparison(Result.FASTER, 3.0, 2.9, 3.1, 0.99, 9))
    gone = Absent(Key("15M", "f32", 1, "ts"), "MISMATCH", "token 3 is wrong")
    file = bench(c, zig, two, int8, absent=[gone], command="harness bench --impls c,`zig`")
    ratio = Ratio("c", Comparison(Result.FASTER, 2.5, 2.4, 2.6, 0.99, 9))
    return gather([file], [{zig.key: ratio}])
