"""Everything that `harness selftest` measures, one result at a time, so that an interrupted run keeps what it has.

subjects(...)  -> programs with a fault          kills(...)   -> an Outcome each
batches(...)   -> cases made on the fly          alarms(...)  -> a Judged for each honest program
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.adapters.implementation import Implementation, ProcessImplementation
from harness.conformance.selftest.alarms import FLOAT32, INT8, Batch, Judged, available, cases, judged
from harness.conformance.selftest.compiled import Compiled, fault_files, patched
from harness.conformance.selftest.honest import Honest
from harness.conformance.selftest.kills import CONFIGURATIONS, Outcome, Passed, fate_of
from harness.conformance.selftest.ported import PROGRAM, PortedFault
from harness.diagnosis import CATALOGUE, Fate, Fault, by_name
from harness.errors import InputError
from harness.models import impls_dir

__all__ = ["Subject", "alarms", "kills", "subjects"]

QUICK_ONE_IN = 9  # of the faults compiled into a program, in a quick self-test


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


def subjects(programs: Sequence[str] = (), faults: Sequence[str] = (), *, quick: bool = False) -> list[Subject]:
    """List the programs with a fault: the catalogue's in numpy, then those compiled into implementations.

    Args:
        programs: only these; none: all there are.
        faults: only these; none: all.
        quick: of those that have to be built, only every ninth.

    Raises:
        InputError: there is no such program, or no such fault.
        ManifestError: a faults.toml does not fit its program.
    """
    compiled = fault_files(impls_dir())
    known = [PROGRAM, *(one.program for one in compiled)]
    if strange := [name for name in programs if name not in known]:
        raise InputError(f"no faults are known for {strange[0]}", expected=", ".join(known))
    wanted = {by_name(name).name for name in faults}
    found = [_ported(fault) for fault in CATALOGUE]
    for one in compiled:
        patches = one.patches[::QUICK_ONE_IN] if quick and not wanted else one.patches
        found += [_compiled(one, patch.name) for patch in patches]
    return [
        one for one in found if (not programs or one.program in programs) and (not wanted or one.fault.name in wanted)
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
    diagnose: Collection[str] = (),
) -> Iterator[tuple[Subject, Outcome]]:
    """Put each to the gate.

    Args:
        passed: concludes as the gate does.
        suites: by which it judges.
        killers: by the subject's key, the configuration that is known to stop it, and a case: it is tried first.
        quick: put those that cannot be seen to the first configuration only.
        diagnose: keys of those whose bug the gate is to name, too.
    """
    for subject in found:
        is_hidden = subject.fault.fate is not Fate.KILLABLE
        outcome = fate_of(
            subject.made(),
            subject.program,
            subject.fault.name,
            passed=passed,
            suites=suites,
            first=(killers or {}).get(subject.key),
            configurations=CONFIGURATIONS[:1] if quick and is_hidden else CONFIGURATIONS,
            diagnose=subject.key in diagnose,
        )
        yield subject, outcome


def alarms(
    programs: Sequence[Honest],
    *,
    tokens: int,
    int8_tokens: int,
    rounded: Sequence[Honest] = (),
    undeclared: Sequence[Honest] = (),
) -> Iterator[Judged]:
    """Put honest programs to batches of cases until each has been judged on so many tokens.

    Args:
        tokens: generated tokens of float32 models, at least, for each of `programs`.
        int8_tokens: the same of int8 models.
        rounded: programs of a lower precision, each judged on a batch of every float32 model.
        undeclared: the same, of which nobody is told: on that batch in quarters, for more occasions to accuse them.
    """
    for models, wanted in ((available(FLOAT32), tokens), (available(INT8), int8_tokens)):
        yield from _until(programs, models, wanted)
    for model in available(FLOAT32) if rounded or undeclared else []:
        batch = Batch(model, 0)
        made = cases(batch)
        for honest in rounded:
            yield judged(made, batch, honest)
        for honest in undeclared:
            for quarter in range(4):
                yield judged(made[quarter::4], batch, honest)


def _until(programs: Sequence[Honest], models: Sequence[str], wanted: int) -> Iterator[Judged]:
    done, number = 0, 0
    idle: set[str] = set()  # what cannot be run here is asked once
    while models and done < wanted:
        for model in models:
            batch = Batch(model, number)
            made = cases(batch)
            done += sum(case.n_generated for case in made)
            for honest in programs:
                if honest.name in idle:
                    continue
                result = judged(made, batch, honest)
                if result.obstacle:
                    idle.add(honest.name)
                yield result
            if done >= wanted:
                break
        number += 1
