"""impls/napi: both kernels print what llama2.c prints, are right for every row length, and throw, never crash."""

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


def test_the_path_for_older_processors_is_right_too(simd, tmp_path):
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("there is one path on this processor")
    addon = tmp_path / "sse2.node"
    simd.script(SOURCE / "build.ts", "simd", addon, *toolchain.tool("cc"), "-DWITHOUT_AVX2")
    assert b"SSE2" in addon.read_bytes()
    assert simd.script(HERE / "kernel_check.mts", "napi", addon).startswith("ok ")


@pytest.mark.parametrize("flags", [[], ["-DWITHOUT_AVX2"]], ids=["best", "oldest"])
@pytest.mark.parametrize("kernel", ["plain", "simd"])
def test_kernels_touch_no_byte_beyond_their_arrays(kernel, flags, simd, tmp_path):
    path = tmp_path / "bounds"
    sources = [HERE / "kernel_bounds.c", SOURCE / f"kernel_{kernel}.c"]
    command = [*toolchain.tool("cc"), "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    done = subprocess.run([*command, *flags, f"-I{SOURCE}", *sources, "-o", path], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("the compiler has no address sanitizer")
    done = subprocess.run([path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_binding_does_no_arithmetic_on_numbers():
    """It moves pointers and compares lengths: no float in it, but for the size of one and the group's conversion."""
    code = re.sub(r"/\*.*?\*/|\"[^\"]*\"", "", (SOURCE / "binding.c").read_text(), flags=re.DOTALL)
    assert set(re.findall(r"\w*float\w*", code)) == {"float", "napi_float32_array"}
    assert re.findall(r".*\bfloat\b.*", code) == [
        "    array->bytes = array->length * (type == napi_float32_array ? sizeof(float) : 1);"
    ]


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
