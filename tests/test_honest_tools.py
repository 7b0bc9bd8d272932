"""tools/: honest programs compute one function, a planted fault is seen, and the figures are counted right."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.conformance.selftest.honest import BUILDS, Build, Honest, build_of
from harness.engine import STRICT, Engine, generate
from harness.models import load, locate

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    yield importlib.import_module
    for name in ("honest", "calibrate_floor", "false_alarms"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def mha():
    files = locate("mha")
    model = load(files.checkpoint, files.tokenizer).checkpoint
    exact = Engine(model.config, model.tensors, dtype=np.float64)
    ids = [1, *generate(exact, [1], steps=20)]
    return files.checkpoint, model, ids, exact.logits(ids)


# ---- honest programs


def test_every_simulated_program_is_within_float32_noise_of_the_exact_logits(tool, mha):
    _, model, ids, exact = mha
    strict = Engine(model.config, model.tensors, ops=STRICT).logits(ids)
    for name, ops in tool("honest").SIMULATED.items():
        logits = Engine(model.config, model.tensors, ops=ops).logits(ids)
        assert logits.dtype == np.float32
        assert 0 < np.abs(logits - exact).max() < 1e-4, name
        assert not np.array_equal(logits, strict), name


def test_left_to_right_sums_have_the_bits_of_the_strict_arithmetic(tool, mha):
    _, model, ids, _ = mha
    honest = tool("honest")
    logits = Engine(model.config, model.tensors, ops=honest.with_sums(honest.left_to_right)).logits(ids)
    assert np.array_equal(logits, Engine(model.config, model.tensors, ops=STRICT).logits(ids))


def test_orders_of_a_sum_round_where_they_say(tool):
    honest = tool("honest")
    # 2**24 + 1 is no float32 number: ones survive only where they meet each other first.
    terms = np.array([[2.0**24], [1], [1], [1]], np.float32)
    assert honest.left_to_right(terms)[0] == 2**24
    assert honest.right_to_left(terms)[0] == 2**24 + 4  # 3 more, rounded to even
    assert honest.pairwise(terms)[0] == 2**24 + 2  # (2**24 + 1) + (1 + 1)
    assert honest.lanes(2)(terms)[0] == 2**24 + 2  # the lanes sum to 2**24 + 1 and 1 + 1
    assert honest.lanes(4)(terms)[0] == 2**24 + 2
    assert honest.in_double(terms)[0] == 2**24 + 4
    third = np.float32(1) / np.float32(3)
    exact = np.array([[1.0], [-3.0 * float(third)]])  # a product rounded once is not lost
    assert honest.fused(exact)[0] == np.float32(1.0 - 3.0 * float(third))


def test_a_build_of_our_c_program_has_the_bits_of_the_strict_arithmetic(tool, mha):
    path, model, ids, _ = mha
    honest = tool("honest")
    build = next(build for build in honest.BUILDS if build.name == "gcc -O2")
    found = honest.logits_of(build, path, [ids, ids[:5]], model.config.vocab_size)
    if found is None:
        pytest.skip("no C compiler")
    strict = Engine(model.config, model.tensors, ops=STRICT).logits(ids)
    assert np.array_equal(found[0], strict)
    assert np.array_equal(found[1], strict[:5])


# ---- false alarms


def only(alarms, monkeypatch, build):
    monkeypatch.setattr(alarms, "programs", lambda: [Honest(build.name, build_of(build))])


@pytest.fixture
def few(tool, monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    alarms = tool("false_alarms")
    made = alarms.cases
    monkeypatch.setattr(alarms, "cases", lambda batch: made(batch, 2))
    only(alarms, monkeypatch, next(build for build in BUILDS if build.name == "gcc -O2"))
    return alarms


def run(alarms, monkeypatch, out):
    monkeypatch.setattr(
        sys, "argv", ["x", "--out", str(out), "--models", "mha", "--batches", "1", "--int8-batches", "0"]
    )
    return alarms.main()


def test_an_honest_build_raises_no_alarm_and_a_second_run_goes_on(few, monkeypatch, tmp_path, capsys):
    out = tmp_path / "alarms.jsonl"
    assert run(few, monkeypatch, out) == 0
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["kinds"] == {"EXACT": 2}
    assert row["tokens"] > 20
    assert "0 false alarms" in capsys.readouterr().out
    monkeypatch.setattr(few, "cases", None)  # nothing is left to be made
    assert run(few, monkeypatch, out) == 0
    assert len(out.read_text().splitlines()) == 1


def test_a_dishonest_build_is_counted(few, monkeypatch, tmp_path, capsys):
    only(few, monkeypatch, Build("another exponential", "cc", ("-O2", "-DSTRICT", "-Dexpf=expm1f")))
    assert run(few, monkeypatch, tmp_path / "alarms.jsonl") == 1
    assert "0 false alarms" not in capsys.readouterr().out
    (row,) = map(json.loads, (tmp_path / "alarms.jsonl").read_text().splitlines())
    assert row["kinds"]["MISMATCH"] >= 1


def test_a_build_that_was_never_judged_does_not_pass(few, monkeypatch, tmp_path):
    only(few, monkeypatch, Build("no such flag", "cc", ("-Q-no-such-flag",)))
    assert run(few, monkeypatch, tmp_path / "alarms.jsonl") == 1


# ---- calibration


def test_a_calibration_counts_what_strays(tool, mha, monkeypatch, tmp_path, capsys):
    calibrate = tool("calibrate_floor")
    monkeypatch.setattr(calibrate, "SEEDS", ())
    monkeypatch.setattr(calibrate, "BUILDS", ())
    one = {name: ops for name, ops in calibrate.SIMULATED.items() if name == "8 partial sums"}
    monkeypatch.setattr(calibrate, "SIMULATED", one)
    out = tmp_path / "floor.json"
    monkeypatch.setattr(sys, "argv", ["x", "--json", str(out), "--models", "mha"])
    assert calibrate.main() == 0
    found = json.loads(out.read_text())["mha"]
    row = found["programs"]["8 partial sums"]
    assert found["n_positions"] > 100
    assert row["distance"] == sorted(row["distance"])
    assert row["stray"][2] <= 2 * row["distance"][2]
    assert row["pair"][2] <= 2 * row["distance"][2]
    assert row["n_flips"] == 0
    assert "| 8 partial sums |" in capsys.readouterr().out
