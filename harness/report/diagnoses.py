"""A diagnosis in words for the author of a port: what it behaves like, what that explains, what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.results import Conclusion, Diagnosis, Suspect, Verdict

__all__ = ["combined", "in_one_line", "told"]

_UNITS = {"text": "tokens", "probes": "probes", "tracer": "values"}
_CATALOGUE = "docs/faults.md"
_MOST = 4  # suspects of one class that are described in full


def told(verdicts: Iterable[Verdict]) -> list[str]:
    """Say what is wrong with an implementation, from its verdicts on all models; empty where nothing was sought."""
    by_model: dict[str, Diagnosis] = {}
    for verdict in verdicts:
        if verdict.diagnosis is not None:
            by_model.setdefault(verdict.model, verdict.diagnosis)
    return [line for models, found in combined(by_model) for line in _lines(found, models)]


def combined(by_model: dict[str, Diagnosis]) -> list[tuple[tuple[str, ...], Diagnosis]]:
    """Put diagnoses of several models together: what is named on all of them is the bug.

    Returns:
        Models and their diagnosis; its figures are those of the first of them, on which most was judged. Where some
        bug is named, models on which none is are left out.
    """
    groups: list[tuple[tuple[str, ...], Diagnosis]] = []
    is_named = any(found.conclusion is Conclusion.NAMED for found in by_model.values())
    for model, found in sorted(by_model.items(), key=lambda item: -item[1].total):
        if is_named and found.conclusion is not Conclusion.NAMED:
            continue
        for at, (models, other) in enumerate(groups):
            joined = _joined(other, found)
            if joined is not None:
                groups[at] = ((*models, model), joined)
                break
        else:
            groups.append(((model,), found))
    return groups


def _joined(one: Diagnosis, other: Diagnosis) -> Diagnosis | None:
    """The first, as far as the other says the same; None if they contradict each other."""
    is_other = one.precision != other.precision and one.conclusion is not Conclusion.NAMED
    if one.conclusion is not other.conclusion or is_other:
        return None
    there = {(suspect.name, suspect.layer) for suspect in other.suspects}
    both = tuple(suspect for suspect in one.suspects if (suspect.name, suspect.layer) in there)
    if one.conclusion is Conclusion.NAMED and not both:
        return None
    return replace(one, suspects=both, n_tried=max(one.n_tried, other.n_tried))


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


def _lines(found: Diagnosis, models: Sequence[str]) -> list[str]:
    where = f" on {models[0]}"
    if found.conclusion is Conclusion.NAMED:
        same = f"; the same on {', '.join(models[1:])}" if len(models) > 1 else ""
        return [*_named(found), f"{_explained(found, where)}{same}", _closed(found)]
    where = f" on {', '.join(models)}"
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
    return f"{name} ({found.runner_up.name}) {found.runner_up.explained:,}"


def _closed(found: Diagnosis) -> str:
    names = ", ".join(found.names)
    return (
        f"{names} in {_CATALOGUE}; {found.n_tried:,} known bugs were tried, and one that is not among them "
        "may do the same here"
    )
