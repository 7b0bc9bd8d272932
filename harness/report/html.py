"""The report as one self-contained HTML page: the table, and each failure with its continuations side by side."""

from __future__ import annotations

from pathlib import Path

from harness.errors import MissingDependency
from harness.report.summary import (
    Summary,
    describe_divergence,
    duration,
    headline,
    number,
    particulars,
    reasons,
    reproduction,
    visible,
)

__all__ = ["render"]

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def render(summary: Summary) -> str:
    """Render a summary as an HTML page.

    Raises:
        MissingDependency: Jinja2 is not installed.
    """
    try:
        import jinja2  # optional: the extra `report`
    except ImportError as error:
        raise MissingDependency("Jinja2", install="pip install jinja2") from error
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(
        visible=visible,
        duration=duration,
        number=number,
        headline=headline,
        reasons=reasons,
        reproduction=reproduction,
        particulars=particulars,
        where=describe_divergence,
    )
    template = environment.from_string(_TEMPLATE.read_text("utf-8"))
    return template.render(summary=summary, kinds=summary.judged_kinds) + "\n"
