"""The text route as a whole: runs of several models, one sentence about the bug."""

from dataclasses import replace

import pytest

from harness.conformance.selftest.ported import PortedFault
from harness.conformance.text_route import Told, by_text, text_cases
from harness.diagnosis import by_name
from harness.results import Conclusion, Diagnosis, Suspect


def cases(*names):
    return [case for case in text_cases() if case.name in names]


def test_cases_are_runs_of_the_models_and_of_those_altered_from_them():
    names = {case.model.name for case in text_cases(("gqa",), ("core", "stress"))}
    assert "gqa" in names
    assert "gqa/uniform" in names
    assert all(name.partition("/")[0] == "gqa" for name in names)
    assert {case.model.name for case in text_cases(("mha-q8",))} == {"mha-q8"}


def test_what_one_model_cannot_tell_apart_another_does():
    suspects = [by_name(name) for name in ("heads-first", "heads-by-kv-heads", "rope-half-of-k", "rope-k-missing")]
    chosen = cases("gqa-greedy", "mqa-greedy", "mqa-cool-seed2", "gqa-bytes")
    told = by_text(PortedFault("rope-half-of-k"), chosen, suspects=suspects)
    assert told.names == ("rope-half-of-k",)
    assert told.found[0].models in (("gqa", "mqa"), ("mqa", "gqa"))
    assert told.found[0].explained == told.found[0].total > told.found[0].right
    assert told.n_wrong == 4


def test_a_text_with_another_echo_is_read_as_the_program_prints():
    chosen = cases("gqa-double-spaces", "gqa-greedy", "gqa-bytes")
    told = by_text(PortedFault("tokenizer-squeezed"), chosen)
    assert told.names == ("tokenizer-squeezed",)
    assert told.n_wrong == 1


def test_a_right_program_is_told_nothing():
    told = by_text(PortedFault(), cases("gqa-greedy"))
    assert told == Told((), 0)
    assert told.names == ()


@pytest.mark.parametrize("conclusion", [Conclusion.NAMED, Conclusion.UNKNOWN])
def test_models_contradict_each_other_where_several_bugs_are_named(conclusion):
    found = Diagnosis("text", conclusion, (Suspect("a", "loop", "", ""),))
    assert Told((found, found), 2).is_contradictory is (conclusion is Conclusion.NAMED)
    assert Told((found,), 2).names == ("a",)


class Decorated(PortedFault):
    """A fault whose program prints more than the text, and claims nothing about how."""

    def __init__(self, fault, decorate):
        super().__init__(fault)
        self.manifest = self.manifest.model_copy(update={"conventions": ""})
        self.decorate = decorate

    def run(self, request, limits=None):
        seen = super().run(request, limits)
        return replace(seen, stdout=self.decorate(seen.stdout))


@pytest.mark.parametrize(
    "decorate",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b" ", b"\0 "),
        lambda text: text + b"achieved tok/s: 123.456789\n",
        lambda text: b"loading model.bin...\nPrompt: " + text,
    ],
    ids=["crlf", "nul", "speed", "prompt-header"],
)
def test_what_is_printed_beside_the_text_is_no_evidence(decorate):
    chosen = cases("gqa-greedy", "gqa-nucleus-seed42", "gqa-multinomial-seed42")
    plain = by_text(PortedFault("rng-no-multiplier"), chosen)
    told = by_text(Decorated("rng-no-multiplier", decorate), chosen)
    assert told.names == plain.names == ("rng-no-multiplier",)
    assert told.n_wrong == plain.n_wrong == 2
