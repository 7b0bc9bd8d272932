"""Generated models have margins, honest programs pass them all, faults are found and shrink to little."""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from harness import checkpoint
from harness.adapters.implementation import ProcessImplementation, resolve
from harness.adapters.manifest import Manifest, Needs
from harness.conformance.fuzz import saved
from harness.conformance.fuzz.recipe import (
    MAX_VOCAB,
    MIN_VOCAB,
    SPACE,
    Ask,
    Recipe,
    build,
    has_margins,
    probe_ids,
    vocabulary,
)
from harness.conformance.fuzz.run import fuzz
from harness.conformance.fuzz.side_by_side import fuzz_side_by_side
from harness.conformance.fuzz.strategy import Room, from_seed_alone, recipes, room_for
from harness.conformance.fuzz.trial import Subject, Subjects, Trier, write
from harness.conformance.selftest.compiled import patched, read
from harness.errors import InputError
from harness.model_config import ModelConfig
from harness.models import Model, impls_dir, load
from harness.results import Kind

ROOT = Path(__file__).parents[1]
FORMATS = ("llama2c-v0", "llama2c-v1", "llama2c-v2")
TINY = ModelConfig(2, 1, 1, 1, 1, MIN_VOCAB, 3, is_tied=False)


def program(script: str = "faulty_lines", *, levels=("TOKENS", "LOGITS"), env=None, **more) -> ProcessImplementation:
    command = (sys.executable, str(ROOT / "miniatures" / f"{script}.py"))
    manifest = Manifest(
        path=ROOT / "impl.toml",
        name="port",
        run=command,
        protocol=command,
        levels=levels,
        env={"PYTHONPATH": str(ROOT.parent), **(env or {})},
        **more,
    )
    return ProcessImplementation(manifest)


def faulty(fault: str, **more) -> ProcessImplementation:
    return program(env={"FAULT": fault}, **more)


# ---- examples worked by hand -------------------------------------------------------------------------------------


def test_margins_are_leads_over_twice_the_noise():
    exact = np.array([[0.0, 1.0, 3.0]])  # the largest leads by 2
    assert has_margins(exact, exact + np.array([[0.0, 0.9, 0.0]]))
    assert not has_margins(exact, exact + np.array([[0.0, 0.0, 1.1]]))


def test_one_row_in_ten_may_be_without_a_margin():
    rows = np.tile([0.0, 5.0], (10, 1))
    rows[3] = [5.0, 5.0]
    assert has_margins(rows, rows + 0.1)
    rows[4] = [5.0, 5.0]
    assert not has_margins(rows, rows + 0.1)


def test_logits_that_are_not_finite_have_no_margins():
    rows = np.array([[0.0, np.inf]])
    assert not has_margins(rows, rows)


def test_the_sequence_of_logits_begins_with_the_prompt_and_fits_the_context():
    recipe = Recipe(TINY, prompt=(SPACE, SPACE), n_probe=9)
    assert probe_ids(recipe) == [1, SPACE, SPACE]


# ---- properties --------------------------------------------------------------------------------------------------


@given(st.integers(MIN_VOCAB, MAX_VOCAB))
@settings(max_examples=20)
def test_pieces_are_single_characters_and_unique(vocab_size):
    pieces = vocabulary(vocab_size).pieces
    assert len(set(pieces)) == len(pieces) == vocab_size
    assert all(len(piece.decode()) == 1 for piece in pieces[SPACE:])


@given(recipes(Room(formats=FORMATS)))
@settings(max_examples=100)
def test_a_recipe_can_be_written_and_its_prompt_is_what_its_text_encodes_to(tmp_path_factory, recipe):
    model = Model(build(recipe), vocabulary(recipe.config.vocab_size), "x")
    directory = tmp_path_factory.mktemp("model")
    files = write(model, directory, recipe.format)
    again = load(files.checkpoint, files.tokenizer)
    assert again.checkpoint.format == recipe.format
    assert again.checkpoint.config == recipe.config
    prompt = [1, *recipe.prompt]
    assert again.tokenizer.encode(again.tokenizer.decode(prompt)) == prompt
    assert len(prompt) <= recipe.config.seq_len
    assert 1 <= len(probe_ids(recipe)) <= recipe.config.seq_len
    assert all(ask.n >= 1 and (ask.temperature == 0 or ask.seed != 0) for ask in recipe.asks)


@given(recipes(Room(formats=FORMATS)))
@settings(max_examples=60)
def test_nearly_every_model_has_logits_some_units_apart(recipe):
    rows = Subject(Model(build(recipe), vocabulary(recipe.config.vocab_size), "x"), probe_ids(recipe)).rows
    assert np.isfinite(rows).all()
    assert 0.01 < np.std(rows) < 1000


def drawn(room: Room, n: int) -> list[Recipe]:
    found: list[Recipe] = []
    how = settings(max_examples=n, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    with pytest.raises(NoSuchExample), from_seed_alone():
        find(recipes(room), lambda one: bool(found.append(one)), settings=how, random=random.Random(1))
    return found


def test_most_models_have_margins_and_shapes_vary():
    found = drawn(Room(), 120)
    subjects = [Subject(Model(build(r), vocabulary(r.config.vocab_size), "x"), probe_ids(r)) for r in found]
    assert sum(subject.has_margins for subject in subjects) > 0.95 * len(subjects)
    configs = [recipe.config for recipe in found]
    assert {config.n_rep for config in configs} >= {1, 2, 3}
    assert {config.n_layers for config in configs} == {1, 2, 3}
    assert {config.is_tied for config in configs} == {True, False}
    assert any(config.hidden_dim < config.dim for config in configs)
    assert any(len(recipe.prompt) == recipe.config.seq_len - 1 for recipe in found)
    assert any(recipe.asks[0].n > recipe.config.seq_len - len(recipe.prompt) for recipe in found)


def test_programs_of_other_formats_are_given_the_same_models():
    first, second, int8 = (drawn(Room(formats=formats), 200) for formats in (FORMATS[:1], FORMATS[:2], FORMATS[2:]))
    assert [replace(recipe, format="") for recipe in first] == [replace(recipe, format="") for recipe in second]
    assert [recipe.weights for recipe in first] == [recipe.weights for recipe in int8]
    sizes = [(recipe.group_size, recipe.config) for recipe in int8]
    assert all(size and config.dim % size == 0 for size, config in sizes)
    assert any(size and config.hidden_dim % size for size, config in sizes)


def test_draws_depend_on_the_seed_alone_and_not_on_the_modules_that_are_loaded(tmp_path, monkeypatch):
    first = drawn(Room(), 60)
    # Numbers that stand in a module are worth trying to Hypothesis, unless it is an installed one.
    (tmp_path / "full_of_numbers.py").write_text(f"NUMBERS = {[*range(200, 900)]}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("full_of_numbers")
    assert drawn(Room(), 60) == first


def test_needs_are_kept():
    needs = Needs(mha=True, tied=False, hidden_multiple=4, dim_multiple=4, head_dim_multiple=4, max_seq_len=9)
    for recipe in drawn(room_for(Manifest(path=Path("impl.toml"), name="x", run=("x",), needs=needs)), 60):
        config = recipe.config
        assert config.n_kv_heads == config.n_heads
        assert not config.is_tied
        assert config.hidden_dim % 4 == config.dim % 4 == config.head_dim % 4 == 0
        assert config.seq_len <= 9


def test_a_vocabulary_without_room_is_refused_in_one_line():
    manifest = Manifest(path=Path("impl.toml"), name="x", run=("x",), needs=Needs(vocab_size=3))
    with pytest.raises(InputError, match="a vocabulary that generated models cannot have"):
        room_for(manifest)


# ---- honest programs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numpy", "c", "zig", "ts", "numpy-q8", "c-q8", "zig-q8", "ts-q8"])
def test_our_implementations_agree_on_every_model(name, tmp_path):
    found = fuzz(resolve(name, impls_dir()), minutes=4, models=50, seed=4, home=tmp_path)
    tally = found.tallies[0]
    if tally.skipped:
        pytest.skip(tally.skipped)
    assert not found.failures
    assert tally.n_models == 50
    assert set(tally.kinds) == {"TEXT", "TOKENS", "LOGITS", "TRACE"}
    assert sum(tally.kinds["TRACE"].values()) == 5  # one model in ten
    assert tally.n_operations > 5 * 18
    assert all(kind.is_green for kinds in tally.kinds.values() for kind in kinds)


@pytest.mark.parametrize("name", ["c", "zig", "c-q8", "zig-q8"])
def test_every_operation_that_they_record_is_right(name, tmp_path):
    tally = fuzz(resolve(name, impls_dir()), minutes=4, models=25, seed=9, levels=["TRACE"], home=tmp_path).tallies[0]
    if tally.skipped:
        pytest.skip(tally.skipped)
    assert tally.kinds == {"TRACE": {Kind.EXACT: 25}}


def test_a_program_that_only_prints_is_judged_by_its_text(tmp_path):
    found = fuzz(resolve("c", impls_dir()), minutes=4, models=20, levels=["TEXT"], home=tmp_path)
    tally = found.tallies[0]
    assert tally.n_models == 20
    assert set(tally.kinds) == {"TEXT"}
    assert tally.is_green


def test_the_same_seed_gives_the_same_run(tmp_path):
    runs = [fuzz([faulty("")], minutes=4, models=20, seed=3, home=tmp_path / str(n)).tallies[0] for n in range(2)]
    assert runs[0].kinds == runs[1].kinds
    assert runs[0].n_judged == runs[1].n_judged


# ---- faults ------------------------------------------------------------------------------------------------------

FAULTS = [
    ("attention-unscaled", "llama2c-v0"),
    ("rope-half-split", "llama2c-v0"),
    ("rope-theta-1e6", "llama2c-v0"),
    ("heads-modulo", "llama2c-v0"),
    ("norm-eps-missing", "llama2c-v0"),
    ("ffn-gelu", "llama2c-v0"),
    ("topp-ignored", "llama2c-v0"),
    ("wk-wv-square", "llama2c-v0"),
    ("int8-one-scale", "llama2c-v2"),
]
WITHIN = 120  # models


def shrunk(impl, home, **more):
    found = fuzz([impl], minutes=4, models=WITHIN, home=home, **more)
    assert len(found.failures) == 1
    assert not found.tallies[0].is_green
    return found.failures[0]


@pytest.mark.parametrize(("fault", "format"), FAULTS, ids=[name for name, _ in FAULTS])
def test_a_fault_is_found_and_shrinks_to_a_few_kilobytes(fault, format, tmp_path):
    precision = "q8" if format == FORMATS[2] else "f32"
    failure = shrunk(faulty(fault, formats=(format,), precision=precision), tmp_path)
    assert failure.verdict.kind in (Kind.MISMATCH, Kind.CRASHED)
    assert failure.is_shrunk
    assert (failure.directory / "model.bin").stat().st_size == failure.checkpoint_bytes < 4096
    assert checkpoint.read(failure.directory / "model.bin").config.n_layers <= 2


IN_C = read(impls_dir() / "c" / "faults.toml")
TRACED = [("attention-unscaled", "scores"), ("norm-eps-missing", "attn_norm"), ("heads-modulo", "scores")]


@pytest.mark.parametrize(("fault", "operation"), TRACED, ids=[name for name, _ in TRACED])
def test_a_fault_in_c_is_found_by_what_it_records_and_named_by_its_operation(fault, operation, tmp_path):
    (patch,) = (patch for patch in IN_C.patches if patch.name == fault)
    failure = shrunk(ProcessImplementation(patched(IN_C, patch)), tmp_path, levels=["TRACE"])
    assert (failure.level, failure.verdict.kind) == ("TRACE", Kind.MISMATCH)
    assert failure.verdict.reason.startswith(f"first wrong operation: {operation} of layer 0, computed from ")
    assert failure.checkpoint_bytes < 4096
    assert failure.verdict.reproduce.startswith('export HARNESS_TRACE="$PWD/trace.bin"; ')
    document = json.loads((failure.directory / saved.FILE_NAME).read_text())
    assert (document["level"], document["happened_again"]) == ("TRACE", True)


@pytest.mark.parametrize(
    ("wrote", "kind", "said"),
    [
        (b"", Kind.PROTOCOL, "wrote no trace"),
        (b"harness-trace 2\n", Kind.PROTOCOL, "begins with"),
        (b"harness-trace 1\n", Kind.PROTOCOL, "no token is recorded"),
        (b"harness-trace 1\ntoken -1 0 1\n\x00\x00\x80\x3f", Kind.INCONCLUSIVE, "nothing else"),
    ],
)
def test_what_is_no_trace_is_said_so(wrote, kind, said, tmp_path):
    writes = f"wrote = {wrote!r}; wrote and open(os.environ['HARNESS_TRACE'], 'wb').write(wrote)"
    script = f"import os; print('hello'); {writes}"
    manifest = Manifest(
        path=tmp_path / "impl.toml",
        name="port",
        run=(sys.executable, "-c", script, "{temperature}"),
        levels=("TRACE",),
    )
    subject = Subject(Model(build(Recipe(TINY)), vocabulary(MIN_VOCAB), "x"), [1])
    with Trier(ProcessImplementation(manifest), levels=["TRACE"]) as trier:
        (asked,) = trier.try_recipe(Recipe(TINY), subject)
    assert asked.verdict.kind is kind
    assert said in asked.verdict.reason


def test_text_and_trace_are_of_one_run_and_of_one_model_in_so_many(tmp_path):
    tally = fuzz(resolve("c", impls_dir()), minutes=4, models=9, every=4, home=tmp_path).tallies[0]
    assert [sum(tally.kinds[level].values()) for level in ("LOGITS", "TRACE")] == [9, 3]
    assert sum(tally.kinds["TEXT"].values()) >= 3
    assert tally.is_green


def test_a_saved_failure_is_judged_again_and_a_right_program_passes_it(tmp_path):
    impl = faulty("attention-unscaled")
    failure = shrunk(impl, tmp_path, calls={"port": "./my port/impl.toml"})
    assert failure.again == f"harness fuzz './my port/impl.toml' --again {failure.directory}"
    assert str(failure.directory / "model.bin").encode().hex() in failure.verdict.reproduce
    document = json.loads((failure.directory / saved.FILE_NAME).read_text())
    assert (document["kind"], document["level"], document["happened_again"]) == ("MISMATCH", failure.level, True)
    with Trier(impl) as trier:
        assert saved.again(failure.directory, trier)[-1].verdict.kind is Kind.MISMATCH
    with Trier(faulty("")) as trier:
        assert {one.verdict.kind for one in saved.again(failure.directory, trier)} == {Kind.EXACT}


def test_what_failed_before_is_tried_first(tmp_path):
    first = shrunk(faulty("attention-unscaled"), tmp_path)
    assert first.after > 0
    known = shrunk(faulty("attention-unscaled"), tmp_path, seed=99)
    assert (known.after, known.directory) == (0, first.directory)
    mended = fuzz([faulty("")], minutes=4, models=1, home=tmp_path).tallies[0]
    assert mended.is_green
    assert (mended.n_replayed, mended.n_models) == (1, 1)


def test_failures_of_other_programs_and_in_other_containers_are_not_tried(tmp_path):
    shrunk(faulty("attention-unscaled"), tmp_path)
    other = ProcessImplementation(faulty("").manifest.model_copy(update={"name": "other"}))
    reads_int8 = faulty("", formats=("llama2c-v2",), precision="q8")
    for impl in (other, reads_int8):
        assert fuzz([impl], minutes=4, models=1, home=tmp_path).tallies[0].n_replayed == 0


def test_a_program_that_failed_has_had_its_run_and_the_others_go_on(tmp_path):
    wrong = ProcessImplementation(faulty("attention-unscaled").manifest.model_copy(update={"name": "wrong"}))
    found = fuzz([wrong, faulty("")], minutes=4, models=30, home=tmp_path)
    assert [bool(tally.failures) for tally in found.tallies] == [True, False]
    assert found.tallies[1].n_models == 30


def test_an_interrupted_run_keeps_what_it_had(tmp_path, monkeypatch):
    n_asked = 0
    whole = Trier.try_recipe

    def interrupted(self, *asked):
        nonlocal n_asked
        n_asked += 1
        if n_asked == 40:
            raise KeyboardInterrupt
        return whole(self, *asked)

    monkeypatch.setattr(Trier, "try_recipe", interrupted)
    found = fuzz([faulty("attention-unscaled")], minutes=4, home=tmp_path)
    assert not found.is_whole
    assert len(found.failures) == 1
    assert not found.failures[0].is_shrunk
    assert (found.failures[0].directory / saved.FILE_NAME).is_file()


def test_no_new_model_is_begun_when_the_time_is_over(tmp_path):
    ticks = iter(range(10**9))
    found = fuzz([faulty("")], minutes=1, home=tmp_path, clock=lambda: float(next(ticks)))
    assert found.is_whole
    assert 0 < found.tallies[0].n_models < 60


def test_a_program_has_its_own_minutes_and_the_others_go_on(tmp_path):
    ticks = iter(range(10**9))
    slow = ProcessImplementation(faulty("").manifest.model_copy(update={"name": "slow"}))
    impls = [slow, faulty("")]
    found = fuzz(impls, minutes=10, minutes_each=0.5, models=40, home=tmp_path, clock=lambda: float(next(ticks)))
    assert all(0 < tally.n_models < 30 for tally in found.tallies)  # a tick of the clock, or more, for each
    assert found.took_s < 600


def test_a_program_that_decodes_greedily_only_is_asked_for_nothing_else(tmp_path):
    tally = fuzz([faulty("topp-ignored", greedy_only=True)], minutes=4, models=40, home=tmp_path).tallies[0]
    assert tally.is_green
    assert tally.kinds["TOKENS"] == {Kind.EXACT: 40}


def test_two_processes_come_to_what_one_does(tmp_path):
    right, wrong, int8 = (
        ProcessImplementation(impl.manifest.model_copy(update={"name": name}))
        for name, impl in (
            ("right", faulty("")),
            ("wrong", faulty("attention-unscaled")),
            ("int8", faulty("", formats=FORMATS[2:], precision="q8")),
        )
    )
    told: list[str] = []
    how = {"minutes": 4, "models": 20, "calls": {"wrong": "./wrong"}}
    alone = fuzz([right, wrong, int8], home=tmp_path / "1", **how)
    both = fuzz_side_by_side(
        [right, wrong, int8], jobs=2, home=tmp_path / "2", progress=lambda tally, _: told.append(tally.impl), **how
    )
    assert [tally.impl for tally in both.tallies] == ["right", "wrong", "int8"]
    assert [(t.kinds, t.n_models, t.n_judged) for t in both.tallies] == [
        (t.kinds, t.n_models, t.n_judged) for t in alone.tallies
    ]
    assert set(told) == {"right", "wrong", "int8"}
    assert both.is_whole
    (failure,) = both.failures
    assert failure.directory.name == alone.failures[0].directory.name
    assert failure.again.startswith("harness fuzz ./wrong --again ")


def test_an_interruption_of_the_first_process_alone_ends_all_and_keeps_what_they_had(tmp_path):
    programs = [
        ProcessImplementation(faulty("").manifest.model_copy(update={"name": name})) for name in ("one", "two")
    ]
    told: set[str] = set()

    def progress(tally, left_s):
        if tally.n_models > 0:
            told.add(tally.impl)
        if told == {"one", "two"}:
            told.add("interrupted")
            os.kill(os.getpid(), signal.SIGINT)

    found = fuzz_side_by_side(programs, jobs=2, minutes=60, home=tmp_path, progress=progress)
    assert not found.is_whole
    assert [tally.impl for tally in found.tallies] == ["one", "two"]
    assert all(tally.n_models > 0 and tally.is_green for tally in found.tallies)


def test_what_is_wrong_with_a_program_is_said_by_any_process(tmp_path):
    narrow = ProcessImplementation(faulty("").manifest.model_copy(update={"name": "n", "needs": Needs(vocab_size=3)}))
    with pytest.raises(InputError, match="a vocabulary that generated models cannot have"):
        fuzz_side_by_side([faulty(""), narrow], jobs=2, minutes=1, models=1, home=tmp_path)


def test_a_program_that_cannot_be_built_is_not_run(tmp_path):
    manifest = Manifest(path=tmp_path / "impl.toml", name="x", run=("x",), build=(("false",),), inputs=("impl.toml",))
    (tmp_path / "impl.toml").write_text("")
    tally = fuzz([ProcessImplementation(manifest)], minutes=1, home=tmp_path / "home").tallies[0]
    assert tally.skipped
    assert not tally.is_green


# ---- hostile input -----------------------------------------------------------------------------------------------


def saved_failure(directory: Path, **changes) -> Path:
    """A failure as it is saved, with some keys changed."""
    recipe = Recipe(TINY, asks=(Ask(1),))
    write(Model(build(recipe), vocabulary(MIN_VOCAB), "x"), directory, "llama2c-v0")
    document = {
        "schema": "harness-fuzz-failure/1",
        "impl": "port",
        "level": "TOKENS",
        "prompt": [1],
        "asks": [],
        "probe": [1],
    }
    (directory / saved.FILE_NAME).write_text(json.dumps({**document, **changes}))
    return directory


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "harness-fuzz-failure/9"}, "another version"),
        ({"prompt": []}, "key prompt"),
        ({"prompt": [4]}, "ids that its model cannot take"),
        ({"probe": [1, 1, 1, 1]}, "ids that its model cannot take"),
        ({"asks": [{"n": 0, "temperature": 0.0, "topp": 0.9, "seed": 1}]}, "key asks.0.n"),
        ({"asks": 7}, "key asks"),
    ],
)
def test_a_damaged_failure_is_refused_in_one_line(changes, said, tmp_path):
    with Trier(faulty("")) as trier, pytest.raises(InputError, match=said):
        saved.again(saved_failure(tmp_path, **changes), trier)


def test_a_directory_without_a_failure_is_refused(tmp_path):
    with Trier(faulty("")) as trier, pytest.raises(InputError, match="cannot be read"):
        saved.again(tmp_path, trier)


def test_a_failure_in_a_container_that_the_program_does_not_read_is_refused(tmp_path):
    with Trier(faulty("", formats=("llama2c-v2",))) as trier, pytest.raises(InputError, match="is llama2c-v0"):
        saved.again(saved_failure(tmp_path), trier)


def test_models_are_kept_up_to_a_number():
    subjects = Subjects(keep=2)
    kept = [subjects.of(Recipe(TINY, n_probe=n)) for n in (1, 2, 3)]
    assert subjects.of(Recipe(TINY, n_probe=3, format="llama2c-v1")) is kept[2]
    assert subjects.of(Recipe(TINY, n_probe=1)) is not kept[0]
