"""The report as one JSON document, for programs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from harness import benchfile
from harness.benchfile import Record
from harness.report.speeds import Section, Speeds
from harness.report.summary import Summary
from harness.runfile import SCHEMA_VERSION, dump_verdict

__all__ = ["render"]


def render(summary: Summary | None = None, speeds: Speeds | None = None) -> str:
    """Render verdicts, speeds or, each under its command, both as JSON; records are as in a run file."""
    if summary is None or speeds is None:
        document = _of_check(summary) if summary is not None else _of_bench(speeds) if speeds is not None else {}
    else:
        document = {"schema_version": SCHEMA_VERSION, "check": _of_check(summary), "bench": _of_bench(speeds)}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _of_check(summary: Summary) -> dict[str, Any]:
    return {
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
                "diagnosis": list(standing.diagnosis),
                "conventions": list(standing.conventions),
                "counts": standing.counts,
            }
            for standing in summary.standings
        ],
        "verdicts": [dump_verdict(verdict) for verdict in summary.verdicts],
    }


def _of_bench(found: Speeds) -> dict[str, Any]:
    sections = found.sections

    def all_of(name: str) -> list[dict[str, Any]]:
        return [{"machine": n, **_plain(one)} for n, section in enumerate(sections) for one in getattr(section, name)]

    return {
        "schema_version": benchfile.SCHEMA_VERSION,
        "complete": found.complete,
        "notes": list(found.notes),
        "machines": [
            {
                **section.machine,
                "models": {name: dataclasses.asdict(facts) for name, facts in section.models.items()},
                "builds": section.builds,
                "runs": [
                    {"file": file, "started": started, "settings": settings}
                    for file, started, settings in section.settings
                ],
            }
            for section in sections
        ],
        "rows": all_of("rows"),
        "absent": all_of("absent"),
        "ratios": [one for n, section in enumerate(sections) for one in _ratios(section, n)],
        "limits": all_of("limits"),
        "samples": all_of("samples"),
    }


def _ratios(section: Section, machine: int) -> list[dict[str, Any]]:
    return [
        {
            "machine": machine,
            "key": dataclasses.asdict(key),
            "to": ratio.to,
            **benchfile.finite(dataclasses.asdict(ratio.comparison)),
        }
        for key, ratio in section.ratios.items()
    ]


def _plain(record: Record) -> dict[str, Any]:
    content = benchfile.plain(record)
    del content["record"]
    return content
