"""Fingerprints of logits: their arithmetic by hand, what they let pass, and what they catch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judging.fingerprint import REFERENCE_SHARE, fingerprint, same_reference, signs, worst

ROW = np.array([3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, -6.0])  # mean 0.875


def splitmix64(i):
    """As the published generator's first output from state i, in plain integers."""
    mask = (1 << 64) - 1
    z = (i + 0x9E3779B97F4A7C15) & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


# ---- examples


def test_the_signs_are_the_bits_of_splitmix64():
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the generator's published first output from seed 0
    expected = [[-1.0 if splitmix64(i) >> j & 1 else 1.0 for i in range(600)] for j in range(4)]
    assert signs(600).tolist() == expected
    assert signs(1)[:, 0].tolist() == [-1.0, -1.0, -1.0, -1.0]  # 0xaf ends in 1111


def test_a_row_by_hand():
    found = fingerprint(7, ROW, 1e-6)
    assert (found.position, found.floor, found.mean) == (7, 1e-6, 0.875)
    assert found.top == ((5, 8.125), (2, 3.125), (0, 2.125), (6, 1.125), (3, 0.125))
    by_hand = sum((-1 if splitmix64(i) & 1 else 1) * (x - 0.875) for i, x in enumerate(ROW.tolist())) / math.sqrt(8)
    assert found.projections[0] == pytest.approx(by_hand, abs=1e-14)


def test_the_largest_difference_is_told_with_its_place():
    moved = ROW.copy()
    moved[5] += 0.8  # the mean moves by 0.1, so the centred logit by 0.7
    distance, where = worst(fingerprint(0, ROW, 1e-6), moved)
    assert distance == pytest.approx(0.7)
    assert where == "id 5: expected 8.125, actual 8.825"


def test_a_row_that_is_not_finite_is_infinitely_far():
    bad = ROW.copy()
    bad[3] = np.nan
    assert worst(fingerprint(0, ROW, 1e-6), bad) == (math.inf, "the logit of id 3 is not finite")


def test_the_reference_is_held_to_a_thousandth_of_a_floor_and_to_the_mean():
    expected = fingerprint(0, ROW, 1e-6)
    limit = REFERENCE_SHARE * 1e-6
    assert same_reference(expected, ROW) == ""
    assert same_reference(expected, ROW + limit / 2) == ""
    assert same_reference(expected, ROW + 2 * limit).startswith("mean: off by")
    moved = ROW.copy()
    moved[7] += 40 * limit  # not among the five
    assert same_reference(expected, moved).startswith("projection")
    assert same_reference(expected, ROW * math.nan) != ""


# ---- properties

rows = st.integers(8, 700).flatmap(
    lambda n: st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(0, 3, n))
)


@given(rows, st.floats(-100, 100))
def test_a_row_is_itself_and_a_constant_changes_nothing(row, constant):
    expected = fingerprint(3, row, 1e-6)
    assert worst(expected, row)[0] == 0.0
    assert worst(expected, row + constant)[0] <= 1e-11


@given(rows, st.integers(0, 2**32 - 1))
def test_an_error_outside_the_largest_shows_in_a_projection(row, seed):
    """Of four projections of an error with root mean square 1 all lie below 0.01 once in 200 million draws."""
    error = np.random.default_rng(seed).normal(0, 1, len(row))
    error /= math.sqrt(float(((error - error.mean()) ** 2).mean()))
    expected = fingerprint(0, row, 1e-6)
    assert worst(expected, row + error)[0] > 0.01
