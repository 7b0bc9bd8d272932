"""The float32 screen of the classifier gives what float64 throughout gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checkpoint import expected_shapes
from harness.engine import Engine, Judged
from harness.engine import screen as screen_module
from harness.engine.screen import largest_norm, screened
from harness.model_config import ModelConfig

Array = npt.NDArray[Any]


def in_full(h: Array, w: Array, chosen: Array) -> Judged:
    judged = Judged(chosen)
    judged.take(slice(0, len(h)), 0, h @ w.astype(np.float64).T)
    return judged


def nearly_equal_rows(rng: np.random.Generator, n_ids: int, dim: int, spread: float) -> Array:
    """A classifier whose logits lie so close together that float32 cannot order them."""
    return (rng.standard_normal(dim) + spread * rng.standard_normal((n_ids, dim))).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1 << 32),
    n=st.integers(1, 40),
    dim=st.integers(1, 70),
    n_ids=st.integers(1, 300),
    spread=st.sampled_from([0.0, 1e-7, 1e-6, 1e-4, 1.0]),
    scale=st.sampled_from([1e-12, 1.0, 1e6]),
    ids=st.sampled_from([16, 1024]),
    rows=st.sampled_from([7, 1024]),
)
def test_the_screen_finds_what_float64_finds(
    seed: int, n: int, dim: int, n_ids: int, spread: float, scale: float, ids: int, rows: int
) -> None:
    rng = np.random.default_rng(seed)
    w = nearly_equal_rows(rng, n_ids, dim, spread)
    h = scale * rng.standard_normal((n, dim))
    chosen = rng.integers(0, n_ids, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screen_module, "_IDS", ids)
        patch.setattr(screen_module, "_ROWS", rows)
        patch.setattr(screen_module, "_PER_ROW", 10**6)
        found = screened(h, w, chosen, largest_norm(w))
    assert found is not None
    best, best_logit, chosen_logit = found
    full = in_full(h, w, chosen)
    noise = 1e-14 * dim * scale * 1e2
    np.testing.assert_allclose(best_logit, full.best_logit, rtol=1e-12, atol=noise)
    np.testing.assert_allclose(chosen_logit, full.chosen_logit, rtol=1e-12, atol=noise)
    again = in_full(h, w, best)  # another token only where float64 itself cannot tell them apart
    assert (np.abs(again.chosen_logit - full.best_logit) <= noise + 1e-12 * np.abs(full.best_logit)).all()


def test_a_difference_far_below_float32_decides() -> None:
    w = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.5]], np.float32)
    h = np.array([[1.0, 1e-12], [1.0, -1e-12]])
    found = screened(h, w, np.array([2, 2]), largest_norm(w))
    assert found is not None
    assert found[0].tolist() == [1, 0]
    assert (found[1] - found[2] > 0).all()


def test_of_equals_the_first_is_best_and_a_chosen_best_has_its_very_logit() -> None:
    rng = np.random.default_rng(5)
    w = np.repeat(rng.standard_normal((3, 48)).astype(np.float32), 2, axis=0)
    h = rng.standard_normal((200, 48))
    best = in_full(h, w, np.zeros(200, np.int64)).best
    found = screened(h, w, best + 1, largest_norm(w))
    assert found is not None
    np.testing.assert_array_equal(found[0], best)
    np.testing.assert_array_equal(found[1], found[2])


def test_a_token_outside_of_the_vocabulary_has_no_logit() -> None:
    w = np.eye(3, dtype=np.float32)
    found = screened(np.ones((2, 3)), w, np.array([-1, 3]), largest_norm(w))
    assert found is not None
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_what_float32_cannot_hold_is_left_to_float64(bad: float) -> None:
    h = np.ones((4, 8))
    h[2, 3] = bad
    w = np.ones((5, 8), np.float32)
    assert screened(h, w, np.zeros(4, np.int64), largest_norm(w)) is None
    w[1, 1] = np.float32(bad) if bad < 1e38 else np.inf
    assert screened(np.ones((4, 8)), w, np.zeros(4, np.int64), largest_norm(w)) is None


def test_a_flat_model_is_left_to_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_module, "_PER_ROW", 2)
    w = np.zeros((500, 8), np.float32)
    assert screened(np.ones((40, 8)), w, np.zeros(40, np.int64), largest_norm(w)) is None


def test_the_engine_judges_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(
        dim=32, hidden_dim=48, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=700, seq_len=64, is_tied=True
    )
    rng = np.random.default_rng(1)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32) * np.float32(0.3)
        for name, shape in expected_shapes(config).items()
    }
    sequences = [rng.integers(3, 700, n).tolist() for n in (40, 3, 17)]
    engine = Engine(config, tensors, dtype=np.float64)
    quick = engine.judge(sequences, [1, 1, 5])
    monkeypatch.setattr("harness.engine.model.screened", lambda *_: None)
    for a, b in zip(quick, engine.judge(sequences, [1, 1, 5]), strict=True):
        np.testing.assert_array_equal(a.best, b.best)
        np.testing.assert_allclose(a.regret, b.regret, rtol=0, atol=1e-12)
