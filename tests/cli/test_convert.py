"""harness convert and harness inspect, as they are called."""

import json
from dataclasses import replace

import numpy as np
import pytest

from harness import checkpoint, formats, tokenizer
from harness.__main__ import main
from harness.checkpoint import Checkpoint
from harness.conversion.suspects import SUSPECTS
from harness.formats import WriteOptions
from harness.formats.rotary import to_adjacent, to_halves
from harness.models import golden_dir

GQA = golden_dir() / "models" / "gqa.bin"
WORDS = golden_dir() / "models" / "gqa-tok.bin"
# As the model itself goes on after its first words.
TEXT = ["--text", "Once upon a time, there was a little girl named Emma. She lived near the farm. It was a"]


def test_a_checkpoint_goes_to_hugging_face_and_back(tmp_path, capsys):
    assert main(["convert", str(GQA), str(tmp_path / "hf")]) == 0
    out, err = capsys.readouterr()
    assert "(llama2c-v0) -> " in out
    assert "tensors are the same, bit for bit" in out
    assert "and as computed by the own names of huggingface" in out
    assert "comparing logits" in err
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "back.bin"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    before, after = checkpoint.read(GQA), checkpoint.read(tmp_path / "back.bin")
    assert all(np.array_equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())


def test_types_and_groups_are_options(tmp_path, capsys):
    words = ["--to", "llama2c-v2", "--group-size", "4"]
    assert main(["convert", str(GQA), str(tmp_path / "q.bin"), *words, "--quiet"]) == 0
    assert "tensors rounded to int8, as stated" in capsys.readouterr().out
    assert checkpoint.read(tmp_path / "q.bin").group_size == 4


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["m.txt"], "no format is written to files that end in .txt; say --to, one of "),
        (["m.bin", "--to", "ggml"], "there is no format ggml; the formats are "),
        (["m.bin", "--dtype", "float8"], "--dtype: there is no such type: expected "),
        (["m.bin", "--dtype", "float16"], "llama2c-v0 does not store float16"),
        (["absent/m.npz"], "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(words, what, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["convert", str(GQA), *words, "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert what in err
    assert (out, err.count("\n")) == ("", 1)
    assert sorted(tmp_path.iterdir()) == before


def test_inspect_tells_what_a_file_is(capsys):
    assert main(["inspect", str(GQA), "--no-run", "--tensors"]) == 0
    out = capsys.readouterr().out
    assert f"{GQA}: llama2c-v0" in out
    assert "architecture  LlamaForCausalLM" in out
    assert "looks wrong   nothing" in out
    assert "  layers.0.wk " in out


def test_inspect_writes_json(tmp_path, capsys):
    formats.write(checkpoint.read(GQA), tmp_path / "m.safetensors", options=WriteOptions(dtype="float16"))
    assert main(["inspect", str(tmp_path / "m.safetensors"), "--json", "--no-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    config = checkpoint.read(GQA).config
    assert found["format"] == "safetensors"
    assert found["n_params"] == config.n_params
    assert set(found["stored"]) == {"float16"}
    assert found["bound"]["bytes_a_token"] == 2 * config.n_params
    assert found["bound"]["tokens_per_s"] > 0
    assert found["problems"] == []


def broken(name, tmp_path):
    """Write a model that was converted with a mistake."""
    found = checkpoint.read(GQA)
    if name == "wk-heads":
        config = found.config
        wrong = config.kv_dim // config.n_heads
        tensors = {
            each: to_adjacent(to_halves(t, config.head_dim, config.head_dim), wrong, wrong) if "wk" in each else t
            for each, t in found.tensors.items()
        }
        formats.write(replace(found, tensors=tensors), tmp_path / "m.bin")
        return str(tmp_path / "m.bin")
    undone_by = {"not-permuted": "permuted-twice"}.get(name, name)
    suspect = next(one for one in SUSPECTS if one.name == undone_by)
    formats.write(suspect.mend(found), tmp_path / "m.bin")
    return str(tmp_path / "m.bin")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("gate-up", "if gate and up are exchanged"),
        ("not-permuted", "if the rows of wq and wk are in halves, as Hugging Face has them"),
        ("wk-wv", "if wk and wv are exchanged"),
        ("wk-heads", "if wk was permuted in as many heads as wq has, where it has fewer"),
    ],
)
def test_inspect_names_what_was_done_to_a_file(name, what, tmp_path, capsys):
    assert main(["inspect", broken(name, tmp_path), "-z", str(WORDS), "--run", *TEXT]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("looks wrong")]
    assert what in lines[0]


def test_inspect_finds_nothing_wrong_with_a_right_model(capsys):
    assert main(["inspect", str(GQA), "-z", str(WORDS), "--run", *TEXT]) == 0
    out = capsys.readouterr().out
    assert "looks wrong   nothing" in out
    assert "made for other texts" not in out


def test_a_text_of_another_kind_is_no_mistake(capsys):
    assert main(["inspect", str(GQA), "-z", str(WORDS), "--run", "--text", "Zwei mal drei macht vier"]) == 0
    out = capsys.readouterr().out
    assert "looks wrong   nothing" in out
    assert "it was made for other texts (--text), or no known mistake explains it" in out


def test_inspect_sees_values_that_are_no_numbers(tmp_path, capsys):
    found = checkpoint.read(GQA)
    tensors = {name: np.array(tensor) for name, tensor in found.tensors.items()}
    tensors["layers.1.wo"][0, 3] = np.nan
    tensors["layers.0.w_up"][:] = 0
    formats.write(Checkpoint(found.config, tensors), tmp_path / "m.npz")
    assert main(["inspect", str(tmp_path / "m.npz"), "--no-run"]) == 0
    out = capsys.readouterr().out
    assert "looks wrong   tensor layers.1.wo has values that are no finite numbers" in out
    assert "looks wrong   tensor layers.0.w_up is zero where it was looked at" in out


def test_inspect_warns_of_runqs_left_out_activations(tmp_path, capsys):
    found = checkpoint.read(GQA)
    formats.write(found, tmp_path / "q.bin", to="llama2c-v2", options=WriteOptions(group_size=32))
    if found.config.hidden_dim % 32 == 0:
        pytest.fail("the model no longer shows it: choose another group size")
    assert main(["inspect", str(tmp_path / "q.bin"), "--no-run"]) == 0
    assert f"hidden_dim {found.config.hidden_dim} is no multiple of the group size 32" in capsys.readouterr().out


def test_inspect_needs_a_tokenizer_to_run(tmp_path, capsys):
    formats.write(checkpoint.read(GQA), tmp_path / "m.npz")
    assert main(["inspect", str(tmp_path / "m.npz"), "--run"]) == 2
    assert "no tokenizer is known that fits it; name one with -z" in capsys.readouterr().err


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path, capsys):
    config = replace(checkpoint.read(GQA).config, vocab_size=5)
    assert tokenizer.count_pieces(WORDS) != config.vocab_size
    small = {name: t[:5] if name == "tok_embedding" else t for name, t in checkpoint.read(GQA).tensors.items()}
    formats.write(Checkpoint(config, small), tmp_path / "m.bin")
    assert main(["convert", str(tmp_path / "m.bin"), str(tmp_path / "hf"), "-z", str(WORDS), "--quiet"]) == 2
    assert not (tmp_path / "hf").exists()
    assert "pieces" in capsys.readouterr().err
