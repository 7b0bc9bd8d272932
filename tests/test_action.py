"""The GitHub Action: its file is what it should be, and its shell steps do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.parrots import make_parrot

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def action():
    return yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))


def inputs_of(action, **given):
    return {name: str(given.get(name, field.get("default", ""))) for name, field in action["inputs"].items()}


@pytest.fixture
def runner(action, tmp_path):
    """Run the shell steps as a runner would, with a Python that installs nothing and judges by a stub."""
    temp = tmp_path / "runner"
    log = tmp_path / "log"
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    # `python -m venv` makes a copy of the stub, `pip install` is noted down, `-m harness` runs with parrots' goldens.
    stub.write_text(
        f"""#!/usr/bin/env bash
echo "$@" >> {log}
case "$2" in
    venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    pip) ;;
    harness) shift 2; exec {sys.executable} {tmp_path}/judge.py "$@" ;;
    *) exit 99 ;;
esac
"""
    )
    stub.chmod(0o755)
    (tmp_path / "judge.py").write_text(
        f"""
import os, pathlib, sys
sys.path.insert(0, {str(ROOT)!r})
import harness.conformance.case, harness.conformance.check
from harness.bench import compare
from harness.__main__ import main
from tests.parrots import judge_bytes, make_goldens
root = pathlib.Path({str(tmp_path)!r}, "golden")
make_goldens(root)
harness.conformance.case.golden_dir = lambda: root
harness.conformance.check.verify_group = judge_bytes
if result := os.environ.get("COMPARED"):
    from harness.benchfile import Comparison, Result
    def changes(old, new, **_):
        comparison = Comparison(Result[result], 0.5, 0.4, 0.6, 0.99, 9)
        return [compare.Change(row.key, comparison, "in pretence") for row in new.rows]
    compare.changes = changes
sys.exit(main(sys.argv[1:]))
"""
    )
    files = {name: tmp_path / name for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    for path in files.values():
        path.touch()

    def run(**given):
        inputs = inputs_of(action, **given)
        contexts = {**{f"inputs.{k}": v for k, v in inputs.items()}, "github.action_path": str(ROOT)}
        environment = {
            **os.environ,
            **{name: str(path) for name, path in files.items()},
            "RUNNER_TEMP": str(temp),
            "HARNESS_CACHE": str(tmp_path / "cache"),
            "PATH": f"{stub.parent}:{os.environ['PATH']}",
        }
        status = 0
        for step in action["runs"]["steps"]:
            if "run" not in step:
                continue
            own = {
                name: re.sub(r"\$\{\{ *([a-z._-]+) *\}\}", lambda found: contexts[found[1]], value)
                for name, value in step.get("env", {}).items()
            }
            # As a runner starts `shell: bash`.
            bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
            status = subprocess.run(bash, cwd=tmp_path, env={**environment, **own}, check=False).returncode
            if status:
                break
        written = files["GITHUB_OUTPUT"].read_text().splitlines()
        outputs = dict(line.split("=", 1) for line in written if line)
        return status, outputs, files["GITHUB_STEP_SUMMARY"].read_text(), log.read_text()

    return run


def test_it_is_a_composite_action_whose_inputs_and_outputs_are_described(action):
    assert action["runs"]["using"] == "composite"
    for field in [*action["inputs"].values(), *action["outputs"].values()]:
        assert field["description"]
    assert all(step["shell"] == "bash" for step in action["runs"]["steps"] if "run" in step)


def test_no_input_is_pasted_into_a_shell_script(action):
    """An expression inside `run` would let an input be a command."""
    assert not [step for step in action["runs"]["steps"] if "${{" in step.get("run", "")]


def test_every_input_is_used_and_every_expression_has_its_input(action):
    text = (ROOT / "action.yml").read_text("utf-8")
    used = set(re.findall(r"inputs\.([a-z-]+)", text))
    assert used == set(action["inputs"])


def test_a_right_program_passes_with_all_documents(runner, tmp_path):
    status, outputs, summary, log = runner(impl=make_parrot(tmp_path / "good"))
    assert (status, outputs["passed"]) == (0, "true")
    assert "### Conformance: pass" in summary
    assert json.loads((tmp_path / outputs["badge"]).read_text())["color"] == "brightgreen"
    assert (tmp_path / outputs["junit"]).is_file()
    assert (tmp_path / outputs["run-file"]).is_file()
    assert f"pip install --quiet {ROOT}" in log


def test_a_wrong_program_fails_the_step_and_still_leaves_the_summary(runner, tmp_path):
    status, outputs, summary, _ = runner(impl=make_parrot(tmp_path / "bad", says={"two": "x"}))
    assert (status, outputs["passed"]) == (1, "false")
    assert "MISMATCH" in summary
    assert json.loads((tmp_path / outputs["badge"]).read_text())["color"] == "red"


def test_a_wrong_request_fails_the_step(runner):
    status, outputs, summary, _ = runner(impl="no-such-program")
    assert (status, outputs["passed"], summary) == (2, "false", "")


def test_inputs_become_options(runner, tmp_path):
    good = make_parrot(tmp_path / "good")
    *_, log = runner(impl=f"{good} {good}", quick="true", models="gqa", suite="core,tinystories", jobs="2")
    call = next(line for line in log.splitlines() if line.startswith("-m harness check"))
    for words in (f"{good} {good}", "--quick", "--models gqa", "--suite core,tinystories", "--jobs 2"):
        assert words in call


def test_a_mode_that_does_not_exist_fails_the_step(runner):
    status, outputs, summary, log = runner(impl="c", mode="guess")
    assert (status, outputs, summary) == (2, {"passed": "false"}, "")
    assert "harness" not in log.replace("llama-harness", "")


# ---- Speed


def test_speed_is_measured_told_and_compared(runner, tmp_path, monkeypatch):
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    asked = {"impl": "compact", "mode": "bench", "models": "260K", "rounds": 1}
    status, outputs, summary, log = runner(**asked)
    assert (status, outputs) == (0, {"passed": "true", "run-file": "llama-harness/bench.jsonl"})
    assert "| model | compact | notes |" in summary
    assert "Medians of interleaved rounds" in summary
    assert "--other-builds" not in log
    baseline = (tmp_path / outputs["run-file"]).rename(tmp_path / "before.jsonl")
    for result, expected in (("SLOWER", 1), ("INCONCLUSIVE", 0)):
        monkeypatch.setenv("COMPARED", result)
        status, outputs, summary, log = runner(**asked, baseline=baseline)
        assert (status, outputs["passed"]) == (expected, str(expected == 0).lower())
        assert result in summary
        assert "--tolerance 5% --other-builds" in log


def test_several_programs_are_measured_side_by_side(runner):
    status, _, _, log = runner(impl="no-such one", mode="bench", models="260K,15M", precision="f32,q8", threads="1,2")
    assert status == 2
    call = next(line for line in log.splitlines() if line.startswith("-m harness bench"))
    for words in ("--impls no-such,one", "--models 260K,15M", "--precision f32,q8", "--threads 1,2", "--budget 300"):
        assert words in call
