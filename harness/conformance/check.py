"""Judge cases on implementations: what `harness check` and the pytest plugin both run.

    implementations(specs) -> what to judge
    check(impls, cases)    -> verdicts, as the judging of each (implementation, model) ends
    header(impls, cases)   -> the header of a run file, by which a run can be resumed

A group is the cases of one model on one implementation. Its programs run, `jobs` at a time, and are then judged in
one pass of the reference over all of them, so its verdicts arrive together.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import harness
from harness.adapters.build import inputs
from harness.adapters.implementation import Implementation, ProcessImplementation, resolve
from harness.adapters.manifest import Known, Manifest
from harness.adapters.process import Limits, terminate_all
from harness.conformance.case import Case, case_keys, render
from harness.conformance.levels import LEVELS
from harness.conformance.verify import verify_group
from harness.diagnosis import CATALOGUE
from harness.errors import BuildFailed, ManifestError, MissingDependency
from harness.jobs import run_jobs
from harness.models import ModelFiles, ModelNotFound, impls_dir, locate
from harness.results import Kind, Observation, Verdict
from harness.runfile import Header

__all__ = ["DEFAULT_SUITES", "check", "excuse", "header", "implementations"]

DEFAULT_SUITES = ("core", "tinystories")

NO_LONGER = "listed deviation no longer happens"


def implementations(
    specs: Sequence[str] = (), *, progress: Callable[[str], None] | None = None
) -> list[ProcessImplementation]:
    """Find what is to be judged.

    Args:
        specs: as `harness.adapters.resolve` takes them; none: all that come with the harness.
        progress: told when a build begins.

    Returns:
        Each implementation once, under a name that no other has.

    Raises:
        InputError: a spec means nothing.
    """
    found = [impl for spec in specs or ["all"] for impl in resolve(spec, impls_dir(), progress=progress)]
    named: dict[str, ProcessImplementation] = {}
    for impl in found:
        name = impl.name
        if name in named and named[name].manifest != impl.manifest:
            number = next(n for n in range(2, len(found) + 2) if f"{impl.name}-{n}" not in named)
            name = f"{impl.name}-{number}"
            impl = ProcessImplementation(impl.manifest.model_copy(update={"name": name}), progress=progress)
        named.setdefault(name, impl)
    return list(named.values())


def check(
    impls: Sequence[Implementation],
    cases: Sequence[Case],
    *,
    time_s: float | None = None,
    jobs: int = 1,
    threads: int = 1,
    levels: Sequence[str] = LEVELS,
    diagnose: bool = True,
    done: Iterable[Verdict] = (),
    on_observed: Callable[[Implementation, Case], None] | None = None,
    on_settled: Callable[[Verdict], None] | None = None,
) -> Iterator[list[Verdict]]:
    """Yield the verdicts of each (implementation, model) as soon as it is judged.

    Args:
        time_s: limit of each run; unless given the manifest's own, or 60 s.
        jobs: programs that run at a time, one for each session of the line protocol too.
        threads: threads that each program is asked to use.
        levels: those to judge at, of the ones that each program claims.
        diagnose: after a MISMATCH, look for the bug that explains all answers about a model.
        done: verdicts that are known already; their cases are left out.
        on_observed: told after each run of a program.
        on_settled: given a verdict as soon as nothing can change it; it is also among those of its group.

    Raises:
        ManifestError: a listed deviation names no case.
    """
    for impl in impls:
        _check_known(impl.manifest)
    known = {(v.impl, v.suite, v.case) for v in done}
    for impl in impls:
        todo = [case for case in cases if (impl.name, case.suite, case.name) not in known]
        if not todo:
            continue
        obstacle = _obstacle(impl)
        for model in dict.fromkeys(case.model for case in todo):
            group = [case for case in todo if case.model == model]
            if obstacle is not None:
                verdicts = [_unrun(case, impl, *obstacle) for case in group]
            else:
                try:
                    verdicts = _judge(
                        group,
                        impl,
                        time_s=time_s,
                        jobs=jobs,
                        threads=threads,
                        levels=levels,
                        diagnose=diagnose,
                        on_observed=on_observed,
                        on_settled=on_settled,
                    )
                except KeyboardInterrupt:
                    terminate_all()  # runs in other threads did not hear of it
                    raise
            yield [excuse(verdict, impl.manifest.known) for verdict in verdicts]


def _obstacle(impl: Implementation) -> tuple[Kind, str] | None:
    """Build it, and say what keeps it from being run at all."""
    if not isinstance(impl, ProcessImplementation):
        return None
    try:
        impl.out()
    except MissingDependency as missing:
        return Kind.SKIPPED, str(missing)
    except BuildFailed as failure:
        command = f"\ncommand: {failure.command}" if failure.command else ""
        return Kind.BUILD_FAILED, f"{failure.what}{command}\n{failure.stderr_tail}".rstrip()
    return None


def _unrun(case: Case, impl: Implementation, kind: Kind, reason: str) -> Verdict:
    return Verdict(
        case=case.name,
        impl=impl.name,
        model=case.model.name,
        kind=kind,
        reason=reason,
        suite=case.suite,
        tags=case.tags,
    )


def _judge(
    group: list[Case],
    impl: Implementation,
    *,
    time_s: float | None,
    jobs: int,
    threads: int,
    levels: Sequence[str],
    diagnose: bool,
    on_observed: Callable[[Implementation, Case], None] | None,
    on_settled: Callable[[Verdict], None] | None,
) -> list[Verdict]:
    model = group[0].model
    files: ModelFiles | str
    try:
        files = locate(model.name, sha256=model.sha256, tokenizer_sha256=model.tokenizer_sha256)
    except ModelNotFound as missing:
        files = str(missing)

    def observed(case: Case, observation: Observation) -> None:
        if on_observed is not None:
            on_observed(impl, case)

    def settled(verdict: Verdict) -> None:
        if on_settled is not None:
            on_settled(excuse(verdict, impl.manifest.known))

    return verify_group(
        group,
        impl,
        files=files,
        limits=Limits(time_s=time_s or impl.manifest.timeout_s or Limits().time_s),
        threads=threads,
        levels=levels,
        observe=functools.partial(run_jobs, jobs=jobs),
        jobs=jobs,
        suspects=CATALOGUE if diagnose else (),
        on_observed=observed,
        on_settled=settled,
    )


# ---- listed deviations ---------------------------------------------------------------------------------------


def excuse(verdict: Verdict, known: Sequence[Known]) -> Verdict:
    """Return a verdict in the light of the deviations that a manifest lists.

    One that happens as listed is KNOWN; one that no longer happens is a MISMATCH, so that the list stays true;
    another failure than the listed one stays what it is, and says so; what was not judged stays as it is.
    """
    entry = next((entry for entry in known if _is_about(entry, verdict)), None)
    if entry is None:
        return verdict
    if verdict.kind is entry.kind:
        return dataclasses.replace(verdict, kind=Kind.KNOWN, reason=f"{entry.kind} as listed: {entry.reason}")
    if verdict.kind.is_green:
        reason = f"{NO_LONGER}: {entry.kind} was listed ({entry.reason}), it is {verdict.kind}; remove the entry"
        return dataclasses.replace(verdict, kind=Kind.MISMATCH, reason=reason)
    if verdict.kind.is_failure:
        reason = f"{verdict.reason}\nlisted as {entry.kind} ({entry.reason}), but it is {verdict.kind}".strip()
        return dataclasses.replace(verdict, reason=reason)
    return verdict


def _is_about(entry: Known, verdict: Verdict) -> bool:
    names = (verdict.case, f"{verdict.suite}/{verdict.case}")
    is_case = any(fnmatch.fnmatchcase(name, entry.case) for name in names)
    return is_case and fnmatch.fnmatchcase(verdict.model, entry.model)


def _check_known(manifest: Manifest) -> None:
    if not manifest.known:
        return
    keys = [name for key in case_keys() for name in (key.partition("/")[2], key)]
    for entry in manifest.known:
        if not fnmatch.filter(keys, entry.case):
            hint = "it was renamed or dropped: correct the entry"
            raise ManifestError("names no case", path=manifest.path, where=f"known {entry.case}", hint=hint)


# ---- the run file's header -----------------------------------------------------------------------------------


def header(
    impls: Sequence[Implementation],
    cases: Sequence[Case],
    *,
    named: Sequence[str] = (),
    settings: dict[str, str | int | float | bool] | None = None,
) -> Header:
    """Describe a run, so that another can tell whether it is the same."""
    return Header(
        harness_version=harness.__version__,
        impls={impl.name: _fingerprint(impl.manifest) for impl in impls},
        cases={case.key: _short(render(case).encode("utf-8", "surrogateescape")) for case in cases},
        named=tuple(named),
        settings=settings or {},
        machine={
            "system": platform.platform(),
            "machine": platform.machine(),
            "cpus": str(os.cpu_count()),
            "python": platform.python_version(),
        },
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _fingerprint(manifest: Manifest) -> str:
    """Hash a manifest with the files that decide what its program does, as far as they can be seen."""
    digest = hashlib.sha256(manifest.model_dump_json(exclude={"path"}).encode())
    files = inputs(manifest) if manifest.build else [Path(word) for word in _words(manifest)]
    for path in (*files, *manifest.given_files):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _words(manifest: Manifest) -> Iterator[str]:
    """List the words of the command that can be paths of files."""
    for word in manifest.run:
        path = word.replace("{src}", str(manifest.src)).replace("{{", "{").replace("}}", "}")
        if "/" in path:
            yield path


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
