"""The engine beside the machine's limits: what is run, what is counted, and what the command prints."""

import dataclasses
import json
import math

import numpy as np
import pytest

import harness.cli.bench  # noqa: F401  (its defaults are those of the real shapes, whichever test comes first)
from harness.__main__ import main
from harness.bench import roofline, workload
from harness.bench.machine import machine, steal_s
from harness.bench.reference_speed import measure
from harness.checkpoint import Checkpoint, expected_shapes
from harness.engine import Engine
from harness.errors import InputError
from harness.model_config import ModelConfig

TINY = ModelConfig(16, 24, 2, 4, 2, 40, 320)


@pytest.fixture
def tiny_shape(monkeypatch):
    """The only model shape is a tiny one, and the machine's peak a small product, so that a row takes no time."""
    monkeypatch.setattr(workload, "SHAPES", {"tiny": TINY})
    monkeypatch.setattr(roofline, "_PEAK_SIZE", 32)


# ---- What is run


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, is_tied=False), *workload.SHAPES.values()])
def test_products_are_counted_from_the_shapes_of_the_matrices(config):
    shapes = {name: shape for name, shape in expected_shapes(config).items() if len(shape) == 2}
    shapes["lm_head"] = shapes.pop("tok_embedding")  # looked up, not multiplied by; tied or not there is a classifier
    assert roofline.product_flops(config) == 2 * sum(math.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize("is_tied", [True, False])
def test_synthetic_weights_are_a_whole_model_with_activations_of_order_one(is_tied):
    config = dataclasses.replace(TINY, is_tied=is_tied)
    tensors = workload.synthetic_tensors(config)
    Checkpoint(config, tensors).validate()
    engine = Engine(config, tensors)
    (ids,) = workload.token_sequences(config, 1, 64)
    assert 0.1 < float(np.abs(engine.logits(ids)).mean()) < 10


def test_the_bound_is_taken_over_every_matrix_that_a_token_meets():
    tensors = workload.synthetic_tensors(TINY)
    matrices = Engine(TINY, tensors).matrices()
    assert 2 * sum(matrix.size for matrix in matrices) == roofline.product_flops(TINY)


def test_token_sequences_begin_with_bos_and_are_the_same_each_time():
    sequences = workload.token_sequences(TINY, 3, 9)
    assert [len(ids) for ids in sequences] == [9, 9, 9]
    assert all(ids[0] == 1 and min(ids[1:]) >= 3 and max(ids) < TINY.vocab_size for ids in sequences)
    assert sequences == workload.token_sequences(TINY, 3, 9)


def test_published_shapes_have_their_published_number_of_weights():
    counts = {name: config.n_params for name, config in workload.SHAPES.items()}
    assert counts == {
        "260K": 260_032,
        "15M": 15_191_712,
        "42M": 41_689_600,
        "110M": 109_529_856,
        "1B": 1_100_048_384,
        "7B": 6_738_415_616,
    }
    with pytest.raises(InputError, match="no model shape '7T'"):
        workload.shape_of("7T")


# ---- What is counted


@pytest.mark.usefixtures("tiny_shape")
def test_verifying_goes_through_the_call_that_check_uses_a_batch_at_a_time(monkeypatch):
    batches = []
    judge = Engine.judge

    def counting(engine, sequences, first):
        batches.append(sum(len(ids) - start for ids, start in zip(sequences, first, strict=True)))
        return judge(engine, sequences, first)

    monkeypatch.setattr(Engine, "judge", counting)
    rows = list(measure(["tiny"], rounds=2))
    assert [(row.model, row.dtype, row.rounds) for row in rows] == [("tiny", "float32", 2), ("tiny", "float64", 2)]
    assert batches == [1024] * 2 * (2 + 1)  # two precisions, two rounds and one to warm up
    for row in rows:
        assert min(row.verify_tps, row.peak_flops, row.decode_tps, row.bound_tps) > 0


@pytest.mark.usefixtures("tiny_shape")
def test_shares_are_medians_of_the_ratios_within_a_round(monkeypatch):
    # Every interval is one tick of a clock that runs at another speed in each round: speeds drift, shares do not.
    speeds = {"round 1": 1.0, "round 2": 100.0, "round 3": 0.01}
    now, speed = 0.0, 1.0

    def clock():
        nonlocal now
        now += speed
        return now

    def progress(text):
        nonlocal speed
        speed = next((speeds[name] for name in speeds if name in text), speed)

    monkeypatch.setattr("time.perf_counter", clock)
    (row,) = measure(["tiny"], dtypes=[np.float32], rounds=3, progress=progress)
    n_decoded = 128
    assert row.verify_share == pytest.approx(1024 * roofline.product_flops(TINY) / (2 * 32**3))
    assert row.decode_share == pytest.approx(n_decoded)  # a tick for all of them, against a tick for each
    assert (row.verify_tps, row.decode_tps) == pytest.approx((1024, n_decoded), rel=1e-6)


# ---- The machine


def test_the_machine_is_described_in_full():
    described = machine()
    assert described.n_cpus >= 1
    assert all(dataclasses.astuple(described))
    assert all(str(part) in str(described) for part in dataclasses.astuple(described))
    assert steal_s() is None or steal_s() >= 0


# ---- The command


@pytest.mark.usefixtures("tiny_shape")
def test_the_command_prints_a_row_for_each_precision(capsys):
    assert main(["bench", "--self", "--models", "tiny", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("tiny") == 2
    assert str(machine().numpy) in printed


@pytest.mark.usefixtures("tiny_shape")
def test_figures_are_written_as_json(tmp_path, capsys):
    command = ["bench", "--self", "--models", "tiny", "--rounds", "1", "--json"]
    assert main([*command, "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [row["dtype"] for row in facts["rows"]] == ["float32", "float64"]
    assert facts["machine"] == dataclasses.asdict(machine())
    assert main([*command, str(tmp_path / "speed.json")]) == 0
    assert json.loads((tmp_path / "speed.json").read_text())["machine"] == facts["machine"]
