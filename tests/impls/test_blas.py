"""impls/blas prints what llama2.c prints, whichever BLAS it stands on, and survives every file it is given."""

import os
import subprocess

import pytest

from harness.adapters import toolchain
from harness.adapters.manifest import expand, load
from harness.errors import MissingDependency

from . import contract
from .contract import GOLDEN, IMPLS, assert_golden, run, run_golden
from .llama2c_goldens import GOLDENS

SOURCE = IMPLS / "blas"
FLOAT32 = [golden for golden in GOLDENS if not golden.model.startswith("q8")]


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Build as the manifest says, with flags that come later and win."""
    [manifest] = load(SOURCE)
    try:
        tools = {name: toolchain.tool(name) for name in ("cc", "blas")}
    except MissingDependency as missing:
        pytest.skip(str(missing))

    def build(*flags, **changes):
        out = tmp_path_factory.mktemp("blas")
        values = tools | changes | {"src": os.fsencode(SOURCE), "out": os.fsencode(out)}
        command = [*expand(manifest.build[0], values), *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return out / "run"

    return build


@pytest.fixture(scope="session")
def program(build):
    return build("-Werror")


@pytest.fixture(scope="session")
def checked(build):
    try:
        return build("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    except AssertionError as failure:
        pytest.skip(f"the compiler has no sanitizers: {failure}")


@pytest.mark.parametrize("golden", FLOAT32, ids=lambda golden: golden.name)
def test_stdout_is_that_of_llama2c(golden, program, model_path, tok512):
    assert_golden(run_golden(program, golden, model_path, tok512), golden)


@pytest.mark.parametrize("name", ["G5", "G8", "G12", "G20", "seq32", "rev-cls", "C1", "C6"])
def test_goldens_are_free_of_undefined_behaviour(name, checked, model_path, tok512):
    assert_golden(run_golden(checked, GOLDEN[name], model_path, tok512), GOLDEN[name])


@pytest.mark.parametrize("threads", ["2", "0"])
def test_threads_print_the_same_text(threads, program, model_path, tok512):
    assert_golden(run_golden(program, GOLDEN["G1"], model_path, tok512, "-j", threads), GOLDEN["G1"])


V0_AND_V1 = ("stories260K", "stories260K_v1")


def test_version_1_prints_what_version_0_prints(program, published, tok512):
    texts = {run(program, published / f"{name}.bin", "-z", tok512, "-t", "0").stdout for name in V0_AND_V1}
    assert len(texts) == 1


def test_a_blas_without_a_prefix_and_of_ones_own_will_do(build, tmp_path, model_path, tok512):
    """The functions under their usual names, as a system's library has them, in a few lines of plain C."""
    (tmp_path / "cblas.h").write_text(
        """
enum { CblasRowMajor = 101, CblasNoTrans = 111, CblasTrans = 112 };
static void openblas_set_num_threads(int n) { (void)n; }
static float cblas_sdot(int n, const float *x, int dx, const float *y, int dy) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i * dx] * y[i * dy];
    return sum;
}
static void cblas_sgemv(int order, int transposed, int rows, int columns, float alpha, const float *a, int stride,
                        const float *x, int dx, float beta, float *y, int dy) {
    (void)order, (void)beta;
    const int n_out = transposed == CblasTrans ? columns : rows;
    for (int i = 0; i < n_out; i++) {
        float sum = 0;
        if (transposed == CblasTrans)
            for (int j = 0; j < rows; j++) sum += a[(long)j * stride + i] * x[j * dx];
        else
            for (int j = 0; j < columns; j++) sum += a[(long)i * stride + j] * x[j * dx];
        y[i * dy] = alpha * sum;
    }
}
"""
    )
    plain = build("-Werror", blas=[f"-I{tmp_path}"])
    for name in ("G1", "G12", "C5"):
        assert_golden(run_golden(plain, GOLDEN[name], model_path, tok512), GOLDEN[name])


def test_a_very_long_prompt_is_encoded(program, tiny):
    done = run(program, *tiny(), "-t", "0", "-n", "2", "-i", "a b " * 8000)
    assert (done.returncode, done.stdout) == (0, b"a b\n"), done.stderr


class TestCommandLine(contract.ThreadedCommandLine):
    pass


class TestHostileFiles(contract.HostileFiles):
    versions = (0, 1)
