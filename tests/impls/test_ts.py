"""impls/ts prints what llama2.c prints, int8 included, and survives every file it is given."""

import ctypes
import ctypes.util
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .contract import HERE, IMPLS
from .llama2c_goldens import DECODINGS, ENCODINGS, GOLDENS, quantize_checkpoint
from .llama2c_units import BIT_PATTERNS, DRAWS, NUCLEUS, NUCLEUS_COINS
from .node_programs import NodeProgram, assert_rejected
from .tiny import (
    HOSTILE_GROUPS,
    HOSTILE_INTS,
    HOSTILE_LENGTHS,
    INCONSISTENT,
    NOT_NUMBERS,
    TINY,
    cuts,
    filled,
    header,
    tiny_pieces,
    tiny_v0,
    tokenizer_file,
    with_int,
)

SOURCE = IMPLS / "ts"


@pytest.fixture(scope="module")
def program():
    return NodeProgram("ts")


# ---- Goldens


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_stdout_is_that_of_llama2c(golden, program, model_path, tok512):
    program.assert_golden(golden, model_path, tok512)


V0_AND_V1 = ("stories260K.bin", "stories260K_v1.bin")


def test_version_1_prints_what_version_0_prints(program, published, tok512):
    outputs = {program.run(published / name, "-z", tok512, "-t", "0").stdout for name in V0_AND_V1}
    assert len(outputs) == 1


# ---- Single functions; the numbers were measured on llama2.c


def as_text(data):
    return data.decode("latin-1")


@pytest.mark.parametrize(("file", "n_pieces", "column"), [("tok512.bin", 512, 1), ("tokenizer.bin", 32000, 2)])
def test_encoding(program, published, file, n_pieces, column):
    cases = [case for case in ENCODINGS if case[column] is not None]
    ids = program.ask("encode", [[str(published / file), n_pieces, as_text(text)] for text, *_ in cases])
    assert ids == [[int(token) for token in case[column].split()] for case in cases]


def test_decoding(program, tok512):
    calls = [[str(tok512), 512, previous, token] for previous, token, _ in DECODINGS]
    assert program.ask("decode", calls) == [as_text(text) for _, _, text in DECODINGS]


def test_random_numbers(program):
    calls = [[seed >> 32, seed & 0xFFFFFFFF, len(draws)] for seed, (draws, _) in DRAWS.items()]
    assert program.ask("draws", calls) == [list(draws) for draws, _ in DRAWS.values()]


def test_random_numbers_of_many_seeds(program):
    def draws(state, count):
        for _ in range(count):
            state ^= state >> 12
            state ^= state << 25 & (1 << 64) - 1
            state ^= state >> 27
            yield (state * 0x2545F4914F6CDD1D >> 32) & 0xFFFFFFFF

    seeds = [1 << bit for bit in range(64)] + np.random.default_rng(1).integers(1, 2**63, 200).tolist()
    seeds += [2**64 - 1, 2**63, 0xFFFFFFFF, 0xFFFFFFFF00000000, 0x8000000080000000]
    replies = program.ask("draws", [[seed >> 32, seed & 0xFFFFFFFF, 20] for seed in seeds])
    assert replies == [list(draws(seed, 20)) for seed in seeds]


def test_choosing(program):
    assert program.ask("argmax", [[[1, 3, 3, 2]], [[None, 1, 2]], [[1, None, 2]]]) == [1, 0, 2]
    coins = [0, 0.249999985, 0.25, 0.5, 0.75, 0.99999994]
    assert program.ask("sampleAll", [[coin, 0.25, 0.25, 0.25, 0.25] for coin in coins]) == [0, 0, 1, 2, 3, 3]
    assert program.ask("sampleAll", [[0.95, 0.3, 0.3, 0.3]]) == [2]  # rounding left the total below the coin
    for topp, expected in NUCLEUS.items():
        calls = [[float(topp), coin, 0.125, 0.5, 0.25, 0.125] for coin in NUCLEUS_COINS]
        assert program.ask("sampleNucleus", calls) == [int(token) for token in expected], topp


@pytest.mark.parametrize(("function", "inputs", "bits"), BIT_PATTERNS)
def test_arithmetic_is_exact(program, function, inputs, bits):
    values = [float(word) for word in inputs.split()]
    args = [values[: len(values) // 2], values[len(values) // 2 :]] if function == "rmsnorm" else [values]
    assert program.ask(function, [args]) == [bits]


@pytest.mark.parametrize(
    ("values", "scale", "codes"),
    [
        ([1, -2, 3, -4], "3d010204", "32 -64 95 -127"),
        ([0, 0, 0, 0], "00000000", "0 0 0 0"),
        ([127, 0.5, 1.5, 2.5], "3f800000", "127 1 2 3"),  # halves away from zero
        ([127, -0.5, -1.5, -2.5], "3f800000", "127 -1 -2 -3"),
        ([-127, 63.5, -63.5, 0.49999997], "3f800000", "-127 64 -64 0"),  # not floor(x + 0.5)
        ([1e-3, 2e-3, -3e-3, 1e-4], "37c627f6", "42 85 -127 4"),
    ],
)
def test_activations_are_quantized_as_in_llama2c(program, values, scale, codes):
    assert program.ask("quantize", [[values]]) == [[scale, codes]]


@pytest.mark.parametrize(("name", "low", "high"), [("expf", 1e-9, 110), ("sinf", 1e-6, 40000), ("cosf", 1e-6, 40000)])
def test_the_c_librarys_functions_are_met_to_the_bit(program, name, low, high, tmp_path):
    if not sys.platform.startswith("linux") or os.confstr("CS_GNU_LIBC_VERSION") is None:
        pytest.skip("the C library is not glibc")
    function = getattr(ctypes.CDLL(ctypes.util.find_library("m")), name)
    function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
    first, last = (np.float32(x).view(np.uint32) for x in (low, high))
    positive = np.random.default_rng(7).integers(first, last, 100_000, dtype=np.uint32).view(np.float32)
    x = np.concatenate([positive, -positive])
    values = np.array([function(value) for value in x.tolist()], dtype=np.float32)
    path = tmp_path / "values.bin"
    path.write_bytes(x.tobytes() + values.tobytes())
    # Machine code of the library with and without fused multiply-add differs too: one argument in very many.
    assert len(program.ask("differing", [[name, str(path)]])[0]) <= 1


def test_the_kernel_is_right_for_every_row_length(program):
    assert program.script(HERE / "kernel_check.mts", "ts").startswith("ok ")


# ---- Command line


def test_no_arguments_print_the_usage(program):
    done = program.run()
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"usage: ")


@pytest.mark.parametrize("args", [["-t"], ["t", "0"], ["--temperature", "0"], ["-q", "0"]])
def test_bad_flags_print_the_usage_before_any_file_is_opened(program, args):
    done = program.run("/nonexistent", *args)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"usage: ")


def test_missing_files_are_named(program, tiny, tmp_path):
    assert_rejected(program.run("--help"), "open", "--help")
    model, *_ = tiny()
    assert_rejected(program.run(model, "-z", "/nonexistent"), "open", "/nonexistent")
    assert_rejected(program.run(tmp_path), "regular file")


def test_an_unknown_mode_is_noticed_after_the_files(program, tiny):
    done = program.run(*tiny(), "-m", "poem")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"llama: unknown mode: poem\nusage: ")


def test_a_full_disk_is_an_error(program, tiny):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    command = [*program.node, SOURCE / "main.ts", *tiny(), "-t", "0"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"llama: cannot write to standard output\n")


def test_the_first_text_does_not_wait_and_the_last_is_not_lost(program, tmp_path):
    """Killed by itself right after its first text, and ended after a print."""
    streams = (SOURCE / "streams.ts").as_uri()
    script = tmp_path / "say.mts"
    script.write_text(f"""
        import {{ print, printSoon }} from "{streams}";
        for (const text of process.argv.slice(3)) printSoon(text);
        if (process.argv[2] === "killed") process.kill(process.pid, "SIGKILL");
        print("!");
    """)
    for end, texts, said in [
        ("killed", ["", "", "a"], b"a"),
        ("ended", ["", "a", "b", "c"], b"abc!"),
        ("ended", [], b"!"),
    ]:
        done = subprocess.run([*program.node, script, end, *texts], capture_output=True, check=False)
        assert done.stdout == said


def test_prompts_are_bytes(program, tiny):
    if not os.path.exists("/proc/self/cmdline"):
        pytest.skip("without /proc Node gives away only what is UTF-8")
    pieces = tiny_pieces()
    pieces[-1] = b"\xff\xc3"
    files = tiny(tokenizer=tokenizer_file(pieces))
    done = program.run(*files, "-t", "0", "-n", "1", "-i", os.fsdecode(b"\xff\xc3"))
    assert done.stdout == b"\n"  # two lone bytes, neither shown; a replacement character would be three
    assert program.run(*files, "-t", "0", "-n", "3", "-i", os.fsdecode(b"a\xffb")).stdout.startswith(b"a")


NUMBERS = {  # as C's atof and atoi read them
    "1": (1.0, 1),
    " +0x0p1rest": (0.0, 0),
    "\t-12.5e1x": (-125.0, -12),
    "0x1.8p1": (3.0, 0),
    "-0X.8": (-0.5, 0),
    "0x": (0.0, 0),
    "abc": (0.0, 0),
    "": (0.0, 0),
    "-": (0.0, 0),
    ".": (0.0, 0),
    ".5": (0.5, 0),
    "1e": (1.0, 1),
    "1e400": (np.inf, 1),
    "-infinity": (-np.inf, 0),
    "0.9": (np.float32(0.9), 0),
    "3000000000": (3e9, -1294967296),
    "4294967296": (2.0**32, 0),
    "99999999999999999999": (1e20, -1),
    "-99999999999999999999": (-1e20, 0),
}


def test_numbers_are_read_as_c_reads_them(program):
    calls = [[text] for text in NUMBERS]
    assert program.ask("parseInt32", calls) == [whole for _, whole in NUMBERS.values()]
    actual = [np.uint32(int(word, 16)).view(np.float32) for word in program.ask("parseFloat32", calls)]
    assert actual == [np.float32(value) for value, _ in NUMBERS.values()]


@pytest.mark.parametrize("args", [("-t", "nan"), ("-p", "nan"), ("-t", "inf", "-p", "0.0001")])
def test_meaningless_sampling_still_ends(program, tiny, args):
    assert program.run(*tiny(), "-s", "1", *args).returncode == 0


def test_chat_texts_may_be_long_and_input_absent(program, tiny):
    files = tiny()
    done = program.run(*files, "-m", "chat", "-t", "0", "-n", "16", "-i", "a b" * 2000, "-y", "c" * 3000)
    assert done.returncode == 0
    done = program.run(*files, "-m", "chat", "-t", "0", "-n", "0", stdin="x" * 5000)
    assert done.stdout.startswith(b"Enter system prompt (optional): User: Assistant: ")
    assert program.run(*files, "-m", "chat", "-t", "0").returncode == 0


# ---- Hostile files, many in one process


def loaded(program, tmp_path, checkpoints, tokenizers=(None,)):
    """Write files, let the program read each pair, and return its messages ("": it ran)."""
    tokenizer = tokenizer_file(tiny_pieces())
    calls = []
    for i, checkpoint in enumerate(checkpoints):
        for j, other in enumerate(tokenizers):
            paths = tmp_path / f"{i}.{j}.bin", tmp_path / f"{i}.{j}.tok"
            paths[0].write_bytes(checkpoint)
            paths[1].write_bytes(tokenizer if other is None else other)
            calls.append(list(map(str, paths)))
    return program.ask("load", calls)


@pytest.mark.parametrize("kind", ["tied", "untied", "int8"])
def test_truncated_checkpoints_are_rejected(program, tmp_path, kind):
    whole, end = tiny_v0(tied=kind != "untied")
    if kind == "untied":
        end = len(whole)
    elif kind == "int8":
        whole = quantize_checkpoint(whole, group=4)
        end = len(whole)
    messages = loaded(program, tmp_path, [whole[:end], *(whole[:size] for size in cuts(end))])
    assert messages[0] == ""
    for message in messages[1:]:
        assert "needs" in message or "is 0, not positive" in message
    one = tmp_path / "one.bin"
    one.write_bytes(whole[: end - 1])
    assert_rejected(program.run(one, "-z", tmp_path / "0.0.tok"), "one.bin", "truncated")


def test_a_tied_checkpoint_may_lack_any_part_of_the_rotary_tables(program, tmp_path):
    whole, end = tiny_v0()
    assert loaded(program, tmp_path, [whole[:size] for size in (end, end + 6, len(whole))]) == [""] * 3


@pytest.mark.parametrize("version", [0, 2])
def test_impossible_headers_are_rejected(program, tmp_path, version):
    whole = tiny_v0()[0] if version == 0 else quantize_checkpoint(tiny_v0()[0], group=4)
    fields = [(field, value) for field in range(7) for value in HOSTILE_INTS]
    checkpoints = []
    for field, value in fields:
        checkpoints.append(with_int(whole, (0 if version == 0 else 8) + 4 * field, value))
    for (field, value), message in zip(fields, loaded(program, tmp_path, checkpoints), strict=True):
        harmless = field == 6 and value > 0  # a longer context than the tables': unread
        assert bool(message) != harmless, (field, value, message)


def test_impossible_group_sizes_are_rejected(program, tmp_path):
    whole = quantize_checkpoint(tiny_v0()[0], group=4)
    messages = loaded(program, tmp_path, [with_int(whole, 37, group) for group in HOSTILE_GROUPS])
    assert all("group" in message for message in messages)


def test_inconsistent_headers_are_rejected(program, tmp_path):
    body = tiny_v0()[0][28:]
    assert all(loaded(program, tmp_path, [header(TINY | fields) + body for fields in INCONSISTENT]))
    other = struct.pack("<Ii", 0x616B3432, 3) + bytes(5000)
    assert_rejected(program.run(tmp_path / "none.bin"), "open")
    [message] = loaded(program, tmp_path, [other])
    assert "version 3 is not supported" in message


def test_weights_that_are_not_numbers_do_no_harm(program, tmp_path):
    whole = tiny_v0()[0]
    int8 = quantize_checkpoint(whole, group=4)
    checkpoints = [filled(whole, value) for value in NOT_NUMBERS]
    checkpoints += [filled(int8, value, 256, 1056) for value in NOT_NUMBERS]
    assert loaded(program, tmp_path, checkpoints) == [""] * 8


def test_bad_tokenizers_are_rejected(program, tmp_path):
    whole = tokenizer_file(tiny_pieces())
    hostile = [whole[:size] for size in cuts(len(whole))]
    hostile += [with_int(whole, 8, length) for length in HOSTILE_LENGTHS]
    messages = loaded(program, tmp_path, [tiny_v0()[0]], hostile)
    assert all(".tok: " in message for message in messages)


def test_the_claimed_longest_piece_is_not_relied_on(program, tiny):
    args = ["-t", "0", "-i", "a b c"]
    honest = program.run(*tiny(), *args)
    lying = program.run(*tiny(tokenizer=tokenizer_file(tiny_pieces(), longest=-1)), *args)
    assert (lying.returncode, lying.stdout) == (0, honest.stdout)


def test_a_context_beyond_memory_is_one_line(program, tiny):
    whole = header(TINY | {"seq_len": 2**31 - 1}) + tiny_v0()[0][28:]
    done = program.run(*tiny(checkpoint=whole), "-n", "0")
    assert_rejected(done, "memory")


# ---- Types


@pytest.mark.parametrize("name", ["ts", "napi", "ts-wasm"])
def test_types_hold_strictly(program, name):
    modules = Path(sys.prefix) / "typescript" / "node_modules"
    if not modules.exists():
        pytest.skip(
            "no TypeScript; install it with: npm install --prefix .venv/typescript typescript@5 @types/node@24"
        )
    config = json.loads((SOURCE / "tsconfig.json").read_text())["compilerOptions"]
    assert config["strict"]
    assert config["erasableSyntaxOnly"]
    compiler = modules / "typescript" / "bin" / "tsc"
    command = [*program.node, compiler, "-p", IMPLS / name, "--typeRoots", modules / "@types"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
