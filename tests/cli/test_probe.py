"""`harness probe`: what it prints, its exit status, and what it says to programs that cannot be asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.diagnosis.self_naming import files

QUICK = (("short", "gqa"), ("peaked", "mqa"))


@pytest.fixture(autouse=True)
def two_probes(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(files, "PLAN", QUICK)
    monkeypatch.setenv("HARNESS_CACHE", str(_cache(tmp_path_factory)))


_CACHES: list[Path] = []


def _cache(factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole module: its probes are made once."""
    if not _CACHES:
        _CACHES.append(factory.mktemp("cache"))
    return _CACHES[0]


def port(
    directory: Path, fault: str, *, flags: str = '"-t", "{temperature}", "-i", "{prompt}"', more: str = ""
) -> str:
    """A program with one fault of the catalogue, or none, behind a manifest."""
    path = directory / "impl.toml"
    path.write_text(
        f'name = "port"\nformats = ["llama2c-v0"]\n{more}\n'
        f'run = ["{sys.executable}", "-m", "harness.diagnosis.faulty", "{fault}", "{{model}}", '
        f'"-z", "{{tokenizer}}", "-n", "{{steps}}", {flags}]\n'
    )
    return str(path)


def test_a_right_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", port(tmp_path, "none")]) == 0
    out = capsys.readouterr().out
    assert "gqa-short   <ok>\nmqa-peaked  <ok>\n" in out
    assert "OK: " in out


def test_a_bug_its_fix_and_the_runner_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tmp_path / "probe.json"
    assert main(["probe", port(tmp_path, "attention-unscaled"), "--json", str(document)]) == 1
    out = capsys.readouterr().out
    assert "gqa-short   <attention-unscaled>  instead of <ok>" in out
    assert "\nBUG: attention-unscaled\n" in out
    assert "the fix: divide them" in out
    assert "it explains all 2 answers; no other of the " in out
    found = json.loads(document.read_text("utf-8"))
    assert found["diagnosis"]["conclusion"] == "named"
    assert [one["name"] for one in found["diagnosis"]["suspects"]] == ["attention-unscaled"]
    assert [one["said"] for one in found["heard"]] == ["<attention-unscaled>", "<attention-unscaled>"]


def test_a_wrong_program_that_no_known_bug_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends one prompt early, so that the state is another one."""
    assert main(["probe", port(tmp_path, "forced-one-short")]) == 1
    out = capsys.readouterr().out
    assert "WRONG, and none of the known bugs" in out
    assert "nearest: " in out


def test_a_program_that_crashes_everywhere_is_not_given_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", port(tmp_path, "header-big-endian")]) == 1
    out = capsys.readouterr().out
    assert "gave no answer to any probe" in out
    assert "(crash)" in out


def test_json_to_stdout_is_nothing_but_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", port(tmp_path, "none"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["impl"] == "port"


@pytest.mark.parametrize(
    ("flags", "more", "message"),
    [
        ('"-t", "{temperature}"', "", "no way to be given a prompt"),
        ('"-i", "{prompt}"', "", "no way to be given a temperature"),
        ('"-t", "{temperature}", "-i", "{prompt}"', "needs = { head_dim_multiple = 64 }", "at least 2"),
    ],
)
def test_a_program_that_cannot_be_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, more: str, message: str
) -> None:
    assert main(["probe", port(tmp_path, "none", flags=flags, more=more)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]


def test_make_wants_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "make"]) == 2
    assert "harness probe make DIR" in capsys.readouterr().err


def test_make_writes_models_and_a_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "PLAN", QUICK[1:])
    monkeypatch.setattr(files, "PLAN_INT8", ())
    assert main(["probe", "make", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"2 probes in {tmp_path / 'out'}; start with {tmp_path / 'out' / 'README.md'}\n"
    assert (tmp_path / "out" / "v0" / "mqa-peaked.bin").is_file()
