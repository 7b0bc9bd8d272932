"""Self-naming checkpoints: what stands in the files, what ports say on them, and how answers are read."""

import numpy as np
import pytest

from harness import models
from harness.diagnosis import CATALOGUE, Fate, Port, PortCrashed, Request, by_name, faulted
from harness.diagnosis.diagnosis import Conclusion
from harness.diagnosis.self_naming import craft
from harness.diagnosis.self_naming.files import cached, made, make, plan_of
from harness.diagnosis.self_naming.outcome import OK, angles, faults_seen
from harness.diagnosis.self_naming.probe import CRASH, SILENCE, Probe, read, write
from harness.diagnosis.self_naming.reading import read_off, unseen
from harness.diagnosis.self_naming.recipes import HARD_TEXT, PLAN, PLAN_INT8, RECIPES
from harness.diagnosis.self_naming.recipes import by_name as recipe_of
from harness.errors import InputError
from harness.tokenizer.bpe import KNOWN_WRONG

# Two that are made quickly: tied and natural; untied, with scores in the hundreds.
QUICK = (("short", "gqa"), ("peaked", "mqa"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("probes")
    return [made(recipe, model, 0, directory) for recipe, model in QUICK]


def answered(one, port):
    """Stdout of a port that runs freely on a probe's files, as a program would."""
    model = models.load(one.files.checkpoint, one.files.tokenizer)
    return port.answer(model, Request(one.probe.prompt.encode(), steps=one.probe.steps)).text


# ---- what a program prints ---------------------------------------------------------------------------------------


def test_a_right_program_prints_the_prompt_and_ok(files):
    for one in files:
        text = answered(one, Port())
        assert text.startswith(one.probe.prompt.encode() + b"<ok>")
        assert one.probe.heard(text) == one.probe.says[OK] == "<ok>"


def test_in_an_untied_model_a_right_program_stops_after_the_name(files):
    assert answered(files[1], Port()) == files[1].probe.prompt.encode() + b"<ok>\n"


@pytest.mark.parametrize(
    "name", ["rope-half-split", "attention-unscaled", "heads-modulo", "ffn-relu", "norm-sum", "cache-without-layers"]
)
def test_a_program_with_a_bug_prints_its_name(files, name):
    text = answered(files[0], faulted(by_name(name)))
    assert files[0].probe.heard(text) == files[0].probe.says[name]
    assert name.encode() in text


def test_scores_that_overflow_say_so(files):
    assert b"<not-a-number>" in answered(files[1], faulted(by_name("softmax-overflows")))
    assert files[0].probe.says["softmax-overflows"] == "<ok>"


def test_a_port_that_takes_the_embedding_for_the_classifier_says_so(files):
    assert b"<negative-vocab-tied>" in answered(files[1], faulted(by_name("negative-vocab-tied")))


def test_a_port_that_takes_rope_tables_for_the_classifier_says_so(files):
    assert b"<tables-not-skipped>" in answered(files[1], faulted(by_name("tables-not-skipped")))


def test_every_fault_says_freely_what_one_pass_said(files):
    """The dictionary comes of teacher-forced passes; a program runs position by position."""
    one = files[0]
    for fault in faults_seen():
        if one.probe.says.get(fault.name, CRASH) != CRASH:
            assert one.probe.heard(answered(one, faulted(fault))) == one.probe.says[fault.name], fault.name


def test_what_moves_no_hidden_state_is_never_given_a_name(files):
    out_of_sight = [fault for fault in CATALOGUE if fault not in faults_seen()]
    assert {"argmax-last", "forced-one-short", "topp-ignored", "newline-missing"} <= {
        one.name for one in out_of_sight
    }
    for fault in out_of_sight:
        if "written" in fault.change.steps or fault.name == "prefix-not-stripped":
            continue
        try:
            heard = [(one.probe, one.probe.heard(answered(one, faulted(fault)))) for one in files]
        except PortCrashed:
            heard = [(one.probe, CRASH) for one in files]
        assert read_off(heard).conclusion is not Conclusion.NAMED, fault.name


# ---- what stands in the files ------------------------------------------------------------------------------------


def test_the_prompt_keeps_its_ids_and_no_text_becomes_a_name(files):
    for one, (_, model) in zip(files, QUICK, strict=True):
        found = models.locate(model)
        original = models.load(found.checkpoint, found.tokenizer).tokenizer
        crafted = models.load(one.files.checkpoint, one.files.tokenizer).tokenizer
        assert crafted.encode(one.probe.prompt) == original.encode(one.probe.prompt)
        assert max(crafted.encode("<ok> <rope-half-split>")) < original.vocab_size


def test_rows_lie_farther_apart_than_rounding_moves_them(files):
    for one in files:
        assert one.probe.separation >= 2 * one.probe.radius
        assert one.probe.radius > 100 * one.probe.noise["f32"]


def test_both_float_versions_say_the_same(files, tmp_path):
    other = made(*QUICK[0], 1, tmp_path).probe
    known = files[0].probe
    in_both = set(other.says) & set(known.says) - {"wk-wv-square"}  # what that reads depends on the layout
    layout = {fault.name for fault in faults_seen() if "sections" in fault.change.steps}
    assert {name: other.says[name] for name in in_both - layout} == {
        name: known.says[name] for name in in_both - layout
    }
    assert "v1-in-v0-order" in other.says
    assert "v1-in-v0-order" not in known.says


def test_rows_that_are_too_near_are_refused():
    draft = craft.Draft(
        recipe_of("short"),
        models.load(*_located("gqa")),
        0,
        b"a",
        2,
        2,
        radius=0.1,
        noise={"f32": 0.0},
        rows={5: np.array([1.0, 0.0]), 6: np.array([np.cos(0.15), np.sin(0.15)])},
        owners={5: ("ok",), 6: ("ffn-relu",)},
        states={},
    )
    with pytest.raises(InputError, match="too near") as caught:
        craft.finished(draft, draft.model.tokenizer, {}, name="x")
    assert "0.1500 rad" in str(caught.value)


def test_a_model_on_which_honest_programs_differ_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(craft, "_MOST_RADIUS", 1e-9)
    with pytest.raises(InputError, match="honest programs differ too much"):
        craft.drafted(recipe_of("short"), models.load(*_located("gqa")), 0)


def test_a_hypothesis_that_does_not_say_its_name_is_refused(files):
    recipe, model = QUICK[0]
    draft = craft.drafted(recipe_of(recipe), models.load(*_located(model)), 0)
    tokenizer = craft.named_tokenizer(draft)
    first = min(draft.rows)
    says = dict.fromkeys(draft.states, tokenizer.pieces[first].decode())
    with pytest.raises(InputError, match="does not say its name"):
        craft.finished(draft, tokenizer, says, name="x")


def test_float32_weights_for_int8_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="llama2c-v0"):
        made("short", "gqa", 2, tmp_path)


def _located(model):
    found = models.locate(model)
    return found.checkpoint, found.tokenizer


def test_the_hard_text_shows_every_wrong_encoder():
    tokenizer = models.load(*_located("gqa")).tokenizer
    honest = tokenizer.encode(HARD_TEXT)
    same = {name for name, _, rules in KNOWN_WRONG if tokenizer.encode(HARD_TEXT, rules=rules) == honest}
    # No prompt that is not empty shows the first; the second needs a vocabulary with pieces that are scored so low.
    assert same == {"dummy-prefix-on-empty", "floor-1e9"}


def test_angles_by_hand():
    a = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert angles(a, a).tolist() == pytest.approx(np.array([[0, np.pi / 2], [np.pi / 2, 0]]))
    tiny = 1e-9  # the arc cosine of a product would be 0
    assert angles(a[:1], np.array([[np.cos(tiny), np.sin(tiny)]]))[0, 0] == pytest.approx(tiny)


def test_plans_name_recipes_and_models_that_there_are():
    assert {recipe for recipe, _ in (*PLAN, *PLAN_INT8)} <= {one.name for one in RECIPES}
    assert {model for _, model in (*PLAN, *PLAN_INT8)} <= set(models.known_names())
    assert plan_of(["gqa"], 0) == [(one.name, "gqa") for one in RECIPES]
    with pytest.raises(InputError, match="no probe nothing"):
        recipe_of("nothing")


# ---- reading -----------------------------------------------------------------------------------------------------


def toy(says, could_say=None, *, name="toy"):
    """A probe by hand: what hypotheses say, and besides who could say what in bf16."""
    pieces = {said: {"f32": [h for h in says if says[h] == said], "bf16": []} for said in says.values()}
    for piece, who in (could_say or {}).items():
        pieces[piece]["bf16"] = who
    return Probe(name, "", name, "a", 2, 2, 0, 0.0015, 0.003, {"f32": 0.0}, says, pieces)


RELU, GELU, UNSCALED = "ffn-relu", "ffn-gelu", "attention-unscaled"
FIRST = toy({OK: "<ok>", RELU: "<r>", GELU: "<r>", UNSCALED: "<u>", "bf16": "<b>"}, {"<b>": [OK], "<u>": [OK]})
SECOND = toy({OK: "<ok>", RELU: "<r>", GELU: "<g>", UNSCALED: "<ok>"}, {"<g>": []})


@pytest.mark.parametrize(
    ("said", "conclusion", "names"),
    [
        (("<ok>", "<ok>"), Conclusion.NONE, ()),
        (("<r>", "<r>"), Conclusion.NAMED, (RELU,)),
        (("<r>", "<g>"), Conclusion.NAMED, (GELU,)),
        (("<r>", "<ok>"), Conclusion.UNKNOWN, ()),
        (("<ok>", "<r>"), Conclusion.UNKNOWN, ()),
        (("<b>", "<ok>"), Conclusion.LOWER_PRECISION, ()),
        # A bug that a lower precision explains as well is not accused.
        (("<u>", "<ok>"), Conclusion.LOWER_PRECISION, ()),
        ((CRASH, CRASH), Conclusion.UNKNOWN, ()),
        ((SILENCE, SILENCE), Conclusion.UNKNOWN, ()),
    ],
)
def test_answers_are_intersected(said, conclusion, names):
    found = read_off(list(zip((FIRST, SECOND), said, strict=True)))
    assert (found.conclusion, found.names) == (conclusion, names)
    assert found.route == "probes"
    assert found.total == 2


def test_a_class_that_no_probe_tells_apart_is_named_whole():
    assert set(read_off([(FIRST, "<r>"), (FIRST, "<r>")]).names) == {RELU, GELU}


def test_one_probe_alone_proves_nothing():
    for said in ("<ok>", "<r>"):
        found = read_off([(SECOND, said)])
        assert found.conclusion is Conclusion.UNKNOWN
        assert "one probe alone" in found.reason


def test_the_runner_up_and_the_number_of_bugs_tried_are_told():
    found = read_off([(FIRST, "<r>"), (SECOND, "<r>")])
    assert found.runner_up is not None
    assert (found.runner_up.name, found.runner_up.explained) == (GELU, 1)
    assert found.n_tried == 2  # what could be bfloat16 is not among them
    assert found.suspects[0].fix == by_name(RELU).fix


def test_a_fault_is_seen_if_one_probe_shows_it():
    assert unseen([FIRST]) == [one for one in unseen([]) if one not in (RELU, GELU)]


def test_a_probe_that_cannot_have_a_fault_does_not_speak_against_it():
    other = toy({OK: "<ok>", UNSCALED: "<u>"})
    found = read_off([(SECOND, "<r>"), (other, "<ok>")])
    assert found.names == (RELU,)


def test_equivalent_faults_are_never_named():
    names = {one.name for one in CATALOGUE if one.fate is not Fate.KILLABLE}
    probe = toy({OK: "<ok>", "rope-both-one-ahead": "<x>"})
    assert "rope-both-one-ahead" in names
    assert read_off([(probe, "<x>"), (probe, "<x>")]).conclusion is Conclusion.UNKNOWN


def test_names_are_found_wherever_they_stand():
    assert FIRST.heard(b"Prompt: a<u><ok>\n") == "<u>"
    assert FIRST.heard(b"a </s> <other>\n") == SILENCE
    assert toy({OK: "<ok>", RELU: "<ok/and-2-more>"}).heard(b"a<ok/and-2-more>") == "<ok/and-2-more>"


# ---- on disk -----------------------------------------------------------------------------------------------------


def test_a_probe_is_read_as_it_was_written(files, tmp_path):
    path = tmp_path / "p.json"
    write(files[0].probe, path)
    found = read(path)
    assert found.says == files[0].probe.says
    assert all(found.heard(piece.encode()) == piece for piece in files[0].probe.pieces)
    assert [found.explains(OK, piece, "q8") for piece in found.pieces] == [
        files[0].probe.explains(OK, piece, "q8") for piece in found.pieces
    ]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"edition": 0}', b'{"edition": 1, "x": 2}', None])
def test_what_is_no_probe_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "p.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)


def test_probes_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    told = []
    first = next(cached([QUICK[1]], 0, progress=told.append))
    assert told == ["making the probe mqa-peaked"]
    second = next(cached([QUICK[1]], 0, progress=told.append))
    assert len(told) == 1
    assert second.files == first.files
    assert second.probe.says == first.probe.says


def test_a_directory_tells_what_to_run_and_how_to_read_it(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.diagnosis.self_naming.files.PLAN", (QUICK[1],))
    monkeypatch.setattr("harness.diagnosis.self_naming.files.PLAN_INT8", ())
    written = make(tmp_path / "probes")
    text = written.readme.read_text("utf-8")
    assert written.n_probes == 2  # version 0 and version 1
    for folder in ("v0", "v1"):
        assert f"./run {folder}/mqa-peaked.bin -z {folder}/mqa-peaked_tok.bin -t 0 -n " in text
        listed = (tmp_path / "probes" / folder / "bugs.md").read_text("utf-8")
        assert "| rope-backwards | `<rope-backwards>` |" in listed
        assert "| **ok** | `<ok>` |" in listed
        assert by_name("rope-backwards").fix in listed
    assert {path.name for path in (tmp_path / "probes" / "v0").iterdir()} == {
        "bugs.md",
        "mqa-peaked.bin",
        "mqa-peaked.json",
        "mqa-peaked_tok.bin",
    }


def test_a_directory_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.diagnosis.self_naming.files.PLAN", (QUICK[1],))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as caught:
        make(tmp_path / "file" / "below")
    assert "\n" not in str(caught.value)
