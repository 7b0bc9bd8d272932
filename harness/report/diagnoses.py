"""A diagnosis in words for the author of a port: what it behaves like, what that explains, what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.diagnoses import combined
from harness.results import Conclusion, Diagnosis, Suspect, Verdict

__all__ = ["in_one_line", "told"]

_UNITS = {"text": "tokens", "probes": "probes", "tracer": "values"}
_CATALOGUE = "docs/faults.md"
_MOST = 4  # suspects of one class that are described in full


def told(verdicts: Iterable[Verdict]) -> list[str]:
    """Say what is wrong with an implementation, from its verdicts on all models; empty where nothing was sought."""
    verdicts = list(verdicts)
    found = combined(verdicts)
    if not found or found[0].conclusion is not Conclusion.NAMED:
        return [line for one in found for line in _lines(one)]
    sought = dict.fromkeys(verdict.model for verdict in verdicts if verdict.diagnosis is not None)
    unexplained = [model for model in sought if not any(model in one.models for one in found)]
    lines = _lines(found[0]) if len(found) == 1 else _contradiction(found)
    return [*lines, f"on {_listed(unexplained)} no known bug explains everything"] if unexplained else lines


def in_one_line(found: Diagnosis) -> str:
    """Say what is most likely wrong in one line; empty for nothing."""
    if found.conclusion is Conclusion.NAMED:
        causes = " or ".join(f"{_as_if(one)} ({one.name})" for one in found.suspects[:_MOST])
        fix = f"; fix: {found.suspects[0].fix}" if len(found.suspects) == 1 else ""
        return f"behaves exactly as if {causes}: {_explained(found)}{fix}"
    if found.conclusion is Conclusion.LOWER_PRECISION:
        return f"no known bug: as far as can be told a right program that computes in {found.precision}"
    if found.conclusion is Conclusion.UNKNOWN:
        return f"no known bug explains it ({found.n_tried:,} were tried)"
    return ""


def _lines(found: Diagnosis) -> list[str]:
    where = f" on {_listed(found.models)}"
    if found.conclusion is Conclusion.NAMED:
        return [*_named(found), _explained(found, where), _closed(found)]
    if found.conclusion is Conclusion.LOWER_PRECISION:
        return [
            f"no known bug{where}: it looks like a right program that computes in {found.precision}; if it does, "
            f'say precision = "{found.precision}" in its impl.toml',
            f"{_explained(found)}; {_runner_up(found)}",
        ]
    if found.conclusion is Conclusion.UNKNOWN:
        return [
            f"none of {found.n_tried:,} known bugs explains what it says{where}: a right program explains "
            f"{found.right:,} of {found.total:,} {_UNITS.get(found.route, 'values')}; {_runner_up(found)}",
            "harness trace names the first part of the forward pass that goes wrong",
        ]
    return []


def _named(found: Diagnosis) -> list[str]:
    if len(found.suspects) == 1:
        one = found.suspects[0]
        return [f"behaves exactly as if {_as_if(one)} ({_place(one)})", f"fix: {one.fix}"]
    lines = [
        f"behaves exactly as if one of these were so, which these cases cannot tell apart ({len(found.suspects)}):"
    ]
    for one in found.suspects[:_MOST]:
        lines.append(f"  {_as_if(one)} ({_place(one)}); fix: {one.fix}")
    rest: Sequence[str] = [one.name for one in found.suspects[_MOST:]]
    return [*lines, f"  or {', '.join(rest)}"] if rest else lines


def _contradiction(found: Sequence[Diagnosis]) -> list[str]:
    """Several bugs were named, each by models that exclude the others: what each of them explains."""
    lines = ["no single known bug explains all models; it behaves exactly as if"]
    for one in found:
        where = f"on {_listed(one.models)} ({one.explained:,} of {one.total:,} {_UNITS.get(one.route, 'values')})"
        causes = " or ".join(f"{_as_if(suspect)} ({_place(suspect)}: {suspect.name})" for suspect in one.suspects)
        lines.append(f"  {where}: {causes}")
    return [
        *lines,
        f"each is in {_CATALOGUE} with its fix; a bug that is not may do the one here and the other there",
    ]


def _listed(models: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(models[:-1]), *models[-1:])))


def _as_if(one: Suspect) -> str:
    return one.cause if one.layer is None else f"in layer {one.layer} only, {one.cause}"


def _place(one: Suspect) -> str:
    return one.component if one.layer is None else f"layer {one.layer}, {one.component}"


def _explained(found: Diagnosis, where: str = "") -> str:
    unit = _UNITS.get(found.route, "values")
    noise = f" up to the noise of {found.precision}" if found.precision else ""
    told = f"that explains {found.explained:,} of {found.total:,} {unit}{where}{noise}"
    if found.conclusion is not Conclusion.NAMED:
        return told
    return f"{told}; a right program explains {found.right:,}, {_runner_up(found)}"


def _runner_up(found: Diagnosis) -> str:
    if found.runner_up is None:
        return "no other known bug comes near"
    name = "the runner-up" if found.conclusion is Conclusion.NAMED else "the likeliest bug"
    where = f" of those on {found.models[0]}" if len(found.models) > 1 else ""
    return f"{name} ({found.runner_up.name}) {found.runner_up.explained:,}{where}"


def _closed(found: Diagnosis) -> str:
    names = ", ".join(found.names)
    return (
        f"{names} in {_CATALOGUE}; {found.n_tried:,} known bugs were tried, and one that is not among them "
        "may do the same here"
    )
