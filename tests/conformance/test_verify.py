"""The judge is judged: fake ports with one thing wrong or unusual each, through `verify_group`."""

import dataclasses
import importlib
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.checkpoint import Checkpoint
from harness.conformance.case import read_suite
from harness.conformance.verify import reference_of, verify_group
from harness.engine import LIBRARY, STRICT, generate
from harness.engine import sampler as engine_sampler
from harness.errors import (
    BuildFailed,
    CaseError,
    Crashed,
    MemoryLimit,
    MissingDependency,
    NoOutput,
    OutputLimit,
    ProtocolViolation,
    StartFailed,
    TimedOut,
)
from harness.models import golden_dir, load, locate
from harness.results import Kind
from harness.tokenizer.bpe import KNOWN_WRONG, EncodeRules
from tests.conformance import fakes
from tests.conformance.answers import answer, answered, written
from tests.conformance.fakes import Fake, manifest

GENERATE = importlib.import_module("harness.engine.generate")  # the package has a function of that name
STORY = answered("Nora was a little girl", name="story", steps=80)
BARE = answered("", name="bare", steps=64)
BYTES = answered("Björn saw a 🦊 “Hi”", name="bytes", steps=72)
DOUBLE = answered("Once  upon a", name="double", steps=64)
NUCLEUS = answered("", name="nucleus", steps=96, temperature=1.0, topp=0.9, seed=42)
WHOLE = answered("Nora was", name="whole", steps=80, temperature=0.8, topp=0.0, seed=7)
MINUS = answered("", name="minus", steps=64, temperature=1.0, topp=0.95, seed=-1)
GREEDY = [STORY, BARE, BYTES, DOUBLE]
SAMPLED = [NUCLEUS, WHOLE, MINUS]
# So hot that each coin tells: on a cold text most coins draw what the next one would.
HOT = [answered("", name=f"hot {n}", steps=64, temperature=2.0, topp=0.9, seed=n) for n in range(60, 66)]
GQA = locate("gqa")


def judged(port, cases=None, *, files=GQA, **more):
    return verify_group(cases or [*GREEDY, *SAMPLED], port, files=files, suspects=(), **more)


def one(port, case=STORY, **more):
    return judged(port, [case], **more)[0]


def kinds(verdicts):
    return {verdict.kind for verdict in verdicts}


def says(text):
    """A port that prints a text of its own."""
    return Fake(wrap=lambda _: text)


# ---- Right ports


@pytest.mark.parametrize(
    "port", [Fake(), Fake(ops=STRICT), Fake(dtype=np.float64)], ids=["float32", "strict", "float64"]
)
def test_honest_arithmetic_is_exact(port):
    verdicts = judged(port)
    assert kinds(verdicts) == {Kind.EXACT}
    assert not any(verdict.conventions or verdict.reason for verdict in verdicts)
    assert [verdict.n_judged for verdict in verdicts] == [case.n_generated for case in [*GREEDY, *SAMPLED]]


def test_int8_models_are_judged_by_the_strict_arithmetic():
    files = locate("gqa-q8")
    model = reference_of(files)
    prompt_ids = model.model.tokenizer.encode("Nora")
    ids = tuple(generate(model.exact, prompt_ids, steps=64))
    text = model.model.tokenizer.print_text([1, *ids])
    case = replace(answered("Nora", model="gqa-q8"), ids=ids, stdout=text + b"\n")
    assert one(Fake(manifest=manifest(formats=("llama2c-v2",)), ops=STRICT), case, files=files).kind is Kind.EXACT


# ---- How it prints


def shown_by(name):
    """Print as the convention of this name does."""

    def show(tokenizer, ids):
        printing = next(p for p in reference_of(GQA).printings if p.name == name)
        return b"".join(printing.render(ids))

    return show


PRINTINGS = [printing.name for printing in reference_of(GQA).printings]


@pytest.mark.parametrize("name", PRINTINGS[1:])
def test_every_convention_of_printing_is_exact_and_named(name):
    port = Fake(show=shown_by(name))
    verdicts = judged(port)
    assert kinds(verdicts) == {Kind.EXACT}
    # where only a text with bytes or a leading space can tell, only there
    assert any(name in verdict.conventions for verdict in verdicts)


WRAPPINGS = {
    "no final newline": lambda text: text,
    "two final newlines": lambda text: text + b"\n\n",
    "<s> before the text": lambda text: b"<s>\n" + text + b"\n",
    "CRLF line ends": lambda text: b"Loading model\r\n" + text.replace(b"\n", b"\r\n") + b"\r\n",
    "NUL bytes between pieces": lambda text: b"\0".join([text[:9], text[9:31], text[31:]]) + b"\n",
    "terminal escapes": lambda text: b"\x1b[32m" + text + b"\x1b[0m\n",
    "speed printed on stdout": lambda text: text + b"\nachieved tok/s: 123.4\n",
    "log lines before the text": lambda text: b"loading gqa.bin ...\n" + text + b"\n",
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_what_is_printed_around_the_text_is_named_and_green(name):
    verdict = one(Fake(wrap=WRAPPINGS[name]), BARE)
    assert (verdict.kind, verdict.n_judged) == (Kind.EXACT, BARE.n_generated)
    assert name in verdict.conventions


def without_echo(case):
    echo = load(GQA.checkpoint, GQA.tokenizer).tokenizer.print_text(case.prompt_ids)
    return lambda text: text.removeprefix(echo) + b"\n"


@pytest.mark.parametrize("case", [STORY, BYTES, WHOLE], ids=lambda case: case.name)
def test_a_prompt_that_is_not_echoed_is_a_convention(case):
    verdict = one(Fake(wrap=without_echo(case)), case)
    assert (verdict.kind, verdict.conventions) == (Kind.EXACT, ("prompt not echoed",))


def test_a_wrong_token_right_after_a_prompt_that_is_not_echoed_is_a_wrong_token():
    port = Fake(manifest=manifest(echo="none"), wrap=lambda _: b" x" + without_echo(STORY)(STORY.stdout)[3:])
    verdict = one(port)
    assert (verdict.kind, verdict.forward, verdict.divergence.step) == (Kind.MISMATCH, Kind.MISMATCH, 0)
    assert verdict.tokenizer is not Kind.MISMATCH


@pytest.mark.parametrize(
    "port",
    [
        Fake(wrap=lambda text: text + b"\n\nachieved tok/s: 9\n"),
        Fake(show=shown_by("the space after BOS is printed")),
        Fake(show=shown_by("bytes that are no printable ASCII are written as they are")),
        Fake(more_steps=1),
        Fake(more_steps=-1),
    ],
    ids=["statistics", "space", "bytes", "one more", "one fewer"],
)
def test_who_claims_to_print_like_llama2c_must(port):
    claims = replace(port, manifest=manifest(conventions="llama2.c"))
    verdict = one(claims, BYTES)
    assert (verdict.kind, verdict.forward) == (Kind.MISMATCH, Kind.EXACT)
    assert "claims" in verdict.reason
    assert one(port, BYTES).kind is Kind.EXACT


# ---- Where it stops


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (1, "runs one position more than it is asked to"),
        (-1, "runs one position fewer than it is asked to"),
        (7, "runs 7 positions more than it is asked to"),
        ("prompt", "steps count generated tokens only"),
    ],
)
def test_another_count_of_steps_is_a_convention(more, name):
    for case in (STORY, WHOLE):
        verdict = one(Fake(more_steps=more), case)
        assert verdict.kind is Kind.EXACT
        if more != -1 or case is STORY:
            assert name in verdict.conventions


def test_stopping_much_too_early_proves_nothing():
    verdict = one(Fake(more_steps=-20))
    assert verdict.kind is Kind.INCONCLUSIVE
    assert verdict.n_judged == STORY.n_generated - 20


def with_swapped(first, second):
    """The model that says one token where it means another: their rows of embedding and classifier change places."""
    whole = load(GQA.checkpoint, GQA.tokenizer).checkpoint
    tensors = {name: np.array(tensor) for name, tensor in whole.tensors.items()}
    tensors["tok_embedding"][[first, second]] = tensors["tok_embedding"][[second, first]]
    return Checkpoint(whole.config, tensors)


def test_stopping_at_eos_is_a_convention(tmp_path):
    """A model that comes to say EOS in the midst of its text: a frequent token is renamed."""
    token = BARE.ids[45]
    assert BARE.ids.index(token) > 3
    files = written(with_swapped(2, token), tmp_path, tokenizer_of="gqa")
    case = answer(files, steps=96)
    assert 2 in case.ids
    verdict = one(Fake(stop=frozenset({1, 2}), show=no_eos), case, files=files)
    assert (verdict.kind, verdict.conventions) == (Kind.EXACT, ("stops at EOS",))
    assert one(Fake(), case, files=files).kind is Kind.EXACT


def no_eos(tokenizer, ids):
    return tokenizer.print_text([i for i in ids if i != 2])


@pytest.fixture(scope="module")
def ending(tmp_path_factory):
    """A model whose text ends in BOS after some thirty tokens."""
    token = next(t for t in dict.fromkeys(BARE.ids) if BARE.ids.index(t) >= 33)
    whole = load(GQA.checkpoint, GQA.tokenizer).checkpoint
    head = np.array(whole.tensors["tok_embedding"])  # the embedding itself stays: BOS is fed first
    head[[1, token]] = head[[token, 1]]
    made = Checkpoint(dataclasses.replace(whole.config, is_tied=False), {**whole.tensors, "lm_head": head})
    files = written(made, tmp_path_factory.mktemp("ending"), tokenizer_of="gqa")
    case = answer(files, steps=96)
    assert case.ends == "bos"
    assert case.n_generated >= 33
    return files, case


def test_a_text_that_ends_by_itself_is_exact(ending):
    files, case = ending
    assert one(Fake(), case, files=files).kind is Kind.EXACT


def past_bos(shown):
    """Print what the model says after its BOS too, and BOS itself as `shown`."""

    def show(tokenizer, ids):
        at = ids.index(1, 1)
        return tokenizer.print_text(ids[:at]) + shown + tokenizer.print_text(ids[at:])

    return show


@pytest.mark.parametrize("shown", [b"", b"\n<s>\n", b"<s>"])
def test_running_past_bos_is_a_convention_if_it_runs_on_as_the_model_would(ending, shown):
    files, case = ending
    verdict = one(Fake(stop=frozenset(), show=past_bos(shown)), case, files=files)
    assert (verdict.kind, verdict.n_judged) == (Kind.EXACT, case.n_generated)
    assert verdict.conventions == ("goes on after BOS, the end of a text",)


def test_garbage_after_bos_is_wrong(ending):
    files, case = ending
    for tail in (b" xyzzy plugh", b"\n<s>\nxyzzy plugh", b"qqq" * 3000):
        verdict = one(Fake(wrap=lambda text, tail=tail: text + tail + b"\n"), case, files=files)
        assert verdict.kind is Kind.MISMATCH


# ---- Wrong tokenizers


@pytest.mark.parametrize(("name", "rules"), [(name, rules) for name, _, rules in KNOWN_WRONG])
def test_a_wrong_tokenizer_is_named_and_the_forward_pass_acquitted(name, rules):
    tokenizer = load(GQA.checkpoint, GQA.tokenizer).tokenizer
    verdicts = judged(Fake(rules=rules), GREEDY)
    for case, verdict in zip(GREEDY, verdicts, strict=True):
        ids = tuple(tokenizer.encode(case.prompt or b"", rules=rules))
        if ids == case.prompt_ids:
            assert verdict.kind is Kind.EXACT
        elif not ids:
            assert verdict.kind is Kind.CRASHED
        elif verdict.kind is not Kind.EXACT:  # other ids may lead into the same text
            assert (verdict.kind, verdict.tokenizer, verdict.forward) == (Kind.MISMATCH, Kind.MISMATCH, Kind.EXACT)
            assert name in verdict.reason
            named = [rules for known, _, rules in KNOWN_WRONG if known in verdict.reason]
            shown = verdict.divergence.actual_text.removeprefix("prompt ids ").removesuffix(" ...")
            possible = [" ".join(map(str, tokenizer.encode(case.prompt or b"", rules=rules))) for rules in named]
            assert any((known + " ").startswith(shown + " ") for known in possible)


def test_two_flaws_are_not_taken_for_one():
    port = Fake(rules=EncodeRules(dummy_prefix="never"), ops=replace(LIBRARY, scale=lambda step, scores: scores))
    for verdict in judged(port, [STORY, BYTES]):
        assert verdict.kind is Kind.MISMATCH
        assert verdict.forward is not Kind.EXACT


# ---- Wrong forward passes


def half_split(step, x, cos, sin):
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    c, s = cos[:, None, :], sin[:, None, :]
    return np.concatenate([a * c - b * s, a * s + b * c], axis=-1)


def norm_with(eps):
    def norm(step, x, gain):
        return (x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)).astype(x.dtype) * gain

    return norm


def heads_modulo(step):
    return np.arange(step.config.n_heads) % step.config.n_kv_heads


FAULTS = {
    "half-split rotation": replace(LIBRARY, rotate_q=half_split, rotate_k=half_split),
    "no scale": replace(LIBRARY, scale=lambda step, scores: scores),
    "heads modulo": replace(LIBRARY, head_map=heads_modulo),
    "eps 1e-3": replace(LIBRARY, attn_norm=norm_with(1e-3), ffn_norm=norm_with(1e-3), final_norm=norm_with(1e-3)),
    "last layer skipped": replace(LIBRARY, layer_order=lambda config: range(config.n_layers - 1)),
    "parallel feed-forward": replace(LIBRARY, ffn_norm=lambda step, x, gain: step.values["attn_norm"]),
    "positions from 1": replace(LIBRARY, position=lambda config, pos: pos + 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_forward_pass_is_a_mismatch_with_step_regret_and_both_continuations(fault):
    port = Fake(ops=FAULTS[fault])
    verdicts = judged(port)
    wrong = [verdict for verdict in verdicts if verdict.kind is Kind.MISMATCH]
    assert wrong
    # never excused by ties or by a generator; a stop in the wrong place cannot be told from one of its own
    assert kinds(verdicts) <= {Kind.MISMATCH, Kind.EXACT, Kind.INCONCLUSIVE}
    for verdict in wrong:
        assert verdict.forward is Kind.MISMATCH
        assert verdict.tokenizer in (None, Kind.EXACT)
        found = verdict.divergence
        assert found.regret >= 0
        assert found.floor > 0
        assert found.actual != found.expected
        assert found.actual_text != found.expected_text
        assert f"step {found.step}" in verdict.reason
    greedy = [v.divergence for v in wrong if v.case in {case.name for case in GREEDY}]
    assert all(found.regret > 2 * found.floor for found in greedy)


def test_the_step_that_is_named_is_the_first_wrong_token():
    def slips(config, logits):
        slips.n += 1
        return int(np.argsort(logits)[-2]) if slips.n == 21 else int(logits.argmax())

    slips.n = 0
    found = one(Fake(ops=replace(LIBRARY, argmax=slips)), BARE).divergence
    # the bytes may tell later which token it was, never before
    assert 20 <= found.step <= 22
    assert found.before == BARE.stdout.decode()[: BARE.stdout.decode().index(found.before) + len(found.before)][-48:]


# ---- Low precision


@pytest.mark.parametrize(("precision", "index"), [("f16", 2), ("bf16", 0), ("q8", 1)])
def test_a_declared_precision_is_within_its_noise(precision, index):
    port = Fake(manifest=manifest(precision=precision), precision=(precision, index))
    assert kinds(judged(port)) <= {Kind.EXACT, Kind.TIE, Kind.WITHIN}


def test_an_undeclared_precision_is_a_mismatch_with_a_hint():
    longer = answered("Nora was a little girl", name="longer", steps=120)
    verdicts = judged(Fake(precision=("bf16", 2)), [longer, BARE, BYTES])
    wrong = [verdict for verdict in verdicts if verdict.kind is Kind.MISMATCH]
    assert wrong
    assert all("declare it" in verdict.reason for verdict in wrong)
    assert kinds(verdicts) <= {Kind.MISMATCH, Kind.EXACT}


def test_a_declared_precision_does_not_excuse_a_wrong_forward_pass():
    port = Fake(manifest=manifest(precision="q8"), ops=FAULTS["heads modulo"])
    assert Kind.WITHIN not in kinds(judged(port, GREEDY))
    assert Kind.MISMATCH in kinds(judged(port, GREEDY))


# ---- Sampling


def with_sampler(monkeypatch, sampler):
    monkeypatch.setattr(fakes, "sample", sampler)
    monkeypatch.setattr(GENERATE, "sample", sampler)


def another():
    return np.random.default_rng(3)


def test_another_generator_is_unsupported_where_its_draws_are_fair():
    verdicts = judged(Fake(generator=another()))
    assert kinds(verdicts[: len(GREEDY)]) == {Kind.EXACT}
    for verdict in verdicts[len(GREEDY) :]:
        assert verdict.kind is Kind.UNSUPPORTED
        assert "another random generator" in verdict.reason
        assert verdict.n_judged > 20


def test_another_generator_does_not_excuse_a_wrong_forward_pass():
    verdicts = judged(Fake(generator=another(), ops=FAULTS["heads modulo"]))
    assert Kind.UNSUPPORTED not in kinds(verdicts)


def always_likeliest(logits, *, temperature, topp, coin):
    return int(logits.argmax())


def evenly(logits, *, temperature, topp, coin):
    return 3 + int(float(coin) * (len(logits) - 3))


def temperature_ignored(logits, *, temperature, topp, coin):
    return engine_sampler.sample(logits, temperature=1.0, topp=topp, coin=coin)


def nucleus_ignored(logits, *, temperature, topp, coin):
    return engine_sampler.sample(logits, temperature=temperature, topp=0.0, coin=coin)


def crossing_left_out(logits, *, temperature, topp, coin):
    p = engine_sampler.probabilities(logits, temperature)
    if not 0 < topp < 1:
        return engine_sampler.multinomial(p, coin)
    order, sums = engine_sampler.nucleus_candidates(p, topp)
    n = max(1, len(order) - 1)
    above = sums[:n] > coin * sums[n - 1]
    return int(order[int(above.argmax()) if above.any() else n - 1])


def coin_not_scaled(logits, *, temperature, topp, coin):
    p = engine_sampler.probabilities(logits, temperature)
    if not 0 < topp < 1:
        return engine_sampler.multinomial(p, coin)
    order, sums = engine_sampler.nucleus_candidates(p, topp)
    above = sums > coin
    return int(order[int(above.argmax()) if above.any() else -1])


def test_another_generator_does_not_excuse_unfair_draws(monkeypatch):
    with_sampler(monkeypatch, evenly)
    verdicts = judged(Fake(generator=another()))
    assert kinds(verdicts[len(GREEDY) :]) == {Kind.MISMATCH}


@pytest.mark.parametrize(
    "sampler", [evenly, temperature_ignored, nucleus_ignored, crossing_left_out, coin_not_scaled]
)
def test_a_sampler_bug_with_llama2cs_generator_is_a_mismatch(monkeypatch, sampler):
    with_sampler(monkeypatch, sampler)
    verdicts = judged(Fake(), [*GREEDY, *SAMPLED, *HOT])
    assert kinds(verdicts[: len(GREEDY)]) == {Kind.EXACT}
    assert Kind.MISMATCH in kinds(verdicts)
    assert Kind.UNSUPPORTED not in kinds(verdicts)


def test_a_seed_that_is_not_sign_extended_is_a_mismatch_of_the_one_case(monkeypatch):
    class Unsigned(engine_sampler.Xorshift):
        @classmethod
        def from_argument(cls, seed):
            return engine_sampler.Xorshift(seed & 0xFFFFFFFF)

    monkeypatch.setattr(GENERATE, "Xorshift", Unsigned)
    found = {verdict.case: verdict.kind for verdict in judged(Fake())}
    assert found.pop("minus") is Kind.MISMATCH
    assert set(found.values()) == {Kind.EXACT}


# ---- Near ties


def nearly_tied(directory, second=None):
    """A model that nearly ties at one step of its text: one row of the classifier (the second) is bent for it."""
    mha = locate("mha")
    whole = load(mha.checkpoint, mha.tokenizer)
    before = answered("", model="mha", steps=80)
    rows = reference_of(mha).exact.logits([1, *before.ids[:-1]])
    floor = reference_of(mha).usual_floor
    top = np.sort(rows, axis=1)
    rivals = top[:, -2] if second is None else rows[:, second]
    step = int(np.argmin(top[10:60, -1] - rivals[10:60])) + 10
    second = int(np.argsort(rows[step])[-2]) if second is None else second
    gap = float(top[step, -1] - rivals[step])
    head = np.asarray(whole.checkpoint.tensors["lm_head"], np.float64)
    hidden = np.linalg.lstsq(head, rows[step], rcond=None)[0]
    tensors = {name: np.array(tensor) for name, tensor in whole.checkpoint.tensors.items()}
    tensors["lm_head"][second] += ((gap - 0.3 * floor) * hidden / (hidden @ hidden)).astype(np.float32)
    files = written(Checkpoint(whole.checkpoint.config, tensors), directory, tokenizer_of="mha")
    case = answer(files, steps=80)
    assert case.ids[:step] == before.ids[:step]
    return files, case, step


@pytest.fixture(scope="module")
def near_tie(tmp_path_factory):
    return nearly_tied(tmp_path_factory.mktemp("tie"))


@pytest.mark.parametrize("more", [{}, {"echo": "prompt"}])
def test_an_end_that_is_a_near_tie_is_a_tie(more, tmp_path):
    files, case, step = nearly_tied(tmp_path, second=1)  # BOS
    verdict = one(Fake(manifest=manifest(**more), ops=replace(LIBRARY, argmax=takes_the_other)), case, files=files)
    assert (verdict.kind, verdict.forward, verdict.n_judged) == (Kind.TIE, Kind.TIE, step + 1)
    [proof] = verdict.certificates
    assert (proof.position, proof.actual, proof.expected) == (step + 1, 1, case.ids[step])


def test_an_end_that_no_noise_explains_is_not_excused():
    early = Fake(ops=replace(LIBRARY, argmax=ends_after(20)))
    verdict = one(early, BARE)
    assert not verdict.kind.is_green
    assert "stopped after 20" in verdict.reason


def ends_after(n):
    left = iter(range(n))
    return lambda config, logits: 1 if next(left, None) is None else int(np.argmax(logits))


def takes_the_other(config, logits):
    best, second = np.argsort(logits)[[-1, -2]]
    return int(second if logits[best] - logits[second] < 1e-4 else best)


def test_a_near_tie_taken_the_other_way_is_a_tie_with_its_certificate(near_tie):
    files, case, step = near_tie
    verdict = one(Fake(ops=replace(LIBRARY, argmax=takes_the_other)), case, files=files)
    assert (verdict.kind, verdict.forward) == (Kind.TIE, Kind.TIE)
    [proof] = verdict.certificates
    assert proof.position == step + 1
    assert proof.expected == case.ids[step] != proof.actual
    assert 0 < proof.regret <= 2 * proof.floor
    assert "1 near tie" in verdict.reason
    assert verdict.n_judged == case.n_generated


def test_a_wrong_token_after_a_tie_is_still_wrong(near_tie):
    files, case, _ = near_tie
    port = Fake(ops=replace(LIBRARY, argmax=takes_the_other), wrap=lambda text: text[:-30] + b" xyzzy\n")
    verdict = one(port, case, files=files)
    assert verdict.kind is Kind.MISMATCH
    assert len(verdict.certificates) == 1


def test_everything_a_tie_proves_nothing(tmp_path):
    whole = load(GQA.checkpoint, GQA.tokenizer).checkpoint
    tensors = {name: np.array(tensor) for name, tensor in whole.tensors.items()}
    tensors["final_norm"] = tensors["final_norm"] * np.float32(1e-9)
    files = written(Checkpoint(whole.config, tensors), tmp_path, tokenizer_of="gqa")
    case = answer(files, steps=64)
    verdict = one(says(b"Nora was here " * 4 + b"\n"), case, files=files)
    assert not verdict.kind.is_green


# ---- A program that fails


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (NoOutput("nothing was printed"), Kind.NO_OUTPUT),
        (Crashed("signal 11"), Kind.CRASHED),
        (TimedOut("60 s"), Kind.TIMED_OUT),
        (StartFailed("not found"), Kind.START_FAILED),
        (OutputLimit("16 MB"), Kind.OUTPUT_LIMIT),
        (MemoryLimit("8 GB"), Kind.MEMORY_LIMIT),
        (ProtocolViolation("bad reply"), Kind.PROTOCOL),
    ],
)
def test_a_programs_errors_become_their_kinds(failure, kind):
    verdict = one(Fake(failure=failure))
    assert verdict.kind is kind
    assert failure.what in verdict.reason


class Raises(Fake):
    def run(self, request, limits=None):
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BuildFailed("make failed"), Kind.BUILD_FAILED),
        (MissingDependency("no cc", install="apt install gcc"), Kind.SKIPPED),
    ],
)
def test_what_keeps_a_program_from_running_at_all(error, kind):
    port = Raises()
    port.error = error
    assert kinds(judged(port, GREEDY)) == {kind}


def test_after_repeated_timeouts_the_rest_is_blocked():
    verdicts = judged(Fake(failure=TimedOut("60 s")))
    assert [verdict.kind for verdict in verdicts] == [Kind.TIMED_OUT] * 3 + [Kind.BLOCKED] * 4


def test_a_model_that_is_not_here_is_skipped_with_the_reason():
    verdict = one(Fake(), files="stories15M.bin is not here")
    assert (verdict.kind, verdict.reason) == (Kind.SKIPPED, "stories15M.bin is not here")


def test_what_a_program_cannot_be_asked_is_unsupported():
    run = ("run", "{model}", "{temperature}", "{steps}")
    no_prompt = Fake(manifest=manifest().model_copy(update={"run": run}))
    found = {verdict.case: verdict for verdict in judged(no_prompt)}
    assert found["bare"].kind is Kind.EXACT
    assert found["story"].reason == "has no way to be given a prompt"
    assert found["nucleus"].reason == "has no seed"


def test_a_program_that_decodes_greedily_only_needs_no_temperature():
    run = ("run", "{model}", "{steps}", "{prompt}")
    greedy_only = Fake(manifest=manifest().model_copy(update={"run": run, "greedy_only": True}))
    found = {verdict.case: verdict for verdict in judged(greedy_only)}
    assert found["story"].kind is Kind.EXACT
    assert (found["nucleus"].kind, found["nucleus"].reason) == (Kind.UNSUPPORTED, "decodes greedily only")


# ---- Output that is no answer


@pytest.mark.parametrize("text", [b"", b"\n", b"   \n\n", b"\0\0\0\n"], ids=["nothing", "newline", "blanks", "NULs"])
@pytest.mark.parametrize("case", [STORY, BARE, NUCLEUS], ids=lambda case: case.name)
def test_no_text_is_no_output(text, case):
    verdict = one(says(text), case)
    assert verdict.kind is Kind.NO_OUTPUT
    assert verdict.forward is None


GARBAGE = {
    "canned": b"Hello, I am a canned text that ignores the prompt. " * 12 + b"\n",
    "canned story": b"Once upon a time, there was a little cat. The cat was happy.\n",
    "random bytes": np.random.default_rng(0).bytes(3000),
    "one letter": b"a" * 5000 + b"\n",
    "blank lines": b"\n" * 3000,
    "unknown": b"<unk>" * 300,
    "half a character": STORY.stdout[:-20] + "é".encode()[:1],
    "another case": BARE.stdout,
    "the prompt": b"Nora was a little girl\n",
    "the prompt again and again": b"Nora was a little girl" * 20 + b"\n",
    "the golden and more": STORY.stdout[:-1] + b" xyzzy plugh. The end of the story.\n",
    "the golden with a letter changed": STORY.stdout[:-40] + b"q" + STORY.stdout[-39:],
    "the golden with a letter left out": STORY.stdout[:-40] + STORY.stdout[-39:],
    "the golden with spaces doubled": STORY.stdout.replace(b" ", b"  "),
    "the golden in capitals": STORY.stdout.upper(),
    "the end of the golden": STORY.stdout[60:],
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_never_green(name):
    verdict = one(says(GARBAGE[name]))
    assert not verdict.kind.is_green
    assert verdict.kind is not Kind.UNSUPPORTED
    if name not in ("the prompt", "blank lines", "the end of the golden", "canned story"):
        assert verdict.kind is Kind.MISMATCH


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_for_sampled_cases_is_never_excused(name):
    verdicts = judged(says(GARBAGE[name]), SAMPLED)
    assert not any(verdict.kind.is_green for verdict in verdicts)
    assert Kind.UNSUPPORTED not in kinds(verdicts)


def test_another_cases_golden_is_wrong_for_each_case():
    for case in GREEDY:
        for other in GREEDY:
            if other is not case:
                assert not one(says(other.stdout), case).kind.is_green


def test_the_prompt_alone_proves_nothing():
    verdict = one(says(b"Nora was a little girl\n"))
    assert (verdict.kind, verdict.forward, verdict.n_judged) == (Kind.INCONCLUSIVE, None, 0)


def test_a_few_right_tokens_prove_nothing():
    short = STORY.stdout[: len(STORY.stdout) // 3].rpartition(b" ")[0] + b"\n"
    assert one(says(short)).kind is Kind.INCONCLUSIVE


ECHO = answered("Nora was a little girl who lived near the farm.", name="echo", steps=4)


def test_a_case_that_is_all_echo_is_not_won_by_silence_or_garbage():
    assert ECHO.n_generated == 0
    assert one(Fake(), ECHO).kind is Kind.EXACT
    assert one(Fake(more_steps=1), ECHO).kind is Kind.EXACT
    assert one(says(b"\n"), ECHO).kind is Kind.UNSUPPORTED
    for text in (b"Hello world\n", b"xyzzy\n", b"Nora was a big dog, and so on and on\n", b"a" * 900):
        assert one(says(text), ECHO).kind is Kind.MISMATCH


def test_text_beyond_a_full_context_is_wrong():
    case = answered("", name="full", steps=0, model="mha")
    files = locate("mha")
    for tail in (b" xyzzy plugh", b"q" * 900):
        verdict = one(Fake(wrap=lambda text, tail=tail: text + tail + b"\n"), case, files=files)
        assert verdict.kind is Kind.MISMATCH


# ---- Goldens that lie


@pytest.mark.parametrize("case", [STORY, NUCLEUS], ids=lambda case: case.name)
def test_a_stale_golden_judges_nobody(case):
    tokenizer = load(GQA.checkpoint, GQA.tokenizer).tokenizer
    ids = list(case.ids)
    ids[-5] = 300 if ids[-5] != 300 else 301
    stale = replace(case, ids=tuple(ids), stdout=tokenizer.print_text([1, *ids]) + b"\n")
    with pytest.raises(CaseError, match="is not what the reference chooses"):
        one(Fake(), stale)


def test_a_golden_must_be_the_text_of_its_ids_and_begin_with_its_prompt():
    with pytest.raises(CaseError, match="not the text"):
        one(Fake(), replace(STORY, stdout=BARE.stdout))
    with pytest.raises(CaseError, match="not the ids of the prompt"):
        one(Fake(), replace(STORY, prompt=b"Nora was a little boy"))


# ---- Cost


@pytest.mark.parametrize(
    "text",
    [np.random.default_rng(1).bytes(16 << 20), b"Once upon a time\n" * (1 << 20), b"\0" * (16 << 20)],
    ids=["random", "lines", "NULs"],
)
def test_a_flood_costs_little(text):
    began = time.perf_counter()
    verdicts = judged(says(text))
    assert not any(verdict.kind.is_green for verdict in verdicts)
    assert time.perf_counter() - began < 20


# ---- The published model, where it is

PUBLISHED = pytest.mark.skipif("HARNESS_MODELS" not in os.environ, reason="HARNESS_MODELS names no models")


def published():
    files = locate("stories260K")
    suite = read_suite(Path(golden_dir()) / "tinystories")
    return files, [case for case in suite if case.model.name == "stories260K" and not case.is_chat]


@PUBLISHED
def test_an_honest_port_is_exact_on_the_published_model():
    files, cases = published()
    assert kinds(verify_group(cases, Fake(), files=files)) == {Kind.EXACT}


@PUBLISHED
@pytest.mark.parametrize("fault", ["half-split rotation", "heads modulo", "last layer skipped"])
def test_a_wrong_port_is_wrong_on_the_published_model(fault):
    files, cases = published()
    verdicts = verify_group(cases, Fake(ops=FAULTS[fault]), files=files)
    green = [verdict.case for verdict in verdicts if verdict.kind.is_green]
    # an echo, and draws from even distributions, for which the forward pass does not matter
    assert set(green) <= {"g14-prompt-cut-off", "g19-uniform-multinomial", "g20-uniform-nucleus"}
    assert kinds(verdicts) == {Kind.EXACT, Kind.MISMATCH}


@PUBLISHED
def test_always_the_likeliest_token_is_no_fair_draw(monkeypatch):
    with_sampler(monkeypatch, always_likeliest)
    files, cases = published()
    verdicts = verify_group(cases, Fake(generator=another()), files=files)
    assert Kind.UNSUPPORTED not in kinds(verdicts)
    assert any("too probable" in verdict.reason for verdict in verdicts)


@PUBLISHED
def test_silence_is_never_green_on_the_published_model():
    files, cases = published()
    verdicts = verify_group(cases, says(b"\n"), files=files)
    assert not any(verdict.kind.is_green for verdict in verdicts)
