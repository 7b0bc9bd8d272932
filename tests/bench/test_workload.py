"""Synthetic models: of exactly the shape, the same each time, never at an end, with texts that read in one way."""

import dataclasses
import shutil
import tracemalloc

import numpy as np
import pytest

from harness import checkpoint
from harness.bench import workload
from harness.bench.workload import SHAPES, find, group_size, make_synthetic, synthetic_tokenizer
from harness.engine import Engine, generate
from harness.errors import InputError
from harness.model_config import ModelConfig
from harness.models import load, locate
from harness.quant import quantize_weights

SMALL = ModelConfig(32, 48, 3, 4, 2, 400, 128)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_MODELS", raising=False)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("precision", ["f32", "q8"])
def test_a_synthetic_model_has_exactly_the_shape_in_the_container_of_its_precision(tmp_path, is_tied, precision):
    config = dataclasses.replace(SMALL, is_tied=is_tied)
    files = make_synthetic("small", config, precision, directory=tmp_path)
    model = load(files.checkpoint, files.tokenizer)
    assert model.checkpoint.config == config
    assert model.checkpoint.format == files.format == {"f32": "llama2c-v0", "q8": "llama2c-v2"}[precision]
    assert model.checkpoint.group_size == {"f32": None, "q8": 16}[precision]
    assert files.sha256 == checkpoint.sha256_of(files.checkpoint)
    assert files.name.startswith("synthetic")


def test_a_synthetic_model_is_made_once_and_is_the_same_everywhere(tmp_path):
    first = make_synthetic("small", SMALL, directory=tmp_path / "a")
    again = make_synthetic("small", SMALL, directory=tmp_path / "a")
    other = make_synthetic("small", SMALL, directory=tmp_path / "b")
    assert first.checkpoint.stat().st_mtime_ns == again.checkpoint.stat().st_mtime_ns
    assert first.sha256 == again.sha256 == other.sha256


def test_a_remembered_hash_is_forgotten_with_its_file(tmp_path):
    files = make_synthetic("small", SMALL, directory=tmp_path)
    files.checkpoint.write_bytes(b"something else")
    assert make_synthetic("small", SMALL, directory=tmp_path).sha256 == checkpoint.sha256_of(files.checkpoint)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("prompt", [b"", b"hello", b"the quick brown fox"])
def test_greedy_decoding_never_meets_a_stop_nor_a_piece_that_is_not_its_own_spelling(tmp_path, is_tied, prompt):
    config = dataclasses.replace(SMALL, is_tied=is_tied)
    files = make_synthetic("small", config, directory=tmp_path)
    model = load(files.checkpoint, files.tokenizer)
    ids = model.tokenizer.encode(prompt)
    engine = Engine(config, model.checkpoint.tensors, dtype=np.float64)
    out = list(generate(engine, ids, steps=config.seq_len))[len(ids) - 1 :]
    assert len(out) == config.seq_len - len(ids) + 1
    assert min(out) >= 259 + 27


def test_near_ties_are_rare_and_activations_of_order_one(tmp_path):
    files = make_synthetic("small", SMALL, directory=tmp_path)
    model = load(files.checkpoint, files.tokenizer)
    exact = Engine(SMALL, model.checkpoint.tensors, dtype=np.float64)
    plain = Engine(SMALL, model.checkpoint.tensors, dtype=np.float32)
    ids = [1, *generate(exact, [1], steps=100)]
    noise = np.abs(exact.logits(ids) - plain.logits(ids)).max()
    assert 0.1 < float(np.abs(exact.logits(ids)).mean()) < 10
    assert np.median(exact.top_two(ids, 1).margin) > 1000 * noise


def test_every_layer_matters_to_the_text(tmp_path):
    files = make_synthetic("small", SMALL, directory=tmp_path)
    tensors = load(files.checkpoint, files.tokenizer).checkpoint.tensors
    whole = list(generate(Engine(SMALL, tensors), [1, 265, 270], steps=40))
    shorter = dataclasses.replace(SMALL, n_layers=2)
    assert list(generate(Engine(shorter, tensors), [1, 265, 270], steps=40)) != whole


def test_a_prompt_of_n_letters_is_n_tokens_after_bos_and_the_space():
    tokenizer = synthetic_tokenizer(512)
    assert len(tokenizer.encode("abcdefghijklmnopqrstuvwxyz" * 3)) == 2 + 78


@pytest.mark.parametrize("vocab_size", [400, 512, 32000])
def test_pieces_are_unique_printable_and_of_one_length(vocab_size):
    pieces = synthetic_tokenizer(vocab_size).pieces[286:]
    assert len(set(pieces)) == len(pieces)
    assert all(len(p) == 4 and p.isascii() and p.isalpha() and p[:1].isupper() for p in pieces)


def test_the_largest_models_are_generated_without_holding_them():
    config = dataclasses.replace(SHAPES["1B"], n_layers=400)
    tracemalloc.start()
    noise = workload._Noise(config)
    assert noise["layers.399.w_gate"].shape == (5632, 2048)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6


@pytest.mark.parametrize(("name", "n_params"), [("260K", 260_032), ("15M", 15_191_712), ("110M", 109_529_856)])
def test_shapes_are_those_of_the_published_models(name, n_params):
    assert SHAPES[name].n_params == n_params


def test_what_a_token_reads_is_every_matrix_once():
    assert find("260K").token_bytes == 4 * SHAPES["260K"].n_params
    q8 = find("260K", "q8").token_bytes
    n = SHAPES["260K"].n_params - 11 * 64
    assert q8 == n + n // group_size(SHAPES["260K"]) * 4 + 4 * 11 * 64


@pytest.mark.parametrize("precision", ["f32", "q8"])
def test_a_model_that_is_not_at_hand_is_synthetic_and_says_so(precision):
    found = find("260K", precision)
    assert found.is_synthetic
    assert found.files.name == "synthetic-260K"
    assert found.config == SHAPES["260K"]


def test_a_model_by_its_own_name_is_taken_as_it_is_whatever_its_format():
    found = find("llama3")
    assert (found.name, found.is_synthetic, found.files.format) == ("llama3", False, "huggingface")
    assert found.config.rope_theta == 500000.0
    assert find("gqa-q8", "q8").files.checkpoint.name == "gqa-q8.bin"


def test_a_model_by_its_own_name_becomes_int8_by_the_exporters_rule():
    found = find("mha", "q8")  # rows of 70 and 182
    assert (found.files.format, found.is_synthetic) == ("llama2c-v2", False)
    again = checkpoint.read(found.files.checkpoint)
    assert again.group_size == group_size(again.config) == 2
    expected = quantize_weights(checkpoint.read(locate("mha").checkpoint).tensors["layers.1.wq"], 2)
    assert np.array_equal(again.tensors["layers.1.wq"].codes, expected.codes)


@pytest.mark.parametrize(
    ("name", "precision"),
    [("13B", "f32"), ("15M", "f16"), ("gqa", "f16"), ("gqa-q8", "f32"), ("llama3", "q8")],
)
def test_unknown_names_are_refused(name, precision):
    with pytest.raises(InputError):
        find(name, precision)


def test_no_vocabulary_smaller_than_the_bytes_is_made():
    with pytest.raises(InputError):
        synthetic_tokenizer(100)


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9))
    with pytest.raises(InputError) as caught:
        make_synthetic("7B", SHAPES["7B"], directory=tmp_path)
    message = str(caught.value)
    assert "no room on the disk for the synthetic 7B f32 model" in message
    assert "27.2 GB" in message
    assert "1.0 GB" in message
    assert "HARNESS_CACHE" in message
    assert not list(tmp_path.glob("*7B*"))


def test_writing_is_told_and_an_interruption_leaves_nothing(tmp_path):
    told = []

    def interrupted(what):
        told.append(what)
        if len(told) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_synthetic("small", SMALL, directory=tmp_path, told=interrupted)
    assert [path.name for path in tmp_path.iterdir() if "tokenizer" not in path.name] == []
    make_synthetic("small", SMALL, directory=tmp_path, told=told.append)
    assert told[0].startswith("writing small-f32-1.bin: 0.0 of 0.0 GB")
    assert told[-1] == "hashing small-f32-1.bin"


@pytest.mark.parametrize("precision", ["f32", "q8"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_the_size_of_a_file_is_known_before_it_is_written(tmp_path, precision, is_tied):
    config = dataclasses.replace(SMALL, is_tied=is_tied)
    files = make_synthetic("small", config, precision, directory=tmp_path)
    version, size = {"f32": (0, None), "q8": (2, group_size(config))}[precision]
    assert checkpoint.file_bytes(config, version=version, group_size=size) == files.checkpoint.stat().st_size


def test_a_synthetic_model_can_be_asked_for_where_the_real_one_is_at_hand(monkeypatch):
    monkeypatch.setattr(workload, "locate", lambda name: pytest.fail("nobody looks for the real one"))
    assert find("260K", synthetic=True).is_synthetic
