"""Calibration: what verdicts are worth on machines that are quiet, noisy, or drift."""

import dataclasses
import math
import random

import pytest

from harness.bench.calibrate import Calibration, calibrate, markdown, spread
from harness.rates import rate


def series(n, spread, drift=0.0):
    rng = random.Random(11)
    return [rng.lognormvariate(0, spread) * math.exp(drift * math.sin(i / 50)) for i in range(n)]


def test_a_quiet_machine_gives_few_false_verdicts_and_finds_a_tenth():
    for found in calibrate(series(2000, 0.03), pairs=(20, 40)):
        assert found.false.count / found.false.n <= 0.03
        assert found.found[0.10].count / found.found[0.10].n >= 0.9
        assert found.missed[0.10].count == found.missed[0.20].count == 0
        assert set(found.missed) == {0.10, 0.20}


def test_a_drift_that_is_slow_changes_nothing():
    (found,) = calibrate(series(2000, 0.03, drift=0.5), pairs=(40,))
    assert found.false.count / found.false.n <= 0.03
    assert found.found[0.10].count / found.found[0.10].n >= 0.9


def test_a_noisy_machine_finds_less_but_calls_nothing_the_same():
    (found,) = calibrate(series(2000, 0.4), pairs=(40,))
    assert found.false.count / found.false.n <= 0.03
    assert found.found[0.10].count / found.found[0.10].n < 0.5
    assert found.missed[0.10].count == 0


def test_series_too_short_for_a_trial_give_none():
    assert [found.n_pairs for found in calibrate(series(45, 0.1), n_trials=10)] == [10, 20]
    assert calibrate([1.0] * 5) == []


def test_a_calibration_is_good_if_verdicts_are_rarely_false_and_nothing_slower_is_called_the_same():
    good = calibrate(series(2000, 0.03), pairs=(20,))[0]
    assert good.is_good
    assert good.n_apart == 50
    assert not dataclasses.replace(good, false=rate(13, 400)).is_good
    assert not dataclasses.replace(good, missed={0.1: rate(1, 400)}).is_good


def test_the_spread_is_that_of_neighbours():
    assert spread([1.0, 1.1, 2.0, 2.2, 5.0, 5.5]) == pytest.approx(0.1)
    assert math.isnan(spread([1.0]))


def test_a_table_holds_every_rate_with_its_interval():
    one = Calibration(10, 100, rate(4, 400), {0.02: rate(0, 400), 0.1: rate(400, 400)}, {0.1: rate(0, 400)})
    assert markdown([one]).splitlines() == [
        "| pairs | false verdicts | 2% slower: found | 10% slower: found | called SAME |",
        "| ---: | ---: | ---: | ---: | ---: |",
        "| 10 | 1.0% (0.3% to 2.5%) | 0.0% (0.0% to 0.9%) | 100.0% (99.1% to 100.0%) | 10%: 0.0% (0.0% to 0.9%) |",
    ]
