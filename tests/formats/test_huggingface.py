"""Hugging Face directories: configurations as published, what is refused and by which name, shards, tying."""

import json
from dataclasses import replace

import numpy as np
import pytest

from harness import formats
from harness.checkpoint import Checkpoint, expected_shapes
from harness.errors import CheckpointError
from harness.formats import WriteOptions, hf_config, huggingface
from harness.formats.hf_names import hf_name
from harness.model_config import PHI_2, Block, ModelConfig, RopeScaling
from tests.strategies import BYTE_PIECES

SMALL = ModelConfig(12, 20, 2, 6, 2, 9, 16)

# The keys that matter of published config.json files.
LLAMA_2 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "hidden_act": "silu",
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "pretraining_tp": 1,
}
LLAMA_3_2_1B = {
    **LLAMA_2,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}
DEEPSEEK_CODER = {
    **LLAMA_2,
    "rope_theta": 100000,
    "rope_scaling": {"type": "linear", "factor": 4.0},
    "rms_norm_eps": 1e-6,
}
MISTRAL = {
    **LLAMA_2,
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}
QWEN_2 = {
    **LLAMA_2,
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "num_hidden_layers": 24,
    "max_window_layers": 24,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
QWEN_3 = {
    **LLAMA_2,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 1024,
    "head_dim": 128,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "attention_bias": False,
    "use_sliding_window": False,
    "max_window_layers": 28,
}
PHI = {
    "architectures": ["PhiForCausalLM"],
    "model_type": "phi",
    "hidden_act": "gelu_new",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": None,
    "partial_rotary_factor": 0.4,
    "qk_layernorm": False,
    "vocab_size": 51200,
}
LLAMA3_SCALING = RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
PUBLISHED = [
    (LLAMA_2, ModelConfig(4096, 11008, 32, 32, 32, 32000, 4096, is_tied=False)),
    (
        LLAMA_3_2_1B,
        ModelConfig(2048, 8192, 16, 32, 8, 128256, 131072, rope_theta=500000.0, rope_scaling=LLAMA3_SCALING),
    ),
    (
        DEEPSEEK_CODER,
        ModelConfig(
            *(4096, 11008, 32, 32, 32, 32000, 4096),
            is_tied=False,
            norm_eps=1e-6,
            rope_theta=100000.0,
            rope_scaling=RopeScaling("linear", 4.0),
        ),
    ),
    (MISTRAL, ModelConfig(4096, 14336, 32, 32, 8, 32000, 4096, is_tied=False, block=Block(window=4096))),
    ({**MISTRAL, "sliding_window": None}, ModelConfig(4096, 14336, 32, 32, 8, 32000, 4096, is_tied=False)),
    (QWEN_2, ModelConfig(896, 11008, 24, 14, 2, 32000, 4096, rope_theta=1000000.0, block=Block(qkv_bias=True))),
    (
        QWEN_3,
        ModelConfig(1024, 11008, 32, 16, 8, 32000, 4096, is_tied=False, head_size=128, block=Block(qk_norm=True)),
    ),
    (
        PHI,
        ModelConfig(2560, 10240, 32, 32, 32, 51200, 2048, is_tied=False, block=replace(PHI_2, rotary_dim=32)),
    ),
]


@pytest.mark.parametrize(("document", "config"), PUBLISHED)
def test_published_configurations_are_understood(document, config, tmp_path):
    assert hf_config.parse(document, tmp_path) == config


@pytest.mark.parametrize(("_", "config"), PUBLISHED)
def test_what_is_written_is_understood(_, config, tmp_path):
    document = hf_config.render(config, dtype="float32")
    assert hf_config.parse(json.loads(json.dumps(document)), tmp_path) == config


@pytest.mark.parametrize(
    ("base", "changes", "what"),
    [
        (LLAMA_2, {"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM is not of the family"),
        (LLAMA_2, {"architectures": ["LlamaForCausalLM", "X"], "model_type": "gpt2"}, "'gpt2' is not of the family"),
        (LLAMA_2, {"attention_bias": True}, "attention_bias is more than"),
        (LLAMA_2, {"mlp_bias": True}, "mlp_bias is more than"),
        (LLAMA_2, {"hidden_act": "relu"}, "hidden_act is more than"),
        (PHI, {"hidden_act": "gelu"}, "hidden_act is more than"),
        (PHI, {"qk_layernorm": True}, "qk_layernorm is more than"),
        (LLAMA_2, {"partial_rotary_factor": 0.5}, "partial_rotary_factor is more than"),
        (LLAMA_2, {"quantization_config": {"bits": 4}}, "quantization_config is more than"),
        (LLAMA_2, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "expected default, linear or llama3, got yarn"),
        (LLAMA_2, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "got dynamic"),
        (LLAMA_2, {"rope_scaling": {"type": "linear"}}, "rope factor is no number"),
        (LLAMA_2, {"rope_scaling": [4]}, "rope_scaling is no table"),
        (QWEN_2, {"use_sliding_window": True, "max_window_layers": 12}, "max_window_layers is more than"),
        (QWEN_2, {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        (LLAMA_2, {"hidden_size": None}, "hidden_size is missing"),
        (LLAMA_2, {"num_hidden_layers": -1}, "num_hidden_layers is missing or no number"),
        (LLAMA_2, {"num_hidden_layers": True}, "num_hidden_layers is missing or no number"),
        (LLAMA_2, {"vocab_size": "32000"}, "vocab_size is missing or no number"),
        (LLAMA_2, {"num_key_value_heads": 5}, "not a multiple of n_kv_heads 5"),
        (LLAMA_2, {"rms_norm_eps": "small"}, "rms_norm_eps is no number"),
        (LLAMA_2, {"rope_theta": 0}, "rope_theta is no number"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(base, changes, what, tmp_path):
    with pytest.raises(CheckpointError, match=what):
        hf_config.parse({**base, **changes}, tmp_path)


# ---- directories


def make(config=SMALL):
    values = np.random.default_rng(1)
    shapes = expected_shapes(config)
    return Checkpoint(config, {name: values.standard_normal(s).astype(np.float32) for name, s in shapes.items()})


@pytest.fixture
def directory(tmp_path):
    formats.write(make(), tmp_path / "m")
    return tmp_path / "m"


def edit(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_rows_of_wq_and_wk_lie_in_halves():
    """Head 1, pair 0: ours are rows 4 + 0 and 4 + 1; theirs 4 + 0 and 4 + 2. By hand."""
    config = replace(SMALL, dim=12, n_heads=3, n_kv_heads=3)
    made = make(config)
    theirs = huggingface._their_rows(made.tensors, "layers.0.wq", config)
    ours = made.tensors["layers.0.wq"]
    assert np.array_equal(theirs[[4, 6, 5, 7]], ours[[4, 5, 6, 7]])
    assert huggingface._their_rows(made.tensors, "layers.0.wv", config) is made.tensors["layers.0.wv"]


def test_a_large_model_is_written_in_shards_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 2000)
    made = make()
    formats.write(made, tmp_path / "m")
    files = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    read = formats.read(tmp_path / "m")
    assert all(np.array_equal(read.tensors[name], tensor) for name, tensor in made.tensors.items())
    (tmp_path / "m" / files[1]).unlink()
    with pytest.raises(CheckpointError, match=f"{files[1]}.*cannot be read"):
        formats.read(tmp_path / "m")


@pytest.mark.parametrize("elsewhere", ["../m/model.safetensors", "/etc/passwd", "..", ""])
def test_a_shard_outside_the_directory_is_refused(elsewhere, directory):
    name = hf_name(SMALL, "tok_embedding")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: elsewhere}}))
    with pytest.raises(CheckpointError, match="a shard lies elsewhere"):
        formats.read(directory)


@pytest.mark.parametrize(
    ("index", "what"),
    [
        ({}, "no weight_map"),
        ({"weight_map": ["model.safetensors"]}, "no weight_map"),
        ({"weight_map": {"x": 5}}, "no weight_map"),
        ({"weight_map": {"x": "model.safetensors"}}, "not where the index says"),
    ],
)
def test_an_index_that_lies_is_refused(index, what, directory):
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=what):
        formats.read(directory)


def test_tied_or_not_is_held_against_the_tensors(tmp_path, directory):
    edit(directory, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        formats.read(directory)
    formats.write(make(replace(SMALL, is_tied=False)), tmp_path / "untied")
    edit(tmp_path / "untied", tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not the embedding"):
        formats.read(tmp_path / "untied")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"num_hidden_layers": 3}, r"model\.layers\.2\.input_layernorm\.weight is missing"),
        ({"num_hidden_layers": 1}, r"model\.layers\.1\..* is of no architecture"),
        ({"num_hidden_layers": 1 << 30}, "fewer tensors than layers"),
        ({"intermediate_size": 21}, r"mlp\.gate_proj\.weight has another shape.*\(21, 12\), got \(20, 12\)"),
        ({"vocab_size": 10}, r"embed_tokens\.weight has another shape"),
        ({"num_key_value_heads": 6}, r"k_proj\.weight has another shape"),
        ({"architectures": ["Qwen2ForCausalLM"]}, r"q_proj\.bias is missing"),
    ],
)
def test_a_configuration_that_does_not_fit_the_tensors_is_refused(changes, what, directory):
    edit(directory, **changes)
    with pytest.raises(CheckpointError, match=what):
        formats.read(directory)


def test_a_lone_file_needs_its_configuration(tmp_path, directory):
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((directory / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"config\.json is not beside it"):
        formats.read(lone)
    formats.write(make(), lone)
    assert formats.read(lone).config == SMALL


def test_a_part_of_a_directory_given_alone_says_to_give_the_directory(tmp_path):
    formats.write(make(), tmp_path / "m", to="huggingface-bin")
    with pytest.raises(CheckpointError, match="give the directory"):
        formats.read(tmp_path / "m" / "pytorch_model.bin")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "[" * 100_000, "\x00"])
def test_a_configuration_that_is_no_table_is_one_clear_error(text, directory):
    (directory / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="JSON"):
        formats.read(directory)


def test_the_ids_of_the_tokenizer_reach_the_configuration(tmp_path):
    from harness.tokenizer import Tokenizer

    pieces = (b"<unk>", b"a", b"b", *BYTE_PIECES, b"\n<s>\n", b"\n</s>\n")
    words = Tokenizer(pieces, np.zeros(261, np.float32), bos_id=259, eos_id=260)
    made = make(replace(SMALL, vocab_size=261))
    formats.write(made, tmp_path / "m", options=WriteOptions(tokenizer=words))
    document = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (document["bos_token_id"], document["eos_token_id"]) == (259, 260)
    names = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert (names["bos_token"], names["eos_token"]) == ("<s>", "</s>")
    again = formats.read_tokenizer(tmp_path / "m")
    assert (again.bos_id, again.eos_id, again.pieces) == (259, 260, pieces)


def test_a_tokenizer_that_neither_file_can_say_is_refused(tmp_path):
    from harness.errors import TokenizerError
    from harness.tokenizer import Tokenizer

    words = Tokenizer(tuple(b"abcdefghi"[i : i + 1] for i in range(9)), np.zeros(9, np.float32), bos_id=4, eos_id=5)
    with pytest.raises(TokenizerError, match="byte pieces"):
        formats.write(make(), tmp_path / "m", options=WriteOptions(tokenizer=words))
    assert not list(tmp_path.iterdir())
