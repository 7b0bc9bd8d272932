"""The loop around the model: llama2.c's rules, against a literal loop."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness import checkpoint
from harness.engine import LIBRARY, STRICT, Engine, clamp_steps, generate
from harness.engine.sampler import Xorshift, sample
from tests.derived_models import published
from tests.engine.strategies import ids_of, models

BOS = 1
# The first ids of llama2.c's greedy text of stories260K, and where it ends by itself.
GREEDY = [403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337]
# The same with -t 1.0 -p 0.9 -s 42.
SAMPLED = [403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337]
SAMPLED += [410, 408, 419, 292, 411, 322, 265, 262, 379, 426, 385, 328, 432, 311, 357, 261, 419, 355, 311, 267]


@pytest.fixture(scope="module")
def stories():
    return checkpoint.read(published("stories260K.bin"))


# ---- Worked by hand, or measured


@pytest.mark.parametrize("steps", [0, -3, 11, 12, 999])
def test_steps_outside_the_context_mean_all_of_it(steps):
    assert clamp_steps(steps, 11) == 11


@pytest.mark.parametrize("ops", [LIBRARY, STRICT], ids=["library", "strict"])
def test_the_ids_are_llama2cs(ops, stories):
    engine = Engine(stories.config, stories.tensors, ops=ops)
    assert list(generate(engine, [1], steps=20)) == GREEDY
    assert list(generate(engine, [1], steps=40, temperature=1.0, topp=0.9, seed=42)) == SAMPLED


def test_the_greedy_story_ends_with_bos(stories):
    ids = list(generate(Engine(stories.config, stories.tensors), [1], steps=0))
    assert len(ids) == 346
    assert ids[-1] == BOS


# ---- Properties


def literal_loop(engine, prompt, steps, temperature, topp, seed):
    """Every position by a pass over everything before it."""
    rng, fed, out = Xorshift.from_argument(seed), [prompt[0]], []
    for pos in range(steps if 0 < steps <= engine.config.seq_len else engine.config.seq_len):
        logits = engine.logits(fed)[-1]
        if pos + 1 < len(prompt):
            token = prompt[pos + 1]
        elif temperature == 0:
            token = int(logits.argmax())
        else:
            token = sample(logits, temperature=temperature, topp=topp, coin=rng.coin())
        out.append(token)
        fed.append(token)
        if token == BOS:
            break
    return out


@settings(deadline=None, max_examples=60)
@given(
    models(),
    st.integers(1, 14),
    st.integers(0, 12),
    st.sampled_from([0.0, 0.7, 1.5]),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.integers(-5, 5),
)
def test_any_way_of_feeding_gives_the_literal_loop(found, n_prompt, steps, temperature, topp, seed):
    # Strict arithmetic: every way has the same bits, so no coin can fall on another side.
    engine = Engine(found.config, found.tensors, ops=STRICT)
    prompt = ids_of(found, n_prompt, seed=9)
    settings = {"steps": steps, "temperature": temperature, "topp": topp, "seed": seed}
    expected = literal_loop(engine, prompt, **settings)
    for cache in ("in-place", "concat", "none"):
        for one_by_one in (False, True):
            assert list(generate(engine, prompt, cache=cache, one_by_one=one_by_one, **settings)) == expected
    lockstep = Engine(found.config, found.tensors, ops=replace(STRICT, in_decode_order=True))
    assert list(generate(lockstep, prompt, **settings)) == expected


@settings(deadline=None)
@given(models(), st.integers(1, 9), st.integers(1, 9))
def test_a_long_prompt_is_cut_off(found, n_prompt, steps):
    assume(steps <= found.config.seq_len)
    prompt = [0] * n_prompt
    ids = list(generate(Engine(found.config, found.tensors), prompt, steps=steps, stop=frozenset()))
    assert len(ids) == steps
    assert ids[: n_prompt - 1] == prompt[1 : steps + 1]


@settings(deadline=None)
@given(models(), st.integers(0, 36))
def test_a_stop_id_is_yielded_and_ends_the_text_forced_or_not(found, stop):
    engine = Engine(found.config, found.tensors)
    prompt = ids_of(found, 4)
    everything = list(generate(engine, prompt, steps=0, stop=frozenset()))
    end = everything.index(stop) + 1 if stop in everything else len(everything)
    for one_by_one in (False, True):
        ids = list(generate(engine, prompt, steps=0, stop=frozenset({stop}), one_by_one=one_by_one))
        assert ids == everything[:end]


def test_a_temperature_that_is_0_in_float32_is_greedy(stories):
    engine = Engine(stories.config, stories.tensors)
    assert list(generate(engine, [1], steps=9, temperature=1e-50)) == GREEDY[:9]


def test_a_nucleus_that_is_1_in_float32_is_the_whole_distribution(stories):
    engine = Engine(stories.config, stories.tensors)
    a, b = (list(generate(engine, [1], steps=60, temperature=1.0, topp=p, seed=3)) for p in (1.0, 1 - 1e-12))
    assert a == b


def test_nothing_is_computed_before_the_first_forced_token_is_asked_for(monkeypatch, stories):
    engine = Engine(stories.config, stories.tensors)
    ids = generate(engine, [1, 403, 407], steps=5)
    monkeypatch.setattr(engine, "layer", lambda index: pytest.fail("a layer was read"))
    assert [next(ids), next(ids)] == [403, 407]


def test_ids_are_plain_integers(stories):
    engine = Engine(stories.config, stories.tensors)
    for temperature in (0.0, 1.0):
        ids = list(generate(engine, [1], steps=3, temperature=temperature, seed=1))
        assert all(type(i) is int for i in ids)
        assert not any(isinstance(i, np.generic) for i in ids)
