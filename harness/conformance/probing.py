"""Probe an implementation: run it on self-naming checkpoints, and intersect the names that it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.adapters.implementation import Implementation
from harness.adapters.manifest import Manifest
from harness.adapters.process import Limits
from harness.conformance.verify import files_for
from harness.diagnosis.diagnosis import Diagnosis
from harness.diagnosis.self_naming.files import ProbeFiles, cached, plan_of
from harness.diagnosis.self_naming.probe import CRASH
from harness.diagnosis.self_naming.reading import LEAST_PROBES, read_off
from harness.errors import InputError
from harness.results import Request

__all__ = ["Examination", "Heard", "examine", "probe", "probes_for"]


@dataclass(frozen=True, slots=True)
class Heard:
    """What one probe made of a program.

    Attributes:
        said: a piece, CRASH or SILENCE; empty: it could not be asked, `problem` says why.
        problem: why there is no answer.
        command: how it was asked, to be asked again.
    """

    probe: str
    said: str
    expected: str
    wall_s: float = 0.0
    problem: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    """A diagnosis, and what it is made of.

    Attributes:
        wall_s: time that the program itself took, all probes together.
    """

    impl: str
    diagnosis: Diagnosis
    heard: tuple[Heard, ...]

    @property
    def wall_s(self) -> float:
        return sum(one.wall_s for one in self.heard)


def probe(
    implementation: Implementation,
    probes: Iterable[ProbeFiles] | None = None,
    *,
    threads: int = 1,
    limits: Limits | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Name the bug of an implementation by self-naming checkpoints; see `examine`."""
    return examine(implementation, probes, threads=threads, limits=limits, progress=progress).diagnosis


def probes_for(
    manifest: Manifest, models: list[str] | None = None, *, progress: Callable[[str], None] = lambda _: None
) -> Iterable[ProbeFiles]:
    """Return the probes that a program can read, made in the cache where they are not there yet.

    Args:
        models: make all probes of each of these; None: the shipped selection.
    """
    version = next((n for n in (0, 1, 2) if f"llama2c-v{n}" in manifest.formats), 0)
    return cached(plan_of(models, version), version, progress=progress)


def examine(
    implementation: Implementation,
    probes: Iterable[ProbeFiles] | None = None,
    *,
    threads: int = 1,
    limits: Limits | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Examination:
    """Run a program on probes, one greedy token each, and read its bug off the names that it prints.

    Args:
        probes: None: those that suit its manifest.
        limits: for each run.

    Raises:
        InputError: it cannot be asked: no prompt, no temperature, or fewer than two probes in a form that it reads.
        BuildFailed, MissingDependency: as for any run.
    """
    manifest = implementation.manifest
    _check_askable(manifest)
    heard: list[Heard] = []
    read = []
    for one in probes_for(manifest, progress=progress) if probes is None else probes:
        expected = one.probe.says["ok"]
        try:
            files = files_for(manifest, one.files)
        except InputError as error:
            heard.append(Heard(one.probe.name, "", expected, problem=str(error)))
            continue
        request = Request(
            files.checkpoint,
            files.tokenizer,
            one.probe.prompt.encode(),
            steps=one.probe.steps,
            temperature=0.0,
            threads=threads,
        )
        seen = implementation.run(request, limits)
        said = one.probe.heard(seen.stdout) if seen.failure is None else CRASH
        problem = "" if seen.failure is None else str(seen.failure)
        heard.append(Heard(one.probe.name, said, expected, seen.wall_s, problem, seen.command_line))
        read.append((one.probe, said))
    if len(read) < LEAST_PROBES:
        reasons = "; ".join(sorted({one.problem for one in heard if not one.said})) or "there is none"
        raise InputError(
            f"can be asked {len(read)} probes only ({reasons})",
            where=implementation.name,
            expected=f"at least {LEAST_PROBES}",
        )
    return Examination(implementation.name, read_off(read, precision=manifest.precision), tuple(heard))


def _check_askable(manifest: Manifest) -> None:
    given = " ".join([*manifest.run, manifest.stdin, *manifest.env.values(), *manifest.files.values()])
    for what, keys in (("prompt", ("{prompt}", "{prompt_args}")), ("temperature", ("{temperature}",))):
        if not any(key in given for key in keys):
            raise InputError(f"has no way to be given a {what}", path=manifest.path, where=manifest.name)
