"""Ten port bugs, each as one replaced step, with the symptoms that were measured on the published stories260K.

The numbers of the faults and their symptoms are those of a catalogue of bugs seen in ports of llama2.c: "greedy @n"
means that piece n, counted from 0 and with the prompt, is the first wrong one. The structural tests below need no
published model: they state what each fault must and must not change on the embedded ones.
"""

from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import pytest

from harness import checkpoint, models, tokenizer
from harness.engine import LIBRARY, STRICT, Engine, generate
from harness.quant import QuantTensor, quantize_activations
from tests.derived_models import DERIVED_SHA256, derive, published


def weight_swap(a, b):
    """Look up a where b is asked for, and b for a."""

    def weight(config, layer, name, lookup):
        return lookup(layer, {a: b, b: a}.get(name, name))

    return weight


def wq_transposed(config, layer, name, lookup):
    return lookup(layer, name).T if name == "wq" else lookup(layer, name)


def all_slots_seen(step):
    return np.ones((len(step.pos), step.config.seq_len), bool)


def rows_of_dim(config, layer, slot):
    """The cache is sized for kv_dim, a row strides by dim: late rows of a layer are early rows of the next."""
    return layer * config.seq_len * config.kv_dim + slot * config.dim


def whole_rows(step, name, x, w):
    """Int8 as it was meant: every input counts, the short group at the end of a row too, each with its own scale."""
    n = x.shape[1]
    padded = np.pad(x, ((0, 0), (0, -n % w.group_size)))
    codes, scales = quantize_activations(padded, w.group_size)
    values = codes.astype(np.float32) * np.repeat(scales, w.group_size, axis=1)
    return values[:, :n] @ w.dequantize().T


def embedding_scaled(step, table, ids):
    return LIBRARY.embed(step, table, ids) * np.sqrt(step.dtype.type(step.config.dim))


def forced_one_short(config, pos, prompt):
    return prompt[pos + 1] if pos + 2 < len(prompt) else None


FAULTS = {
    "10 wq transposed": replace(LIBRARY, weight=wq_transposed),
    "36 positions from 1": replace(LIBRARY, position=lambda config, pos: pos + 1),
    "40 softmax over all slots": replace(LIBRARY, mask=all_slots_seen, in_decode_order=True),
    "44 cache rows of dim": replace(LIBRARY, cache_row=rows_of_dim, in_decode_order=True),
    "46 no attention residual": replace(LIBRARY, attn_residual=lambda step, x, delta: delta),
    "46 no feed-forward residual": replace(LIBRARY, ffn_residual=lambda step, x, delta: delta),
    "46 attention residual of the norm": replace(
        LIBRARY, attn_residual=lambda step, x, delta: step.values["attn_norm"] + delta
    ),
    "46 feed-forward residual of the norm": replace(
        LIBRARY, ffn_residual=lambda step, x, delta: step.values["ffn_norm"] + delta
    ),
    "47 parallel feed-forward": replace(LIBRARY, ffn_norm=lambda step, x, gain: step.values["attn_norm"]),
    "49 last layer skipped": replace(LIBRARY, layer_order=lambda config: range(config.n_layers - 1)),
    "49 layers in reverse": replace(LIBRARY, layer_order=lambda config: range(config.n_layers)[::-1]),
    "49 embedding times sqrt(dim)": replace(LIBRARY, embed=embedding_scaled),
    "49 wk and wv swapped": replace(LIBRARY, weight=weight_swap("wk", "wv")),
    "60 int8 tails counted": replace(STRICT, matmul=whole_rows),
    "84 coins for forced tokens": replace(
        LIBRARY, draws_coin=lambda config, pos, *, is_forced, temperature: temperature != 0
    ),
    "100 forced test one short": replace(LIBRARY, forced=forced_one_short),
}
FLOAT32 = {name: ops for name, ops in FAULTS.items() if not name.startswith("60")}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_replaced_step(name):
    ops = FAULTS[name]
    [step] = min((ops.differs_from(family) for family in (LIBRARY, STRICT)), key=len) - {"in_decode_order"}
    assert step


# ---- Symptoms measured on stories260K


@dataclass(frozen=True)
class Probe:
    model: str
    prompt: str
    settings: dict


PROBES = {
    "A": Probe("stories260K", "", {"steps": 60}),
    "B": Probe("stories260K", "The dog", {"steps": 60}),
    "C": Probe("stories260K", "", {"steps": 60, "temperature": 1, "topp": 0.9, "seed": 42}),
    "D": Probe("stories260K", "", {"steps": 60, "temperature": 1, "topp": 0, "seed": 42}),
    "E": Probe("stories260K", "There was a big", {"steps": 60, "temperature": 0.8, "topp": 0.95, "seed": -1}),
    "U": Probe("stories260K", "Zoë saw a 🦙", {"steps": 48}),
    "F": Probe("stories260K", "“Hi” café", {"steps": 40}),
    "G": Probe("stories260K", "lllly oooo", {"steps": 40}),
    "H": Probe("stories260K", "here little", {"steps": 40}),
    "K": Probe("stories260K", "", {"steps": 40, "temperature": 0.0001, "topp": 1, "seed": 1}),
    "L": Probe("stories260K", "", {"steps": 0, "temperature": 1, "topp": 0.9, "seed": 12}),
    "X": Probe("eps-probe", "", {"steps": 60}),
    "R": Probe("rev-cls", "", {"steps": 60}),
    "S": Probe("bos-swap", "", {"steps": 60}),
}
_ = None  # nothing wrong
# Fault: largest logit error after BOS (two digits), and the first wrong piece of each probe in PROBES' order. The
# bugs were injected into an engine written from llama2.c's rules alone, another than ours. "-" was not measured;
# after BOS, fault 36 was not seen there because position 0 was fed directly.
MEASURED = {
    "10 wq transposed": (0, [3, 3, 3, 3, 5, 12, 9, 8, 3, 3, "-", 1, 1, 1]),
    "36 positions from 1": ("-", [53, 5, 9, 15, 5, 24, 13, 7, 8, _, 9, 0, 3, 0]),
    "40 softmax over all slots": (4.4, [12, 3, 3, 3, 5, 13, 9, 7, 3, 12, "-", 0, 1, 1]),
    "44 cache rows of dim": (0, [_, _, _, _, _, _, _, _, _, _, 256, _, _, _]),
    "46 no attention residual": (17, [0, 3, 0, 0, 5, 12, 9, 7, 3, 0, "-", 0, 0, 0]),
    "46 no feed-forward residual": (27, [0, 3, 0, 0, 5, 12, 9, 7, 3, 0, "-", 0, 0, 0]),
    "46 feed-forward residual of the norm": ("-", [0] + ["-"] * 13),
    "47 parallel feed-forward": (3.6, [3, 3, 3, 3, 6, 12, 9, 7, 3, 3, "-", 0, 7, 0]),
    "49 last layer skipped": (2.9, [2, 3, 2, 0, 5, 13, 9, 8, 3, 2, "-", 0, 1, 0]),
    "49 layers in reverse": ("-", [0] + ["-"] * 13),
    "49 embedding times sqrt(dim)": ("-", [0] + ["-"] * 13),
    "49 wk and wv swapped": ("-", [0] + ["-"] * 13),
    "84 coins for forced tokens": (0, [_, _, _, _, 5, _, _, _, _, _, "-", _, _, _]),
    "100 forced test one short": (0, [_, _, _, _, 4, 11, 8, 6, 2, _, "-", _, _, _]),
}


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """Checkpoints by name: the published one and its variants."""
    path = published("stories260K.bin")
    folder = tmp_path_factory.mktemp("derived")
    paths = {"stories260K": path} | {name: derive(name, path, folder) for name in DERIVED_SHA256}
    return {name: checkpoint.read(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def vocabulary():
    return tokenizer.read(published("tok512.bin"))


@pytest.fixture(scope="module")
def reference(stories, vocabulary):
    """The ids that the correct engine gives for every probe."""
    return {name: list(written(stories, vocabulary, probe, LIBRARY)) for name, probe in PROBES.items()}


def written(stories, vocabulary, probe, ops):
    found = stories[probe.model]
    return generate(Engine(found.config, found.tensors, ops=ops), vocabulary.encode(probe.prompt), **probe.settings)


def first_wrong(actual, expected):
    """Index of the first piece that differs, a missing or surplus one included; None if there is none."""
    pairs = enumerate(zip_longest(actual, expected))
    return next((i for i, (a, b) in pairs if a != b), None)


@pytest.mark.parametrize("name", MEASURED)
def test_the_first_wrong_piece_of_every_probe_is_the_measured_one(name, stories, vocabulary, reference):
    cells = dict(zip(PROBES, MEASURED[name][1], strict=True))
    wanted = {probe: cell for probe, cell in cells.items() if cell != "-"}
    found = {
        probe: first_wrong(written(stories, vocabulary, PROBES[probe], FAULTS[name]), reference[probe])
        for probe in wanted
    }
    assert found == wanted


@pytest.mark.parametrize("name", [name for name in MEASURED if MEASURED[name][0] != "-"])
def test_the_logit_error_after_bos_is_the_measured_one(name, stories):
    found = stories["stories260K"]
    right, wrong = (Engine(found.config, found.tensors, ops=ops).logits([1]) for ops in (LIBRARY, FAULTS[name]))
    error = float(np.abs(right - wrong).max())
    assert float(f"{error:.2g}") == MEASURED[name][0]


def test_fault_60_turns_the_degenerate_int8_text_into_a_story(stories, vocabulary, tmp_path):
    # 172 is no multiple of 64: llama2.c writes "Once upon upon upon", the fault "Once upon a".
    checkpoint.write(stories["stories260K"], tmp_path / "q8.bin", version=2, group_size=64)
    found = checkpoint.read(tmp_path / "q8.bin")
    right, wrong = (
        list(generate(Engine(found.config, found.tensors, ops=ops), [1], steps=60))
        for ops in (STRICT, FAULTS["60 int8 tails counted"])
    )
    assert first_wrong(wrong, right) == 2
    assert vocabulary.print_text([1, *right]).startswith(b"Once upon upon upon")
    assert vocabulary.print_text([1, *wrong]).startswith(b"Once upon a time")


# ---- What the faults change, and what they must not, on the embedded models

EMBEDDED = ("gqa", "mha", "mqa")
# float64 forward passes that differ in the order of sums only, logits up to about 100: observed below 1e-12.
ROUNDING = 1e-9


@pytest.fixture(scope="module")
def embedded():
    return {name: checkpoint.read(models.golden_dir() / "models" / f"{name}.bin") for name in EMBEDDED}


def engine64(found, ops=LIBRARY):
    return Engine(found.config, found.tensors, dtype=np.float64, ops=ops)


def some_ids(found, n, seed=0):
    return [1, *np.random.default_rng(seed).integers(3, found.config.vocab_size, n - 1).tolist()]


def largest(difference):
    return float(np.abs(difference).max())


@pytest.mark.parametrize("model", EMBEDDED)
@pytest.mark.parametrize("name", FLOAT32)
def test_a_faulty_prefill_computes_what_a_faulty_decode_computes(name, model, embedded):
    found, ops = embedded[model], FLOAT32[name]
    engine, ids = engine64(found, ops), some_ids(found, 12)
    session = engine.session()
    one_by_one = np.concatenate([session.extend([i]) for i in ids])
    scale = max(1.0, largest(one_by_one))
    assert largest(engine.logits(ids) - one_by_one) <= ROUNDING * scale


@pytest.mark.parametrize("name", [name for name, ops in FLOAT32.items() if ops.in_decode_order])
def test_sequences_in_lockstep_do_not_see_each_other(name, embedded):
    engine = engine64(embedded["gqa"], FLOAT32[name])
    sequences = [some_ids(embedded["gqa"], n, seed=n) for n in (5, 9, 3)]
    together = engine.judge(sequences, [1, 2, 1])
    alone = [engine.judge([ids], [first])[0] for ids, first in zip(sequences, [1, 2, 1], strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert largest(a.best_logit - b.best_logit) <= ROUNDING
        assert largest(a.chosen_logit - b.chosen_logit) <= ROUNDING


@pytest.mark.parametrize("model", EMBEDDED)
def test_fault_10_is_invisible_at_position_0_and_only_there(model, embedded):
    found = embedded[model]
    ids = some_ids(found, 4)
    right, wrong = (engine64(found, ops).logits(ids) for ops in (LIBRARY, FAULTS["10 wq transposed"]))
    assert largest(right[0] - wrong[0]) <= ROUNDING
    assert (np.abs(right[1:] - wrong[1:]).max(axis=1) > 1e-3).all()


def with_zero_slots(n_slots):
    """Softmax that counts rows of zeros, n_slots(step) rows in all: their scores are 0, and so are their values."""

    def softmax(step, scores, seen):
        x = np.where(seen, scores, -np.inf)
        extra = (n_slots(step) - seen.sum(axis=1))[:, None]
        top = np.maximum(x.max(axis=-1, keepdims=True), 0)
        e = np.exp(x - top)
        return e / (e.sum(axis=-1, keepdims=True) + extra * np.exp(-top))

    return replace(LIBRARY, softmax=softmax)


@pytest.mark.parametrize("model", EMBEDDED)
def test_fault_36_is_one_zero_row_more_in_every_softmax(model, embedded):
    # Both rotations move by one position, which their product does not see.
    found = embedded[model]
    ids = some_ids(found, 20)
    wrong = engine64(found, FAULTS["36 positions from 1"]).logits(ids)
    same = engine64(found, with_zero_slots(lambda step: step.pos + 2)).logits(ids)
    assert largest(wrong - same) <= ROUNDING
    assert largest(wrong - engine64(found).logits(ids)) > 1e-3


@pytest.mark.parametrize("model", EMBEDDED)
def test_fault_40_is_a_softmax_over_zero_rows_up_to_the_context(model, embedded):
    found = embedded[model]
    ids = some_ids(found, 20)
    wrong = engine64(found, FAULTS["40 softmax over all slots"]).logits(ids)
    same = engine64(found, with_zero_slots(lambda step: np.full(len(step.pos), step.config.seq_len))).logits(ids)
    assert largest(wrong - same) <= ROUNDING
    assert largest(wrong - engine64(found).logits(ids)) > 1e-3


@pytest.mark.parametrize("model", ["gqa", "mqa"])
def test_fault_44_corrupts_nothing_before_rows_collide(model, embedded):
    found = embedded[model]
    config = found.config
    collision = config.seq_len * config.kv_dim // config.dim
    assert collision == 256
    ids = some_ids(found, collision + 2)
    right, wrong = (
        engine64(found, ops).logits(ids)
        for ops in (replace(LIBRARY, in_decode_order=True), FAULTS["44 cache rows of dim"])
    )
    assert np.array_equal(right[:collision], wrong[:collision])
    assert largest(right[collision] - wrong[collision]) > 1e-3


def test_fault_44_does_not_exist_without_shared_heads(embedded):
    found = embedded["mha"]
    ids = some_ids(found, found.config.seq_len)
    right, wrong = (
        engine64(found, ops).logits(ids)
        for ops in (replace(LIBRARY, in_decode_order=True), FAULTS["44 cache rows of dim"])
    )
    assert np.array_equal(right, wrong)


def taps(engine, ids):
    values = {}
    engine.logits(ids, tap=lambda name, layer, value: values.__setitem__((name, layer), value.copy()))
    return values


@pytest.mark.parametrize("kind", ["attention", "feed-forward"])
def test_fault_46_leaves_the_residual_out_or_takes_the_norm(kind, embedded):
    found = embedded["mqa"]
    ids, prefix = some_ids(found, 6), {"attention": "attn", "feed-forward": "ffn"}[kind]
    dropped = taps(engine64(found, FAULTS[f"46 no {kind} residual"]), ids)
    taken = taps(engine64(found, FAULTS[f"46 {kind} residual of the norm"]), ids)
    for layer in range(found.config.n_layers):
        assert np.array_equal(dropped[f"{prefix}_residual", layer], dropped[f"{prefix}_out", layer])
        sums = taken[f"{prefix}_norm", layer] + taken[f"{prefix}_out", layer]
        assert np.array_equal(taken[f"{prefix}_residual", layer], sums)


def test_fault_47_feeds_both_halves_of_a_block_with_one_value(embedded):
    found = embedded["gqa"]
    values = taps(engine64(found, FAULTS["47 parallel feed-forward"]), some_ids(found, 6))
    for layer in range(found.config.n_layers):
        assert np.array_equal(values["ffn_norm", layer], values["attn_norm", layer])


def renamed(found, new_name):
    """The same checkpoint with tensors under other names; new_name may return None to drop one."""
    pairs = ((new_name(name), tensor) for name, tensor in found.tensors.items())
    return {name: tensor for name, tensor in pairs if name}


def reverse_layers(found):
    def new_name(name):
        if not name.startswith("layers."):
            return name
        _, layer, kind = name.split(".")
        return f"layers.{found.config.n_layers - 1 - int(layer)}.{kind}"

    return found.config, renamed(found, new_name)


def without_last_layer(found):
    return replace(found.config, n_layers=found.config.n_layers - 1), dict(found.tensors)


def swapped_kv(found):
    return found.config, renamed(found, lambda name: name[:-2] + {"wk": "wv", "wv": "wk"}.get(name[-2:], name[-2:]))


def transposed_wq(found):
    return found.config, {n: t.T if n.endswith("wq") else t for n, t in found.tensors.items()}


def larger_embedding(found):
    scale = np.sqrt(found.config.dim)
    return found.config, {
        n: t.astype(np.float64) * scale if n == "tok_embedding" else t for n, t in found.tensors.items()
    }


@pytest.mark.parametrize(
    ("name", "altered", "model"),
    [
        ("10 wq transposed", transposed_wq, "gqa"),
        ("49 last layer skipped", without_last_layer, "mqa"),
        ("49 layers in reverse", reverse_layers, "gqa"),
        ("49 wk and wv swapped", swapped_kv, "gqa"),
        ("49 embedding times sqrt(dim)", larger_embedding, "mha"),  # untied: the classifier is another tensor
    ],
)
def test_faults_10_and_49_are_the_correct_engine_on_altered_weights(name, altered, model, embedded):
    found = embedded[model]
    ids = some_ids(found, 9)
    config, tensors = altered(found)
    same = Engine(config, tensors, dtype=np.float64).logits(ids)
    assert largest(engine64(found, FAULTS[name]).logits(ids) - same) <= ROUNDING * max(1.0, largest(same))


@pytest.mark.parametrize("model", EMBEDDED)
def test_fault_60_changes_rounding_only_where_groups_end_with_rows(model):
    # float32, int8 steps: another rounding of a sum may move a code by one, hence a bound far above 1e-5.
    found = checkpoint.read(models.golden_dir() / "models" / f"{model}-q8.bin")
    assert isinstance(found.tensors["layers.0.w_down"], QuantTensor)
    assert found.config.hidden_dim % found.group_size == 0
    ids = some_ids(found, 5)
    right, wrong = (
        Engine(found.config, found.tensors, ops=ops).logits(ids) for ops in (STRICT, FAULTS["60 int8 tails counted"])
    )
    assert largest(right - wrong) < 0.5


def test_fault_60_is_nearer_to_the_float_model_where_groups_straddle_rows(embedded, tmp_path):
    found = embedded["gqa"]
    checkpoint.write(found, tmp_path / "q8.bin", version=2, group_size=64)
    q8 = checkpoint.read(tmp_path / "q8.bin")
    ids = some_ids(found, 9)
    exact = engine64(found).logits(ids)
    right, wrong = (
        largest(Engine(q8.config, q8.tensors, ops=ops).logits(ids) - exact)
        for ops in (STRICT, FAULTS["60 int8 tails counted"])
    )
    assert right > 2 * wrong


@pytest.mark.parametrize("model", EMBEDDED)
def test_fault_84_shifts_the_coins_by_the_forced_tokens_and_nothing_else(model, embedded):
    found = embedded[model]
    right, wrong = engine64(found), engine64(found, FAULTS["84 coins for forced tokens"])
    prompt = some_ids(found, 6)
    sampled = {"steps": 40, "temperature": 1.0, "topp": 1.0, "seed": 11}
    for engine in (right, wrong):
        assert list(generate(engine, prompt, steps=20)) == list(generate(right, prompt, steps=20))
        assert list(generate(engine, [1], **sampled)) == list(generate(right, [1], **sampled))
    ids = list(generate(wrong, prompt, **sampled))
    assert ids != list(generate(right, prompt, **sampled))
    assert ids == list(generate(wrong, prompt, one_by_one=True, **sampled))


@pytest.mark.parametrize("model", EMBEDDED)
def test_fault_100_samples_the_last_piece_of_the_prompt(model, embedded):
    found = embedded[model]
    right, wrong = engine64(found), engine64(found, FAULTS["100 forced test one short"])
    prompt = some_ids(found, 6)
    assert list(generate(wrong, prompt, steps=15)) == list(generate(right, prompt[:-1], steps=15))
    assert list(generate(wrong, [1], steps=15)) == list(generate(right, [1], steps=15))
