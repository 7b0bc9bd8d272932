"""The report as one JSON document, for programs."""

from __future__ import annotations

import json

from harness.report.summary import Summary
from harness.runfile import SCHEMA_VERSION, dump_verdict

__all__ = ["render"]


def render(summary: Summary) -> str:
    """Render a summary as JSON; verdicts have the fields that they have in a run file."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "passed": summary.passed,
        "complete": summary.complete,
        "problems": list(summary.problems),
        "notes": list(summary.notes),
        "implementations": [
            {
                "name": standing.impl,
                "passed": standing.passed,
                "conclusion": standing.conclusion,
                "conventions": list(standing.conventions),
                "counts": standing.counts,
            }
            for standing in summary.standings
        ],
        "verdicts": [dump_verdict(verdict) for verdict in summary.verdicts],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
