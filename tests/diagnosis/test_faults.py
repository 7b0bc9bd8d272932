"""The catalogue of faults: what each entry does to answers and logits, and that its words are there."""

from dataclasses import fields

import pytest

from harness import models
from harness.diagnosis import CATALOGUE, COMPONENTS, Fate, Port, Request, by_name
from harness.diagnosis.probes import Effect, Probed
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
