"""`harness report`: every form of a run file."""

import json
import xml.etree.ElementTree as ET

import pytest

from harness.__main__ import main
from tests.parrots import make_parrot


@pytest.fixture
def run_file(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    main(["check", str(make_parrot(tmp_path / "port", says={"two": "Two cats"})), "--out", str(path)])
    capsys.readouterr()
    return path


def rendered(capsys, *args):
    assert main(["report", *map(str, args)]) == 0
    return capsys.readouterr().out


def test_every_form_is_rendered(run_file, capsys):
    assert "port: wrong: 1 MISMATCH" in rendered(capsys, run_file)
    assert rendered(capsys, run_file, "--to", "md").startswith("### Conformance: fail")
    assert rendered(capsys, run_file, "--to", "html").startswith("<!doctype html>")
    assert ET.fromstring(rendered(capsys, run_file, "--to", "junit").encode()).get("failures") == "1"
    assert json.loads(rendered(capsys, run_file, "--to", "badge"))["schemaVersion"] == 1
    assert json.loads(rendered(capsys, run_file, "--to", "json"))["passed"] is False


def test_out_names_a_file(run_file, tmp_path, capsys):
    assert rendered(capsys, run_file, "--to", "badge", "--out", tmp_path / "badge.json") == ""
    assert json.loads((tmp_path / "badge.json").read_text())["color"] == "red"


def test_a_run_that_was_cut_short_is_never_shown_as_complete(run_file, capsys):
    lines = run_file.read_bytes().splitlines(keepends=True)
    run_file.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    printed = " ".join(rendered(capsys, run_file).split())
    assert "the run is not complete" in printed
    assert "cut short: 1 of 3 verdicts" in printed
    assert "was dropped" in printed
    assert json.loads(rendered(capsys, run_file, "--to", "badge"))["message"] == "incomplete"


@pytest.mark.parametrize("content", [None, b"", b"hello\n"])
def test_what_is_no_run_file_is_2(content, tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert main(["report", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_last_run_is_2(capsys):
    assert main(["report"]) == 2
    assert "there is no last run" in capsys.readouterr().err


def test_a_form_that_does_not_exist_is_2(run_file):
    assert main(["report", str(run_file), "--to", "docx"]) == 2
