"""Rates and their limits, against the tables of statistics."""

import pytest

from harness.rates import rate, upper_limit


@pytest.mark.parametrize(
    ("count", "n", "low", "high"), [(0, 9, 0.0, 0.3363), (3, 200, 0.0031, 0.0432), (9, 9, 0.6637, 1.0)]
)
def test_rates_have_the_interval_of_clopper_and_pearson(count, n, low, high):
    found = rate(count, n)  # values of the tables
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@pytest.mark.parametrize(
    ("count", "n", "high"), [(0, 9, 0.2831), (0, 100_000, 2.996e-5), (1, 20, 0.2161), (5, 5, 1.0), (0, 0, 1.0)]
)
def test_upper_limits_are_one_sided(count, n, high):
    assert upper_limit(count, n) == pytest.approx(high, rel=1e-3)  # values of the tables; 0 of n is the rule of three
