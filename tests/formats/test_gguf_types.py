"""gguf_types: blocks worked by hand, every type against the gguf package, stated bounds."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.formats import gguf_types
from harness.formats.gguf_types import BF16, BY_CODE, F16, F32, Q4_0, Q8_0, dequantize, encode, error_bound

BLOCKS = [one for one in BY_CODE.values() if one.block > 1]


def half(value: float) -> bytes:
    return np.array(value, "<f2").tobytes()


# ---- worked by hand


def test_a_q8_0_block_is_a_scale_and_32_codes():
    values = np.zeros((1, 32), np.float32)
    values[0, :4] = 127, -63.5, 0.5, 0.49  # the scale is 1; halves go away from zero
    stored = encode(values, Q8_0).tobytes()
    assert stored == half(1) + bytes([127, 256 - 64, 1, 0]) + bytes(28)
    read = dequantize(np.frombuffer(stored, np.uint8), Q8_0, (1, 32))
    assert read[0, :5].tolist() == [127, -64, 1, 0, 0]


def test_a_q4_0_block_takes_its_sign_from_the_largest_value():
    values = np.zeros((1, 32), np.float32)
    values[0, 0], values[0, 1], values[0, 16] = -8, 8, 1  # the scale is -8 / -8 = 1; 8 is clipped to 7
    stored = encode(values, Q4_0).tobytes()
    assert stored == half(1) + bytes([0 | 9 << 4, 15 | 8 << 4]) + bytes([8 | 8 << 4]) * 14
    read = dequantize(np.frombuffer(stored, np.uint8), Q4_0, (32,))
    assert read[[0, 1, 2, 16]].tolist() == [-8, 7, 0, 1]


def test_a_q6_k_block_has_its_top_bits_apart():
    low, high, scales = bytearray(128), bytearray(64), bytearray([1] * 16)
    low[0], high[0] = 0x21, 0b11100100  # values 0, 32, 64, 96: nibbles 1, 0, 2, 0; tops 0, 1, 2, 3
    scales[2] = 254  # -2, for values 32 to 47
    stored = np.frombuffer(bytes(low + high + scales) + half(0.5), np.uint8)
    read = dequantize(stored, BY_CODE[14], (256,))
    assert read[[0, 32, 64, 96]].tolist() == [0.5 * (1 - 32), -1 * (16 - 32), 0.5 * (34 - 32), 0.5 * (48 - 32)]


def test_a_q4_k_block_shares_bits_of_its_last_scales():
    packed = bytearray(12)
    packed[0] = 0b11_000001  # scale 0 is 1; the top bits of scale 4 are 3
    packed[4] = 0b01_000010  # minimum 0 is 2; the top bits of minimum 4 are 1
    packed[8] = 0x53  # the low bits of minimum 4 are 5, of scale 4 are 3
    quants = bytearray(128)
    quants[0], quants[64] = 0x0F, 0x01  # value 0 is 15, value 128 is 1
    stored = np.frombuffer(half(1) + half(0.5) + bytes(packed + quants), np.uint8)
    read = dequantize(stored, BY_CODE[12], (256,))
    assert read[[0, 1, 128, 129]].tolist() == [15 - 1.0, -1.0, 51 - 0.5 * 21, -0.5 * 21]


# ---- against the gguf package


@pytest.mark.parametrize("encoding", BLOCKS, ids=lambda one: one.name)
def test_any_bytes_are_read_as_the_gguf_package_reads_them(encoding):
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(encoding.code)] == (encoding.block, encoding.block_bytes)
    random = np.random.default_rng(5)
    raw = random.integers(0, 256, (300, encoding.block_bytes), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):  # scales that are infinite or NaN
        theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(encoding.code))
    finite = np.isfinite(theirs).all(axis=1)
    assert finite.sum() > 200
    ours = dequantize(raw.reshape(-1), encoding, theirs.shape)
    np.testing.assert_array_equal(ours[finite], theirs[finite])


@pytest.mark.parametrize("encoding", [F16, BF16, Q8_0, Q4_0], ids=lambda one: one.name)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-7, 500.0])
def test_values_are_stored_as_the_gguf_package_stores_them(encoding, scale):
    values = (np.random.default_rng(6).standard_normal((64, 96)) * scale).astype(np.float32)
    values[3] = 0
    kind = gguf.GGMLQuantizationType(encoding.code)
    theirs = gguf.quants.quantize(values, kind).reshape(-1).view(np.uint8)
    np.testing.assert_array_equal(encode(values, encoding), theirs)


# ---- properties

rows = st.integers(0, 2**32 - 1).map(
    lambda seed: (
        np.random.default_rng(seed).standard_normal((3, 64)) * 10.0 ** np.random.default_rng(seed).integers(-42, 4)
    ).astype(np.float32)
)


@pytest.mark.parametrize("encoding", [F32, F16, BF16, Q8_0, Q4_0], ids=lambda one: one.name)
@given(values=rows)
def test_what_is_read_back_is_within_the_stated_bound(encoding, values):
    stored = encode(values, encoding)
    assert stored.nbytes == encoding.n_bytes(values.size)
    read = dequantize(stored, encoding, values.shape).astype(np.float64)
    assert (np.abs(read - values) <= error_bound(values, encoding)).all()


@pytest.mark.parametrize("encoding", [Q8_0, Q4_0], ids=lambda one: one.name)
@given(values=rows)
def test_what_was_quantised_once_is_kept_when_it_is_quantised_again(encoding, values):
    values = values[np.abs(values).max(axis=1) > 1e-2]  # below, the scale is a float16 of few bits
    once = encode(values, encoding)
    read = dequantize(once, encoding, values.shape)
    np.testing.assert_array_equal(encode(read, encoding), once)


# ---- hostile


@pytest.mark.parametrize(
    ("encoding", "value"), [(F16, 1e5), (BF16, 3.4e38), (Q8_0, 1e8), (Q4_0, 1e7), (Q8_0, np.nan), (Q4_0, np.inf)]
)
def test_what_has_no_place_in_the_type_is_refused(encoding, value):
    values = np.zeros(32, np.float32)
    values[5] = value
    with pytest.raises(ValueError, match=r"finite|too large|beyond"):
        encode(values, encoding)


def test_infinite_scales_are_read_without_a_warning():
    for encoding in BLOCKS:
        raw = np.full(encoding.block_bytes, 0x7C, np.uint8)
        assert gguf_types.dequantize(raw, encoding, (encoding.block,)).shape == (encoding.block,)
