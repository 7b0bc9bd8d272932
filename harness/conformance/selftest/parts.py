"""The parts of a self-test: each measures what is not kept yet, and all that is kept makes the document.

kills          programs with a fault at the gate       routes        what each route of diagnosis says of them
alarms         honest programs, float32 models         alarms-int8   the same on int8 models
alarms-lower   programs of lower precisions            accusations   what the routes say of honest programs
adequacy       what each golden run is worth
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import harness
from harness.conformance.selftest import record, run
from harness.conformance.selftest.adequacy import adequacy
from harness.conformance.selftest.alarms import BATCH, FLOAT32, INT8
from harness.conformance.selftest.honest import Honest, programs, rounded_programs
from harness.conformance.selftest.kept import Kept, judged_of, judged_row, sources
from harness.conformance.selftest.kills import Outcome, Passed, fate_of, from_on
from harness.conformance.selftest.naming import accusations, asked, named, routes
from harness.diagnosis import Fate

__all__ = ["PARTS", "QUICK_PARTS", "Plan", "document", "measure"]

PARTS = ("kills", "routes", "alarms", "alarms-int8", "alarms-lower", "accusations", "adequacy")
QUICK_PARTS = PARTS[:4]
_OF_FAULTS = PARTS[:2]
_INT8_SHARE = 5  # one token of int8 models for so many of float32 ones
_QUICK_HONEST = 3
_QUICK_CASES = {"alarms": BATCH, "alarms-int8": BATCH // 4}  # int8 answers are computed sum by sum, which is slow
_QUICK_NAMED = 2

Told = Callable[[int, int, str], None]
"""Given how many are done, of how many (0: nobody knows), and what the last one was."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a self-test is to measure.

    Attributes:
        passed: concludes as the gate does.
        suites: by which it judges.
        programs, faults: only these; none: all.
        tokens: of float32 models, for each honest program.
        turn: of a quick self-test, which sample it takes; None: everything.
        before: the recorded document.
    """

    passed: Passed
    suites: Sequence[str]
    programs: Sequence[str] = ()
    faults: Sequence[str] = ()
    tokens: int = 100_000
    turn: int | None = None
    before: Mapping[str, Any] | None = None

    @property
    def is_selected(self) -> bool:
        return bool(self.programs or self.faults)


def measure(part: str, plan: Plan, kept: Kept, told: Told) -> str:
    """Measure what a part lacks, and say in a line what it took; nothing if it lacked nothing."""
    if plan.is_selected and part not in _OF_FAULTS:
        return ""
    start, n_before = time.monotonic(), kept.n_results
    _MEASURES[part](plan, kept, told)
    n, took_s = kept.n_results - n_before, time.monotonic() - start
    if not n:
        return ""
    of = f" of {', '.join(plan.programs)}" if plan.programs else ""
    now = datetime.now(UTC).isoformat(timespec="minutes")
    facts = {"harness": harness.__version__, "sources": sources(), "machine": machine()}
    kept.add("part", {"part": part + of, "n": n, "took_s": round(took_s, 1), "ended": now, **facts})
    return f"part {part}{of}: {n} results in {int(took_s) // 60}:{int(took_s) % 60:02}"


def machine() -> str:
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


# ---- faults ------------------------------------------------------------------------------------------------------


def _kills(plan: Plan, kept: Kept, told: Told) -> None:
    is_quick = plan.turn is not None
    known = {record.key_of(row) for row in kept.rows("kill")}
    todo = [s for s in run.subjects(plan.programs, plan.faults, turn=plan.turn) if s.key not in known]
    again = record.killers(plan.before) if is_quick and plan.before else {}
    judged = run.kills(todo, passed=plan.passed, suites=plan.suites, killers=again, quick=is_quick)
    for number, (subject, outcome) in enumerate(judged, 1):
        kept.add("kill", record.kill_row(subject, outcome))
        told(number, len(todo), f"{subject.key}: {_fate(outcome)}")


def _fate(outcome: Outcome) -> str:
    if outcome.obstacle or outcome.broken:
        return "not tried"
    return f"stopped, {outcome.by[0]}" if outcome.killed_in else "passes"


def _routes(plan: Plan, kept: Kept, told: Told) -> None:
    known = {record.key_of(row) for row in kept.rows("names")}
    # The cheapest configuration that stops a program: the ones before it need not be tried again.
    killers = {**record.killers(plan.before or {"kills": []}), **record.killers({"kills": kept.rows("kill")})}
    found = asked(run.subjects(plan.programs, plan.faults), turn=plan.turn, n=_QUICK_NAMED)
    todo = [subject for subject in found if subject.key not in known]
    ask = routes()
    for number, subject in enumerate(todo, 1):
        outcome = None
        if subject.fault.fate is Fate.KILLABLE:
            outcome = fate_of(
                subject.made(),
                subject.program,
                subject.fault.name,
                passed=plan.passed,
                suites=plan.suites,
                configurations=from_on(killers.get(subject.key, ("", ""))[0]),
                diagnose=True,
            )
        if outcome is not None and (outcome.obstacle or outcome.broken):
            told(number, len(todo), f"{subject.key}: not tried")
            continue
        rows = named(subject, outcome, ask)
        kept.add("names", {"program": subject.program, "fault": subject.fault.name, "rows": rows})
        told(number, len(todo), f"{subject.key}: " + ", ".join(f"{row['route']} {row['outcome']}" for row in rows))


# ---- honest programs ---------------------------------------------------------------------------------------------


def _some(found: list[Honest], turn: int | None) -> list[Honest]:
    """All of them; in a quick self-test three, others in each turn."""
    if turn is None:
        return found
    return [found[(turn * _QUICK_HONEST + i) % len(found)] for i in range(_QUICK_HONEST)]


def _alarms_on(part: str, models: Sequence[str], plan: Plan, kept: Kept, told: Told) -> None:
    known = {run.judged_key(one.program, one.batch, one.part): one for one in map(judged_of, kept.rows("judged"))}
    honest = _some(programs(), plan.turn)
    tokens = plan.tokens if part == "alarms" else -(-plan.tokens // _INT8_SHARE)
    if plan.turn is None:
        results = run.alarms(honest, models, tokens, known=known)
    else:
        first = plan.turn % len(models)
        results = run.alarms(honest, models, 1, first=first, n_cases=_QUICK_CASES[part], known=known)
    n_tokens = 0
    for number, one in enumerate(results, 1):
        kept.add("judged", judged_row(one))
        n_tokens += one.n_tokens
        told(number, 0, f"{one.program} on {one.batch.model}: {n_tokens:,} tokens judged")


def _alarms(plan: Plan, kept: Kept, told: Told) -> None:
    _alarms_on("alarms", FLOAT32, plan, kept, told)


def _alarms_int8(plan: Plan, kept: Kept, told: Told) -> None:
    _alarms_on("alarms-int8", INT8, plan, kept, told)


def _alarms_lower(plan: Plan, kept: Kept, told: Told) -> None:
    known = {run.judged_key(one.program, one.batch, one.part): one for one in map(judged_of, kept.rows("judged"))}
    rounded, undeclared = list(rounded_programs()), list(rounded_programs(is_declared=False))
    for number, one in enumerate(run.rounded_alarms(rounded, undeclared, known=known), 1):
        kept.add("judged", judged_row(one))
        told(number, 0, f"{one.program} on {one.batch.model}: {one.n_tokens:,} tokens judged")


def _accusations(plan: Plan, kept: Kept, told: Told) -> None:
    known = {row["program"] for row in kept.rows("accusations")}
    todo = [one for one in (*programs(), *rounded_programs()) if one.name not in known]
    ask = routes()
    for number, program in enumerate(todo, 1):
        kept.add("accusations", {"program": program.name, "rows": accusations(program, ask)})
        told(number, len(todo), f"{program.name}: asked for its bug")


def _adequacy(plan: Plan, kept: Kept, told: Told) -> None:
    if not kept.rows("adequacy"):
        kept.add("adequacy", adequacy(plan.suites, progress=told))


_MEASURES: dict[str, Callable[[Plan, Kept, Told], None]] = {
    "kills": _kills,
    "routes": _routes,
    "alarms": _alarms,
    "alarms-int8": _alarms_int8,
    "alarms-lower": _alarms_lower,
    "accusations": _accusations,
    "adequacy": _adequacy,
}


# ---- the document ------------------------------------------------------------------------------------------------


def document(plan: Plan, kept: Kept, *, complete: bool) -> dict[str, Any]:
    """Put together all that is kept.

    Args:
        complete: whether the run came to its end; what is missing of a whole self-test is found out here.
    """
    kills, parts = kept.rows("kill"), kept.rows("part")
    names = kept.rows("names")
    everything = run.subjects()
    keys = {record.key_of(row) for row in kills}, {record.key_of(row) for row in names}
    rounded = [one.name for one in rounded_programs()], [one.name for one in rounded_programs(is_declared=False)]
    found: dict[str, Any] = {
        "schema": record.SCHEMA,
        "harness": harness.__version__,
        "command": "harness selftest" + ("" if plan.turn is None else f" --quick --turn {plan.turn}"),
        "machine": "; ".join(dict.fromkeys(row["machine"] for row in parts)) or machine(),
        "complete": complete,
        "quick": plan.turn is not None,
        "suites": list(plan.suites),
        "configurations": list(record.CONFIGURATION_NAMES),
        "took_s": round(sum(row["took_s"] for row in parts), 1),
        "parts": parts,
        "kills": kills,
        "whole": _whole(everything, keys[0]),
        "arguments": {one.fault.name: one.fault.argument for one in everything if one.key in keys[0]},
        "alarms": record.alarm_rows(map(judged_of, kept.rows("judged")), *rounded),
        "names": [one for row in names for one in row["rows"]],
        "whole_names": _whole(asked(everything), keys[1]),
        "honest_names": [one for row in kept.rows("accusations") for one in row["rows"]],
        "adequacy": next(iter(kept.rows("adequacy")), None),
    }
    found["missing"] = _missing(everything, *keys, found)
    return found


def _whole(everything: Sequence[run.Subject], keys: set[str]) -> list[str]:
    """The programs all of whose faults are among the keys."""
    there = dict.fromkeys(subject.program for subject in everything)
    return [program for program in there if all(s.key in keys for s in everything if s.program == program)]


def _missing(
    everything: Sequence[run.Subject], killed: set[str], named: set[str], found: Mapping[str, Any]
) -> list[str]:
    """What a whole self-test has, and this one has not."""
    lacks = []
    for part, wanted, keys in (("kills", everything, killed), ("routes", asked(everything), named)):
        if n := sum(subject.key not in keys for subject in wanted):
            lacks.append(f"{part}: {n} of {len(wanted)} programs")
    models = {row["models"] for row in found["alarms"]}
    for part, kind in (("alarms", "float32"), ("alarms-int8", "int8"), ("alarms-lower", record.LOWER)):
        if kind not in models:
            lacks.append(part)
    return lacks + [p for p, key in (("accusations", "honest_names"), ("adequacy", "adequacy")) if not found[key]]
