"""From samples to a row: slopes, what is left of a run without tokens, and what a program's own claim counts.

Within a round a program makes three runs: "short", "long" (more generated tokens, same prompt) and "prompt" (a longer
prompt). The seconds of a generated token are the slope between the first two, so that starting and loading cancel;
those of a prompt token are the slope to the third. Where context lengths were asked for, each has a run that goes so
far, and the slope between neighbouring ones is the speed there. Medians over the rounds, with the interval of
`stats.median`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from harness.bench.stats import median, shift
from harness.benchfile import (
    Absent,
    AtContext,
    Comparison,
    Estimate,
    Key,
    Limit,
    Round,
    Row,
    Sample,
    grouped,
    whole_rounds,
)
from harness.results import Kind

__all__ = ["BUSY", "CLAIM_TOLERANCE", "explain", "slopes", "summarise", "with_ratios"]

CLAIM_TOLERANCE = 0.03
BUSY = "busy machine: nothing is concluded from this"
_STEAL = 0.05  # of the time: with more, a row is not to be relied on
_CROWDED = 0.25  # processors that were wanted beyond those that there are
# A run uses its threads at most. Where CPU time rises faster with the tokens than they could use it, the short run
# idled, which would make the slope of wall time too small. Compilers and collectors of runtimes work beside a run,
# hence the factor; the least difference keeps the resolution of CPU time out of it.
_CPU_FACTOR = 1.5
_CPU_LEAST_S = 0.02
# Likewise for short runs that were made slow by work: then the tokens of the long run itself come more slowly, after
# its first byte, than the slope says. What a program does after its last token is in this too, hence the least.
_STREAM_FACTOR = 1.5
_STREAM_LEAST_S = 0.1


def slopes(samples: Sequence[Sample]) -> dict[int, float]:
    """Seconds of a generated token in each whole round."""
    return {number: found.decode_s for number, found in whole_rounds(samples).items()}


def summarise(
    key: Key,
    samples: Sequence[Sample],
    limits: Sequence[Limit],
    *,
    is_synthetic: bool,
    token_bytes: int,
    n_cpus: int,
    in_memory: bool = True,
) -> Row | Absent:
    """Make the row of one key, or say why there is none.

    Args:
        samples: of this key alone, no warm-ups.
        limits: of the same model, precision and threads.
        token_bytes: that decoding one token must read.
        n_cpus: of the machine.
        in_memory: whether the machine's memory holds the model.
    """
    bad = next((s for s in samples if not Kind(s.verdict).is_green), None)
    if bad is not None:
        return Absent(key, bad.verdict, "the tokens of a timed run are not right")
    rounds = whole_rounds(samples)
    if not rounds:
        return Absent(key, "UNMEASURED", "no round was measured to its end")
    decode = median([r.decode_s for r in rounds.values()])
    if decode.value <= 0:
        return Absent(key, "UNMEASURED", "longer runs took no longer: start-up varies more than the tokens take")
    # A program that waits for a disk cannot be told from one that idles.
    if in_memory and (reason := _unbelievable(rounds.values(), key.threads)):
        return Absent(key, "UNBELIEVED", reason)
    prefill = _prefill(rounds.values(), decode.value)
    load = median([_load(r.short, decode.value, prefill) for r in rounds.values()])
    first = [r.short.first_byte_s for r in rounds.values() if r.short.first_byte_s is not None]
    long = [r.long for r in rounds.values()]
    claims = [s.reported_tps for s in long if s.reported_tps is not None]
    reported = statistics.median(claims) if claims else None
    share = _share(rounds, {limit.round: limit.read_bytes_per_s for limit in limits}, token_bytes)
    products = {limit.round: limit.product_bytes_per_s for limit in limits} if key.precision == "f32" else {}
    other, steal = _mean(samples, "other_cpus"), _mean(samples, "steal")
    is_busy = (other or 0.0) + key.threads > n_cpus + _CROWDED or (steal or 0.0) > _STEAL
    notes = ["synthetic weights"] if is_synthetic else []
    verdict = _weakest(samples)
    if verdict is not Kind.EXACT:
        notes.append(verdict.value)
    if share is not None and share.value > 1:
        notes.append(f"{share.value:.0%} of the read limit: more than the probe reaches, which reads in order")
    from_disk = None if in_memory else _disk_token_bytes(rounds.values())
    if from_disk is not None:
        notes.append(_disk_note(from_disk, decode.value, rounds.values(), limits))
    if is_busy:
        notes.append(BUSY)
    return Row(
        key=key,
        is_synthetic=is_synthetic,
        rounds=len(rounds),
        decode_s=decode,
        prefill_s=prefill,
        load_s=load,
        first_byte_s=median(first) if first else None,
        peak_rss_bytes=max(s.peak_rss_bytes for s in samples),
        reported_tps=reported,
        claim=explain(reported, _typical(long), decode.value, prefill, load.value) if reported is not None else "",
        share=share,
        verdict=verdict.value,
        other_cpus=other,
        steal=steal,
        is_busy=is_busy,
        product_share=_share(rounds, products, token_bytes),
        notes=tuple(notes),
        harness_share=_harness_share(rounds.values()),
        contexts=_contexts(samples),
        disk_token_bytes=from_disk,
    )


def with_ratios(row: Row, others: Sequence[Row], samples: Sequence[Sample]) -> Row:
    """Compare a row with that of the same program in float32, or with one thread, where these were measured before.

    They were not measured in the same rounds, so the intervals are those of `stats.shift`.
    """
    known = {other.key: other for other in others}
    found = grouped(samples)

    def over(base: Key) -> Comparison | None:
        if base == row.key or base not in known:
            return None
        old, new = (list(slopes(found.get(key, [])).values()) for key in (base, row.key))
        return shift(old, new, tolerance=0.0)

    to_fp32 = over(replace(row.key, precision="f32", impl=row.key.impl.removesuffix("-q8")))
    return replace(row, to_fp32=to_fp32, scaling=over(replace(row.key, threads=1)))


def explain(reported: float, long: Sample, decode_s: float, prefill: Estimate | None, load_s: float) -> str:
    """Guess what a claim counts that is not the measured decoding speed; "" where it is.

    Args:
        reported: tokens per second.
        long: a typical run that the claim was made about.
    """
    n, n_prompt = long.n_generated, long.n_prompt
    per_prompt = prefill.value if prefill is not None else 0.0
    decoding = n * decode_s
    prompt_too = (n_prompt + n - 2) / (max(n_prompt - 1, 0) * per_prompt + (n - 1) * decode_s)
    whole = n_prompt * per_prompt + decoding
    definitions = [
        ("counts the prompt's tokens as well", prompt_too),
        ("counts the prompt's time but not its tokens", n / whole),
        ("counts loading as well", n / (load_s + whole)),
        ("counts start-up, loading and the prompt's tokens", (n_prompt + n - 1) / long.wall_s),
        ("counts characters", long.n_bytes / decoding),
        ("counts characters", long.n_bytes / whole),
        ("counts one token too few", (n - 1) / decoding),
    ]
    measured = n / decoding
    if _apart(reported, measured) <= CLAIM_TOLERANCE:
        return ""
    off = f"claims {reported / measured - 1:+.0%}"
    what, nearest = min(definitions, key=lambda definition: _apart(reported, definition[1]))
    if _apart(reported, nearest) <= CLAIM_TOLERANCE:
        return f"{off}: {what}"
    elapsed = (n_prompt + n - 2) / reported if reported > 0 else 0.0
    if elapsed and 0.001 / elapsed >= min(_apart(reported, nearest), _apart(reported, measured)):
        return f"{off}: its clock counts milliseconds"
    return f"{off}, unexplained"


# ------------------------------------------------------------------------------------------------------------------


def _prefill(rounds: Iterable[Round], decode_s: float) -> Estimate | None:
    found = []
    for r in rounds:
        if r.prompt is not None and (more := r.prompt.n_prompt - r.short.n_prompt) > 0:
            generated = (r.prompt.n_generated - r.short.n_generated) * decode_s
            found.append((r.prompt.wall_s - r.short.wall_s - generated) / more)
    estimate = median(found) if found else None
    return estimate if estimate is not None and estimate.value > 0 else None


def _load(short: Sample, decode_s: float, prefill: Estimate | None) -> float:
    prompt_s = prefill.value * short.n_prompt if prefill is not None else 0.0
    return short.wall_s - short.n_generated * decode_s - prompt_s


def _unbelievable(rounds: Iterable[Round], threads: int) -> str:
    """Say how the runs contradict the slope between them, or nothing."""
    found = list(rounds)
    wall = statistics.median(r.decode_s for r in found)
    cpu = statistics.median(r.decode_cpu_s for r in found)
    n = statistics.median(r.n_more for r in found)
    if cpu > _CPU_FACTOR * threads * wall and (cpu - threads * wall) * n > _CPU_LEAST_S:
        return f"its CPU time rises {cpu / (threads * wall):.1f} times as fast as its time allows: short runs idle"
    # The prompt may be printed as it is read: then its positions, too, come after the first byte.
    streams = [
        (r.long.wall_s - r.long.first_byte_s) / (r.long.n_prompt + r.long.n_generated - 2)
        for r in found
        if r.long.first_byte_s is not None and r.long.n_prompt + r.long.n_generated > 2
    ]
    stream = statistics.median(streams) if streams else 0.0
    if stream > _STREAM_FACTOR * wall and (stream - wall) * n > _STREAM_LEAST_S:
        return f"the tokens of its long runs come {stream / wall:.1f} times as slowly: short runs are delayed"
    return ""


def _share(rounds: dict[int, Round], limits: dict[int, float], token_bytes: int) -> Estimate | None:
    known = {n: r for n, r in rounds.items() if r.decode_s > 0 and limits.get(n, 0) > 0}
    found = [token_bytes / r.decode_s / limits[n] for n, r in known.items()]
    return median(found) if found else None


def _contexts(samples: Sequence[Sample]) -> tuple[AtContext, ...]:
    """Seconds per token between neighbouring lengths of a round; runs that ended before theirs count for nothing."""
    found: dict[tuple[int, int], list[float]] = {}
    for number in sorted({s.round for s in samples}):
        ends = {}
        for s in samples:
            n = s.n_prompt + s.n_generated - 1
            if s.round == number and (s.run == "short" or s.run == f"context {n}"):
                ends[n] = s.wall_s
        for begin, end in pairwise(sorted(ends)):
            found.setdefault((begin, end), []).append((ends[end] - ends[begin]) / (end - begin))
    return tuple(AtContext(begin, end, median(seconds)) for (begin, end), seconds in sorted(found.items()))


def _harness_share(rounds: Iterable[Round]) -> float | None:
    """Share of the tokens' time in which the harness worked, by the slope that the speed is: as if it were lost."""
    found = [
        (r.long.harness_cpu_s - r.short.harness_cpu_s) / (r.long.wall_s - r.short.wall_s)
        for r in rounds
        if r.long.harness_cpu_s is not None and r.short.harness_cpu_s is not None and r.decode_s > 0
    ]
    return max(0.0, statistics.median(found)) if found else None


def _disk_token_bytes(rounds: Iterable[Round]) -> float | None:
    found = [
        (r.long.disk_bytes - r.short.disk_bytes) / r.n_more
        for r in rounds
        if r.long.disk_bytes is not None and r.short.disk_bytes is not None
    ]
    return statistics.median(found) if found else None


def _disk_note(token_bytes: float, decode_s: float, rounds: Iterable[Round], limits: Sequence[Limit]) -> str:
    rate = token_bytes / decode_s
    text = (
        f"memory does not hold the model: {token_bytes / 1e9:.3g} GB a token from the disk at {rate / 1e9:.3g} GB/s"
    )
    disks = [limit.disk_bytes_per_s for limit in limits if limit.disk_bytes_per_s]
    if disks:
        disk = statistics.median(disks)
        text += f", which is {rate / disk:.0%} of reading the file in order"
    faults = [
        (r.long.major_faults - r.short.major_faults) / r.n_more
        for r in rounds
        if r.long.major_faults is not None and r.short.major_faults is not None
    ]
    return f"{text}; {statistics.median(faults):,.0f} waits for a page" if faults else text


def _mean(samples: Sequence[Sample], name: str) -> float | None:
    known = [(value, s.wall_s) for s in samples if (value := getattr(s, name)) is not None]
    total = sum(wall for _, wall in known)
    return sum(value * wall for value, wall in known) / total if total else None


def _typical(samples: Sequence[Sample]) -> Sample:
    return sorted(samples, key=lambda s: s.wall_s)[len(samples) // 2]


def _weakest(samples: Sequence[Sample]) -> Kind:
    found = {Kind(s.verdict) for s in samples}
    return next((kind for kind in (Kind.WITHIN, Kind.TIE) if kind in found), Kind.EXACT)


def _apart(a: float, b: float) -> float:
    return abs(a / b - 1) if b else float("inf")
