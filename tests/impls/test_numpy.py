"""impls/numpy prints what llama2.c prints, in each of its arithmetics."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.adapters.manifest import load

from .llama2c_goldens import GOLDENS

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "impls" / "numpy" / "run.py"
MODELS = ROOT / "golden" / "models"
GOLDEN = {golden.name: golden for golden in GOLDENS}
GQA = (MODELS / "gqa.bin", "-z", MODELS / "gqa-tok.bin")


def run(*args, stdin="", cwd=None, **env):
    command = [sys.executable, str(PROGRAM), *map(os.fsencode, map(str, args))]
    return subprocess.run(
        command, input=stdin.encode(), capture_output=True, timeout=120, env=os.environ | env, cwd=cwd, check=False
    )


def assert_golden(golden, model_path, tok512, **env):
    done = run(model_path(golden.model), "-z", tok512, *golden.args, stdin=golden.stdin, **env)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).hexdigest() == golden.sha256, done.stdout.decode(errors="replace")
    if "chat" in golden.args:
        assert done.stderr == b""
    else:
        assert re.fullmatch(rb"achieved tok/s: (\d+\.\d{6}|inf)\n", done.stderr)


# ---- Goldens


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_stdout_is_that_of_llama2c(golden, model_path, tok512):
    assert_golden(golden, model_path, tok512)


@pytest.mark.parametrize("name", ["G1", "G5", "G12", "G25", "eps-probe", "rev-cls", "C5"])
@pytest.mark.parametrize("arithmetic", ["float64", "strict"])
def test_other_arithmetics_print_the_same_text(arithmetic, name, model_path, tok512):
    assert_golden(GOLDEN[name], model_path, tok512, LLAMA_ARITHMETIC=arithmetic)


def test_version_1_prints_what_version_0_prints(published, tok512):
    done = run(published / "stories260K_v1.bin", "-z", tok512, *GOLDEN["G1"].args)
    assert hashlib.sha256(done.stdout).hexdigest() == GOLDEN["G1"].sha256


# ---- Command line


def test_the_manifest_names_four_implementations():
    manifests = {manifest.name: manifest for manifest in load(PROGRAM.parent)}
    assert list(manifests) == ["numpy", "numpy-f64", "numpy-strict", "numpy-q8"]
    assert manifests["numpy-q8"].precision == "q8"
    assert manifests["numpy-f64"].env == {"LLAMA_ARITHMETIC": "float64"}
    assert all(manifest.modes == ("generate", "chat") for manifest in manifests.values())


@pytest.mark.parametrize(
    "args",
    [[], ["x.bin", "-t"], ["x.bin", "t", "0"], ["x.bin", "-tt", "0"], ["x.bin", "-q", "0"], ["x.bin", "", "0"]],
)
def test_bad_arguments_print_the_usage_before_any_file_is_opened(args):
    done = run(*args)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"usage: ")


@pytest.mark.parametrize(
    "args",
    [
        ["/nonexistent.bin"],
        ["--help"],
        [MODELS / "models.toml"],
        [MODELS / "gqa.bin", "-z", "/nonexistent.bin"],
        [MODELS / "gqa.bin", "-z", MODELS / "gqa.bin"],
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_on_stderr(args):
    done = run(*args)
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(rb"run: [^\n]+\n", done.stderr), done.stderr


def test_an_unknown_mode_is_noticed_after_the_files():
    done = run(*GQA, "-m", "poem")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"run: unknown mode: poem\nusage: ")
    assert run("/nonexistent.bin", "-m", "poem").stderr.startswith(b"run: /nonexistent.bin")


def test_an_unknown_arithmetic_is_refused():
    assert run(*GQA, LLAMA_ARITHMETIC="float8").returncode == 1


@pytest.mark.parametrize(
    ("args", "same"),
    [
        (("-t", "0", "-n", "9"), ("-t", " +0x0p1rest", "-n", "9.9")),
        (("-t", "0", "-n", "9"), ("-t", "-1", "-n", "9")),
        (("-s", "7", "-n", "9"), ("-s", "4294967303", "-p", "1.5", "-n", "9")),
        (("-s", "3000000000", "-n", "9"), ("-s", "-1294967296", "-n", "9")),
        (("-s", "7", "-p", "1", "-n", "9"), ("-s", "7", "-p", "abc", "-n", "9")),
    ],
)
def test_numbers_are_read_as_c_reads_them(args, same):
    first, second = run(*GQA, *args), run(*GQA, *same)
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout


def test_one_step_prints_no_speed():
    done = run(*GQA, "-t", "0", "-n", "1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"\n")


def test_a_reader_that_leaves_early_is_no_error_message():
    command = [sys.executable, str(PROGRAM), *map(str, GQA), "-t", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
