"""Three ways to run the same operations agree; the arithmetic is llama2.c's; memory stays bounded."""

import hashlib
import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import checkpoint
from harness.checkpoint import Checkpoint, expected_shapes
from harness.engine import LIBRARY, STRICT, Engine, Judged, TopTwo, attention, generate, screen
from harness.engine import model as model_module
from harness.model_config import ModelConfig
from harness.quant import QuantTensor, quantize_weights
from harness.trace.points import AFTER, BEFORE, IN_LAYER, SCORES
from tests.derived_models import published
from tests.engine.strategies import ids_of, models, quantised_models
from tests.engine.test_ops import literal_quantised_product

FORWARD = {field.name for field in fields(LIBRARY)} - {
    "bias", "q_norm", "k_norm", "argmax", "forced", "draws_coin", "in_decode_order"
}  # fmt: skip
# Two ways that differ in the order of sums only: at most some hundred terms, and RMSNorm may enlarge an error where a
# row is small. Observed, relative to the largest logit (or to 1): 4e-6 in float32, 8e-15 in float64.
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}


def assert_close(actual, expected, dtype):
    assert actual.shape == expected.shape
    worst = float(np.abs(actual - expected).max())
    assert worst <= TOLERANCE[dtype] * max(1.0, float(np.abs(expected).max()))


@pytest.fixture
def small_blocks(monkeypatch):
    """Every loop over blocks runs several times, and ends with a part of one."""
    for name, size in (("_ROWS", 7), ("_VOCAB_BLOCK", 5), ("_CLASSIFIER_ROWS", 4)):
        monkeypatch.setattr(model_module, name, size)
    for name, size in (("_ROWS", 6), ("_IDS", 5)):
        monkeypatch.setattr(screen, name, size)
    monkeypatch.setattr(attention, "_QUERY_CHUNK_BYTES", 24)


class Rows:
    """Collects whole logits."""

    def __init__(self, n, vocab_size):
        self.logits = np.full((n, vocab_size), np.nan)

    def take(self, rows, first_id, block):
        self.logits[rows, first_id : first_id + block.shape[1]] = block


def scored(engine, sequences, first=None):
    starts = first or [0] * len(sequences)
    n = sum(len(ids) - start for ids, start in zip(sequences, starts, strict=True))
    rows = Rows(n, engine.config.vocab_size)
    engine.score(sequences, rows, first=first)
    assert not np.isnan(rows.logits).any()
    return rows.logits


def one_at_a_time(engine, ids, cache="in-place"):
    session = engine.session(cache=cache, capacity=len(ids))
    return np.concatenate([session.extend([i]) for i in ids])


# ---- All ways agree

lengths = st.lists(st.integers(1, 11), min_size=1, max_size=5)


def fitting(found, lengths):
    return [ids_of(found, min(n, found.config.seq_len), seed=i) for i, n in enumerate(lengths)]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(deadline=None, max_examples=40)
@given(found=models(), lengths=lengths, cut=st.integers(1, 10))
def test_every_way_gives_the_same_logits(dtype, found, lengths, cut):
    engine = Engine(found.config, found.tensors, dtype=dtype)
    lockstep = Engine(found.config, found.tensors, dtype=dtype, ops=replace(LIBRARY, in_decode_order=True))
    sequences = fitting(found, lengths)
    expected = np.concatenate([one_at_a_time(engine, ids) for ids in sequences])
    assert_close(scored(engine, sequences), expected, dtype)
    assert_close(scored(lockstep, sequences), expected, dtype)
    assert_close(np.concatenate([engine.logits(ids) for ids in sequences]), expected, dtype)
    for cache in ("in-place", "concat", "none"):
        parts = []
        for ids in sequences:
            session = engine.session(cache=cache)
            parts += [session.extend(part, all_logits=True) for part in (ids[:cut], ids[cut:]) if part]
        assert_close(np.concatenate(parts), expected, dtype)


@pytest.mark.usefixtures("small_blocks")
@settings(deadline=None, max_examples=40)
@given(found=st.one_of(models(), quantised_models()), lengths=lengths, cut=st.integers(1, 10))
def test_every_way_gives_the_same_bits_in_strict_arithmetic(found, lengths, cut):
    engine = Engine(found.config, found.tensors, ops=STRICT)
    lockstep = Engine(found.config, found.tensors, ops=replace(STRICT, in_decode_order=True))
    sequences = fitting(found, lengths)
    expected = np.concatenate([one_at_a_time(engine, ids) for ids in sequences])
    assert np.array_equal(scored(engine, sequences), expected)
    assert np.array_equal(scored(lockstep, sequences), expected)
    for cache in ("in-place", "concat", "none"):
        parts = []
        for ids in sequences:
            session = engine.session(cache=cache)
            parts += [session.extend(part, all_logits=True) for part in (ids[:cut], ids[cut:]) if part]
        assert np.array_equal(np.concatenate(parts), expected)


@settings(deadline=None, max_examples=40)
@given(found=models(), data=st.data(), kind=st.sampled_from(["in-place", "concat", "none"]))
def test_a_session_forgets_what_is_taken_back(found, data, kind):
    in_decode_order = data.draw(st.booleans())
    engine = Engine(found.config, found.tensors, ops=replace(STRICT, in_decode_order=in_decode_order))
    session = engine.session(cache=kind)
    ids = ids_of(found, found.config.seq_len)
    session.extend(ids)
    kept = data.draw(st.integers(0, len(ids)))
    session.truncate(kept)
    assert len(session) == kept
    if kept < len(ids):
        assert np.array_equal(session.extend(ids[kept:]), engine.logits(ids)[-1:])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(deadline=None, max_examples=40)
@given(found=models(), lengths=st.lists(st.integers(1, 4), min_size=2, max_size=8), data=st.data())
def test_tokens_chunks_and_what_is_taken_back_mix_in_one_session(dtype, found, lengths, data):
    engine = Engine(found.config, found.tensors, dtype=dtype)
    session, ids = engine.session(), []
    for n in lengths:
        if ids and data.draw(st.booleans()):
            del ids[data.draw(st.integers(0, len(ids))) :]
            session.truncate(len(ids))
        more = ids_of(found, min(n, found.config.seq_len - len(ids)), seed=n)
        if more:
            ids += more
            assert_close(session.extend(more), engine.logits(ids)[-1:], dtype)


@pytest.mark.parametrize("step", sorted(FORWARD))
def test_one_token_goes_through_a_replaced_step(step):
    """The quick way stands for the steps of the forward pass only as long as none of them is replaced."""
    found = tiny()
    called = []
    original = getattr(LIBRARY, step)

    def replaced(*args):
        called.append(step)
        return original(*args)

    session = Engine(found.config, found.tensors, ops=replace(LIBRARY, **{step: replaced})).session()
    session.extend([1])
    called.clear()
    session.extend([2])
    assert called or step in ("weight", "layer_order")  # these two are asked once, before the first token


def test_a_session_refuses_more_than_it_can_hold():
    found = tiny()
    session = Engine(found.config, found.tensors).session(capacity=3)
    session.extend([1, 2])
    with pytest.raises(ValueError, match="4 positions, the cache holds 3"):
        session.extend([1, 2])


@pytest.mark.usefixtures("small_blocks")
@settings(deadline=None, max_examples=40)
@given(found=models(), lengths=lengths, first=st.integers(0, 9))
def test_only_the_wanted_positions_are_scored_in_the_order_of_the_sequences(found, lengths, first):
    engine = Engine(found.config, found.tensors, dtype=np.float64)
    sequences = fitting(found, lengths)
    starts = [min(first, len(ids) - 1) for ids in sequences]
    expected = np.concatenate([engine.logits(ids)[start:] for ids, start in zip(sequences, starts, strict=True)])
    assert_close(scored(engine, sequences, starts), expected, "float64")


def test_no_sequences_are_no_work():
    found = tiny()
    engine = Engine(found.config, found.tensors)
    engine.score([], Rows(0, found.config.vocab_size))
    assert engine.judge([], []) == []


def test_replaced_but_equal_steps_run_unfused_and_agree():
    found = tiny(n_heads=6, n_kv_heads=2)
    ids = ids_of(found, 9)
    expected = Engine(found.config, found.tensors, dtype=np.float64).logits(ids)
    for name in ("matmul", "angles", "softmax", "mask", "position", "scores", "rotate_k", "weight"):
        step = getattr(LIBRARY, name)
        ops = replace(LIBRARY, **{name: lambda *args, step=step: step(*args)})
        engine = Engine(found.config, found.tensors, dtype=np.float64, ops=ops)
        assert_close(engine.logits(ids), expected, "float64")
        assert_close(one_at_a_time(engine, ids), expected, "float64")


def test_strict_arithmetic_is_float32():
    found = tiny()
    with pytest.raises(ValueError, match="float32"):
        Engine(found.config, found.tensors, dtype=np.float64, ops=STRICT)


# ---- Judging


@pytest.mark.usefixtures("small_blocks")
@settings(deadline=None, max_examples=60)
@given(models(), lengths, st.integers(1, 9), st.booleans())
def test_judgements_are_those_of_whole_logits(found, lengths, first, with_ties):
    if with_ties:  # rows of the classifier repeat beyond a block: the lowest id must win
        name = "tok_embedding" if found.config.is_tied else "lm_head"
        tensor = found.tensors[name]
        found.tensors[name] = tensor[np.arange(len(tensor)) % min(4, len(tensor))]
    engine = Engine(found.config, found.tensors, ops=STRICT)
    sequences = [ids for ids in fitting(found, lengths) if len(ids) > 1]
    starts = [min(first, len(ids) - 1) for ids in sequences]
    for ids, start, judged in zip(sequences, starts, engine.judge(sequences, starts), strict=True):
        logits = engine.logits(ids[:-1])[start - 1 :]
        index = np.arange(len(logits))
        assert judged.best.tolist() == logits.argmax(axis=1).tolist()
        assert np.array_equal(judged.best_logit, logits.max(axis=1))
        assert np.array_equal(judged.chosen_logit, logits[index, ids[start:]])
        assert (judged.regret >= 0).all()
        assert np.array_equal(judged.regret == 0, logits[index, ids[start:]] == logits.max(axis=1))

        found_two = engine.top_two(ids, start - 1)
        logits = engine.logits(ids, start - 1)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :2]
        assert np.array_equal(found_two.ids, order)
        assert np.array_equal(found_two.logits, np.take_along_axis(logits, order, axis=1))
        assert np.array_equal(found_two.margin, found_two.logits[:, 0] - found_two.logits[:, 1])


def test_consumers_take_blocks_in_any_order_of_size():
    random = np.random.default_rng(0)
    logits = random.integers(0, 9, (6, 40)).astype(np.float32)
    chosen = random.integers(0, 40, 6)
    judged, two = Judged(chosen), TopTwo(6)
    for start, stop in ((0, 1), (1, 2), (2, 17), (17, 40)):
        for consumer in (judged, two):
            consumer.take(slice(0, 4), start, logits[:4, start:stop])
            consumer.take(slice(4, 6), start, logits[4:, start:stop])
    assert np.array_equal(judged.best, logits.argmax(axis=1))
    assert np.array_equal(judged.chosen_logit, logits[np.arange(6), chosen])
    assert np.array_equal(two.ids, np.argsort(-logits, axis=1, kind="stable")[:, :2])


# ---- int8


@pytest.mark.usefixtures("small_blocks")
@settings(deadline=None, max_examples=25)
@given(quantised_models())
def test_int8_logits_are_those_of_the_literal_rule(found):
    # Unfused, unblocked, one value at a time. Blocks of the classifier must begin where a group begins.
    literal = replace(STRICT, matmul=lambda step, name, x, w: literal_quantised_product(x, w))
    ids = ids_of(found, min(3, found.config.seq_len))
    expected = one_at_a_time(Engine(found.config, found.tensors, ops=literal), ids)
    assert np.array_equal(Engine(found.config, found.tensors, ops=STRICT).logits(ids), expected)


def test_an_int8_table_is_dequantised_in_float32_and_the_classifier_is_not():
    found = tiny()
    tensors = {
        name: QuantTensor(np.full(t.shape, 3, np.int8), np.full(t.size, 0.1, np.float32), 1) if t.ndim == 2 else t
        for name, t in found.tensors.items()
    }
    values = taps_of(Engine(found.config, tensors, dtype=np.float64), [0])
    assert values["embedding", -1].dtype == np.float64
    assert (values["embedding", -1] == float(np.float32(3) * np.float32(0.1))).all()


def test_weights_that_a_step_makes_int8_are_decoded_as_they_are_prefilled():
    found = tiny()

    def as_int8(config, layer, name, lookup):
        weight = lookup(layer, name)
        return weight if weight.ndim == 1 else quantize_weights(np.asarray(weight, np.float32), 2)

    engine = Engine(found.config, found.tensors, ops=replace(LIBRARY, weight=as_int8))
    session, ids = engine.session(), [1, 0, 1]
    one_by_one = np.concatenate([session.extend([token]) for token in ids])
    np.testing.assert_allclose(one_by_one, engine.logits(ids), rtol=1e-5, atol=1e-6)


# ---- llama2.c's arithmetic, on the published model

LOGITS_SHA256 = "baa05fb9b80e3c554b9af4de6a096251ff64767b66adb5c2a2b765e0cfbae170"

# Position: (fed id, the five best, the least with its id, sum in double).
TOP_FIVE = {
    0: (1, "403 17.0235157 385 15.4062128 410 13.108263 317 12.769166 407 12.418087", -8.02743626, 470, -1070.171674),
    1: (
        403,
        "407 18.4599857 383 14.2910614 261 10.8979673 403 10.6620531 432 10.3137989",
        -9.59140301,
        195,
        -2162.15788,
    ),
    10: (
        298,
        "315 15.6052961 420 9.20698071 425 7.96102238 417 7.94685459 347 7.71820116",
        -16.3920231,
        466,
        -2603.650117,
    ),
    185: (
        310,
        "279 13.1125612 336 13.1083775 286 12.9675579 439 12.8846655 262 12.758811",
        -14.3071079,
        225,
        -3437.829117,
    ),
    345: (436, "1 16.124548 410 15.6917095 317 15.5266743 13 14.7518787 342 14.2114115", -10.0485229, 7, -2078.27869),
}

# The first values at a position; names are those of the taps, "scores" and "weights" are heads 0, 1 and 7.
INTERMEDIATES = {
    0: """
        embedding -1: -0.127085686 -0.524080694 0.606289506 -0.271661311
        attn_norm 0: -0.43937397 -1.25887358 1.76858521 -0.841981888
        q_raw 0: -0.864275515 0.0139081702 1.80502284 -0.272810608
        k_raw 0: -0.306714207 -0.731556416 0.564422846 -0.881394506
        v 0: -0.390297085 0.979494035 -0.525029778 0.015677942
        q 0: -0.864275515 0.0139081702 1.80502284 -0.272810608
        k 0: -0.306714207 -0.731556416 0.564422846 -0.881394506
        scores: 0.70314312 / 3.80738854 / 0.333086878
        weights: 1 / 1 / 1
        attn_mix 0: -0.390297085 0.979494035 -0.525029778 0.015677942
        attn_out 0: -0.0830135942 0.142771468 -0.134300783 -0.168753058
        attn_residual 0: -0.21009928 -0.381309211 0.471988738 -0.440414369
        ffn_norm 0: -0.406816989 -0.554551423 0.840550542 -0.591513872
        gate 0: -0.244009942 -0.394745111 0.230199978 -0.265251637
        up 0: -0.360010594 -0.315299541 0.15680486 -1.02548265
        ffn_mix 0: 0.0385906734 0.0501057357 0.0201164652 0.118072651
        ffn_residual 0: 0.347779691 -1.34460497 1.42244446 -1.75304484
        ffn_residual 4: 0.975711107 -2.26285768 0.239845932 -3.62061739
        final_norm -1: 1.02900112 -1.32735288 0.180109784 -1.72073746
        logits -1: -6.22291136 8.4043417 -6.22373724 -6.22254181 -6.22195101 -6.22287512 -6.22187996 -6.22341633
    """,
    1: """
        q_raw 0: 0.304444164 -0.0274112523 1.28250897 -0.093293719
        k_raw 0: 0.394826055 -0.108307794 0.525730193 -0.594226658
        q 0: 0.187557653 0.241370544 1.28541565 0.0352096185
        k 0: 0.304463267 0.273715705 0.582427382 -0.538772523
        scores: 0.292601645 0.013913434 / 1.58737075 1.1922555 / 1.10791159 1.64820206
        weights: 0.569224596 0.430775374 / 0.597513497 0.402486533 / 0.368120015 0.631879985
        attn_mix 0: -0.579273939 0.944966555 -0.44568944 0.10924492
        ffn_residual 3: 0.722230434 -1.15441656 -0.793376446 -3.33359599
        final_norm -1: 1.24380684 -2.36703229 -0.964737058 -1.55253625
        logits -1: -9.58945847 3.84127617 -9.5905323 -9.58919334 -9.58864212 -9.59014702 -9.58848286 -9.5900774
    """,
    3: """
        embedding -1: 0.0621012114 -0.0727567375 0.15959391 -0.173793659
        attn_norm 0: 0.276793957 -0.225307688 0.600179374 -0.694428802
        q 0: -0.197940767 0.207009748 3.00807571 -1.61418784
        k 0: 0.183208838 -0.973854303 3.03099537 -3.27950978
        scores: 0.584690034 -0.930584133 0.198022678 2.29849577 / 0.968749225 1.81139469 0.669365942 -0.293995529 \
/ -0.893655479 -0.416860491 -0.406288385 -1.62995291
        weights: 0.134244263 0.029499894 0.0911944062 0.745061457 / 0.230061978 0.534319639 0.170539245 0.0650791302 \
/ 0.2119627 0.341451406 0.345080405 0.101505496
        attn_mix 0: -0.628315985 0.272877187 -0.14127323 0.121900216
        attn_out 0: -0.142700672 0.259714335 -0.0243030023 -0.152524218
        ffn_mix 0: -0.20017001 0.0266165249 0.0491562448 -0.143171534
        ffn_residual 0: -0.159925193 0.655343652 0.304202676 -0.346371025
        ffn_residual 1: 0.0163758174 0.908215463 0.0536120981 -0.46476531
        ffn_residual 2: -0.529475331 1.08988416 -0.214397758 -0.983292758
        ffn_residual 4: -2.17815185 1.33983064 0.381492615 -1.47154486
        logits -1: -6.71424103 -6.05302429 -6.71502495 -6.7144804 -6.71441841 -6.7148366 -6.71500635 -6.71412802
    """,
}


def taps_of(engine, ids):
    values = {}
    engine.logits(ids, tap=lambda name, layer, value: values.__setitem__((name, layer), value.copy()))
    return values


@pytest.fixture(scope="module")
def stories():
    return checkpoint.read(published("stories260K.bin"))


@pytest.fixture(scope="module")
def greedy(stories):
    """The ids fed, and the logits after each, of the greedy text: strict arithmetic."""
    engine = Engine(stories.config, stories.tensors, ops=STRICT)
    ids = [1, *generate(engine, [1], steps=0)][:-1]
    return ids, engine.logits(ids)


def test_strict_logits_are_those_of_the_c_program_bit_for_bit(greedy):
    # glibc 2.36 on x86-64. A library whose functions round otherwise has another digest, and no less right.
    ids, logits = greedy
    assert len(ids) == 346
    assert hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest() == LOGITS_SHA256


@pytest.mark.parametrize("position", TOP_FIVE)
def test_logits_have_the_measured_values(position, greedy):
    ids, logits = greedy
    fed, best, least, least_id, total = TOP_FIVE[position]
    row, words = logits[position], best.split()
    assert ids[position] == fed
    assert np.argsort(-row)[:5].tolist() == [int(i) for i in words[::2]]
    assert np.sort(row)[:-6:-1].tolist() == [np.float32(value) for value in words[1::2]]
    assert (row.argmin(), row.min()) == (least_id, np.float32(least))
    assert abs(row.astype(np.float64).sum() - total) < 1e-6


def test_intermediates_have_the_measured_bits(stories):
    inside = {}

    def noted(name, step_function):
        def run(step, *args):
            out = step_function(step, *args)
            if step.layer == 0:
                inside[name] = out[0]
            return out

        return run

    ops = replace(STRICT, scale=noted("scores", STRICT.scale), softmax=noted("weights", STRICT.softmax))
    values = taps_of(Engine(stories.config, stories.tensors, ops=ops), [1, 403, 407, 261])
    for position, text in INTERMEDIATES.items():
        for line in text.strip().splitlines():
            name, numbers = line.split(":")
            if name.strip() in inside:
                for head, part in zip((0, 1, 7), numbers.split("/"), strict=True):
                    expected = np.array(part.split(), np.float32)
                    assert np.array_equal(inside[name.strip()][head, position, : position + 1], expected), line
            else:
                tap, layer = name.split()
                expected = np.array(numbers.split(), np.float32)
                row = values[tap, int(layer)][position].reshape(-1)
                assert np.array_equal(row[: len(expected)], expected), line


def test_activations_in_float64_are_those_of_another_implementation(stories):
    # Hugging Face's in float64, its norms and angles in float32 (hence the tolerance), at the last of five positions.
    values = taps_of(Engine(stories.config, stories.tensors, dtype=np.float64), [1, 403, 407, 261, 378])
    residuals = [
        (4.019093, -0.414067, -0.386627, -0.283837, -0.315001),
        (5.484075, -0.264771, -0.580905, -0.744042, -0.799393),
        (7.331512, 0.157982, -0.336921, -1.183125, -1.412710),
        (10.627950, -0.238425, -0.522462, -1.789883, -1.843472),
        (12.685585, 0.249525, -1.189101, -1.707083, -1.949358),
    ]
    rows = [values["ffn_residual", layer][-1] for layer in range(5)] + [values["final_norm", -1][-1]]
    for row, (norm, *elements) in zip(
        rows, [*residuals, (17.040582, 0.386837, -1.025341, -1.884430, -2.354685)], strict=True
    ):
        assert abs(np.linalg.norm(row) - norm) < 5e-6
        assert np.abs(row[[0, 1, 2, 50]] - elements).max() < 5e-6
    logits = values["logits", -1]
    best = logits.argmax(axis=1)
    assert best.tolist() == [403, 407, 261, 378, 432]
    assert np.abs(logits.max(axis=1) - [17.02351, 18.45998, 17.13696, 18.87439, 17.79940]).max() < 2e-5
    last = logits[-1]
    assert np.argsort(-last)[:5].tolist() == [432, 383, 322, 353, 323]
    assert np.abs(np.sort(last)[:-6:-1] - [17.79940, 14.28126, 9.70965, 9.58729, 9.13424]).max() < 2e-5
    assert abs(np.log(np.exp(last - last.max()).sum()) + last.max() - 17.831101) < 5e-6
    assert abs(last.sum() + 2256.8523) < 1e-3


# ---- Taps


def test_taps_come_in_the_order_of_the_forward_pass_with_their_shapes():
    found = tiny(n_heads=6, n_kv_heads=2)
    config, seen = found.config, []
    Engine(config, found.tensors).logits(
        [1, 2, 3], tap=lambda name, layer, value: seen.append((name, layer, value.shape))
    )
    assert [name for name, layer, _ in seen if layer == -1] == [*BEFORE, *AFTER]
    for index in range(config.n_layers):
        assert [name for name, layer, _ in seen if layer == index] == [*IN_LAYER[:6], SCORES, *IN_LAYER[6:]]
    shapes = {name: shape for name, _, shape in seen}
    assert shapes["q"] == shapes["q_raw"] == (3, config.n_heads, config.head_dim)
    assert shapes["k"] == shapes["v"] == (3, config.n_kv_heads, config.head_dim)
    assert shapes[SCORES] == (3, config.n_heads, 3)
    assert shapes["gate"] == shapes["up"] == shapes["ffn_mix"] == (3, config.hidden_dim)
    assert shapes["logits"] == (3, config.vocab_size)
    assert shapes["attn_mix"] == shapes["ffn_residual"] == (3, config.dim)


def test_tapped_values_before_rotation_differ_from_those_after():
    found = tiny()
    values = taps_of(Engine(found.config, found.tensors), [1, 2, 3])
    for name in ("q", "k"):
        assert np.array_equal(values[f"{name}_raw", 0][0], values[name, 0][0])
        assert not np.array_equal(values[f"{name}_raw", 0][1], values[name, 0][1])


# ---- Memory and weights


def tiny(**changes):
    sizes = {
        "dim": 24,
        "hidden_dim": 10,
        "n_layers": 2,
        "n_heads": 3,
        "n_kv_heads": 1,
        "vocab_size": 40,
        "seq_len": 600,
        "is_tied": True,
    }
    config = ModelConfig(**(sizes | changes))
    random = np.random.default_rng(5)
    tensors = {
        name: random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[-1]))
        for name, shape in expected_shapes(config).items()
    }
    return Checkpoint(config, tensors)


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_scoring_never_holds_whole_logits():
    found = tiny(vocab_size=50_000)
    engine = Engine(found.config, found.tensors)
    sequences = [ids_of(found, 600, seed) for seed in range(2)]
    engine.judge([[1, 2]], [1])  # cast weights, whatever is imported late
    whole = 2 * 600 * found.config.vocab_size * 4
    assert peak_bytes(lambda: engine.judge(sequences, [1, 1])) < whole / 12  # 240 MB; blocks have 4


def test_layers_are_kept_only_if_all_of_them_are_small_enough():
    found = tiny(n_layers=12, dim=96, hidden_dim=256)
    n_bytes = found.config.n_params * 4
    looked_up = []

    def weight(config, layer, name, lookup):
        looked_up.append((layer, name))
        return lookup(layer, name)

    ops, ids = replace(LIBRARY, weight=weight), ids_of(found, 5)
    for keep_bytes, n_passes in ((n_bytes, 1), (n_bytes - 1, 2)):
        looked_up.clear()
        engine = Engine(found.config, found.tensors, ops=ops, keep_bytes=keep_bytes)
        first, second = engine.logits(ids), engine.logits(ids)
        assert np.array_equal(first, second)
        assert looked_up.count((7, "wq")) == looked_up.count((-1, "lm_head")) == n_passes


def test_a_large_model_is_cast_a_layer_at_a_time():
    found = tiny(n_layers=30, dim=96, hidden_dim=256)
    layer_bytes = 8 * found.config.n_params // 30
    engine = Engine(found.config, found.tensors, dtype=np.float64, keep_bytes=0)
    assert peak_bytes(lambda: engine.logits([1, 2, 3])) < 4 * layer_bytes
    kept = Engine(found.config, found.tensors, dtype=np.float64)
    assert peak_bytes(lambda: kept.logits([1, 2, 3])) > 20 * layer_bytes
