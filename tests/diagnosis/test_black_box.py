"""The black-box tracer: what a token says, where faults show first, what is said about them, what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.checkpoint import Checkpoint
from harness.diagnosis import CATALOGUE, Fate, by_name
from harness.diagnosis.black_box import LIMIT, Found, Narrowed, Subject, Tracer, alphabet, explaining, narrowed
from harness.diagnosis.black_box.codebook import FIRST_CODE_ID, LETTERS, Codebook, Plane
from harness.diagnosis.black_box.craft import cut
from harness.diagnosis.black_box.states import EMBEDDING, FINAL_NORM, exact_program, places
from harness.engine import LIBRARY, STRICT, Engine
from harness.engine.honest import rounded
from harness.errors import InputError
from harness.models import load, locate

Array = npt.NDArray[Any]
ATTENTION, FEED_FORWARD = (0, "attention"), (0, "feed-forward")


@cache
def subject(name: str = "gqa") -> Subject:
    """A model; "gqa short" has its first two layers only."""
    files = locate(name.removesuffix(" short"))
    found = load(files.checkpoint, files.tokenizer).checkpoint
    if name.endswith(" short"):
        tensors = {key: t for key, t in found.tensors.items() if key.split(".")[1:2] < ["2"]}
        found = replace(found, config=replace(found.config, n_layers=2), tensors=tensors, rope_tables=None)
    return Subject.of(found)


class Port:
    """A program in this process: the engine with steps replaced. Every code is fed as one embedding, so that a run
    is one prefill."""

    def __init__(self, steps: Mapping[str, Any] | None = None, *, strict: bool = False) -> None:
        self.ops = replace(STRICT if strict else LIBRARY, **(steps or {}))

    def ids(self, prompt: bytes) -> list[int]:
        return alphabet().encode(prompt)

    def __call__(self, checkpoint: Checkpoint, prompt: bytes, steps: int) -> bytes:
        ids = self.ids(prompt)
        fed = [*ids, *[FIRST_CODE_ID] * (steps - len(ids))]
        engine = Engine(checkpoint.config, checkpoint.tensors, ops=self.ops)
        with np.errstate(all="ignore"):
            rows = engine.logits(fed, first=len(ids) - 1)
        chosen = [self.ops.argmax(checkpoint.config, row) for row in rows]
        return prompt + b"".join(alphabet().pieces[token] for token in chosen)


def traced(ask: Any, name: str = "gqa", **options: Any) -> tuple[Tracer, Found]:
    tracer = Tracer(subject(name), alphabet(), ask, **options)
    return tracer, tracer.trace()


def concluded(fault: str, name: str = "gqa") -> Narrowed:
    return narrowed(*traced(Port(by_name(fault).change.steps), name))


# ---- the channel -------------------------------------------------------------------------------------------------


def test_every_piece_is_unique_and_a_letter_is_a_token() -> None:
    tokenizer = alphabet()
    assert len(set(tokenizer.pieces)) == tokenizer.vocab_size == 768
    assert tokenizer.encode(b"ab9") == [1, 259, 260, 261, 260 + LETTERS.index(b"9")]
    assert tokenizer.encode(LETTERS)[2:] == [260 + i for i in range(len(LETTERS))]


def test_codes_are_found_in_any_output() -> None:
    plane = Plane(np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    book = Codebook.of(plane, 0.01, 768)
    middle = len(book.angles) // 2
    pieces = alphabet().pieces
    codes = pieces[FIRST_CODE_ID + middle] + pieces[FIRST_CODE_ID + middle + 1]
    text = b"loading... ~x~ ~AB\n" + codes + b" 12 tok/s"
    assert book.printed(text).tolist() == [0.0, pytest.approx(0.01)]


def test_a_row_wins_where_its_angle_is() -> None:
    plane = Plane(np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    book = Codebook.of(plane, 1e-6, 768)
    assert (np.diff(book.angles) > 0).all()
    for angle in (0.0, 2e-7, 1e-6, -3e-5, 0.02, -0.5, 1.5, -3.0):
        state = 7 * np.array([[math.cos(angle), math.sin(angle), 0.3]])
        said = float(book.chosen(state @ np.asarray(book.classifier, np.float64).T)[0])
        assert abs(said - angle) <= book.spacing(said) * 1.01


def test_a_small_angle_is_read_in_float32_to_a_unit_in_the_last_place() -> None:
    generator = np.random.default_rng(1)
    states = generator.standard_normal((8, 64))
    plane = Plane.of(states, blind_to=np.ones((1, 64)), seed=0)
    book = Codebook.of(plane, 1e-7, 768)
    assert np.abs(plane.angles(states)).max() < 1e-14
    assert np.abs(plane.angles(states + 5)).max() < 1e-14  # blind to what is added to all channels alike
    turned = states + 2e-6 * (states @ plane.u)[:, None] * plane.v
    logits = turned.astype(np.float32) @ np.asarray(book.classifier).T
    assert np.abs(book.chosen(logits) - 2e-6).max() < 1e-6


def test_a_vocabulary_may_be_too_small() -> None:
    with pytest.raises(InputError, match=r"too small for a codebook.*expected 422 tokens.*got 300"):
        alphabet(300)


def test_states_may_have_no_plane() -> None:
    states = np.stack([np.eye(16)[0], -np.eye(16)[0]])
    with pytest.raises(InputError, match="no direction in common"):
        Plane.of(states, blind_to=np.zeros((0, 16)), seed=0)


@pytest.mark.parametrize("name", ["gqa", "mha", "gqa-q8"])
def test_a_cut_checkpoint_ends_in_the_state_behind_the_cut(name: str) -> None:
    tensors = {place: cut(subject(name), place) for place in places(subject(name).config)}
    exact = exact_program(is_int8=subject(name).is_int8)
    ids = alphabet().encode(b"abcde")
    config = subject(name).config
    whole = exact.streams(config, subject(name).tensors, ids, 3)
    for place, one in tensors.items():
        assert (exact.streams(config, one, ids, 3)[FINAL_NORM] == whole[place]).all(), place


# ---- where it goes wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "strict"), [("gqa", True), ("mha", False), ("mqa", False), ("gqa-q8", False)])
def test_honest_programs_have_no_wrong_sub_block(name: str, strict: bool) -> None:
    tracer, found = traced(Port(strict=strict), name)
    assert found.first is None
    assert {(r.layer, r.block) for r in found.readings} == set(places(subject(name).config))
    assert {r.run for r in found.readings} == {"short prompt", "long prompt", "large scores"}
    assert max(r.position for r in found.readings) > 128
    assert max(r.ratio for r in found.readings) <= LIMIT / 2
    assert tracer.n_runs == len(found.readings) + 1


@pytest.mark.parametrize("precision", ["f16", "bf16", "q8"])
def test_honest_programs_of_a_declared_precision_have_none_either(precision: str) -> None:
    for ops in rounded(precision, group_size=4):
        port = Port()
        port.ops = ops
        _, found = traced(port, "gqa short", declared=rounded(precision, group_size=4))
        assert found.first is None
        assert max(r.ratio for r in found.readings) <= LIMIT / 2


@pytest.mark.parametrize("precision", ["f16", "bf16", "q8"])
def test_a_precision_that_is_not_declared_is_seen_and_no_sub_block_accused(precision: str) -> None:
    every = {name: rounded(name, group_size=4) for name in ("f16", "bf16", "q8")}
    port = Port()
    port.ops = every[precision][-1]
    _, found = traced(port, "gqa short", undeclared=every)
    assert found.first is None
    assert found.precision == precision
    port.ops = replace(port.ops, **by_name("rope-half-split").change.steps)
    _, found = traced(port, "gqa short", undeclared=every)
    assert (found.first, found.precision) == (ATTENTION, precision)


@pytest.mark.parametrize(
    ("fault", "first", "words"),
    [
        ("rope-half-split", ATTENTION, "the rotation of q and k"),
        ("rope-k-missing", ATTENTION, "the rotation of q and k"),
        ("attention-unscaled", ATTENTION, "the division by sqrt"),
        ("heads-modulo", ATTENTION, "which key/value head a query head reads"),
        ("wo-transposed", ATTENTION, "rows and columns of wo"),
        ("wk-wv-swapped", ATTENTION, "which is wk, and which is wv"),
        ("norm-eps-1e-6", ATTENTION, "the epsilon of RMSNorm"),
        ("norm-centred", ATTENTION, "whether a norm takes the mean off"),
        ("norm-gain-ignored", ATTENTION, "the gain of the norm before the attention"),
        ("softmax-overflows", ATTENTION, "take the largest score off"),
        ("attention-residual-missing", ATTENTION, "x += output"),
        ("ffn-residual-missing", FEED_FORWARD, "x += output"),
        ("norm-ffn-gain-of-attention", FEED_FORWARD, "the gain of the norm before the feed-forward"),
        ("ffn-gelu", FEED_FORWARD, "the activation"),
        ("ffn-gate-up-swapped", FEED_FORWARD, "which of w1"),
        ("last-layer-skipped", (4, "attention"), "how many layers run"),
        ("layers-reversed", ATTENTION, "the order of the layers"),
        ("embedding-scaled", EMBEDDING, "look at the embedding"),
        ("norm-final-missing", FINAL_NORM, "the last norm"),
    ],
)
def test_a_fault_its_sub_block_and_what_to_look_at(fault: str, first: tuple[int, str], words: str) -> None:
    result = concluded(fault)
    assert result.first == first
    assert words in result.conclusion


def test_the_fault_itself_is_among_those_that_explain_the_angles() -> None:
    tracer, found = traced(Port(by_name("rope-theta-1e6").change.steps))
    faults = [
        (fault.name, replace(LIBRARY, **fault.change.steps))
        for fault in CATALOGUE
        if fault.change.part == "ops" and fault.fate is Fate.KILLABLE
    ]
    names, explained, n_tried = explaining(tracer, found, faults)
    assert names == ["rope-theta-1e6"]
    assert n_tried == len(faults)
    assert explained == 2 * tracer.n_read


def test_a_fault_of_late_positions_shows_in_the_long_run_only() -> None:
    def late(step: Any) -> Array:
        slots = np.arange(int(step.pos[-1]) + 1)
        out: Array = (slots[None, :] <= step.pos[:, None]) & (slots[None, :] > step.pos[:, None] - 64)
        return out

    tracer, found = traced(Port({"mask": late}), "gqa short")
    assert (found.first, found.run) == (ATTENTION, "long prompt")
    assert "from about position" in narrowed(tracer, found).conclusion


# ---- programs with habits ----------------------------------------------------------------------------------------


def test_a_program_that_takes_no_prompt() -> None:
    class Mute(Port):
        def ids(self, prompt: bytes) -> list[int]:
            assert prompt == b""
            return super().ids(b"")

    _, found = traced(Mute(), "gqa short", can_prompt=False)
    assert found.first is None
    assert {r.run for r in found.readings} >= {"after BOS", "long after BOS"}
    _, found = traced(Mute(by_name("rope-backwards").change.steps), "gqa short", can_prompt=False)
    assert found.first == ATTENTION


def test_a_prompt_that_arrives_otherwise_is_noted_and_left_out() -> None:
    class NoSpace(Port):
        def ids(self, prompt: bytes) -> list[int]:
            return [token for token in super().ids(prompt) if token != 259]

    _, found = traced(NoSpace(), "gqa short")
    assert found.first is None
    assert "the prompt did not arrive as it should" in found.notes[0]


def test_a_program_that_runs_one_position_fewer() -> None:
    class Fewer(Port):
        def __call__(self, checkpoint: Checkpoint, prompt: bytes, steps: int) -> bytes:
            return super().__call__(checkpoint, prompt, steps - 1)

    _, found = traced(Fewer(), "gqa short")
    assert found.first is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"Once upon a time", r"printed none of the codes.*got 'Once upon a time'"),
        (b"", "printed none of the codes"),
        (b"~aa~~ab~", "stops before all codes"),
    ],
)
def test_what_cannot_be_read_is_refused(said: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        traced(lambda checkpoint, prompt, steps: said)


def test_logits_that_are_no_numbers_are_wrong() -> None:
    def no_number(step: Any, mixed: Array) -> Array:
        return mixed * np.nan

    _, found = traced(Port({"mixed": no_number}))
    assert found.first == EMBEDDING
    assert "no numbers, even where every block is zeros" in found.why
    assert max(r.ratio for r in found.readings) == math.inf
