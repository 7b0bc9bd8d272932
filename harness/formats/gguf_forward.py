"""Logits of a GGUF file by its own names and keys, to hold a conversion against.

A reader and a writer that are wrong alike agree with each other. Here neither `gguf`'s table of names nor its
permutation is used, nor `gguf_config`'s keys: the file is described in Hugging Face's words, as the model code that
llama.cpp's converter reads from would have it, and that code's forward pass (`hf_forward`) does the rest. Its pairs
are half a head apart, so `llama`'s rows are put back, row 2j + b of a head to row j + b * head_dim / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.formats import gguf_file, gguf_types, hf_forward, numbers
from harness.formats.gguf_file import GgufFile
from harness.formats.stored import Stored

__all__ = ["own_logits"]

_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_PHI = {"attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}


def own_logits(path: Path, ids: Sequence[int]) -> NDArray[np.float64]:
    """Feed ids to the model that a file holds; return (n_tokens, vocab_size)."""
    file = gguf_file.read(Path(path))
    document = _document(file)
    tensors: dict[str, Stored] = {}
    for name in file.entries:
        tensors |= _translated(file, name, document)
    return hf_forward.logits(document, tensors, ids)


def _document(file: GgufFile) -> dict[str, Any]:
    architecture = str(file.metadata["general.architecture"])

    def key(name: str, default: Any = None) -> Any:
        found = file.metadata.get(f"{architecture}.{name}", default)
        # A float32 of the file stands for the number that somebody wrote: 1e-5 is no float32.
        return numbers.shortest(found) if isinstance(found, float) else found

    n_heads, dim = key("attention.head_count"), key("embedding_length")
    head_dim = key("attention.key_length", dim // n_heads)
    rope: dict[str, Any] = {
        "rope_theta": key("rope.freq_base", 10000.0),
        "partial_rotary_factor": key("rope.dimension_count", head_dim) / head_dim,
    }
    if "rope_freqs.weight" in file.entries:
        factors = file.raw("rope_freqs.weight").view("<f4")
        rope |= {
            "rope_type": "llama3",
            "factor": key("rope.scaling.llama3.factor", float(factors.max())),
            "low_freq_factor": key("rope.scaling.llama3.low_freq_factor", 1.0),
            "high_freq_factor": key("rope.scaling.llama3.high_freq_factor", 4.0),
            "original_max_position_embeddings": key("rope.scaling.llama3.original_context", 8192),
        }
    elif key("rope.scaling.type") == "linear":
        rope |= {"rope_type": "linear", "factor": key("rope.scaling.factor")}
    window = key("attention.sliding_window")
    return {
        "model_type": "mistral" if window else "phi" if architecture == "phi2" else architecture,
        "hidden_size": dim,
        "num_attention_heads": n_heads,
        "num_hidden_layers": key("block_count"),
        "head_dim": head_dim,
        "hidden_act": "gelu_new" if architecture == "phi2" else "silu",
        "rms_norm_eps": key("attention.layer_norm_rms_epsilon", key("attention.layer_norm_epsilon")),
        "sliding_window": window,
        "rope_parameters": rope,
        "tie_word_embeddings": "output.weight" not in file.entries,
    }


def _translated(file: GgufFile, name: str, document: dict[str, Any]) -> dict[str, Stored]:
    """Return a tensor under Hugging Face's name, or three where q, k and v are one, or none."""
    stem, _, kind = name.rpartition(".")
    entry = file.entries[name]
    values = gguf_types.dequantize(file.raw(name), entry.encoding, entry.shape)
    table = {**_INSIDE, **(_PHI if document["model_type"] == "phi" else {})}
    if stem in _OUTSIDE:
        return {f"{_OUTSIDE[stem]}.{kind}": _stored(values)}
    if not stem.startswith("blk."):
        return {}
    _, layer, part = stem.split(".")
    at = f"model.layers.{layer}."
    if part == "attn_qkv":
        thirds = np.split(values, 3)
        return {f"{at}self_attn.{one}_proj.{kind}": _stored(rows) for one, rows in zip("qkv", thirds, strict=True)}
    if part in ("attn_q", "attn_k") and file.metadata["general.architecture"] == "llama":
        values = values[_from_adjacent(len(values), document["head_dim"])]
    return {f"{at}{table[part]}.{kind}": _stored(values)}


def _from_adjacent(n_rows: int, head_dim: int) -> NDArray[np.int64]:
    """Return, for each row in the order of halves, where it is in the order of adjacent pairs."""
    head, place = np.divmod(np.arange(n_rows), head_dim)
    second, pair = np.divmod(place, head_dim // 2)
    rows: NDArray[np.int64] = head * head_dim + 2 * pair + second
    return rows


def _stored(values: NDArray[Any]) -> Stored:
    return Stored(values, values.dtype.name)
