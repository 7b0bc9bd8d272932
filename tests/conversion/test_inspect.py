"""What `harness inspect` says of memory and of tokenizers, beside what tests/cli/test_convert.py sees of it."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from harness import models
from harness.__main__ import main
from harness.conversion.inspect import available_memory

MODELS = models.golden_dir() / "models"


def test_memory_without_a_limit_is_the_machine_s(tmp_path: Path) -> None:
    there = psutil.virtual_memory()
    assert 0 < available_memory(tmp_path) <= there.total
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert available_memory(tmp_path) > 1 << 20


def test_memory_within_a_container_is_what_its_limit_leaves(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert available_memory(tmp_path) == 2_000_000
    (tmp_path / "memory.current").write_text("4000000\n")
    assert available_memory(tmp_path) == 0


def test_memory_by_the_older_control_groups(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("700\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("200\n")
    assert available_memory(tmp_path) == 500


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["inspect", *words, "--json", "--no-run"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_bytes_of_a_token_are_those_of_the_weights_that_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    """gqa is tied: all of its weights are read. mha is not: of its two tables one is only looked up."""
    gqa = facts(capsys, str(MODELS / "gqa.bin"))
    assert gqa["bound"]["bytes_a_token"] == 4 * gqa["n_params"] == 4 * 260_032  # type: ignore[index]
    mha = facts(capsys, str(MODELS / "mha.bin"))
    assert mha["bound"]["bytes_a_token"] == 4 * (mha["n_params"] - 397 * 70)  # type: ignore[index,operator]
    half = facts(capsys, str(MODELS / "llama3"))
    assert half["bound"]["bytes_a_token"] == 2 * half["n_params"]  # type: ignore[index,operator]
    assert half["bound"]["tokens_per_s"] == pytest.approx(  # type: ignore[index]
        half["bound"]["bytes_per_s"] / half["bound"]["bytes_a_token"]  # type: ignore[index]
    )


@pytest.mark.parametrize("model", ["gqa", "mha", "mqa", "llama3"])
def test_the_models_that_come_along_make_sense(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(models.locate(model).checkpoint), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["text"]["is_sensible"], found["problems"]) == (True, [])


def test_a_directory_s_own_tokenizer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, str(MODELS / "llama3"))
    assert (found["tokenizer"], found["problems"], found["architecture"]) == ("its own", [], "LlamaForCausalLM")


@pytest.mark.parametrize("given", ["gqa-tok.bin", "gqa"])
def test_a_tokenizer_of_any_form_may_be_named(given: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["convert", str(MODELS / "gqa.bin"), str(tmp_path / "gqa"), "-z", str(MODELS / "gqa-tok.bin"), "--quiet"]
    assert main(words) == 0
    capsys.readouterr()
    path = tmp_path / "gqa" if given == "gqa" else MODELS / given
    assert facts(capsys, str(MODELS / "gqa.bin"), "-z", str(path))["tokenizer"] == str(path)
