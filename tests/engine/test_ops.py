"""The single steps: measured bit patterns, and literal loops."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.engine import LIBRARY, STRICT, Step, libm
from harness.engine.attention import attention_by_steps, causal_attention, single_query_attention
from harness.engine.ops import sequential_product
from harness.model_config import ModelConfig
from harness.quant import QuantTensor

CONFIG = ModelConfig(dim=16, hidden_dim=4, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=5, seq_len=32)
GAIN = (1, 0.5, 2, -1)


def f32(*values):
    return np.array(values, np.float32)


def hexes(values):
    return [f"{bits:08x}" for bits in np.asarray(values, np.float32).ravel().view(np.uint32)]


def step_at(pos, config=CONFIG, dtype=np.float32):
    return Step(config, 0, np.atleast_1d(np.asarray(pos, np.int64)), dtype, {})


# ---- Measured bit patterns, strict arithmetic


@pytest.mark.parametrize(
    ("x", "bits"),
    [
        ((1, 2, 3, 4), ["3ebaf4b2", "3ebaf4b2", "400c3786", "bfbaf4b2"]),
        ((0, 0, 0, 0), ["00000000", "00000000", "00000000", "80000000"]),
        ((1e-3, -2e-3, 3e-3, 0), ["3e8b5948", "be8b5948", "3fd105ec", "80000000"]),
    ],
)
def test_rmsnorm_has_the_measured_bits(x, bits):
    for rows in (1, 3):
        out = STRICT.attn_norm(step_at(0), np.tile(f32(*x), (rows, 1)), f32(*GAIN))
        assert hexes(out) == bits * rows


@pytest.mark.parametrize(
    ("x", "bits"),
    [
        ((1, 2, 3, 4), ["3d034fe2", "3db278b9", "3e72916a", "3f24d791"]),
        ((-1e30, 0, 88, 88.5), ["00000000", "0018e40b", "3ec14d03", "3f1f597f"]),
    ],
)
def test_softmax_has_the_measured_bits(x, bits):
    out = STRICT.softmax(step_at(3), f32(*x)[None, None, None], np.ones((1, 4), bool))
    assert hexes(out) == bits


def test_silu_has_the_measured_bits():
    assert hexes(STRICT.activation(step_at(0), f32(-3.5, 1.25, -100))) == ["bdd21c2e", "3f78bc68", "80000000"]


@pytest.mark.parametrize(
    ("head_dim", "bits"),
    [
        (8, ["3f800000", "3dcccccd", "3c23d70a", "3a83126f"]),
        (64, ["3f800000", "3f3ff911", "3f0ff59a", "3ed7e89b"]),
    ],
)
def test_rotary_frequencies_have_the_measured_bits(head_dim, bits):
    exponent = np.arange(0, 8, 2, dtype=np.float32) / np.float32(head_dim)
    assert hexes(np.float32(1) / libm.powf(10000.0, exponent)) == bits


def test_rotary_angles_have_the_measured_bits():
    cos, sin = STRICT.angles(step_at(5))
    assert hexes([cos[0, 1], sin[0, 1]]) == ["3f60a940", "3ef57744"]
    assert cos.shape == sin.shape == (1, CONFIG.head_dim // 2)


# ---- Worked by hand, both families

FAMILIES = pytest.mark.parametrize("ops", [LIBRARY, STRICT], ids=["library", "strict"])


@FAMILIES
def test_rotation_turns_neighbours(ops):
    x = np.zeros((2, 1, 8), np.float32)
    x[:, 0, 0] = 1
    step = step_at([0, 1])
    out = ops.rotate_q(step, x, *ops.angles(step))
    assert out[0].tolist() == x[0].tolist()
    np.testing.assert_allclose(out[1, 0, :4], [math.cos(1), math.sin(1), 0, 0], rtol=1e-6, atol=0)


@FAMILIES
def test_a_softmax_that_sees_nothing_is_zero(ops):
    seen = np.array([[False, False], [True, False]])
    out = ops.softmax(step_at([0, 1]), np.ones((1, 1, 2, 2), np.float32), seen)
    assert out[0, 0].tolist() == [[0, 0], [1, 0]]


@FAMILIES
def test_silu_of_huge_gates_neither_overflows_nor_warns(ops):
    out = ops.activation(step_at(0), f32(-1e30, -100, 0, 1e30))
    assert out.tolist() == [0, 0, 0, np.float32(1e30)]


@FAMILIES
def test_scores_are_divided_by_the_root_of_the_head_size(ops):
    out = ops.scale(step_at(0), np.full((1, 1, 1, 1), 4, np.float32))
    assert out.item() == np.float32(4) / np.float32(math.sqrt(8))


def test_consecutive_heads_share_a_key_and_a_value():
    config = ModelConfig(dim=24, hidden_dim=4, n_layers=1, n_heads=6, n_kv_heads=2, vocab_size=5, seq_len=3)
    assert LIBRARY.head_map(step_at(0, config)).tolist() == [0, 0, 0, 1, 1, 1]


def test_a_token_sees_itself_and_what_came_before():
    assert LIBRARY.mask(step_at([1, 2])).tolist() == [[True, True, False], [True, True, True]]


def test_a_cache_row_lies_where_llama2c_puts_it():
    assert LIBRARY.cache_row(CONFIG, 2, np.array([0, 3])).tolist() == [2 * 32 * 8, (2 * 32 + 3) * 8]


def test_differences_are_named():
    assert STRICT.differs_from(LIBRARY) == {
        *("attn_norm", "ffn_norm", "final_norm", "matmul", "angles", "scores", "softmax", "mix", "activation")
    }


# ---- Properties

small_floats = st.floats(-8, 8, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3)


@given(st.data(), st.integers(1, 5), st.integers(1, 9), st.integers(1, 6))
def test_a_strict_product_sums_from_left_to_right(data, n, k, m):
    x = data.draw(hnp.arrays(np.float32, (n, k), elements=small_floats))
    w = data.draw(hnp.arrays(np.float32, (m, k), elements=small_floats))
    out = STRICT.matmul(step_at(0), "wq", x, w)
    for i in range(n):
        for j in range(m):
            total = np.float32(0)
            for a, b in zip(x[i], w[j], strict=True):
                total = np.float32(total + np.float32(a * b))
            assert hexes(out[i, j]) == hexes(total)


def test_a_strict_product_is_the_same_in_blocks_of_rows():
    random = np.random.default_rng(4)
    x, w = random.standard_normal((700, 5)).astype(np.float32), random.standard_normal((5, 300)).astype(np.float32)
    whole = sequential_product(x, w)  # 700 x 300 needs several blocks
    alone = np.concatenate([sequential_product(x[i : i + 1], w) for i in range(700)])
    assert np.array_equal(whole, alone)


@given(
    st.sampled_from([(), (3,), (2, 3)]),
    st.integers(1, 40),
    st.integers(1, 30),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-3, 1.0, 0.0]),
)
def test_a_strict_product_of_one_row_has_the_bits_of_many(batch, k, m, seed, share):
    # One row of many terms takes another way; sums of nothing but negative zeros are positive zeros in both.
    random = np.random.default_rng(seed)
    x = np.abs(random.standard_normal((*batch, 4, k))).astype(np.float32)
    x *= random.random(x.shape) < share
    w = -np.abs(random.standard_normal((*batch, k, m))).astype(np.float32)
    whole = sequential_product(x, w)
    alone = [sequential_product(x[..., i : i + 1, :], w) for i in range(4)]
    assert np.concatenate(alone, axis=-2).tobytes() == whole.tobytes()


@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from(["float32", "float64"]))
def test_the_families_compute_the_same_norm(rows, dim, seed, dtype):
    # A root mean square of at least 0.01: relative error of a sum of 30 squares in float32, a few 1e-7.
    random = np.random.default_rng(seed)
    x, gain = random.standard_normal((rows, dim)).astype(np.float32), random.standard_normal(dim).astype(np.float32)
    assume((np.abs(x).max(axis=1) > 0.05).all())
    library = LIBRARY.attn_norm(step_at(0), x.astype(dtype), gain.astype(dtype))
    assert library.dtype == dtype
    np.testing.assert_allclose(library, STRICT.attn_norm(step_at(0), x, gain), rtol=5e-6, atol=0)


def literal_quantised_product(x, w):
    """One value at a time: the rule of llama2.c's int8 program."""
    n_out, n_in = w.shape
    size = w.group_size
    codes, scales = w.codes.ravel(), w.scales
    out = np.zeros((len(x), n_out), np.float32)
    for row, values in enumerate(x):
        x_codes, x_scales = [], []
        for start in range(0, n_in - size + 1, size):
            group = values[start : start + size]
            scale = np.float32(max(abs(v) for v in group) / np.float32(127))
            x_scales.append(scale)
            for value in group:
                quotient = float(value / scale) if scale else 0.0
                x_codes.append(int(math.copysign(math.floor(abs(quotient) + 0.5), quotient)))
        for i in range(n_out):
            total = np.float32(0)
            for j in range(0, n_in - size + 1, size):
                exact = sum(x_codes[j + k] * int(codes[i * n_in + j + k]) for k in range(size))
                total += np.float32(exact) * scales[(i * n_in + j) // size] * x_scales[j // size]
            out[row, i] = total
    return out


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**32 - 1), st.data())
def test_an_int8_product_is_the_literal_rule_with_groups_that_straddle_rows(n_out, n_in, rows, seed, data):
    size = data.draw(st.sampled_from([n for n in range(1, n_out * n_in + 1) if n_out * n_in % n == 0]))
    random = np.random.default_rng(seed)
    w = QuantTensor(
        random.integers(-127, 128, (n_out, n_in)).astype(np.int8),
        random.uniform(0.001, 0.1, n_out * n_in // size).astype(np.float32),
        size,
    )
    x = random.standard_normal((rows, n_in)).astype(np.float32)
    x[random.random(x.shape) < 0.2] = 0
    for ops in (STRICT, LIBRARY):
        assert hexes(ops.matmul(step_at(0), "wq", x, w)) == hexes(literal_quantised_product(x, w))


def test_int8_sums_are_exact_in_the_largest_groups():
    # 127 * 127 * 2048 is beyond float32's integers: the sum must not be taken in it.
    w = QuantTensor(np.full((1, 2048), 127, np.int8), f32(1), 2048)
    w.codes[0, 0] = 126
    x = np.full((1, 2048), 127, np.float32)
    assert STRICT.matmul(step_at(0), "wq", x, w).item() == np.float32(2047 * 127 * 127 + 126 * 127)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_fused_attention_is_the_chain_of_its_steps(kv_heads, rep, n_tokens, start, seed):
    # float64, scores of a few units: sums of at most 14 terms in another order.
    random = np.random.default_rng(seed)
    heads, head_dim = kv_heads * rep, 4
    config = ModelConfig(
        dim=heads * head_dim,
        hidden_dim=1,
        n_layers=1,
        n_heads=heads,
        n_kv_heads=kv_heads,
        vocab_size=2,
        seq_len=20,
    )
    q = random.standard_normal((n_tokens, heads, head_dim))
    k, v = random.standard_normal((2, start + n_tokens, kv_heads, head_dim))
    step = step_at(np.arange(start, start + n_tokens), config, np.float64)
    chain = attention_by_steps(LIBRARY, step, q[None], k[None], v[None], LIBRARY.mask(step))[0]
    np.testing.assert_allclose(causal_attention(q, k, v, start=start), chain, rtol=0, atol=1e-13)
    last = step_at([start + n_tokens - 1], config, np.float64)
    chain = attention_by_steps(LIBRARY, last, q[None, -1:], k[None], v[None], LIBRARY.mask(last))[0]
    one = single_query_attention(q[-1:], k, v).reshape(heads, head_dim)
    np.testing.assert_allclose(one, chain[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_blocks_of_queries_change_nothing(chunk, monkeypatch):
    random = np.random.default_rng(3)
    q = random.standard_normal((11, 4, 6))
    k, v = random.standard_normal((2, 15, 2, 6))
    expected = causal_attention(q, k, v, start=4)
    monkeypatch.setattr("harness.engine.attention._QUERY_CHUNK_BYTES", chunk * 8)
    np.testing.assert_allclose(causal_attention(q, k, v, start=4), expected, rtol=0, atol=1e-13)
