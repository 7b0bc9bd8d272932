"""What a trial's output says: how far it is the reference's text, and whether its prompt and steps arrived.

An `Oracle` knows the reference's greedy continuation of a model; `read` compares an output with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.adapters import extract
from harness.engine import LIBRARY, STRICT, Engine, TopTwo, blas_threads, generate
from harness.models import Model

__all__ = ["Expectation", "Oracle", "Reading", "Task", "read"]

_PROMPTS = ("Tim had a dog", "The cat", "One day, Ben", "Zo and Spot", "In the park", "She took", "Ben", "Lily", "A")
_STEPS = 28
_ENOUGH = 16  # tokens that nobody prints by chance
_SPARE = 6  # positions expected beyond steps and prompt, so that other ways of counting show
# Tried until a sampled text is not the greedy one; some programs take no temperature above 1.
_SAMPLERS = tuple((temperature, seed) for temperature in (1.0, 1.5, 2.0) for seed in (42, 7, 99, 1234))
# A gap between the two best logits that honest orders of summation close. Int8 rounding can close so wide ones that
# they would excuse a wrong program: an int8 text has to match on its own.
_NEAR_TIE = {False: 0.02, True: 0.0}


@dataclass(frozen=True, slots=True)
class Expectation:
    """The reference's text for a prompt, longer than a trial asks for.

    Attributes:
        prompt: bytes of the prompt.
        n_prompt: its ids, BOS included.
        pieces: what is printed at each position, the echo included.
        margins: lead of the best logit at each position.
        near_tie: a margin below this excuses a difference.
    """

    prompt: bytes
    n_prompt: int
    pieces: tuple[bytes, ...]
    margins: tuple[float, ...]
    near_tie: float

    @property
    def text(self) -> bytes:
        return b"".join(self.pieces)

    def positions(self, n_bytes: int) -> int:
        """Return how many positions the first bytes of the text cover in full."""
        lengths = np.cumsum([len(piece) for piece in self.pieces])
        return int(np.searchsorted(lengths, n_bytes, side="right"))


@dataclass(frozen=True, slots=True)
class Reading:
    """An output, compared with an expectation.

    Attributes:
        n_match: generated tokens that are the reference's, from the first.
        positions: those printed, the echo counted, if the text ends there; None if it goes on in another way.
        echoes: whether the prompt is printed before them.
        is_right: enough of them, or all up to a near tie.
        text, conventions: as `harness.adapters.extract` found them.
    """

    n_match: int
    positions: int | None
    echoes: bool
    is_right: bool
    text: bytes
    conventions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """What trials ask for: a prompt whose text differs from the unprompted one, and a number of steps."""

    prompt: bytes
    steps: int


class Oracle:
    """The reference on one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.is_int8 = model.checkpoint.group_size is not None
        self._known: dict[tuple[bytes, int], Expectation] = {}

    @cached_property
    def engine(self) -> Engine:
        weights = self.model.checkpoint
        if self.is_int8:
            return Engine(weights.config, weights.tensors, dtype=np.float32, ops=STRICT)
        return Engine(weights.config, weights.tensors, dtype=np.float64, ops=LIBRARY)

    def ids(
        self, prompt: bytes, steps: int, *, temperature: float = 0.0, topp: float = 0.9, seed: int = 1
    ) -> list[int]:
        """Generate as llama2.c does; BOS comes first, and last if it ended the text."""
        prompt_ids = self.model.tokenizer.encode(prompt)
        with blas_threads(1):
            rest = generate(self.engine, prompt_ids, steps=steps, temperature=temperature, topp=topp, seed=seed)
            return [prompt_ids[0], *rest]

    def sampled(self, prompt: bytes, steps: int) -> tuple[float, int, list[int]]:
        """Return a temperature and a seed whose sampled text leaves the greedy one early, and its ids (top-p 0.9)."""
        greedy = self.ids(prompt, steps)
        n_prompt = len(self.model.tokenizer.encode(prompt))
        ids = greedy
        for temperature, seed in _SAMPLERS:
            ids = self.ids(prompt, steps, temperature=temperature, topp=0.9, seed=seed)
            if ids[: n_prompt + 8] != greedy[: n_prompt + 8]:
                break
        return temperature, seed, ids

    def printed(self, ids: Sequence[int]) -> bytes:
        """Return what llama2.c prints for them, its final newline included."""
        return self.model.tokenizer.print_text(ids) + b"\n"

    def expect(self, prompt: bytes, steps: int) -> Expectation:
        """Return the greedy expectation for a trial of so many steps."""
        key = (prompt, steps)
        if key not in self._known:
            self._known[key] = self._expectation(prompt, steps)
        return self._known[key]

    def _expectation(self, prompt: bytes, steps: int) -> Expectation:
        tokenizer = self.model.tokenizer
        n_prompt = len(tokenizer.encode(prompt))
        ids = self.ids(prompt, steps + n_prompt + _SPARE)
        if ids[-1] == tokenizer.bos_id:
            ids = ids[:-1]
        pieces = tuple(map(tokenizer.printed, ids, ids[1:]))
        two = TopTwo(len(ids))
        with blas_threads(1):
            self.engine.score([ids], two)
        return Expectation(prompt, n_prompt, pieces, tuple(two.margin.tolist()), _NEAR_TIE[self.is_int8])

    @cached_property
    def task(self) -> Task:
        """The first prompt whose story is its own from early on, printable for long, and free of near ties."""
        unprompted = self.expect(b"", _STEPS)
        best, best_zone = b"The cat", -1
        for prompt in (text.encode() for text in _PROMPTS):
            expected = self.expect(prompt, _STEPS)
            zone = 0
            while zone < len(expected.pieces) and _is_plain(expected.pieces[zone]):
                zone += 1
            confusions = read(unprompted.text, expected).n_match, read(expected.text, unprompted).n_match
            is_own = max(confusions) <= _ENOUGH // 2
            lead = min(expected.margins[expected.n_prompt - 1 : _STEPS], default=0.0)
            is_clear = self.is_int8 or lead > 2 * expected.near_tie
            if is_own and is_clear and zone >= _STEPS + expected.n_prompt + 1:
                return Task(prompt, _STEPS)
            if is_own and zone > best_zone:
                best, best_zone = prompt, zone
        return Task(best, _STEPS)


def _is_plain(piece: bytes) -> bool:
    return bool(piece) and all(0x20 <= byte < 0x7F for byte in piece)


def read(stdout: bytes, expected: Expectation) -> Reading:
    """Compare an output with what the reference prints."""
    found = extract.best(stdout, prompt=expected.prompt, expected=expected.text)
    target, offset = expected.text, 0
    if not found.echoes_prompt:
        rest = extract.after_echo(expected.prompt, expected.text)
        rest = rest[1:] if extract.NO_LEADING_SPACE in found.conventions else rest
        target, offset = rest, len(expected.text) - len(rest)
    text = found.text.rstrip(b"\r\n")
    common = 0
    while common < min(len(text), len(target)) and text[common] == target[common]:
        common += 1
    positions = expected.positions(offset + common)
    n_match = max(0, positions - (expected.n_prompt - 1)) if common else 0
    at_end = common == len(text)
    margin = expected.margins[positions] if positions < len(expected.margins) else 0.0
    at_tie = n_match >= 4 and not at_end and margin < expected.near_tie
    is_right = n_match >= _ENOUGH or at_tie
    printed = positions if at_end and common < len(target) else None
    return Reading(n_match, printed, found.echoes_prompt, is_right, found.text, found.conventions)
