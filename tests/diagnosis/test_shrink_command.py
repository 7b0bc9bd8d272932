"""`harness shrink`: what it says, what it writes, its exit status; and the command that a failing check prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.__main__ import main

LINES = Path(__file__).parents[1] / "miniatures" / "faulty_lines.py"
ROOT = LINES.parents[2]


@pytest.fixture
def port(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))

    def write(fault: str) -> str:
        path = tmp_path / "impl.toml"
        path.write_text(
            f'name = "port"\nlevels = ["TOKENS"]\nrun = ["{sys.executable}"]\n'
            f'protocol = ["{sys.executable}", "{LINES}"]\nenv = {{ FAULT = "{fault}", PYTHONPATH = "{ROOT}" }}\n'
        )
        return str(path)

    return write


def test_a_wrong_program_and_its_smallest_failure(port, tmp_path, capsys):
    impl, home = port("norm-gain-ignored"), tmp_path / "repro"
    given = ["shrink", impl, "--case", "core/gqa-nora-farm", "--out", str(home), "--seconds", "20"]
    assert main(given) == 0
    out, story = capsys.readouterr()
    assert out.startswith("port: MISMATCH at TOKENS, on a model of ")
    assert f"again:   harness fuzz {impl} --again {home}" in out
    assert "core/gqa-nora-farm is a MISMATCH; making it smaller, for 20 s at most" in story
    assert (home / "model.bin").stat().st_size <= 2048
    assert (home / "README.md").is_file()
    assert main(["fuzz", impl, "--again", str(home)]) == 1
    assert "port: TOKENS" in capsys.readouterr().out


def test_a_failing_check_names_the_command_and_shrink_takes_what_it_found(port, tmp_path, capsys):
    impl = port("norm-gain-ignored")
    assert main(["check", impl, "--case", "gqa-nora-farm", "--no-diagnose"]) == 1
    assert f"harness shrink {impl} --case core/gqa-nora-farm" in capsys.readouterr().err
    assert main(["shrink", impl, "--seconds", "3"]) == 0
    out, story = capsys.readouterr()
    assert "core/gqa-nora-farm is a MISMATCH" in story
    assert str(tmp_path / "cache" / "shrunk" / "port-gqa-nora-farm") in out


def test_a_right_program_has_nothing_to_shrink(port, capsys):
    assert main(["shrink", port(""), "--case", "core/gqa-nora-farm"]) == 1
    assert "nothing fails, so there is nothing to shrink" in capsys.readouterr().err


def test_several_programs_cannot_be_shrunk_at_once(capsys):
    assert main(["shrink", "all"]) == 2
    assert "implementations, expected one" in capsys.readouterr().err
