"""Fault: one thing that a port does wrong, as one replaced step of a right one, with how to see and mend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal, get_args

from harness.diagnosis.port import Port

__all__ = [
    "COMPONENTS",
    "Change",
    "Component",
    "Fate",
    "Fault",
    "encoder",
    "faulted",
    "loop",
    "ops",
    "printer",
    "reader",
    "sampler",
]

Component = Literal[
    "loading",
    "tokenizer",
    "printing",
    "normalisation",
    "rotation",
    "attention",
    "cache",
    "feed-forward",
    "wiring",
    "int8",
    "sampler",
    "loop",
]
COMPONENTS: tuple[Component, ...] = get_args(Component)


class Fate(Enum):
    """What can become of a fault under test."""

    KILLABLE = "killable"  # some case shows it
    EQUIVALENT = "equivalent"  # it computes the same function; `Fault.argument` says why
    BELOW_NOISE = "below noise"  # another function, but never further away than honest programs are


@dataclass(frozen=True, slots=True)
class Change:
    """The replaced step: fields of one part of a `Port`, by name.

    Several fields only where one operation has several places, as RMSNorm has three.
    """

    part: Literal["reader", "encoder", "ops", "sampler", "loop", "printer"]
    steps: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """An entry of the catalogue.

    Attributes:
        name: its identifier, kebab case.
        component: the part of a port that is to be looked at.
        symptom: what its text looks like, or where it shows.
        cause: what the author of a port wrote.
        fix: what to write instead.
        change: the replaced step.
        fate: what can become of it under test.
        argument: why it is equivalent, or why it is so small.
        as_if: what the cause sounds like after "it behaves exactly as if", where that is not the cause itself.
        variants: the same mistake with other numbers: what it sounds like, and the replaced step.
    """

    name: str
    component: Component
    symptom: str
    cause: str
    fix: str
    change: Change
    fate: Fate = Fate.KILLABLE
    argument: str = ""
    as_if: str = ""
    variants: tuple[tuple[str, Change], ...] = ()


def reader(**steps: Any) -> Change:
    """Replace a step of `Reader`."""
    return Change("reader", steps)


def encoder(**steps: Any) -> Change:
    """Replace a step of `Encoder`."""
    return Change("encoder", steps)


def ops(**steps: Any) -> Change:
    """Replace an operation of the forward pass, or its wiring."""
    return Change("ops", steps)


def sampler(**steps: Any) -> Change:
    """Replace a step of `Sampler`."""
    return Change("sampler", steps)


def loop(**steps: Any) -> Change:
    """Replace a step of `Loop`."""
    return Change("loop", steps)


def printer(**steps: Any) -> Change:
    """Replace a step of `Printer`."""
    return Change("printer", steps)


def faulted(fault: Fault, port: Port | None = None) -> Port:
    """The port with that fault; its answers and logits are those of a program that has it.

    >>> from harness.diagnosis import by_name
    >>> port = faulted(by_name("attention-unscaled"))
    >>> sorted(port.ops)
    ['scale']
    """
    port = port or Port()
    part: Any = getattr(port, fault.change.part)
    changed: Any = (
        {**part, **fault.change.steps} if fault.change.part == "ops" else replace(part, **fault.change.steps)
    )
    changes: dict[str, Any] = {fault.change.part: changed}
    return replace(port, **changes)
