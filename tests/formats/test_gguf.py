"""gguf: a header worked by hand, round trips of every architecture, the gguf package's view, headers that lie."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import gguf as oracle
import numpy as np
import pytest
from hypothesis import given, settings

from harness import checkpoint
from harness.checkpoint import Checkpoint, expected_shapes
from harness.engine import Engine
from harness.errors import CheckpointError
from harness.formats import gguf, gguf_file, gguf_forward, gguf_types
from harness.formats.format import WriteOptions
from harness.model_config import PHI_2, Block, ModelConfig, RopeScaling
from harness.quant import QuantTensor, quantize_weights
from tests.derived_models import published
from tests.strategies import checkpoints

LLAMA3 = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
CONFIGS = {
    "llama": ModelConfig(12, 20, 2, 6, 2, 9, 16),
    "untied": ModelConfig(24, 20, 2, 6, 2, 9, 16, is_tied=False, norm_eps=1e-6, rope_theta=1e6),
    "llama-3.1": ModelConfig(12, 20, 1, 3, 1, 9, 16, rope_theta=500000.0, rope_scaling=LLAMA3, head_size=128),
    "linear": ModelConfig(12, 20, 1, 3, 1, 9, 16, rope_scaling=RopeScaling("linear", 4.0)),
    "mistral": ModelConfig(24, 20, 2, 3, 1, 9, 16, block=Block(window=16)),  # which is no shorter than the context
    "qwen2": ModelConfig(24, 20, 2, 3, 1, 9, 16, block=Block(qkv_bias=True)),
    "qwen3": ModelConfig(12, 20, 2, 3, 1, 9, 16, head_size=8, block=Block(qk_norm=True)),
    "phi2": ModelConfig(24, 20, 2, 3, 3, 9, 16, is_tied=False, block=replace(PHI_2, rotary_dim=4)),
}


def random_checkpoint(config: ModelConfig) -> Checkpoint:
    random = np.random.default_rng(3)
    shapes = expected_shapes(config)
    return Checkpoint(
        config, {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    )


def assert_same(actual: Checkpoint, expected: Checkpoint) -> None:
    assert actual.config == expected.config
    assert list(actual.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert actual.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(actual.tensors[name], tensor, err_msg=name)


def written(tmp_path: Path, config: ModelConfig = CONFIGS["llama"], **options: object) -> Path:
    path = tmp_path / "model.gguf"
    gguf.write(random_checkpoint(config), path, WriteOptions(**options))  # type: ignore[arg-type]
    return path


# ---- worked by hand


def test_a_file_of_two_keys_and_one_tensor(tmp_path):
    path = tmp_path / "small.gguf"
    gguf_file.write(
        path, {"a": "hé", "b": [1, 2] and np.array([1, -2], "<i2")}, [("t", (2, 3), gguf_types.F32)],
        lambda name: [np.arange(6, dtype="<f4")],
    )  # fmt: skip
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    head += struct.pack("<Q1sIQ3s", 1, b"a", 8, 3, "hé".encode())
    head += struct.pack("<Q1sIIQ2h", 1, b"b", 9, 3, 2, 1, -2)
    head += struct.pack("<Q1sIQQIQ", 1, b"t", 2, 3, 2, 0, 0)  # sizes innermost first, type F32, offset 0
    head += bytes(-len(head) % 32)
    data = struct.pack("<6f", *range(6)) + bytes(8)
    assert path.read_bytes() == head + data
    read = gguf_file.read(path)
    assert read.metadata["a"] == "hé"
    assert read.entries["t"].shape == (2, 3)
    assert read.entries["t"].offset == len(head)


def test_qwen2_keeps_rotated_pairs_half_a_head_apart(tmp_path):
    config = ModelConfig(4, 4, 1, 1, 1, 2, 8, block=Block(qkv_bias=True))
    made = random_checkpoint(config)
    made.tensors["layers.0.wq_bias"][:] = [0, 10, 1, 11]  # pairs (0, 10) and (1, 11)
    gguf.write(made, tmp_path / "q.gguf", WriteOptions())
    file = gguf_file.read(tmp_path / "q.gguf")
    assert file.raw("blk.0.attn_q.bias").view("<f4").tolist() == [0, 1, 10, 11]


# ---- round trips


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_is_read_back_as_it_was(tmp_path, name):
    assert_same(gguf.read(written(tmp_path, CONFIGS[name])), random_checkpoint(CONFIGS[name]))


@given(made=checkpoints())
@settings(max_examples=50)
def test_random_checkpoints_are_read_back_as_they_were(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    gguf.write(made, path, WriteOptions())
    assert_same(gguf.read(path), made)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "q8_0", "q4_0"])
def test_matrices_are_stored_in_the_type_asked_for_and_vectors_are_not(tmp_path, dtype):
    config = ModelConfig(64, 96, 2, 4, 2, 33, 16)
    made = random_checkpoint(config)
    read = gguf.read(written(tmp_path, config, dtype=dtype))
    encoding = next(one for one in gguf_types.BY_CODE.values() if one.word == dtype)
    for name, tensor in made.tensors.items():
        stored = read.tensors.source(name).dtype  # type: ignore[attr-defined]
        assert stored == (dtype if tensor.ndim == 2 else "float32"), name
        bound = gguf_types.error_bound(tensor, encoding) if tensor.ndim == 2 else 0
        assert (np.abs(read.tensors[name].astype(np.float64) - tensor) <= bound).all(), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "q8_0", "q4_0"])
def test_a_narrow_file_is_written_again_as_it_is(tmp_path, dtype):
    path = written(tmp_path, ModelConfig(64, 96, 2, 4, 2, 33, 16, block=Block(qkv_bias=True)), dtype=dtype)
    again = tmp_path / "again.gguf"
    gguf.write(gguf.read(path), again, WriteOptions())
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("group_size", [32, 64, 96])
def test_int8_codes_in_groups_of_whole_blocks_stay_and_their_scales_become_float16(tmp_path, group_size):
    config = ModelConfig(192, 384, 1, 4, 2, 33, 16)  # groups of 96 and 64 cross no row
    made = random_checkpoint(config)
    codes = {
        name: quantize_weights(tensor, group_size) if tensor.ndim == 2 else tensor
        for name, tensor in made.tensors.items()
    }
    gguf.write(Checkpoint(config, codes), tmp_path / "m.gguf", WriteOptions(dtype="q8_0"))
    file = gguf_file.read(tmp_path / "m.gguf")
    expected = codes["layers.0.w_down"]
    blocks = file.raw("blk.0.ffn_down.weight").reshape(-1, 34)
    assert np.array_equal(blocks[:, 2:].view(np.int8).reshape(expected.shape), expected.codes)
    scales = np.repeat(expected.scales.astype("<f2"), group_size // 32)
    assert np.array_equal(np.ascontiguousarray(blocks[:, :2]).view("<f2").ravel(), scales)
    for name, tensor in gguf.read(tmp_path / "m.gguf").tensors.items():
        before = codes[name].dequantize() if isinstance(codes[name], QuantTensor) else codes[name]
        assert (np.abs(tensor - before) <= np.abs(before) * 2.0**-11).all(), name


def test_an_int8_scale_beyond_float16_is_refused_by_the_tensors_name(tmp_path):
    made = random_checkpoint(ModelConfig(32, 32, 1, 1, 1, 9, 16))
    made.tensors["layers.0.wo"] = quantize_weights(made.tensors["layers.0.wo"] * np.float32(1e8), 32)
    with pytest.raises(CheckpointError, match=r"layers\.0\.wo cannot be stored: a scale .* beyond float16"):
        gguf.write(made, tmp_path / "m.gguf", WriteOptions(dtype="q8_0"))
    assert not (tmp_path / "m.gguf").exists()


def test_a_window_that_is_shorter_than_the_context_is_read_and_not_written(tmp_path):
    config = replace(CONFIGS["mistral"], block=Block(window=15))
    with pytest.raises(CheckpointError, match="attends to the whole context, not to the last 15 of 16 positions"):
        gguf.write(random_checkpoint(config), tmp_path / "no.gguf", WriteOptions())
    assert not (tmp_path / "no.gguf").exists()
    file = gguf_file.read(written(tmp_path, CONFIGS["mistral"]))
    entries = [(name, entry.shape, entry.encoding) for name, entry in file.entries.items()]
    metadata = {**file.metadata, "llama.attention.sliding_window": 15}
    gguf_file.write(tmp_path / "short.gguf", metadata, entries, lambda name: [file.raw(name)])
    assert_same(gguf.read(tmp_path / "short.gguf"), random_checkpoint(config))
    own = gguf_forward.own_logits(tmp_path / "short.gguf", range(9))
    assert np.allclose(own, Engine(config, random_checkpoint(config).tensors, dtype=np.float64).logits(range(9)))


def test_phi2_with_q_k_and_v_in_one_tensor_is_read(tmp_path):
    config = CONFIGS["phi2"]
    path = written(tmp_path, config)
    file = gguf_file.read(path)
    entries, parts = [], {}
    for name, entry in file.entries.items():
        if any(part in name for part in ("attn_k.", "attn_v.")):
            continue
        fused = name.replace("attn_q.", "attn_qkv.")
        pieces = (
            [name, name.replace("attn_q.", "attn_k."), name.replace("attn_q.", "attn_v.")]
            if fused != name
            else [name]
        )
        n_rows = sum(file.entries[piece].shape[0] for piece in pieces)
        entries.append((fused, (n_rows, *entry.shape[1:]), entry.encoding))
        parts[fused] = [file.raw(piece) for piece in pieces]
    joined = tmp_path / "fused.gguf"
    gguf_file.write(joined, file.metadata, entries, parts.__getitem__)
    assert_same(gguf.read(joined), random_checkpoint(config))


def test_llama_3_scaling_is_recognised_without_our_own_keys(tmp_path):
    config = CONFIGS["llama-3.1"]
    file = gguf_file.read(written(tmp_path, config))
    metadata = {key: value for key, value in file.metadata.items() if ".llama3." not in key}
    entries = [(name, entry.shape, entry.encoding) for name, entry in file.entries.items()]
    gguf_file.write(tmp_path / "foreign.gguf", metadata, entries, lambda name: [file.raw(name)])
    assert gguf.read(tmp_path / "foreign.gguf").config == config


# ---- by its own names


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_computation_by_the_file_s_own_names_gives_the_engine_s_logits(tmp_path, name, dtype):
    path = written(tmp_path, CONFIGS[name], dtype=dtype)
    read = gguf.read(path)
    ids = [1, 3, 2, 7, 8, 0, 4, 4, 5]
    engine = Engine(read.config, read.tensors, dtype=np.float64)
    logits = engine.session().extend(ids, all_logits=True)
    np.testing.assert_allclose(logits, gguf_forward.own_logits(path, ids), rtol=1e-6, atol=1e-6)


def test_rows_that_a_reader_and_a_writer_forget_to_renumber_show_there(tmp_path, monkeypatch):
    config = CONFIGS["qwen2"]
    for name in ("to_halves", "to_adjacent"):
        monkeypatch.setattr(gguf, name, lambda rows, head_dim, rotary_dim: rows)
    path = written(tmp_path, config)
    read = gguf.read(path)
    assert_same(read, random_checkpoint(config))  # the two agree with each other
    ids = [1, 3, 2, 7]
    logits = Engine(config, read.tensors, dtype=np.float64).session().extend(ids, all_logits=True)
    assert np.abs(logits - gguf_forward.own_logits(path, ids)).max() > 0.1


# ---- as others see it


@pytest.mark.parametrize("name", CONFIGS)
def test_the_gguf_package_reads_the_same(tmp_path, name):
    path = written(tmp_path, CONFIGS[name])
    theirs, ours = oracle.GGUFReader(path), gguf_file.read(path)
    assert [tensor.name for tensor in theirs.tensors] == list(ours.entries)
    for tensor in theirs.tensors:
        entry = ours.entries[tensor.name]
        assert tuple(tensor.shape)[::-1] == entry.shape
        assert (int(tensor.tensor_type), int(tensor.data_offset)) == (entry.encoding.code, entry.offset)
    for key, value in ours.metadata.items():
        assert theirs.fields[key].contents() == (value.tolist() if isinstance(value, np.ndarray) else value), key


@pytest.mark.parametrize("name", CONFIGS)
def test_tensor_names_are_those_of_the_gguf_package(tmp_path, name):
    file = gguf_file.read(written(tmp_path, CONFIGS[name]))
    architecture = next(
        key for key, value in oracle.MODEL_ARCH_NAMES.items() if value == file.metadata["general.architecture"]
    )
    known = {
        oracle.TENSOR_NAMES[tensor].format(bid=layer)
        for tensor in oracle.MODEL_TENSORS[architecture]
        for layer in range(2)
    }
    assert {stored.rsplit(".", 1)[0] for stored in file.entries} <= known


def test_what_the_gguf_package_writes_is_read(tmp_path):
    stories = checkpoint.read(published("stories260K.bin"))
    path = tmp_path / "theirs.gguf"
    writer = oracle.GGUFWriter(path, "llama")
    config = stories.config
    writer.add_context_length(config.seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["<unk>", b"\xff", "é"])
    mapping = oracle.get_tensor_name_map(oracle.MODEL_ARCH.LLAMA, config.n_layers)
    for name, tensor in stories.tensors.items():
        meta = META.get(name.rsplit(".", 1)[-1])
        stem = name.replace(name.rsplit(".", 1)[-1], meta)
        writer.add_tensor(mapping.get_name(stem) + ".weight", np.asarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = gguf.read(path)
    assert_same(read, stories)
    assert gguf_file.read(path).metadata["tokenizer.ggml.tokens"] == ["<unk>", "\udcff", "é"]


# Meta's names, which the gguf package translates.
META = {
    "tok_embedding": "tok_embeddings",
    "attn_norm": "attention_norm",
    "wq": "attention.wq",
    "wk": "attention.wk",
    "wv": "attention.wv",
    "wo": "attention.wo",
    "ffn_norm": "ffn_norm",
    "w_gate": "feed_forward.w1",
    "w_up": "feed_forward.w3",
    "w_down": "feed_forward.w2",
    "final_norm": "norm",
}


# ---- refused


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_rows_that_are_no_whole_blocks_are_float16_as_llama_cpp_stores_them(tmp_path, dtype):
    config = ModelConfig(64, 20, 1, 2, 1, 9, 16)  # of all matrices, only w_down has rows that are no multiple of 32
    path = written(tmp_path, config, dtype=dtype)
    stored = {name: entry.encoding.word for name, entry in gguf_file.read(path).entries.items()}
    assert stored.pop("blk.0.ffn_down.weight") == "float16"
    assert {word for name, word in stored.items() if not name.endswith("norm.weight")} == {dtype}
    before = random_checkpoint(config).tensors["layers.0.w_down"]
    after = gguf.read(path).tensors["layers.0.w_down"]
    np.testing.assert_array_equal(after, before.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(12, 20, 1, 3, 1, 9, 16, block=Block(is_gated=False)),
        ModelConfig(12, 20, 1, 3, 1, 9, 16, block=Block(rotary_dim=2)),
        ModelConfig(12, 20, 1, 3, 1, 9, 16, is_tied=True, block=PHI_2),
        ModelConfig(12, 20, 1, 3, 1, 9, 16, rope_scaling=LLAMA3, block=Block(qkv_bias=True)),
    ],
)
def test_blocks_that_llama_cpp_does_not_have_are_refused(tmp_path, config):
    assert gguf.FORMAT.refuses(config)
    with pytest.raises(CheckpointError, match="cannot hold"):
        written(tmp_path, config)


def test_other_architectures_are_refused_by_name(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().replace(struct.pack("<Q5s", 5, b"llama"), struct.pack("<Q5s", 5, b"mamba"), 1))
    with pytest.raises(CheckpointError) as caught:
        gguf.read(path)
    assert caught.value.actual == "'mamba'"


# ---- hostile


def test_every_truncation_is_refused(tmp_path):
    path = written(tmp_path, ModelConfig(2, 2, 1, 1, 1, 2, 2))
    content = path.read_bytes()
    end = gguf_file.read(path)
    last = max(entry.offset + entry.n_bytes for entry in end.entries.values())
    for length in range(last):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            gguf.read(path)


def edited(tmp_path: Path, old: bytes, new: bytes) -> Path:
    path = written(tmp_path)
    content = path.read_bytes()
    assert content.count(old) >= 1
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))
    return path


def sized(name: bytes, *rest: int) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(rest) - 1}Q", *rest)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"GGUF\3\0\0\0", b"GGUF\1\0\0\0", "version"),
        (b"GGUF\3\0\0\0", b"GGUF\0\0\0\3", "big-endian"),
        (struct.pack("<IQ", 3, 20), struct.pack("<IQ", 3, 1 << 60), "room for so many tensors"),
        (struct.pack("<QQ", 20, 15), struct.pack("<QQ", 20, 1 << 60), "room for so many keys"),
        (b"\x14\0\0\0\0\0\0\0general.archit", b"\x14\0\0\0\0\0\0\x40general.archit", "too long"),
        (b"general.architecture\x08", b"general.architecture\x0d", "unknown type"),
        (struct.pack("<Q5s", 5, b"llama"), struct.pack("<Q5s", 1 << 50, b"llama"), "cut short"),
        (b"llama.block_count\x04\0\0\0\2", b"llama.block_count\x04\0\0\0\3", "missing"),
        (b"block_count\x04\0\0\0\2\0\0\0", b"block_count\x04\0\0\0\xff\xff\xff\xff", "out of range"),
        (b"context_length\x04\0\0\0\x10\0\0\0", b"context_length\x04\0\0\0\0\0\0\x10", "out of range"),
        (b"head_count\x04\0\0\0\6", b"head_count\x04\0\0\0\5", "contradicts"),
        (b"llama.embedding_length", b"llama.embedding_lengtX", "is missing"),
        (sized(b"token_embd.weight", 2, 12, 9), sized(b"token_embd.weight", 5, 12, 9), "rank"),
        (sized(b"token_embd.weight", 2, 12, 9), sized(b"token_embd.weight", 2, 12, 1 << 62), "sizes"),
        (sized(b"token_embd.weight", 2, 12, 9), sized(b"token_embd.weight", 2, 0, 9), "sizes"),
        (sized(b"token_embd.weight", 2, 12, 9), sized(b"token_embd.weight", 2, 12, 1 << 40), "cut short"),
        (sized(b"token_embd.weight", 2, 12, 9), sized(b"token_embd.weight", 2, 12, 40), "overlap"),
        (sized(b"token_embd.weight", 2, 12, 9), sized(b"token_embd.weight", 2, 9, 12), "wrong shape"),
        (sized(b"blk.0.ffn_norm.weight", 1, 12), sized(b"blk.1.ffn_norm.weight", 1, 12), "twice"),
        (sized(b"blk.0.ffn_norm.weight", 1, 12), sized(b"blk.0.ffn_mean.weight", 1, 12), "missing"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_one_clear_error(tmp_path, old, new, words):
    path = edited(tmp_path, old, new)
    with pytest.raises(CheckpointError, match=words):
        gguf.read(path)


@pytest.mark.parametrize(("kind", "words"), [(99, "of a type that is not read"), (8, "whole blocks")])
def test_tensors_of_other_types_are_refused(tmp_path, kind, words):
    head = sized(b"output_norm.weight", 1, 12)
    path = edited(tmp_path, head + struct.pack("<I", 0), head + struct.pack("<I", kind))
    with pytest.raises(CheckpointError, match=words):
        gguf.read(path)


def test_offsets_must_be_aligned(tmp_path):
    path = written(tmp_path)
    entry = gguf_file.read(path).entries["output_norm.weight"]
    data = min(one.offset for one in gguf_file.read(path).entries.values())
    head = sized(b"output_norm.weight", 1, 12) + struct.pack("<I", 0)
    content = path.read_bytes()
    old, new = (head + struct.pack("<Q", entry.offset - data + shift) for shift in (0, 4))
    path.write_bytes(content.replace(old, new))
    with pytest.raises(CheckpointError, match="not aligned"):
        gguf.read(path)


def test_arrays_nested_without_end_are_refused(tmp_path):
    path = tmp_path / "deep.gguf"
    path.write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sI", 1, b"a", 9) + struct.pack("<IQ", 9, 1) * 100_000
    )
    with pytest.raises(CheckpointError, match="nested too deeply"):
        gguf_file.read(path)


def test_other_factors_than_llama_3s_are_refused(tmp_path):
    config = CONFIGS["llama-3.1"]
    path = written(tmp_path, config)
    entry = gguf_file.read(path).entries["rope_freqs.weight"]
    content = bytearray(path.read_bytes())
    content[entry.offset : entry.offset + 4] = struct.pack("<f", 3.0)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="Llama 3's scaling"):
        gguf.read(path)
