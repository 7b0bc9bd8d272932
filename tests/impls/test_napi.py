"""impls/napi: both kernels print what llama2.c prints, are right for every row length, and throw, never crash."""

import os
import platform
import re
import subprocess

import pytest

from harness.adapters import toolchain

from .contract import HERE, IMPLS
from .node_programs import NodeProgram, WithKernel

SOURCE = IMPLS / "napi"


@pytest.fixture(scope="module", params=["napi", "napi-simd"])
def program(request):
    return NodeProgram(request.param)


@pytest.fixture(scope="module")
def simd():
    return NodeProgram("napi-simd")


class TestProgram(WithKernel):
    pass


# ---- Kernels


OTHER_PATHS = {"x86_64": ["avxvnni", "avx2"], "AMD64": ["avxvnni", "avx2"], "aarch64": ["neon"], "arm64": ["neon"]}


@pytest.mark.parametrize("path", [*OTHER_PATHS.get(platform.machine(), []), "portable", "strict"])
def test_the_paths_of_other_processors_are_right_too(path, simd):
    addon = simd.out / "kernel.node"
    asked = [*simd.node, "-p", "require(process.argv[1]).instructions", addon]
    done = subprocess.run(asked, capture_output=True, text=True, env={"LLAMA_PATH": path}, check=False)
    if done.returncode != 0 and path not in ("portable", "strict"):
        assert "LLAMA_PATH names no path that this machine has" in done.stderr
        pytest.skip(f"this processor has no {path}")
    assert done.stdout == f"{path}\n"
    assert simd.script(HERE / "kernel_check.mts", "napi", addon, LLAMA_PATH=path).startswith("ok ")


@pytest.mark.parametrize(("flags", "path"), [(["-DSTRICT"], "strict"), ([], None), ([], "portable")])
def test_kernels_touch_no_byte_beyond_their_arrays(flags, path, tmp_path):
    program = tmp_path / "bounds"
    sources = [HERE / "kernel_bounds.c", SOURCE / "kernel.c"]
    command = [*toolchain.tool("cc"), "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    command += [*flags, f"-I{SOURCE}", *sources, "-lm", "-o", program]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("the compiler has no address sanitizer")
    env = os.environ | ({} if path is None else {"LLAMA_PATH": path})
    done = subprocess.run([program], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_recorded_passes_are_repeated_and_given_up(simd):
    assert simd.script(HERE / "napi_passes.mts", simd.out / "kernel.node") == "ok\n"


def test_the_binding_does_no_arithmetic_on_numbers():
    """It moves pointers and compares lengths: no float in it."""
    for name in ("binding.c", "arguments.c", "arguments.h", "passes.c", "passes.h"):
        code = re.sub(r"/\*.*?\*/|\"[^\"]*\"", "", (SOURCE / name).read_text(), flags=re.DOTALL)
        assert set(re.findall(r"\w*float\w*", code)) <= {"napi_float32_array"}


# ---- Building


@pytest.mark.parametrize("kernel", ["plain", "simd"])
def test_nothing_is_warned_about(kernel, simd, tmp_path):
    simd.script(SOURCE / "build.ts", kernel, tmp_path / "a.node", *toolchain.tool("cc"), "-Werror")


def test_missing_headers_are_said_to_be_missing(simd, tmp_path):
    script = tmp_path / "build.ts"
    source = (SOURCE / "build.ts").read_text()
    script.write_text(source.replace('"include", "node"', '"nowhere"').replace("/usr/include/node", "/nowhere"))
    done = subprocess.run([*simd.node, script, "plain", "a.node", "cc"], capture_output=True, text=True, check=False)
    assert done.returncode == 77
    assert done.stderr.startswith("node_api.h for ")
