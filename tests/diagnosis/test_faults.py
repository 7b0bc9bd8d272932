"""The catalogue of faults: what each entry does to answers and logits, and that its words are there."""

from dataclasses import fields
from functools import lru_cache

import numpy as np
import pytest

from harness import models
from harness.diagnosis import CATALOGUE, COMPONENTS, Fate, Port, PortCrashed, Request, by_name
from harness.diagnosis import stress as stresses
from harness.diagnosis.fault import faulted
from harness.diagnosis.probes import Effect, Probed, first_difference
from harness.diagnosis.sampling import SAMPLER
from harness.diagnosis.shown import SHOWN_BY
from harness.engine import Ops
from harness.errors import InputError
from tests.derived_models import published
from tests.diagnosis.matrix import MEASURED

NAMES = [fault.name for fault in CATALOGUE]
# Operations with several places: one function, or one wrong idea of it, stands in all of them.
PLACES = [{"attn_norm", "ffn_norm", "final_norm"}, {"rotate_q", "rotate_k"}, {"embed", "matmul"}]
# Which engine runs, or which file is written, for a step to make sense; no step themselves.
MODES = {"in_decode_order", "version"}


def load(name):
    found = models.locate(name)
    return models.load(found.checkpoint, found.tokenizer)


# ---- The entries


def test_names_are_unique_and_found():
    assert len(set(NAMES)) == len(NAMES)
    assert all(by_name(fault.name) is fault for fault in CATALOGUE)
    with pytest.raises(InputError, match="no fault rope-inside-out"):
        by_name("rope-inside-out")


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_is_one_replaced_step_with_its_story(name):
    fault = by_name(name)
    part = getattr(Port(), fault.change.part)
    known = {f.name for f in fields(Ops if fault.change.part == "ops" else part)}
    steps = set(fault.change.steps) - MODES
    assert steps <= known
    assert len(steps) == 1 or any(steps <= place for place in PLACES)
    assert fault.component in COMPONENTS
    assert fault.symptom
    assert fault.cause
    assert fault.fix
    assert bool(fault.argument) == (fault.fate is not Fate.KILLABLE)


# ---- What becomes of them, on models that are always there

KILLABLE = [fault.name for fault in CATALOGUE if fault.fate is Fate.KILLABLE]
EQUIVALENT = [fault.name for fault in CATALOGUE if fault.fate is Fate.EQUIVALENT]
BELOW_NOISE = [fault.name for fault in CATALOGUE if fault.fate is Fate.BELOW_NOISE]
CHOICES = {"argmax", "forced", "draws_coin"}  # operations behind the logits
FLOAT, INT8 = ("gqa", "mha", "mqa"), ("gqa-q8", "mha-q8", "mqa-q8")


@lru_cache(maxsize=64)
def probed(model, stress, probe=None):
    """A shipped model under stress with its probes, or with one of them."""
    found = stresses.by_name(stress)
    altered = found.made(load(model))
    requests = found.requests(altered)
    return Probed(altered, requests if probe is None else {probe: requests[probe]})


def test_there_are_faults_enough_of_every_kind():
    assert len(CATALOGUE) >= 110
    assert len(BELOW_NOISE) <= 8
    assert {fault.component for fault in CATALOGUE} == set(COMPONENTS)


def test_every_killable_fault_has_its_probe():
    assert set(SHOWN_BY) == set(KILLABLE)


@pytest.mark.parametrize("name", KILLABLE)
def test_a_killable_fault_gives_another_answer_on_its_probe(name):
    subject, fault = probed(*SHOWN_BY[name]), by_name(name)
    effect = subject.effects(fault)[SHOWN_BY[name][2]]
    assert effect
    if fault.change.part == "ops" and effect.kind == "tokens" and not CHOICES & set(fault.change.steps):
        # More than any honest program, or what no honest program says at all.
        assert subject.shift(fault).ratio > 2 or subject.overflows(fault)


@pytest.mark.parametrize("name", KILLABLE)
def test_the_quick_way_finds_what_a_free_run_finds(name):
    model, stress, probe = SHOWN_BY[name]
    subject, fault = probed(model, stress, probe), by_name(name)
    effect, port = subject.effects(fault)[probe], faulted(fault)
    if effect.kind == "crash":
        with pytest.raises(PortCrashed):
            port.answer(subject.model, subject.requests[probe])
        return
    actual, right = port.answer(subject.model, subject.requests[probe]), subject.right[probe]
    first = first_difference(actual.ids, right.ids)
    assert effect == (Effect("bytes") if first is None else Effect("tokens", first))
    assert actual.text != right.text


@pytest.mark.parametrize("model", FLOAT)
@pytest.mark.parametrize("name", EQUIVALENT)
def test_an_equivalent_fault_changes_nothing(name, model):
    subject, fault = probed(model, "plain"), by_name(name)
    assert not any(subject.effects(fault).values())
    if fault.change.part == "ops":
        assert subject.shift(fault).ratio < 1e-6  # in float64: rounding of float64


@pytest.mark.parametrize("stress", ["peaked-attention", "flat-attention", "small-activations", "whole-context"])
@pytest.mark.parametrize("name", EQUIVALENT)
def test_an_equivalent_fault_changes_nothing_under_stress(name, stress):
    subject, fault = probed("gqa", stress), by_name(name)
    assert not any(subject.effects(fault).values())
    if fault.change.part == "ops":
        assert subject.shift(fault).ratio < 1e-6


@pytest.mark.parametrize("model", INT8)
@pytest.mark.parametrize("name", [name for name in BELOW_NOISE if name.startswith("int8")])
def test_a_fault_below_noise_moves_logits_no_further_than_honest_programs_do(name, model):
    assert probed(model, "plain").shift(by_name(name)).ratio <= 1


@pytest.mark.parametrize("model", FLOAT)
def test_sums_in_double_move_less_than_the_noise_of_logits_moves_them(model):
    subject = probed(model, "plain")
    double = by_name("probabilities-summed-in-double").change.steps["running_sums"]
    exact = np.concatenate(list(subject._right_logits.values()))
    noise = np.zeros(len(exact))
    for member in subject.honest_logits():
        moved = [
            np.abs(double(SAMPLER.probabilities(a, 1)) - double(SAMPLER.probabilities(b, 1))).max()
            for a, b in zip(exact, member.astype(np.float32), strict=True)
        ]
        noise = np.maximum(noise, moved)
    effect = [np.abs(double(p) - SAMPLER.running_sums(p)).max() for p in (SAMPLER.probabilities(x, 1) for x in exact)]
    assert max(effect) <= noise.max()
    assert not any(subject.effects(by_name("probabilities-summed-in-double")).values())


# ---- Symptoms measured on the published model by others

REQUESTS = {
    "stories260K": {
        "A": Request(),
        "B": Request(b"The dog"),
        "C": Request(temperature=1, topp=0.9, seed=42),
        "D": Request(temperature=1, topp=0, seed=42),
        "E": Request(b"There was a big", temperature=0.8, topp=0.95, seed=-1),
        "U": Request("Zoë saw a 🦙".encode(), steps=48),
        "F": Request("“Hi” café".encode(), steps=40),
        "G": Request(b"lllly oooo", steps=40),
        "H": Request(b"here little", steps=40),
        "K": Request(steps=40, temperature=0.0001, topp=1),
    },
    "stories260K ": {"L": Request(steps=0, temperature=1, topp=0.9, seed=12)},
    "stories260K/eps-probe": {"X": Request()},
    "stories260K/rev-cls": {"R": Request()},
    "stories260K/bos-swap": {"S": Request()},
}


@pytest.fixture(scope="module")
def stories():
    """The published model and its variants, with the probes of the measured table."""
    published("stories260K.bin")
    return [Probed(load(name.strip()), requests) for name, requests in REQUESTS.items()]


def agrees(effect, cell, answer):
    """Whether an effect is what a cell of the table says; a faulty engine that failed may do anything else to us."""
    if cell.startswith("#"):  # as many tokens, the others the same
        return effect == Effect("tokens", min(int(cell[1:]), len(answer.ids)))
    if cell == "X":
        return bool(effect)
    return effect == {".": Effect(""), "o": Effect("bytes")}.get(cell) or effect == Effect("tokens", _number(cell))


def _number(cell):
    return int(cell) if cell.isdigit() else None


@pytest.mark.parametrize("name", MEASURED)
def test_the_first_wrong_piece_of_every_probe_is_the_measured_one(name, stories):
    fault, wanted = by_name(name), MEASURED[name][1]
    wrong = {
        probe: (effect, wanted[probe])
        for probed in stories
        if any(wanted[probe] != "-" for probe in probed.requests)
        for probe, effect in probed.effects(fault).items()
        if wanted[probe] != "-" and not agrees(effect, wanted[probe], probed.right[probe])
    }
    assert not wrong
