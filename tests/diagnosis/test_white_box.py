"""The white-box tracer names the operation that was replaced, for every arithmetic fault, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.checkpoint import Checkpoint
from harness.conformance.fuzz.recipe import Recipe, Weights, build
from harness.diagnosis import CATALOGUE, Fate, Fault
from harness.diagnosis.white_box import MULTIPLE, check_trace, explanations, token_ids
from harness.engine import LIBRARY, STRICT, Engine, Ops
from harness.errors import TraceFormatError
from harness.model_config import ModelConfig
from harness.models import load, locate
from harness.trace.stream import TOKEN, Record, records_of
from tests.engine.test_architectures import MODELS, ids_of, weights_of

Array = npt.NDArray[Any]

# Replaced step -> the point where its output shows first.
POINT_OF = {
    "embed": "embedding",
    "attn_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "final_norm": "final_norm",
    "matmul": "q_raw",
    "position": "q",
    "angles": "q",
    "rotate_q": "q",
    "rotate_k": "k",
    "cached_k": "scores",
    "cache_row": "scores",
    "head_map": "scores",
    "scores": "scores",
    "scale": "scores",
    "mask": "attn_mix",
    "cached_v": "attn_mix",
    "softmax": "attn_mix",
    "mix": "attn_mix",
    "mixed": "attn_mix",
    "activation": "ffn_mix",
    "gated": "ffn_mix",
    "attn_residual": "attn_residual",
    "ffn_residual": "ffn_residual",
}
# Where one step has several places, or looks up something else: the point by the fault's name.
POINT_OF_FAULT = {
    "v2-codes-unsigned": "embedding",
    "norm-ffn-gain-of-attention": "ffn_norm",
    "ffn-gate-up-swapped": "gate",
    "wq-transposed": "q_raw",
    "wo-transposed": "attn_out",
    "w-down-transposed": "ffn_out",
    "wk-wv-swapped": "k_raw",
    "last-layer-skipped": "final_norm",
    "layers-reversed": "attn_norm",
    "int8-classifier-in-float": "logits",
    "int8-tails-counted": "ffn_out",
}
# These replace an operation after the logits, or the loop around them: no value of a forward pass is wrong.
AFTER_LOGITS = {"argmax", "draws_coin", "forced"}
# In a C program this reads and writes behind the cache: it ends in a crash, or in what lies there.
BEHIND_THE_CACHE = {"cache-row-of-dim"}


@cache
def checkpoint_of(name: str) -> Checkpoint:
    files = locate(name.removesuffix(" loud").removesuffix(" zero"))
    found = load(files.checkpoint, files.tokenizer).checkpoint
    if name.endswith(" loud"):  # scores far above 88, where exp overflows
        tensors = dict(found.tensors)
        for layer in range(found.config.n_layers):
            tensors[f"layers.{layer}.wq"] = np.asarray(tensors[f"layers.{layer}.wq"]) * np.float32(300)
        return replace(found, tensors=tensors)
    return found


def trace_of(checkpoint: Checkpoint, ops: Ops, *, dtype: npt.DTypeLike = np.float32, n: int = 12) -> list[Record]:
    """What a program with these operations records, in the order in which it computes."""
    config = checkpoint.config
    ids = [1, *np.random.default_rng(0).integers(3, config.vocab_size, n - 1).tolist()]
    records = [Record(TOKEN, -1, i, np.array([token], np.float32)) for i, token in enumerate(ids)]
    engine = Engine(config, checkpoint.tensors, dtype=dtype, ops=ops)
    with np.errstate(all="ignore"):
        if not ops.in_decode_order:
            engine.logits(ids, tap=lambda *value: records.extend(records_of(*value)))
            return records
        session = engine.session()
        for start, token in enumerate(ids):

            def tap(name: str, layer: int, values: Array, start: int = start) -> None:
                records.extend(records_of(name, layer, values.copy(), start=start))

            session.extend([token], tap=tap)
    return records


def arithmetic() -> Iterator[Fault]:
    for fault in CATALOGUE:
        if fault.change.part == "ops" and not AFTER_LOGITS & set(fault.change.steps):
            yield fault


def expected_point(fault: Fault) -> str:
    if fault.name in POINT_OF_FAULT:
        return POINT_OF_FAULT[fault.name]
    points = [POINT_OF[step] for step in fault.change.steps if step in POINT_OF]
    return min(points, key=list(POINT_OF.values()).index)


@pytest.mark.parametrize("fault", [f for f in arithmetic() if f.fate is Fate.KILLABLE], ids=lambda f: f.name)
def test_the_replaced_operation_is_named(fault: Fault) -> None:
    if fault.name in BEHIND_THE_CACHE:
        pytest.skip("reads and writes behind the cache: ends in a crash, and has no trace")
    ops = replace(LIBRARY, **fault.change.steps)
    named = []
    for model in ("gqa", "gqa-q8", "gqa loud", "straddling", "zero group"):
        checkpoint = INT8_MODELS[model]() if model in INT8_MODELS else checkpoint_of(model)
        try:
            records = trace_of(checkpoint, ops)
        except (ValueError, IndexError):
            continue  # a shape that this fault cannot have: a program would crash
        first = check_trace(checkpoint.config, checkpoint.tensors, records).first
        if first is not None:
            named.append((model, first.name))
            assert first.ratio > MULTIPLE
    assert named, "no model shows it"
    assert {point for _, point in named} == {expected_point(fault)}, named


@pytest.mark.parametrize("fault", [f for f in arithmetic() if f.fate is Fate.BELOW_NOISE], ids=lambda f: f.name)
def test_what_is_below_the_noise_is_not_accused_elsewhere(fault: Fault) -> None:
    for model in ("gqa", "gqa-q8"):
        checkpoint = checkpoint_of(model)
        records = trace_of(checkpoint, replace(LIBRARY, **fault.change.steps))
        found = {wrong.name for wrong in check_trace(checkpoint.config, checkpoint.tensors, records).wrong}
        # A classifier in float is nearer to float64 than the int8 one: no text shows it, the operation itself does.
        assert found <= ({"logits"} if fault.name == "int8-classifier-in-float" else set())


@pytest.mark.parametrize("model", ["gqa", "mha", "mqa", "gqa-q8", "mha-q8", "mqa-q8"])
@pytest.mark.parametrize("ops", [LIBRARY, STRICT], ids=["library", "strict"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_honest_programs_have_no_wrong_operation(model: str, ops: Ops, dtype: npt.DTypeLike) -> None:
    if ops is STRICT and dtype is np.float64:
        pytest.skip("strict arithmetic is float32")
    checkpoint = checkpoint_of(model)
    records = trace_of(checkpoint, ops, dtype=dtype, n=40)
    checked = check_trace(checkpoint.config, checkpoint.tensors, records)
    assert checked.wrong == ()
    config = checkpoint.config
    assert checked.n_judged == 40 * (3 + 16 * config.n_layers)


@pytest.mark.parametrize("seed", range(96, 108))  # two seeds alone accused this float32 engine with 102: 4.4 floors
def test_rows_of_one_number_accuse_nobody(seed: int) -> None:
    """What two seeds move may cancel there, and a floor is luck: where something seems wrong, more are tried."""
    config = ModelConfig(40, 1, 2, 4, 2, 30, 16, is_tied=False)
    model = build(Recipe(config, Weights(seed=seed)))
    records = trace_of(model, replace(LIBRARY, in_decode_order=True), n=16)
    assert check_trace(config, model.tensors, records).wrong == ()


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_can_be_traced(name: str) -> None:
    config = MODELS[name]
    tensors = weights_of(config)
    ids = ids_of(config, 12)
    records: list[Record] = []
    Engine(config, tensors).logits(ids, tap=lambda *value: records.extend(records_of(*value)))
    checked = check_trace(config, tensors, records, ids=ids)
    assert checked.wrong == ()
    assert checked.n_judged == len(records)
    records.clear()
    broken = replace(LIBRARY, scale=lambda step, scores: scores)
    Engine(config, tensors, ops=broken).logits(ids, tap=lambda *value: records.extend(records_of(*value)))
    first = check_trace(config, tensors, records, ids=ids).first
    assert first is not None
    assert (first.name, first.layer) == ("scores", 0)


def test_two_bugs_are_two_wrong_operations() -> None:
    checkpoint = checkpoint_of("gqa")
    ops = replace(LIBRARY, activation=lambda step, gate: np.maximum(gate, 0), attn_residual=lambda step, x, delta: x)
    checked = check_trace(checkpoint.config, checkpoint.tensors, trace_of(checkpoint, ops))
    assert {wrong.name for wrong in checked.wrong} == {"attn_residual", "ffn_mix"}


def test_with_fewer_records_the_place_is_larger_but_right() -> None:
    checkpoint = checkpoint_of("gqa")
    ops = replace(LIBRARY, scale=lambda step, scores: scores)
    kept = ("attn_norm", "attn_out", "ffn_residual", TOKEN)
    records = [record for record in trace_of(checkpoint, ops) if record.name in kept]
    first = check_trace(checkpoint.config, checkpoint.tensors, records).first
    assert first is not None
    assert (first.name, first.layer, first.position) == ("attn_out", 0, 1)
    assert first.since == ("attn_norm",)


def test_a_value_that_is_no_number_is_wrong() -> None:
    checkpoint = checkpoint_of("gqa")
    records = trace_of(checkpoint, LIBRARY, n=4)
    at = next(i for i, r in enumerate(records) if (r.name, r.layer, r.position) == ("up", 2, 3))
    values = records[at].values.astype(np.float32)
    values[5] = np.nan
    records[at] = replace(records[at], values=values)
    checked = check_trace(checkpoint.config, checkpoint.tensors, records)
    assert checked.first is not None
    assert (checked.first.name, checked.first.layer, checked.first.position, checked.first.index) == ("up", 2, 3, 5)


@pytest.mark.parametrize(
    "name", ["attention-unscaled", "rope-half-split", "norm-eps-1e-6", "ffn-gelu", "heads-modulo"]
)
def test_the_fault_that_fits_is_named(name: str) -> None:
    checkpoint = checkpoint_of("gqa")
    faults = [(f.name, replace(LIBRARY, **f.change.steps)) for f in arithmetic() if f.fate is Fate.KILLABLE]
    records = trace_of(checkpoint, dict(faults)[name], n=8)
    assert explanations(checkpoint.config, checkpoint.tensors, records, faults) == [name]


def test_records_that_do_not_fit_the_model_are_refused() -> None:
    checkpoint = checkpoint_of("gqa")
    token = Record(TOKEN, -1, 0, np.array([1.0], np.float32))
    bad = {
        "no token is recorded": [],
        "has another length: expected 64 values, got 3": [token, Record("embedding", -1, 0, np.zeros(3))],
        "there is no such layer": [token, Record("v", 99, 0, np.zeros(32))],
        "of the vocabulary": [Record(TOKEN, -1, 0, np.array([1e6]))],
        "is no id": [Record(TOKEN, -1, 0, np.array([1.5]))],
    }
    for word, records in bad.items():
        with pytest.raises(TraceFormatError, match=word):
            check_trace(checkpoint.config, checkpoint.tensors, records)


def test_ids_end_where_one_is_missing() -> None:
    records = [Record(TOKEN, -1, i, np.array([float(i + 5)])) for i in (0, 1, 3)]
    assert token_ids(records) == [5, 6]


def _straddling() -> Checkpoint:
    """int8 groups that are no divisor of a row: the last of one row lies in the next."""
    from tests.strategies import quantised

    config = replace(checkpoint_of("gqa").config, hidden_dim=172, n_layers=2)
    tensors = weights_of(config)
    return quantised(Checkpoint(config, tensors), 16)


def _zero_group() -> Checkpoint:
    """A norm with gains of zero: groups of activations that are all zero, whose scale is 0."""
    from tests.strategies import quantised

    config = replace(checkpoint_of("gqa").config, n_layers=2)
    tensors = weights_of(config)
    for layer in range(config.n_layers):
        tensors[f"layers.{layer}.attn_norm"][:16] = 0
    return quantised(Checkpoint(config, tensors), 16)


INT8_MODELS = {"straddling": _straddling, "zero group": _zero_group}
