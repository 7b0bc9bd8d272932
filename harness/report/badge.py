"""The report as a badge: the JSON that https://shields.io/badges/endpoint-badge reads."""

from __future__ import annotations

import json

from harness.report.summary import Summary, counted
from harness.results import Kind

__all__ = ["render"]


def render(summary: Summary) -> str:
    """Render a summary as endpoint JSON."""
    document = {
        "schemaVersion": 1,
        "label": "llama conformance",
        "message": _message(summary),
        "color": _color(summary),
    }
    return json.dumps(document, indent=2) + "\n"


def _message(summary: Summary) -> str:
    if not summary.complete:
        return "incomplete"
    left_out = {Kind.SKIPPED, Kind.UNSUPPORTED}
    shown = {kind: n for kind, n in summary.counts.items() if kind not in left_out}
    return counted(shown) or "nothing judged"


def _color(summary: Summary) -> str:
    if summary.failures:
        return "red"
    if not summary.passed or not any(kind.is_green for kind in summary.counts):
        return "lightgrey"
    return "brightgreen"
