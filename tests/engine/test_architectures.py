"""The models of the family, each against a forward pass written token by token, as its publication words it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.checkpoint import expected_shapes
from harness.engine import STRICT, Engine
from harness.model_config import PHI_2, Block, ModelConfig, RopeScaling

Array = npt.NDArray[Any]

LLAMA = ModelConfig(24, 40, 3, 4, 2, 50, 32)
LLAMA_3 = RopeScaling("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16)
MODELS = {
    "llama": LLAMA,
    "llama 3.1": replace(LLAMA, rope_theta=500000.0, rope_scaling=LLAMA_3),
    "linear rope": replace(LLAMA, rope_scaling=RopeScaling("linear", 4.0), is_tied=False),
    "mistral": replace(LLAMA, block=Block(window=5)),
    "qwen2": replace(LLAMA, norm_eps=1e-6, block=Block(qkv_bias=True)),
    "qwen3": replace(LLAMA, head_size=10, block=Block(qk_norm=True)),
    "phi-2": replace(LLAMA, n_kv_heads=4, is_tied=False, block=replace(PHI_2, rotary_dim=4)),
}


def weights_of(config: ModelConfig, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_shapes(config).items():
        values = rng.standard_normal(shape)
        if len(shape) == 2:
            values *= 1.5 / math.sqrt(shape[1])
        elif not name.endswith("_bias"):
            values = 1 + values / 4
        tensors[name] = values.astype(np.float32)
    return tensors


class Literal:
    """One token after another, one head after another, float64 scalars where that is clearer."""

    def __init__(self, config: ModelConfig, tensors: dict[str, Array]) -> None:
        self.config, self.tensors = config, {k: v.astype(np.float64) for k, v in tensors.items()}

    def linear(self, name: str, x: Array) -> Array:
        out: Array = self.tensors[name] @ x
        return out + self.tensors[f"{name}_bias"] if f"{name}_bias" in self.tensors else out

    def norm(self, name: str, x: Array) -> Array:
        gain, eps = self.tensors[name], self.config.norm_eps
        if self.config.block.norm == "layer" and len(x) == self.config.dim:
            out: Array = (x - x.mean()) / math.sqrt(x.var() + eps) * gain + self.tensors[f"{name}_bias"]
            return out
        rms: Array = x / math.sqrt(float((x**2).mean()) + eps) * gain
        return rms

    def frequency(self, j: int) -> float:
        config, scaling = self.config, self.config.rope_scaling
        plain = config.rope_theta ** (-2 * j / config.rotary_dim)
        if scaling is None:
            return plain
        if scaling.kind == "linear":
            return plain / scaling.factor
        wavelength = 2 * math.pi / plain
        if wavelength < scaling.original_context / scaling.high_freq_factor:
            return plain
        if wavelength > scaling.original_context / scaling.low_freq_factor:
            return plain / scaling.factor
        smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
            scaling.high_freq_factor - scaling.low_freq_factor
        )
        return (1 - smooth) * plain / scaling.factor + smooth * plain

    def turned(self, x: Array, pos: int) -> Array:
        out = x.copy()
        for j in range(self.config.rotary_dim // 2):
            z = complex(x[2 * j], x[2 * j + 1]) * np.exp(1j * pos * self.frequency(j))
            out[2 * j], out[2 * j + 1] = z.real, z.imag
        return out

    def activated(self, x: Array) -> Array:
        if self.config.block.activation == "silu":
            return np.array([v / (1 + math.exp(-v)) for v in x])
        return np.array([v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x])

    def logits(self, ids: list[int]) -> Array:
        config, block = self.config, self.config.block
        keys: list[list[Array]] = [[] for _ in range(config.n_layers)]
        values: list[list[Array]] = [[] for _ in range(config.n_layers)]
        rows = []
        for pos, token in enumerate(ids):
            x = self.tensors["tok_embedding"][token]
            for layer in range(config.n_layers):
                at = f"layers.{layer}."
                h = self.norm(at + "attn_norm", x)
                q, k, v = (self.linear(at + n, h).reshape(-1, config.head_dim) for n in ("wq", "wk", "wv"))
                if block.qk_norm:
                    q = np.array([self.norm(at + "q_norm", head) for head in q])
                    k = np.array([self.norm(at + "k_norm", head) for head in k])
                keys[layer].append(np.array([self.turned(head, pos) for head in k]))
                values[layer].append(v)
                first = 0 if block.window is None else max(0, pos - block.window + 1)
                heads = []
                for i in range(config.n_heads):
                    of = i // (config.n_heads // config.n_kv_heads)
                    turned = self.turned(q[i], pos)
                    s = np.array([turned @ keys[layer][t][of] for t in range(first, pos + 1)]) / math.sqrt(
                        config.head_dim
                    )
                    p = np.exp(s - s.max())
                    p /= p.sum()
                    heads.append(sum(p[t - first] * values[layer][t][of] for t in range(first, pos + 1)))
                attended = self.linear(at + "wo", np.concatenate(heads))
                if not block.is_parallel:
                    x = x + attended
                    h = self.norm(at + "ffn_norm", x)
                up = self.linear(at + "w_up", h)
                hidden = self.activated(self.linear(at + "w_gate", h)) * up if block.is_gated else self.activated(up)
                out = self.linear(at + "w_down", hidden)
                x = x + attended + out if block.is_parallel else x + out
            h = self.norm("final_norm", x)
            head = self.tensors["tok_embedding" if config.is_tied else "lm_head"] @ h
            rows.append(head + self.tensors["lm_head_bias"] if block.other_bias else head)
        return np.array(rows)


def ids_of(config: ModelConfig, n: int) -> list[int]:
    ids: list[int] = np.random.default_rng(7).integers(0, config.vocab_size, n).tolist()
    return ids


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[ModelConfig, dict[str, Array]]:
    config = MODELS[request.param]
    return config, weights_of(config)


def test_prefill_gives_the_published_model(model: tuple[ModelConfig, dict[str, Array]]) -> None:
    config, tensors = model
    ids = ids_of(config, 20)
    expected = Literal(config, tensors).logits(ids)
    for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 2e-4)):
        actual = Engine(config, tensors, dtype=dtype).logits(ids)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    strict = Engine(config, tensors, ops=STRICT).logits(ids)
    np.testing.assert_allclose(strict, expected, rtol=0, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("cache", ["in-place", "concat", "none"])
def test_every_way_to_decode_agrees(model: tuple[ModelConfig, dict[str, Array]], cache: Any) -> None:
    config, tensors = model
    ids = ids_of(config, 20)
    engine = Engine(config, tensors, dtype=np.float64)
    expected = engine.logits(ids)
    session = engine.session(cache=cache)
    rows = [session.extend(ids[:6], all_logits=True)] + [session.extend([token]) for token in ids[6:]]
    np.testing.assert_allclose(np.concatenate(rows), expected, rtol=0, atol=1e-11)
    in_order = Engine(config, tensors, dtype=np.float64, ops=replace(engine.ops, in_decode_order=True))
    np.testing.assert_allclose(in_order.logits(ids), expected, rtol=0, atol=1e-11)


def test_judging_agrees_with_logits(model: tuple[ModelConfig, dict[str, Array]]) -> None:
    config, tensors = model
    sequences = [ids_of(config, 20), ids_of(config, 9)[::-1]]
    engine = Engine(config, tensors, dtype=np.float64)
    for sequence, judged in zip(sequences, engine.judge(sequences, [1, 1]), strict=True):
        logits = engine.logits(sequence)[:-1]
        np.testing.assert_array_equal(judged.best, logits.argmax(axis=1))
        regret = logits.max(axis=1) - logits[np.arange(len(logits)), sequence[1:]]
        np.testing.assert_allclose(judged.regret, regret, rtol=0, atol=1e-11)


def test_a_window_wider_than_the_text_changes_nothing() -> None:
    wide = replace(LLAMA, block=Block(window=20))
    tensors = weights_of(LLAMA)
    ids = ids_of(LLAMA, 20)
    np.testing.assert_array_equal(Engine(wide, tensors).logits(ids), Engine(LLAMA, tensors).logits(ids))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "llama"])
def test_each_choice_matters(name: str) -> None:
    """A model read as llama where it is none is far off: what the tests above compare is not all the same."""
    config = MODELS[name]
    tensors = weights_of(config)
    ids = ids_of(config, 20)
    taken_for_llama = replace(
        config, block=replace(config.block, window=None, norm="rms", qk_norm=False, qkv_bias=False)
    )
    plain = replace(taken_for_llama, rope_scaling=None, rope_theta=10000.0)
    logits = Engine(config, tensors, dtype=np.float64).logits(ids)
    wrong = Engine(plain, tensors, dtype=np.float64).logits(ids)
    assert np.abs(logits - wrong).max() > 0.05 * np.abs(logits).max()
