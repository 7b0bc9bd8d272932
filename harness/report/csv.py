"""Benchmarks as comma-separated values: a line for each row, or for each run that was timed.

Times are seconds, sizes bytes, speeds tokens per second, shares fractions; what is not known is empty.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping

from harness.benchfile import Absent, Estimate, Row, Sample
from harness.report.speeds import Section, Speeds

__all__ = ["render_rows", "render_samples"]


def render_rows(found: Speeds) -> str:
    """Render a line for each row; what was asked for and has no row has a line without figures."""
    lines = [
        *(_row(row, section) for section in found.sections for row in section.rows),
        *(_absent(one, section) for section in found.sections for one in section.absent),
    ]
    return _written(lines)


def render_samples(found: Speeds) -> str:
    """Render a line for each timed run, warm-ups (round -1) included."""
    return _written(_sample(one, section) for section in found.sections for one in section.samples)


def _row(row: Row, section: Section) -> dict[str, object]:
    ratio = section.ratios.get(row.key)
    return {
        "cpu": section.machine.get("cpu", ""),
        **dataclasses.asdict(row.key),
        "verdict": row.verdict,
        "is_synthetic": row.is_synthetic,
        "is_busy": row.is_busy,
        "rounds": row.rounds,
        **_estimate("decode_tps", row.decode_s, _inverse),
        "decode_confidence": row.decode_s.confidence,
        **_estimate("prefill_tps", row.prefill_s, _inverse),
        **_estimate("load_s", row.load_s),
        **_estimate("first_byte_s", row.first_byte_s),
        "peak_rss_bytes": row.peak_rss_bytes,
        "reported_tps": row.reported_tps,
        "claim": row.claim,
        **_estimate("read_share", row.share),
        **_estimate("product_share", row.product_share),
        "ratio": None if ratio is None else ratio.comparison.ratio,
        "ratio_low": None if ratio is None else ratio.comparison.low,
        "ratio_high": None if ratio is None else ratio.comparison.high,
        "ratio_to": "" if ratio is None else ratio.to,
        "ratio_result": "" if ratio is None else ratio.comparison.result.value,
        "notes": "; ".join(row.notes),
    }


def _absent(one: Absent, section: Section) -> dict[str, object]:
    cpu = section.machine.get("cpu", "")
    return {"cpu": cpu, **dataclasses.asdict(one.key), "verdict": one.kind, "notes": one.reason}


def _sample(one: Sample, section: Section) -> dict[str, object]:
    rest = {field.name: getattr(one, field.name) for field in dataclasses.fields(one) if field.name != "key"}
    return {"cpu": section.machine.get("cpu", ""), **dataclasses.asdict(one.key), **rest}


def _inverse(seconds: float) -> float | None:
    return 1 / seconds if seconds > 0 else None


def _estimate(
    name: str, found: Estimate | None, of: Callable[[float], float | None] = lambda value: value
) -> dict[str, object]:
    if found is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = of(found.low), of(found.high)
    if of is _inverse:
        low, high = high, low
    return {name: of(found.value), f"{name}_low": low, f"{name}_high": high}


def _written(lines: Iterable[Mapping[str, object]]) -> str:
    lines = list(lines)
    stream = io.StringIO()
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()
