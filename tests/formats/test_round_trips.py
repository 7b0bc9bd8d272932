"""Every ordered pair of formats that can hold a model: A to B to A is the same to the bit; lossy steps as stated."""

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import formats
from harness.checkpoint import Checkpoint, expected_shapes, shape_and_dtype
from harness.errors import CheckpointError, InputError
from harness.formats import FORMATS, WriteOptions
from harness.model_config import ModelConfig, RopeScaling
from harness.quant import QuantTensor, quantize_weights
from tests.strategies import checkpoints, family_checkpoints

FLOAT32 = [one for one in FORMATS if one.write and "float32" in one.dtypes]
NAMES = {one.name: one for one in FORMATS}


def bits(tensor):
    assert tensor.dtype == np.float32
    return np.ascontiguousarray(tensor).view(np.uint32)


def assert_same_bits(actual, expected):
    """Compare tensors; a classifier that became tied because it equals the embedding is the same."""
    for name, tensor in expected.tensors.items():
        found = actual.tensors[name if name in actual.tensors else "tok_embedding"]
        np.testing.assert_array_equal(bits(found), bits(tensor), err_msg=name)


def spelled_out(config):
    """None and the value that it stands for are one."""
    return replace(config, block=replace(config.block, rotary_dim=config.rotary_dim))


def place(directory, number, form):
    return Path(directory) / f"{number}{form.suffixes[0] if form.suffixes else ''}"


def path_through(made, directory, steps):
    for number, form in enumerate(steps):
        path = place(directory, number, form)
        formats.write(made, path, to=form.name)
        assert formats.detect(path).name == form.name
        made = formats.read(path)
        assert made.format == form.name
        made.validate()
    return made


def test_every_format_of_float32_is_here():
    assert {one.name for one in FLOAT32} >= {
        *("llama2c-v0", "llama2c-v1", "llama2c-pt", "meta", "npz", "safetensors"),
        *("huggingface", "huggingface-bin", "gguf", "lmw-a", "lmw-c"),
    }
    assert {one.name for one in FORMATS if one.write} - {one.name for one in FLOAT32} == {"llama2c-v2"}  # int8


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.product(FLOAT32, repeat=2)), ids=lambda form: getattr(form, "name", None)
)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=st.one_of(checkpoints(), family_checkpoints()))
def test_there_and_back_changes_no_bit(first, second, made):
    if first.refuses(made.config) or second.refuses(made.config):
        return
    with tempfile.TemporaryDirectory() as directory:
        back = path_through(made, directory, [first, second, first])
        assert spelled_out(replace(back.config, is_tied=made.config.is_tied)) == spelled_out(made.config)
        assert_same_bits(back, made)


@settings(max_examples=60, deadline=None)
@given(made=family_checkpoints())
def test_npz_holds_every_model_and_the_others_say_what_they_cannot(made):
    assert NAMES["npz"].refuses(made.config) is None
    for one in FORMATS:
        why = one.refuses(made.config) if one.write else None
        with tempfile.TemporaryDirectory() as directory:
            if why:
                with pytest.raises(CheckpointError, match="cannot hold this model"):
                    formats.write(made, Path(directory) / "model", to=one.name)
                assert not list(Path(directory).iterdir())


# ---- rounding


@pytest.mark.parametrize(("dtype", "oracle"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
@pytest.mark.parametrize("name", ["safetensors", "huggingface", "huggingface-bin", "llama2c-pt", "meta", "npz"])
def test_narrow_types_are_rounded_to_nearest_and_kept_when_converted_again(name, dtype, oracle, tmp_path):
    form = NAMES[name]
    if dtype not in form.dtypes:
        with pytest.raises(InputError, match="does not store"):
            formats.write(small(), tmp_path / "x", to=name, options=WriteOptions(dtype=dtype))
        return
    made = small()
    path = place(tmp_path, 1, form)
    formats.write(made, path, to=name, options=WriteOptions(dtype=dtype))
    read = formats.read(path)
    for tensor_name, tensor in made.tensors.items():
        assert shape_and_dtype(read.tensors, tensor_name) == (tensor.shape, dtype)
        np.testing.assert_array_equal(read.tensors[tensor_name], tensor.astype(oracle).astype(np.float32))
    again = place(tmp_path, 2, form)
    formats.write(read, again, to=name)
    if path.is_file():
        assert again.read_bytes() == path.read_bytes()
    wide = tmp_path / "wide.npz"
    formats.write(read, wide, options=WriteOptions(dtype="float32"))
    assert_same_bits(
        formats.read(wide), Checkpoint(read.config, {n: np.float32(read.tensors[n]) for n in read.tensors})
    )


def test_int8_of_any_source_is_the_exporters_rule(tmp_path):
    made = small()
    formats.write(made, tmp_path / "hf")
    formats.write(
        formats.read(tmp_path / "hf"), tmp_path / "q.bin", to="llama2c-v2", options=WriteOptions(group_size=4)
    )
    read = formats.read(tmp_path / "q.bin")
    wq = read.tensors["layers.1.wq"]
    expected = quantize_weights(made.tensors["layers.1.wq"], 4)
    assert isinstance(wq, QuantTensor)
    assert np.array_equal(wq.codes, expected.codes)
    assert np.array_equal(wq.scales, expected.scales)


def test_a_value_too_large_for_a_type_is_refused_by_the_tensors_name(tmp_path):
    made = small()
    made.tensors["layers.0.w_up"][1, 2] = 65520.0  # rounds to 65536, which float16 does not have
    with pytest.raises(CheckpointError, match=r"layers\.0\.w_up .*65520 is too large for float16"):
        formats.write(made, tmp_path / "m.safetensors", options=WriteOptions(dtype="float16"))
    assert not list(tmp_path.iterdir())


# ---- refusals


def small(**changes) -> Checkpoint:
    config = replace(ModelConfig(12, 20, 2, 6, 2, 9, 16), **changes)
    values = np.random.default_rng(1)
    return Checkpoint(
        config, {name: values.standard_normal(s).astype(np.float32) for name, s in expected_shapes(config).items()}
    )


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("llama2c-v0", {"rope_theta": 500000.0}, "rope_theta 500000"),
        ("llama2c-v2", {"norm_eps": 1e-6}, "norm_eps 1e-06"),
        ("llama2c-v1", {"head_size": 4}, "head_dim of 4"),
        ("llama2c-v0", {"rope_scaling": RopeScaling("linear", 2.0)}, "rope scaling 'linear'"),
        ("llama2c-pt", {"is_tied": False}, "classifier has weights of its own"),
        ("meta", {"head_size": 4}, "heads have 4 values"),
        ("meta", {"rope_scaling": RopeScaling("linear", 2.0)}, "one scaling"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_with_the_reason(name, changes, why, tmp_path):
    with pytest.raises(CheckpointError, match=why):
        formats.write(small(**changes), tmp_path / "model", to=name)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    from harness.tokenizer import Tokenizer

    five = Tokenizer((b"a", b"b", b"c", b"d", b"e"), np.zeros(5, np.float32))
    with pytest.raises(CheckpointError, match=r"another vocabulary: expected 9 pieces, got 5"):
        formats.write(small(), tmp_path / "m.npz", options=WriteOptions(tokenizer=five))


def test_suffixes_choose_formats_and_strange_ones_are_refused():
    chosen = {
        suffix: formats.format_for(Path(f"model{suffix}")).name for suffix in ("", ".bin", ".pt", ".safetensors")
    }
    assert chosen == {"": "huggingface", ".bin": "llama2c-v0", ".pt": "llama2c-pt", ".safetensors": "safetensors"}
    with pytest.raises(InputError, match=r"no format is written to files that end in \.txt"):
        formats.format_for(Path("model.txt"))
    with pytest.raises(InputError, match="there is no format ggml"):
        formats.format_named("ggml")


def test_a_directory_that_holds_no_model_says_what_one_has(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json and weights"):
        formats.read(tmp_path)
