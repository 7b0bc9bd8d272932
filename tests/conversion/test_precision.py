"""What lower precisions cost: sizes by hand, the order of precisions, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.__main__ import main
from harness.checkpoint import Checkpoint
from harness.conversion.precision import PRECISIONS, costs, own_text
from harness.errors import InputError
from harness.model_config import ModelConfig
from harness.models import golden_dir, load, locate
from tests.engine.test_architectures import MODELS, ids_of, weights_of


def gqa() -> Checkpoint:
    files = locate("gqa")
    return load(files.checkpoint, files.tokenizer).checkpoint


def test_sizes_by_hand() -> None:
    config = ModelConfig(32, 64, 1, 2, 2, 10, 16)
    matrices = 10 * 32 + 4 * 32 * 32 + 3 * 32 * 64
    vectors = 3 * 32
    found = {one.precision: one for one in costs(Checkpoint(config, weights_of(config)), [[1, 2, 3, 4]])}
    assert found["f32"].n_bytes == 4 * (matrices + vectors)
    assert found["f16"].n_bytes == found["bf16"].n_bytes == 2 * matrices + 4 * vectors
    assert found["q8"].n_bytes == matrices + 4 * matrices // 32 + 4 * vectors
    assert found["q4"].n_bytes == matrices * 18 // 32 + 4 * vectors


def test_fewer_bits_cost_more() -> None:
    checkpoint = gqa()
    found = {one.precision: one.quality for one in costs(checkpoint, own_text(checkpoint, n_positions=300))}
    assert list(found) == list(PRECISIONS)
    kls = [found[name].kl.mean for name in ("f32", "f16", "bf16", "q8", "q4")]
    assert kls == sorted(kls)
    assert kls[0] < 1e-10 < kls[1]
    assert found["f32"].top_1.mean == 1
    assert all(found[name].kl.low <= found[name].kl.mean <= found[name].kl.high for name in PRECISIONS)


@pytest.mark.parametrize("name", ["qwen3", "phi-2"])
def test_other_architectures_have_a_price_too(name: str) -> None:
    config = MODELS[name]
    found = list(costs(Checkpoint(config, weights_of(config)), [ids_of(config, 20)]))
    assert [one.precision for one in found] == list(PRECISIONS)
    assert all(np.isfinite(one.quality.kl.mean) for one in found)


def test_int8_models_are_refused() -> None:
    files = locate("gqa-q8")
    with pytest.raises(InputError, match="holds int8 weights"):
        next(costs(load(files.checkpoint, files.tokenizer).checkpoint, [[1, 2]]))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert main(["precision", "gqa", "--positions", "64", "--precisions", "f32,q8", "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "positions against float64" in shown
    assert "int8 in groups of 4" in shown
    assert [one["precision"] for one in json.loads(out.read_text())["precisions"]] == ["f32", "q8"]


def test_a_text_that_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    text.write_text("Once upon a time there was a little dog. " * 20)
    model = str(golden_dir() / "models/gqa.bin")
    assert main(["precision", model, "--text", str(text), "--precisions", "f16", "--positions", "50"]) == 0
    assert "50 positions" in capsys.readouterr().out
    assert main(["precision", model, "--text", str(tmp_path / "nowhere")]) == 2
    assert "is no text" in capsys.readouterr().err
    assert main(["precision", model, "--precisions", "q5"]) == 2
    assert "there is no precision q5: expected one of f32" in capsys.readouterr().err
