from dataclasses import replace

import numpy as np
import pytest

from harness.conformance.reference import Reference, rounded
from harness.conformance.verify import reference_of
from harness.engine import LIBRARY, STRICT, Engine
from harness.judging.floor import MULTIPLE
from harness.models import load, locate
from harness.quant import QuantTensor
from tests.conformance.answers import answered

FILES = {name: locate(name) for name in ("gqa", "mha", "mqa", "gqa-q8")}
SEQUENCE = [1, *answered("Nora was a little girl", steps=80).ids][:-1]


def reference(name="gqa"):
    return reference_of(FILES[name])


def test_a_reference_is_made_once_for_each_content():
    assert reference_of(FILES["gqa"]) is reference_of(locate("gqa"))
    assert reference_of(FILES["gqa"]) is not reference_of(FILES["mha"])


def test_float_models_are_judged_in_float64_and_int8_ones_in_llama2cs_order():
    assert reference().exact.dtype == np.float64
    assert reference("gqa-q8").exact.dtype == np.float32
    assert reference("gqa-q8").exact.ops is STRICT


@pytest.mark.parametrize("name", ["gqa", "mha", "mqa"])
def test_the_floor_lies_between_rounding_and_anything_wrong(name):
    """At least an ulp of the largest logit, and far below what a fault moves."""
    found = reference(name)
    largest = float(np.abs(found.exact.logits([1, 5, 9, 300])).max())
    assert largest * 2**-24 < found.usual_floor < 1e-3


def test_every_member_of_the_ensemble_lies_within_the_floor():
    found = reference()
    exact = found.exact.logits(SEQUENCE[:20], first=19)[0]
    floor = found.floor_at(SEQUENCE[:20])
    assert all(np.abs(member.logits(SEQUENCE[:20], first=19)[0] - exact).max() <= floor for member in found.ensemble)


@pytest.mark.parametrize("name", ["gqa", "mha", "mqa"])
def test_an_honest_program_that_is_no_member_lies_within_two_floors(name):
    """Angles in float32, as many ports have them."""
    found = reference(name)
    model = found.model.checkpoint
    sequence = [1, *answered("Nora was a little girl", model=name, steps=60).ids][:-1]

    def angles(step):
        half = np.arange(0, step.config.head_dim, 2, dtype=np.float32) / np.float32(step.config.head_dim)
        angle = step.pos.astype(np.float32)[:, None] * np.float32(step.config.rope_theta) ** -half
        return np.cos(angle), np.sin(angle)

    other = Engine(model.config, model.tensors, ops=replace(LIBRARY, angles=angles))
    exact = found.exact.logits(sequence)
    for position in range(8, len(sequence), 7):
        row = other.logits(sequence[: position + 1], first=position)[0]
        best, chosen = exact[position].max(), exact[position][row.argmax()]
        assert best - chosen <= MULTIPLE * found.floor_at(sequence[: position + 1])


def test_a_floor_is_computed_once(monkeypatch):
    found = Reference(load(FILES["mha"].checkpoint, FILES["mha"].tokenizer))
    first = found.floor_at([1, 5, 9])
    monkeypatch.setattr(Engine, "logits", None)
    assert found.floor_at([1, 5, 9]) == first


def test_lower_precisions_have_wider_floors_in_their_order():
    floors = [reference().floors(precision, SEQUENCE).declared for precision in ("f16", "bf16", "q8")]
    assert reference().usual_floor < floors[0] < floors[1]
    assert floors[0] < floors[2]
    assert reference().floors("f32", SEQUENCE).declared is None


def test_an_int8_model_has_one_floor_for_a_run_and_none_for_its_own_precision():
    floors = reference("gqa-q8").floors("q8", SEQUENCE)
    assert floors.declared is None
    assert floors.at(SEQUENCE[:5]) == floors.at(SEQUENCE[:9]) == floors.usual > 0


@pytest.mark.parametrize("precision", ["f16", "bf16", "q8"])
def test_a_simulated_precision_differs_as_much_as_its_digits_say(precision):
    found = reference()
    model = found.model.checkpoint
    exact = found.exact.logits(SEQUENCE[:30])
    for ops in rounded(precision, group_size=4):
        distance = np.abs(Engine(model.config, model.tensors, ops=ops).logits(SEQUENCE[:30]) - exact).max()
        assert 1e-4 < distance < 3.0


def test_simulated_int8_keeps_vectors_in_float32():
    config, tensors = reference().config, reference().model.checkpoint.tensors

    def lookup(layer, name):
        return tensors[f"layers.{layer}.{name}" if layer >= 0 else name]

    quantised = rounded("q8", group_size=4)[1].weight
    assert isinstance(quantised(config, 0, "wq", lookup), QuantTensor)
    assert quantised(config, 0, "attn_norm", lookup) is lookup(0, "attn_norm")


def test_bfloat16_rounds_to_nearest_and_ties_to_even():
    weight = np.array([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -(1 + 2**-8), 0.0]], np.float32)
    shown = rounded("bf16", group_size=1)[0].weight(reference().config, 0, "wq", lambda layer, name: weight)
    assert shown.tolist() == [[1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -1.0, 0.0]]


def test_all_goldens_of_a_model_are_judged_in_one_pass():
    cases = [answered("Nora was a little girl", steps=80), answered("", steps=64)]
    judged = reference().judge(
        [[case.prompt_ids[0], *case.ids] for case in cases], [len(case.prompt_ids) for case in cases]
    )
    for case, scores in zip(cases, judged, strict=True):
        assert scores.chosen.tolist() == list(case.ids[len(case.prompt_ids) - 1 :])
        assert scores.regret.max() == 0.0
