"""Where a program with a known fault goes wrong first, by what it records: what the tracer of text should say."""

from __future__ import annotations

from harness.adapters.implementation import ProcessImplementation
from harness.conformance.tracing import trace
from harness.diagnosis import Fate, Fault
from harness.models import load, locate

__all__ = ["Place", "place_of", "said", "truth"]

Place = tuple[int, str]
"""Layer, -1 outside of the blocks, and sub-block."""

_AFTER_ATTENTION = ("ffn_norm", "gate", "up", "ffn_mix", "ffn_out", "ffn_residual")


def place_of(name: str, layer: int) -> Place:
    """The sub-block that an operation of a trace belongs to."""
    if name == "embedding":
        return -1, "embedding"
    if name in ("final_norm", "logits"):
        return -1, "final norm"
    return layer, "feed-forward" if name in _AFTER_ATTENTION else "attention"


def truth(impl: ProcessImplementation, fault: Fault, model: str) -> Place | None:
    """The first wrong sub-block, by what the program records; None where the fault computes the same function.

    A layer that leaves no record did not run, and is wrong from its attention on. A fault that does not show on this
    model's own text is in the part that its component says.

    Raises:
        HarnessError: the program claims no level TRACE, or its trace cannot be read.
    """
    if fault.fate is not Fate.KILLABLE:
        return None
    files = locate(model)
    found = trace(impl, files, prompt=b"Once upon a time", steps=24)
    layers = {layer for _, layer, _ in found.heat}
    n_layers = load(files.checkpoint, files.tokenizer).checkpoint.config.n_layers
    if found.wrong and found.wrong[0].name == "final_norm" and max(layers) < n_layers - 1:
        return max(layers) + 1, "attention"
    if found.wrong:
        return place_of(found.wrong[0].name, found.wrong[0].layer)
    return (0, "attention") if fault.component in ("attention", "rotation", "cache") else None


def said(place: Place | None) -> str:
    """A place in words."""
    if place is None:
        return "nothing"
    layer, name = place
    return name if layer < 0 else f"{name} of layer {layer}"
