"""convert: what it reports, what it catches and names, and that nothing appears that is wrong."""

import os
from dataclasses import replace

import numpy as np
import pytest

from harness import formats, models
from harness.checkpoint import Checkpoint, expected_shapes
from harness.conversion.convert import convert
from harness.errors import CheckpointError, TokenizerError
from harness.formats import WriteOptions, hf_names, huggingface, llama_names, torch_zip
from harness.model_config import PHI_2, Block, ModelConfig, RopeScaling

GQA = ModelConfig(24, 20, 2, 6, 2, 31, 16, is_tied=False)
MODELS = {
    "gqa": GQA,
    "mha": replace(GQA, dim=48, hidden_dim=48, n_heads=4, n_kv_heads=4),
    "llama-3.1": replace(GQA, rope_theta=500000.0, rope_scaling=RopeScaling("llama3", 8.0)),
    "mistral": replace(GQA, block=Block(window=3)),
    "qwen2": replace(GQA, block=Block(qkv_bias=True), norm_eps=1e-6),
    "qwen3": replace(GQA, head_size=8, block=Block(qk_norm=True)),
    "phi": replace(GQA, dim=36, block=replace(PHI_2, rotary_dim=4)),
}


def make(config=GQA, seed=1):
    values = np.random.default_rng(seed)
    shapes = expected_shapes(config)
    return Checkpoint(
        config, {name: (values.standard_normal(s) / 2).astype(np.float32) for name, s in shapes.items()}
    )


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.npz"
    formats.write(make(), path)
    return path


# ---- what is right


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_goes_through_hugging_face_and_is_checked_by_its_own_names(name, tmp_path):
    formats.write(make(MODELS[name]), tmp_path / "m.npz")
    there = convert(tmp_path / "m.npz", tmp_path / "hf")
    back = convert(tmp_path / "hf", tmp_path / "back.npz")
    assert there.by_own_names == back.by_own_names == ["huggingface"]
    assert there.roundings == back.roundings == []
    assert (there.largest, there.agreeing) == (0.0, len(there.ids))
    assert (tmp_path / "back.npz").read_bytes() == (tmp_path / "m.npz").read_bytes()


def test_rounding_is_reported_by_type(source, tmp_path):
    done = convert(source, tmp_path / "hf", options=WriteOptions(dtype="bfloat16"))
    (rounding,) = done.roundings
    assert (rounding.dtype, rounding.n_tensors) == ("bfloat16", len(expected_shapes(GQA)))
    assert 0 < rounding.largest <= 2**-8
    assert 0 < done.largest < 0.05


@pytest.mark.parametrize(("dtype", "bound"), [("q8_0", 1 / 127), ("q4_0", 1 / 7)])
def test_block_formats_are_held_against_their_own_bound(dtype, bound, tmp_path):
    formats.write(make(replace(GQA, dim=96, hidden_dim=64, n_heads=6, head_size=16)), tmp_path / "m.npz")
    done = convert(tmp_path / "m.npz", tmp_path / "m.gguf", options=WriteOptions(dtype=dtype))
    assert {one.dtype for one in done.roundings} == {dtype}
    assert all(0 < one.largest <= bound for one in done.roundings)


# ---- the tokenizer


@pytest.mark.parametrize(
    ("to", "files"),
    [
        ("huggingface", {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"}),
        ("huggingface-bin", {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"}),
        ("meta", {"tokenizer.model"}),
        ("gguf", None),
        ("lmw-c", None),
    ],
)
def test_the_tokenizer_goes_into_a_format_that_has_a_place_and_comes_back_as_a_file(to, files, tmp_path):
    gqa = models.locate("gqa")
    words = formats.read_tokenizer(gqa.tokenizer)
    done = convert(gqa.checkpoint, tmp_path / "there", to=to, options=WriteOptions(tokenizer=words))
    assert done.tokenizer == "the tokenizer is in it"
    if files:
        assert files < {path.name for path in (tmp_path / "there").iterdir()}
    back = convert(tmp_path / "there", tmp_path / "back.bin")
    assert back.tokenizer == f"the tokenizer is in {tmp_path / 'back-tok.bin'}"
    again = formats.read_tokenizer(tmp_path / "back-tok.bin")
    assert again.pieces == words.pieces
    np.testing.assert_array_equal(again.scores, words.scores)
    text = "Zoë saw  a 🦙.\n“Hello!”"
    assert again.encode(text) == words.encode(text)
    assert back.roundings == []


@pytest.mark.parametrize("to", ["huggingface", "gguf", "npz"])
def test_a_byte_level_tokenizer_goes_along(to, tmp_path):
    llama3 = models.locate("llama3")
    words = formats.read_tokenizer(llama3.checkpoint)
    done = convert(llama3.checkpoint, tmp_path / "there", to=to)
    inside = tmp_path / ("there-tok.json" if to == "npz" else "there")
    assert done.tokenizer == (f"the tokenizer is in {inside}" if to == "npz" else "the tokenizer is in it")
    again = formats.read_tokenizer(inside)
    assert (again.pieces, again.bos_id, again.eos_id) == (words.pieces, words.bos_id, words.eos_id)
    for text in ("Zoë's 12345  llamas\n\n <|eot_id|>", "", "日本"):
        assert again.encode(text) == words.encode(text)


def test_a_tokenizer_that_its_own_format_holds_and_the_other_cannot_is_left_out_and_told(tmp_path):
    """Unless it was asked for: then it must arrive."""
    llama3 = models.locate("llama3")
    plain = replace(formats.read(llama3.checkpoint).config, rope_theta=1e4, rope_scaling=None, vocab_size=624)
    words = formats.read_tokenizer(llama3.checkpoint)
    formats.write(make(plain), tmp_path / "hf", options=WriteOptions(tokenizer=words))
    done = convert(tmp_path / "hf", tmp_path / "m.lmw")
    assert done.tokenizer.startswith("the tokenizer is left out: a list of ranks cannot say")
    assert formats.detect(tmp_path / "m.lmw").read_tokenizer(tmp_path / "m.lmw") is None
    with pytest.raises(TokenizerError, match="a list of ranks cannot say"):
        convert(tmp_path / "hf", tmp_path / "other.lmw", options=WriteOptions(tokenizer=words))
    assert not (tmp_path / "other.lmw").exists()


def test_another_tokenizer_beside_the_result_is_not_replaced(tmp_path):
    gqa = models.locate("gqa")
    words = formats.read_tokenizer(gqa.tokenizer)
    (tmp_path / "m-tok.bin").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="another tokenizer is there already"):
        convert(gqa.checkpoint, tmp_path / "m.npz", options=WriteOptions(tokenizer=words))
    assert sorted(os.listdir(tmp_path)) == ["m-tok.bin"]
    (tmp_path / "m-tok.bin").write_bytes(gqa.tokenizer.read_bytes())
    convert(gqa.checkpoint, tmp_path / "m.npz", options=WriteOptions(tokenizer=words))
    assert sorted(os.listdir(tmp_path)) == ["m-tok.bin", "m.npz"]


# ---- what is wrong, and named


def swap_gate_and_up(monkeypatch):
    wrong = {"w_gate": hf_names._LLAMA["w_up"], "w_up": hf_names._LLAMA["w_gate"]}
    monkeypatch.setattr(hf_names, "_LLAMA", {**hf_names._LLAMA, **wrong})


@pytest.mark.parametrize("to", ["meta", "llama2c-pt"])
def test_gate_and_up_exchanged_in_metas_names_are_named(to, tmp_path, monkeypatch):
    formats.write(make(replace(GQA, is_tied=True)), tmp_path / "m.npz")
    assert convert(tmp_path / "m.npz", tmp_path / "right", to=to).by_own_names == [to]
    wrong = {"w_gate": "feed_forward.w3", "w_up": "feed_forward.w1"}
    monkeypatch.setattr(llama_names, "_KINDS", {**llama_names._KINDS, **wrong})
    with pytest.raises(CheckpointError, match=r"taken back.*gate and up are exchanged"):
        convert(tmp_path / "m.npz", tmp_path / "wrong", to=to)
    with pytest.raises(CheckpointError, match=r"own names.*gate and up are exchanged"):
        convert(tmp_path / "right", tmp_path / "again.npz")
    assert sorted(os.listdir(tmp_path)) == ["m.npz", "right"]


def as_it_is(rows, head_dim, rotary_dim):
    return rows


def leave_rows_written(monkeypatch):
    monkeypatch.setattr(huggingface, "to_halves", as_it_is)


def leave_all_rows(monkeypatch):
    leave_rows_written(monkeypatch)
    monkeypatch.setattr(huggingface, "to_adjacent", as_it_is)


INJECTED = {
    # In the reader and the writer alike: what was written is read back, and is wrong.
    "gate and up": (swap_gate_and_up, "gate and up are exchanged"),
    "no permutation": (
        leave_all_rows,
        "the permutation is missing",
    ),
    # In the writer alone: reading back shows it.
    "no permutation, writer": (
        leave_rows_written,
        "permut",
    ),
}


@pytest.mark.parametrize("name", INJECTED)
@pytest.mark.parametrize("to", ["huggingface", "huggingface-bin", "safetensors"])
def test_a_fault_of_the_writer_is_caught_and_named(name, to, source, tmp_path, monkeypatch):
    inject, what = INJECTED[name]
    inject(monkeypatch)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(CheckpointError, match="taken back.*" + what):
        convert(source, tmp_path / "out", to=to)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("name", ["gate and up", "no permutation"])
def test_a_fault_of_the_reader_is_caught_and_named(name, source, tmp_path, monkeypatch):
    convert(source, tmp_path / "hf")
    inject, what = INJECTED[name]
    inject(monkeypatch)
    with pytest.raises(CheckpointError, match=f"own names: .*{what}"):
        convert(tmp_path / "hf", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_a_reader_that_permutes_by_the_wrong_number_of_heads_is_named(source, tmp_path, monkeypatch):
    config = replace(GQA, dim=48, n_heads=4, n_kv_heads=2, hidden_dim=20, head_size=12)
    formats.write(make(config), tmp_path / "m.npz")
    convert(tmp_path / "m.npz", tmp_path / "hf")
    right = huggingface.to_adjacent

    def wrong(rows, head_dim, rotary_dim):
        if len(rows) == config.q_dim:
            return right(rows, head_dim, rotary_dim)
        return right(rows, len(rows) // config.n_heads, len(rows) // config.n_heads)

    monkeypatch.setattr(huggingface, "to_adjacent", wrong)
    with pytest.raises(CheckpointError, match="wk was permuted in as many heads as wq has"):
        convert(tmp_path / "hf", tmp_path / "out.npz")


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"norm_eps": 1e-5}, "norm_eps should be 1e-6"), ({"rope_theta": 10000.0}, "rope_theta should be 500000")],
)
def test_a_constant_that_is_lost_is_named(changes, what, tmp_path, monkeypatch):
    formats.write(make(replace(GQA, norm_eps=1e-6, rope_theta=500000.0)), tmp_path / "m.npz")
    convert(tmp_path / "m.npz", tmp_path / "hf")
    parse = huggingface.hf_config.parse
    monkeypatch.setattr(huggingface.hf_config, "parse", lambda *args: replace(parse(*args), **changes))
    with pytest.raises(CheckpointError, match=what):
        convert(tmp_path / "hf", tmp_path / "out.npz")


def test_a_tensor_exchanged_in_a_format_without_own_names_is_named_by_its_values(source, tmp_path, monkeypatch):
    right = torch_zip.write

    def wrong(path, tree, value_of, progress):
        exchanged = {"layers.1.w_gate": "layers.1.w_up", "layers.1.w_up": "layers.1.w_gate"}
        right(path, tree, lambda key: value_of(exchanged.get(key, key)), progress)

    monkeypatch.setattr(torch_zip, "write", wrong)
    with pytest.raises(CheckpointError, match=r"layers\.1\.w_gate .*holds w_up; gate and up are exchanged"):
        convert(source, tmp_path / "out", to="meta")


def test_one_changed_bit_is_found(source, tmp_path, monkeypatch):
    right = torch_zip.write

    def wrong(path, tree, value_of, progress):
        right(path, tree, value_of, progress)
        content = bytearray(path.read_bytes())
        content[content.index(make().tensors["layers.1.wo"].tobytes()) + 5] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(torch_zip, "write", wrong)
    with pytest.raises(CheckpointError, match=r"tensor layers\.1\.wo is not what was written"):
        convert(source, tmp_path / "out", to="meta")


# ---- what is not touched


def test_a_directory_with_files_in_it_is_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(CheckpointError, match="no empty directory"):
        convert(source, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["mine"]


def test_source_and_destination_must_differ(source):
    with pytest.raises(CheckpointError, match="the same"):
        convert(source, source)


def test_an_older_file_stays_until_the_new_one_is_right(source, tmp_path, monkeypatch):
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"older")
    swap_gate_and_up(monkeypatch)
    with pytest.raises(CheckpointError):
        convert(source, out)
    assert out.read_bytes() == b"older"


@pytest.mark.parametrize("to", ["gguf", "huggingface", "huggingface-bin", "safetensors", "npz"])
def test_the_embedded_llama_3_goes_through_every_format_that_can_hold_it(to, tmp_path):
    there = convert(models.locate("llama3").checkpoint, tmp_path / "there", to=to)
    back = convert(tmp_path / "there", tmp_path / "back", to="huggingface", options=WriteOptions(dtype="bfloat16"))
    assert there.roundings == back.roundings == []
    before, after = formats.read(models.locate("llama3").checkpoint), formats.read(tmp_path / "back")
    assert before.config == after.config
    for name, tensor in before.tensors.items():
        np.testing.assert_array_equal(after.tensors[name], tensor, err_msg=name)


@pytest.mark.parametrize("to", ["llama2c-v0", "llama2c-v1", "llama2c-v2", "llama2c-pt", "meta", "lmw-a", "lmw-c"])
def test_the_embedded_llama_3_is_refused_with_the_reason_where_it_has_no_place(to, tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot hold this model: .*(rope|rotary|scaling)"):
        convert(models.locate("llama3").checkpoint, tmp_path / "there", to=to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["gqa", "mha", "mqa"])
@pytest.mark.parametrize("to", ["gguf", "huggingface", "npz", "lmw-c", "meta", "llama2c-v1"])
def test_the_models_that_come_along_go_through_every_format(model, to, tmp_path):
    """Their activations are small, so that a last bit of eps shows."""
    convert(models.locate(model).checkpoint, tmp_path / "out", to=to)
