"""impls/compact prints what llama2.c prints, and stays what it is: short, whole, and free of anything but numpy."""

import ast
import hashlib
import importlib.util
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.adapters.manifest import load
from harness.checkpoint import read
from harness.engine import Engine

from .llama2c_goldens import DECODINGS, ENCODINGS, GOLDENS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "impls" / "compact"
PROGRAM = SOURCE / "llama.py"
MODELS = ROOT / "golden" / "models"
GQA = (MODELS / "gqa.bin", "-z", MODELS / "gqa-tok.bin")
GENERATED = [golden for golden in GOLDENS if "chat" not in golden.args and not golden.model.startswith("q8")]


def run(*args, cwd=None):
    command = [sys.executable, str(PROGRAM), *map(os.fsencode, map(str, args))]
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, timeout=120, env=env, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def modules():
    """The two files as modules, imported as the program imports them."""
    loaded = {}
    for name in ("files", "llama"):
        spec = importlib.util.spec_from_file_location(name, SOURCE / f"{name}.py")
        loaded[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded[name])
    yield loaded
    for name in loaded:
        del sys.modules[name]


# ---- What it promises to be


def test_the_llama_is_one_file_of_at_most_250_lines():
    assert len(PROGRAM.read_text().splitlines()) <= 250


@pytest.mark.parametrize("name", ["llama.py", "files.py"])
def test_it_imports_numpy_and_the_standard_library_only(name):
    imported = set()
    for node in ast.walk(ast.parse((SOURCE / name).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported <= {"numpy", "files"} | set(sys.stdlib_module_names)


def test_the_manifest_is_complete():
    [manifest] = load(SOURCE)
    assert (manifest.name, manifest.modes, manifest.conventions) == ("compact", ("generate",), "llama2.c")


# ---- Goldens


@pytest.mark.parametrize("golden", GENERATED, ids=lambda golden: golden.name)
def test_stdout_is_that_of_llama2c(golden, model_path, tok512):
    done = run(model_path(golden.model), "-z", tok512, *golden.args)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).hexdigest() == golden.sha256, done.stdout.decode(errors="replace")
    assert re.fullmatch(rb"achieved tok/s: (\d+\.\d{6}|inf)\n", done.stderr)


def test_version_1_prints_what_version_0_prints(published, tok512):
    [golden] = [golden for golden in GOLDENS if golden.name == "G1"]
    done = run(published / "stories260K_v1.bin", "-z", tok512, *golden.args)
    assert hashlib.sha256(done.stdout).hexdigest() == golden.sha256


@pytest.mark.parametrize(("text", "ids"), [(text, ids) for text, ids, _ in ENCODINGS if ids])
def test_texts_are_encoded_as_llama2c_does(text, ids, modules, tok512):
    tokenizer = modules["files"].Tokenizer.read(tok512, 512)
    assert tokenizer.encode(text) == [int(i) for i in ids.split()]


@pytest.mark.parametrize(("before", "token", "text"), DECODINGS)
def test_pieces_are_printed_as_llama2c_does(before, token, text, modules, tok512):
    # Every text of these vectors is one that the printing filter lets pass, or is empty.
    assert modules["files"].Tokenizer.read(tok512, 512).printed(before, token) == text


# ---- Properties


@pytest.mark.parametrize("name", ["gqa", "mha", "mqa"])
def test_logits_are_those_of_the_reference(name, modules):
    # float32 against float64, logits up to about 20: 1e-4 leaves room for other BLAS kernels.
    path = MODELS / f"{name}.bin"
    checkpoint = read(path)
    ids = [1, *np.random.default_rng(3).integers(3, checkpoint.config.vocab_size, 40).tolist()]
    reference = Engine(checkpoint.config, checkpoint.tensors, dtype=np.float64).logits(ids)
    llama = modules["llama"].Llama(*modules["files"].read_checkpoint(path))
    one_by_one = np.array([llama.read([i]) for i in ids])
    assert np.abs(one_by_one - reference).max() < 1e-4
    llama = modules["llama"].Llama(*modules["files"].read_checkpoint(path))
    llama.read(ids[:17])
    assert np.abs(llama.read(ids[17:]) - reference[-1]).max() < 1e-4


# ---- Hostile input


@pytest.mark.parametrize(
    "args", [[], ["x.bin", "-t"], ["x.bin", "t", "0"], ["x.bin", "-m", "chat"], ["x.bin", "-n", "abc"]]
)
def test_bad_arguments_print_the_usage(args):
    done = run(*args)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"usage: ")


def test_truncated_files_are_refused_in_one_line(tmp_path):
    model, tokenizer = GQA[0].read_bytes(), GQA[2].read_bytes()
    for name, size in [("model", n) for n in (0, 3, 27, 28, 5000, len(model) * 9 // 10)] + [("tokenizer", 100)]:
        files = {"model": model, "tokenizer": tokenizer}
        files[name] = files[name][:size]
        for part, content in files.items():
            (tmp_path / f"{part}.bin").write_bytes(content)
        done = run("model.bin", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, b""), (name, size)
        assert re.fullmatch(rb"llama.py: [^\n]+\n", done.stderr), done.stderr


@pytest.mark.parametrize(
    "header", [(0,) * 7, (-64, 1, 1, 1, 1, 9, 9), (9, 9, 9, 9, 9, 2**31 - 1, 9), (10, 1, 1, 3, 1, 9, 9)]
)
def test_impossible_headers_are_refused(header, tmp_path):
    (tmp_path / "model.bin").write_bytes(struct.pack("<7i", *header) + bytes(1000))
    done = run(tmp_path / "model.bin")
    assert done.returncode == 1
    assert re.fullmatch(rb"llama.py: [^\n]+\n", done.stderr), done.stderr
