"""`harness trace`: its sentence, its exit status, its page, and what it says to programs that write no trace."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.__main__ import main
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
    assert "as if: attention-unscaled: " in out
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
        ("print('hello')", '["TEXT"]', "claims no level TRACE"),
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
