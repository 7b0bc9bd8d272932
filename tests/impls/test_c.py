"""impls/c prints what llama2.c prints, and survives every file it is given."""

import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from .llama2c_goldens import (
    DECODINGS,
    ENCODINGS,
    GOLDENS,
    quantize_checkpoint,
)

SOURCE = Path(__file__).parents[2] / "impls" / "c"
BOS, SPACE_ID, FIRST_LETTER_ID = 1, 259, 260
GOLDEN = {golden.name: golden for golden in GOLDENS}

# A signal, a sanitizer report and an honest error must not look alike.
SANITIZER_EXIT = 99
ENVIRONMENT = os.environ | {
    "ASAN_OPTIONS": f"exitcode={SANITIZER_EXIT}:allocator_may_return_null=1:detect_leaks=0",
    "UBSAN_OPTIONS": f"exitcode={SANITIZER_EXIT}",
    "OMP_WAIT_POLICY": "passive",  # spinning threads starve each other on a busy machine
}
ENVIRONMENT.pop("RUN_PATH", None)


def run(program, *args, stdin="", cwd=None, path=None):
    command = [str(program), *map(os.fsencode, map(str, args))]
    env = ENVIRONMENT if path is None else ENVIRONMENT | {"RUN_PATH": path}
    return subprocess.run(
        command, input=stdin.encode(), capture_output=True, timeout=60, env=env, cwd=cwd, check=False
    )


def assert_rejected(done, *words):
    """Exit status 1, one line on stderr that holds the words, nothing on stdout."""
    stderr = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b""), stderr
    assert re.fullmatch(r"run: [^\n]+\n", stderr), stderr
    for word in words:
        assert word in stderr


# ---- Builds


@pytest.fixture(scope="session")
def compiler():
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    pytest.skip("no C compiler: neither cc nor the ziglang package")


@pytest.fixture(scope="session")
def manifest():
    return tomllib.loads((SOURCE / "impl.toml").read_text())


@pytest.fixture(scope="session")
def build_variant(compiler, manifest, tmp_path_factory):
    """Build run.c as the manifest says for the implementation of that name, every warning an error."""

    def build(name, *extra_flags):
        out = tmp_path_factory.mktemp(name)
        command = manifest.get("variant", {}).get(name, {}).get("build", manifest["build"])
        filled = [word.format(cc="{cc}", out=out, src=SOURCE) for word in command]
        flags = ["-Werror", *extra_flags]
        done = subprocess.run([*compiler, *filled[1:], *flags], capture_output=True, text=True, check=False)
        return done, out / "run"

    return build


@pytest.fixture(scope="session")
def program(build_variant):
    done, path = build_variant("c")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return path


@pytest.fixture(scope="session")
def sanitized(build_variant):
    flags = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    done, path = build_variant("c", *flags)
    if done.returncode != 0:
        pytest.skip("the compiler has no address sanitizer")
    return path


@pytest.fixture(scope="session", params=["plain", "sanitized"])
def any_program(request):
    return request.getfixturevalue({"plain": "program", "sanitized": "sanitized"}[request.param])


@pytest.fixture(scope="session")
def ask_unit(compiler, tmp_path_factory):
    """Put lines to one function of run.c and return its reply lines."""
    path = tmp_path_factory.mktemp("units") / "c_units"
    source = Path(__file__).with_name("c_units.c")
    subprocess.run([*compiler, "-O3", f"-I{SOURCE}", "-o", path, source, "-lm"], check=True)

    def ask(function, lines, *tokenizer):
        done = run(path, function, *tokenizer, stdin="".join(f"{line}\n" for line in lines))
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().splitlines()

    return ask


@pytest.fixture(scope="session", params=["plain", "sanitized"])
def kernel_check(request, compiler, tmp_path_factory):
    """The program of c_kernels.c, with the names of this machine's paths."""
    program = tmp_path_factory.mktemp("kernels") / "c_kernels"
    source = Path(__file__).with_name("c_kernels.c")
    flags = (
        ["-O3"]
        if request.param == "plain"
        else ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    )
    command = [*compiler, *flags, "-Wall", "-Wextra", "-Werror", f"-I{SOURCE}", "-o", program, source, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and request.param == "sanitized":
        pytest.skip("the compiler has no address sanitizer")
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(program=program, paths=run(program).stdout.decode().split())


# ---- Models


TINY = {"dim": 8, "hidden_dim": 12, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 300, "seq_len": 16}


def tiny_v0(*, tied=True):
    """A complete version 0 file of random weights, and the byte at which a tied one could end."""
    dim, hidden_dim, n_layers, _, _, vocab_size, seq_len = TINY.values()
    head_dim = kv_dim = 4
    per_layer = 2 * dim + 2 * dim * dim + 2 * kv_dim * dim + 3 * hidden_dim * dim
    needed = vocab_size * dim + n_layers * per_layer + dim
    n_floats = needed + seq_len * head_dim + (0 if tied else vocab_size * dim)
    weights = np.random.default_rng(5).normal(size=n_floats).astype("<f4")
    header = [*TINY.values()]
    header[5] = vocab_size if tied else -vocab_size
    return struct.pack("<7i", *header) + weights.tobytes(), 28 + 4 * needed


def tiny_pieces():
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256)), b" "]
    pieces += [bytes([ord("a") + i]) for i in range(26)]
    return pieces + [b" " + bytes([ord("a") + i]) for i in range(TINY["vocab_size"] - len(pieces))]


def tokenizer_file(pieces, *, longest=None):
    longest = max(map(len, pieces)) if longest is None else longest
    records = (struct.pack("<fi", -float(i), len(piece)) + piece for i, piece in enumerate(pieces))
    return struct.pack("<i", longest) + b"".join(records)


@pytest.fixture
def tiny(tmp_path):
    """Write the tiny model or what is given instead, and return the arguments that name the files."""

    def write(*, checkpoint=None, tokenizer=None):
        model, vocabulary = tmp_path / "tiny.bin", tmp_path / "tokenizer.bin"
        model.write_bytes(tiny_v0()[0] if checkpoint is None else checkpoint)
        vocabulary.write_bytes(tokenizer_file(tiny_pieces()) if tokenizer is None else tokenizer)
        return [model, "-z", vocabulary]

    return write


# ---- Goldens


def assert_golden(program, golden, model_path, tok512, *more, path=None):
    done = run(program, model_path(golden.model), "-z", tok512, *golden.args, *more, stdin=golden.stdin, path=path)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).hexdigest() == golden.sha256, done.stdout.decode(errors="replace")
    if "chat" in golden.args:
        assert done.stderr == b""
    else:
        assert re.fullmatch(rb"achieved tok/s: (\d+\.\d{6}|inf)\n", done.stderr)


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_stdout_is_that_of_llama2c(golden, program, model_path, tok512):
    assert_golden(program, golden, model_path, tok512)


SAMPLE_OF_GOLDENS = ["G5", "G8", "G12", "G20", "seq32", "eps-probe", "rev-cls", "C1", "C6", "Q2", "Q4", "Q6"]


@pytest.mark.parametrize("name", SAMPLE_OF_GOLDENS)
def test_goldens_are_free_of_undefined_behaviour(name, sanitized, model_path, tok512):
    assert_golden(sanitized, GOLDEN[name], model_path, tok512)


def test_every_path_prints_the_same(kernel_check, program, model_path, tok512):
    for path in kernel_check.paths:
        for name in (*SAMPLE_OF_GOLDENS, "G1", "G25", "Q1", "Q3", "Q7"):
            assert_golden(program, GOLDEN[name], model_path, tok512, path=path)


def test_a_path_that_is_not_there_is_named(program, tiny):
    done = run(program, *tiny(), path="mmx")
    assert_rejected(done, "RUN_PATH", "mmx", "portable strict")


@pytest.mark.parametrize("variant", ["c", "c-omp"])
def test_threads_change_no_byte(variant, build_variant, model_path, tok512):
    done, threaded = build_variant(variant, "-DPARALLEL_FROM=1")
    if variant == "c-omp" and done.returncode != 0:
        pytest.skip("the compiler has no OpenMP")
    assert done.returncode == 0, done.stderr
    alone = run(threaded, model_path("stories260K"), "-z", tok512, "-s", "5").stdout
    for threads in (0, 2, 3, 17):
        assert run(threaded, model_path("stories260K"), "-z", tok512, "-s", "5", "-j", threads).stdout == alone
        for name in ("G1", "G5", "rev-cls", "Q1", "Q7"):
            assert_golden(threaded, GOLDEN[name], model_path, tok512, "-j", threads)


def test_more_threads_than_rows(build_variant, tiny):
    done, threaded = build_variant("c", "-DPARALLEL_FROM=1")
    assert done.returncode == 0, done.stderr
    for checkpoint in (tiny_v0()[0], quantize_checkpoint(tiny_v0()[0], group=4)):
        files = tiny(checkpoint=checkpoint)
        expected = run(threaded, *files, "-t", "0").stdout
        assert run(threaded, *files, "-t", "0", "-j", "256").stdout == expected != b""


def test_threads_do_not_race(build_variant, model_path, tok512):
    done, watched = build_variant("c", "-DPARALLEL_FROM=1", "-g", "-O1", "-fsanitize=thread")
    if done.returncode != 0:
        pytest.skip("the compiler has no thread sanitizer")
    for threads in (2, 5):  # fewer threads than processors spin, more of them sleep
        for name in ("G12", "Q6"):
            assert_golden(watched, GOLDEN[name], model_path, tok512, "-j", threads)


@pytest.mark.parametrize("threads", ["-1", "257"])
def test_a_number_of_threads_that_makes_no_sense_is_an_error(program, tiny, threads):
    assert_rejected(run(program, *tiny(), "-j", threads), "-j", threads)


@pytest.mark.parametrize("variant", ["c-strict", "c-double", "c-fma", "c-fast"])
def test_other_honest_float32_arithmetic_prints_the_same_text(variant, build_variant, model_path, tok512):
    done, path = build_variant(variant)
    assert done.returncode == 0, done.stderr
    for name in ("G1", "G5", "G25", "eps-probe"):
        assert_golden(path, GOLDEN[name], model_path, tok512)


def test_the_manifest_runs_a_chat(manifest, program, model_path, tok512):
    golden = GOLDEN["C2"]
    keys = {
        "model": model_path(golden.model),
        "tokenizer": tok512,
        "temperature": 0,
        "topp": 0.9,
        "seed": 0,
        "steps": 100,
        "threads": 1,
    }
    command = []
    for word in manifest["chat"][1:]:
        template = manifest.get(word.strip("{}"), word) if word.endswith("_args}") else word
        words = template if isinstance(template, list) else [template]
        command += [w.format(**keys, system="You are nice", prompt="Tell me a story") for w in words]
    assert hashlib.sha256(run(program, *command).stdout).hexdigest() == golden.sha256


# ---- Command line


def test_no_arguments_print_the_usage(program):
    done = run(program)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"usage: ")
    for flag in "tpsnizjmy":
        assert f"-{flag} " in done.stderr.decode()


@pytest.mark.parametrize(
    "args", [["-t"], ["-t", "0", "-n"], ["t", "0"], ["-tt", "0"], ["--temperature", "0"], ["-q", "0"], ["", "0"]]
)
def test_bad_flags_print_the_usage_before_any_file_is_opened(program, args):
    done = run(program, "/nonexistent", *args)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"usage: ")


@pytest.mark.parametrize("path", ["/nonexistent", "--help", "-t"])
def test_the_first_argument_is_always_the_checkpoint(program, path):
    assert_rejected(run(program, path), "open", path)


def test_a_missing_tokenizer_is_named(program, tiny, tmp_path):
    model, *_ = tiny()
    assert_rejected(run(program, model, "-z", "/nonexistent"), "open", "/nonexistent")
    (tmp_path / "tokenizer.bin").unlink()
    assert_rejected(run(program, model, cwd=tmp_path), "open", "tokenizer.bin")


def test_directories_are_not_read(program, tiny, tmp_path):
    assert_rejected(run(program, tmp_path), "regular file")
    model, *_ = tiny()
    assert_rejected(run(program, model, "-z", tmp_path), "regular file")


def test_the_tokenizer_is_looked_for_in_the_working_directory(program, tiny, tmp_path):
    model, *_ = tiny()
    assert run(program, model, "-t", "0", cwd=tmp_path).returncode == 0


def test_an_unknown_mode_is_noticed_after_the_files(program, tiny):
    done = run(program, *tiny(), "-m", "poem")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"run: unknown mode: poem\nusage: ")
    assert_rejected(run(program, "/nonexistent", "-m", "poem"), "open")


SAME_RUNS = {  # arguments: others that must print the same
    ("-t", "0", "-n", "0"): [
        ("-t", "0", "-n", "abc"),
        ("-t", "0", "-n", "-5"),
        ("-t", "0", "-n", "99999"),
        ("-t", "0", "-n", "4294967296"),
        ("-t", "abc"),
        ("-t", "-1"),
        ("-t", "0", "-i", ""),
        ("-t", "1", "-t", "0"),
        ("-t", " +0x0p1rest"),
        ("-p", "nan", "-s", "3"),  # falls back to the likeliest token
    ],
    ("-s", "7", "-p", "0.9"): [
        ("-s", "7"),
        ("-s", "7.9", "-t", "1.0"),
        ("-s", "7", "-p", "1.5"),
        ("-s", "7", "-p", "-0.1"),
    ],
    ("-s", "7", "-p", "0"): [("-s", "7", "-p", "1"), ("-s", "7", "-p", "abc")],
    ("-s", "3000000000"): [("-s", "-1294967296")],
}


@pytest.mark.parametrize(
    ("args", "same"), [(args, same) for args, sames in SAME_RUNS.items() for same in sames], ids=" ".join
)
def test_numbers_are_read_as_c_reads_them(any_program, tiny, args, same):
    files = tiny()
    done, other = run(any_program, *files, *args), run(any_program, *files, *same)
    assert (done.returncode, other.returncode) == (0, 0)
    assert other.stdout == done.stdout


def test_seed_zero_is_not_the_stuck_generator(program, tiny):
    """With state 0 every coin would be 0 and the first token be chosen for ever."""
    done = run(program, *tiny(), "-s", "0", "-p", "1", "-t", "inf", "-n", "16")
    assert done.stdout.count(b"<unk>") < 16


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
def test_meaningless_sampling_still_ends(any_program, tiny, args):
    assert run(any_program, *tiny(), "-s", "1", *args).returncode == 0


def test_chat_texts_may_be_long(any_program, tiny):
    files = tiny()
    args = ["-m", "chat", "-t", "0", "-n", "16", "-i", "a b" * 2000, "-y", "c" * 3000]
    assert run(any_program, *files, *args).returncode == 0
    done = run(any_program, *files, "-m", "chat", "-t", "0", "-n", "0", stdin="x" * 5000)
    assert done.stdout.startswith(b"Enter system prompt (optional): User: Assistant: ")


def test_chat_needs_no_input(any_program, tiny):
    assert run(any_program, *tiny(), "-m", "chat", "-t", "0").returncode == 0


# ---- Hostile files


def cuts(size):
    """Lengths to cut a file at: every one in the header, then many, then just before the end."""
    return [*range(64), *range(64, size, 311), *range(size - 5, size)]


@pytest.mark.parametrize("kind", ["tied", "untied", "int8"])
def test_truncated_checkpoints_are_rejected(any_program, tiny, kind):
    whole, end = tiny_v0(tied=kind != "untied")
    if kind == "untied":
        end = len(whole)
    elif kind == "int8":
        whole = quantize_checkpoint(whole, group=4)
        end = len(whole)
    files = tiny(checkpoint=whole[:end])
    complete = run(any_program, *files, "-t", "0")
    assert complete.returncode == 0, complete.stderr
    for size in cuts(end):
        files[0].write_bytes(whole[:size])
        assert_rejected(run(any_program, *files, "-t", "0"), files[0].name)


def test_a_tied_checkpoint_may_lack_any_part_of_the_rotary_tables(program, tiny):
    whole, end = tiny_v0()
    outputs = {run(program, *tiny(checkpoint=whole[:size]), "-t", "0").stdout for size in (end, end + 6, len(whole))}
    assert len(outputs) == 1


HOSTILE_INTS = [0, -1, -(2**31), 2**31 - 1, 2**30, 65536 * 4096]


@pytest.mark.parametrize("version", [0, 2])
@pytest.mark.parametrize("field", range(7), ids=TINY)
def test_impossible_headers_are_rejected(any_program, tiny, version, field):
    whole = tiny_v0()[0] if version == 0 else quantize_checkpoint(tiny_v0()[0], group=4)
    offset = (0 if version == 0 else 8) + 4 * field
    files = tiny()
    for value in HOSTILE_INTS:
        files[0].write_bytes(whole[:offset] + struct.pack("<i", value) + whole[offset + 4 :])
        done = run(any_program, *files, "-t", "0", "-n", "4")
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
        {"n_heads": 2, "n_kv_heads": 4},
        {"vocab_size": 1},  # no BOS
        {"n_layers": 2**20, "dim": 2, "n_heads": 1, "n_kv_heads": 1},
        {"dim": 2**31 - 2, "hidden_dim": 2**31 - 1, "n_layers": 2**31 - 1, "n_heads": 1, "n_kv_heads": 1},
    ],
    ids=str,
)
def test_inconsistent_headers_are_rejected(any_program, tiny, fields):
    header = struct.pack("<7i", *(TINY | fields).values())
    assert_rejected(run(any_program, *tiny(checkpoint=header + tiny_v0()[0][28:])), "tiny.bin")


@pytest.mark.parametrize("group", [0, -4, 3, 16, 2**31 - 1, -(2**31)])
def test_impossible_group_sizes_are_rejected(any_program, tiny, group):
    whole = quantize_checkpoint(tiny_v0()[0], group=4)
    assert_rejected(run(any_program, *tiny(checkpoint=whole[:37] + struct.pack("<i", group) + whole[41:])), "group")


@pytest.mark.parametrize("group", [1, 2, 8])
def test_hidden_dim_need_not_be_a_multiple_of_the_group(any_program, tiny, group):
    files = tiny(checkpoint=quantize_checkpoint(tiny_v0(tied=False)[0], group=group))
    assert run(any_program, *files, "-t", "0").returncode == 0


def test_weights_that_are_not_numbers_do_no_harm(any_program, tiny):
    for value in (np.nan, np.inf, 3e38, 1e-45):
        whole = bytearray(tiny_v0()[0])
        whole[28:] = np.full((len(whole) - 28) // 4, value, "<f4").tobytes()
        int8 = bytearray(quantize_checkpoint(tiny_v0()[0], group=4))
        int8[256:1056] = np.full(200, value, "<f4").tobytes()
        for checkpoint in (whole, int8):
            assert run(any_program, *tiny(checkpoint=checkpoint), "-s", "1").returncode == 0


@pytest.mark.parametrize("version", [1, 3, -1, 2**31 - 1])
def test_other_checkpoint_versions_are_refused(program, tiny, version):
    whole = struct.pack("<Ii", 0x616B3432, version) + bytes(5000)
    assert_rejected(run(program, *tiny(checkpoint=whole)), f"version {version}")


def test_truncated_tokenizers_are_rejected(any_program, tiny):
    whole = tokenizer_file(tiny_pieces())
    files = tiny()
    for size in cuts(len(whole)):
        files[2].write_bytes(whole[:size])
        assert_rejected(run(any_program, *files, "-t", "0"), files[2].name)


@pytest.mark.parametrize("length", [0, -1, -(2**31), 2**31 - 1, 10_000])
def test_impossible_piece_lengths_are_rejected(any_program, tiny, length):
    whole = tokenizer_file(tiny_pieces())
    hostile = whole[:8] + struct.pack("<i", length) + whole[12:]
    assert_rejected(run(any_program, *tiny(tokenizer=hostile), "-i", "abc"), "tokenizer.bin")


@pytest.mark.parametrize("longest", [0, 1, -1, 2**31 - 1])
def test_the_claimed_longest_piece_is_not_relied_on(any_program, tiny, longest):
    args = ["-t", "0", "-i", "a b c"]
    honest = run(any_program, *tiny(), *args)
    lying = run(any_program, *tiny(tokenizer=tokenizer_file(tiny_pieces(), longest=longest)), *args)
    assert (lying.returncode, lying.stdout) == (0, honest.stdout)


def test_surplus_pieces_are_ignored(program, tiny):
    surplus = run(program, *tiny(tokenizer=tokenizer_file([*tiny_pieces(), b"ab", b" ab"])), "-t", "0", "-i", "ab")
    assert (surplus.returncode, surplus.stdout) == (0, run(program, *tiny(), "-t", "0", "-i", "ab").stdout)


def test_a_vocabulary_that_cannot_spell_the_prompt_is_an_error(any_program, tiny):
    pieces = [b"p%d" % i for i in range(TINY["vocab_size"])]
    files = tiny(tokenizer=tokenizer_file(pieces))
    assert run(any_program, *files, "-t", "0").returncode == 0
    assert_rejected(run(any_program, *files, "-i", "a"), "space")
    few = struct.pack("<7i", *(TINY | {"vocab_size": 100}).values()) + tiny_v0()[0][28:]
    pieces[5] = b" "
    assert_rejected(run(any_program, *tiny(checkpoint=few, tokenizer=tokenizer_file(pieces)), "-i", "a"), "0x61")


def test_pieces_end_at_a_nul(any_program, tiny):
    pieces = tiny_pieces()
    pieces[FIRST_LETTER_ID : FIRST_LETTER_ID + 3] = [b"a\0zz", b"\0", b"\0\0"]
    done = run(any_program, *tiny(tokenizer=tokenizer_file(pieces)), "-t", "0", "-n", "1", "-i", "a")
    assert (done.returncode, done.stdout) == (0, b"a\n")


# ---- Single functions; the numbers were measured on llama2.c


@pytest.mark.parametrize(("file", "n_pieces", "column"), [("tok512.bin", 512, 1), ("tokenizer.bin", 32000, 2)])
def test_encoding(ask_unit, published, file, n_pieces, column):
    cases = [case for case in ENCODINGS if case[column] is not None]
    ids = ask_unit("encode", [text.hex() for text, *_ in cases], published / file, n_pieces)
    assert ids == [case[column] for case in cases]


def test_decoding(ask_unit, tok512):
    replies = ask_unit("decode", [f"{previous} {token}" for previous, token, _ in DECODINGS], tok512, 512)
    assert [bytes.fromhex(reply) for reply in replies] == [text for _, _, text in DECODINGS]


DRAWS = {
    1: ((1206177355, 2882512552, 3117485455, 1303648416, 241277360, 3362212811), "b00614a0466023ed"),
    42: ((1456360119, 3359763283, 3393612768, 4054632243, 3283045847, 3589475362), "c0d2f1a263e84ebf"),
    1337: ((989205090, 818269915, 1335155955, 3876892996, 2941700015, 1322121497), "0a5fcb1bb7c58085"),
    133742: ((3033531262, 2674377904, 2312864567, 2287415643, 1408443089, 3731947629), "35ebc7fc57bac7b0"),
    2**64 - 1: ((4180462053, 2415166680, 879531507, 3310800028, 1814914367, 3718712142), "970adca1d26ad7fa"),
    18446744072414584320: (
        (422469618, 536678033, 4046284835, 3620325560, 1823852743, 4063114114),
        "f5ff89bf8be7976b",
    ),
}


def test_random_numbers(ask_unit):
    expected = [" ".join(str(draw >> 8) for draw in draws) + f" {state}" for draws, state in DRAWS.values()]
    assert ask_unit("draws", DRAWS) == expected


def test_argmax_takes_the_first_and_never_nan(ask_unit):
    assert ask_unit("argmax", ["1 3 3 2", "nan 1 2", "1 nan 2"]) == ["1", "0", "2"]


def test_sampling_from_all(ask_unit):
    coins = ["0", "0.249999985", "0.25", "0.5", "0.75", "0.99999994"]
    assert ask_unit("sample_all", [f"{coin} .25 .25 .25 .25" for coin in coins]) == list("001233")
    assert ask_unit("sample_all", ["0.95 .3 .3 .3"]) == ["2"]  # rounding left the total below the coin


NUCLEUS_COINS = [0, 0.3, 0.49, 0.5, 0.66, 0.67, 0.85, 0.9, 0.99999994]
NUCLEUS = {
    "0.1": "111111111",
    "0.5": "111112222",
    "0.50000012": "111112222",
    "0.75": "111122200",
    "0.9": "111222033",
    "0.99": "111222033",
}


@pytest.mark.parametrize("topp", NUCLEUS)
def test_sampling_from_the_nucleus(ask_unit, topp):
    lines = [f"{topp} {coin} .125 .5 .25 .125" for coin in NUCLEUS_COINS]
    assert ask_unit("sample_nucleus", lines) == list(NUCLEUS[topp])


def test_nucleus_ties_keep_their_order(ask_unit):
    coins = [0, 0.3, 0.34, 0.5, 0.67, 0.99]
    assert ask_unit("sample_nucleus", [f".6 {c} .25 .25 .25 .25" for c in coins]) == list("001122")
    assert ask_unit("sample_nucleus", [f".7 {c} .4 .4 .1 .05 .05" for c in coins]) == list("000111")


BIT_PATTERNS = [
    ("rmsnorm", "1 2 3 4  1 .5 2 -1", "3ebaf4b2 3ebaf4b2 400c3786 bfbaf4b2"),
    ("rmsnorm", "0 0 0 0  1 .5 2 -1", "00000000 00000000 00000000 80000000"),
    ("rmsnorm", "1e-3 -2e-3 3e-3 0  1 .5 2 -1", "3e8b5948 be8b5948 3fd105ec 80000000"),
    ("softmax", "1 2 3 4", "3d034fe2 3db278b9 3e72916a 3f24d791"),
    ("softmax", "-1e30 0 88 88.5", "00000000 0018e40b 3ec14d03 3f1f597f"),
    ("silu", "-3.5", "bdd21c2e"),
    ("silu", "1.25", "3f78bc68"),
    ("silu", "-100", "80000000"),
]


@pytest.mark.parametrize(("function", "inputs", "bits"), BIT_PATTERNS)
def test_arithmetic_is_exact(ask_unit, function, inputs, bits):
    assert ask_unit(function, [inputs]) == [bits]


@pytest.mark.parametrize(
    ("values", "scale", "codes"),
    [
        ("1 -2 3 -4", "3d010204", "32 -64 95 -127"),
        ("0 0 0 0", "00000000", "0 0 0 0"),
        ("127 0.5 1.5 2.5", "3f800000", "127 1 2 3"),  # halves away from zero
        ("127 -0.5 -1.5 -2.5", "3f800000", "127 -1 -2 -3"),
        ("-127 63.5 -63.5 0.49999997", "3f800000", "-127 64 -64 0"),  # not floor(x + 0.5)
        ("1e-3 2e-3 -3e-3 1e-4", "37c627f6", "42 85 -127 4"),
    ],
)
def test_activations_are_quantized_as_in_llama2c(ask_unit, values, scale, codes):
    assert ask_unit("quantize", [values]) == [scale, codes]


# ---- Kernels


def test_kernels_agree_with_plain_sums(kernel_check):
    assert kernel_check.paths[-2:] == ["portable", "strict"]
    for path in kernel_check.paths:
        done = run(kernel_check.program, path)
        assert (done.returncode, done.stdout) == (0, b"ok\n"), done.stdout.decode() + done.stderr.decode()
