"""impls/c prints what llama2.c prints, and survives every file it is given."""

import hashlib
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from . import contract
from .contract import GOLDEN, HERE, IMPLS, assert_golden, assert_rejected, run, run_golden
from .llama2c_goldens import DECODINGS, ENCODINGS, GOLDENS, quantize_checkpoint
from .llama2c_units import BIT_PATTERNS, DRAWS, NUCLEUS, NUCLEUS_COINS
from .tiny import tiny_v0

SOURCE = IMPLS / "c"


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
def checked(request):
    """The program as it is used, and one that ends loudly when it touches what is not its own."""
    return request.getfixturevalue({"plain": "program", "sanitized": "sanitized"}[request.param])


@pytest.fixture(scope="session")
def ask_unit(compiler, tmp_path_factory):
    """Put lines to one function of run.c and return its reply lines."""
    path = tmp_path_factory.mktemp("units") / "c_units"
    source = HERE / "c_units.c"
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
    source = HERE / "c_kernels.c"
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


# ---- Goldens


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_stdout_is_that_of_llama2c(golden, program, model_path, tok512):
    assert_golden(run_golden(program, golden, model_path, tok512), golden)


SAMPLE_OF_GOLDENS = ["G5", "G8", "G12", "G20", "seq32", "eps-probe", "rev-cls", "C1", "C6", "Q2", "Q4", "Q6"]


@pytest.mark.parametrize("name", SAMPLE_OF_GOLDENS)
def test_goldens_are_free_of_undefined_behaviour(name, sanitized, model_path, tok512):
    assert_golden(run_golden(sanitized, GOLDEN[name], model_path, tok512), GOLDEN[name])


def test_every_path_prints_the_same(kernel_check, program, model_path, tok512):
    for path in kernel_check.paths:
        for name in (*SAMPLE_OF_GOLDENS, "G1", "G25", "Q1", "Q3", "Q7"):
            done = run_golden(program, GOLDEN[name], model_path, tok512, RUN_PATH=path)
            assert_golden(done, GOLDEN[name])


def test_a_path_that_is_not_there_is_named(program, tiny):
    done = run(program, *tiny(), RUN_PATH="mmx")
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
            assert_golden(run_golden(threaded, GOLDEN[name], model_path, tok512, "-j", threads), GOLDEN[name])


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
            assert_golden(run_golden(watched, GOLDEN[name], model_path, tok512, "-j", threads), GOLDEN[name])


@pytest.mark.parametrize("variant", ["c-strict", "c-plain", "c-double", "c-fma", "c-fast"])
def test_other_honest_float32_arithmetic_prints_the_same_text(variant, build_variant, model_path, tok512):
    done, path = build_variant(variant)
    assert done.returncode == 0, done.stderr
    for name in ("G1", "G5", "G25", "eps-probe"):
        assert_golden(run_golden(path, GOLDEN[name], model_path, tok512), GOLDEN[name])


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


class TestCommandLine(contract.ThreadedCommandLine):
    pass


class TestHostileFiles(contract.HostileFiles, contract.HostileInt8):
    versions = (0, 2)


# ---- Single functions; the numbers were measured on llama2.c


@pytest.mark.parametrize(("file", "n_pieces", "column"), [("tok512.bin", 512, 1), ("tokenizer.bin", 32000, 2)])
def test_encoding(ask_unit, published, file, n_pieces, column):
    cases = [case for case in ENCODINGS if case[column] is not None]
    ids = ask_unit("encode", [text.hex() for text, *_ in cases], published / file, n_pieces)
    assert ids == [case[column] for case in cases]


def test_decoding(ask_unit, tok512):
    replies = ask_unit("decode", [f"{previous} {token}" for previous, token, _ in DECODINGS], tok512, 512)
    assert [bytes.fromhex(reply) for reply in replies] == [text for _, _, text in DECODINGS]


def test_random_numbers(ask_unit):
    expected = [" ".join(str(draw >> 8) for draw in draws) + f" {state}" for draws, state in DRAWS.values()]
    assert ask_unit("draws", DRAWS) == expected


def test_argmax_takes_the_first_and_never_nan(ask_unit):
    assert ask_unit("argmax", ["1 3 3 2", "nan 1 2", "1 nan 2"]) == ["1", "0", "2"]


def test_sampling_from_all(ask_unit):
    coins = ["0", "0.249999985", "0.25", "0.5", "0.75", "0.99999994"]
    assert ask_unit("sample_all", [f"{coin} .25 .25 .25 .25" for coin in coins]) == list("001233")
    assert ask_unit("sample_all", ["0.95 .3 .3 .3"]) == ["2"]  # rounding left the total below the coin


@pytest.mark.parametrize("topp", NUCLEUS)
def test_sampling_from_the_nucleus(ask_unit, topp):
    lines = [f"{topp} {coin} .125 .5 .25 .125" for coin in NUCLEUS_COINS]
    assert ask_unit("sample_nucleus", lines) == list(NUCLEUS[topp])


def test_nucleus_ties_keep_their_order(ask_unit):
    coins = [0, 0.3, 0.34, 0.5, 0.67, 0.99]
    assert ask_unit("sample_nucleus", [f".6 {c} .25 .25 .25 .25" for c in coins]) == list("001122")
    assert ask_unit("sample_nucleus", [f".7 {c} .4 .4 .1 .05 .05" for c in coins]) == list("000111")


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


def test_the_kernels_of_aarch64_agree_too(tmp_path):
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None or not find_spec("ziglang"):
        pytest.skip("needs qemu-aarch64 (Debian: qemu-user-static) and the ziglang package")
    source, program = HERE / "c_kernels.c", tmp_path / "c_kernels"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-O3", f"-I{SOURCE}"]
    subprocess.run([*command, "-Wall", "-Wextra", "-Werror", "-o", program, source, "-lm"], check=True)
    paths = run(emulator, program).stdout.decode().split()
    assert paths[-3:] == ["neon", "portable", "strict"]
    for path in paths:
        assert run(emulator, program, path).stdout == b"ok\n"
