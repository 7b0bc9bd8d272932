"""Relations: what must not change what a program says, whatever its model; no reference is needed to see it break.

A relation either changes the weights so that the change cancels (`gauges`), or asks the same thing in another way.
One that breaks says which weights or which state are involved, in the terms of llama2.c (w1 is the gate, w2 goes
down, w3 up). What commutes with a change cannot be seen by it: epsilon, theta, masks, the activation are for goldens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.diagnosis import gauges
from harness.diagnosis.gauges import Draw
from harness.models import Model

__all__ = ["RELATIONS", "Relation", "by_name"]


def _always(model: Model) -> str:
    return ""


def _needs_sharing(model: Model) -> str:
    return (
        "" if model.checkpoint.config.n_rep > 1 else "every query head of this model has a key/value head of its own"
    )


def _needs_several_heads(model: Model) -> str:
    found = model.checkpoint
    if found.config.n_heads == 1:
        return "this model has one head"
    if found.group_size and (found.config.head_dim % found.group_size or found.config.dim % found.group_size):
        return "int8 groups of this model cross heads"
    return ""


def _needs_whole_groups(model: Model) -> str:
    found = model.checkpoint
    if found.group_size and (found.config.hidden_dim % found.group_size or found.config.dim % found.group_size):
        return "int8 groups of this model cross rows"
    return ""


@dataclass(frozen=True, slots=True)
class Relation:
    """One way in which nothing may change.

    Attributes:
        what: the change, so that "WHAT changes the text" is a sentence.
        look: where to look if it does.
        changed: the model under the change; None: it is asked in another way (`harness.conformance.relations`).
        is_exact: whether no bit of a logit may move; else they may by the order of sums.
        unfit: why a model cannot show it; empty where it can.
    """

    name: str
    what: str
    look: str
    changed: Callable[[Model, Draw], Model] | None = None
    is_exact: bool = True
    unfit: Callable[[Model], str] = _always


RELATIONS = (
    # ---- powers of two that cancel
    Relation(
        "queries-keys",
        "multiplying wq by powers of two, one for each pair that RoPE turns, and dividing wk by them",
        "which key head each query head reads (h / (n_heads / n_kv_heads)), which two values RoPE turns together "
        "(2i and 2i+1), the shapes of wq and wk, whether q, k and v are taken for one another",
        gauges.queries_keys,
    ),
    Relation(
        "values-output",
        "multiplying wv by powers of two, one for each channel of a value head, and dividing the columns of wo by "
        "them",
        "which value head each query head reads, the shape and orientation of wv and wo, the order in which heads "
        "are joined before wo, whether the cache keeps the values of each head and layer apart",
        gauges.values_output,
    ),
    Relation(
        "up-down",
        "multiplying w3 by powers of two, one for each hidden unit, and dividing the columns of w2 by them",
        "silu belongs to w1, and w3 is multiplied in unchanged; the order of w1, w2, w3 in the file; the orientation "
        "of w2",
        gauges.up_down,
    ),
    Relation(
        "attention-gain",
        "multiplying rms_att_weight by powers of two, one for each channel, and dividing the columns of wq, wk and "
        "wv by them",
        "which gains the norm before attention uses (each layer its own), whether they are applied once and before "
        "wq, wk and wv, whether the residual is taken before the norm, the orientation of wq, wk and wv",
        gauges.gain_of("attn_norm", "wq", "wk", "wv"),
    ),
    Relation(
        "ffn-gain",
        "multiplying rms_ffn_weight by powers of two, one for each channel, and dividing the columns of w1 and w3 by "
        "them",
        "which gains the norm before the feed-forward uses (each layer its own), whether they are applied once and "
        "before w1 and w3, whether the residual is taken before the norm, the orientation of w1 and w3",
        gauges.gain_of("ffn_norm", "w_gate", "w_up"),
    ),
    Relation(
        "final-gain",
        "multiplying rms_final_weight by powers of two, one for each channel, and dividing the columns of wcls by "
        "them (a classifier of its own)",
        "whether the final norm is applied, with its own gains; how a file says that the classifier is not the "
        "embedding (in version 0, vocab_size below 0), and where wcls begins (behind the two RoPE tables)",
        gauges.final_gain,
    ),
    Relation(
        "channel-signs",
        "changing the sign of some channels of the residual stream, in all that writes to it and all that reads it",
        "whether a norm subtracts the mean (RMSNorm does not), the orientation of wo and w2, what is added to x",
        gauges.channel_signs,
    ),
    # ---- what adds nothing
    Relation(
        "idle-layers",
        "a layer more at either end, whose wo and w2 are zero",
        "whether every layer runs, in order, with its own weights and its own part of the cache, and whether x is "
        "added after attention and after the feed-forward as it was before the norm",
        gauges.idle_layers,
    ),
    Relation(
        "longer-context",
        "a context twice as long, of which no more is used",
        "what has seq_len in its size or stride: the cache, the scores, the RoPE tables of the file",
        gauges.longer_context,
    ),
    Relation(
        "own-kv-heads",
        "giving every query head a copy of the key/value head that it shared",
        "which key/value head each query head reads (h / (n_heads / n_kv_heads)), kv_dim in the sizes and strides of "
        "wk, wv and the cache",
        gauges.own_kv_heads,
        unfit=_needs_sharing,
    ),
    # ---- another order
    Relation(
        "hidden-order",
        "putting the hidden units into another order, rows of w1 and w3 and columns of w2",
        "whether the whole of w1, w2 and w3 is read: all hidden_dim rows and columns, the last ones too",
        gauges.hidden_order,
        is_exact=False,
        unfit=_needs_whole_groups,
    ),
    Relation(
        "head-order",
        "putting the key/value heads into another order, each with its query heads",
        "whether each head is treated like all others: its part of q, k, v and wo, its part of the cache, its "
        "rotation",
        gauges.head_order,
        is_exact=False,
        unfit=_needs_several_heads,
    ),
    Relation(
        "channel-order",
        "putting the channels of the residual stream into another order",
        "the orientation of the matrices, and whether all dim channels are treated alike, the last ones too",
        gauges.channel_order,
        is_exact=False,
        unfit=_needs_whole_groups,
    ),
    Relation(
        "vocabulary-order",
        "giving the pieces of the vocabulary other ids, in the tokenizer, the embedding and the classifier",
        "how pieces are looked up by their text and merged by their score (never by id), which rows belong to which "
        "id",
        gauges.vocabulary_order,
        is_exact=False,
    ),
    # ---- the same, asked in another way
    Relation(
        "more-steps",
        "asking for more steps",
        "what depends on how many steps are asked for: buffers that are sized by them, a last token that is treated "
        "otherwise",
    ),
    Relation(
        "continued",
        "asking for the rest in a second request, which gives back what the first one answered",
        "whether tokens of a prompt are processed as generated ones are: positions, mask, what is left in the cache",
    ),
    Relation(
        "asked-again",
        "asking for the same again, with other requests between",
        "what a request leaves behind: the cache and its length, the position, the state of the random generator, "
        "memory that is used before it is set",
    ),
    Relation(
        "threads",
        "using two threads instead of one",
        "what threads share: buffers for scores and results, sums that several of them write",
        is_exact=False,
    ),
    Relation(
        "top-p-beyond-1",
        "-p 1.5 instead of -p 0.9",
        "the check of top-p: outside of 0 to 1 it becomes 0.9",
    ),
    Relation(
        "seed-0",
        "seed 0 (which is to be replaced by the time) instead of temperature 0",
        "the seed: xorshift never leaves the state 0, so that every coin is 0 and the likeliest token is always "
        "drawn",
    ),
)
"""Every relation; `seed-0` alone is one that must not hold: what it compares must differ."""


def by_name(name: str) -> Relation | None:
    """Return the relation of that name, if there is one."""
    return next((relation for relation in RELATIONS if relation.name == name), None)
