"""Hugging Face's names of tensors, for each architecture, beside ours.

The gate is the matrix whose product the activation is applied to. An exchange of gate and up runs and is wrong, which
is why `harness convert` holds the logits against a computation by these very names (`hf_forward`).
"""

from __future__ import annotations

from harness.model_config import ModelConfig

__all__ = ["IGNORED", "ROTATED", "hf_name"]

_LLAMA = {
    "attn_norm": "input_layernorm.weight",
    "wq": "self_attn.q_proj.weight",
    "wq_bias": "self_attn.q_proj.bias",
    "wk": "self_attn.k_proj.weight",
    "wk_bias": "self_attn.k_proj.bias",
    "wv": "self_attn.v_proj.weight",
    "wv_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "wo": "self_attn.o_proj.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "w_gate": "mlp.gate_proj.weight",
    "w_up": "mlp.up_proj.weight",
    "w_down": "mlp.down_proj.weight",
}
_PHI = {
    **_LLAMA,
    "attn_norm_bias": "input_layernorm.bias",
    "wo": "self_attn.dense.weight",
    "wo_bias": "self_attn.dense.bias",
    "w_up": "mlp.fc1.weight",
    "w_up_bias": "mlp.fc1.bias",
    "w_down": "mlp.fc2.weight",
    "w_down_bias": "mlp.fc2.bias",
}
_OUTSIDE = {
    "tok_embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "lm_head": "lm_head.weight",
    "lm_head_bias": "lm_head.bias",
}
_OUTSIDE_PHI = {
    **_OUTSIDE,
    "final_norm": "model.final_layernorm.weight",
    "final_norm_bias": "model.final_layernorm.bias",
}

# Kinds whose rows (of a vector: values) are those of a head's rotary pairs, in halves there.
ROTATED = frozenset({"wq", "wk", "wq_bias", "wk_bias", "q_norm", "k_norm"})
# How names end of tensors that are computed from the configuration, and stored by some versions of the library.
IGNORED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


def hf_name(config: ModelConfig, name: str) -> str:
    """Spell one canonical name as Hugging Face does."""
    is_phi = config.block.is_parallel
    if not name.startswith("layers."):
        return (_OUTSIDE_PHI if is_phi else _OUTSIDE)[name]
    _, layer, kind = name.split(".")
    return f"model.layers.{layer}.{(_PHI if is_phi else _LLAMA)[kind]}"
