"""harness.quant: the two rounding rules, by hand and by property."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness import quant
from harness.quant import QuantTensor, error_bound, quantize_activations, quantize_weights

# Groups of 4 with the float32 bits of their scale and their codes under either rule, as measured on llama2.c's runq
# and exporter. Rows 3 to 5 hold exact halves; 0.49999997 + 0.5 rounds to 1 in float32, though it is below a half.
VECTORS = [
    ([1, -2, 3, -4], 0x3D010204, [32, -64, 95, -127], [32, -64, 95, -127]),
    ([0, 0, 0, 0], 0x00000000, [0, 0, 0, 0], [0, 0, 0, 0]),
    ([127, 0.5, 1.5, 2.5], 0x3F800000, [127, 1, 2, 3], [127, 0, 2, 2]),
    ([127, -0.5, -1.5, -2.5], 0x3F800000, [127, -1, -2, -3], [127, 0, -2, -2]),
    ([-127, 63.5, -63.5, 0.49999997], 0x3F800000, [-127, 64, -64, 0], [-127, 64, -64, 0]),
    ([1e-3, 2e-3, -3e-3, 1e-4], 0x37C627F6, [42, 85, -127, 4], [42, 85, -127, 4]),
]

values = st.floats(-(2.0**120), 2.0**120, width=32)
matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=9), elements=values)


@pytest.mark.parametrize(("group", "scale_bits", "runq", "exporter"), VECTORS)
def test_both_rules_give_the_measured_codes(
    group: list[float], scale_bits: int, runq: list[int], exporter: list[int]
) -> None:
    x = np.array(group, np.float32)
    codes, scales = quantize_activations(x, 4)
    weights = quantize_weights(x, 4)
    assert codes.tolist() == runq
    assert weights.codes.tolist() == exporter
    assert scales.view(np.uint32).tolist() == weights.scales.view(np.uint32).tolist() == [scale_bits]


def test_groups_of_weights_run_across_the_ends_of_rows() -> None:
    w = np.array([[1, 2, 127], [0, 254, 0]], np.float32)
    quantised = quantize_weights(w, 2)
    assert quantised.scales.tolist() == [np.float32(2) / np.float32(127), 1, 2]
    assert quantised.codes.tolist() == [[64, 127, 127], [0, 127, 0]]
    assert quantised.shape == (2, 3)
    assert quantised.dequantize()[:, 2].tolist() == [127, 0]


def test_activations_beyond_the_last_full_group_keep_code_0() -> None:
    x = np.array([[1, 2, 3, 4, 50], [0, 0, 0, 0, 9]], np.float32)
    codes, scales = quantize_activations(x, 2)
    assert codes.tolist() == [[64, 127, 95, 127, 0], [0, 0, 0, 0, 0]]
    assert scales.shape == (2, 2)
    codes, scales = quantize_activations(x, 8)
    assert not codes.any()
    assert scales.shape == (2, 0)


def test_nan_and_infinity_in_activations_are_as_on_x86() -> None:
    codes, scales = quantize_activations(np.array([np.nan, 127, 1, 2, np.inf, 1, 2, 3], np.float32), 4)
    assert codes.tolist() == [0, 127, 1, 2, 0, 0, 0, 0]
    assert scales.tolist() == [1, np.inf]


def test_the_product_is_rounded_to_float32_before_any_cast() -> None:
    tensor = QuantTensor(np.array([3], np.int8), np.array([0.1], np.float32), 1)
    assert tensor.dequantize(np.float64).tolist() == [float(np.float32(3) * np.float32(0.1))]


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(1).standard_normal((30, 8)).astype(np.float32)
    whole = quantize_weights(w, 4)
    monkeypatch.setattr(quant, "_BLOCK_ELEMENTS", 28)
    parts = quantize_weights(w, 4)
    assert np.array_equal(whole.codes, parts.codes)
    assert np.array_equal(whole.scales, parts.scales)


def test_the_docstring_examples_hold() -> None:
    assert doctest.testmod(quant).failed == 0


# --- properties ---


@given(matrices, st.data())
@settings(deadline=None)
def test_weights_come_back_within_the_stated_bound(w: np.ndarray, data: st.DataObject) -> None:
    group_size = data.draw(st.sampled_from([g for g in range(1, w.size + 1) if w.size % g == 0]))
    quantised = quantize_weights(w, group_size)
    error = np.abs(quantised.dequantize(np.float64) - w.astype(np.float64)).reshape(-1, group_size)
    assert (error <= error_bound(quantised.scales)[:, None]).all()
    assert abs(quantised.codes.astype(int)).max() <= 127


@given(matrices, st.integers(1, 9))
@settings(deadline=None)
def test_activations_are_rounded_half_away_from_zero_exactly(x: np.ndarray, group_size: int) -> None:
    codes, scales = quantize_activations(x, group_size)
    n_full = x.shape[-1] // group_size * group_size
    assert not codes[..., n_full:].any()
    scale = np.repeat(scales, group_size, axis=-1)
    normal = scale >= 2.0**-126
    # Exact from the float32 quotient on: float64 holds quotient + 0.5.
    quotient = (x[..., :n_full][normal] / scale[normal]).astype(np.float64)
    expected = np.copysign(np.floor(np.abs(quotient) + 0.5), quotient)
    assert np.array_equal(codes[..., :n_full][normal], expected)


@given(matrices)
@settings(deadline=None)
def test_quantising_what_was_quantised_changes_no_code(w: np.ndarray) -> None:
    once = quantize_weights(w, w.shape[-1])
    if (once.scales >= 2**-100).all():
        assert np.array_equal(quantize_weights(once.dequantize(), w.shape[-1]).codes, once.codes)


# --- hostile input ---


@pytest.mark.parametrize("group_size", [0, -4, 5])
def test_a_group_size_that_does_not_divide_the_tensor_is_refused(group_size: int) -> None:
    with pytest.raises(ValueError, match=r"group size"):
        quantize_weights(np.ones((2, 6), np.float32), group_size)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        quantize_weights(np.array([1, bad], np.float32), 2)


def test_activations_need_a_positive_group_size() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        quantize_activations(np.ones(4, np.float32), 0)


@pytest.mark.parametrize(
    ("codes", "scales"),
    [
        (np.zeros(4, np.uint8), np.zeros(2, np.float32)),
        (np.zeros(4, np.int8), np.zeros(2, np.float64)),
        (np.zeros(4, np.int8), np.zeros(3, np.float32)),
        (np.zeros(5, np.int8), np.zeros(2, np.float32)),
    ],
)
def test_codes_and_scales_must_belong_together(codes: np.ndarray, scales: np.ndarray) -> None:
    with pytest.raises(ValueError):
        QuantTensor(codes, scales, 2)


@given(hnp.arrays(np.uint32, st.integers(1, 12)), st.integers(1, 4))
@settings(deadline=None)
def test_any_bits_at_all_are_quantised_without_a_warning(bits: np.ndarray, group_size: int) -> None:
    codes, scales = quantize_activations(bits.view(np.float32), group_size)
    assert codes.dtype == np.int8
    assert scales.dtype == np.float32
