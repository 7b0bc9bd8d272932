"""Everything that `harness selftest` measures, one result at a time, so that an interrupted run keeps what it has.

subjects(...)  -> programs with a fault          kills(...)   -> an Outcome each
alarms(...)    -> a Judged for each honest program and batch of cases; rounded_alarms(...): of lower precisions
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.adapters.implementation import Implementation, ProcessImplementation
from harness.conformance.selftest.alarms import BATCH, FLOAT32, Batch, Judged, available, cases, judged
from harness.conformance.selftest.compiled import Compiled, fault_files, patched
from harness.conformance.selftest.honest import Honest
from harness.conformance.selftest.kills import CONFIGURATIONS, Outcome, Passed, fate_of, largest
from harness.conformance.selftest.ported import PROGRAM, PortedFault
from harness.diagnosis import CATALOGUE, Fate, Fault, by_name
from harness.errors import InputError
from harness.models import impls_dir

__all__ = ["QUICK_ONE_IN", "Subject", "alarms", "judged_key", "kills", "rounded_alarms", "subjects"]

QUICK_ONE_IN = 9  # of the faults in each program, in a quick self-test
_QUARTERS = 4


@dataclass(frozen=True, slots=True)
class Subject:
    """A program with a fault, not made before it is asked for.

    Attributes:
        program: "numpy", or the directory of impls/ that the fault is compiled into.
    """

    program: str
    fault: Fault
    made: Callable[[], Implementation]

    @property
    def key(self) -> str:
        return f"{self.program}+{self.fault.name}"


def subjects(programs: Sequence[str] = (), faults: Sequence[str] = (), *, turn: int | None = None) -> list[Subject]:
    """List the programs with a fault: the catalogue's in numpy, then those compiled into implementations.

    Args:
        programs: only these; none: all there are.
        faults: only these; none: all.
        turn: of each program only every ninth, from this one on: nine turns have them all. None: all at once.

    Raises:
        InputError: there is no such program, or no such fault.
        ManifestError: a faults.toml does not fit its program.
    """
    compiled = fault_files(impls_dir())
    known = [PROGRAM, *(one.program for one in compiled)]
    if strange := [name for name in programs if name not in known]:
        raise InputError(f"no faults are known for {strange[0]}", expected=", ".join(known))
    wanted = {by_name(name).name for name in faults}
    groups = [[_ported(fault) for fault in CATALOGUE]]
    groups += [[_compiled(one, patch.name) for patch in one.patches] for one in compiled]
    if turn is not None and not wanted:
        groups = [group[turn % QUICK_ONE_IN :: QUICK_ONE_IN] for group in groups]
    return [
        one
        for group in groups
        for one in group
        if (not programs or one.program in programs) and (not wanted or one.fault.name in wanted)
    ]


def _ported(fault: Fault) -> Subject:
    return Subject(PROGRAM, fault, lambda: PortedFault(fault.name))


def _compiled(compiled: Compiled, name: str) -> Subject:
    patch = next(patch for patch in compiled.patches if patch.name == name)
    return Subject(compiled.program, by_name(name), lambda: ProcessImplementation(patched(compiled, patch)))


def kills(
    found: Sequence[Subject],
    *,
    passed: Passed,
    suites: Sequence[str],
    killers: Mapping[str, tuple[str, str]] | None = None,
    quick: bool = False,
) -> Iterator[tuple[Subject, Outcome]]:
    """Put each to the gate.

    What computes the right function is put to the largest configuration alone: what passes that passes all.

    Args:
        passed: concludes as the gate does.
        suites: by which it judges.
        killers: by the subject's key, the configuration that is known to stop it, and a case: it is tried first.
        quick: put those that cannot be seen to the first configuration only.
    """
    for subject in found:
        impl = subject.made()
        is_hidden = subject.fault.fate is not Fate.KILLABLE
        hidden = CONFIGURATIONS[:1] if quick else largest(impl)
        outcome = fate_of(
            impl,
            subject.program,
            subject.fault.name,
            passed=passed,
            suites=suites,
            first=(killers or {}).get(subject.key),
            configurations=hidden if is_hidden else CONFIGURATIONS,
        )
        yield subject, outcome


def alarms(
    programs: Sequence[Honest],
    models: Sequence[str],
    tokens: int,
    *,
    first: int = 0,
    n_cases: int = BATCH,
    known: Mapping[str, Judged] | None = None,
) -> Iterator[Judged]:
    """Put honest programs to batches of cases until each has been judged on so many tokens.

    Args:
        models: of which the batches are; those that are not here are left out.
        tokens: generated tokens, at least, for each program.
        first: the batch to begin with, counted over all models.
        n_cases: of each batch that are taken.
        known: by `judged_key`, what was judged before: it is not judged again, and not given back, but counts.
    """
    models, known = available(models), known or {}
    done, number = 0, first
    idle: set[str] = set()  # what cannot be run here is asked once
    while models and done < tokens:
        batch = Batch(models[number % len(models)], number // len(models))
        keys = {one.name: judged_key(one.name, batch) for one in programs}
        before = [known[key] for key in keys.values() if key in known]
        todo = [one for one in programs if keys[one.name] not in known and one.name not in idle]
        made = cases(batch, n_cases) if todo else []
        for honest in todo:
            result = judged(made, batch, honest)
            if result.obstacle:
                idle.add(honest.name)
            yield result
        done += sum(case.n_generated for case in made) or max((one.n_asked for one in before), default=0) or tokens
        number += 1


def rounded_alarms(
    rounded: Sequence[Honest], undeclared: Sequence[Honest], *, known: Mapping[str, Judged] | None = None
) -> Iterator[Judged]:
    """Put programs of a lower precision to a batch of every float32 model.

    Args:
        undeclared: those of which nobody is told: on that batch in quarters, for more occasions to accuse them.
        known: as for alarms().
    """
    for model in available(FLOAT32):
        batch = Batch(model, 0)
        todo = [(one, -1) for one in rounded] + [(one, part) for one in undeclared for part in range(_QUARTERS)]
        todo = [(one, part) for one, part in todo if judged_key(one.name, batch, part) not in (known or {})]
        made = cases(batch) if todo else []
        for honest, part in todo:
            yield judged(made if part < 0 else made[part::_QUARTERS], batch, honest, part=part)


def judged_key(program: str, batch: Batch, part: int = -1) -> str:
    """What tells one result of alarms() or rounded_alarms() from the others."""
    return f"{program} on {batch.model} {batch.number}" + (f" part {part}" if part >= 0 else "")
