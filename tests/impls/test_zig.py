"""impls/zig prints what llama2.c prints, with vectors, without them and with threads, and survives every file."""

import hashlib
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from harness.adapters import toolchain
from harness.adapters.manifest import expand, load
from harness.errors import MissingDependency

from .llama2c_goldens import GOLDENS, quantize_checkpoint

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "impls" / "zig"
GOLDEN_MODELS = ROOT / "golden" / "models"
GOLDEN = {golden.name: golden for golden in GOLDENS}
MANIFESTS = {manifest.name: manifest for manifest in load(SOURCE)}


def run(program, *args, stdin="", cwd=None):
    command = [str(program), *map(os.fsencode, map(str, args))]
    return subprocess.run(command, input=stdin.encode(), capture_output=True, timeout=60, cwd=cwd, check=False)


def assert_rejected(done, *words):
    """Exit status 1, one line on stderr that holds the words, nothing on stdout."""
    stderr = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b""), stderr
    assert re.fullmatch(r"run: [^\n]+\n", stderr), stderr
    for word in words:
        assert word in stderr


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


def assert_golden(program, golden, model_path, tok512, *args):
    done = run(program, model_path(golden.model), "-z", tok512, *golden.args, *args, stdin=golden.stdin)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).hexdigest() == golden.sha256, done.stdout.decode(errors="replace")
    if "chat" in golden.args:
        assert done.stderr == b""
    else:
        assert re.fullmatch(rb"achieved tok/s: (\d+\.\d{6}|inf)\n", done.stderr)


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_stdout_is_that_of_llama2c(golden, program, model_path, tok512):
    assert_golden(program, golden, model_path, tok512)


@pytest.mark.parametrize("name", ["G5", "G8", "G12", "G20", "seq32", "rev-cls", "C1", "C6", "Q2", "Q4", "Q6"])
def test_goldens_break_no_invariant(name, checked, model_path, tok512):
    assert_golden(checked, GOLDEN[name], model_path, tok512)


def test_one_lane_prints_the_same_text(build, model_path, tok512):
    scalar = build("zig-scalar")
    for name in ("G1", "G5", "G12", "C5", "Q1", "Q7"):
        assert_golden(scalar, GOLDEN[name], model_path, tok512)


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
    checkpoint = random_v0(WIDE)
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


# ---- Models


TINY = {"dim": 8, "hidden_dim": 12, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 300, "seq_len": 16}


def random_v0(config, *, tied=True):
    """Make a complete version 0 file of random weights."""
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = config.values()
    head_dim = dim // n_heads
    per_layer = 2 * dim + 2 * dim * dim + 2 * head_dim * n_kv_heads * dim + 3 * hidden_dim * dim
    n_floats = vocab_size * dim + n_layers * per_layer + dim + seq_len * head_dim + (0 if tied else vocab_size * dim)
    weights = np.random.default_rng(5).normal(size=n_floats, scale=0.1).astype("<f4")
    header = [dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size if tied else -vocab_size, seq_len]
    return struct.pack("<7i", *header) + weights.tobytes()


def tokenizer_file(pieces):
    records = (struct.pack("<fi", -float(i), len(piece)) + piece for i, piece in enumerate(pieces))
    return struct.pack("<i", max(map(len, pieces))) + b"".join(records)


def tiny_pieces():
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256)), b" "]
    pieces += [bytes([ord("a") + i]) for i in range(26)]
    return pieces + [b" " + bytes([ord("a") + i]) for i in range(TINY["vocab_size"] - len(pieces))]


@pytest.fixture
def tiny(tmp_path):
    """Write the tiny model or what is given instead, and return the arguments that name the files."""

    def write(*, checkpoint=None, tokenizer=None):
        model, vocabulary = tmp_path / "tiny.bin", tmp_path / "tokenizer.bin"
        model.write_bytes(random_v0(TINY) if checkpoint is None else checkpoint)
        vocabulary.write_bytes(tokenizer_file(tiny_pieces()) if tokenizer is None else tokenizer)
        return [model, "-z", vocabulary]

    return write


# ---- Command line


def test_the_manifest_names_three_implementations():
    assert list(MANIFESTS) == ["zig", "zig-q8", "zig-scalar"]
    assert MANIFESTS["zig-q8"].formats == ("llama2c-v2",)
    for manifest in MANIFESTS.values():
        assert manifest.modes == ("generate", "chat")
        assert "{threads}" in manifest.run
        assert "-fno-compiler-rt" in manifest.build[0]


def test_no_arguments_print_the_usage(program):
    done = run(program)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"usage: ")
    for flag in "tpsnizmyj":
        assert f"-{flag} " in done.stderr.decode()


@pytest.mark.parametrize("args", [["-t"], ["-t", "0", "-n"], ["t", "0"], ["-tt", "0"], ["-q", "0"], ["", "0"]])
def test_bad_flags_print_the_usage_before_any_file_is_opened(program, args):
    done = run(program, "/nonexistent", *args)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"usage: ")


@pytest.mark.parametrize("threads", ["-1", "257"])
def test_an_impossible_number_of_threads_is_refused(program, threads):
    assert_rejected(run(program, "/nonexistent", "-j", threads), "-j", "256", threads)


def test_files_that_cannot_be_used_are_named(program, tiny, tmp_path):
    model, *_ = tiny()
    assert_rejected(run(program, "--help"), "open", "--help")
    assert_rejected(run(program, tmp_path), str(tmp_path))
    assert_rejected(run(program, "/dev/null"), "/dev/null")
    assert_rejected(run(program, model, "-z", tmp_path), str(tmp_path))
    (tmp_path / "tokenizer.bin").unlink()
    assert_rejected(run(program, model, cwd=tmp_path), "open", "tokenizer.bin")


def test_an_unknown_mode_is_noticed_after_the_files(program, tiny):
    done = run(program, *tiny(), "-m", "poem")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"run: unknown mode: poem\nusage: ")
    assert_rejected(run(program, "/nonexistent", "-m", "poem"), "open")


SAME_RUNS = {  # arguments: others that must print the same
    ("-t", "0", "-n", "0"): [
        ("-t", "0", "-n", "abc"),
        ("-t", "0", "-n", "99999"),
        ("-t", "0", "-n", "4294967296"),
        ("-t", "-1"),
        ("-t", " +0x0p1rest"),
        ("-p", "nan", "-s", "3"),  # falls back to the likeliest token
    ],
    ("-s", "7", "-p", "0.9"): [("-s", "7.9", "-t", "1.0"), ("-s", "4294967303", "-p", "1.5")],
    ("-s", "7", "-p", "0"): [("-s", "7", "-p", "abc")],
    ("-s", "3000000000"): [("-s", "-1294967296")],
}


@pytest.mark.parametrize(
    ("args", "same"), [(args, same) for args, sames in SAME_RUNS.items() for same in sames], ids=" ".join
)
def test_numbers_are_read_as_c_reads_them(checked, tiny, args, same):
    files = tiny()
    done, other = run(checked, *files, *args), run(checked, *files, *same)
    assert (done.returncode, other.returncode) == (0, 0)
    assert other.stdout == done.stdout


def test_one_step_prints_one_piece_and_no_speed(program, model_path, tok512):
    done = run(program, model_path("stories260K"), "-z", tok512, "-t", "0", "-n", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Once\n", b"")


def test_a_full_disk_is_an_error(program, tiny):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([program, *tiny(), "-t", "0"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"cannot write" in done.stderr


@pytest.mark.parametrize("args", [("-t", "nan"), ("-t", "nan", "-p", "1"), ("-t", "inf", "-p", "0.0001")])
def test_meaningless_sampling_still_ends(checked, tiny, args):
    assert run(checked, *tiny(), "-s", "1", *args).returncode == 0


def test_chat_texts_may_be_long_and_input_may_be_missing(checked, tiny):
    files = tiny()
    args = ["-m", "chat", "-t", "0", "-n", "16", "-i", "a b" * 2000, "-y", "c" * 3000]
    assert run(checked, *files, *args).returncode == 0
    done = run(checked, *files, "-m", "chat", "-t", "0", "-n", "0", stdin="x" * 5000)
    assert done.stdout.startswith(b"Enter system prompt (optional): User: Assistant: ")
    assert run(checked, *files, "-m", "chat", "-t", "0").returncode == 0


# ---- Hostile files


def cuts(size):
    """Lengths to cut a file at: in the header, then many, then just before the end."""
    return [*range(0, 64, 3), *range(64, size, 1009), *range(size - 3, size)]


@pytest.mark.parametrize("kind", ["tied", "untied", "int8"])
def test_truncated_checkpoints_are_rejected(checked, tiny, kind):
    whole = random_v0(TINY, tied=kind != "untied")
    if kind == "int8":
        whole = quantize_checkpoint(whole, group=4)
    elif kind == "tied":
        whole = whole[: -4 * TINY["seq_len"] * 4]  # the tables that nobody reads may be missing
    files = tiny(checkpoint=whole)
    complete = run(checked, *files, "-t", "0")
    assert complete.returncode == 0, complete.stderr
    for size in cuts(len(whole)):
        files[0].write_bytes(whole[:size])
        assert_rejected(run(checked, *files, "-t", "0"), files[0].name)


HOSTILE_INTS = [0, -1, -(2**31), 2**31 - 1, 2**30, 65536 * 4096]


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("field", range(7), ids=TINY)
def test_impossible_headers_are_rejected(checked, tiny, version, field):
    whole = random_v0(TINY) if version == 0 else quantize_checkpoint(random_v0(TINY), group=4)
    if version == 1:
        whole = whole[:4] + struct.pack("<i", 1) + whole[8:256] + random_v0(TINY)[28:]
    offset = (0 if version == 0 else 8) + 4 * field
    files = tiny()
    for value in HOSTILE_INTS:
        files[0].write_bytes(whole[:offset] + struct.pack("<i", value) + whole[offset + 4 :])
        done = run(checked, *files, "-t", "0", "-n", "4")
        if field == 6 and value > 0:
            assert done.returncode == 0  # a longer context than the tables': unread, so harmless
        else:
            assert_rejected(done, files[0].name)


@pytest.mark.parametrize(
    "fields",
    [
        {"n_heads": 3},  # does not divide dim
        {"n_heads": 8, "n_kv_heads": 8},  # heads of odd width
        {"n_heads": 4, "n_kv_heads": 3},  # heads cannot share
        {"vocab_size": 1},  # no BOS
        {"dim": 2**31 - 2, "hidden_dim": 2**31 - 1, "n_layers": 2**31 - 1, "n_heads": 1, "n_kv_heads": 1},
    ],
    ids=str,
)
def test_inconsistent_headers_are_rejected(checked, tiny, fields):
    header = struct.pack("<7i", *(TINY | fields).values())
    assert_rejected(run(checked, *tiny(checkpoint=header + random_v0(TINY)[28:])), "tiny.bin")


@pytest.mark.parametrize("group", [0, -4, 3, 16, 2**31 - 1, -(2**31)])
def test_impossible_group_sizes_are_rejected(checked, tiny, group):
    whole = quantize_checkpoint(random_v0(TINY), group=4)
    assert_rejected(run(checked, *tiny(checkpoint=whole[:37] + struct.pack("<i", group) + whole[41:])), "group")


@pytest.mark.parametrize("version", [3, -1])
def test_other_checkpoint_versions_are_refused(program, tiny, version):
    whole = struct.pack("<Ii", 0x616B3432, version) + bytes(5000)
    assert_rejected(run(program, *tiny(checkpoint=whole)), f"version {version}")


def test_weights_that_are_not_numbers_do_no_harm(checked, tiny):
    for value in (np.nan, np.inf, 3e38, 1e-45):
        whole = bytearray(random_v0(TINY))
        whole[28:] = np.full((len(whole) - 28) // 4, value, "<f4").tobytes()
        int8 = bytearray(quantize_checkpoint(random_v0(TINY), group=4))
        int8[256:1056] = np.full(200, value, "<f4").tobytes()
        for checkpoint in (whole, int8):
            assert run(checked, *tiny(checkpoint=checkpoint), "-s", "1").returncode == 0


def test_truncated_tokenizers_are_rejected(checked, tiny):
    whole = tokenizer_file(tiny_pieces())
    files = tiny()
    for size in cuts(len(whole)):
        files[2].write_bytes(whole[:size])
        assert_rejected(run(checked, *files, "-t", "0"), files[2].name)


@pytest.mark.parametrize("length", [0, -1, -(2**31), 2**31 - 1, 10_000])
def test_impossible_piece_lengths_are_rejected(checked, tiny, length):
    whole = tokenizer_file(tiny_pieces())
    hostile = whole[:8] + struct.pack("<i", length) + whole[12:]
    assert_rejected(run(checked, *tiny(tokenizer=hostile), "-i", "abc"), "tokenizer.bin")


def test_a_vocabulary_that_cannot_spell_the_prompt_is_an_error(checked, tiny):
    pieces = [b"p%d" % i for i in range(TINY["vocab_size"])]
    assert_rejected(run(checked, *tiny(tokenizer=tokenizer_file(pieces)), "-i", "a"), "space")
    pieces[5] = b" "
    few = struct.pack("<7i", *(TINY | {"vocab_size": 100}).values()) + random_v0(TINY)[28:]
    assert_rejected(run(checked, *tiny(checkpoint=few, tokenizer=tokenizer_file(pieces)), "-i", "a"), "0x61")


def test_pieces_end_at_a_nul(checked, tiny):
    pieces = tiny_pieces()
    pieces[260:263] = [b"a\0zz", b"\0", b"\0\0"]
    done = run(checked, *tiny(tokenizer=tokenizer_file(pieces)), "-t", "0", "-n", "1", "-i", "a")
    assert (done.returncode, done.stdout) == (0, b"a\n")
