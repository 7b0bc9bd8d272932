"""Logits: honest noise is within, each simple way of being wrong is named, quality is what its definition says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.judging.logits import LOG_PROBABILITIES, SHIFTED, fit, how_wrong, quality

N, VOCAB = 12, 80
FLOOR = 1e-5
FLOORS = np.full(N, FLOOR)
RNG = np.random.default_rng(7)
EXACT = RNG.normal(0, 4, (N, VOCAB))


def noisy(rows=EXACT, by=FLOOR):
    return (rows + RNG.uniform(-by, by, rows.shape)).astype(np.float32)


def log_softmax(rows):
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


# ---- near enough


def test_honest_noise_is_within():
    assert fit(EXACT, noisy(), FLOORS).is_within(FLOORS)


def test_one_honest_outlier_is_within_and_a_large_one_is_not():
    rows = noisy().astype(np.float64)
    rows[3, 5] += 12 * FLOOR
    assert fit(EXACT, rows, FLOORS).is_within(FLOORS)
    rows[3, 5] += 30 * FLOOR
    found = fit(EXACT, rows, FLOORS)
    assert not found.is_within(FLOORS)
    assert found.worst == (3, 5)


def test_noise_of_four_floors_everywhere_is_not_within():
    assert not fit(EXACT, noisy(by=4 * FLOOR), FLOORS).is_within(FLOORS)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_within(wrong):
    rows = noisy()
    rows[2, 7] = wrong
    assert not fit(EXACT, rows, FLOORS).is_within(FLOORS)
    assert how_wrong(EXACT, rows, FLOORS) == f"not finite, first at row 2, id 7 ({wrong})"


def test_a_constant_in_each_row_is_a_convention():
    found = fit(EXACT, noisy(EXACT + RNG.normal(0, 5, (N, 1))), FLOORS)
    assert (found.convention, found.is_within(FLOORS * 2)) == (SHIFTED, True)


def test_log_probabilities_are_a_convention():
    assert fit(EXACT, noisy(log_softmax(EXACT)), FLOORS).convention == LOG_PROBABILITIES


def test_exact_rows_need_no_noise():
    assert fit(EXACT, EXACT, np.zeros(N)).is_within(np.zeros(N))


# ---- in which way


def changed(column, to):
    rows = EXACT.copy()
    rows[:, column] = to
    return rows


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (EXACT * 0.5, "scaled by 0.5"),
        (EXACT * -1, "scaled by -1"),
        (EXACT * 1.01, "scaled by 1.01"),
        (EXACT / 0.8 + 3, "scaled by 1.25"),
        (np.exp(log_softmax(EXACT)), "probabilities, expected logits"),
        (np.zeros_like(EXACT), "all logits of a row are equal"),
        (np.roll(EXACT, 1, axis=0), "each row is that of the position before"),
        (np.roll(EXACT, -1, axis=0), "each row is that of the next position"),
        (np.broadcast_to(EXACT[-1], EXACT.shape), "every row is that of the last position"),
        (EXACT[::-1], "the rows are in reverse order"),
        (np.roll(EXACT, 3, axis=1), "displaced: the logit of id i stands at id i + 3"),
        (np.roll(EXACT, -1, axis=1), "displaced: the logit of id i stands at id i - 1"),
        (EXACT.T.reshape(N, VOCAB), "transposed"),
        (EXACT[:, np.random.default_rng(3).permutation(VOCAB)], "permuted: "),
        (np.where(np.arange(VOCAB) < 64, EXACT, 0), "cut off: ids from 64 on"),
        (changed(17, 9.0), "wrong at 1 of 80 ids only: 17"),
        (np.vstack([EXACT[:8], RNG.normal(0, 4, (4, VOCAB))]), "right in 8 rows, wrong from row 8 on"),
        (EXACT + RNG.normal(0, 0.04, EXACT.shape), "off by 0.011 of their spread"),
        (RNG.normal(0, 4, EXACT.shape), "wrong from the first row on"),
    ],
)
def test_each_simple_way_is_named(rows, says):
    assert not fit(EXACT, rows, FLOORS).is_within(FLOORS)
    assert how_wrong(EXACT, rows.astype(np.float32), FLOORS).startswith(says)


def test_one_row_alone_can_be_wrong():
    assert how_wrong(EXACT[:1], noisy(EXACT[:1] * 2), FLOORS[:1]) == "scaled by 2"


# ---- what it means for the text


def test_two_tokens_by_hand():
    # (3/4, 1/4) against (1/2, 1/2): KL = 3/4 log(3/2) + 1/4 log(1/2).
    found = quality(np.log([[3.0, 1.0]]), np.log([[1.0, 1.0]]), [0])
    assert found.kl.mean == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert (found.kl.mean, found.kl_99) == (found.kl_max, found.kl_max)
    assert found.perplexity == pytest.approx(2)
    assert found.reference_perplexity == pytest.approx(4 / 3)
    assert found.top_1.mean == 1.0
    # Centred rows are (+-log(3)/2) and (0, 0).
    assert found.rms_error == pytest.approx(math.log(3) / 2)
    assert found.largest_error == pytest.approx(math.log(3) / 2)


def test_equal_logits_have_no_divergence_and_agree():
    found = quality(EXACT, EXACT + 3, list(range(N)))
    assert found.kl_max == pytest.approx(0, abs=1e-12)
    assert (found.top_1.mean, found.top_5.mean) == (1.0, 1.0)
    assert found.perplexity == pytest.approx(found.reference_perplexity)


def test_agreement_counts_ids():
    rows = EXACT.copy()
    rows[0, EXACT[0].argmin()] = 99.0
    found = quality(EXACT, rows)
    assert found.top_1.mean == pytest.approx(1 - 1 / N)
    assert found.top_5.mean == pytest.approx(1 - 1 / 5 / N)
    assert math.isnan(found.perplexity)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 10))
def test_divergence_is_not_negative_and_its_interval_holds_its_mean(seed, by):
    random = np.random.default_rng(seed)
    exact = random.normal(0, 3, (6, 20))
    found = quality(exact, exact + random.normal(0, by, exact.shape), [1, 2, 3])
    assert 0 <= found.kl.low <= found.kl.mean <= found.kl.high <= found.kl_max
    assert found.reference_perplexity >= 1
    assert found.perplexity >= 1
