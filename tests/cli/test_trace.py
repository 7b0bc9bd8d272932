"""`harness trace`: its sentence, its exit status, its page, and what it says to programs that write no trace."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.conformance.selftest.compiled import fault_files, patched
from harness.models import impls_dir
from harness.trace.stream import VARIABLE

# A port in a few lines: the reference engine with one operation replaced, if any, that records what it computes.
PORT = """
import os, sys
from dataclasses import replace
from harness import checkpoint
from harness.engine import LIBRARY, Engine, generate
from harness.trace.stream import TraceWriter
found = checkpoint.read(sys.argv[1])
ops = {ops}
with open(os.environ["HARNESS_TRACE"], "wb") as file:
    list(generate(Engine(found.config, found.tensors, ops=ops), [1, 40, 50], steps=8, taps=TraceWriter(file).at))
print("a text")
"""


def port(directory: Path, source: str, levels: str = '["TEXT", "TRACE"]') -> str:
    (directory / "port.py").write_text(source)
    path = directory / "impl.toml"
    path.write_text(
        f'name = "port"\nlevels = {levels}\nformats = ["llama2c-v0"]\n'
        f'run = ["{sys.executable}", "{{src}}/port.py", "{{model}}"]\n'
    )
    return str(path)


def test_a_right_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    impl = port(tmp_path, PORT.format(ops="LIBRARY"))
    assert main(["trace", impl]) == 0
    out = capsys.readouterr().out
    assert "level TRACE: 8 tokens of port on gqa" in out
    assert out.splitlines()[-1] == "port: every recorded operation is right"


def test_a_wrong_program_its_operation_and_its_bug(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    impl = port(tmp_path, PORT.format(ops="replace(LIBRARY, scale=lambda step, scores: scores)"))
    page, document = tmp_path / "page.html", tmp_path / "trace.json"
    assert main(["trace", impl, "--html", str(page), "--json", str(document)]) == 1
    out = capsys.readouterr().out
    assert "first wrong: scores of layer 0 (the attention scores) at position 0" in out
    assert " (attention-unscaled); the fix: " in " ".join(out.split())
    assert out.splitlines()[-1] == "port: scores of layer 0 is the first wrong operation"
    html = page.read_text("utf-8")
    assert "<h1>port on gqa:" in html
    assert 'class="far first"' in html or 'class="wrong first"' in html
    found = json.loads(document.read_text("utf-8"))
    assert (found["wrong"][0]["name"], found["wrong"][0]["layer"]) == ("scores", 0)
    assert [name for name, _, _ in found["explanations"]] == ["attention-unscaled"]


@pytest.mark.parametrize(
    ("source", "levels", "word"),
    [
        ("print('hello')", '["TEXT"]', "has no temperature, so it cannot decode greedily"),
        ("print('hello')", '["TEXT", "TRACE"]', "wrote no trace"),
        (
            f"import os; print(1); open(os.environ['{VARIABLE}'], 'w').write('x')",
            '["TEXT", "TRACE"]',
            "begins with b'x'",
        ),
        (
            f"import os; print(1); open(os.environ['{VARIABLE}'], 'w').write('harness-trace 1\\n')",
            '["TEXT", "TRACE"]',
            "no token is recorded",
        ),
    ],
)
def test_what_is_no_trace_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, levels: str, word: str
) -> None:
    assert main(["trace", port(tmp_path, source, levels)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert word in captured.err.splitlines()[-1]


def test_a_program_that_crashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", port(tmp_path, "import os; print('x', flush=True); os.abort()")]) == 1
    assert "ended by SIGABRT" in capsys.readouterr().err


def test_the_numpy_implementation_claims_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "numpy", "-n", "20", "--model", "mqa"]) == 0
    assert "20 tokens of numpy on mqa" in capsys.readouterr().out
    assert main(["trace", "numpy-q8", "-n", "20"]) == 0
    assert "numpy-q8 on gqa-q8" in capsys.readouterr().out


# ---- from text alone ---------------------------------------------------------------------------------------------


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[str | None], str]:
    """The path of the manifest of impls/c with a fault compiled in."""

    def made(fault: str | None) -> str:
        (source,) = (one for one in fault_files(impls_dir()) if one.program == "c")
        patch = next((one for one in source.patches if one.name == fault), None)
        assert (patch is None) == (fault is None)
        manifest = patched(source, patch)
        folder = tmp_path / (fault or "right")
        shutil.copytree(manifest.src, folder)
        command = ", ".join(json.dumps(word) for word in manifest.run)
        build = ", ".join(json.dumps(word) for word in manifest.build[0])
        (folder / "impl.toml").write_text(f'name = "port"\nbuild = [{build}]\nrun = [{command}]\n')
        return str(folder / "impl.toml")

    return made


def test_a_right_program_by_its_text(
    compiled: Callable[[str | None], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", compiled(None)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith(
        "black box: port records no trace (no level TRACE), so what it prints is traced; "
    )
    assert out.splitlines()[-1] == "port: no sub-block is wrong"
    assert "feed-forward" in out
    assert "final norm" in out


def test_a_wrong_program_by_its_text(
    compiled: Callable[[str | None], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, document = tmp_path / "page.html", tmp_path / "trace.json"
    assert main(["trace", compiled("rope-half-split"), "--html", str(page), "--json", str(document)]) == 1
    out = capsys.readouterr().out
    said = " ".join(out.split())
    assert "first wrong: attention of layer 0: expected " in said
    assert "diverges with layer 0 alone, the feed-forward off, one head, " in said
    assert "look at the rotation of q and k" in said
    assert " (rope-half-split); the fix: " in said
    assert out.splitlines()[-1] == "port: attention of layer 0 is the first wrong sub-block"
    html = page.read_text("utf-8")
    for words in ("<h1>port on gqa:", 'class="far first"', "still diverges"):
        assert words in html
    found = json.loads(document.read_text("utf-8"))
    assert found["first"] == [0, "attention"]
    assert found["diagnosis"]["suspects"][0]["name"] == "rope-half-split"
    assert found["readings"][0]["ratio"] < 4 < found["readings"][1]["ratio"]


def test_a_program_that_records_is_asked_for_its_text_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "c", "--black-box", "--model", "mha"]) == 0
    assert capsys.readouterr().out.startswith("black box: asked for by --black-box; ")


def test_its_prompts_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "c", "--black-box", "-i", "Once"]) == 2
    assert "has prompts of its own" in capsys.readouterr().err


def test_a_text_without_codes_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "port.py").write_text("print('hello')")
    run = json.dumps([sys.executable, "{src}/port.py", "{model}", "{temperature}", "{prompt}"])
    (tmp_path / "impl.toml").write_text(f'name = "port"\nrun = {run}\n')
    assert main(["trace", str(tmp_path / "impl.toml")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "printed none of the codes" in captured.err.splitlines()[-1]


def test_a_program_that_reads_tied_classifiers_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "port.py").write_text("print('hello')")
    run = json.dumps([sys.executable, "{src}/port.py", "{model}", "{temperature}", "{prompt}"])
    (tmp_path / "impl.toml").write_text(f'name = "port"\nneeds = {{ tied = true }}\nrun = {run}\n')
    assert main(["trace", str(tmp_path / "impl.toml")]) == 2
    assert "reads tied classifiers only" in capsys.readouterr().err
