"""Hypotheses: what could be wrong with a port, each as the whole port that it makes of a right one.

A hypothesis is a fault of the catalogue, such a fault in one layer only, or two faults together; and the right port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.diagnosis.diagnosis import Suspect, suspect
from harness.diagnosis.fault import Change, Fate, Fault, faulted
from harness.diagnosis.port import Port
from harness.engine import LIBRARY, STRICT, Ops
from harness.models import Model

__all__ = ["RIGHT", "Hypothesis", "applicable", "in_one_layer", "pairs"]

Family = Literal["forward", "encoder", "printed"]

# Steps of the forward pass that are no part of a block, or are the same for all of them.
_OUTSIDE = frozenset({"layer_order", "position", "embed", "final_norm", "logits", "argmax", "forced", "draws_coin"})


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Something that may be the case.

    Attributes:
        faults: those that are there; none for a right port.
        port: the port that has them.
        family: how it is tried: "forward" along known tokens, "encoder" after other prompt ids, "printed" by all of
            its text.
        layer: the only block that has the fault.
    """

    faults: tuple[Fault, ...]
    port: Port
    family: Family = "forward"
    layer: int | None = None

    @property
    def name(self) -> str:
        """Of the faults."""
        return " + ".join(fault.name for fault in self.faults)

    def suspect(self, explained: int, *, gain: float = 0.0, explains_all: bool = False) -> Suspect:
        """Describe it to the author of a port."""
        return suspect(self.faults, explained, layer=self.layer, gain=gain, explains_all=explains_all)


RIGHT = Hypothesis((), Port())


def family_of(fault: Fault) -> Family:
    """How a fault is tried."""
    if fault.change.part == "encoder":
        return "encoder"
    if fault.change.part in ("loop", "printer") or "forced" in fault.change.steps:
        return "printed"
    return "forward"


def applicable(faults: Iterable[Fault], model: Model, *, is_sampled: bool, version: int) -> list[Hypothesis]:
    """List the faults that a program which reads this model could have.

    Args:
        is_sampled: whether anything was drawn by coins.
        version: of llama2.c's container that the program reads.
    """
    is_int8 = model.checkpoint.group_size is not None
    found = []
    for fault in faults:
        if fault.fate is not Fate.KILLABLE or "fits" in fault.change.steps or "carried_over" in fault.change.steps:
            continue
        if (fault.component == "int8" or fault.name.startswith("v2-")) and not is_int8:
            continue
        if fault.name.startswith(("v0-", "v1-")) and (is_int8 or version != int(fault.name[1])):
            continue
        if fault.component == "sampler" and not is_sampled and not _touches_greedy(fault):
            continue
        variants = [replace(fault, change=change, as_if=as_if, variants=()) for as_if, change in fault.variants]
        found += [Hypothesis((one,), faulted(one), family_of(one)) for one in (fault, *variants)]
    return found


def _touches_greedy(fault: Fault) -> bool:
    return fault.change.part == "ops" or bool({"is_greedy", "settings"} & set(fault.change.steps))


def in_one_layer(hypotheses: Sequence[Hypothesis], model: Model) -> Iterator[Hypothesis]:
    """Give every fault of a block's operations to one block alone, each in turn."""
    family = LIBRARY if model.checkpoint.group_size is None else STRICT
    for one in hypotheses:
        steps = one.faults[0].change.steps
        if one.faults[0].change.part != "ops" or "in_decode_order" in steps or not set(steps) - _OUTSIDE:
            continue
        for layer in range(model.checkpoint.config.n_layers):
            restricted = {
                name: _restricted(name, step, layer, family) for name, step in steps.items() if name not in _OUTSIDE
            }
            yield Hypothesis(one.faults, Port(ops=restricted), "forward", layer)


def _restricted(name: str, step: Callable[..., Any], layer: int, family: Ops) -> Callable[..., Any]:
    honest = getattr(family, name)
    if name == "weight":
        return lambda config, at, *rest: (step if at == layer else honest)(config, at, *rest)
    return lambda at, *rest: (step if at.layer == layer else honest)(at, *rest)


def pairs(first: Sequence[Hypothesis], second: Sequence[Hypothesis]) -> Iterator[Hypothesis]:
    """Put two faults together, each pair once; those that replace the same step cannot be."""
    seen: set[frozenset[str]] = set()
    for a in first:
        for b in second:
            names = frozenset((a.name, b.name))
            if len(names) < 2 or names in seen or not _compatible(a.faults[0].change, b.faults[0].change):
                continue
            seen.add(names)
            family: Family = "encoder" if "encoder" in (a.family, b.family) else "forward"
            if "printed" in (a.family, b.family):
                family = "printed"
            yield Hypothesis((*a.faults, *b.faults), faulted(b.faults[0], a.port), family)


def _compatible(a: Change, b: Change) -> bool:
    if a.part != b.part:
        return True
    return not _named(a.steps) & _named(b.steps)


def _named(steps: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(steps) - {"in_decode_order"}
