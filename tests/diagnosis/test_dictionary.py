"""The dictionary names the bug of a program by what it said, and accuses nobody who is right in another precision."""

import math
from dataclasses import replace

import numpy as np
import pytest

from harness import models
from harness.conformance.naming import noise_of
from harness.conformance.reference import Reference, rounded
from harness.diagnosis import CATALOGUE, Answer, Fate, Port, Request, by_name, faulted
from harness.diagnosis.fault import Fault, ops
from harness.diagnosis.naming import Evidence, Noise, diagnose, heard
from harness.diagnosis.naming.evidence import printing_of
from harness.diagnosis.naming.hypotheses import RIGHT, applicable, in_one_layer, pairs
from harness.diagnosis.naming.printed import Printed
from harness.diagnosis.naming.reading import said_by
from harness.diagnosis.naming.scores import Chooser, Trial, fitted, level, margins
from harness.engine import LIBRARY
from harness.results import Conclusion

REQUESTS = [
    Request(b"Once upon a time", steps=80),
    Request(b"The dog", steps=64),
    Request("Bj\u00f6rn saw \u201cZo\u00eb\u201d".encode(), steps=80),
    Request(steps=80),
    Request(b"Tim and", steps=64, temperature=1.0, topp=0.9, seed=42),
    Request(b"One day", steps=64, temperature=1.0, topp=0.9, seed=7),
]
NOISE = Noise(2e-5, {"f16": 0.02, "bf16": 0.2})


@pytest.fixture(scope="module")
def gqa():
    found = models.locate("gqa")
    return models.load(found.checkpoint, found.tokenizer)


@pytest.fixture(scope="module")
def noise(gqa):
    return noise_of(Reference(gqa), [1])


@pytest.fixture(scope="module")
def right(gqa):
    return [Port().answer(gqa, request) for request in REQUESTS]


def evidence(model, port, right):
    return [
        heard(model, request, port.answer(model, request), right=one)
        for request, one in zip(REQUESTS, right, strict=True)
    ]


# ---- what is named


@pytest.mark.parametrize(
    "name",
    [
        "rope-half-split",
        "heads-modulo",
        "attention-scale-dim",
        "cache-without-layers",
        "ffn-gelu",
        "last-layer-skipped",
        "v0-w3-before-w2",
        "tokenizer-no-dummy-prefix",
        "tokenizer-unk-for-unknown",
        "topp-unsorted",
        "coin-for-prompt",
        "forced-one-short",
        "newline-missing",
        "byte-pieces-literal",
        "steps-without-prompt",
        "norm-final-missing",  # near uniform logits: draws from noise, half of them of silent pieces
        "mask-excludes-self-but-first",
    ],
)
def test_a_fault_is_named_by_its_texts(name, gqa, noise, right):
    found = diagnose(gqa, evidence(gqa, faulted(by_name(name)), right), noise=noise)
    assert found.conclusion is Conclusion.NAMED
    assert name in found.names
    assert found.total >= found.explained >= found.total - found.total // 200 > found.right
    assert found.runner_up is not None
    assert found.runner_up.name not in found.names
    assert found.n_tried > 80


def test_ids_name_it_as_well_as_text(gqa, noise, right):
    port = faulted(by_name("rope-backwards"))
    said = []
    for request, one in zip(REQUESTS, right, strict=True):
        prompt = Port().prompt_ids(gqa, request.prompt)
        ids = (prompt[0], *port.answer(gqa, request).ids)
        is_right = list(ids[1:]) == one.ids
        said.append(Evidence(request, tuple(prompt), ids, is_right, True, printing_of(gqa), encoded=tuple(prompt)))
    assert diagnose(gqa, said, noise=noise).names == ("rope-backwards",)


def test_the_ids_of_prompts_alone_name_a_tokenizer(gqa, noise, right):
    port = faulted(by_name("tokenizer-no-merges"))
    said = []
    for request, one in zip(REQUESTS, right, strict=True):
        prompt = Port().prompt_ids(gqa, request.prompt)
        encoded = tuple(port.prompt_ids(gqa, request.prompt))
        ids = (prompt[0], *one.ids)
        said.append(
            Evidence(request, tuple(prompt), ids, encoded == tuple(prompt), True, printing_of(gqa), encoded=encoded)
        )
    found = diagnose(gqa, said, noise=noise).names
    assert "tokenizer-no-merges" in found
    assert all(name.startswith("tokenizer-") for name in found)


def test_a_fault_of_one_layer_is_named_with_the_layer(gqa, noise, right):
    (hypothesis,) = [
        one
        for one in in_one_layer(applicable([by_name("ffn-relu")], gqa, is_sampled=True, version=0), gqa)
        if one.layer == 2
    ]
    found = diagnose(gqa, evidence(gqa, hypothesis.port, right), noise=noise)
    assert found.names == ("ffn-relu",)
    assert found.suspects[0].layer == 2


def test_two_faults_together_are_named_together(gqa, noise, right):
    port = faulted(by_name("attention-scale-dim"), faulted(by_name("ffn-gelu")))
    found = diagnose(gqa, evidence(gqa, port, right), noise=noise)
    assert found.conclusion is Conclusion.NAMED
    assert set(found.names[0].split(" + ")) == {"attention-scale-dim", "ffn-gelu"}


# ---- what is not


def test_right_answers_name_nothing(gqa, noise, right):
    found = diagnose(gqa, evidence(gqa, Port(), right), noise=noise)
    assert found.conclusion is Conclusion.NONE
    assert not found.names


def test_a_bug_that_is_not_in_the_dictionary_is_unknown(gqa, noise, right):
    sine = Fault("sine", "feed-forward", "", "", "", ops(activation=lambda step, gate: np.sin(gate)))
    found = diagnose(gqa, evidence(gqa, faulted(sine), right), noise=noise)
    assert found.conclusion is Conclusion.UNKNOWN
    assert not found.names
    assert found.runner_up is not None


@pytest.mark.parametrize("precision", ["f16", "bf16", "q8"])
def test_a_right_program_of_lower_precision_is_not_accused(precision, gqa, noise, right):
    for lower in rounded(precision, group_size=4):
        port = Port(ops={name: getattr(lower, name) for name in lower.differs_from(LIBRARY)})
        found = diagnose(gqa, evidence(gqa, port, right), noise=noise)
        assert found.conclusion is not Conclusion.NAMED


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"\xff\x00\xfe" * 50, b"Once upon a time" * 40, b"Segmentation fault\n"]
)
def test_a_text_that_no_port_prints_is_unknown(text, gqa, noise, right):
    said = [
        heard(gqa, request, Answer([], text), right=one) for request, one in zip(REQUESTS[:2], right[:2], strict=True)
    ]
    assert diagnose(gqa, said, noise=noise).conclusion is Conclusion.UNKNOWN


def test_a_port_that_prints_just_that_gives_its_tokens(gqa, right):
    port = faulted(by_name("mask-excludes-self-but-first"))
    for request, one in zip(REQUESTS, right, strict=True):
        answer = port.answer(gqa, request)
        said = heard(gqa, request, answer, right=one)
        engine = port.engine(gqa)
        assert said_by(port, engine, gqa, said) == (1, *answer.ids)
        assert said_by(Port(), Port().engine(gqa), gqa, said) is None
        for text in (answer.text[:-1], answer.text + b"x", b"", answer.text.replace(b" ", b"  ", 1)):
            assert said_by(port, engine, gqa, replace(said, stdout=text)) is None
        assert said_by(port, engine, gqa, replace(said, stdout=None)) is None


def test_of_several_tokens_the_one_that_the_coin_may_have_drawn_is_read(gqa):
    """Two pieces that print the same, and nothing: only the coin tells them apart, and it is near the border."""
    request = Request(steps=3, temperature=1.0, topp=0.0, seed=5)
    chooser = Chooser(Port(), request, 1, gqa.checkpoint.config, 3)
    row = np.zeros(gqa.checkpoint.config.vocab_size, np.float32)
    coin = float(chooser.coins[0])
    drawn = chooser.token(row, 0)
    beside = drawn + (1 if coin * len(row) - drawn > 0.5 else -1)
    room = abs(coin * len(row) - max(drawn, beside)) / len(row)  # of probability, to the border between them
    floors = [room / 8, room * len(row)]
    assert chooser.needed(row, 0, [drawn, beside], floors) == [floors[0], floors[1]]
    assert chooser.needed(row, 0, [], floors) == []
    far = (drawn + 256) % len(row)
    assert chooser.needed(row, 0, [far], floors) == [math.inf]
    assert chooser.needed(row, 0, [beside], floors, scale=1e9) == [math.inf]  # in logits that are large


# ---- its parts, by hand


def test_margins_are_the_logit_over_the_best_other_one(gqa):
    request = Request(steps=4)
    engine = Port().engine(gqa)
    row = engine.logits([1])[0].astype(np.float64)
    best, second = np.argsort(-row)[:2]
    for token, expected in ((best, row[best] - row[second]), (second, row[second] - row[best])):
        (found,) = margins(Port(), engine, [Trial(request, (1,), (1, int(token)))], NOISE)
        assert found == pytest.approx(expected)
    (found,) = margins(Port(), engine, [Trial(request, (1,), (1,), (int(second), int(best)))], NOISE)
    assert found > 0


def test_what_no_noise_explains_has_no_level():
    assert level(np.array([1.0, 2.0]), NOISE) == ""
    assert level(np.array([1.0, -3e-5]), NOISE) == ""
    assert level(np.array([1.0, -0.03]), NOISE) == "f16"
    assert level(np.array([1.0, -0.3]), NOISE) == "bf16"
    assert level(np.array([1.0, -0.5]), NOISE) is None
    assert level(np.array([1.0, -math.inf]), NOISE) is None


def test_many_choices_turned_by_little_are_another_function():
    assert level(np.full(100, -0.01), NOISE) is None


def test_a_single_token_cannot_decide_everything():
    assert fitted(np.array([-math.inf]), NOISE) == -30
    assert fitted(np.full(50, math.inf), NOISE) == 0


def test_noise_levels_never_fall():
    assert [floor for _, floor in Noise(0.1, {"bf16": 0.3, "q8": 0.2}).levels] == [0.1, 0.3, 0.3]


def test_what_is_equivalent_or_of_another_format_is_no_suspect(gqa):
    names = {one.name for one in applicable(CATALOGUE, gqa, is_sampled=False, version=0)}
    assert not names & {one.name for one in CATALOGUE if one.fate is not Fate.KILLABLE}
    assert not names & {"int8-truncated", "v2-scales-first", "v1-in-v0-order", "rng-shifts", "tokenizer-size-checked"}
    assert {"rope-half-split", "v0-w3-before-w2", "temperature-zero-divides", "newline-missing"} <= names


def test_pairs_are_of_different_steps_and_each_is_there_once(gqa):
    some = applicable([by_name(n) for n in ("ffn-relu", "ffn-gelu", "heads-first")], gqa, is_sampled=False, version=0)
    assert {one.name for one in pairs(some, some)} == {"ffn-relu + heads-first", "ffn-gelu + heads-first"}


@pytest.mark.parametrize("name", ["newline-missing", "steps-without-prompt", "prompt-not-echoed", "forced-one-short"])
def test_what_is_printed_is_the_ports_own_answer(name, gqa):
    printed = Printed(gqa, Port().engine(gqa))
    for request in REQUESTS:
        for port in (faulted(by_name(name)), RIGHT.port):
            assert printed.stdout(port, request) == port.answer(gqa, request).text


def test_the_order_of_the_evidence_does_not_matter(gqa, noise, right):
    said = evidence(gqa, faulted(by_name("heads-first")), right)
    one, other = (diagnose(gqa, order, noise=noise) for order in (said, said[::-1]))
    assert replace(one, runner_up=None) == replace(other, runner_up=None)


def test_what_else_explains_everything_is_told_for_other_models_to_judge(gqa, noise, right):
    found = diagnose(gqa, evidence(gqa, faulted(by_name("rope-half-split")), right), noise=noise)
    weighed = [one for one in found.weighed if one.explains_all]
    assert {one.name for one in weighed} >= set(found.names) == {"rope-half-split", "hf-rows-reordered-twice"}
    assert all(one.gain >= 12 for one in found.suspects)
    assert found.runner_up.name in {one.name for one in found.weighed if not one.explains_all}
