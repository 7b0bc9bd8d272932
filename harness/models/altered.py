"""Alterations: a small model changed so that its text shows what ordinary text hides.

`gqa/small-activations` is the model gqa under the alteration `small-activations`. Every change is exact (powers of
two, copies, zeros, rows exchanged), so that the same file comes of it everywhere; the files that goldens name are
pinned here by their hashes. What each alteration is for, `harness.diagnosis.stress` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Checkpoint, Tensor
from harness.quant import QuantTensor, quantize_weights
from harness.tokenizer import Tokenizer

__all__ = ["ALTERATIONS", "SHA256", "TOKENIZER_SHA256", "Alteration"]

Array = npt.NDArray[Any]
Alteration = Callable[[Checkpoint, Tokenizer], tuple[Checkpoint, Tokenizer]]

# Of the checkpoints that goldens name, and of the tokenizers where they are changed.
SHA256 = {
    "gqa/uniform": "f567983976a813a1e3a1e18e2953dcb4c78a2c725f3f1e9a0705750396b3f085",
    "gqa/peaked-attention": "89407bc6929bec380a85e3757838b3d3833aff70655aedf50b7bee3f21c22ddf",
    "gqa/nan-row": "70fba6095998b835e662cc407d258ff07b7711036ec931b80ca3a1307e06d0f9",
    "gqa/short-context": "1d1dd73feb4385aab27cef30ae90034b2f79797700654337fa37892771ba1d35",
    "gqa/int8-groups-of-64": "aef28dbd13b52c7f7c6e4bf1fed6d207fa9ffba35c8a60913593add28bd82081",
    "gqa-q8/int8-zero-group": "b09669ce2c6449bba06fa2df688516e3d104052e10b361bea24cf7ca08642022",
    "gqa/surplus-piece": "69e1bad17784a1c6e7a923111ba8a57270d14f3a3d40bc52a38ffd83256ec414",
    "gqa/space-runs": "69e1bad17784a1c6e7a923111ba8a57270d14f3a3d40bc52a38ffd83256ec414",
}
TOKENIZER_SHA256 = {
    "gqa/surplus-piece": "60d8b00e5f6113955a218f546742cee25b4a30ab3a833ac6b83582bfa2c271f3",
    "gqa/space-runs": "535580a59fd9d6062892aebdab1e065e4ea827683e1936d0fd412fbc860e08bb",
}

_SHORT = 32  # positions of a short context
_NEVER_CHOSEN = 2  # EOS, which no prompt has


# ---- weights -----------------------------------------------------------------------------------------------------


def edited(found: Checkpoint, edit: Callable[[str, Array], Array], **config: Any) -> Checkpoint:
    """Return a checkpoint with every float tensor replaced; int8 ones stay. RoPE tables are kept, cut if need be."""
    tensors = {
        name: tensor if isinstance(tensor, QuantTensor) else edit(name, tensor)
        for name, tensor in found.tensors.items()
    }
    changed = replace(found.config, **config)
    tables = found.rope_tables and (found.rope_tables[0][: changed.seq_len], found.rope_tables[1][: changed.seq_len])
    return replace(found, config=changed, tensors=tensors, path=None, rope_tables=tables)


def untied(found: Checkpoint) -> Checkpoint:
    """Give a model a classifier of its own: the embedding's values, if it had none."""
    tensors: dict[str, Tensor] = {**found.tensors, "lm_head": found.classifier}
    return replace(found, config=replace(found.config, is_tied=False), tensors=tensors, path=None)


def _scaled(*, is_untied: bool = False, **factors: float) -> Alteration:
    """Multiply tensors by the last part of their name."""

    def edit(name: str, tensor: Array) -> Array:
        factor = factors.get(name.rpartition(".")[2])
        return tensor if factor is None else (tensor * np.float32(factor)).astype(np.float32)

    return lambda weights, pieces: (edited(untied(weights) if is_untied else weights, edit), pieces)


def _classifier(edit: Callable[[Array], Array]) -> Alteration:
    return lambda weights, pieces: (
        edited(untied(weights), lambda name, tensor: edit(tensor) if name == "lm_head" else tensor),
        pieces,
    )


def _with_nan(rows: Array) -> Array:
    changed = rows.copy()
    changed[_NEVER_CHOSEN] = np.nan
    return changed


def _distinct_heads(weights: Checkpoint, pieces: Tokenizer) -> tuple[Checkpoint, Tokenizer]:
    """Values of the key/value heads scaled by a quarter, 1, 4 in turn: no head can stand for another."""
    config = weights.config
    factor = np.repeat(4.0 ** (np.arange(config.n_kv_heads) % 3 - 1), config.head_dim)[:, None]

    def edit(name: str, tensor: Array) -> Array:
        return (tensor * factor).astype(np.float32) if name.endswith(".wv") else tensor

    return edited(weights, edit), pieces


def _exchanged(row: int) -> Alteration:
    """Exchange the rows of the full stop and another id, in the embedding and in the classifier."""

    def altered(weights: Checkpoint, pieces: Tokenizer) -> tuple[Checkpoint, Tokenizer]:
        stop = pieces.pieces.index(b".")

        def edit(name: str, tensor: Array) -> Array:
            if name not in ("tok_embedding", "lm_head"):
                return tensor
            rows = tensor.copy()
            rows[[row, stop]] = tensor[[stop, row]]
            return rows

        return edited(weights, edit), pieces

    return altered


def _short_context(weights: Checkpoint, pieces: Tokenizer) -> tuple[Checkpoint, Tokenizer]:
    return edited(weights, lambda name, tensor: tensor, seq_len=_SHORT), pieces


def _groups_of_64(weights: Checkpoint, pieces: Tokenizer) -> tuple[Checkpoint, Tokenizer]:
    """The int8 form in groups of 64, which straddle rows where hidden_dim is no multiple of it."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.tensors.items():
        assert not isinstance(tensor, QuantTensor)
        tensors[name] = tensor if tensor.ndim == 1 else quantize_weights(np.asarray(tensor), 64)
    changed = replace(weights, tensors=tensors, format="llama2c-v2", group_size=64, path=None, rope_tables=None)
    return changed, pieces


def _zero_group(weights: Checkpoint, pieces: Tokenizer) -> tuple[Checkpoint, Tokenizer]:
    """The first group of the attention's normalised input is zero, through its gain."""
    size = weights.group_size or 1

    def edit(name: str, tensor: Array) -> Array:
        if not name.endswith("attn_norm"):
            return tensor
        gain = tensor.copy()
        gain[:size] = 0
        return gain

    return edited(weights, edit), pieces


# ---- the vocabulary ----------------------------------------------------------------------------------------------


def _surplus_piece(weights: Checkpoint, known: Tokenizer) -> tuple[Checkpoint, Tokenizer]:
    scores = np.append(known.scores, np.float32(-1e6)).astype(np.float32)
    return weights, replace(known, pieces=(*known.pieces, b"\xffsurplus"), scores=scores)


def _space_runs(weights: Checkpoint, known: Tokenizer) -> tuple[Checkpoint, Tokenizer]:
    """The last piece becomes two spaces, scored as in the vocabulary of Llama 2."""
    scores = known.scores.astype(np.float32)
    scores[-1] = -1e9
    return weights, replace(known, pieces=(*known.pieces[:-1], b"  "), scores=scores)


ALTERATIONS: dict[str, Alteration] = {
    "small-activations": _scaled(is_untied=True, tok_embedding=2.0**-8),
    "uniform": _scaled(is_untied=True, final_norm=0.0),
    "flat-attention": _scaled(wq=2.0**-3),
    "peaked-attention": _scaled(wq=2.0**5),
    "long-positions": _scaled(wq=2.0**4),
    "distinct-heads": _distinct_heads,
    "reversed-classifier": _classifier(lambda rows: rows[::-1].copy()),
    "nan-row": _classifier(_with_nan),
    "bos-exchanged": _exchanged(1),
    "eos-exchanged": _exchanged(2),
    "short-context": _short_context,
    "int8-groups-of-64": _groups_of_64,
    "int8-zero-group": _zero_group,
    "surplus-piece": _surplus_piece,
    "space-runs": _space_runs,
}
"""Name -> how it alters a checkpoint and its tokenizer."""
