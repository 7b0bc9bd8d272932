"""tools/fuzz_readers.py: a short run finds nothing, and a planted fault is found."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.checkpoint import llama2c_bin


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    path = Path(__file__).parents[1] / "tools" / "fuzz_readers.py"
    spec = importlib.util.spec_from_file_location("fuzz_readers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_readers"] = module
    spec.loader.exec_module(module)
    return module


def test_two_thousand_damaged_files_are_refused_or_read(fuzz: ModuleType, tmp_path: Path) -> None:
    outcomes, failures = fuzz.run(7, range(2000), tmp_path, None)
    assert failures == []
    assert sum(outcomes.values()) == 2000
    for reader in fuzz.READERS:
        assert outcomes[f"{reader}: refused"] > 10, reader
        if reader != "ranks":  # whose every byte counts
            assert any(name.startswith(f"{reader}: accepted") for name in outcomes), reader


def test_an_input_depends_on_its_number_only(fuzz: ModuleType, tmp_path: Path) -> None:
    one = fuzz.run(7, range(40, 41), tmp_path, None)
    content = (tmp_path / "mutated").read_bytes()
    fuzz.run(7, range(30, 41), tmp_path, None)
    assert (tmp_path / "mutated").read_bytes() == content
    assert fuzz.run(7, range(40, 41), tmp_path, None) == one


def test_a_reader_that_does_not_check_the_size_is_found(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama2c_bin, "_check_size", lambda version, *_: version == 0)
    outcomes, failures = fuzz.run(7, range(300), tmp_path, tmp_path, ("checkpoint", "tokenizer"))
    assert outcomes["checkpoint: FAILED"] == len(failures) > 10
    assert failures[0].startswith("--seed 7 --only ")
    assert list(tmp_path.glob("7-*-checkpoint.bin"))
