"""bfloat16 and float16 by our arithmetic, against ml_dtypes and numpy, for every float32 that is near a boundary."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.formats import numbers


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_bfloat16_is_ml_dtypes(patterns):
    values = np.array(patterns, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        expected = values.astype(ml_dtypes.bfloat16)
    if (np.isinf(expected.astype(np.float32)) & np.isfinite(values)).any():
        with pytest.raises(ValueError, match="too large for bfloat16"):
            numbers.narrow(values, "bfloat16")
        return
    bits = numbers.narrow(values, "bfloat16")
    nan = np.isnan(values)
    assert np.array_equal(bits[~nan], expected.view(np.uint16)[~nan])
    assert np.isnan(numbers.widen(bits, "bfloat16")[nan]).all()


def test_every_bfloat16_survives_widening():
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = numbers.widen(bits, "bfloat16")
    is_number = ~np.isnan(wide)
    assert np.array_equal(numbers.narrow(wide[is_number], "bfloat16"), bits[is_number])


@pytest.mark.parametrize(
    ("dtype", "relative", "absolute"), [("float16", 2**-11, 2**-25), ("bfloat16", 2**-8, 2.0**-134)]
)
def test_the_stated_errors_hold_and_are_met(dtype, relative, absolute):
    exponents = np.random.default_rng(2).uniform(-14 if dtype == "float16" else -120, 15, 100_000)
    values = (2.0**exponents).astype(np.float32)
    error = np.abs(numbers.rounded(values, dtype).astype(np.float64) - values)
    assert (error <= relative * values + absolute).all()
    assert (error / values).max() > 0.9 * relative / (1 + relative)
