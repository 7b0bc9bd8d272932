"""The report as one self-contained HTML page: verdicts with each failure side by side, speeds with their plots.

Nothing is fetched: style, script and plots are in the page, and its policy forbids every request. The script only
sorts tables; plots are drawn before the page is written.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

import harness
from harness.errors import MissingDependency
from harness.report import evidence, plots, tables
from harness.report.speeds import Section, Speeds, program
from harness.report.summary import (
    Summary,
    describe_divergence,
    headline,
    likely_bug,
    particulars,
    reasons,
    reproduction,
    visible,
)

__all__ = ["page", "render"]

_DIRECTORY = Path(__file__).parent


def render(summary: Summary | None = None, speeds: Speeds | None = None) -> str:
    """Render verdicts, speeds or both as an HTML page.

    Raises:
        MissingDependency: Jinja2 is not installed; or, where there are speeds, Altair or vl-convert.
    """
    return page(
        _title(summary, speeds),
        summary=summary,
        verdicts=tables.verdicts(summary) if summary else None,
        ties=tables.ties(summary) if summary else None,
        speeds=speeds,
        parts=[_part(section) for section in speeds.sections] if speeds else [],
    )


def page(title: str, **values: Any) -> str:
    """Render the page with some of its parts, `summary`, `speeds`, `trace`, `black_box`, and what these read.

    Raises:
        MissingDependency: Jinja2 is not installed.
    """
    css, script = ((_DIRECTORY / name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {_hash(script)}"
    known: dict[str, Any] = {"summary": None, "speeds": None, "trace": None, "black_box": None}
    rendered = (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            policy=policy + "; base-uri 'none'; form-action 'none'",
            css=css,
            script=script,
            version=harness.__version__,
            **(known | values),
        )
    )
    return f"{rendered}\n"


@functools.cache
def _environment() -> Any:
    """Make what holds the templates, compiled once."""
    try:
        import jinja2  # optional: the extra `report`
    except ImportError as error:
        raise MissingDependency("Jinja2", install="pip install jinja2") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_DIRECTORY),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        visible=visible,
        headline=headline,
        reasons=reasons,
        reproduction=reproduction,
        particulars=particulars,
        likely_bug=likely_bug,
        where=describe_divergence,
    )
    return environment


def _title(summary: Summary | None, speeds: Speeds | None) -> str:
    parts = [f"Conformance: {'pass' if summary.passed else 'fail'}"] if summary else []
    return "; ".join([*parts, *(["Speed"] if speeds else [])])


def _hash(inline: str) -> str:
    """Return the source expression that allows this one inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode('ascii')}'"


def _part(section: Section) -> dict[str, Any]:
    """Lay out what was measured on one machine."""
    measured = {program(row.key) for row in section.rows}
    has_threads = len({row.key.threads for row in section.rows}) > 1
    return {
        "section": section,
        "colors": {name: color for name, color in plots.colors(section).items() if name in measured},
        "short": tables.speeds(section),
        "bars": plots.bars(section),
        "threads": tables.scaling([section]) if has_threads else None,
        "shares": plots.shares(section),
        "contexts": plots.by_context(section),
        "has_one_stretch": not any(row.contexts for row in section.rows),
        "asides": tables.asides(section),
        "details": tables.details(section),
        "models": evidence.models(section),
        "builds": evidence.builds(section),
        "samples": [(group, evidence.samples(section, group)) for group in section.groups],
    }
