"""The embedded llama-3 model: its files hold what training wrote, as the harness reads them."""

import itertools
import json

import numpy as np
import pytest

from harness import formats
from training import byte_level, llama3, stories
from training.models import OUT

HERE = OUT / llama3.NAME
TEXTS = [
    "",
    " ",
    "  two  spaces  \t\n\n\n x",
    "Zoë saw a 🦙 and 1234567 crêpes",
    "It's THEY'VE o'clock 'em",
    "tab\tand\r\nnewline\r\n\r\n  indented",
    "日本語 and łódź, e\u0301 is two code points",
    "<|eot_id|> is text",
]


def test_no_file_is_larger_than_it_may_be():
    assert {path.name for path in HERE.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    assert all(path.stat().st_size <= 1_500_000 for path in HERE.iterdir())


def test_the_weights_are_bfloat16_and_nothing_else_is_in_the_file():
    raw = (HERE / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__")
    n_values = sum(int(np.prod(entry["shape"])) for entry in header.values())
    assert {entry["dtype"] for entry in header.values()} == {"BF16"}
    assert len(raw) == 8 + length + 2 * n_values
    assert n_values == sum(int(np.prod(shape)) for shape in llama3.CONFIG.shapes().values())


def test_the_harness_reads_the_weights_and_constants_that_were_written():
    found, weights = formats.read(HERE), llama3.read(HERE / "model.safetensors")
    config, scaling = found.config, llama3.CONFIG.rope_scaling
    assert (config.rope_theta, config.norm_eps, config.is_tied) == (500000.0, 1e-5, True)
    assert config.rope_scaling.kind == "llama3"
    assert (config.rope_scaling.factor, config.rope_scaling.original_context) == (scaling.factor, scaling.context)
    for name, tensor in found.tensors.items():
        layer, kind = name.split(".")[1:] if name.startswith("layers.") else (None, name)
        own = weights[kind] if layer is None else weights[kind][int(layer)]
        np.testing.assert_array_equal(tensor, own, err_msg=name)


def test_waves_of_every_kind_are_there():
    """Some frequencies are kept, one at least is mixed, some are slowed by the whole factor."""
    config = llama3.CONFIG
    plain = llama3.CONFIG.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    by = plain / llama3.scaled(plain, config.rope_scaling)
    assert (by == 1).sum() >= 2
    assert ((by > 1) & (by < config.rope_scaling.factor * (1 - 1e-9))).sum() >= 1
    assert np.isclose(by, config.rope_scaling.factor).sum() >= 2


def test_training_and_harness_encode_alike():
    ours, theirs = byte_level.read(HERE / "tokenizer.json"), formats.read_tokenizer(HERE)
    assert ours.vocab_size == theirs.vocab_size == llama3.CONFIG.vocab_size
    some = itertools.islice(stories.stories("book", 99), 6)
    texts = [story if isinstance(story, str) else " ".join(said for _, said in story) for story in some]
    for text in [*TEXTS, *texts]:
        assert ours.encode(text) == theirs.encode(text, bos=False), text[:60]
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("name", ["begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id"])
def test_special_pieces_have_the_ids_that_training_gave_them(name):
    ours, theirs = byte_level.read(HERE / "tokenizer.json"), formats.read_tokenizer(HERE)
    assert theirs.id_of(f"<|{name}|>") == ours.special(name)


def test_the_vocabulary_is_learned_again_as_it_was():
    assert llama3.vocabulary() == byte_level.read(HERE / "tokenizer.json")


@pytest.mark.parametrize("value", [1.0, -2.5, 3.14159265, 1e-30, 65504.0])
def test_bfloat16_rounds_to_nearest(value):
    bits = llama3.bfloat16(np.array([value], np.float32))
    found, exact = float(llama3.widened(bits)[0]), float(np.float32(value))
    neighbours = [float(llama3.widened(bits + np.array([step], "<i2").astype("<u2"))[0]) for step in (-1, 1)]
    assert all(abs(found - exact) <= abs(one - exact) for one in neighbours)
