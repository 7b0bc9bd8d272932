"""`harness fuzz`: what it says, its exit status, its JSON document, and a failure judged again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.__main__ import main

LINES = Path(__file__).parents[1] / "miniatures" / "faulty_lines.py"
ROOT = LINES.parents[2]


@pytest.fixture
def port(tmp_path):
    def write(fault: str) -> str:
        path = tmp_path / "impl.toml"
        path.write_text(
            f'name = "port"\nlevels = ["TOKENS", "LOGITS"]\nrun = ["{sys.executable}"]\n'
            f'protocol = ["{sys.executable}", "{LINES}"]\nenv = {{ FAULT = "{fault}", PYTHONPATH = "{ROOT}" }}\n'
        )
        return str(path)

    return write


def test_a_right_program(port, tmp_path, capsys):
    assert main(["fuzz", port(""), "--models", "12", "--minutes", "4", "--out", str(tmp_path / "out")]) == 0
    out, story = capsys.readouterr()
    assert out.startswith("port: 12 models (")
    assert "LOGITS: 12 EXACT; TOKENS: " in out
    assert "a minute" in story
    assert "left" in story


def test_a_wrong_program_its_failure_and_the_command_that_shows_it_again(port, tmp_path, capsys):
    impl, document = port("attention-unscaled"), tmp_path / "fuzz.json"
    given = [
        "fuzz",
        impl,
        "--models",
        "60",
        "--minutes",
        "4",
        "--out",
        str(tmp_path / "out"),
        "--json",
        str(document),
    ]
    assert main(given) == 1
    out = capsys.readouterr().out
    assert "MISMATCH at TOKENS, at model" in out or "MISMATCH at LOGITS, at model" in out
    found = json.loads(document.read_text("utf-8"))
    assert (found["schema"], found["is_whole"], found["seed"]) == ("harness-fuzz/1", True, 1)
    (failure,) = found["impls"][0]["failures"]
    assert failure["again"] == f"harness fuzz {impl} --again {failure['directory']}"
    assert f"again:      {failure['again']}" in out

    assert main(failure["again"].split()[1:]) == 1
    assert "MISMATCH" in capsys.readouterr().out
    port("")
    assert main(failure["again"].split()[1:]) == 0
    assert "MISMATCH" not in capsys.readouterr().out


def test_json_on_stdout_is_all_that_is_there(port, tmp_path, capsys):
    given = ["fuzz", port(""), "--models", "3", "--minutes", "4", "--out", str(tmp_path / "out"), "--json", "-"]
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out)["impls"][0]["n_models"] == 3


def test_no_time_is_nothing_judged(port, tmp_path, capsys):
    assert main(["fuzz", port(""), "--minutes", "0", "--out", str(tmp_path / "out")]) == 1
    assert "nothing judged" in capsys.readouterr().out


def test_a_level_that_there_is_not(port, capsys):
    assert main(["fuzz", port(""), "--level", "SOUND"]) == 2
    assert "no level SOUND" in capsys.readouterr().err


def test_a_directory_that_holds_no_failure(port, tmp_path, capsys):
    assert main(["fuzz", port(""), "--again", str(tmp_path)]) == 2
    assert "failure.json" in capsys.readouterr().err
