"""Judging a model that memory has no room for: one layer at a time, each tensor read once, for all runs together."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from harness import checkpoint
from harness.bench.workload import make_synthetic
from harness.checkpoint import Streamed
from harness.conformance.reference import Reference
from harness.engine import Engine
from harness.model_config import ModelConfig
from harness.models import load

# 24 layers of 12.6 MB, so that one of them and all of them cannot be mistaken for each other.
DEEP = ModelConfig(512, 1376, 24, 8, 8, 400, 64)
LAYER_BYTES = 4 * (4 * 512**2 + 3 * 512 * 1376)
SMALL = ModelConfig(32, 48, 3, 4, 2, 400, 128)

# Judges two sequences and prints by how much the largest resident size grew meanwhile.
JUDGE = """
import pathlib, re, resource, sys
import numpy as np
from harness.conformance.reference import Reference
from harness.models import load

def peak():
    # What rusage says survives exec: it may be the peak of the process that started this one.
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

np.ones((512, 512)) @ np.ones((512, 512))  # the buffers of BLAS
reference = Reference(load(sys.argv[1], sys.argv[2]), keep_bytes=int(sys.argv[3]))
before = peak()
sequences = [[1, *range(290, 320)], [1, *range(300, 340)]]
print(sum(float(judged.regret.sum()) for judged in reference.judge(sequences, [2, 2])), peak() - before)
"""


def judged(files, keep_bytes):
    command = [sys.executable, "-c", JUDGE, str(files.checkpoint), str(files.tokenizer), str(keep_bytes)]
    regret, grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(regret), int(grown)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells no peak of resident memory in this way")
@pytest.mark.parametrize("precision", ["f32", "q8"])
def test_memory_is_bounded_by_one_layer(tmp_path, precision):
    files = make_synthetic("deep", DEEP, precision, directory=tmp_path)
    regret, streamed = judged(files, keep_bytes=0)
    assert judged(files, keep_bytes=1 << 30)[0] == regret
    # float64 doubles a layer; beside it stand one tensor of the file and what 71 positions need.
    assert streamed < 2 * LAYER_BYTES + 24e6
    assert 24 * LAYER_BYTES > 4 * (2 * LAYER_BYTES + 24e6)


def test_a_model_that_is_held_shows_that_the_measure_measures(tmp_path):
    files = make_synthetic("deep", DEEP, directory=tmp_path)
    assert judged(files, keep_bytes=1 << 30)[1] > 24 * LAYER_BYTES


@pytest.mark.parametrize("precision", ["f32", "q8"])
def test_all_sequences_are_judged_in_one_pass_over_the_weights(tmp_path, precision):
    files = make_synthetic("small", SMALL, precision, directory=tmp_path)
    model = load(files.checkpoint, files.tokenizer)
    asked: Counter[str] = Counter()

    class Counting(Streamed):
        def __getitem__(self, name):
            asked[name] += 1
            return super().__getitem__(name)

    reference = Reference(model, keep_bytes=0)
    kept = [one.regret for one in reference.judge([[1, 300, 301, 302], [1, 350, 351]], [1, 1])]
    engine = Engine(
        SMALL, Counting(model.checkpoint.tensors), dtype=reference.exact.dtype, ops=reference.exact.ops, keep_bytes=0
    )
    streamed = [one.regret for one in engine.judge([[1, 300, 301, 302], [1, 350, 351]], [1, 1])]
    assert all(np.array_equal(a, b) for a, b in zip(kept, streamed, strict=True))
    assert {asked[name] for name in model.checkpoint.tensors if name.startswith("layers.")} == {1}


@pytest.mark.parametrize("precision", ["f32", "q8"])
def test_tensors_read_through_are_those_of_the_file(tmp_path, precision):
    files = make_synthetic("small", SMALL, precision, directory=tmp_path)
    tensors = checkpoint.read(files.checkpoint).tensors
    streamed = Streamed(tensors)
    assert list(streamed) == list(tensors)
    assert len(streamed) == len(tensors)
    for _ in range(2):  # what was given back is read again
        for name, tensor in tensors.items():
            found = streamed[name]
            if isinstance(tensor, np.ndarray):
                assert np.array_equal(found, tensor)
            else:
                assert np.array_equal(found.codes, tensor.codes)
                assert np.array_equal(found.scales, tensor.scales)


def test_arrays_of_no_file_are_left_alone():
    streamed = Streamed({"a": np.arange(5000.0), "b": np.ones(3)})
    assert streamed["a"].sum() == 5000 * 4999 / 2
    assert streamed["b"].sum() == 3
    assert streamed["a"].sum() == 5000 * 4999 / 2
