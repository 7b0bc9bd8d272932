"""Diagnoses of one program on several models, put together: one program has one bug.

Each model allows some faults: those that explain everything which the program said of it. Some models cannot tell two
faults apart that others can, and some cannot show a fault at all. So what is named on any of them must be allowed on
as many as possible; what is left is weighed by its likelihoods on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.results import Conclusion, Diagnosis, Suspect, Verdict

__all__ = ["combined", "combined_by_model", "once"]

_SAME = 0.5  # nats within which faults that explain everything are one class

_Key = tuple[str, str, int | None]


def combined(verdicts: Iterable[Verdict]) -> list[Diagnosis]:
    """Put together what was found on each model of one implementation; as `combined_by_model`."""
    by_model: dict[str, Diagnosis] = {}
    for verdict in verdicts:
        if verdict.diagnosis is not None:
            by_model.setdefault(verdict.model, verdict.diagnosis)
    return combined_by_model(by_model)


def combined_by_model(by_model: dict[str, Diagnosis]) -> list[Diagnosis]:
    """Put diagnoses together.

    Returns:
        One diagnosis, with the models it is about and their tokens added up; the runner-up and the gap are those of
        the first of these, the one with most tokens. Several where models name bugs that exclude each other, the
        likeliest first: then none of them is the whole truth. Where a bug is named, models on which nothing explains
        everything are left out.
    """
    found = [replace(one, models=(model,)) for model, one in by_model.items()]
    found.sort(key=lambda one: -one.total)
    named = [one for one in found if one.conclusion is Conclusion.NAMED]
    if not named:
        return _alike(found)
    groups: list[list[Diagnosis]] = []
    for one in sorted(named, key=lambda one: -one.gain):
        group = next((group for group in groups if _allowed([*group, one])), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    for one in found:
        if one not in named and _allowed([*groups[0], one]):
            groups[0].append(one)
    return [_joined(sorted(group, key=found.index)) for group in groups]


def _alike(found: Sequence[Diagnosis]) -> list[Diagnosis]:
    """Nothing is named: what was concluded on several models alike is said once."""
    groups: dict[tuple[str, str, str], list[Diagnosis]] = {}
    for one in found:
        groups.setdefault((one.route, one.conclusion, one.precision), []).append(one)
    return [_summed(group, group[0]) for group in groups.values()]


def _allowed(group: Sequence[Diagnosis]) -> dict[_Key, list[Suspect]]:
    """The suspects that explain everything on each of some models, with what was said of them there."""
    tables = [
        {
            (one.name, one.cause, one.layer): one
            for one in (*found.weighed, *found.suspects)
            if _is_allowed(one, found)
        }
        for found in group
    ]
    return {key: [table[key] for table in tables] for key in tables[0] if all(key in table for table in tables)}


def _is_allowed(one: Suspect, found: Diagnosis) -> bool:
    return one.explains_all or one in found.suspects


def _joined(group: Sequence[Diagnosis]) -> Diagnosis:
    """One diagnosis of several models that allow the same bug, the one with most tokens first."""
    if len(group) == 1:
        return group[0]
    allowed = _allowed(group)
    gains = {key: math.fsum(one.gain for one in told) for key, told in allowed.items()}
    best = max(gains.values())
    kept = [key for key in allowed if gains[key] >= best - _SAME]
    suspects = once(
        replace(allowed[key][0], explained=sum(one.explained for one in allowed[key]), gain=gains[key])
        for key in kept
    )
    names = {one.name for one in suspects}
    first = group[0]
    here = allowed[kept[0]][0]
    second = next((one for one in (*first.weighed, first.runner_up) if one and one.name not in names), None)
    return replace(
        _summed(group, first),
        conclusion=Conclusion.NAMED,
        suspects=suspects,
        explained=suspects[0].explained,
        runner_up=second,
        gap=here.gain - second.gain if second else 0.0,
        gain=best,
        precision=next((one.precision for one in group if one.conclusion is Conclusion.NAMED), ""),
    )


def once(suspects: Iterable[Suspect]) -> tuple[Suspect, ...]:
    """Suspects, of one fault with several numbers that do the same only the first."""
    return tuple({(one.name, one.layer): one for one in reversed(list(suspects))}.values())[::-1]


def _summed(group: Sequence[Diagnosis], first: Diagnosis) -> Diagnosis:
    """The first diagnosis with the counts of all."""
    return replace(
        first,
        models=tuple(name for one in group for name in one.models),
        explained=sum(one.explained for one in group),
        total=sum(one.total for one in group),
        right=sum(one.right for one in group),
        n_tried=max(one.n_tried for one in group),
    )
