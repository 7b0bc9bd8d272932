"""What a diagnosis is worth where the fault is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.conformance.selftest.honest import Honest
from harness.conformance.selftest.kills import Outcome
from harness.conformance.selftest.naming import Answer, Route, accusations, asked, named, outcome_of, routes
from harness.conformance.selftest.places import place_of, said
from harness.conformance.selftest.ported import PortedFault
from harness.conformance.selftest.run import Subject
from harness.diagnosis import by_name
from harness.diagnosis.diagnosis import suspect
from harness.results import Conclusion, Diagnosis, Kind, Verdict

FAULT = by_name("heads-modulo")
NAMES = ("norm-sum", "norm-centred", "rope-missing", "rope-on-v")


def diagnosis(*names, conclusion=Conclusion.NAMED):
    suspects = [suspect([by_name(part) for part in name.split(" + ")], 1) for name in names]
    return Diagnosis("text", conclusion, suspects=tuple(suspects), runner_up=suspect([FAULT], 1), gap=1.23456)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (diagnosis("heads-modulo"), "exact"),
        (diagnosis("heads-first", "heads-modulo"), "class"),
        (diagnosis("heads-first"), "sibling"),
        (diagnosis("heads-first", "norm-sum"), "wrong"),
        (diagnosis("norm-sum"), "wrong"),
        (diagnosis("heads-modulo + norm-sum"), "wrong"),
        (diagnosis(conclusion=Conclusion.UNKNOWN), "unknown"),
        (diagnosis(conclusion=Conclusion.LOWER_PRECISION), "lower precision"),
        (diagnosis(conclusion=Conclusion.NONE), "none"),
    ],
)
def test_the_worth_of_a_diagnosis(found, outcome):
    assert outcome_of(found, FAULT) == outcome


def test_each_route_has_its_row_and_one_that_cannot_say_anything_has_none():
    subject = Subject("numpy", FAULT, lambda: PortedFault(FAULT.name))
    ask = [
        Route("text", lambda impl, fault, outcome: Answer(diagnosis("heads-modulo"))),
        Route("probes", lambda impl, fault, outcome: None),
        Route("tracer", lambda impl, fault, outcome: Answer(None, places=(None, (3, "attention")), problem="mute")),
    ]
    text, tracer = named(subject, Outcome("numpy", FAULT.name), ask)
    assert (text["route"], text["outcome"], text["names"], text["gap"]) == ("text", "exact", ["heads-modulo"], 1.235)
    assert (text["runner_up"], text["component"], text["parts"]) == ("heads-modulo", "attention", ["attention"])
    assert (tracer["outcome"], tracer["problem"], tracer["names"]) == ("refused", "mute", [])
    assert (tracer["place"], tracer["true_place"]) == ("refused", "attention of layer 3")


def test_an_honest_program_is_asked_about_too():
    ask = [Route("probes", lambda impl, fault, outcome: Answer(diagnosis(conclusion=Conclusion.NONE)))]
    (found,) = accusations(Honest("right", PortedFault()), ask)
    assert (found["program"], found["conclusion"], found["names"]) == ("right", "none", [])


def test_the_text_route_needs_a_run_at_the_gate():
    text = routes()[0]
    assert text.asks(PortedFault(), FAULT, None) is None
    said = diagnosis("heads-modulo")
    verdict = Verdict("x", "numpy", "gqa", Kind.MISMATCH, diagnosis=said)
    crashed = Verdict("x", "numpy", "gqa", Kind.CRASHED)
    outcome = Outcome("numpy", FAULT.name, kinds=("CRASHED",), verdicts=(crashed,))
    told = text.asks(PortedFault(), FAULT, replace(outcome, verdicts=(crashed, verdict))).diagnosis
    assert told == replace(said, models=("gqa",))
    assert text.asks(PortedFault(), FAULT, outcome).problem == "no answer of it was judged: CRASHED"


@pytest.mark.parametrize(("fault", "sees"), [("heads-modulo", True), ("rng-shifts", False), ("int8-truncated", True)])
def test_probes_are_of_a_container_that_shows_the_fault(fault, sees):
    answer = routes()[1].asks(PortedFault(fault), by_name(fault), None)
    assert answer.sees == sees
    assert answer.diagnosis.names == ((fault,) if sees else ())


def test_all_that_are_compiled_are_asked_about_and_by_turns_a_few():
    found = [Subject(program, by_name(name), lambda: None) for program in ("numpy", "c", "ts") for name in NAMES]
    compiled = [one.key for one in found if one.program != "numpy"]
    assert [one.key for one in asked(found)] == compiled
    turns = [[one.key for one in asked(found, turn=turn, n=3)] for turn in range(8)]
    assert {key for keys in turns for key in keys} == set(compiled)
    assert all(len(keys) == 3 for keys in turns)


def test_operations_belong_to_sub_blocks():
    assert place_of("embedding", -1) == (-1, "embedding")
    assert place_of("logits", -1) == (-1, "final norm")
    assert [place_of(name, 2) for name in ("attn_residual", "ffn_norm")] == [(2, "attention"), (2, "feed-forward")]
    assert [said(place) for place in (None, (-1, "embedding"), (1, "attention"))] == [
        "nothing",
        "embedding",
        "attention of layer 1",
    ]
