"""Taking away what a program does not need: linked files, bytes on stdin, arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.conformance.adopt.options import file_names
from harness.conformance.adopt.shapes import Shape
from harness.conformance.adopt.trials import Trials, Tried

__all__ = ["minimal"]


def minimal(trials: Trials, tried: Tried) -> Tried:
    """Return the same success with fewer files, words and bytes on stdin."""
    for role, kept in (("prompt", "stdin"), ("model", "files"), ("tokenizer", "files")):
        if tried.shape.passes(role) and (kept == "files" or tried.shape.stdin):
            # Either the argument or the other way carries it; the argument is the cleaner one.
            lean = replace(tried.shape, stdin="") if kept == "stdin" else _unfiled(tried.shape, role)
            again = _same(trials, tried, lean)
            if again is None:
                again = _same(trials, tried, tried.shape.without(role))
            tried = again or tried
    if tried.shape.stdin and not tried.shape.passes("prompt"):
        tried = _same(trials, tried, replace(tried.shape, stdin="")) or tried
    tried = _fewer_files(trials, tried)
    if tried.is_success and not tried.takes_prompt and tried.shape.passes("prompt"):
        tried = _same(trials, tried, tried.shape.without("prompt")) or tried
    for role in ("steps", "temperature", "topp", "seed"):
        if not tried.counts_steps and tried.is_success and tried.shape.passes(role) and role == "steps":
            tried = _same(trials, tried, tried.shape.without(role)) or tried
    return tried


def _unfiled(shape: Shape, role: str) -> Shape:
    return replace(shape, files=tuple(pair for pair in shape.files if pair[1] != f"{{{role}}}"))


def _same(trials: Trials, tried: Tried, shape: Shape) -> Tried | None:
    """Try another shape; return its trial if it does all that the first one did."""
    if shape == tried.shape:
        return tried
    again = trials.call(shape, tried.form)
    if tried.is_success:
        is_same = again.is_success and again.rank[:2] >= tried.rank[:2]
    else:
        is_same = again.bare == tried.bare
    return again if is_same else None


def _fewer_files(trials: Trials, tried: Tried) -> Tried:
    if tried.shape.files:
        tried = _same(trials, tried, replace(tried.shape, files=())) or tried
    for attribute in ("files", "model_dir"):
        for role in ("{model}", "{tokenizer}"):
            tried = _fewest(trials, tried, attribute, role)
    return tried


def _fewest(trials: Trials, tried: Tried, attribute: str, role: str) -> Tried:
    """Halve the names that are linked to one thing until one is left, or none."""

    def keeping(names: Sequence[str]) -> Shape:
        pairs: tuple[tuple[str, str], ...] = getattr(tried.shape, attribute)
        kept = tuple(pair for pair in pairs if pair[1] != role or pair[0] in names)
        if attribute == "files":
            return replace(tried.shape, files=kept)
        return replace(tried.shape, model_dir=kept)

    names = [name for name, what in getattr(tried.shape, attribute) if what == role]
    if not names:
        return tried
    without = _same(trials, tried, keeping(()))
    if without is not None:
        return without
    named = [name for name in names if name in file_names(trials.call(keeping(()), tried.form).output)]
    for guess in (named[-1:], [name for name in names if name in ("tokenizer.bin", "model.bin")]):
        if len(guess) == 1 and len(names) > 1 and (again := _same(trials, tried, keeping(guess))):
            return again
    while len(names) > 1:
        half = len(names) // 2
        for part in (names[:half], names[half:]):
            if again := _same(trials, tried, keeping(part)):
                tried, names = again, part
                break
        else:
            break  # it needs more than one
    return tried
