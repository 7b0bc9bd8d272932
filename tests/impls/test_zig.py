"""impls/zig prints what llama2.c prints, with vectors, without them and with threads, and survives every file."""

import hashlib
import os
import re
import shutil
import subprocess

import pytest

from harness.adapters import toolchain
from harness.adapters.manifest import expand, load
from harness.errors import MissingDependency

from . import contract
from .contract import GOLDEN, IMPLS, assert_golden, run, run_golden
from .llama2c_goldens import GOLDENS, quantize_checkpoint
from .tiny import random_v0

SOURCE = IMPLS / "zig"
MANIFESTS = {manifest.name: manifest for manifest in load(SOURCE)}


# ---- Builds


@pytest.fixture(scope="session")
def zig(tmp_path_factory):
    try:
        words = toolchain.tool("zig")
    except MissingDependency:
        pytest.skip("no zig: pip install 'llama-harness[impls]'")
    caches = tmp_path_factory.mktemp("zig-caches")

    def compile_(*args):
        # What one build has compiled of Zig's library the next need not; later flags win.
        flags = ["--cache-dir", str(caches), "--global-cache-dir", str(caches)]
        done = subprocess.run([*words, *args, *flags], capture_output=True, text=True, cwd=SOURCE, check=False)
        assert done.returncode == 0, done.stderr
        return done

    return compile_


@pytest.fixture(scope="session")
def build(zig, tmp_path_factory):
    """Build as the manifest says for the implementation of that name."""

    def build(name, *extra_flags):
        out = tmp_path_factory.mktemp(name)
        (command,) = MANIFESTS[name].build
        filled = expand(command[1:], {"out": os.fsencode(out), "src": os.fsencode(SOURCE), "work": os.fsencode(out)})
        zig(*map(os.fsdecode, filled), *extra_flags)
        return out / "run"

    return build


@pytest.fixture(scope="session")
def program(build):
    return build("zig")


@pytest.fixture(scope="session")
def checked(build):
    """With safety checks: an index out of bounds or an overflow aborts, which is no honest error."""
    return build("zig", "-O", "ReleaseSafe", "-fno-stack-check")


# ---- Goldens


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_stdout_is_that_of_llama2c(golden, program, model_path, tok512):
    assert_golden(run_golden(program, golden, model_path, tok512), golden)


@pytest.mark.parametrize("name", ["G5", "G8", "G12", "G20", "seq32", "rev-cls", "C1", "C6", "Q2", "Q4", "Q6"])
def test_goldens_break_no_invariant(name, checked, model_path, tok512):
    assert_golden(run_golden(checked, GOLDEN[name], model_path, tok512), GOLDEN[name])


def test_one_lane_prints_the_same_text(build, model_path, tok512):
    scalar = build("zig-scalar")
    for name in ("G1", "G5", "G12", "C5", "Q1", "Q7"):
        assert_golden(run_golden(scalar, GOLDEN[name], model_path, tok512), GOLDEN[name])


def test_version_1_prints_what_version_0_prints(program, published, tok512):
    done = run(program, published / "stories260K_v1.bin", "-z", tok512, *GOLDEN["G1"].args)
    assert hashlib.sha256(done.stdout).hexdigest() == GOLDEN["G1"].sha256


def test_the_functions_are_those_of_the_c_library(program):
    """Zig's own go before them unless its runtime is left out."""
    symbols = shutil.which("nm")
    if symbols is None:
        pytest.skip("no nm")
    done = subprocess.run([symbols, "-D", program], capture_output=True, text=True, check=False)
    for name in ("expf", "cosf", "sinf", "powf"):
        assert re.search(rf"\bU _?{name}\b", done.stdout)


# ---- Kernels


@pytest.mark.parametrize("cpu", ["native", "baseline"])
def test_kernels(zig, cpu):
    flags = ["-lc", "-fno-compiler-rt", "-fno-stack-check", "-O", "ReleaseSafe", f"-mcpu={cpu}"]
    done = zig("test", *flags, "--test-runner", "test_runner.zig", "kernels_test.zig")
    assert done.stderr == ""


# Wide and long enough that all threads and whole vectors of int8 groups take part; no group divides hidden_dim.
WIDE = {"dim": 512, "hidden_dim": 1000, "n_layers": 1, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 512}
WIDE |= {"seq_len": 160}


@pytest.mark.parametrize("group", [None, 64, 32, 16])
def test_neither_threads_nor_checks_change_a_byte(group, program, checked, tok512, tmp_path):
    checkpoint, _ = random_v0(WIDE, scale=0.1)
    if group is not None:
        checkpoint = quantize_checkpoint(checkpoint, group=group)
    model = tmp_path / "wide.bin"
    model.write_bytes(checkpoint)
    args = [model, "-z", tok512, "-s", "4", "-p", "1", "-n", "0"]
    expected = run(program, *args)
    assert expected.returncode == 0, expected.stderr
    assert len(set(expected.stdout)) > 20  # a text, not one token for ever
    for other in (run(program, *args, "-j", "3"), run(program, *args, "-j", "0"), run(checked, *args, "-j", "2")):
        assert (other.returncode, other.stdout) == (0, expected.stdout)


# ---- Command line


def test_the_manifest_names_three_implementations():
    assert list(MANIFESTS) == ["zig", "zig-q8", "zig-scalar"]
    assert MANIFESTS["zig-q8"].formats == ("llama2c-v2",)
    for manifest in MANIFESTS.values():
        assert manifest.modes == ("generate", "chat")
        assert "{threads}" in manifest.run
        assert "-fno-compiler-rt" in manifest.build[0]


class TestCommandLine(contract.ThreadedCommandLine):
    pass


class TestHostileFiles(contract.HostileFiles, contract.HostileInt8):
    versions = (0, 1, 2)
