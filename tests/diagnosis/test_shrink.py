"""Shrinking: parts of a model are left out as they should be; a failure ends small, clear and to be seen again."""

import itertools
import json
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import checkpoint as checkpoints
from harness.adapters.manifest import Needs
from harness.checkpoint import Checkpoint
from harness.conformance.case import select
from harness.conformance.fuzz.recipe import Ask, Recipe, Weights, build, vocabulary
from harness.conformance.fuzz.saved import again
from harness.conformance.fuzz.trial import Trier
from harness.conformance.shrink.cases import failing, keep, shrink_case
from harness.conformance.shrink.repro import Repro, meets, repro_of
from harness.conformance.shrink.search import shrink
from harness.diagnosis import shrink as parts
from harness.errors import InputError
from harness.model_config import ModelConfig
from harness.models import Model, load, locate
from harness.results import Kind
from tests.diagnosis.ported import manifest, ported

SMALL = ModelConfig(dim=12, hidden_dim=5, n_layers=3, n_heads=3, n_kv_heads=3, vocab_size=9, seq_len=7)


@lru_cache
def model(name):
    found = locate(name)
    return load(found.checkpoint, found.tokenizer)


def made(config=SMALL, **weights):
    return Model(build(Recipe(config, Weights(**weights))), vocabulary(config.vocab_size), "made")


def first_case(name="gqa-nora-farm"):
    return select(["core"], cases=[name])


# ---- examples worked by hand


def test_one_layer_one_head_and_one_pair_are_cut_out_of_a_model():
    kept = parts.Kept((1,), (2,), (0,), (1,), (0, 3), (4, 5))
    before, after = made().checkpoint.tensors, parts.cut(made(), kept).checkpoint
    assert (after.config.dim, after.config.hidden_dim, after.config.n_layers, after.config.n_heads) == (2, 2, 1, 1)
    # head_dim is 4: pair 1 of head 2 is rows 10 and 11
    assert np.array_equal(after.tensors["layers.0.wq"], before["layers.1.wq"][10:12, 4:6])
    assert np.array_equal(after.tensors["layers.0.wo"], before["layers.1.wo"][4:6, 10:12])
    assert np.array_equal(after.tensors["layers.0.w_down"], before["layers.1.w_down"][4:6][:, [0, 3]])
    assert np.array_equal(after.tensors["tok_embedding"], before["tok_embedding"][:, 4:6])
    assert np.array_equal(after.tensors["layers.0.ffn_norm"], before["layers.1.ffn_norm"][4:6])


def test_pieces_take_their_rows_along():
    after = parts.fewer_pieces(made(), [3, 6])
    assert after.tokenizer.pieces == (b"<unk>", b"\n<s>\n", b"\n</s>\n", b" ", b"c")
    assert np.array_equal(
        after.checkpoint.tensors["tok_embedding"], made().checkpoint.tensors["tok_embedding"][[0, 1, 2, 3, 6]]
    )


def test_byte_pieces_go_together():
    assert parts.fewer_pieces(model("gqa"), [444]).tokenizer.vocab_size == 4
    assert parts.fewer_pieces(model("gqa"), [3, 444]).tokenizer.vocab_size == 260


def test_plain_numbers_are_plainer():
    config = ModelConfig(2, 1, 1, 1, 1, 4, 1)
    tensors = {name: np.zeros_like(tensor) for name, tensor in build(Recipe(config)).tensors.items()}
    tensors["tok_embedding"] = np.array([[0, 1], [0.5, -3], [0.1, 0], [0, 0]], np.float32)
    # 0.5 is 1 bit, -3 is 2 bits, 0.1 all 24
    assert parts.plainness(Checkpoint(config, tensors)) == 1 + 2 + 24


def test_a_program_is_given_only_what_it_needs():
    assert meets(SMALL, manifest())
    assert meets(SMALL, manifest(needs=Needs(mha=True)))
    assert not meets(SMALL, manifest(needs=Needs(vocab_size=512)))
    assert not meets(SMALL, manifest(needs=Needs(hidden_multiple=4)))
    assert not meets(SMALL, manifest(needs=Needs(tied=False)))
    assert not meets(SMALL, manifest(needs=Needs(max_seq_len=6)))


# ---- properties


@pytest.mark.parametrize("name", ["gqa", "mha", "mqa", "gqa-q8"])
def test_whatever_is_left_out_leaves_a_model(name):
    config = model(name).checkpoint.config
    shapes = list(parts.shapes_below(config))
    assert len(shapes) > 5
    for kept in shapes:
        smaller = parts.cut(model(name), kept).checkpoint
        smaller.validate()
        assert smaller.config.n_params < config.n_params


@given(st.sets(st.integers(0, 511), max_size=40))
@settings(max_examples=20, deadline=None)
def test_any_pieces_leave_a_model(keep):
    smaller = parts.fewer_pieces(model("gqa"), keep)
    smaller.checkpoint.validate()
    assert smaller.tokenizer.vocab_size == smaller.checkpoint.config.vocab_size
    assert set(smaller.tokenizer.pieces) <= set(model("gqa").tokenizer.pieces)


def test_plainer_models_are_plainer_and_of_the_same_shape():
    before = parts.plainness(made().checkpoint)
    for plain in itertools.islice(parts.plainer(made()), 12):
        plain.checkpoint.validate()
        assert plain.checkpoint.config == SMALL
        assert parts.plainness(plain.checkpoint) < before


def test_the_size_is_that_of_the_files(tmp_path):
    repro = Repro(made(), b"ab", Ask(3))
    checkpoints.write(repro.model.checkpoint, tmp_path / "model.bin", version=0)
    assert repro.checkpoint_bytes == (tmp_path / "model.bin").stat().st_size
    assert repro.n_positions == 3 + 3  # the space in front, a, b; three more


# ---- failures


def ticking(n):
    """A clock that moves by a second each time that it is read, n times; then far."""
    ticks = itertools.chain(range(n), itertools.repeat(10**6))
    return lambda: next(ticks)


def shrunk(fault, name="gqa-nora-farm", *, n=4000, seconds=3000.0, **options):
    impl = ported(fault)
    (wrong, *_) = failing(impl, first_case(name))
    start = repro_of(wrong.case, model("gqa"))
    return impl, shrink(impl, start, wrong.verdict, seconds=seconds, clock=ticking(n), **options)


@lru_cache
def to_the_end(fault):
    """The smallest failure that is found where there is time enough."""
    return shrunk(fault)


@pytest.mark.parametrize("fault", ["rope-half-split", "norm-gain-ignored", "heads-modulo", "ffn-gate-up-swapped"])
def test_a_fault_ends_in_a_few_tokens_of_a_tiny_model(fault, tmp_path):
    impl, found = to_the_end(fault)
    assert found.repro.checkpoint_bytes <= 2048
    assert found.repro.n_positions <= 6
    assert found.found.verdict.kind is Kind.MISMATCH
    failure = keep(impl, found, tmp_path / "repro", called="./run")
    assert {path.name for path in failure.directory.iterdir()} == {
        "model.bin",
        "tokenizer.bin",
        "failure.json",
        "README.md",
    }
    for program, kind in ((impl, Kind.MISMATCH), (ported(), Kind.EXACT)):
        with Trier(program) as trier:
            assert again(failure.directory, trier)[-1].verdict.kind is kind


def test_a_wrong_tokenizer_keeps_the_pieces_that_it_gets_wrong():
    _, found = shrunk("tokenizer-no-dummy-prefix")
    assert found.found.verdict.tokenizer is Kind.MISMATCH
    assert found.repro.prompt
    assert found.repro.checkpoint_bytes + found.repro.tokenizer_bytes <= 16384


def test_the_saved_page_has_command_expected_and_actual(tmp_path):
    impl, found = to_the_end("rope-half-split")
    failure = keep(impl, found, tmp_path / "repro", called="./run")
    page = (failure.directory / "README.md").read_text("utf-8")
    assert failure.verdict.reproduce in page
    assert failure.again in page
    document = json.loads((failure.directory / "failure.json").read_text("utf-8"))
    assert document["model"]["dim"] == found.repro.config.dim
    assert str(failure.checkpoint_bytes) in page.replace(",", "")


def test_what_is_left_is_no_tie():
    """A right program of another arithmetic agrees with every choice up to the wrong one."""
    _, found = to_the_end("heads-modulo")
    repro = found.repro
    exact = found.subject.reference.exact
    for engine in found.subject.reference.ensemble:
        assert engine.logits(repro.prompt_ids)[-1].argmax() == exact.logits(repro.prompt_ids)[-1].argmax()


def test_the_time_ends_a_search_and_the_smallest_so_far_is_kept():
    _, found = shrunk("rope-half-split", n=60, seconds=30.0)
    assert found is not None
    assert not found.is_whole


def test_ctrl_c_keeps_the_smallest_so_far():
    seen = []

    def progress(repro, n_tried):
        seen.append(repro.size)
        if len(seen) == 2:
            raise KeyboardInterrupt

    _, found = shrunk("rope-half-split", progress=progress)
    assert not found.is_whole
    assert found.repro.size == seen[1] < seen[0]


# ---- hostile


def test_a_right_program_has_nothing_to_shrink():
    assert list(failing(ported(), first_case())) == []


def test_what_never_fails_again_is_none():
    wrong, *_ = failing(ported("rope-half-split"), first_case())
    assert shrink_case(ported(), wrong, seconds=0.5) is None


def test_what_generates_no_text_cannot_be_shrunk():
    case = select(["relations"], cases=["gqa-up-down"])[0]
    with pytest.raises(InputError, match="generates no text"):
        repro_of(case, model("gqa"))
