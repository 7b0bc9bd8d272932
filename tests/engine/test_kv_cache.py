"""Every cache holds the same rows; only how differs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engine.kv_cache import Concatenating, InPlace, make_cache
from harness.model_config import ModelConfig

CONFIG = ModelConfig(dim=12, hidden_dim=5, n_layers=2, n_heads=6, n_kv_heads=3, vocab_size=7, seq_len=9)
KINDS = ("in-place", "concat", "none")


def rows(n, seed):
    return np.random.default_rng(seed).standard_normal((n, CONFIG.n_kv_heads, CONFIG.head_dim)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "made"), [("in-place", InPlace), ("concat", Concatenating), ("none", Concatenating)]
)
def test_a_kind_names_a_cache(kind, made):
    assert isinstance(make_cache(kind, CONFIG, 9, np.float32), made)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_back_oldest_first(kind):
    cache = make_cache(kind, CONFIG, 9, np.float32)
    cache.append(0, rows(2, 1), rows(2, 2))
    keys, values = cache.append(0, rows(1, 3), rows(1, 4))
    assert np.array_equal(keys, np.concatenate([rows(2, 1), rows(1, 3)]))
    assert np.array_equal(values, np.concatenate([rows(2, 2), rows(1, 4)]))
    assert np.array_equal(cache.view(0), (keys, values))


@pytest.mark.parametrize("kind", KINDS)
def test_length_counts_what_every_layer_holds(kind):
    cache = make_cache(kind, CONFIG, 9, np.float64)
    cache.append(0, rows(3, 1), rows(3, 2))
    assert cache.length == 0
    cache.append(1, rows(3, 1), rows(3, 2))
    assert cache.length == 3
    cache.truncate(1)
    assert cache.length == 1
    assert len(cache.view(1)[0]) == 1
    assert cache.view(1)[0].dtype == np.float64


def test_the_in_place_cache_does_not_grow():
    cache = InPlace(CONFIG, 2, np.float32)
    with pytest.raises(ValueError, match="broadcast"):
        cache.append(0, rows(3, 1), rows(3, 2))


operations = st.lists(
    st.one_of(st.tuples(st.just("append"), st.integers(0, 4)), st.tuples(st.just("truncate"), st.integers(0, 12))),
    max_size=12,
)


@given(operations)
def test_after_any_operations_the_caches_agree(operations):
    caches = [make_cache(kind, CONFIG, 60, np.float32) for kind in KINDS]
    for seed, (name, n) in enumerate(operations):
        for cache in caches:
            if name == "append":
                for layer in range(CONFIG.n_layers):
                    cache.append(layer, rows(n, seed + layer), rows(n, seed - layer + 100))
            else:
                cache.truncate(n)
    first, *others = caches
    for cache in others:
        assert cache.length == first.length
        for layer in range(CONFIG.n_layers):
            for a, b in zip(cache.view(layer), first.view(layer), strict=True):
                assert np.array_equal(a, b)
