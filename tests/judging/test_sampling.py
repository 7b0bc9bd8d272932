import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from harness.engine.sampler import nucleus_candidates, probabilities, sample
from harness.judging.sampling import Draw, could_be_drawn, could_be_in_nucleus

# Four tokens of probability 0.5, 0.3, 0.15, 0.05.
LOGITS = np.log([0.5, 0.3, 0.15, 0.05])


def drawn(coin, *, topp=1.0, floor=1e-5, logits=LOGITS, temperature=1.0):
    return [
        token
        for token in range(len(logits))
        if could_be_drawn(logits, token, floor=floor, temperature=temperature, topp=topp, coin=coin)
    ]


# ---- Examples worked by hand


@pytest.mark.parametrize(("coin", "token"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.79, 1), (0.81, 2), (0.96, 3)])
def test_a_coin_between_two_borders_draws_one_token(coin, token):
    assert drawn(coin) == [token]


def test_a_coin_on_a_border_may_draw_either_neighbour():
    assert drawn(0.5) == [0, 1]
    assert drawn(0.8) == [1, 2]


def test_a_border_moves_with_the_floor():
    # odds of {0} of 1 move by exp(2 * 0.1): its probability lies between 0.450 and 0.550
    assert drawn(0.54, floor=0.1) == [0, 1]
    assert drawn(0.56, floor=0.1) == [1]


def test_a_coin_beyond_the_rounded_sum_draws_the_last_id():
    assert drawn(1 - 2**-24) == [3]


def test_the_nucleus_scales_the_coin_by_what_it_keeps():
    # topp 0.6 keeps 0.5 and the crossing 0.3: the border lies at 0.5 / 0.8 = 0.625
    assert drawn(0.62, topp=0.6) == [0]
    assert drawn(0.63, topp=0.6) == [1]
    assert drawn(0.999, topp=0.6) == [1]


def test_the_crossing_token_may_differ_where_the_sum_nearly_is_topp():
    # 0.5 + 0.3 reaches 0.8 or not: 2 crosses or is left out, and the border of 0 is 0.625 or 0.5 / 0.95
    assert drawn(0.60, topp=0.8) == [0, 1]
    assert drawn(0.95, topp=0.8) == [1, 2]


def test_equal_probabilities_may_change_places_in_a_nucleus_but_not_in_the_whole_distribution():
    logits = np.log([0.25, 0.25, 0.25, 0.25])
    assert drawn(0.1, topp=0.7, logits=logits) == [0, 1, 2, 3]
    assert drawn(0.1, logits=logits) == [0]


def test_at_an_infinite_temperature_nothing_moves_and_ids_keep_their_order():
    assert drawn(0.1, topp=0.7, temperature=math.inf, floor=1.0) == [0]
    assert drawn(0.9, temperature=math.inf, floor=1.0) == [3]


def test_membership_of_a_nucleus():
    def members(topp):
        return [t for t in range(4) if could_be_in_nucleus(LOGITS, t, floor=1e-5, temperature=1.0, topp=topp)]

    assert members(0.6) == [0, 1]
    assert members(0.8) == [0, 1, 2]  # on the border
    assert members(0.0) == members(1.0) == [0, 1, 2, 3]


def test_surprise_is_that_of_the_tokens_that_are_kept():
    draw = Draw(LOGITS, temperature=1.0, topp=0.6)  # 0.625 and 0.375
    mean = -0.625 * math.log(0.625) - 0.375 * math.log(0.375)
    found = draw.surprise(1)
    assert found.actual == pytest.approx(-math.log(0.375))
    assert found.mean == pytest.approx(mean)
    expected = 0.625 * (-math.log(0.625) - mean) ** 2 + 0.375 * (-math.log(0.375) - mean) ** 2
    assert found.variance == pytest.approx(expected)


# ---- Properties

SETTINGS = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.1, 0.5, 1.0, 2.0]), "topp": st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0])}
)
COINS = st.integers(0, 2**24 - 1).map(lambda n: np.float32(n / 2**24))
FLOORS = st.sampled_from([0.0, 1e-5, 1e-3, 0.05, 0.3])
# Few values: exact ties are frequent.
ROWS = st.lists(st.sampled_from([-3.0, -1.0, -0.5, 0.0, 0.0001, 0.5, 1.0, 3.0]), min_size=2, max_size=24)


@settings(max_examples=400)
@given(ROWS, st.data(), FLOORS, SETTINGS, COINS)
@example([0.0] * 6, None, 0.3, {"temperature": 1.0, "topp": 0.9}, np.float32(0.5))
def test_what_moved_logits_draw_could_be_drawn(row, data, floor, sampler, coin):
    logits = np.array(row)
    moves = [0.0] * len(row)
    if data is not None:
        step = st.sampled_from([-1.0, 1.0, 0.0]) | st.floats(-1, 1)
        moves = data.draw(st.lists(step, min_size=len(row), max_size=len(row)))
    token = sample(logits + floor * np.array(moves), coin=coin, **sampler)
    # one float32 rounding of the logits besides
    assert could_be_drawn(logits, token, floor=floor + 1e-6, coin=float(coin), **sampler)


@settings(max_examples=200)
@given(ROWS, SETTINGS, COINS)
def test_without_noise_hardly_anything_else_could_be_drawn(row, sampler, coin):
    """Only at a border, and a border is as wide as the sums of float32 are rough."""
    logits = np.array(row)
    assume(len(set(row)) == len(row))  # equal ones change places
    possible = [
        token for token in range(len(row)) if could_be_drawn(logits, token, floor=1e-7, coin=float(coin), **sampler)
    ]
    assert sample(logits, coin=coin, **sampler) in possible
    if len(possible) > 1:
        near = np.clip(float(coin) + np.linspace(-1e-4, 1e-4, 81), 0.0, 1 - 2**-24)
        ends = {sample(logits, coin=np.float32(c), **sampler) for c in near}
        own = probabilities(logits, sampler["temperature"])
        tiny = {token for token in possible if own[token] < 1e-5}  # narrower than the rounding of the sums
        p = np.sort(own)[::-1]
        at_crossing = bool((np.abs(np.cumsum(p) - sampler["topp"]) < 1e-4).any())
        assert set(possible) - tiny <= ends or at_crossing


@settings(max_examples=200)
@given(ROWS, FLOORS, SETTINGS, COINS)
def test_what_could_be_drawn_lies_in_the_nucleus(row, floor, sampler, coin):
    assume(0 < sampler["topp"] < 1)
    logits = np.array(row)
    for token in range(len(row)):
        if could_be_drawn(logits, token, floor=floor, coin=float(coin), **sampler):
            assert could_be_in_nucleus(logits, token, floor=floor, **sampler)


@settings(max_examples=100)
@given(ROWS, SETTINGS)
def test_the_samplers_own_nucleus_lies_in_the_nucleus_and_what_is_far_away_does_not(row, sampler):
    assume(0 < sampler["topp"] < 1)
    logits = np.array(row)
    kept, _ = nucleus_candidates(probabilities(logits, sampler["temperature"]), sampler["topp"])
    for token in kept:
        assert could_be_in_nucleus(logits, int(token), floor=1e-6, **sampler)
    far = np.append(logits, logits.min() - 100.0)
    if len(kept) < len(row):
        assert not could_be_in_nucleus(far, len(row), floor=1e-3, **sampler)


def test_fair_draws_are_as_surprising_as_expected():
    random = np.random.default_rng(5)
    draws = []
    for _ in range(3000):
        logits = random.normal(size=30) * 2
        token = sample(logits, temperature=0.8, topp=0.9, coin=np.float32(random.random()))
        draws.append(Draw(logits, temperature=0.8, topp=0.9).surprise(token))
    excess = sum(d.actual - d.mean for d in draws) / math.sqrt(sum(d.variance for d in draws))
    assert abs(excess) < 3
    greedy = [Draw(logits, temperature=0.8, topp=0.9).surprise(int(logits.argmax())) for _ in range(300)]
    assert sum(d.actual - d.mean for d in greedy) / math.sqrt(sum(d.variance for d in greedy)) < -8
