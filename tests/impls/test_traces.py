"""All our programs of level TRACE record every value, and each of their operations is judged right.

What remains of an honest build is how far its arithmetic is from float64, in noise floors: no more than MULTIPLE.
"""

import os
import subprocess

import pytest

from harness.adapters import toolchain
from harness.adapters.implementation import resolve
from harness.adapters.manifest import discover
from harness.adapters.process import Limits
from harness.conformance.tracing import trace
from harness.diagnosis.white_box import MULTIPLE, ORDER
from harness.errors import MissingDependency
from harness.models import locate
from harness.results import Request
from harness.trace.stream import POINTS, TOKEN, VARIABLE, read_trace

from .contract import IMPLS

TRACING = {manifest.name: manifest for manifest in discover(IMPLS) if "TRACE" in manifest.levels}
MODELS = ("gqa", "mha", "mqa")
PROMPT = b"Once upon a caf\xc3\xa9"


def implementation(name):
    (found,) = resolve(name, IMPLS)
    return found


def traced(name, model, **options):
    try:
        return trace(implementation(name), locate(model), prompt=PROMPT, **options)
    except MissingDependency as missing:
        pytest.skip(str(missing))


def models_of(manifest):
    suffix = "-q8" if manifest.formats == ("llama2c-v2",) else ""
    return [name + suffix for name in MODELS]


def test_these_are_all_that_speak_a_level_above_text():
    """llama2.c's own, blas and compact show their text alone; llama.cpp keeps its activations to itself."""
    speaking = {manifest.name for manifest in discover(IMPLS) if len(manifest.levels) > 1}
    assert set(TRACING) == speaking - {"llama-cpp", "llama-cpp-q8"}
    assert {"c", "c-q8", "zig", "zig-q8", "ts", "napi", "napi-simd", "ts-wasm", "numpy", "numpy-q8"} <= speaking


@pytest.mark.parametrize(("name", "model"), [(n, model) for n, m in TRACING.items() for model in models_of(m)])
def test_every_recorded_operation_is_right(name, model):
    found = traced(name, model, steps=32)
    assert {point for point, _, _ in found.heat} == set(ORDER)
    assert found.n_tokens == 32
    assert not found.wrong
    assert max(ratio for _, _, ratio in found.heat) <= MULTIPLE


# ---- what a trace does to the program


PROGRAMS = ("c", "c-q8", "zig", "zig-q8", "ts", "ts-q8")


def run(name, path=None):
    impl = implementation(name)
    files = locate(models_of(impl.manifest)[0])
    request = Request(files.checkpoint, files.tokenizer, PROMPT, steps=40, temperature=0.9, seed=3, threads=1)
    try:
        return impl.run(request, Limits(time_s=60), trace=path)
    except MissingDependency as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_text_is_the_same_with_a_trace_and_without(name, tmp_path):
    plain, recorded = run(name), run(name, tmp_path / "trace")
    assert plain.failure is None
    assert recorded.failure is None
    assert recorded.stdout == plain.stdout
    records = list(read_trace(tmp_path / "trace"))
    assert {record.name for record in records} == POINTS
    fed = [record.values[0] for record in records if record.name == TOKEN]
    assert len(fed) == 40


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_trace_that_cannot_be_written_is_one_line(name, tmp_path):
    done = run(name, tmp_path / "no such directory" / "trace")
    assert (done.exit_code, done.stdout) == (1, b"")
    assert done.stderr_tail.strip().count("\n") == 0
    assert "HARNESS_TRACE" in done.stderr_tail


def test_threads_record_what_one_thread_records(tmp_path):
    """Scores and gates are recorded where they are computed, by several threads."""
    try:
        words = toolchain.tool("cc")
    except MissingDependency as missing:
        pytest.skip(str(missing))
    flags = ["-O2", "-std=gnu11", "-pthread", "-ffp-contract=off", "-DPARALLEL_FROM=1"]
    subprocess.run([*words, *flags, "-o", tmp_path / "run", IMPLS / "c" / "run.c", "-lm"], check=True)
    files = locate("gqa")
    for threads in ("1", "3"):
        command = [tmp_path / "run", files.checkpoint, "-z", files.tokenizer, "-t", "0", "-n", "20", "-j", threads]
        env = os.environ | {VARIABLE: str(tmp_path / threads)}
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()
