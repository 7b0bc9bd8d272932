"""Craft: make a model's classifier out of the states that faulty ports reach, and its pieces out of their names.

The final hidden state h of the last prompt position is computed for every hypothesis. Each state at unit length
becomes a row of the classifier, scaled alike, for a token of its own whose piece is the hypothesis' name. Of rows of
one length the one nearest in angle has the largest logit, so greedy decoding says whose state it was.

The tokens are new ones behind the vocabulary, with pieces that no text is encoded to: the prompt keeps its ids. In a
tied model the rows are the embedding's of these tokens, longer than all others. What changes the classifier itself
(another table is taken for it, or it is read from the wrong place) is not computed but run, on the very file: where
such a port says a token that nobody else says, that token is given its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.faults import CATALOGUE
from harness.diagnosis.port import Port, PortCrashed, Request
from harness.diagnosis.self_naming.outcome import (
    OK,
    PRECISIONS,
    Outcome,
    Way,
    angles,
    group_size_of,
    honest_outcomes,
    hypotheses,
    outcome,
)
from harness.diagnosis.self_naming.probe import CRASH, FLOAT32, SILENCE, Probe
from harness.diagnosis.self_naming.recipes import Recipe
from harness.diagnosis.self_naming.rows import grown, placed, room, separation_of, stored, with_rows
from harness.engine import Engine
from harness.engine.honest import rounded
from harness.errors import InputError
from harness.models import Model, untie
from harness.quant import quantize_weights
from harness.tokenizer import Tokenizer

__all__ = ["Draft", "drafted", "finished", "named_tokenizer", "said"]

Array = npt.NDArray[Any]
Made = Callable[[], tuple[Port, Engine]]

NOT_A_NUMBER = "<not-a-number>"
NONE_OF_THESE = ("<none-of-these>", "<none-of-these-either>")

# Rounding moves a state by less than this, in radians: float32 sums leave two rows undecided that lie nearer than
# sqrt(2 * 1e-7 * a few). A probe's own noise may ask for more.
_LEAST_RADIUS = 1.5e-3
_OVER_HONEST = 4.0  # of the largest distance among honest programs of float32 or int8
_OVER_LOWER = 2.0  # of the largest distance among the simulated programs of a lower precision
# A probe whose own noise is larger than this tells bugs from rounding no more.
_MOST_RADIUS = 0.1
_MOST_NAMES = 2  # in one piece


@dataclass(frozen=True)
class Draft:
    """A model whose classifier has the rows, before its pieces have their names.

    Attributes:
        radius, noise: as in `Probe`.
        rows: token -> (dim,) unit row; the first is that of `ok`.
        owners: token -> the hypotheses that its row is for.
        states: hypothesis -> unit state, for those that have one.
    """

    recipe: Recipe
    model: Model
    version: int
    prompt: bytes
    steps: int
    n_prompt: int
    radius: float
    noise: Mapping[str, float]
    rows: Mapping[int, Array]
    owners: Mapping[int, tuple[str, ...]]
    states: Mapping[str, Array]


def drafted(recipe: Recipe, original: Model, version: int) -> Draft:
    """Compute the states of all hypotheses, and make their rows.

    Args:
        version: of the file to be: 0 or 1, or 2 for an int8 model.

    Raises:
        InputError: honest programs differ too much on it, or the model cannot be altered so.
    """
    model = _altered(recipe, original)
    prompt = recipe.prompt(model)
    n_prompt, steps = _lengths(model, prompt)
    blank = grown(model, room(model.checkpoint.config, version, len(hypotheses(model, version))))
    found = {name: outcome(made, blank, prompt, steps) for name, made in hypotheses(blank, version).items()}
    honest = honest_outcomes(blank, prompt, steps)
    noise = _noise(found, honest)
    radius = max(_LEAST_RADIUS, _OVER_HONEST * noise[FLOAT32], 2 * _rounding(found, model))
    if radius > _MOST_RADIUS:
        raise InputError(
            f"honest programs differ too much on the probe {recipe.name}",
            where=original.name,
            expected=f"at most {_MOST_RADIUS / _OVER_HONEST:.3f} rad",
            actual=f"{noise[FLOAT32]:.3f} rad",
            hint="make the probes of another model",
        )
    states = {name: one.state for name, one in found.items() if one.state is not None}
    while True:
        owners = _owners(states, 2 * radius)
        rows = placed(blank, version, owners, states)
        crafted = with_rows(blank, rows, states[OK])
        # What a port reads wrongly may be the rows themselves: then what it says has to be run.
        misread = [
            name
            for name, made in hypotheses(crafted, version).items()
            if name in states
            and _reads(name)
            and not _says_its_row(outcome(made, crafted, prompt, steps), states[name], rows, radius)
        ]
        if not misread:
            break
        for name in misread:
            del states[name]
    tokens = {name: token for token, names in zip(rows, owners, strict=True) for name in names}
    named = {token: tuple(name for name in tokens if tokens[name] == token) for token in rows}
    return Draft(
        recipe, crafted, version, prompt, steps, n_prompt, radius, noise, stored(crafted, rows), named, states
    )


def finished(draft: Draft, tokenizer: Tokenizer, says: Mapping[str, str], *, name: str) -> Probe:
    """Make the dictionary out of what every hypothesis says on the files themselves.

    Args:
        tokenizer: the one that was written.
        says: what each is heard to say on the files as read back; see `said`.

    Raises:
        InputError: a hypothesis says a name that is not within the radius of its own; the rows are too near.
    """
    separation = separation_of(draft.rows)
    if separation < 2 * draft.radius:
        raise InputError(
            f"two rows of the probe {name} are too near",
            expected=f"at least {2 * draft.radius:.4f} rad apart",
            actual=f"{separation:.4f} rad",
            hint="make the probes of another model",
        )
    could_say = _could_say(draft, tokenizer)
    of_precision = {name: precision for precision, names in PRECISIONS.items() for name in names}
    for hypothesis in draft.states:
        precision = of_precision.get(hypothesis, FLOAT32)
        if hypothesis not in could_say.get(says[hypothesis], {}).get(precision, ()):
            raise InputError(
                f"{hypothesis} does not say its name on the probe {name}",
                expected=" or ".join(piece for piece, who in could_say.items() if hypothesis in who[precision]),
                actual=says[hypothesis],
                hint="make the probes of another model",
            )
    for label in (NOT_A_NUMBER, *NONE_OF_THESE, *says.values()):
        if label not in (CRASH, SILENCE):
            could_say.setdefault(label, {})
    return Probe(
        name=name,
        aim=draft.recipe.aim,
        model=name,
        prompt=draft.prompt.decode(),
        steps=draft.steps,
        n_prompt=draft.n_prompt,
        version=draft.version,
        radius=draft.radius,
        separation=separation,
        noise=draft.noise,
        says=says,
        could_say=could_say,
    )


def named_tokenizer(draft: Draft) -> Tokenizer:
    """The tokenizer whose pieces are the names.

    Raises:
        InputError: the prompt is encoded otherwise with it.
    """
    old = draft.model.tokenizer
    pieces = list(old.pieces)
    pieces[0] = NOT_A_NUMBER.encode()
    n = len(pieces)
    if not draft.model.checkpoint.config.is_tied:
        pieces[n - 2], pieces[n - 1] = (piece.encode() for piece in NONE_OF_THESE)
    for token, names in draft.owners.items():
        pieces[token] = _piece(names)
    taken = set(draft.owners) | {0, n - 2, n - 1}
    run: dict[int, list[str]] = {}
    for name, made in hypotheses(draft.model, draft.version).items():
        if name in draft.states or name in PRECISIONS:
            continue
        found = outcome(made, draft.model, draft.prompt, draft.steps, needs_state=False)
        if found.token is not None and found.token not in taken:
            run.setdefault(found.token, []).append(name)
    fed = _ever_fed(draft.model, draft.prompt)
    for token, several in run.items():
        if token not in fed:
            pieces[token] = _piece(several)
    tokenizer = replace(old, pieces=tuple(pieces))
    for fault in CATALOGUE:
        if fault.change.part == "encoder":
            encoded = fault.change.steps.get("encoded", Port().encoder.encoded)
            if encoded(tokenizer, draft.prompt) != encoded(old, draft.prompt):
                raise InputError(f"the prompt would be encoded otherwise under {fault.name}", where=draft.recipe.name)
    return tokenizer


# ---- states ------------------------------------------------------------------------------------------------------


def _altered(recipe: Recipe, original: Model) -> Model:
    model = recipe.altered(original)
    found = model.checkpoint
    if recipe.seq_len is not None and recipe.seq_len < found.config.seq_len:
        config = replace(found.config, seq_len=recipe.seq_len)
        found = replace(found, config=config, rope_tables=None, path=None)
    # int8 rows have other rounding than the embedding's: a classifier of its own keeps the two apart.
    if recipe.is_untied or found.group_size is not None:
        found = untie(found)
    return replace(model, checkpoint=found)


def _lengths(model: Model, prompt: bytes) -> tuple[int, int]:
    """Ids of the prompt, and positions to run: a right program stops after the name where it can be made to."""
    n = len(model.tokenizer.encode(prompt))
    config = model.checkpoint.config
    if config.is_tied or model.checkpoint.group_size is not None:
        return n, min(n + 1, config.seq_len)
    faults = [fault for fault in CATALOGUE if "encoded" in fault.change.steps]
    longest = max(len(fault.change.steps["encoded"](model.tokenizer, prompt)) for fault in faults)
    return n, min(max(longest, n) + 1, config.seq_len)


def _noise(found: Mapping[str, Outcome], honest: Sequence[Outcome]) -> dict[str, float]:
    """The largest angle from `ok` among honest programs (under FLOAT32), and among those of each lower precision."""
    ok = found[OK].state
    assert ok is not None

    def largest(outcomes: Sequence[Outcome | None]) -> float:
        away = [
            math.pi if one.state is None else float(angles(ok[None], one.state[None])[0, 0])
            for one in outcomes
            if one is not None
        ]
        return max(away, default=0.0)

    noise = {FLOAT32: largest(honest)}
    for precision, names in PRECISIONS.items():
        if any(name in found for name in names):
            noise[precision] = largest([found.get(name) for name in names])
    return noise


def _reads(name: str) -> bool:
    """Whether a hypothesis is a fault of reading the file, or of how int8 codes are taken: the rows are, too."""
    return any(fault.name == name and fault.component in ("loading", "int8") for fault in CATALOGUE)


def _rounding(found: Mapping[str, Outcome], model: Model) -> float:
    """The largest angle by which int8 codes turn a state, as they do to rows and to what is multiplied with them."""
    group_size = model.checkpoint.group_size
    if group_size is None:
        return 0.0
    states = np.stack([one.state for one in found.values() if one.state is not None])
    rounded_ones = quantize_weights(states.astype(np.float32), group_size).dequantize().astype(np.float64)
    rounded_ones /= np.linalg.norm(rounded_ones, axis=1, keepdims=True)
    return float(np.diag(angles(states, rounded_ones)).max())


def _says_its_row(now: Outcome, state: Array, rows: Mapping[int, Array], radius: float) -> bool:
    """Whether a port still reaches the same state, and says the token of a row that is as near as its own."""
    if (
        now.state is None
        or now.token is None
        or now.token not in rows
        or float(angles(now.state[None], state[None])[0, 0]) > radius / 2
    ):
        return False
    away = angles(state[None], np.stack(list(rows.values())))[0]
    return bool(away[list(rows).index(now.token)] - away.min() <= 2 * radius)


def _owners(states: Mapping[str, Array], apart: float) -> list[list[str]]:
    """Group hypotheses whose states are nearer than `apart` to the first of the group; `ok` is first of all."""
    groups: list[list[str]] = []
    for name, state in states.items():
        for group in groups:
            if float(angles(state[None], states[group[0]][None])[0, 0]) < apart:
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


# ---- names -------------------------------------------------------------------------------------------------------


def _piece(names: Sequence[str]) -> bytes:
    """The name of a class: up to two names, or one and how many more.

    >>> _piece(["rope-missing"]), _piece(["a", "b", "c"])
    (b'<rope-missing>', b'<a/and-2-more>')
    """
    if len(names) <= _MOST_NAMES or names[0] == OK:
        shown = names[:1] if names[0] == OK else names
        return f"<{'/'.join(shown)}>".encode()
    return f"<{names[0]}/and-{len(names) - 1}-more>".encode()


def _ever_fed(model: Model, prompt: bytes) -> set[int]:
    """Tokens that the prompt has under any encoder."""
    fed = set(model.tokenizer.encode(prompt))
    for fault in CATALOGUE:
        if "encoded" in fault.change.steps:
            fed.update(fault.change.steps["encoded"](model.tokenizer, prompt))
    return fed


def said(draft: Draft, back: Model, made: Made) -> str | None:
    """What a hypothesis is heard to say on files that were read back; None: it is undefined for them."""
    one = outcome(made, back, draft.prompt, draft.steps, needs_state=False)
    if one.way is Way.UNDEFINED:
        return None
    if one.way is Way.CRASHED:
        return CRASH
    if one.token is None:
        return SILENCE
    piece = back.tokenizer.pieces[one.token]
    if piece != draft.model.tokenizer.pieces[one.token]:
        return piece.decode()
    # No name comes first, but one may still follow.
    named = set(back.tokenizer.pieces) - set(draft.model.tokenizer.pieces)
    try:
        answer = made()[0].answer(back, Request(draft.prompt, steps=draft.steps))
    except (PortCrashed, IndexError):
        return CRASH
    spoken = [back.tokenizer.pieces[token] for token in answer.ids[draft.n_prompt - 1 :]]
    return next((one.decode() for one in spoken if one in named), SILENCE)


def _turned_rows(draft: Draft, precision: str) -> float:
    """How far a precision moves rows, for programs keep the classifier in it, too.

    The largest angle by which it turns one, and what its lengths are worth: of two rows that are shorter and longer
    by a share e, the longer wins from 2 sqrt(e) away, which is twice a radius of sqrt(e).
    """
    config, tensors = draft.model.checkpoint.config, draft.model.checkpoint.tensors
    engine = Engine(config, tensors, ops=rounded(precision, group_size=group_size_of(draft.model))[0])
    matrix = engine.matrices()[-1][np.array(list(draft.rows))].astype(np.float64)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    turned = np.diag(angles(matrix / lengths, np.stack(list(draft.rows.values()))))
    return float(turned.max() + math.sqrt(np.abs(lengths / lengths.mean() - 1).max()))


def _could_say(draft: Draft, tokenizer: Tokenizer) -> dict[str, dict[str, tuple[str, ...]]]:
    """Who could have said each name: whose state lies within twice the radius of preferring it.

    A state that is moved by r is nearer to another row than to its own only if its distances to the two differ by no
    more than 2 r (triangle inequality on the sphere).
    """
    names, block = list(draft.states), np.stack(list(draft.rows.values()))
    away = angles(np.stack([draft.states[name] for name in names]), block)
    gap = away - away.min(axis=1, keepdims=True)
    radii = {FLOAT32: draft.radius}
    for precision in PRECISIONS:
        if precision in draft.noise:
            turned = _turned_rows(draft, precision)
            radii[precision] = max(draft.radius, _OVER_LOWER * (draft.noise[precision] + turned))
    return {
        tokenizer.pieces[token].decode(): {
            precision: tuple(np.array(names)[gap[:, i] <= 2 * radius].tolist()) for precision, radius in radii.items()
        }
        for i, token in enumerate(draft.rows)
    }
