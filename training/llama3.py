"""The fourth embedded model: llama-3 style, in the form in which such models are published.

A Hugging Face directory: config.json, model.safetensors in bfloat16, tokenizer.json. What llama2.c's files cannot say
is all there: rope_theta 500000, Llama 3.1's scaling of the rotary waves, a byte-level vocabulary. The scaling's first
context is 256 of 1024 positions, so that some of the 8 frequencies of a head are kept, one is mixed, the others
slowed. Imports no torch.
"""

import itertools
import json
import struct
from pathlib import Path

import numpy as np

from training import byte_level, stories
from training.byte_level import ByteVocabulary
from training.checkpoint import Config, RopeScaling, Weights, scaled
from training.models import N_TOKENIZER_STORIES, Recipe

__all__ = ["CONFIG", "DESCRIPTION", "NAME", "RECIPE", "bfloat16", "read", "scaled", "vocabulary", "widened", "write"]

NAME = "llama3"
CONFIG = Config(
    dim=96,
    hidden_dim=248,
    n_layers=4,
    n_heads=6,
    n_kv_heads=2,
    vocab_size=624,
    seq_len=1024,
    rope_theta=500000.0,
    rope_scaling=RopeScaling(factor=4.0, low=1.0, high=4.0, context=256),
)
RECIPE = Recipe(style="book", seed=500000, n_steps=2000, batch_size=3, learning_rate=4e-3)
DESCRIPTION = "llama-3 style (6 heads on 2, theta 500000, scaled rotary waves, byte-level vocabulary), tied, bfloat16"

_RMS_EPS = 1e-5
_HF_NAMES = {
    "attn_norm": "input_layernorm",
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "w_gate": "mlp.gate_proj",
    "w_up": "mlp.up_proj",
    "w_down": "mlp.down_proj",
}


def vocabulary() -> ByteVocabulary:
    """Learn the tokenizer, from other stories than the network will see."""
    some = itertools.islice(stories.stories(RECIPE.style, RECIPE.seed + 1), N_TOKENIZER_STORIES)
    texts = (text for story in some for text in ([story] if isinstance(story, str) else [said for _, said in story]))
    return byte_level.train(texts, vocab_size=CONFIG.vocab_size)


def write(vocabulary: ByteVocabulary, weights: Weights, directory: Path) -> None:
    """Write the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    byte_level.write(vocabulary, directory / "tokenizer.json")
    (directory / "config.json").write_text(json.dumps(_config(vocabulary), indent=2) + "\n", "utf-8")
    _write_safetensors(dict(_renamed(weights)), directory / "model.safetensors")


def _config(vocabulary: ByteVocabulary) -> dict[str, object]:
    config, scaling = CONFIG, CONFIG.rope_scaling
    assert scaling
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.seq_len,
        "rms_norm_eps": _RMS_EPS,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": config.is_tied,
        "rope_theta": config.rope_theta,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.context,
        },
        "bos_token_id": vocabulary.special("begin_of_text"),
        "eos_token_id": [vocabulary.special(name) for name in ("end_of_text", "eom_id", "eot_id")],
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def _renamed(weights: Weights) -> list[tuple[str, np.ndarray]]:
    """Tensors by Hugging Face's names; rows of wq and wk in halves, where ours are rotary pairs."""
    out = [("model.embed_tokens.weight", weights["tok_embedding"])]
    for layer in range(CONFIG.n_layers):
        for name, hf_name in _HF_NAMES.items():
            tensor = weights[name][layer]
            if name in ("wq", "wk"):
                pairs = tensor.reshape(-1, CONFIG.head_dim // 2, 2, CONFIG.dim)
                tensor = pairs.swapaxes(1, 2).reshape(tensor.shape)
            out.append((f"model.layers.{layer}.{hf_name}.weight", tensor))
    return [*out, ("model.norm.weight", weights["final_norm"])]


def _write_safetensors(tensors: Weights, path: Path) -> None:
    """uint64 length of the header, the header (JSON, spaces to a multiple of 8), the tensors one after another."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [at, at + 2 * tensor.size]}
        at += 2 * tensor.size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in tensors.values():
            file.write(bfloat16(tensor).tobytes())


def read(path: Path) -> Weights:
    """Read the weights of a file that `write` wrote, layers stacked and rotary pairs adjacent again."""
    raw = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", raw)[0]
    stored = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            stored[name] = widened(np.frombuffer(raw[start + begin : start + end], "<u2")).reshape(entry["shape"])
    weights = {"tok_embedding": stored["model.embed_tokens.weight"], "final_norm": stored["model.norm.weight"]}
    for name, hf_name in _HF_NAMES.items():
        tensor = np.stack([stored[f"model.layers.{layer}.{hf_name}.weight"] for layer in range(CONFIG.n_layers)])
        if name in ("wq", "wk"):
            halves = tensor.reshape(CONFIG.n_layers, -1, 2, CONFIG.head_dim // 2, CONFIG.dim)
            tensor = halves.swapaxes(2, 3).reshape(tensor.shape)
        weights[name] = tensor
    return weights


def bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper half of each float32, rounded to nearest, halves to even: uint16."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    out: np.ndarray = ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype("<u2")
    return out


def widened(bits: np.ndarray) -> np.ndarray:
    """Float32 values of bfloat16 bits."""
    out: np.ndarray = (bits.astype("<u4") << 16).view("<f4")
    return out
