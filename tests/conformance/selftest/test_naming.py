"""What a diagnosis is worth where the fault is known."""

from __future__ import annotations

import pytest

from harness.conformance.selftest.honest import Honest
from harness.conformance.selftest.kills import Outcome
from harness.conformance.selftest.naming import Route, accusations, asked, named, outcome_of, routes
from harness.conformance.selftest.ported import PortedFault
from harness.conformance.selftest.run import Subject
from harness.diagnosis import by_name
from harness.diagnosis.diagnosis import suspect
from harness.results import Conclusion, Diagnosis

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
        Route("text", lambda impl, outcome: diagnosis("heads-modulo"), lambda fault: True),
        Route("probes", lambda impl, outcome: None, lambda fault: True),
        Route("tracer", lambda impl, outcome: diagnosis("heads-first"), lambda fault: False),
    ]
    (found,) = named(subject, Outcome("numpy", FAULT.name), ask)
    assert (found["route"], found["outcome"], found["names"], found["gap"]) == (
        "text",
        "exact",
        ["heads-modulo"],
        1.235,
    )
    assert found["runner_up"] == "heads-modulo"


def test_an_honest_program_is_asked_about_too():
    ask = [Route("probes", lambda impl, outcome: diagnosis(conclusion=Conclusion.NONE), lambda fault: True)]
    (found,) = accusations(Honest("right", PortedFault()), ask)
    assert (found["program"], found["conclusion"], found["names"]) == ("right", "none", [])


def test_routes_are_asked_about_what_they_can_see():
    text, probes, tracer = routes()
    assert all(one.sees(FAULT) for one in (text, probes, tracer))
    for name, seen in {
        "tokenizer-no-bos": (True, True, False),
        "rng-shifts": (True, False, False),
        "int8-truncated": (True, False, False),
        "newline-missing": (True, False, False),
    }.items():
        assert tuple(one.sees(by_name(name)) for one in (text, probes, tracer)) == seen


def test_all_of_c_and_some_of_the_others_are_asked_about():
    found = [Subject(program, by_name(name), lambda: None) for program in ("numpy", "c", "ts") for name in NAMES]
    assert asked(found) == [*(f"c+{name}" for name in NAMES), "ts+norm-sum", "ts+rope-on-v"]
