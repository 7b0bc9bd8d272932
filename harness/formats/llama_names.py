"""The names of tensors in Meta's files and in llama2.c's training checkpoints; rows are in the order that is ours."""

from __future__ import annotations

__all__ = ["PREFIX", "meta_name"]

# Left by PyTorch's compiler wrapper in front of every name.
PREFIX = "_orig_mod."

_KINDS = {
    "attn_norm": "attention_norm",
    "wq": "attention.wq",
    "wk": "attention.wk",
    "wv": "attention.wv",
    "wo": "attention.wo",
    "ffn_norm": "ffn_norm",
    "w_gate": "feed_forward.w1",
    "w_down": "feed_forward.w2",
    "w_up": "feed_forward.w3",
}
_OUTSIDE = {"tok_embedding": "tok_embeddings", "final_norm": "norm", "lm_head": "output"}


def meta_name(name: str) -> str:
    """Spell a canonical name as these files do.

    >>> meta_name("layers.3.w_up"), meta_name("lm_head")
    ('layers.3.feed_forward.w3.weight', 'output.weight')
    """
    if not name.startswith("layers."):
        return f"{_OUTSIDE[name]}.weight"
    _, layer, kind = name.split(".")
    return f"layers.{layer}.{_KINDS[kind]}.weight"
