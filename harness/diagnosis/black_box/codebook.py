"""The channel through text: a tokenizer of unique pieces, and classifier rows that make the argmax token an angle.

A hidden state h has an angle in the plane of two orthogonal unit vectors u and v: atan2(h.v, h.u). A classifier row

    (cos s - 1) u + sin s v

scores highest, among all such rows, where s is nearest to that angle. (The -u that all rows share moves every logit
alike, so it decides nothing; without it rows near angle 0 are short, and so is their rounding. A choice between rows
of length 1 would be blurred to the square root of a unit in the last place.)

The plane is chosen so that a right program's angle is 0 at every position that is read: v is orthogonal to all of
their states. The angles of the rows grow from a fraction of the noise floor to half a turn in equal ratios, so one
token tells that an angle is off by 1e-6, or by 2. All tokens that stand for angles have one embedding: whatever a
program answers at one position, what it is fed at the next is known beforehand, so one error does not spoil the
rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.engine.ops import Weight
from harness.errors import InputError
from harness.quant import quantize_weights
from harness.tokenizer import Tokenizer

__all__ = ["FIRST_CODE_ID", "FIRST_LETTER_ID", "LETTERS", "SPACE_ID", "VOCAB_SIZE", "Codebook", "Plane", "alphabet"]

Array = npt.NDArray[Any]

LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_SIGNS = LETTERS[:52]
_CODE = re.compile(rb"~([A-Za-z])([A-Za-z])~")

SPACE_ID = 259  # behind the specials and the byte pieces
FIRST_LETTER_ID = SPACE_ID + 1
FIRST_CODE_ID = FIRST_LETTER_ID + len(LETTERS)
VOCAB_SIZE = 768  # of a crafted model, where the program has no size of its own
_FEWEST_CODES = 100
_MOST_CODES = len(_SIGNS) ** 2
_FILLER = 1e-3  # how far the rows of all other tokens point away from u: enough to lose
_LEAST_COMMON = 1e-2  # cosine that every state that is read must have with u


def alphabet(vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Make a vocabulary in which every piece is unique and nothing merges.

    Specials and byte pieces stand where programs expect them; then a space, the letters of prompts, and the codes
    `~ab~`, which can be found in any output.

    Raises:
        InputError: the vocabulary has not room enough.
    """
    n_codes = vocab_size - FIRST_CODE_ID
    if n_codes < _FEWEST_CODES:
        least = FIRST_CODE_ID + _FEWEST_CODES
        raise InputError("the vocabulary is too small for a codebook", expected=f"{least} tokens", actual=vocab_size)
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256)), b" "]
    pieces += [LETTERS[i : i + 1] for i in range(len(LETTERS))]
    pieces += [b"~%c%c~" % pair for pair in product(_SIGNS, repeat=2)][:n_codes]
    pieces += [b"<%d>" % i for i in range(len(pieces), vocab_size)]
    scores = -np.arange(vocab_size, dtype=np.float32)  # fall with the id, as layouts without scores have it
    scores[:SPACE_ID] = 0
    return Tokenizer(tuple(pieces), scores)


@dataclass(frozen=True, slots=True)
class Plane:
    """Two orthogonal unit vectors (dim,), float64."""

    u: Array
    v: Array

    def angles(self, states: Array) -> Array:
        """(n,) angles in radians of states (n, dim)."""
        angle: Array = np.arctan2(states @ self.v, states @ self.u)
        return angle

    @classmethod
    def of(cls, states: Array, *, blind_to: Array, seed: int, group_size: int | None = None) -> Plane:
        """Choose a plane in which all of these states (n, dim) have angle 0.

        Args:
            blind_to: (m, dim) directions that both vectors are orthogonal to.
            seed: of what is left to chance.
            group_size: of an int8 classifier: u and v share no group, so that a row's rounding turns neither.

        Raises:
            InputError: there is none.
        """
        dim = states.shape[1]
        rows = states / np.linalg.norm(states, axis=1, keepdims=True)
        of_u = of_v = np.ones(dim, bool)
        if group_size is not None and dim % group_size == 0 and dim > group_size:
            of_u = np.arange(dim) // group_size % 2 == 0
            of_v = ~of_u
        if of_v.sum() < len(_basis(np.concatenate([rows, blind_to]))) + 1:
            raise InputError("has too few dimensions for a plane", expected=f"{len(rows) + 2}", actual=dim)
        u, v = np.zeros(dim), np.zeros(dim)
        blind = _basis(blind_to[:, of_u])
        free = rows[:, of_u] - (rows[:, of_u] @ blind.T) @ blind
        u[of_u] = np.linalg.lstsq(free, np.ones(len(rows)), rcond=_LEAST_COMMON)[0]  # all have the same part along u
        u /= np.linalg.norm(u)
        if (rows @ u).min() < _LEAST_COMMON:
            raise InputError("the states have no direction in common", hint="take another model")
        spanned = _basis(np.concatenate([blind_to, rows])[:, of_v])
        rest = np.random.default_rng(seed).standard_normal(int(of_v.sum()))
        for _ in range(2):  # twice is enough for orthogonality to the last bit
            rest -= spanned.T @ (spanned @ rest)
        v[of_v] = rest
        return cls(u, v / np.linalg.norm(v))


def _basis(rows: Array) -> Array:
    """Orthonormal rows that span these."""
    if not len(rows):
        return rows
    _, sizes, basis = np.linalg.svd(rows, full_matrices=False)
    out: Array = basis[sizes > sizes[0] * 1e-13]
    return out


@dataclass(frozen=True, slots=True)
class Codebook:
    """Codes, and the classifier that tells their angles apart.

    Attributes:
        angles: (n_codes,) radians, ascending.
        classifier: (vocab_size, dim) float32, or int8.
    """

    angles: Array
    classifier: Weight

    @classmethod
    def of(cls, plane: Plane, finest: float, vocab_size: int, group_size: int | None = None) -> Codebook:
        """Spread codes over the full turn: 0, then from `finest` on in equal ratios, to either side."""
        n_side = (min(vocab_size - FIRST_CODE_ID, _MOST_CODES) - 1) // 2
        side = np.geomspace(finest, np.pi, n_side)
        angles = np.concatenate([-side[::-1], [0.0], side])
        table = np.tile(-_FILLER * plane.u, (vocab_size, 1))
        rows = np.outer(-2 * np.sin(angles / 2) ** 2, plane.u) + np.outer(np.sin(angles), plane.v)
        table[FIRST_CODE_ID : FIRST_CODE_ID + len(rows)] = rows
        table = table.astype(np.float32)
        return cls(angles, table if group_size is None else quantize_weights(table, group_size))

    def chosen(self, logits: Array) -> Array:
        """(n,) the angles that logits (n, vocab_size) choose; NaN where a token that is no code is chosen."""
        return self._angles_of(logits.argmax(axis=1) - FIRST_CODE_ID)

    def printed(self, text: bytes) -> Array:
        """The angles of the codes in a text, in their order."""
        place = {sign: i for i, sign in enumerate(_SIGNS)}
        codes = [place[found[1][0]] * len(_SIGNS) + place[found[2][0]] for found in _CODE.finditer(text)]
        return self._angles_of(np.array(codes, np.int64))

    def spacing(self, angle: float) -> float:
        """Half the distance to the further of an angle's two neighbours: how far a right answer may be off."""
        at = int(np.abs(self.angles - angle).argmin())
        near = self.angles[max(0, at - 1) : at + 2]
        return float(np.diff(near).max()) / 2

    def _angles_of(self, codes: Array) -> Array:
        is_code = (codes >= 0) & (codes < len(self.angles))
        out: Array = np.where(is_code, self.angles[np.where(is_code, codes, 0)], np.nan)
        return out
