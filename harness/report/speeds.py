"""What a report on speed shows: benchmarks merged by machine and grouped.

The renderers only lay this out. Inside, times are seconds and sizes bytes; units are chosen where they are written.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.benchfile import (
    Absent,
    AtContext,
    BenchFile,
    Comparison,
    Key,
    Limit,
    ModelFacts,
    Row,
    Sample,
    whole_rounds,
)

__all__ = [
    "HASH_DIGITS",
    "PRECISIONS",
    "Group",
    "Ratio",
    "Section",
    "Speeds",
    "contexts",
    "counted",
    "gather",
    "name",
    "program",
]

PRECISIONS = {"f32": "fp32", "q8": "int8"}
_VERSIONS = {"python": "Python ", "numpy": "numpy "}
HASH_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Ratio:
    """The speed of a program over that of another one of its group, paired by rounds.

    Attributes:
        to: the other program.
    """

    to: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Group:
    """What is compared with one another: programs on one model, in one precision, with so many threads."""

    model: str
    precision: str
    threads: int
    rows: tuple[Row, ...]
    absent: tuple[Absent, ...]

    @property
    def title(self) -> str:
        return f"{self.model} {PRECISIONS.get(self.precision, self.precision)}, {counted(self.threads, 'thread')}"


@dataclass(frozen=True, slots=True)
class Section:
    """Everything that was measured on one machine.

    Attributes:
        models, builds: as in the headers of the run files, later ones over earlier ones.
        settings: (file name, when it began, its settings) of each run file.
    """

    machine: dict[str, str | int]
    models: dict[str, ModelFacts]
    builds: dict[str, str]
    settings: tuple[tuple[str, str, dict[str, str | int | float | bool]], ...]
    rows: tuple[Row, ...]
    absent: tuple[Absent, ...]
    samples: tuple[Sample, ...]
    limits: tuple[Limit, ...]
    ratios: dict[Key, Ratio]

    @property
    def machine_text(self) -> str:
        """The machine on one line."""
        known = dict(self.machine)
        parts = [str(known.pop("cpu", "")), f"{known.pop('n_cpus', '?')} CPUs", str(known.pop("system", ""))]
        parts += [f"{_VERSIONS.get(name, '')}{value}" for name, value in known.items()]
        return ", ".join(part for part in parts if part)

    @property
    def programs(self) -> tuple[str, ...]:
        """The columns of a table: every program; an int8 variant is the program that it is a variant of."""
        return tuple(dict.fromkeys(program(key) for key in sorted(self._keys, key=lambda key: self.place(key)[-1])))

    def place(self, key: Key) -> tuple[int, str, int, int]:
        """Return what rows are sorted by: model, precision, threads, program; models and programs as run."""
        models = list(dict.fromkeys(model.rpartition(" ")[0] for model in self.models))
        programs = list(dict.fromkeys(name.removesuffix("-q8") for name in self.builds))
        n_model = models.index(key.model) if key.model in models else len(models)
        n_program = programs.index(program(key)) if program(key) in programs else len(programs)
        return n_model, key.precision, key.threads, n_program

    @property
    def _keys(self) -> list[Key]:
        return [*(row.key for row in self.rows), *(one.key for one in self.absent)]

    @property
    def groups(self) -> tuple[Group, ...]:
        """Rows by what they may be compared within: by model, then precision, then threads."""
        ordered = sorted(self._keys, key=self.place)
        rows = sorted(self.rows, key=lambda row: self.place(row.key))
        absent = sorted(self.absent, key=lambda one: self.place(one.key))
        return tuple(
            Group(
                *of,
                tuple(row for row in rows if (row.key.model, row.key.precision, row.key.threads) == of),
                tuple(one for one in absent if (one.key.model, one.key.precision, one.key.threads) == of),
            )
            for of in dict.fromkeys((key.model, key.precision, key.threads) for key in ordered)
        )

    @property
    def commands(self) -> tuple[str, ...]:
        """The command lines that it was measured by."""
        found = (str(settings["command"]) for _, _, settings in self.settings if "command" in settings)
        return tuple(dict.fromkeys(found))

    @property
    def when(self) -> str:
        """The days on which it was measured."""
        days = sorted({started[:10] for _, started, _ in self.settings if started})
        return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else ""


@dataclass(frozen=True, slots=True)
class Speeds:
    """The benchmarks of a report, one section for each machine.

    Attributes:
        complete: whether every run file has its footer.
        notes: what a reader must know of the files.
    """

    sections: tuple[Section, ...]
    complete: bool
    notes: tuple[str, ...] = ()


def gather(files: Sequence[BenchFile], ratios: Sequence[Mapping[Key, Ratio]] = ()) -> Speeds:
    """Merge run files by machine; where two have the same row, the later one counts.

    Args:
        ratios: for each file, the paired comparisons within it.
    """
    notes = [f"{name(file.path)}: the benchmark was cut short" for file in files if not file.complete]
    machines: list[dict[str, str | int]] = []
    for file in files:
        if file.header.machine not in machines:
            machines.append(file.header.machine)
    sections = []
    for machine in machines:
        of = [n for n, file in enumerate(files) if file.header.machine == machine]
        notes += _disagreements([files[n] for n in of])
        sections.append(_section([files[n] for n in of], [ratios[n] if ratios else {} for n in of]))
    return Speeds(tuple(sections), all(file.complete for file in files), tuple(dict.fromkeys(notes)))


def contexts(row: Row, samples: Sequence[Sample]) -> tuple[AtContext, ...]:
    """Return the speed by position in the context; where that was not asked for, the one stretch that its runs cover.

    Args:
        samples: of the section.
    """
    rounds = whole_rounds([s for s in samples if s.key == row.key and s.round >= 0]).values()
    if row.contexts or not rounds:
        return row.contexts
    # Prompts of real models differ by a few ids from round to round, hence medians.
    begin = statistics.median(r.short.n_prompt + r.short.n_generated - 1 for r in rounds)
    end = statistics.median(r.long.n_prompt + r.long.n_generated - 1 for r in rounds)
    return (AtContext(round(begin), round(end), row.decode_s),)


def program(key: Key) -> str:
    """Return the program that a key is of, whatever its precision."""
    return key.impl.removesuffix("-q8") if key.precision == "q8" else key.impl


def counted(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "thread"), counted(0, "worker")
    ('1 thread', '0 workers')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def name(path: Path) -> str:
    """Return the name by which a report calls a run file."""
    return path.name


# ------------------------------------------------------------------------------------------------------------------


def _section(files: Sequence[BenchFile], ratios: Sequence[Mapping[Key, Ratio]]) -> Section:
    latest: dict[Key, int] = {}
    for n, file in enumerate(files):
        latest |= dict.fromkeys([*(row.key for row in file.rows), *(one.key for one in file.absent)], n)

    def counts(key: Key, n: int) -> bool:
        return latest.get(key, n) == n

    return Section(
        machine=files[0].header.machine,
        models={model: facts for file in files for model, facts in file.header.models.items()},
        builds={impl: build for file in files for impl, build in file.header.builds.items()},
        settings=tuple((name(file.path), file.header.started, file.header.settings) for file in files),
        rows=tuple(row for n, file in enumerate(files) for row in file.rows if counts(row.key, n)),
        absent=tuple(one for n, file in enumerate(files) for one in file.absent if counts(one.key, n)),
        samples=tuple(one for n, file in enumerate(files) for one in file.samples if counts(one.key, n)),
        limits=tuple(limit for file in files for limit in file.limits),
        ratios={key: ratio for n, found in enumerate(ratios) for key, ratio in found.items() if counts(key, n)},
    )


def _disagreements(files: Sequence[BenchFile]) -> list[str]:
    """Say where run files of one machine are not of one thing, or have the same row."""
    found = []
    for n, new in enumerate(files):
        for old in files[:n]:
            both = f"{name(old.path)} and {name(new.path)}"
            rows = {row.key for row in old.rows} & {row.key for row in new.rows}
            if rows:
                common = counted(len(rows), "row")
                found.append(f"{both} have {common} in common: those of {name(new.path)} are shown")
            for impl in sorted(old.header.builds.keys() & new.header.builds.keys()):
                a, b = (file.header.builds[impl][:HASH_DIGITS] for file in (old, new))
                if a != b:
                    found.append(f"{impl} is of two builds: {a} in {name(old.path)}, {b} in {name(new.path)}")
            for model in sorted(old.header.models.keys() & new.header.models.keys()):
                if old.header.models[model].sha256 != new.header.models[model].sha256:
                    found.append(f"{model} is of two files in {both}")
    return found
