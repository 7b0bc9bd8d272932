"""Calibration: what verdicts are worth on machines that are quiet, noisy, or drift."""

import math
import random

from harness.bench.calibrate import calibrate


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
