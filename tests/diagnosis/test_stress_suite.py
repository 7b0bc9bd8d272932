"""The suite of stress checkpoints: what it asks is what the catalogue needs, and it kills what core does not."""

import pytest

from harness.conformance.case import select
from harness.conformance.check import check
from harness.diagnosis.shown import SHOWN_BY
from harness.errors import InputError
from harness.models import altered, load, locate
from harness.results import Kind
from tests.diagnosis.ported import ported

# Fault that no case of core shows -> the case that does.
KILLS = {
    "argmax-last": "uniform-greedy",
    "argmax-nan-wins": "nan-row",
    "argmax-of-probabilities": "nan-row",
    "coin-32-bits": "uniform-coin-on-a-boundary",
    "int8-tails-counted": "int8-groups-of-64",
    "int8-zero-group": "int8-zero-group",
    "sampler-softmax-overflows": "gqa-cold",
    "softmax-overflows": "peaked-attention",
    "steps-unclamped": "short-context",
    "stops-at-eos-too": "uniform-negative-seed",
    "tokenizer-floor-1e9": "run-of-spaces",
    "tokenizer-meta-space": "gqa-meta-space",
    "tokenizer-size-checked": "surplus-piece",
    "tokenizer-specials-parsed": "gqa-specials",
    "tokenizer-ties-right": "gqa-repeated-letters",
    "topp-at-least": "uniform-nucleus-to-the-bit",
    "topp-cutoff-of-topp": "gqa-hot",
    "topp-unstable-sort": "uniform-nucleus",
}
CASES = {case.name: case for case in select(["stress"])}


def verdict(impl, case):
    (found,) = next(check([impl], [case], levels=["TEXT"], diagnose=False))
    return found


@pytest.mark.parametrize(("fault", "name"), KILLS.items())
def test_a_fault_that_core_lets_pass_is_killed(fault, name):
    assert verdict(ported(fault), CASES[name]).kind.is_failure


@pytest.mark.parametrize("name", CASES)
def test_a_right_port_is_exact(name):
    assert verdict(ported(), CASES[name]).kind is Kind.EXACT


def test_every_case_kills_what_nothing_else_does():
    assert set(KILLS.values()) == set(CASES)


def test_the_probes_are_those_of_the_catalogue():
    for fault, name in KILLS.items():
        model, stress, _ = SHOWN_BY[fault]
        assert CASES[name].model.name == (model if stress == "plain" else f"{model}/{stress}")


def test_conventions_are_asked_only_of_who_claims_them():
    for name in ("nan-row", "uniform-greedy"):
        found = verdict(ported(conventions=""), CASES[name])
        assert found.kind is Kind.UNSUPPORTED
        assert CASES[name].why in found.reason


@pytest.mark.parametrize("name", altered.SHA256)
def test_an_altered_model_is_made_once_and_is_what_was_pinned(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    made = locate(name)
    assert made.sha256 == altered.SHA256[name]
    written = made.checkpoint.stat().st_mtime_ns
    assert locate(name).checkpoint.stat().st_mtime_ns == written
    made.checkpoint.write_bytes(made.checkpoint.read_bytes()[:-1])  # damaged: made again
    assert locate(name).checkpoint.stat().st_size == made.checkpoint.stat().st_size
    assert load(made.checkpoint, made.tokenizer).checkpoint.config.vocab_size == 512


def test_other_alterations_of_other_models_are_no_names():
    with pytest.raises(InputError, match="there is no model mha/nan-row"):
        locate("mha/nan-row")
