"""The canonical names of the values that a forward pass computes, in the order in which it computes them.

A tap receives `(name, layer, array)`; layer is -1 outside of the blocks. n_tokens is the number of tokens of the
call, H = n_heads, G = n_kv_heads.

    embedding      (n_tokens, dim)        rows of the token embedding
    attn_norm      (n_tokens, dim)        input of the attention, normalised
    q_raw  k_raw   (n_tokens, H|G, head_dim)  before rotation (and before the norm of heads, where there is one)
    v              (n_tokens, G, head_dim)
    q  k           (n_tokens, H|G, head_dim)  after rotation
    scores         (H, slots)             scaled, before the softmax; optional, `SCORES`
    attn_mix       (n_tokens, q_dim)      heads concatenated, before wo
    attn_out       (n_tokens, dim)        after wo
    attn_residual  (n_tokens, dim)        residual stream after the attention
    ffn_norm       (n_tokens, dim)        input of the feed-forward block, normalised; not in a parallel block
    gate  up       (n_tokens, hidden_dim) no gate where the feed-forward has none
    ffn_mix        (n_tokens, hidden_dim) silu(gate) * up
    ffn_out        (n_tokens, dim)        after w_down
    ffn_residual   (n_tokens, dim)        residual stream after the block
    final_norm     (n_tokens, dim)
    logits         (n_tokens, vocab_size)
"""

from __future__ import annotations

__all__ = ["AFTER", "BEFORE", "IN_LAYER", "SCORES"]

BEFORE = ("embedding",)
IN_LAYER = (
    "attn_norm",
    "q_raw",
    "k_raw",
    "v",
    "q",
    "k",
    "attn_mix",
    "attn_out",
    "attn_residual",
    "ffn_norm",
    "gate",
    "up",
    "ffn_mix",
    "ffn_out",
    "ffn_residual",
)
AFTER = ("final_norm", "logits")
SCORES = "scores"  # between k and attn_mix; a prefill that fuses its attention has none
