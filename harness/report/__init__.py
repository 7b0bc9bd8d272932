"""Results in, documents out: terminal, markdown, HTML, JSON, CSV, JUnit, badge. Runs nothing, writes no file.

``summarise`` makes a Summary out of the verdicts of checks, ``speeds.gather`` a Speeds out of benchmarks; ``tables``
lays out what both have to show, and each renderer, a module of its own, turns that into a string.
"""

from __future__ import annotations

from harness.report.summary import Row, Standing, Summary, summarise

__all__ = ["Row", "Standing", "Summary", "summarise"]
