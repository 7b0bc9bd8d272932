"""Results in, documents out: terminal, markdown, HTML, JUnit, badge. Runs nothing, writes no file.

Each renderer has one function, ``render(summary) -> str``; ``summarise`` makes the Summary out of verdicts.
"""

from __future__ import annotations

from harness.report.summary import Row, Standing, Summary, summarise

__all__ = ["Row", "Standing", "Summary", "summarise"]
