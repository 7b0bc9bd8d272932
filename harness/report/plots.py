"""The plots of a report on speed, each drawn here and now as an SVG image: no script draws anything in the page.

Every colour is one of a few fixed ones, so that a page may give them another value where its background is dark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.benchfile import whole_rounds
from harness.errors import MissingDependency
from harness.report.speeds import Section, contexts, program
from harness.report.tables import number, share

__all__ = ["AXIS", "COLORS", "GRID", "INK", "Plot", "bars", "by_context", "colors", "shares"]

INK, AXIS, GRID = "#1f2430", "#5b6472", "#dfe3ea"
# Told apart also by most who are colour-blind; at least 3:1 against white and against the page's dark background.
COLORS = (
    "#2f7ec4",
    "#cc6a1e",
    "#2e9475",
    "#a35fb8",
    "#cf4459",
    "#8a7a12",
    "#4b8f3a",
    "#7a6fd0",
    "#b0567f",
    "#64798c",
)
_FONT = "Helvetica, Arial, sans-serif"
_WIDTH, _BAR_STEP, _LINES_HEIGHT = 300, 26, 190


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawn plot.

    Attributes:
        title: what is compared.
        svg: the image.
        words: what it shows, for those who do not see it.
    """

    title: str
    svg: str
    words: str


def colors(section: Section) -> dict[str, str]:
    """Return the colour of each program, the same in all plots."""
    return {name: COLORS[n % len(COLORS)] for n, name in enumerate(section.programs)}


def bars(section: Section) -> list[Plot]:
    """Draw decode speeds as bars, with their intervals and the speed of every round; one plot for each group.

    Raises:
        MissingDependency: Altair or vl-convert is not installed.
    """
    alt = _altair()
    found = []
    for group in filter(lambda group: group.rows, section.groups):
        order = [program(row.key) for row in group.rows]
        rows: list[dict[str, Any]] = [
            {
                "program": program(row.key),
                "tps": row.decode_tps,
                "low": 1 / row.decode_s.high,
                "high": 1 / row.decode_s.low if row.decode_s.low > 0 else row.decode_tps,
                "text": number(row.decode_tps),
            }
            for row in group.rows
        ]
        slopes: list[dict[str, Any]] = [
            {"program": program(row.key), "tps": 1 / r.decode_s}
            for row in group.rows
            for r in whole_rounds([s for s in section.samples if s.key == row.key and s.round >= 0]).values()
            if r.decode_s > 0
        ]
        most = max(row["high"] for row in rows)
        widest = most * 1.18
        rows = [{**row, "label": row["high"] + most * 0.02} for row in rows]
        y = alt.Y("program:N", sort=order, title=None, axis=_names(alt))
        # Single rounds beyond the intervals would make everything else small; they are in the raw samples.
        x = alt.X("tps:Q", title="tokens per second", scale=alt.Scale(domain=[0, widest], nice=False))
        base = alt.Chart(alt.Data(values=rows))
        parts = [
            base.mark_bar(height=14).encode(y=y, x=x, color=_color(section)),
            alt.Chart(alt.Data(values=[one for one in slopes if one["tps"] <= widest]))
            .mark_tick(thickness=1, size=8, color=INK, opacity=0.45)
            .encode(y=y, x="tps:Q"),
            base.mark_rule(color=INK, strokeWidth=1.5).encode(y=y, x="low:Q", x2="high:Q"),
            base.mark_text(align="left", color=INK, fontSize=12).encode(y=y, x="label:Q", text="text:N"),
        ]
        told = "; ".join(f"{row['program']} {row['text']} tok/s" for row in rows)
        found.append(Plot(group.title, _svg(alt, parts, height=_BAR_STEP * len(rows)), told))
    return found


def by_context(section: Section) -> list[Plot]:
    """Draw decode speed against the position in the context: the mean over each stretch; one plot for each group.

    Raises:
        MissingDependency: as for `bars`.
    """
    alt = _altair()
    found = []
    for group in section.groups:
        points: list[dict[str, Any]] = [
            {
                "program": program(row.key),
                "begin": at.begin,
                "end": at.end,
                "middle": (at.begin + at.end) / 2,
                "tps": 1 / at.decode_s.value,
                "low": 1 / at.decode_s.high if at.decode_s.high > 0 else 1 / at.decode_s.value,
                "high": 1 / at.decode_s.low if at.decode_s.low > 0 else 1 / at.decode_s.value,
            }
            for row in group.rows
            for at in contexts(row, section.samples)
            if at.decode_s.value > 0
        ]
        if not points:
            continue
        base = alt.Chart(alt.Data(values=points))
        last = max(point["end"] for point in points)
        x = alt.Scale(domain=[0, last], nice=False)
        y = alt.Y("tps:Q", title="tokens per second", scale=alt.Scale(domainMin=0))
        parts = [
            base.mark_line(strokeWidth=2, strokeOpacity=0.55).encode(x="middle:Q", y=y, color=_color(section)),
            base.mark_rule(strokeWidth=3, strokeCap="round").encode(
                x=alt.X("begin:Q", title="position in the context", scale=x), x2="end:Q", y=y, color=_color(section)
            ),
            base.mark_rule(strokeWidth=1).encode(x="middle:Q", y="low:Q", y2="high:Q", color=_color(section)),
            base.mark_point(filled=True, opacity=1, size=36).encode(x="middle:Q", y=y, color=_color(section)),
        ]
        told = "; ".join(
            f"{point['program']} {number(point['tps'])} tok/s from {point['begin']} to {point['end']}"
            for point in points
        )
        found.append(Plot(group.title, _svg(alt, parts, height=_LINES_HEIGHT), told))
    return found


def shares(section: Section) -> list[Plot]:
    """Draw shares of the read limit as bars, with those of a bare product as points; one plot for each group.

    Raises:
        MissingDependency: as for `bars`.
    """
    alt = _altair()
    found = []
    for group in section.groups:
        rows: list[dict[str, Any]] = [
            {
                "program": program(row.key),
                "text": share(row.share.value),
                "read": row.share.value,
                "product": None if row.product_share is None else row.product_share.value,
            }
            for row in group.rows
            if row.share is not None
        ]
        if not rows:
            continue
        for row in rows:
            row["most"] = max(row["read"], row["product"] or 0.0)
        order = [row["program"] for row in rows]
        y = alt.Y("program:N", sort=order, title=None, axis=_names(alt))
        scale = alt.Scale(domain=[0, max(1.15, *(row["most"] * 1.15 for row in rows))], nice=False)
        axis = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
        base = alt.Chart(alt.Data(values=rows))
        parts = [
            base.mark_bar(height=14).encode(
                y=y, x=alt.X("read:Q", title="share of the limit", scale=scale, axis=axis), color=_color(section)
            ),
            base.mark_text(align="left", dx=14, color=INK, fontSize=12).encode(y=y, x=alt.X("most:Q"), text="text:N"),
            base.mark_point(shape="diamond", filled=True, color=INK, opacity=1, size=70).encode(y=y, x="product:Q"),
            alt.Chart(alt.Data(values=[{"one": 1}])).mark_rule(color=AXIS, strokeDash=[4, 3]).encode(x="one:Q"),
        ]
        told = "; ".join(f"{row['program']} {row['read']:.0%}" for row in rows)
        found.append(Plot(group.title, _svg(alt, parts, height=_BAR_STEP * len(rows)), f"of the read limit: {told}"))
    return found


# ------------------------------------------------------------------------------------------------------------------


def _altair() -> Any:
    try:
        import altair
        import vl_convert  # noqa: F401  (draws what Altair describes)
    except ImportError as error:
        raise MissingDependency("Altair with vl-convert", install="pip install altair vl-convert-python") from error
    return altair


def _names(alt: Any) -> Any:
    return alt.Axis(
        ticks=False, domain=False, grid=False, labelLimit=140, labelPadding=7, labelColor=INK, labelFontSize=12
    )


def _color(section: Section) -> Any:
    alt = _altair()
    of = colors(section)
    return alt.Color("program:N", scale=alt.Scale(domain=list(of), range=list(of.values())), legend=None)


def _svg(alt: Any, parts: Sequence[Any], *, height: int) -> str:
    """Draw layers over one another."""
    import vl_convert

    chart = (
        alt.layer(*parts)
        .properties(width=_WIDTH, height=height, background="transparent")
        .configure(font=_FONT)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=AXIS,
            titleColor=AXIS,
            labelFontSize=11,
            titleFontSize=11,
            titleFontWeight="normal",
            gridColor=GRID,
            domainColor=GRID,
            tickColor=GRID,
            tickCount=5,
        )
    )
    svg: str = vl_convert.vegalite_to_svg(chart.to_json())
    # The plot is one image to who listens to the page, told in words by what stands around it.
    return re.sub(r' (?:role|aria-[a-z]+)="[^"]*"', "", svg)
