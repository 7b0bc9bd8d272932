"""harness.checkpoint.checkpoint: names, shapes and the check of both."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from harness.checkpoint import Checkpoint, checkpoint, expected_shapes
from harness.errors import CheckpointError
from harness.model_config import ModelConfig
from harness.quant import quantize_weights
from tests.strategies import checkpoints, configs

CONFIG = ModelConfig(dim=12, hidden_dim=5, n_layers=2, n_heads=6, n_kv_heads=2, vocab_size=7, seq_len=3)


def zeros(config: ModelConfig) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in expected_shapes(config).items()}


def test_shapes_of_a_model_with_grouped_heads_by_hand() -> None:
    shapes = expected_shapes(CONFIG)
    assert list(shapes)[:10] == [
        "tok_embedding",
        "layers.0.attn_norm",
        "layers.0.wq",
        "layers.0.wk",
        "layers.0.wv",
        "layers.0.wo",
        "layers.0.ffn_norm",
        "layers.0.w_gate",
        "layers.0.w_up",
        "layers.0.w_down",
    ]
    assert shapes["layers.1.wk"] == shapes["layers.1.wv"] == (4, 12)
    assert shapes["layers.1.wq"] == shapes["layers.1.wo"] == (12, 12)
    assert shapes["layers.1.w_gate"] == shapes["layers.1.w_up"] == (5, 12)
    assert shapes["layers.1.w_down"] == (12, 5)
    assert list(shapes)[-1] == "final_norm"
    assert len(shapes) == 20
    assert expected_shapes(replace(CONFIG, is_tied=False))["lm_head"] == (7, 12)


def test_the_classifier_is_the_embedding_unless_there_is_one() -> None:
    tied = Checkpoint(CONFIG, zeros(CONFIG))
    assert tied.classifier is tied.tensor("tok_embedding")
    config = replace(CONFIG, is_tied=False)
    untied = Checkpoint(config, zeros(config))
    assert untied.classifier is untied.tensor("lm_head")


def test_the_docstring_examples_hold() -> None:
    assert doctest.testmod(checkpoint).failed == 0


# --- properties ---


@given(configs())
@settings(deadline=None)
def test_the_shapes_add_up_to_the_number_of_parameters(config: ModelConfig) -> None:
    assert sum(int(np.prod(shape)) for shape in expected_shapes(config).values()) == config.n_params


@given(checkpoints())
@settings(deadline=None)
def test_a_complete_checkpoint_is_valid(made: Checkpoint) -> None:
    made.validate()


# --- hostile input ---


def test_a_missing_tensor_is_named() -> None:
    tensors = zeros(CONFIG)
    del tensors["layers.1.wo"]
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(CONFIG, tensors).validate()
    assert caught.value.what == "tensor layers.1.wo is missing"


def test_a_superfluous_tensor_is_named() -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(CONFIG, zeros(CONFIG) | {"lm_head": np.zeros((7, 12), np.float32)}).validate()
    assert caught.value.what == "tensor lm_head does not belong to this model"


def test_a_wrong_shape_is_told_with_the_right_one() -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(CONFIG, zeros(CONFIG) | {"layers.0.wk": np.zeros((12, 12), np.float32)}).validate()
    assert (caught.value.expected, caught.value.actual) == ((4, 12), (12, 12))


def test_weights_of_integers_are_refused() -> None:
    with pytest.raises(CheckpointError, match="floating point"):
        Checkpoint(CONFIG, zeros(CONFIG) | {"layers.0.wk": np.zeros((4, 12), np.int32)}).validate()


def test_a_quantised_norm_is_refused() -> None:
    norm = quantize_weights(np.ones(12, np.float32), 4)
    with pytest.raises(CheckpointError, match="final_norm is quantised"):
        Checkpoint(CONFIG, zeros(CONFIG) | {"final_norm": norm}).validate()


def test_rope_tables_of_another_length_are_refused() -> None:
    table = np.zeros((4, 1), np.float32)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(CONFIG, zeros(CONFIG), rope_tables=(table, table)).validate()
    assert (caught.value.expected, caught.value.actual) == ((3, 1), (4, 1))
