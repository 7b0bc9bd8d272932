"""What a user gets who names the wrong thing: one clear line, exit status 2, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import models
from harness.__main__ import main

MODELS = models.golden_dir() / "models"
GQA = MODELS / "gqa.bin"
TOKENIZER = MODELS / "gqa-tok.bin"


def missing(at: Path) -> Path:
    return at / "no-such-file.bin"


def empty(at: Path) -> Path:
    path = at / "empty.bin"
    path.touch()
    return path


def truncated(at: Path) -> Path:
    path = at / "cut.bin"
    path.write_bytes(GQA.read_bytes()[:100_000])
    return path


def a_picture(at: Path) -> Path:
    path = at / "llama.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    return path


def a_text(at: Path) -> Path:
    path = at / "README.md"
    path.write_text("# Not a model\n" * 40)
    return path


def an_empty_directory(at: Path) -> Path:
    path = at / "directory"
    path.mkdir()
    return path


def a_tokenizer(at: Path) -> Path:
    return Path(shutil.copy(TOKENIZER, at / "tok.bin"))


def huge_numbers(at: Path) -> Path:
    path = at / "huge.bin"
    path.write_bytes(struct.pack("<7i", *[2**31 - 1] * 7) + bytes(1000))
    return path


def a_config_without_weights(at: Path) -> Path:
    path = at / "hf"
    path.mkdir()
    shutil.copy(MODELS / "llama3" / "config.json", path)
    return path


def huge_config(at: Path) -> Path:
    path = at / "hf"
    shutil.copytree(MODELS / "llama3", path)
    document = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**document, "num_hidden_layers": 2**30, "vocab_size": 2**30}))
    return path


def a_truncated_safetensors(at: Path) -> Path:
    path = at / "hf"
    shutil.copytree(MODELS / "llama3", path)
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])
    return path


def a_gguf_of_nothing(at: Path) -> Path:
    path = at / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62) + bytes(64))
    return path


def an_unreadable_json(at: Path) -> Path:
    path = at / "hf"
    shutil.copytree(MODELS / "llama3", path)
    (path / "config.json").write_text("{")
    return path


WRONG = [
    missing,
    empty,
    truncated,
    a_picture,
    a_text,
    an_empty_directory,
    a_tokenizer,
    huge_numbers,
    a_config_without_weights,
    huge_config,
    a_truncated_safetensors,
    a_gguf_of_nothing,
    an_unreadable_json,
]
COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "inspect": lambda path, at: ["inspect", str(path)],
    "convert": lambda path, at: ["convert", str(path), str(at / "out.npz"), "--quiet"],
    "run": lambda path, at: ["run", str(path), "-z", str(TOKENIZER), "-n", "3"],
}


@pytest.fixture
def one_line(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail; return its only line."""

    def run(*words: str) -> str:
        status = main(list(words))
        out, err = capfd.readouterr()
        told = err.splitlines()
        assert (status, out) == (2, ""), err
        assert len(told) == 1, err
        assert told[0].startswith("harness: "), err
        assert len(told[0]) < 600
        return told[0]

    return run


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("make", WRONG)
def test_a_wrong_model_is_one_line(
    make: Callable[[Path], Path], command: str, tmp_path: Path, one_line: Callable[..., str]
) -> None:
    path = make(tmp_path)
    line = one_line(*COMMANDS[command](path, tmp_path))
    assert path.name in line
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("command", ["inspect", "convert", "run"])
@pytest.mark.parametrize("make", [missing, empty, a_picture, a_text, an_empty_directory])
def test_a_wrong_tokenizer_is_one_line(
    make: Callable[[Path], Path], command: str, tmp_path: Path, one_line: Callable[..., str]
) -> None:
    path = make(tmp_path)
    words = {
        "inspect": ["inspect", str(GQA), "-z", str(path)],
        "convert": ["convert", str(GQA), str(tmp_path / "out"), "-z", str(path), "--quiet"],
        "run": ["run", str(GQA), "-z", str(path), "-n", "3"],
    }[command]
    assert path.name in one_line(*words)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_vocabulary_is_one_line(tmp_path: Path, one_line: Callable[..., str]) -> None:
    other = str(MODELS / "mha-tok.bin")
    assert "512" in one_line("run", str(GQA), "-z", other, "-n", "3")
    assert "512" in one_line("convert", str(GQA), str(tmp_path / "out"), "-z", other, "--quiet")
    assert "512" in one_line("inspect", str(GQA), "-z", other)
    assert not (tmp_path / "out").exists()


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path, one_line: Callable[..., str]) -> None:
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    assert "is no file; name another" in one_line("convert", str(GQA), str(pipe), "--quiet")
    assert pipe.is_fifo()
    (tmp_path / "mine").write_text("mine")
    assert "mine: is there already, and is no directory" in one_line("probe", "make", str(tmp_path / "mine"))
    assert "--out: is no directory" in one_line("fuzz", "numpy", "--models", "1", "--out", str(tmp_path / "mine"))
    assert "--out: is no directory" in one_line("shrink", "numpy", "--out", str(tmp_path / "mine"))
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    [
        ["trace", "zig", "--model", "gqa-q8"],
        ["trace", "numpy", "--model", "llama4"],
        ["probe", "make"],
        ["probe", "numpy", "--models", "llama4"],
        ["shrink", "numpy", "--case", "no-such-case"],
        ["selftest", "--against", "absent.json"],
        ["check", "numpy", "--suite", "no-such-suite"],
        ["check", "numpy", "--json", "nowhere/x.json"],
        ["smoke", "no-such-program"],
    ],
    ids=" ".join,
)
def test_a_wrong_request_of_a_program_is_one_line(words: list[str], one_line: Callable[..., str]) -> None:
    assert "harness: " in one_line(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["models", "path", "llama4"], "llama4"),
        (["models", "pull", "gqa"], "gqa"),
        (["models", "make"], "needs a name"),
        (["run", "llama4"], "llama4"),
    ],
)
def test_a_wrong_name_is_one_line(words: list[str], said: str, one_line: Callable[..., str]) -> None:
    assert said in one_line(*words)


def test_a_destination_that_cannot_be_written_is_one_line(tmp_path: Path, one_line: Callable[..., str]) -> None:
    assert "nowhere" in one_line("convert", str(GQA), str(tmp_path / "nowhere" / "out.npz"), "--quiet")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    assert "taken" in one_line("convert", str(GQA), str(tmp_path / "taken"), "--quiet")
    assert ".xyz" in one_line("convert", str(GQA), str(tmp_path / "out.xyz"), "--quiet")
