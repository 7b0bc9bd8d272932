"""tools/tokenizer_agreement.py: a short run finds nothing, and a planted difference is found and can be repeated."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.tokenizer import merging
from tests.derived_models import published


@pytest.fixture(scope="module")
def agreement() -> ModuleType:
    path = Path(__file__).parents[1] / "tools" / "tokenizer_agreement.py"
    spec = importlib.util.spec_from_file_location("tokenizer_agreement", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("against", ["sentencepiece", "tiktoken"])
def test_two_thousand_texts_have_the_same_ids(agreement, against, capsys):
    model = str(published("tokenizer.model"))
    assert agreement.main(["--against", against, "--model", model, "--count", "2000", "--seed", "3"]) == 0
    assert f"2,000 texts against {against}" in capsys.readouterr().out


@pytest.mark.parametrize("against", ["sentencepiece", "tiktoken"])
def test_ties_merged_from_the_right_are_found_and_repeated(agreement, against, capsys, monkeypatch):
    monkeypatch.setitem(merging.PRIORITIES, "best-left", merging.PRIORITIES["best-right"])
    monkeypatch.setattr(merging.merge, "__defaults__", (merging.PRIORITIES["best-right"], None))
    options = ["--against", against, "--model", str(published("tokenizer.model")), "--seed", "3"]
    assert agreement.main([*options, "--count", "2000"]) == 1
    fault = capsys.readouterr().err.splitlines()[0]
    number = fault.split("--only ")[1].split(":")[0]
    assert agreement.main([*options, "--only", number]) == 1
    assert capsys.readouterr().err.splitlines() == [fault]
