"""Relations: what cancels changes no logit, wrong wiring breaks the right one, and honest programs break none."""

import itertools
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.manifest import Manifest, Needs
from harness.conformance.case import read_case, select
from harness.conformance.check import check
from harness.diagnosis.gauges import Draw, channel_signs, queries_keys, vocabulary_order
from harness.diagnosis.relations import RELATIONS, by_name
from harness.engine import STRICT, Engine
from harness.errors import CaseError, Crashed
from harness.models import golden_dir, load, locate
from harness.quant import QuantTensor
from harness.results import Kind, Observation
from tests.diagnosis.ported import ported

IDS = [1, 262, 281, 261, 270, 290, 268, 287]
GAUGES = [relation for relation in RELATIONS if relation.changed]
EXACT = [relation.name for relation in GAUGES if relation.is_exact]
ORDERS = [relation.name for relation in GAUGES if not relation.is_exact]


@lru_cache
def model(name):
    found = locate(name)
    return load(found.checkpoint, found.tokenizer)


def logits(of, dtype=np.float32):
    found = of.checkpoint
    family = {"ops": STRICT} if found.group_size else {}
    return Engine(found.config, found.tensors, dtype=dtype, **family).logits(IDS)


# ---- examples worked by hand


def test_a_pair_of_queries_is_multiplied_by_what_its_keys_are_divided_by():
    before, after = model("gqa"), queries_keys(model("gqa"), Draw())
    q = after.checkpoint.tensors["layers.0.wq"] / before.checkpoint.tensors["layers.0.wq"]
    k = after.checkpoint.tensors["layers.0.wk"] / before.checkpoint.tensors["layers.0.wk"]
    head_dim = before.checkpoint.config.head_dim
    for head in range(8):  # on four key heads: 0 and 1 read key head 0
        rows = slice(head * head_dim, (head + 1) * head_dim)
        keys = slice(head // 2 * head_dim, (head // 2 + 1) * head_dim)
        assert (q[rows] * k[keys] == 1).all()
        assert (q[rows][0::2] == q[rows][1::2]).all()
    assert set(np.unique(np.log2(q))) <= {-3, -2, -1, 0, 1, 2, 3}
    assert len(np.unique(q)) > 3


def test_int8_numbers_that_share_a_scale_share_an_exponent():
    after = by_name("attention-gain").changed(model("gqa-q8"), Draw(largest=2))
    gain = after.checkpoint.tensors["layers.0.attn_norm"] / model("gqa-q8").checkpoint.tensors["layers.0.attn_norm"]
    groups = gain.reshape(-1, 4)
    assert (groups == groups[:, :1]).all()
    assert set(np.unique(gain)) == {0.25, 0.5, 1, 2, 4}
    codes = [one.checkpoint.tensors["layers.0.wq"].codes for one in (after, model("gqa-q8"))]
    assert (codes[0] == codes[1]).all()


def test_a_uniform_draw_has_one_exponent_and_never_none():
    for seed in range(20):
        found = Draw(seed, largest=1, is_uniform=True).exponents(6, 0)
        assert len(set(found)) == 1
        assert found[0] in (-1, 1)


def test_signs_are_changed_in_the_embedding_and_in_what_reads_it():
    before, after = model("gqa"), channel_signs(model("gqa"), Draw())
    signs = after.checkpoint.tensors["tok_embedding"][5] / before.checkpoint.tensors["tok_embedding"][5]
    assert set(signs) == {-1, 1}
    assert (after.checkpoint.tensors["layers.1.wq"] == before.checkpoint.tensors["layers.1.wq"] * signs).all()
    assert (
        after.checkpoint.tensors["layers.1.wo"] == before.checkpoint.tensors["layers.1.wo"] * signs[:, None]
    ).all()


def test_pieces_keep_their_rows_and_scores_where_ids_change():
    before, after = model("gqa"), vocabulary_order(model("gqa"), Draw())
    assert before.tokenizer.pieces[:259] == after.tokenizer.pieces[:259]
    assert before.tokenizer.pieces != after.tokenizer.pieces
    for new, piece in enumerate(after.tokenizer.pieces):
        old = before.tokenizer.pieces.index(piece)
        assert after.tokenizer.scores[new] == before.tokenizer.scores[old]
        assert (
            after.checkpoint.tensors["tok_embedding"][new] == before.checkpoint.tensors["tok_embedding"][old]
        ).all()


# ---- properties


@pytest.mark.parametrize(("name", "of"), [*itertools.product(EXACT, ("gqa", "mha", "mqa", "gqa-q8"))])
def test_what_cancels_moves_no_bit_of_a_logit(name, of):
    relation = by_name(name)
    if relation.unfit(model(of)):
        pytest.skip(relation.unfit(model(of)))
    changed = relation.changed(model(of), Draw(largest=2 if of.endswith("q8") else 3))
    changed.checkpoint.validate()
    if name == "own-kv-heads":  # exact where a program takes head by head; numpy multiplies other shapes
        assert np.abs(logits(changed) - logits(model(of))).max() < 1e-4
    else:
        assert np.array_equal(logits(changed), logits(model(of)))


@pytest.mark.parametrize(("name", "of"), [*itertools.product(ORDERS, ("gqa", "mha", "mqa"))])
def test_another_order_moves_logits_by_rounding_alone(name, of):
    relation = by_name(name)
    if relation.unfit(model(of)):
        pytest.skip(relation.unfit(model(of)))
    changed = relation.changed(model(of), Draw())
    before = model(of).vocabulary.pieces
    new_of = {piece: i for i, piece in enumerate(changed.vocabulary.pieces)}
    ids = [new_of[before[i]] for i in IDS]
    found = changed.checkpoint
    actual = Engine(found.config, found.tensors, dtype=np.float64).logits(ids)
    order = [new_of[piece] for piece in before]
    assert np.abs(actual[:, order] - logits(model(of), np.float64)).max() < 1e-11


@pytest.mark.parametrize("relation", GAUGES, ids=lambda one: one.name)
@pytest.mark.parametrize("of", ["gqa", "gqa-q8"])
def test_a_change_is_one(relation, of):
    changed = relation.changed(model(of), Draw()).checkpoint
    before = model(of).checkpoint
    assert changed.config != before.config or any(
        not _same(changed.tensors[name], before.tensors[name]) for name in before.tensors
    )


def _same(a, b):
    if isinstance(a, QuantTensor):
        return np.array_equal(a.codes, b.codes) and np.array_equal(a.scales, b.scales)
    return np.array_equal(a, b)


# ---- the judge

SHOWS = [
    ("rope-half-split", "gqa-queries-keys"),
    ("heads-modulo", "gqa-own-kv-heads"),
    ("wo-transposed", "gqa-values-output"),
    ("ffn-gate-up-swapped", "gqa-up-down"),
    ("norm-ffn-gain-of-attention", "gqa-ffn-gain"),
    ("norm-gain-plus-one", "gqa-attention-gain"),
    ("norm-final-missing", "gqa-final-gain"),
    ("norm-centred", "gqa-channel-signs"),
    ("last-layer-skipped", "gqa-idle-layers"),
    ("attention-residual-missing", "gqa-idle-layers"),
    ("topp-clamped", "gqa-top-p-beyond-1"),
    ("seed-zero-kept", "gqa-seed-0"),
]


def verdict(impl, name, levels=("TEXT",)):
    case = replace(select(["relations"], cases=[name])[0], steps=48)
    (found,) = next(check([impl], [case], levels=levels, diagnose=False))
    return found


@pytest.mark.parametrize(("fault", "name"), SHOWS)
def test_wrong_wiring_breaks_the_relation_that_is_about_it(fault, name):
    found = verdict(ported(fault), name)
    assert found.kind is Kind.MISMATCH
    assert by_name(name.partition("-")[2]).look in found.reason
    assert found.reproduce


@pytest.mark.parametrize("name", sorted({name for _, name in SHOWS}))
def test_a_right_program_keeps_it(name):
    found = verdict(ported(), name)
    assert (found.kind, found.reason) == (Kind.EXACT, "")
    assert found.n_judged >= (1 if name == "gqa-seed-0" else 32)


def test_a_break_is_told_in_the_words_of_a_port_s_author():
    found = verdict(ported("heads-modulo"), "gqa-values-output")
    first, look = found.reason.splitlines()
    assert first.startswith("multiplying wv by powers of two, one for each channel of a value head, and dividing")
    assert "changes the answer from byte" in first
    assert look.startswith("look at: which value head each query head reads")
    assert found.divergence.expected_text != found.divergence.actual_text


def test_what_cannot_be_asked_is_unsupported_and_says_why():
    assert "convention" in verdict(ported(conventions=""), "gqa-seed-0").reason
    assert verdict(ported(conventions=""), "gqa-seed-0").kind is Kind.UNSUPPORTED
    assert verdict(ported(), "gqa-continued").kind is Kind.UNSUPPORTED
    assert verdict(ported(), "gqa-threads").reason == "cannot be told how many threads to use"
    fixed = ported(needs=Needs(mha=True))
    assert verdict(fixed, "gqa-own-kv-heads").reason == "is always given such models"
    assert verdict(fixed, "gqa-queries-keys").kind is Kind.EXACT  # on the model that is prepared for it
    short = ported(needs=Needs(max_seq_len=512))
    assert "holds 512 positions" in verdict(short, "gqa-longer-context").reason


def spoken(fault):
    """A program of the line protocol with a fault."""
    protocol = (sys.executable, "-m", "harness.diagnosis.faulty", fault, "--lines")
    env = {"PYTHONPATH": str(golden_dir().parent)}
    return ProcessImplementation(
        Manifest(
            path=Path("impl.toml"), name="port", levels=("TOKENS",), run=protocol[:1], protocol=protocol, env=env
        )
    )


@pytest.mark.parametrize(
    ("fault", "name", "kind"),
    [
        ("cache-not-reset", "gqa-asked-again", Kind.MISMATCH),
        ("none", "gqa-asked-again", Kind.EXACT),
        ("none", "gqa-continued", Kind.EXACT),
        ("none", "gqa-more-steps", Kind.EXACT),
    ],
)
def test_one_process_answers_many_requests_each_for_itself(fault, name, kind):
    found = verdict(spoken(fault), name, levels=["TOKENS"])
    assert found.kind is kind
    assert ("what a request leaves behind" in found.reason) is (kind is Kind.MISMATCH)
    assert found.wall_s > 0.0


def test_the_time_of_a_verdict_is_that_of_all_its_runs():
    impl = ported()
    whole = impl.run
    impl.run = lambda request, limits=None: replace(whole(request, limits), wall_s=2.0)
    assert verdict(impl, "gqa-queries-keys").wall_s == 2.0 * impl.n_runs > 2.0


# ---- hostile


def test_a_program_that_answers_otherwise_each_time_cannot_be_compared_with_itself():
    impl = ported()
    whole = impl.run

    def moody(request, limits=None):
        seen = whole(request, limits)
        return replace(seen, stdout=b"%d " % impl.n_runs + seen.stdout)

    impl.run = moody
    assert verdict(impl, "gqa-queries-keys").kind is Kind.INCONCLUSIVE
    assert verdict(impl, "gqa-asked-again").kind is Kind.MISMATCH


def test_a_program_that_fails_on_the_changed_model_has_failed():
    impl = ported()
    whole = impl.run

    def fragile(request, limits=None):
        if "idle-layers" in str(request.model):
            return Observation(("run",), "", b"", failure=Crashed("died"))
        return whole(request, limits)

    impl.run = fragile
    found = verdict(impl, "gqa-idle-layers")
    assert found.kind is Kind.CRASHED
    assert "after a layer more at either end" in found.reason


def test_a_relation_that_does_not_exist_is_refused(tmp_path):
    text = select(["relations"], cases=["gqa-up-down"])[0].path.read_text("utf-8")
    path = tmp_path / "gqa-up-down.toml"
    path.write_text(text.replace('relation = "up-down"', 'relation = "down-up"'))
    with pytest.raises(CaseError, match="is no relation: down-up"):
        read_case(path)
