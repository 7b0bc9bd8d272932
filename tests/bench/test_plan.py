"""Plans: run lengths for models that fit into memory, for slow ones and for those that only a disk holds."""

import dataclasses

import pytest

from harness.bench.plan import Cost, guessed_token_s, lengths, round_s, shortened
from harness.bench.workload import SHAPES
from tests.bench.fakes import CONFIG


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("contexts", [(), (64, 256, 1024, 4096)])
def test_runs_fit_into_the_context_and_differ(name, in_memory, contexts):
    config = SHAPES[name]
    n = lengths(config, guessed_token_s(4 * config.n_params, in_memory=in_memory), contexts)
    assert n.n_prompt - 1 + n.n_long <= config.seq_len
    assert n.n_long_prompt - 1 + n.n_short <= config.seq_len
    assert 1 <= n.n_short < n.n_long
    assert n.n_prompt < n.n_long_prompt
    assert all(n.n_prompt + n.n_short - 1 < end <= config.seq_len for end in n.contexts)


def test_a_model_on_a_disk_is_asked_for_few_tokens():
    n = lengths(SHAPES["7B"], guessed_token_s(27_000_000_000, in_memory=False))
    assert (n.n_prompt, n.n_long_prompt, n.n_short, n.n_long) == (4, 9, 1, 5)


def test_small_models_are_measured_as_far_as_a_guess_lets_them():
    assert lengths(SHAPES["15M"], guessed_token_s(60_000_000, in_memory=True)) == lengths(SHAPES["15M"])


def test_contexts_beyond_the_model_or_within_the_short_run_are_left_out():
    assert lengths(CONFIG, contexts=(1024, 512, 64, 64, 3)).contexts == (64, 512)


def test_a_round_costs_its_runs_and_their_tokens():
    n = dataclasses.replace(lengths(CONFIG), n_prompt=8, n_long_prompt=20, n_short=8, n_long=100, contexts=(64,))
    # short, long, long prompt and one context: 4 short runs, and 92 + 12 + (64 - 15) tokens beyond them
    assert round_s([Cost(2.0, 0.1)], n) == pytest.approx(4 * 2.0 + 0.1 * (92 + 12 + 49))


def test_plenty_of_time_shortens_nothing():
    n = lengths(CONFIG)
    assert shortened(n, [Cost(0.1, 0.001)], 9, 100.0) == n


def test_runs_keep_tokens_enough_to_outweigh_the_start():
    n = lengths(SHAPES["110M"])
    quick = shortened(n, [Cost(0.1, 0.001)], 9, 0.1)
    assert quick.n_long - quick.n_short >= 64
    slow = shortened(n, [Cost(4.0, 0.25)], 9, 100.0)
    assert 16 <= slow.n_long - slow.n_short < 64
    assert 0.25 * (slow.n_long - slow.n_short) >= 4.0
    mixed = shortened(n, [Cost(4.0, 0.25), Cost(0.1, 0.001)], 9, 1.0)
    assert mixed.n_long - mixed.n_short >= 64  # for the quick one


def test_where_no_round_fits_the_long_prompt_is_left_out():
    n = lengths(SHAPES["7B"], 27.0)
    hurried = shortened(n, [Cost(100.0, 27.0)], 9, 60.0)
    assert hurried.n_long_prompt == hurried.n_prompt
    assert hurried.n_long > hurried.n_short
