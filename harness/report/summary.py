"""All arithmetic and all words of a report: grouping, counting, concluding, and whether a gate is passed.

The renderers beside this module only lay out what a Summary holds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.report.diagnoses import in_one_line, told
from harness.results import Divergence, Kind, Verdict, count

__all__ = [
    "Row",
    "Standing",
    "Summary",
    "counted",
    "describe",
    "describe_divergence",
    "duration",
    "headline",
    "is_problem",
    "likely_bug",
    "number",
    "particulars",
    "reasons",
    "reproduction",
    "summarise",
    "visible",
]

# A gate that these do not fail would pass without having looked.
_UNJUDGED = (Kind.INCONCLUSIVE, Kind.BLOCKED)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: an implementation on the cases of one suite and model.

    Attributes:
        counts: verdicts by kind; a kind that does not occur is absent.
        n_judged: generated tokens judged.
        wall_s: time that its runs took, added up.
    """

    impl: str
    suite: str
    model: str
    counts: dict[Kind, int]
    n_judged: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What is said of one implementation.

    Attributes:
        conclusion: one line in plain words.
        conventions: how it prints, stops and counts, where that is not llama2.c's way.
        failed: the part of `counts` that keeps the gate from passing.
        lacks_green: it was asked for by name, and no case of it is green.
        diagnosis: the likely bug, in a few lines; empty where none was sought.
    """

    impl: str
    counts: dict[Kind, int]
    conclusion: str
    conventions: tuple[str, ...]
    failed: dict[Kind, int]
    lacks_green: bool
    diagnosis: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failed and not self.lacks_green


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that a report shows.

    Attributes:
        verdicts: in the order in which they arrived.
        failures: those that keep the gate from passing.
        shortcomings: what keeps it from passing besides: no green case, an incomplete run.
        complete: whether every case that was asked for has its verdict.
        notes: things a reader must know, such as a damaged run file.
    """

    verdicts: tuple[Verdict, ...]
    rows: tuple[Row, ...]
    standings: tuple[Standing, ...]
    failures: tuple[Verdict, ...]
    shortcomings: tuple[str, ...]
    complete: bool = True
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the run does not pass, each in a few words; empty where it passes."""
        failed = [f"{s.impl}: {n:,} {kind}" for s in self.standings for kind, n in s.failed.items()]
        return (*failed, *self.shortcomings)

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def counts(self) -> dict[Kind, int]:
        return count(self.verdicts)

    @property
    def judged_rows(self) -> tuple[Row, ...]:
        """The rows in which anything was judged; what was skipped or is not for a program is said in words."""
        silent = {Kind.SKIPPED, Kind.UNSUPPORTED}
        judged = tuple(row for row in self.rows if not set(row.counts) <= silent)
        return judged or self.rows

    @property
    def judged_kinds(self) -> list[Kind]:
        """The kinds that occur in those rows: the columns of a table."""
        return [kind for kind in self.counts if any(kind in row.counts for row in self.judged_rows)]

    @property
    def skips(self) -> list[str]:
        """Why cases were SKIPPED, each reason once, with what would help."""
        reasons = Counter(_first_line(v.reason) for v in self.verdicts if v.kind is Kind.SKIPPED)
        return [f"{n:,} skipped: {reason}" for reason, n in reasons.items()]


def summarise(
    verdicts: Iterable[Verdict],
    *,
    named: Sequence[str] = (),
    allow_skip: bool = False,
    complete: bool = True,
    notes: Sequence[str] = (),
) -> Summary:
    """Group, count and conclude.

    Args:
        named: implementations that were asked for by name; one without a green case is a problem.
        allow_skip: accept a run that judged too little: nothing green, BLOCKED, INCONCLUSIVE.
        complete: whether every case that was asked for is among the verdicts.
        notes: kept as they are.
    """
    verdicts = tuple(verdicts)
    impls = list(dict.fromkeys([*(v.impl for v in verdicts), *named]))
    standings = tuple(
        _standing(impl, [v for v in verdicts if v.impl == impl], impl in named, allow_skip) for impl in impls
    )
    shortcomings = [f"{s.impl}: no case is green" for s in standings if s.lacks_green]
    if not shortcomings and not allow_skip and not any(v.kind.is_green for v in verdicts):
        shortcomings.append("no case is green")
    if not complete:
        shortcomings.append("the run is not complete")
    return Summary(
        verdicts=verdicts,
        rows=_rows(verdicts),
        standings=standings,
        failures=tuple(v for v in verdicts if is_problem(v.kind, allow_skip=allow_skip)),
        shortcomings=tuple(shortcomings),
        complete=complete,
        notes=tuple(notes),
    )


def is_problem(kind: Kind, *, allow_skip: bool = False) -> bool:
    """Whether one verdict of this kind keeps a gate from passing."""
    return kind.is_failure or (kind in _UNJUDGED and not allow_skip)


def _rows(verdicts: Sequence[Verdict]) -> tuple[Row, ...]:
    """Group by implementation, suite and model, each in the order of its first appearance."""
    impls = _ranks(v.impl for v in verdicts)
    suites = _ranks(v.suite for v in verdicts)
    models = _ranks(v.model for v in verdicts)
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in sorted(verdicts, key=lambda v: (impls[v.impl], suites[v.suite], models[v.model])):
        groups.setdefault((verdict.impl, verdict.suite, verdict.model), []).append(verdict)
    return tuple(
        Row(*key, count(group), sum(v.n_judged for v in group), sum(v.wall_s for v in group))
        for key, group in groups.items()
    )


def _ranks(names: Iterable[str]) -> dict[str, int]:
    return {name: rank for rank, name in enumerate(dict.fromkeys(names))}


def _standing(impl: str, verdicts: list[Verdict], is_named: bool, allow_skip: bool) -> Standing:
    counts = count(verdicts)
    return Standing(
        impl=impl,
        counts=counts,
        conclusion=_conclusion(verdicts, counts),
        conventions=tuple(dict.fromkeys(convention for v in verdicts for convention in v.conventions)),
        failed={kind: n for kind, n in counts.items() if is_problem(kind, allow_skip=allow_skip)},
        lacks_green=is_named and not allow_skip and not any(kind.is_green for kind in counts),
        diagnosis=tuple(told(verdicts)),
    )


# ---- words ---------------------------------------------------------------------------------------------------


def _conclusion(verdicts: list[Verdict], counts: dict[Kind, int]) -> str:
    green = {kind: n for kind, n in counts.items() if kind.is_green}
    failed = {kind: n for kind, n in counts.items() if kind.is_failure}
    other = {kind: n for kind, n in counts.items() if kind not in green and kind not in failed}
    if not counts:
        return "not judged"
    parts = []
    if failed:
        parts.append(_what_is_wrong([v for v in verdicts if v.kind.is_failure], failed))
        if green:
            parts.append(counted(green))
    elif green:
        parts.append(f"right: {counted(green)}")
    else:
        parts.append("not judged")
    parts += [f"{n} {kind}{_why(verdicts, kind)}" for kind, n in other.items()]
    return "; ".join(parts)


def _what_is_wrong(failures: list[Verdict], failed: dict[Kind, int]) -> str:
    tokenizer_only = [v for v in failures if v.tokenizer is Kind.MISMATCH and v.forward and v.forward.is_green]
    if len(tokenizer_only) == len(failures):
        first = tokenizer_only[0]
        forward = ", ".join(_kinds_present(v.forward for v in failures))
        reason = _first_line(first.reason) or "tokenizer wrong"
        return reason if "forward pass" in reason else f"{reason}; forward pass {forward}"
    if Kind.MISMATCH not in failed:
        return f"does not work: {counted(failed)}{_why(failures, failures[0].kind)}"
    places = [f" (first at step {v.divergence.step} of {v.case})" for v in failures if v.divergence]
    place = places[0] if places else ""
    return f"wrong: {counted(failed)}{place}"


def _kinds_present(kinds: Iterable[Kind | None]) -> list[str]:
    """Return the names of the kinds that occur, in the order of `Kind`."""
    present = set(kinds)
    return [kind.value for kind in Kind if kind in present]


def _why(verdicts: Iterable[Verdict], kind: Kind) -> str:
    """Return the commonest reason for a kind of verdict, in parentheses."""
    reasons = Counter(_first_line(v.reason) for v in verdicts if v.kind is kind and v.reason)
    if not reasons:
        return ""
    reason, _ = reasons.most_common(1)[0]
    if kind is Kind.SKIPPED:
        reason = reason.partition("; ")[0]  # what would help is said once, by Summary.skips
    return f" ({reason}{'; and others' if len(reasons) > 1 else ''})"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def counted(counts: dict[Kind, int]) -> str:
    """Return "41 EXACT, 1 TIE"; kinds are never merged."""
    return ", ".join(f"{n:,} {kind}" for kind, n in counts.items())


def describe(verdict: Verdict) -> list[str]:
    """Say what there is to say of one verdict, line by line, in plain text without control characters."""
    lines = [headline(verdict), *reasons(verdict)]
    if verdict.divergence:
        lines += [
            *describe_divergence(verdict.divergence),
            f"  expected | {visible(verdict.divergence.expected_text, quoted=True)}",
            f"  actual   | {visible(verdict.divergence.actual_text, quoted=True)}",
        ]
    lines += [*particulars(verdict), *likely_bug(verdict)]
    if verdict.reproduce:
        lines.append(reproduction(verdict))
    return [lines[0], *(f"  {line}" for line in lines[1:])]


def headline(verdict: Verdict) -> str:
    """Say which case of which implementation has which verdict."""
    case = f"{verdict.suite}/{verdict.case}" if verdict.suite else verdict.case
    return visible(f"{verdict.impl}: {verdict.kind} on {case} (model {verdict.model})")


def reasons(verdict: Verdict) -> list[str]:
    """Return the lines of the reason."""
    return [visible(line) for line in verdict.reason.strip().splitlines()]


def particulars(verdict: Verdict) -> list[str]:
    """Say what follows the continuations: the halves and the conventions."""
    halves = (("tokenizer", verdict.tokenizer), ("forward pass", verdict.forward))
    told = ", ".join(f"{name} {kind}" for name, kind in halves if kind)
    lines = [told] if told else []
    if verdict.kind is Kind.TIMED_OUT:
        lines.append("if it is only slow, give it longer: --timeout-s, or timeout_s in its manifest")
    return lines + [f"convention: {visible(convention)}" for convention in verdict.conventions]


def likely_bug(verdict: Verdict) -> list[str]:
    """Say in one line what is most likely wrong, by all cases of the model; empty where that was not sought."""
    line = in_one_line(verdict.diagnosis) if verdict.diagnosis else ""
    return [visible(line)] if line else []


def reproduction(verdict: Verdict) -> str:
    """Return the command line that shows a verdict again, on one line."""
    return f"reproduce: {visible(verdict.reproduce)}"


def describe_divergence(divergence: Divergence) -> list[str]:
    """Say where a continuation left the expected one and by how much, in at most two lines."""
    after = [f"after {visible(divergence.before, quoted=True)}"] if divergence.before else []
    if divergence.expected is None and divergence.actual is None:
        return after  # bytes differ, not tokens
    ids = [
        f"{name} id {'?' if token is None else token}"
        for name, token in (("expected", divergence.expected), ("actual", divergence.actual))
    ]
    where = f"step {divergence.step}, position {divergence.position}: {', '.join(ids)}"
    if not math.isnan(divergence.regret):
        where += f"; regret {number(divergence.regret)}"
        if not math.isnan(divergence.floor):
            where += f" against a noise floor of {number(divergence.floor)}"
    return [where, *after]


def visible(text: str, *, quoted: bool = False) -> str:
    """Return text in which nothing is invisible: what cannot be printed is escaped as in Python.

    With `quoted`, between double quotes, so that blanks at either end show.

    >>> print(visible("two\\nlines\\x1b[1m", quoted=True))
    "two\\nlines\\x1b[1m"
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return f'"{shown}"' if quoted else shown


def number(value: float) -> str:
    """Return a number for reading: three significant digits."""
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a time for reading.

    >>> duration(0.0213), duration(2.5), duration(125)
    ('21 ms', '2.5 s', '2 min 5 s')
    """
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
