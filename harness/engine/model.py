"""The reference: a llama-family forward pass in numpy, as a prefill over many sequences, a session, or in lockstep.

Arrays in, arrays out; it knows no file and no text. Three ways to run the same operations:

    score      teacher-forced prefill of many sequences at once, layers outermost: a layer is read, cast and fused
               when its turn comes, then dropped (small models are kept); logits exist in blocks only
    Session    one sequence with a cache: extend by any number of tokens, take back, extend again
    Lockstep   many sequences, one position a step, layers inside, one flat cache as llama2.c lays it out: the
               order of writes is that of the C programs, for faults that depend on it
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.engine.attention import attention_by_steps, causal_attention, single_query_attention, swiglu
from harness.engine.consumers import Consumer, Judged, Rows, TopTwo
from harness.engine.kv_cache import CacheKind, InPlace, make_cache
from harness.engine.ops import (
    FUSED_ATTENTION,
    FUSED_ROTATION,
    LIBRARY,
    STRICT,
    Array,
    Ops,
    Step,
    Tap,
    Weight,
    matmul,
    matmul_strict,
    quantised_matmul,
)
from harness.engine.screen import largest_norm, screened
from harness.engine.single import SinglePass
from harness.model_config import Block, ModelConfig
from harness.quant import QuantTensor
from harness.trace.points import SCORES

__all__ = ["Engine", "Lockstep", "Session"]

_KEEP_BYTES = 3 << 30  # cast weights up to this size are kept between calls
_ROWS = 1024  # tokens of one product: enough for full speed, few enough to stay in the caches
_VOCAB_BLOCK = 1024  # classifier rows of one block of logits
_CLASSIFIER_ROWS = 1024
_OUTSIDE = frozenset({"layer_order", "weight", "embed", "argmax", "forced", "draws_coin"})  # no part of `SinglePass`
_SHOWS = "shows"  # in the memo of a pass that a tap looks at: attention goes by steps, and leaves its scores behind


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One block's weights, cast, and fused where no replaced step needs them apart."""

    attn_norm: Array
    ffn_norm: Array | None  # None: the feed-forward reads the attention's norm
    wqkv: tuple[Weight, ...]  # one fused matrix, or wq, wk, wv
    wo: Weight
    w_gate_up: tuple[Weight, ...]  # one fused matrix, or w_gate, w_up, or w_up alone
    w_down: Weight
    vectors: Mapping[str, Array]  # what llama has not: "wqkv_bias", "q_norm", ...; fused as the matrices are


class Engine:
    """A model ready to run.

    Args:
        config: its dimensions.
        tensors: canonical name to array (or QuantTensor for int8 weights), as a Checkpoint holds them.
        dtype: of activations and cast weights: float32 or float64.
        ops: the operations; `LIBRARY`, `STRICT` (float32 only), or one of them with steps replaced.
        keep_bytes: cast weights are kept between calls if all of them are at most this large.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, Weight],
        *,
        dtype: npt.DTypeLike = np.float32,
        ops: Ops = LIBRARY,
        keep_bytes: int = _KEEP_BYTES,
    ) -> None:
        self.config = config
        self.dtype = np.dtype(dtype)
        self.ops = ops
        self._tensors = tensors
        is_strict = ops.matmul is matmul_strict
        if is_strict and self.dtype != np.float32:
            raise ValueError("strict arithmetic is float32")
        family = STRICT if is_strict else LIBRARY
        replaced = ops.differs_from(family)
        self._fuses_products = ops.matmul in (matmul, matmul_strict, quantised_matmul)
        self._fuses_rotation = family is LIBRARY and not replaced & FUSED_ROTATION
        self._fuses_attention = family is LIBRARY and not replaced & FUSED_ATTENTION
        block = config.block
        self._is_gated = block.is_gated
        is_swiglu = block.is_gated and block.activation == "silu"
        self._fuses_swiglu = family is LIBRARY and is_swiglu and not replaced & {"activation", "gated"}
        is_bare = ops.matmul is matmul and "logits" not in replaced and not block.other_bias
        self._screens = self.dtype == np.float64 and is_bare
        self._largest_norm = 0.0  # of the classifier's rows, once it was needed
        self._plain_cache = not replaced & {"position", "cache_row", "cached_k", "cached_v", "mask"}
        self._keeps = config.n_params * self.dtype.itemsize <= keep_bytes
        is_plain = family is LIBRARY and not replaced - _OUTSIDE and block == Block()
        self._has_single_pass = is_plain and self._keeps
        self._keeps_columns = self._keeps and ops.matmul is matmul_strict  # it adds along them
        self._layers: dict[int, LayerWeights] = {}
        self._outside: dict[str, Weight] = {}
        self._turn_table: Array = np.zeros((0, 1, config.rotary_dim // 2))

    # -- weights -------------------------------------------------------------------------------------------------

    def _lookup(self, layer: int, name: str) -> Weight:
        if layer < 0:
            return self._tensors["tok_embedding" if name == "lm_head" and self.config.is_tied else name]
        return self._tensors[f"layers.{layer}.{name}"]

    def _cast(self, layer: int, name: str) -> Weight:
        found = self.ops.weight(self.config, layer, name, self._lookup)
        if isinstance(found, QuantTensor):
            return found
        is_matrix = self._keeps_columns and name != "tok_embedding"
        return np.asarray(found, self.dtype, order="F" if is_matrix else None)

    def _gain(self, layer: int, name: str) -> Array:
        found = self.ops.weight(self.config, layer, name, self._lookup)
        assert not isinstance(found, QuantTensor)
        return np.asarray(found, self.dtype)

    def _outer(self, name: str) -> Weight:
        if name not in self._outside:
            cast = self._cast(-1, name)
            if not self._keeps:
                return cast
            self._outside[name] = cast
        return self._outside[name]

    def layer(self, index: int) -> LayerWeights:
        """Read, cast and fuse the weights of one block."""
        if index in self._layers:
            return self._layers[index]
        block = self.config.block
        qkv = ("wq", "wk", "wv")
        gate_up = ("w_gate", "w_up") if block.is_gated else ("w_up",)
        weights = LayerWeights(
            attn_norm=self._gain(index, "attn_norm"),
            ffn_norm=None if block.is_parallel else self._gain(index, "ffn_norm"),
            wqkv=self._fused(index, qkv),
            wo=self._cast(index, "wo"),
            w_gate_up=self._fused(index, gate_up),
            w_down=self._cast(index, "w_down"),
            vectors=self._vectors(index, qkv, gate_up),
        )
        if self._keeps:
            self._layers[index] = weights
        return weights

    def _fused(self, index: int, names: Sequence[str]) -> tuple[Weight, ...]:
        """Read matrices that are applied to the same input: one, if no replaced step needs them apart."""
        if not self._fuses_products or len(names) == 1:
            return tuple(self._cast(index, name) for name in names)
        parts = [self.ops.weight(self.config, index, name, self._lookup) for name in names]
        whole = _stacked(parts, self.dtype)
        if self._keeps_columns and not isinstance(whole, QuantTensor):
            whole = np.asfortranarray(whole)
        return (whole,)

    def _table(self) -> Weight:
        """The embedding table; its rows are cast when they are taken, so that a large one need not be."""
        if self._keeps:
            return self._outer("tok_embedding")
        return self.ops.weight(self.config, -1, "tok_embedding", self._lookup)

    def _vectors(self, index: int, qkv: Sequence[str], gate_up: Sequence[str]) -> dict[str, Array]:
        """Read the biases and head norms of one block, those of fused matrices joined."""
        block = self.config.block
        names: list[str] = []
        if block.norm == "layer":
            names += ["attn_norm_bias"] if block.is_parallel else ["attn_norm_bias", "ffn_norm_bias"]
        if block.qk_norm:
            names += ["q_norm", "k_norm"]
        if block.qkv_bias:
            names += [f"{name}_bias" for name in qkv]
        if block.other_bias:
            names += [f"{name}_bias" for name in ("wo", *gate_up, "w_down")]
        found = {name: self._gain(index, name) for name in names}
        for fused, parts in (("wqkv", qkv), ("w_gate_up", gate_up)):
            if len(parts) > 1 and f"{parts[0]}_bias" in found and self._fuses_products:
                found[f"{fused}_bias"] = np.concatenate([found.pop(f"{name}_bias") for name in parts])
        return found

    def warm(self) -> None:
        """Read and cast every weight now, if they are kept between calls: what is timed later computes only."""
        if self._keeps:
            for name in ("tok_embedding", "lm_head", "final_norm"):
                self._outer(name)
            for index in self.ops.layer_order(self.config):
                self.layer(index)

    def matrices(self) -> list[Array]:
        """All float matrices in the order in which one token meets them: what decoding must read at the least."""
        found: list[Weight] = []
        for index in self.ops.layer_order(self.config):
            weights = self.layer(index)
            found += [*weights.wqkv, weights.wo, *weights.w_gate_up, weights.w_down]
        found.append(self._outer("lm_head"))
        return [w for w in found if not isinstance(w, QuantTensor)]

    # -- one block -----------------------------------------------------------------------------------------------

    def _block(
        self,
        step: Step,
        x: Array,
        w: LayerWeights,
        attend: Callable[[Step, Array, Array, Array], Array],
        tap: Tap | None = None,
    ) -> Array:
        """Run one block on rows x (n_tokens, dim); attend mixes their q, k, v into (n_tokens, H, head_dim)."""
        ops, config, values = self.ops, self.config, step.values
        n = len(x)
        heads, kv_heads = config.n_heads, config.n_kv_heads
        vectors = w.vectors
        product = partial(self._biased_product, vectors) if vectors else ops.matmul  # llama's has nothing to add

        values["embedding" if step.layer == 0 else "residual_in"] = x
        h = ops.attn_norm(step, x, w.attn_norm)
        h = values["attn_norm"] = self._biased(step, "attn_norm", h, vectors) if vectors else h
        fused = len(w.wqkv) == 1
        if fused:
            both = product(step, "wqkv", h, w.wqkv[0]).reshape(n, heads + 2 * kv_heads, -1)
            q, k, v = both[:, :heads], both[:, heads : heads + kv_heads], both[:, heads + kv_heads :]
        else:
            q, k, v = (
                product(step, name, h, weight).reshape(n, -1, config.head_dim)
                for name, weight in zip(("wq", "wk", "wv"), w.wqkv, strict=True)
            )
        if tap:
            values["q_raw"], values["k_raw"] = q.copy(), k.copy()
        values["v"] = v
        if "q_norm" in vectors:
            q, k = ops.q_norm(step, q, vectors["q_norm"]), ops.k_norm(step, k, vectors["k_norm"])
            fused = False
        if self._fuses_rotation and fused:
            # An adjacent pair is a complex number, and turning it is one product, queries and keys together.
            turn = step.memo.get("turn")
            if turn is None:
                turn = step.memo["turn"] = self._turns(step.pos)
            pairs = both[:, : heads + kv_heads].view(turn.dtype)[..., : turn.shape[-1]]
            np.multiply(pairs, turn, out=pairs)
        else:
            cos, sin = ops.angles(step)
            q, k = ops.rotate_q(step, q, cos, sin), ops.rotate_k(step, k, cos, sin)
        values["q"], values["k"] = q, k
        mixed = values["attn_mix"] = ops.mixed(step, attend(step, q, k, v).reshape(n, config.q_dim))
        out = values["attn_out"] = product(step, "wo", mixed, w.wo)
        x = values["attn_residual"] = ops.attn_residual(step, x, out)

        if w.ffn_norm is not None:
            h = ops.ffn_norm(step, x, w.ffn_norm)
            h = values["ffn_norm"] = self._biased(step, "ffn_norm", h, vectors) if vectors else h
        if not self._is_gated:
            up = values["up"] = product(step, "w_up", h, w.w_gate_up[0])
            hidden = ops.activation(step, up)
        else:
            if len(w.w_gate_up) == 1:
                both = product(step, "w_gate_up", h, w.w_gate_up[0])
                gate, up = both[:, : config.hidden_dim], both[:, config.hidden_dim :]
            else:
                gate = product(step, "w_gate", h, w.w_gate_up[0])
                up = product(step, "w_up", h, w.w_gate_up[1])
            values["gate"], values["up"] = gate, up
            hidden = swiglu(gate, up) if self._fuses_swiglu else ops.gated(step, ops.activation(step, gate), up)
        values["ffn_mix"] = hidden
        out = values["ffn_out"] = product(step, "w_down", hidden, w.w_down)
        x = values["ffn_residual"] = ops.ffn_residual(step, x, out)
        if tap:
            for name, value in values.items():
                if name not in ("embedding", "residual_in"):
                    tap(name, step.layer, value)
        return x

    def _biased_product(self, vectors: Mapping[str, Array], step: Step, name: str, x: Array, w: Weight) -> Array:
        return self._biased(step, name, self.ops.matmul(step, name, x, w), vectors)

    def _biased(self, step: Step, name: str, x: Array, vectors: Mapping[str, Array]) -> Array:
        bias = vectors.get(f"{name}_bias")
        return x if bias is None else self.ops.bias(step, name, x, bias)

    def _final(self, step: Step, x: Array) -> Array:
        """The last norm of rows x, what the classifier reads."""
        gain = self._outer("final_norm")
        assert not isinstance(gain, QuantTensor)
        out = self.ops.final_norm(step, x, gain)
        if self.config.block.norm == "layer":
            out = self.ops.bias(step, "final_norm", out, np.asarray(self._outer("final_norm_bias")))
        return out

    def _classified(self, step: Step, h: Array, classifier: Weight, ids: slice = slice(None)) -> Array:
        """Logits of rows h for the ids that these rows of the classifier stand for."""
        out = self.ops.matmul(step, "lm_head", h, classifier)
        if self.config.block.other_bias:
            out = self.ops.bias(step, "lm_head", out, np.asarray(self._outer("lm_head_bias"))[ids])
        return self.ops.logits(step, out)

    def _turns(self, pos: Array) -> Array:
        """Rotary angles as complex numbers of length 1, (n_tokens, 1, rotary_dim / 2), from a table by position."""
        self._turn(int(pos[-1]) if len(pos) == 1 else int(pos.max()))
        return self._turn_table[pos]

    def _turn(self, pos: int) -> Array:
        """The same for one position, (1, rotary_dim / 2)."""
        if pos >= len(self._turn_table):
            n = max(self.config.seq_len, pos + 1)
            cos, sin = self.ops.angles(Step(self.config, -1, np.arange(n), self.dtype, {}))
            self._turn_table = (cos + 1j * sin)[:, None, :]
        row: Array = self._turn_table[pos]
        return row

    def _show_scores(self, step: Step, q: Array, k: Array) -> None:
        """Leave the scores (T, H, S) of queries (T, H, head_dim) and cached keys (S, G, head_dim) for the tap."""
        scores = self.ops.scores(step, q[None], k[None, :, self.ops.head_map(step)])
        step.values[SCORES] = self.ops.scale(step, scores)[0].transpose(1, 0, 2)

    def _sees_all(self, n_keys: int) -> bool:
        """Whether the last of so many tokens still sees the first."""
        window = self.config.block.window
        return window is None or n_keys <= window

    def _attend_alone(self, step: Step, q: Array, k: Array, v: Array) -> Array:
        """Attention of one whole sequence that starts at position 0: q (T, H, head_dim), k and v (T, G, head_dim)."""
        if _SHOWS in step.memo:
            self._show_scores(step, q, self.ops.cached_k(step, k))
        if self._fuses_attention and _SHOWS not in step.memo and self._sees_all(len(k)):
            return causal_attention(q, k, v, start=0)
        ops = self.ops
        seen = ops.mask(step)
        n_slots = seen.shape[1]
        k, v = ops.cached_k(step, k), ops.cached_v(step, v)
        if not np.array_equal(step.pos, np.arange(n_slots)):  # a replaced step moved or widened the slots
            slots = step.pos[step.pos < n_slots]
            k, v = (_scattered(rows[: len(slots)], slots, n_slots) for rows in (k, v))
        mixed: Array = attention_by_steps(ops, step, q[None], k[None], v[None], seen)[0]
        return mixed

    # -- prefill of many sequences -------------------------------------------------------------------------------

    @np.errstate(over="ignore")  # exp of a large gate
    def score(
        self,
        sequences: Sequence[Sequence[int]],
        consumer: Consumer,
        *,
        first: Sequence[int] | None = None,
        tap: Tap | None = None,
    ) -> None:
        """Feed whole sequences and hand the logits of the wanted positions to the consumer, block by block.

        Args:
            sequences: token ids, BOS included; any lengths up to seq_len (more is computed as if it fitted).
            consumer: takes the logits; rows are numbered through all sequences in order.
            first: for each sequence the first position whose logits are wanted (default 0); the last position's
                are included.
            tap: called with every value; give one sequence only, since chunks and steps are not told apart.
        """
        lengths = [len(s) for s in sequences]
        starts = [0] * len(lengths) if first is None else list(first)
        if not sum(lengths):
            return
        if self.ops.in_decode_order:
            self._score_in_decode_order(sequences, starts, consumer, tap)
            return
        ids = np.concatenate([np.asarray(s, np.int64) for s in sequences])
        pos = self.ops.position(self.config, np.concatenate([np.arange(n) for n in lengths]))
        ends = np.cumsum(lengths)
        begins = ends - lengths
        chunks = list(_chunks(begins, ends))
        memos: list[dict[str, Any]] = [{_SHOWS: True} if tap else {} for _ in chunks]

        step = Step(self.config, -1, pos, self.dtype, {})
        x = self.ops.embed(step, self._table(), ids)
        if tap:
            tap("embedding", -1, x)
        for index in self.ops.layer_order(self.config):
            weights = self.layer(index)
            for (begin, end, members), memo in zip(chunks, memos, strict=True):
                spans = [(begins[m] - begin, ends[m] - begin) for m in members]
                step = Step(self.config, index, pos[begin:end], self.dtype, memo)
                x[begin:end] = self._block(step, x[begin:end], weights, self._attend_spans(spans), tap)
            del weights
        wanted = np.concatenate([np.arange(b + s, e) for b, s, e in zip(begins, starts, ends, strict=True)])
        self._classify(x[wanted], pos[wanted], consumer, tap)

    def _attend_spans(self, spans: list[tuple[int, int]]) -> Callable[[Step, Array, Array, Array], Array]:
        def attend(step: Step, q: Array, k: Array, v: Array) -> Array:
            if len(spans) == 1:
                return self._attend_alone(step, q, k, v)
            out = np.empty(q.shape, q.dtype)
            for a, b in spans:
                here = Step(step.config, step.layer, step.pos[a:b], step.dtype, {}, step.values)
                out[a:b] = self._attend_alone(here, q[a:b], k[a:b], v[a:b])
            return out

        return attend

    def _classify(self, x: Array, pos: Array, consumer: Consumer, tap: Tap | None = None) -> None:
        """Final norm and classifier of rows x, in blocks of ids and rows: a block of the classifier is read once."""
        h = self._final(Step(self.config, -1, pos, self.dtype, {}), x)
        if tap:
            tap("final_norm", -1, h)
        if isinstance(consumer, Judged) and self._screens and not tap:
            exact = self.ops.weight(self.config, -1, "lm_head", self._lookup)
            if isinstance(exact, np.ndarray) and exact.dtype == np.float32:
                self._largest_norm = self._largest_norm or largest_norm(exact)
                found = screened(h, exact, consumer.chosen, self._largest_norm)
                if found:
                    consumer.settle(*found)
                    return
        whole = tap is not None or self._keeps  # a large one is cast block by block
        classifier = self._outer("lm_head") if whole else self.ops.weight(self.config, -1, "lm_head", self._lookup)
        n_rows = len(x) if tap else _CLASSIFIER_ROWS  # a tap sees whole values
        for first_id, uncast in [(0, classifier)] if tap else _vocab_blocks(classifier):
            block = uncast if isinstance(uncast, QuantTensor) else np.asarray(uncast, self.dtype)
            ids = slice(first_id, first_id + block.shape[0])
            for begin in range(0, len(x), n_rows):
                rows = slice(begin, min(begin + n_rows, len(x)))
                step = Step(self.config, -1, pos[rows], self.dtype, {})
                logits = self._classified(step, h[rows], block, ids)
                if tap:
                    tap("logits", -1, logits)
                consumer.take(rows, first_id, logits)

    def _score_in_decode_order(
        self, sequences: Sequence[Sequence[int]], starts: Sequence[int], consumer: Consumer, tap: Tap | None
    ) -> None:
        offsets = np.cumsum([0] + [len(s) - f for s, f in zip(sequences, starts, strict=True)])
        lockstep = Lockstep(self, len(sequences))
        for position in range(max(len(s) for s in sequences)):
            ids = np.array([s[position] if position < len(s) else 0 for s in sequences])
            logits = lockstep.step(ids, tap=tap)
            for i, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
                if start <= position < len(sequence):
                    row = int(offsets[i]) + position - start
                    consumer.take(slice(row, row + 1), 0, logits[i : i + 1])

    def judge(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> list[Judged]:
        """Judge the tokens of sequences from index first[i] on: one pass over all of them.

        Token t of a sequence is judged by the logits of position t - 1. Returns one Judged per sequence; entry j
        belongs to token first[i] + j.
        """
        fed = [s[:-1] for s in sequences]
        wanted = [f - 1 for f in first]
        chosen = [np.asarray(s[f:], np.int64) for s, f in zip(sequences, first, strict=True)]
        judged = Judged(np.concatenate(chosen) if chosen else np.zeros(0, np.int64))
        self.score(fed, judged, first=wanted)
        parts = []
        at = 0
        for part in chosen:
            rows = slice(at, at + len(part))
            one = Judged(part)
            one.best, one.best_logit = judged.best[rows], judged.best_logit[rows]
            one.chosen_logit = judged.chosen_logit[rows]
            parts.append(one)
            at += len(part)
        return parts

    def top_two(self, sequence: Sequence[int], first: int) -> TopTwo:
        """The two best tokens after each position from `first` on, the last one included."""
        found = TopTwo(len(sequence) - first)
        self.score([sequence], found, first=[first])
        return found

    def logits(self, sequence: Sequence[int], first: int = 0, tap: Tap | None = None) -> Array:
        """Logits (n_positions, vocab_size) of one sequence from position `first` on."""
        kept = Rows(len(sequence) - first, self.config.vocab_size, self.dtype)
        self.score([sequence], kept, first=[first], tap=tap)
        return kept.logits

    @np.errstate(over="ignore")  # exp of a large gate
    def forward(
        self,
        ids: Array,
        pos: Array,
        attend: Callable[[Step, Array, Array, Array], Array],
        *,
        last: bool = False,
        tap: Tap | None = None,
    ) -> Array:
        """Run one pass, layers in order, whoever keeps the cache.

        Args:
            ids: (n_tokens,) int64.
            pos: (n_tokens,) absolute positions, or (1,) where all tokens stand at the same.
            attend: mixes q, k, v of these tokens with what is cached, as `Session` and `Lockstep` do.
            last: only the last token's logits are wanted.
            tap: called with every value of these tokens.

        Returns:
            (n_tokens, vocab_size) logits, or (1, vocab_size).
        """
        ops, config, dtype = self.ops, self.config, self.dtype
        memo: dict[str, Any] = {_SHOWS: True} if tap else {}
        step = Step(config, -1, pos, dtype, memo)
        x = ops.embed(step, self._table(), ids)
        if tap:
            tap("embedding", -1, x)
        for layer in ops.layer_order(config):
            x = self._block(Step(config, layer, pos, dtype, memo), x, self.layer(layer), attend, tap)
        if last and not tap:
            x, step.pos = x[-1:], pos[-1:]
        h = self._final(step, x)
        logits = self._classified(step, h, self._outer("lm_head"))
        if tap:
            tap("final_norm", -1, h)
            tap("logits", -1, logits)
        return logits[-1:] if last else logits

    def single_pass(self, cache: InPlace) -> SinglePass | None:
        """The quick way to decode with this cache; None where a step is replaced, or block or weights are others."""
        if not self._has_single_pass:
            return None
        self.warm()
        layers = [(index, self.layer(index)) for index in self.ops.layer_order(self.config)]
        if len(layers) != self.config.n_layers or len({index for index, _ in layers}) != len(layers):
            return None  # a replaced order: a layer's part of the cache is then filled otherwise
        final_norm, lm_head = self._outer("final_norm"), self._outer("lm_head")
        assert not isinstance(final_norm, QuantTensor)
        matrices = [w for _, one in layers for w in (*one.wqkv, one.wo, *one.w_gate_up, one.w_down)]
        if isinstance(lm_head, QuantTensor) or any(isinstance(w, QuantTensor) for w in matrices):
            return None
        return SinglePass(self.config, layers, final_norm, lm_head, self._turn, cache)

    @np.errstate(over="ignore")  # exp of a large gate
    def fed(self, single: SinglePass, token: int, pos: int) -> Array:
        """Run one token by the quick way; return its logits (1, vocab_size)."""
        step = Step(self.config, -1, np.array([pos]), self.dtype, {})
        return single.step(self.ops.embed(step, self._table(), np.array([token]))[0], pos)

    def session(self, *, cache: CacheKind = "in-place", capacity: int | None = None) -> Session:
        """Start a sequence that grows token by token (or chunk by chunk)."""
        return Session(self, cache=cache, capacity=capacity or self.config.seq_len)


class Session:
    """One sequence and its cache.

    Args:
        engine: the model.
        cache: "in-place", "concat", or "none" (everything is computed again at every call).
        capacity: positions that the in-place cache can hold.
    """

    def __init__(self, engine: Engine, *, cache: CacheKind, capacity: int) -> None:
        self._engine = engine
        self._kind = cache
        self._capacity = capacity
        self._cache = make_cache(cache, engine.config, capacity, engine.dtype)
        self.ids: list[int] = []
        self._single: SinglePass | None = None
        self._seeks_single = isinstance(self._cache, InPlace)
        plain = engine._plain_cache and not engine.ops.in_decode_order
        self._lockstep = None if plain else Lockstep(engine, 1)

    def __len__(self) -> int:
        return len(self.ids)

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        if length < len(self.ids) and self._lockstep is not None:
            self._lockstep = Lockstep(self._engine, 1)
            kept, self.ids = self.ids[:length], []
            if kept:
                self.extend(kept)
            return
        del self.ids[length:]
        self._cache.truncate(length)

    def extend(self, ids: Sequence[int], *, all_logits: bool = False, tap: Tap | None = None) -> Array:
        """Feed ids; return the logits after the last, (1, vocab_size), or after each, (len(ids), vocab_size).

        A tap is called with every value of these ids (of all so far, where there is no cache).
        """
        if len(self.ids) + len(ids) > self._capacity:
            raise ValueError(f"{len(self.ids) + len(ids)} positions, the cache holds {self._capacity}")
        if self._lockstep is not None:
            self.ids.extend(ids)
            rows = [self._lockstep.step(np.array([token]), tap=tap) for token in ids]
            return np.concatenate(rows) if all_logits else rows[-1]
        if self._kind == "none":
            self._cache.truncate(0)
            n_wanted = len(ids) if all_logits else 1
            self.ids.extend(ids)
            return self._feed(self.ids, 0, last=not all_logits, tap=tap)[-n_wanted:]
        start = len(self.ids)
        self.ids.extend(ids)
        return self._feed(ids, start, last=not all_logits, tap=tap)

    def _feed(self, ids: Sequence[int], start: int, *, last: bool, tap: Tap | None) -> Array:
        if len(ids) == 1 and tap is None:
            if self._seeks_single and isinstance(self._cache, InPlace):
                self._single, self._seeks_single = self._engine.single_pass(self._cache), False
            if self._single is not None:
                return self._engine.fed(self._single, ids[0], start)
        pos = np.arange(start, start + len(ids))
        return self._engine.forward(np.asarray(ids, np.int64), pos, self._attend, last=last, tap=tap)

    def _attend(self, step: Step, q: Array, k: Array, v: Array) -> Array:
        keys, values = self._cache.append(step.layer, k, v)
        if _SHOWS in step.memo:
            self._engine._show_scores(step, q, keys)
        if self._engine._fuses_attention and _SHOWS not in step.memo and self._engine._sees_all(len(keys)):
            if len(q) == 1:
                return single_query_attention(q, keys, values)
            return causal_attention(q, keys, values, start=len(keys) - len(q))
        seen = self._engine.ops.mask(step)
        mixed: Array = attention_by_steps(self._engine.ops, step, q[None], keys[None], values[None], seen)[0]
        return mixed


class Lockstep:
    """Many sequences, one position a step, with a flat cache per sequence laid out and written as llama2.c does."""

    def __init__(self, engine: Engine, n_sequences: int) -> None:
        config = engine.config
        # Room behind the last row: a replaced cache_row or position may reach past the proper end.
        size = (config.n_layers * config.seq_len + 1) * config.kv_dim + config.seq_len * config.dim
        self._engine = engine
        self._k = np.zeros((n_sequences, size), engine.dtype)
        self._v = np.zeros((n_sequences, size), engine.dtype)
        self._position = 0

    def step(self, ids: Array, *, tap: Tap | None = None) -> Array:
        """Feed one token of each sequence; return logits (n_sequences, vocab_size)."""
        engine = self._engine
        pos = engine.ops.position(engine.config, np.array([self._position]))
        self._position += 1
        return engine.forward(np.asarray(ids, np.int64), pos, self._attend, tap=tap)

    def _attend(self, step: Step, q: Array, k: Array, v: Array) -> Array:
        config, ops = step.config, self._engine.ops
        n = len(q)
        columns = np.arange(config.kv_dim)
        row = ops.cache_row(config, step.layer, step.pos)[:, None] + columns
        self._k[:, row[0]] = ops.cached_k(step, k).reshape(n, -1)
        self._v[:, row[0]] = ops.cached_v(step, v).reshape(n, -1)
        seen = ops.mask(step)
        rows = ops.cache_row(config, step.layer, np.arange(seen.shape[1]))[:, None] + columns
        shape = (n, seen.shape[1], config.n_kv_heads, config.head_dim)
        keys, values = self._k[:, rows].reshape(shape), self._v[:, rows].reshape(shape)
        if _SHOWS in step.memo:
            self._engine._show_scores(step, q, keys[0])
        mixed: Array = attention_by_steps(ops, step, q[:, None], keys, values, seen)[:, 0]
        return mixed


def _stacked(parts: Sequence[Weight], dtype: npt.DTypeLike) -> Weight:
    """Join matrices, so that one product computes all; floats are cast on their way, and exist once."""
    arrays = [p for p in parts if not isinstance(p, QuantTensor)]
    if len(arrays) == len(parts):
        return np.concatenate(arrays, dtype=dtype)
    tensors = [p for p in parts if isinstance(p, QuantTensor)]
    return QuantTensor(
        codes=np.concatenate([t.codes for t in tensors]),
        scales=np.concatenate([t.scales for t in tensors]),
        group_size=tensors[0].group_size,
    )


def _scattered(rows: Array, slots: Array, n_slots: int) -> Array:
    out = np.zeros((n_slots, *rows.shape[1:]), rows.dtype)
    out[slots] = rows
    return out


def _chunks(begins: Array, ends: Array) -> Iterator[tuple[int, int, list[int]]]:
    """Group whole sequences into chunks of about _ROWS tokens: (begin, end, indices of the sequences)."""
    members: list[int] = []
    for i in range(len(begins)):
        if members and ends[i] - begins[members[0]] > _ROWS:
            yield int(begins[members[0]]), int(ends[members[-1]]), members
            members = []
        members.append(i)
    yield int(begins[members[0]]), int(ends[members[-1]]), members


def _vocab_blocks(classifier: Weight) -> Iterator[tuple[int, Weight]]:
    """Cut a classifier into blocks of rows that start at a group boundary: (first id, block)."""
    n = classifier.shape[0]
    if not isinstance(classifier, QuantTensor):
        for first in range(0, n, _VOCAB_BLOCK):
            yield first, classifier[first : first + _VOCAB_BLOCK]
        return
    width, size = classifier.shape[1], classifier.group_size
    aligned = size // math.gcd(width, size)  # every so many rows a row starts a group
    block = max(aligned, _VOCAB_BLOCK // aligned * aligned)
    for first in range(0, n, block):
        codes = classifier.codes[first : first + block]
        begin = first * width // size
        scales = classifier.scales[begin : begin + codes.size // size + (codes.size % size > 0)]
        yield first, QuantTensor(codes=codes, scales=scales, group_size=size)
