"""Samplers and random generator: the vectors measured on llama2.c, and properties against literal loops."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.engine import LIBRARY
from harness.engine.libm import expf
from harness.engine.ops import argmax
from harness.engine.sampler import Xorshift, multinomial, nucleus, nucleus_candidates, probabilities, sample

# Seed, the first six outputs, the same as coins, the state after them.
VECTORS = [
    (
        1,
        [1206177355, 2882512552, 3117485455, 1303648416, 241277360, 3362212811],
        [0.280835032, 0.671137214, 0.725846112, 0.303529263, 0.056176722, 0.782826126],
        0xB00614A0466023ED,
    ),
    (
        42,
        [1456360119, 3359763283, 3393612768, 4054632243, 3283045847, 3589475362],
        [0.339085221, 0.782255828, 0.790136993, 0.944042623, 0.764393628, 0.835739851],
        0xC0D2F1A263E84EBF,
    ),
    (
        1337,
        [989205090, 818269915, 1335155955, 3876892996, 2941700015, 1322121497],
        [0.230317235, 0.19051826, 0.310865164, 0.902659476, 0.684917867, 0.307830393],
        0x0A5FCB1BB7C58085,
    ),
    (
        133742,
        [3033531262, 2674377904, 2312864567, 2287415643, 1408443089, 3731947629],
        [0.706299007, 0.622677088, 0.538505733, 0.532580435, 0.327928662, 0.868911743],
        0x35EBC7FC57BAC7B0,
    ),
    (
        -1,
        [4180462053, 2415166680, 879531507, 3310800028, 1814914367, 3718712142],
        [0.973339617, 0.562324762, 0.20478183, 0.770855665, 0.422567666, 0.865830123],
        0x970ADCA1D26AD7FA,
    ),
    (
        3000000000,
        [422469618, 536678033, 4046284835, 3620325560, 1823852743, 4063114114],
        [0.0983638167, 0.124955058, 0.942099094, 0.842922688, 0.424648762, 0.946017444],
        0xF5FF89BF8BE7976B,
    ),
]


def f32(*values):
    return np.array(values, np.float32)


# ---- Worked by hand, or measured


@pytest.mark.parametrize(("seed", "outputs", "coins", "state"), VECTORS)
def test_the_generator_gives_the_measured_numbers(seed, outputs, coins, state):
    rng = Xorshift.from_argument(seed)
    assert [rng.next_u32() for _ in range(6)] == outputs
    assert rng.state == state
    rng = Xorshift.from_argument(seed)
    drawn = [rng.coin() for _ in range(6)]
    assert drawn == [np.float32(coin) for coin in coins]
    assert all(coin.dtype == np.float32 for coin in drawn)


@pytest.mark.parametrize(
    ("argument", "state"),
    [(3000000000, 18446744072414584320), (-1, 2**64 - 1), (4294967297, 1), (2**31 - 1, 2**31 - 1)],
)
def test_a_seed_is_sign_extended_from_32_bits(argument, state):
    assert Xorshift.from_argument(argument).state == state


@pytest.mark.parametrize(
    ("logits", "best"),
    [
        ((1, 3, 3, 2), 1),
        ((math.nan, 1, 2), 0),
        ((1, math.nan, 2), 2),
        ((math.nan, math.nan), 0),
        ((-math.inf, -1), 1),
    ],
)
def test_argmax_takes_the_first_maximum_and_never_nan(logits, best):
    assert argmax(None, f32(*logits)) == LIBRARY.argmax(None, f32(*logits)) == best


@pytest.mark.parametrize(
    ("coin", "index"), [(0, 0), (0.249999985, 0), (0.25, 1), (0.5, 2), (0.75, 3), (0.99999994, 3)]
)
def test_multinomial_takes_the_first_sum_above_the_coin(coin, index):
    assert multinomial(f32(0.25, 0.25, 0.25, 0.25), np.float32(coin)) == index


def test_multinomial_falls_through_to_the_last_index():
    assert multinomial(f32(0.3, 0.3, 0.3), np.float32(0.95)) == 2


COINS = (0, 0.3, 0.49, 0.5, 0.66, 0.67, 0.85, 0.9, 0.99999994)
NUCLEUS = {
    0.1: (1, 1, 1, 1, 1, 1, 1, 1, 1),
    0.5: (1, 1, 1, 1, 1, 2, 2, 2, 2),  # tells > from >=: with >= all would be 1
    0.50000012: (1, 1, 1, 1, 1, 2, 2, 2, 2),
    0.75: (1, 1, 1, 1, 2, 2, 2, 0, 0),
    0.9: (1, 1, 1, 2, 2, 2, 0, 3, 3),
    0.99: (1, 1, 1, 2, 2, 2, 0, 3, 3),
}


@pytest.mark.parametrize("topp", NUCLEUS)
def test_the_nucleus_is_drawn_from_as_measured(topp):
    p = f32(0.125, 0.5, 0.25, 0.125)
    assert tuple(nucleus(p, topp, np.float32(coin)) for coin in COINS) == NUCLEUS[topp]


def test_equal_probabilities_keep_their_order():
    coins = f32(0, 0.3, 0.34, 0.5, 0.67, 0.99)
    assert [nucleus(f32(0.25, 0.25, 0.25, 0.25), 0.6, coin) for coin in coins] == [0, 0, 1, 1, 2, 2]


def test_tokens_below_the_cutoff_are_not_sorted_at_all():
    p = f32(0.4, 0.4, 0.1, 0.05, 0.05)  # cutoff 0.075000003
    coins = f32(0, 0.3, 0.34, 0.5, 0.67, 0.99)
    assert [nucleus(p, 0.7, coin) for coin in coins] == [0, 0, 0, 1, 1, 1]
    assert nucleus_candidates(f32(0.25, 0.005, 0.005), 0.9)[0].tolist() == [0]  # cutoff 0.05


def test_an_empty_nucleus_gives_the_likeliest_token():
    flat = f32(0.25, 0.25, 0.25, 0.25)
    assert len(nucleus_candidates(flat, 0.1)[0]) == 0
    assert nucleus(flat, 0.1, np.float32(0.9)) == 0
    assert nucleus(f32(math.nan, 0.5, 0.4), math.nan, np.float32(0.5)) == 1


@pytest.mark.parametrize("topp", [0, 1, -1, 2, math.inf])
def test_a_nucleus_of_nothing_or_everything_is_off(topp):
    logits = f32(0, 1, 2, 3)
    for coin in f32(0.01, 0.2, 0.5, 0.99):
        wanted = multinomial(probabilities(logits, 1.0), coin)
        assert sample(logits, temperature=1.0, topp=topp, coin=coin) == wanted


def test_probabilities_have_the_bits_of_the_c_program():
    p = probabilities(f32(1, 2, 3, 4), 1.0)
    assert [f"{bits:08x}" for bits in p.view(np.uint32)] == ["3d034fe2", "3db278b9", "3e72916a", "3f24d791"]


@pytest.mark.parametrize(
    ("temperature", "coin", "token"),
    [(math.nan, 0.1, 3), (math.inf, 0.1, 0), (math.inf, 0.3, 1), (1e-30, 0.9, 2), (1e-45, 0.9, 3)],
)
def test_odd_temperatures_do_what_they_do_in_c(temperature, coin, token):
    # NaN: no sum ever exceeds the coin; infinite: flat; tiny: the likeliest; so tiny that logits overflow: NaN again.
    logits = f32(0, 1, 3, 2)
    assert sample(logits, temperature=temperature, topp=1.0, coin=np.float32(coin)) == token


# ---- Properties: literal loops


def literal_multinomial(p, coin):
    total = np.float32(0)
    for i, value in enumerate(p):
        total = np.float32(total + value)
        if coin < total:
            return i
    return len(p) - 1


def literal_nucleus(p, topp, coin):
    topp = np.float32(topp)
    cutoff = np.float32(np.float32(1) - topp) / np.float32(len(p) - 1)
    kept = sorted((i for i in range(len(p)) if p[i] >= cutoff), key=lambda i: -p[i])
    total, last = np.float32(0), len(kept) - 1
    for i, token in enumerate(kept):
        total = np.float32(total + p[token])
        if total > topp:
            last = i
            break
    wanted, sum_so_far = np.float32(coin * total), np.float32(0)
    for token in kept[: last + 1]:
        sum_so_far = np.float32(sum_so_far + p[token])
        if wanted < sum_so_far:
            return token
    return kept[last]


def literal_probabilities(logits, temperature):
    x = [np.float32(value / np.float32(temperature)) for value in logits]
    top, total, out = max(x), np.float32(0), []
    for value in x:
        out.append(expf(np.array([value - top], np.float32))[0])
        total = np.float32(total + out[-1])
    return [value / total for value in out]


logit_rows = hnp.arrays(np.float32, st.integers(2, 40), elements=st.floats(-20, 20, width=32))
coins = st.integers(0, 2**24 - 1).map(lambda n: np.float32(n / 2**24))


@given(logit_rows, st.floats(0.125, 4, width=32))
def test_probabilities_are_those_of_a_literal_loop(logits, temperature):
    assert probabilities(logits, temperature).tolist() == literal_probabilities(logits, temperature)


@given(logit_rows, coins)
@example(f32(0, 0), np.float32(0.99999994))
def test_multinomial_is_a_literal_loop(logits, coin):
    p = probabilities(logits, 1.0)
    assert multinomial(p, coin) == literal_multinomial(p, coin)


@given(logit_rows, st.floats(0.25, 0.9921875, width=32), coins)
def test_nucleus_is_a_literal_loop(logits, topp, coin):
    p = probabilities(logits, 1.0)
    if len(nucleus_candidates(p, topp)[0]):
        assert nucleus(p, topp, coin) == literal_nucleus(p, topp, coin)


@given(logit_rows, st.floats(0.0625, 0.9375, width=32))
def test_the_nucleus_is_the_smallest_set_that_exceeds_topp(logits, topp):
    p = probabilities(logits, 1.0)
    order, sums = nucleus_candidates(p, topp)
    assert (np.diff(p[order]) <= 0).all()
    assert (sums[:-1] <= np.float32(topp)).all()


@given(st.integers(0, 2**64 - 1))
def test_coins_are_24_bits_of_the_output(seed):
    a, b = Xorshift(seed), Xorshift(seed)
    assert float(a.coin()) == (b.next_u32() >> 8) / 2**24
    assert a.state == b.state < 2**64
