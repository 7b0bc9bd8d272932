"""Diagnoses of several models put together, on some that were written by hand."""

from dataclasses import replace

from harness.diagnoses import combined, combined_by_model
from harness.results import Conclusion, Diagnosis, Kind, Suspect, Verdict


def suspect(name, gain=0.0, *, whole=True, explained=100, cause="", layer=None):
    return Suspect(name, "rotation", cause or name, "", explained, layer, gain, whole)


def named(*suspects, others=(), total=100):
    return Diagnosis(
        "text",
        Conclusion.NAMED,
        suspects,
        explained=total,
        total=total,
        right=40,
        runner_up=suspect("far-off", -50.0, whole=False, explained=7),
        gain=suspects[0].gain,
        weighed=(*suspects, *others),
    )


def test_one_model_stands_as_it_is():
    found = named(suspect("a", 20.0))
    assert combined_by_model({"gqa": found}) == [replace(found, models=("gqa",))]


def test_a_class_is_narrowed_down_by_the_other_model_and_tokens_are_added_up():
    both = named(suspect("a", 20.0), suspect("b", 20.0))
    (found,) = combined_by_model({"gqa": both, "mha": named(suspect("a", 30.0))})
    assert (found.names, found.models, found.gain) == (("a",), ("gqa", "mha"), 50.0)
    assert (found.explained, found.total, found.right) == (200, 200, 80)


def test_what_is_allowed_on_both_is_the_bug_though_one_model_finds_another_likelier():
    nearer = named(suspect("b", 25.0), others=(suspect("a", 22.0),))
    (found,) = combined_by_model({"gqa": named(suspect("a", 20.0)), "mqa": nearer})
    assert found.names == ("a",)
    assert found.gain == 42.0


def test_what_explains_not_everything_is_not_allowed():
    other = named(suspect("b", 25.0), others=(suspect("a", 24.0, whole=False),))
    found = combined_by_model({"gqa": named(suspect("a", 20.0)), "mqa": other})
    assert [(one.names, one.models) for one in found] == [(("b",), ("mqa",)), (("a",), ("gqa",))]


def test_the_same_mistake_with_other_numbers_is_another_bug():
    found = combined_by_model(
        {"gqa": named(suspect("theta", 20.0, cause="1000")), "mqa": named(suspect("theta", 30.0, cause="1e6"))}
    )
    assert [one.suspects[0].cause for one in found] == ["1e6", "1000"]


def test_numbers_that_do_the_same_here_are_one_suspect():
    both = named(suspect("theta", 20.0, cause="1000"), suspect("theta", 20.0, cause="1001"))
    (found,) = combined_by_model({"gqa": both, "mqa": both})
    assert [one.cause for one in found.suspects] == ["1000"]


def test_weak_evidence_of_another_model_is_added():
    weak = Diagnosis("text", Conclusion.LOWER_PRECISION, total=100, precision="f16", weighed=(suspect("a", 6.0),))
    (found,) = combined_by_model({"gqa": weak, "mqa": named(suspect("a", 70.0), suspect("b", 70.0))})
    assert (found.conclusion, found.names, found.gain, found.precision) == (Conclusion.NAMED, ("a",), 76.0, "")
    assert (found.explained, found.total) == (200, 200)


def test_weak_evidence_of_all_models_names_nothing():
    weak = Diagnosis("text", Conclusion.LOWER_PRECISION, total=100, precision="f16", weighed=(suspect("a", 9.0),))
    (found,) = combined_by_model({"gqa": weak, "mha": weak, "mqa": weak})
    assert (found.conclusion, found.names, found.total) == (Conclusion.LOWER_PRECISION, (), 300)


def test_models_that_came_to_nothing_do_not_speak_against_what_is_named():
    unknown = Diagnosis("text", Conclusion.UNKNOWN, total=300)
    (found,) = combined_by_model({"gqa": named(suspect("a", 20.0)), "mha": unknown})
    assert (found.names, found.models) == (("a",), ("gqa",))


def test_verdicts_of_one_model_count_once_and_those_without_a_diagnosis_not_at_all():
    def wrong(model, found):
        return Verdict("once", "c", model, Kind.MISMATCH, diagnosis=found)

    found = named(suspect("a", 20.0))
    (one,) = combined([wrong("gqa", found), wrong("gqa", found), wrong("mha", None)])
    assert (one.models, one.total) == (("gqa",), 100)
    assert combined([wrong("mha", None)]) == []
