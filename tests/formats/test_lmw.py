"""lmw: the worked example byte for byte, round trips of both layouts, the tokenizer inside, damaged files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from harness import checkpoint, formats, tokenizer
from harness.checkpoint import Checkpoint, expected_shapes
from harness.errors import CheckpointError, TokenizerError
from harness.formats import lmw, lmw_file
from harness.formats.format import WriteOptions
from harness.formats.lmw_file import Params, Record
from harness.model_config import Block, ModelConfig, RopeScaling
from harness.tokenizer import tiktoken_ranks
from tests.derived_models import published
from tests.strategies import checkpoints
from tests.tokenizer.vocabularies import learn, rank_file

# Model `demo`, tokenizer `abc`, one matrix twice (plain, and transposed), and a bfloat16 vector: what the format's
# own writer makes of them.
WORKED_EXAMPLE = bytes.fromhex(
    "6c756d69 01000000 08000000 64656d6f 20202020 02000000 01000000 01000000"
    "01000000 04000000 03000000 10000000 00401c46 acc52737 03000000 61626300"
    "18000000 746f6b5f 656d6265 6464696e 67732e77 65696768 74202020 02000000"
    "03000000 02000000 00000000 84000000 0000803f 00000040 00004040 00008040"
    "0000a040 0000c040 10000000 6f757470 75742e77 65696768 74202020 02000000"
    "03000000 02000000 01000000 84000000 0000803f 00004040 0000a040 00000040"
    "00008040 0000c040 0c000000 6e6f726d 2e776569 67687420 01000000 02000000"
    "00000000 75000000 803f003f"
)
MATRIX = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
CONFIG = ModelConfig(12, 20, 2, 6, 2, 9, 16, rope_theta=500000.0, is_tied=False)


def random_checkpoint(config: ModelConfig) -> Checkpoint:
    random = np.random.default_rng(3)
    tensors = {name: random.standard_normal(shape) for name, shape in expected_shapes(config).items()}
    return Checkpoint(config, {name: tensor.astype(np.float32) for name, tensor in tensors.items()})


def write(layout: str, made: Checkpoint, path: Path, **options: object) -> Path:
    lmw.write(layout, made, path, WriteOptions(**options))  # type: ignore[arg-type]
    return path


def assert_same(actual: Checkpoint, expected: Checkpoint) -> None:
    assert actual.config == expected.config
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(actual.tensors[name], tensor, err_msg=name)


# ---- worked by hand


def test_the_worked_example_is_written_byte_for_byte(tmp_path):
    records = [
        Record("tok_embeddings.weight", (3, 2), False, "float32", [MATRIX]),
        Record("output.weight", (3, 2), True, "float32", [MATRIX.T]),
        Record("norm.weight", (2,), False, "bfloat16", [np.array([0x3F80, 0x3F00], "<u2")]),
    ]
    with open(tmp_path / "demo.lmw", "wb") as file:
        params = Params(2, 1, 1, 1, 4, 3, 16, 10000.0, 1e-5)
        assert list(lmw_file.write(file, "C", params, records, "demo", b"abc")) == [0x88, 0xC8, 236]
    assert (tmp_path / "demo.lmw").read_bytes() == WORKED_EXAMPLE


def test_the_worked_example_is_read(tmp_path):
    path = tmp_path / "demo.lmw"
    path.write_bytes(WORKED_EXAMPLE)
    file = lmw_file.read(path)
    assert (file.layout, file.model, file.tokenizer) == ("C", "demo", b"abc")
    assert file.params == Params(2, 1, 1, 1, 4, 3, 16, 10000.0, float(np.float32(1e-5)))
    np.testing.assert_array_equal(file.tensors["tok_embeddings.weight"].values(), MATRIX)
    np.testing.assert_array_equal(file.tensors["output.weight"].values(), MATRIX)
    assert file.tensors["norm.weight"].values().tolist() == [1.0, 0.5]


def test_layout_a_has_no_name_no_tokenizer_and_no_flags(tmp_path):
    with open(tmp_path / "a.lmw", "wb") as file:
        records = [Record("norm.weight", (2,), False, "float32", [np.array([1.0, 0.5], "<f4")])]
        list(lmw_file.write(file, "A", Params(2, 1, 1, 1, 4, 3, 16, 10000.0, 1e-5), records))
    content = (tmp_path / "a.lmw").read_bytes()
    assert content[:8] == WORKED_EXAMPLE[:8]
    assert content[8:44] == WORKED_EXAMPLE[0x14:0x38]
    assert content[44:] == WORKED_EXAMPLE[0xC8:0xE0] + struct.pack("<2f", 1.0, 0.5)
    assert lmw_file.read(tmp_path / "a.lmw").layout == "A"


# ---- round trips


@pytest.mark.parametrize("layout", ["A", "C"])
@given(made=checkpoints())
@settings(max_examples=40)
def test_checkpoints_are_read_back_as_they_were(tmp_path_factory, layout, made):
    path = write(layout, made, tmp_path_factory.mktemp("lmw") / "m.lmw")
    read = lmw.read(path)
    assert read.format == f"lmw-{layout.lower()}"
    assert_same(read, made)


def test_stories_260k_is_the_same_in_both_layouts(tmp_path):
    stories = checkpoint.read(published("stories260K.bin"))
    assert_same(lmw.read(write("A", stories, tmp_path / "a.lmw")), stories)
    path = write("C", stories, tmp_path / "c.lmw")
    assert_same(lmw.read(path), stories)
    assert lmw_file.read(path).params.multiple_of == 4  # as it was trained
    assert len(lmw_file.read(tmp_path / "a.lmw").tensors) == 48  # layout A has a classifier always


def test_bfloat16_is_kept_bit_for_bit(tmp_path):
    made = random_checkpoint(CONFIG)
    once = write("C", made, tmp_path / "once.lmw", dtype="bfloat16")
    again = tmp_path / "again" / "once.lmw"  # the model's name is the file's
    again.parent.mkdir()
    write("C", lmw.read(once), again)
    assert again.read_bytes() == once.read_bytes()
    for name, tensor in made.tensors.items():
        bound = np.abs(tensor) * 2.0**-8 if tensor.ndim == 2 else 0
        assert (np.abs(lmw.read(once).tensors[name] - tensor) <= bound).all()


def test_qwen_files_have_biases_and_rotated_pairs_half_a_head_apart(tmp_path):
    config = ModelConfig(4, 4, 1, 1, 1, 2, 8, is_tied=False, block=Block(qkv_bias=True))
    made = random_checkpoint(config)
    order = {"wq": [0, 2, 1, 3], "wk": [0, 2, 1, 3]}
    records = []
    for name, tensor in made.tensors.items():
        kind = name.rpartition(".")[2].removesuffix("_bias")
        rows = tensor[order[kind]] if kind in order else tensor
        records.append(Record(lmw._spelled(name), rows.shape, False, "float32", [rows]))
    with open(tmp_path / "q.lmw", "wb") as file:
        list(lmw_file.write(file, "C", Params(4, 1, 1, 1, 4, 2, 8, 10000.0, 1e-5), records, "qwen2-0.5b-instruct"))
    assert_same(lmw.read(tmp_path / "q.lmw"), made)


def test_the_tokenizer_comes_back_out(tmp_path):
    ours = tokenizer.read(published("tok512.bin"))
    stories = checkpoint.read(published("stories260K.bin"))
    read = lmw.read_tokenizer(write("C", stories, tmp_path / "c.lmw", tokenizer=ours))
    assert isinstance(read, tokenizer.Tokenizer)
    assert read.pieces == ours.pieces
    np.testing.assert_array_equal(read.scores, ours.scores)
    assert lmw.read_tokenizer(write("C", stories, tmp_path / "none.lmw")) is None


def test_the_tokenizer_of_a_larger_vocabulary_is_refused(tmp_path):
    ours = tokenizer.read(published("tok512.bin"))
    path = write("C", checkpoint.read(published("stories260K.bin")), tmp_path / "c.lmw", tokenizer=ours)
    assert formats.read_tokenizer(path, 512).vocab_size == 512
    with pytest.raises(TokenizerError, match="another vocabulary: expected at most 511 pieces, got 512"):
        formats.read_tokenizer(path, 511)


def test_ranks_come_back_out_too(tmp_path):
    ranks = tiktoken_ranks.read(rank_file(tmp_path / "ranks", learn(20)))
    made = random_checkpoint(ModelConfig(4, 4, 1, 1, 1, ranks.vocab_size, 8))
    read = lmw.read_tokenizer(write("C", made, tmp_path / "c.lmw", tokenizer=ranks))
    assert isinstance(read, tokenizer.ByteLevelTokenizer)
    assert read.pieces == ranks.pieces


# ---- refused


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(12, 20, 1, 3, 1, 9, 16, head_size=8),
        ModelConfig(12, 20, 1, 3, 1, 9, 16, block=Block(qkv_bias=True)),
        ModelConfig(12, 20, 1, 3, 1, 9, 16, rope_scaling=RopeScaling("linear", 2.0)),
    ],
)
def test_what_the_format_cannot_say_is_refused(tmp_path, config):
    with pytest.raises(CheckpointError, match="cannot hold"):
        write("C", random_checkpoint(config), tmp_path / "m.lmw")


# ---- hostile


def test_every_truncation_but_those_between_tensors_is_refused(tmp_path):
    path = tmp_path / "m.lmw"
    for length in range(len(WORKED_EXAMPLE)):
        path.write_bytes(WORKED_EXAMPLE[:length])
        if length in (0x40, 0x88, 0xC8):  # a file ends where it ends; the checkpoint then lacks tensors
            lmw_file.read(path)
        else:
            with pytest.raises(CheckpointError):
                lmw_file.read(path)
        with pytest.raises(CheckpointError):
            lmw.read(path)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0x04, 2, "version"),
        (0x38, 0xFFFFFFFF, "cut short"),
        (0x40, 0x7FFFFFFC, "length of a tensor's name"),
        (0x40, 23, "length of a tensor's name"),
        (0x5C, 0xFFFFFFFF, "rank"),
        (0x60, 0xFFFFFFFF, "cut short"),
        (0x68, 2, "flag"),
        (0x6C, 104, "type"),
        (0xDC + 4, 1, "flag"),
    ],
)
def test_numbers_that_lie_are_one_clear_error(tmp_path, at, value, words):
    content = bytearray(WORKED_EXAMPLE)
    struct.pack_into("<I", content, at, value)
    path = tmp_path / "m.lmw"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        lmw_file.read(path)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [(1, 1 << 30, "n_layers"), (2, 5, "contradicts"), (6, -1, "max_seq_len"), (0, 24, "shape")],
)
def test_parameters_that_do_not_fit_the_tensors_are_refused(tmp_path, field, value, words):
    path = write("C", random_checkpoint(CONFIG), tmp_path / "demo.lmw")
    content = bytearray(path.read_bytes())
    struct.pack_into("<i", content, 20 + 4 * field, value)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        lmw.read(path)


def test_layout_b_is_refused_by_name(tmp_path):
    path = tmp_path / "b.lmw"
    path.write_bytes(b"lumi" + struct.pack("<9i2f", 1, 2, 1 << 13, 1, 1, 1, 4, 3, 16, 1e4, 1e-5) + bytes(100))
    with pytest.raises(CheckpointError, match="May 2024"):
        lmw_file.read(path)
