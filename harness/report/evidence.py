"""The tables of what speeds rest on: models and builds by their hashes, and every timed run."""

from __future__ import annotations

from harness.report.speeds import HASH_DIGITS, Group, Section
from harness.report.tables import Cell, Column, Table, known, number

__all__ = ["builds", "models", "samples"]


def models(section: Section) -> Table:
    """Lay out the models that were run."""
    columns = (
        Column("model"),
        Column("weights"),
        Column("parameters", True),
        Column("MB a token", True, "bytes of weights that one decoded token must read"),
        Column("sha256"),
    )
    lines = tuple(
        (
            Cell(name),
            Cell("synthetic" if facts.is_synthetic else "published"),
            Cell(f"{facts.n_params:,}", facts.n_params),
            Cell(f"{facts.token_bytes / 1e6:,.1f}", facts.token_bytes),
            Cell(facts.sha256[:HASH_DIGITS]),
        )
        for name, facts in section.models.items()
    )
    return Table(columns, lines)


def builds(section: Section) -> Table:
    """Lay out what each program was built from."""
    columns = (Column("program"), Column("build", what="hash of its manifest and of what it was built from"))
    return Table(columns, tuple((Cell(name), Cell(build[:HASH_DIGITS])) for name, build in section.builds.items()))


_SAMPLE = (
    Column("program"),
    Column("round", True, "within the group; -1 is the warm-up, which counts for nothing"),
    Column("run"),
    Column("prompt", True, "ids of the prompt"),
    Column("generated", True, "tokens"),
    Column("wall ms", True),
    Column("CPU ms", True),
    Column("first ms", True),
    Column("MB", True),
    Column("claims", True, "its own tok/s"),
    Column("others", True, "processors that others kept busy"),
    Column("stolen", True, "share of the time that the hypervisor took"),
    Column("verdict"),
)


def samples(section: Section, group: Group) -> Table:
    """Lay out every timed run of a group."""
    of = (group.model, group.precision, group.threads)
    lines = tuple(
        (
            Cell(one.key.impl),
            Cell(f"{one.round}", one.round),
            Cell(one.run),
            Cell(f"{one.n_prompt:,}", one.n_prompt),
            Cell(f"{one.n_generated:,}", one.n_generated),
            Cell(f"{one.wall_s * 1e3:,.1f}", one.wall_s),
            Cell(f"{one.cpu_s * 1e3:,.1f}", one.cpu_s),
            known(one.first_byte_s, lambda s: f"{s * 1e3:,.1f}"),
            Cell(f"{one.peak_rss_bytes / 1e6:,.1f}", one.peak_rss_bytes),
            known(one.reported_tps, number),
            known(one.other_cpus, lambda n: f"{n:.2f}"),
            known(one.steal, lambda part: f"{part:.1%}"),
            Cell(one.verdict),
        )
        for one in section.samples
        if (one.key.model, one.key.precision, one.key.threads) == of
    )
    return Table(_SAMPLE, lines)
