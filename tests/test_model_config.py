"""What sets the models of the family apart, and the arithmetic of their sizes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.checkpoint import expected_shapes
from harness.model_config import PHI_2, Block, ModelConfig, RopeScaling

LLAMA = ModelConfig(16, 24, 2, 4, 2, 32, 64)

VARIANTS = {
    "llama": LLAMA,
    "untied": replace(LLAMA, is_tied=False),
    "qwen2": replace(LLAMA, block=Block(qkv_bias=True)),
    "qwen3": replace(LLAMA, block=Block(qk_norm=True), head_size=6),
    "phi-2": replace(LLAMA, n_kv_heads=4, is_tied=False, block=replace(PHI_2, rotary_dim=2)),
    "tied phi": replace(LLAMA, block=PHI_2),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_shapes_add_up_to_the_number_of_parameters(name: str) -> None:
    config = VARIANTS[name]
    assert sum(math.prod(shape) for shape in expected_shapes(config).values()) == config.n_params


def test_a_block_of_phi_2_by_hand() -> None:
    shapes = {k: v for k, v in expected_shapes(VARIANTS["phi-2"]).items() if k.startswith("layers.1.")}
    assert list(shapes) == [
        f"layers.1.{name}"
        for name in (
            *("attn_norm", "attn_norm_bias", "wq", "wq_bias", "wk", "wk_bias", "wv", "wv_bias", "wo", "wo_bias"),
            *("w_up", "w_up_bias", "w_down", "w_down_bias"),
        )
    ]


def test_heads_of_their_own_size() -> None:
    shapes = expected_shapes(VARIANTS["qwen3"])
    assert shapes["layers.0.wq"] == (24, 16)
    assert shapes["layers.0.wk"] == (12, 16)
    assert shapes["layers.0.wo"] == (16, 24)
    assert shapes["layers.0.q_norm"] == (6,)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"head_size": 5}, "head_dim 5 is odd"),
        ({"block": Block(window=0)}, "window is 0"),
        ({"block": Block(rotary_dim=6)}, "rotary_dim is 6"),
        ({"rope_scaling": RopeScaling("linear", 0.0)}, "factor is 0"),
        ({"rope_scaling": RopeScaling("llama3", 8.0, 4.0, 1.0)}, "low must be"),
    ],
)
def test_what_no_model_can_have_is_refused(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        replace(LLAMA, **changes)  # type: ignore[arg-type]


def test_only_llama_itself_is_plain() -> None:
    assert LLAMA.is_plain
    others = [
        replace(LLAMA, norm_eps=1e-6),
        replace(LLAMA, rope_theta=500000.0),
        replace(LLAMA, rope_scaling=RopeScaling("linear", 2.0)),
        replace(LLAMA, block=Block(window=9)),
        replace(LLAMA, head_size=6),
    ]
    assert not any(config.is_plain for config in others)
