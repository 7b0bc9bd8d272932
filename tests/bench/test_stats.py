"""Intervals that cover what they say, and verdicts that follow from them."""

import math
import random

import pytest

from harness.bench.stats import Result, false_verdicts, median, paired, result_of, shift


def test_the_interval_of_a_median_is_that_of_the_binomial_distribution():
    found = median(list(range(1, 11)), 0.95)  # the textbook case: ranks 2 and 9 of 10 hold 97.85 %
    assert (found.value, found.low, found.high) == (5.5, 2, 9)
    assert found.confidence == pytest.approx(0.978515625)


def test_too_few_samples_say_what_confidence_they_have():
    found = median([1.0, 2.0, 4.0], 0.99)
    assert (found.low, found.high, found.confidence) == (1.0, 4.0, 0.75)
    assert median([3.0]).confidence == 0.0


def test_no_sample_is_no_median():
    with pytest.raises(ValueError):
        median([])


@pytest.mark.parametrize("n", [5, 12, 40])
def test_intervals_cover_the_median_of_a_skewed_distribution_as_often_as_they_say(n):
    rng = random.Random(n)
    found = [median([rng.lognormvariate(0, 1) for _ in range(n)], 0.9) for _ in range(2000)]
    covered = sum(f.low <= 1.0 <= f.high for f in found) / len(found)
    assert covered == pytest.approx(found[0].confidence, abs=0.02)


def noisy(rng, n, scale=1.0, spread=0.03):
    return [scale * rng.lognormvariate(0, spread) for _ in range(n)]


@pytest.mark.parametrize(
    ("scale", "tolerance", "expected"),
    [
        (1.0, 0.05, Result.SAME),
        (1.3, 0.05, Result.SLOWER),
        (0.8, 0.05, Result.FASTER),
        (1.02, 0.05, Result.SAME),
        (1.3, 0.5, Result.SAME),
    ],
)
@pytest.mark.parametrize("compare", [paired, shift])
def test_verdicts_of_clear_cases(compare, scale, tolerance, expected):
    rng = random.Random(1)
    old = noisy(rng, 40)
    assert compare(old, noisy(rng, 40, scale), tolerance=tolerance).result is expected


@pytest.mark.parametrize("compare", [paired, shift])
def test_few_or_noisy_rounds_are_inconclusive_and_never_same(compare):
    rng = random.Random(2)
    few = compare(noisy(rng, 4), noisy(rng, 4))
    assert few.result is Result.INCONCLUSIVE
    assert "too few" in few.reason
    assert compare(noisy(rng, 20, spread=0.5), noisy(rng, 20, spread=0.5)).result is Result.INCONCLUSIVE
    assert compare([], []).result is Result.INCONCLUSIVE


def test_pairing_cancels_a_drift_that_both_share():
    rng = random.Random(3)
    drift = [math.exp(math.sin(i / 7)) for i in range(40)]
    old = [d * rng.lognormvariate(0, 0.01) for d in drift]
    new = [d * 1.1 * rng.lognormvariate(0, 0.01) for d in drift]
    assert paired(old, new).result is Result.SLOWER
    assert shift(old, new).result is Result.INCONCLUSIVE


def test_a_machine_that_has_moved_widens_the_interval():
    rng = random.Random(4)
    old, new = noisy(rng, 30, spread=0.01), noisy(rng, 30, 1.1, spread=0.01)
    assert shift(old, new).result is Result.SLOWER
    assert shift(old, new, drift=math.log(1.2)).result is Result.INCONCLUSIVE


def test_the_interval_of_a_shift_is_that_of_mann_and_whitney():
    found = shift(
        [math.exp(-x) for x in (1, 2, 3, 4, 5)], [math.exp(-x) for x in (1.5, 2.5, 3.5, 4.5, 5.5)], confidence=0.95
    )
    # n = m = 5: two of 252 arrangements lie beyond each rank of 2 (Table of U, 5 %: critical value 2)
    assert found.confidence == pytest.approx(1 - 2 * 4 / 252)
    assert found.n == 5


def test_many_samples_and_few_give_like_intervals():
    rng = random.Random(5)
    old, new = noisy(rng, 20), noisy(rng, 20)
    exact = shift(old, new)
    by_normal = shift(old + old[:1], new)
    assert exact.low == pytest.approx(by_normal.low, abs=0.01)
    assert exact.high == pytest.approx(by_normal.high, abs=0.01)


@pytest.mark.parametrize(
    ("centre", "low", "high", "expected"),
    [
        (0.0, -0.01, 0.01, Result.SAME),
        (0.2, 0.1, 0.3, Result.FASTER),
        (-0.2, -0.3, -0.1, Result.SLOWER),
        (0.03, 0.01, 0.2, Result.INCONCLUSIVE),  # not equal, and not proven to be beyond the tolerance
        (0.2, -0.1, 0.4, Result.INCONCLUSIVE),
    ],
)
def test_a_verdict_needs_the_interval_and_the_estimate(centre, low, high, expected):
    assert result_of(centre, low, high, 0.05) is expected


def test_comparisons_of_a_thing_with_itself_rarely_end_in_a_false_verdict():
    rng = random.Random(6)
    series = noisy(rng, 4000, spread=0.1)
    counts = false_verdicts(series, n_pairs=20, n_trials=2000, seed=1)
    assert counts[Result.FASTER] + counts[Result.SLOWER] <= 0.01 * 2000 + 15


def test_a_slowdown_is_found():
    rng = random.Random(7)
    series = noisy(rng, 2000, spread=0.05)
    counts = false_verdicts(series, n_pairs=40, n_trials=200, seed=1, slowdown=0.1, tolerance=0.05)
    assert counts[Result.SLOWER] >= 180
    assert counts[Result.SAME] == 0


def test_a_series_too_short_for_a_trial_is_refused():
    with pytest.raises(ValueError, match="40 runs"):
        false_verdicts([1.0] * 10, n_pairs=20, n_trials=1, seed=0)
