"""The white-box tracer: which operation is wrong while its inputs are right.

A program records what it computes (docs/trace.md). The reference then computes every operation by itself *from the
program's own recorded inputs*, so nothing cascades: each operation is judged alone, by what it made of what it was
given. An operation is wrong where its output is further from float64 than `MULTIPLE` times the noise floor of that
very row: the largest distance among honest ways to compute it from the same inputs (library products, left-to-right
float32 sums, inputs moved by one unit in the last place), and the spacing of the values that were recorded.

It is the engine that runs, with every operation wrapped: its result is noted, and what the program recorded goes on
in its place. Where a program records less, what is between two records is judged as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.engine import LIBRARY, STRICT, Engine, Ops, blas_threads
from harness.engine.honest import turned_angles
from harness.engine.ops import Step, Weight
from harness.errors import TraceFormatError
from harness.model_config import ModelConfig
from harness.results import WrongOperation
from harness.trace.points import IN_LAYER, SCORES
from harness.trace.stream import TOKEN, Record

__all__ = ["MULTIPLE", "ORDER", "Checked", "check_trace", "explanations", "token_ids"]

Array = npt.NDArray[Any]
Key = tuple[str, int]
Book = dict[Key, tuple[Array, Array]]  # rows (n_tokens, width) float32, and whether each is there

MULTIPLE = 4.0
_ULP = float(np.finfo(np.float32).eps)
_SEEDS = (1, 2)
_MORE_SEEDS = range(3, 17)  # where something seems wrong: in a row of few numbers, what two seeds move may cancel
# Half a unit of the last place of what is recorded, relative: a declared precision rounds every value to it.
_SPACING = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8, "q8": 2.0**-24}

_AT = IN_LAYER.index("attn_mix")
_POINTS = (*IN_LAYER[:_AT], SCORES, *IN_LAYER[_AT:])
ORDER = ("embedding", *_POINTS, "final_norm", "logits")
_OF_PRODUCT = {
    "wq": "q_raw",
    "wk": "k_raw",
    "wv": "v",
    "wo": "attn_out",
    "w_gate": "gate",
    "w_up": "up",
    "w_down": "ffn_out",
    "attn_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "final_norm": "final_norm",
}


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of one trace.

    Attributes:
        wrong: every operation that is wrong, each by its first row, in the order of computation: position, layer,
            operation. Empty for a right program.
        ratios: (point, layer) to (n_tokens,) distance over floor, NaN where nothing was recorded.
        n_judged: rows that were judged.
    """

    wrong: tuple[WrongOperation, ...]
    ratios: Mapping[Key, Array]
    n_judged: int

    @property
    def first(self) -> WrongOperation | None:
        return self.wrong[0] if self.wrong else None


def token_ids(records: Iterable[Record]) -> list[int]:
    """The ids that were fed, by the records `token`, from position 0 up to the first that is missing."""
    found = {r.position: r.values for r in records if r.name == TOKEN}
    ids: list[int] = []
    while len(ids) in found:
        values = found[len(ids)]
        if len(values) != 1 or not float(values[0]).is_integer():
            raise TraceFormatError(f"record {TOKEN} of position {len(ids)} is no id: {values[:4].tolist()}")
        ids.append(int(values[0]))
    return ids


def check_trace(
    config: ModelConfig,
    tensors: Mapping[str, Weight],
    records: Sequence[Record],
    *,
    ids: Sequence[int] | None = None,
    declared: Sequence[Ops] = (),
    precision: str = "f32",
) -> Checked:
    """Judge every recorded operation of a run.

    Args:
        config, tensors: the model that the program ran.
        records: its trace; of two records of one place the later counts.
        ids: the tokens that were fed; by default those that the trace names.
        declared: simulations of a declared lower precision, whose distance is honest too.
        precision: that precision ("f32", "f16", "bf16", "q8").

    Raises:
        TraceFormatError: a record has not the shape that the model gives it, or no token is known.
    """
    run = _Run.of(config, tensors, records, ids)
    exact = run.outputs(LIBRARY, np.float64)
    floors = {key: _SPACING[precision] * _largest(values) for key, values in exact.items()}
    is_int8 = not all(isinstance(value, np.ndarray) for value in tensors.values())

    def checked(members: Iterable[tuple[Ops, npt.DTypeLike, int | None]]) -> Checked:
        for ops, dtype, seed in members:
            for key, values in run.outputs(ops, dtype, seed=seed).items():
                np.maximum(floors[key], _largest(values - exact[key]), out=floors[key])
        # int8: rounding flips at one row or another, so that one row's floor is a lottery.
        of_all = {key: np.full_like(floor, floor.max(initial=0)) for key, floor in floors.items()}
        return _judged(run.book, exact, of_all if is_int8 else floors)

    members: list[tuple[Ops, npt.DTypeLike, int | None]] = [(LIBRARY, np.float32, None), (STRICT, np.float32, None)]
    members += [(LIBRARY, np.float64, seed) for seed in _SEEDS]
    members += [(replace(LIBRARY, angles=turned_angles(unit)), np.float64, None) for unit in (-_ULP, _ULP)]
    members += [(ops, np.float32, None) for ops in declared]
    first = checked(members)
    return checked((LIBRARY, np.float64, seed) for seed in _MORE_SEEDS) if first.wrong else first


def explanations(
    config: ModelConfig,
    tensors: Mapping[str, Weight],
    records: Sequence[Record],
    faults: Iterable[tuple[str, Ops]],
    *,
    ids: Sequence[int] | None = None,
) -> list[str]:
    """Which wrong operations give all that was recorded, each value from its recorded inputs.

    Args:
        faults: name and operations of each that is tried; those that need decode order are passed over.

    Returns:
        The names of those that fit everywhere, within the same limit that a right program is held to.
    """
    run = _Run.of(config, tensors, records, ids)
    names = []
    for name, ops in faults:
        if ops.in_decode_order:
            continue
        try:
            expected = run.outputs(ops, np.float64)
            floors = {key: _SPACING["f32"] * _largest(values) for key, values in expected.items()}
            members: tuple[tuple[npt.DTypeLike, int | None], ...] = ((np.float32, None), (np.float64, _SEEDS[0]))
            for dtype, seed in members:
                for key, values in run.outputs(ops, dtype, seed=seed).items():
                    np.maximum(floors[key], _largest(values - expected[key]), out=floors[key])
        except (ArithmeticError, IndexError, ValueError, TypeError):
            continue  # this fault cannot be on this model
        if not _judged(run.book, expected, floors).wrong:
            names.append(name)
    return names


# ---- what was recorded -------------------------------------------------------------------------------------------


def _widths(config: ModelConfig) -> dict[str, int]:
    dim, q_dim, kv_dim = config.dim, config.q_dim, config.kv_dim
    return {
        **dict.fromkeys(("embedding", "attn_norm", "attn_out", "attn_residual", "ffn_norm", "ffn_out"), dim),
        **dict.fromkeys(("ffn_residual", "final_norm"), dim),
        **dict.fromkeys(("q_raw", "q", "attn_mix"), q_dim),
        **dict.fromkeys(("k_raw", "k", "v"), kv_dim),
        **dict.fromkeys(("gate", "up", "ffn_mix"), config.hidden_dim),
        "logits": config.vocab_size,
    }


def _recorded(config: ModelConfig, n_tokens: int, records: Iterable[Record]) -> Book:
    """Arrange records as (n_tokens, width) arrays and (n_tokens,) whether there is a row. Scores: (H * n_tokens)."""
    widths = _widths(config)
    book: Book = {}
    for record in records:
        if record.name == TOKEN or record.position >= n_tokens:
            continue
        where = f"{record.name} of layer {record.layer}, position {record.position}"
        if record.layer >= config.n_layers:
            raise TraceFormatError("there is no such layer", where=where, expected=f"below {config.n_layers}")
        is_scores = record.name == SCORES
        n = config.n_heads * (record.position + 1) if is_scores else widths[record.name]
        if len(record.values) != n:
            raise TraceFormatError(
                "has another length", where=where, expected=f"{n} values", actual=len(record.values)
            )
        width = config.n_heads * n_tokens if is_scores else n
        key = record.name, record.layer
        if key not in book:
            book[key] = np.zeros((n_tokens, width), np.float32), np.zeros(n_tokens, bool)
        rows, there = book[key]
        if is_scores:
            rows[record.position].reshape(config.n_heads, -1)[:, : record.position + 1] = record.values.reshape(
                config.n_heads, -1
            )
        else:
            rows[record.position] = record.values
        there[record.position] = True
    return book


# ---- what each operation makes of it -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    """What was fed and what was recorded, ready to be computed again one operation at a time."""

    config: ModelConfig
    tensors: Mapping[str, Weight]
    ids: list[int]
    book: Book

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        tensors: Mapping[str, Weight],
        records: Sequence[Record],
        ids: Sequence[int] | None,
    ) -> _Run:
        fed = list(ids) if ids is not None else token_ids(records)
        if not fed:
            raise TraceFormatError("no token is recorded", expected=f"a record {TOKEN} at every position")
        if not all(0 <= token < config.vocab_size for token in fed):
            raise TraceFormatError(f"a token is none of the {config.vocab_size} of the vocabulary")
        return cls(config, tensors, fed, _recorded(config, len(fed), records))

    def outputs(self, ops: Ops, dtype: npt.DTypeLike, *, seed: int | None = None) -> dict[Key, Array]:
        """Run every operation on recorded inputs: (point, layer) to its own output, (n_tokens, width).

        With a seed, what goes on is moved by a unit in the last place, up or down.
        """
        n = len(self.ids)
        noted: dict[Key, Array] = {}
        random = np.random.default_rng(seed)

        def take(name: str, layer: int, value: Array) -> Array:
            # Scores come as (1, H, T, S): rows are tokens here.
            is_scores = name == SCORES
            flat = (value[0].transpose(1, 0, 2) if is_scores else value).reshape(n, -1)
            noted[name, layer] = flat.astype(np.float64)
            if (name, layer) in self.book:
                rows, there = self.book[name, layer]
                flat = np.where(there[:, None], rows, flat).astype(value.dtype)
            if seed is not None:
                flat = flat * (1 + random.choice([-_ULP, _ULP], size=flat.shape))
            return (
                flat.reshape(n, value.shape[1], -1).transpose(1, 0, 2)[None]
                if is_scores
                else flat.reshape(value.shape)
            )

        engine = Engine(self.config, self.tensors, dtype=dtype, ops=_wrapped(ops, self.config, take))
        with blas_threads(1), np.errstate(all="ignore"):
            engine.logits(self.ids, tap=lambda *_: None)
        return noted


def _wrapped(ops: Ops, config: ModelConfig, take: Callable[[str, int, Array], Array]) -> Ops:
    """The operations, each handing its output to `take` and going on with what that returns."""
    block = config.block
    biased = set(("wq", "wk", "wv") if block.qkv_bias else ())
    biased |= set(("wo", "w_gate", "w_up", "w_down") if block.other_bias else ())
    biased |= set(("attn_norm", "ffn_norm", "final_norm") if block.norm == "layer" else ())

    def after(name: str, of: Callable[..., Array]) -> Callable[..., Array]:
        def wrapped(step: Step, *args: Any) -> Array:
            value = of(step, *args)
            return value if name in biased else take(name, step.layer, value)

        return wrapped

    def matmul(step: Step, name: str, x: Array, w: Weight) -> Array:
        value = ops.matmul(step, name, x, w)
        return value if name in biased or name not in _OF_PRODUCT else take(_OF_PRODUCT[name], step.layer, value)

    def bias(step: Step, name: str, x: Array, b: Array) -> Array:
        value = ops.bias(step, name, x, b)
        return take(_OF_PRODUCT[name], step.layer, value) if name in _OF_PRODUCT else value

    wrapped = replace(
        ops,
        embed=after("embedding", ops.embed),
        attn_norm=after("attn_norm", ops.attn_norm),
        ffn_norm=after("ffn_norm", ops.ffn_norm),
        final_norm=after("final_norm", ops.final_norm),
        matmul=matmul,
        bias=bias,
        rotate_q=after("q", ops.rotate_q),
        rotate_k=after("k", ops.rotate_k),
        scale=after(SCORES, ops.scale),
        mixed=after("attn_mix", ops.mixed),
        attn_residual=after("attn_residual", ops.attn_residual),
        ffn_residual=after("ffn_residual", ops.ffn_residual),
        logits=after("logits", ops.logits),
    )
    if block.is_gated:
        return replace(wrapped, gated=after("ffn_mix", ops.gated))
    return replace(wrapped, activation=after("ffn_mix", ops.activation))


# ---- the verdict -------------------------------------------------------------------------------------------------


def _largest(values: Array) -> Array:
    """The largest magnitude of each row; 0 where a row has no finite value."""
    out: Array = np.abs(np.where(np.isfinite(values), values, 0)).max(axis=1)
    return out


def _judged(book: Book, exact: Mapping[Key, Array], floors: Mapping[Key, Array]) -> Checked:
    ratios: dict[Key, Array] = {}
    wrong: list[WrongOperation] = []
    n_judged = 0
    computed = list(exact)
    for key, (rows, there) in book.items():
        if key not in exact:
            continue
        off = _distances(key, rows, exact[key])
        distance = off.max(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(distance > 0, distance / floors[key], 0.0)
        ratios[key] = np.where(there, ratio, np.nan)
        n_judged += int(there.sum())
        bad = np.flatnonzero(there & ~(ratio <= MULTIPLE))
        if len(bad):
            row = int(bad[0])
            index = int(off[row].argmax())
            wrong.append(
                WrongOperation(
                    name=key[0],
                    layer=key[1],
                    position=row,
                    since=_since(computed, book, key, row),
                    distance=float(distance[row]),
                    floor=float(floors[key][row]),
                    index=index,
                    expected=float(exact[key][row, index]),
                    actual=float(rows[row, index]),
                )
            )
    rank = {key: i for i, key in enumerate(computed)}
    wrong.sort(key=lambda w: (w.position, rank[w.name, w.layer]))
    return Checked(tuple(wrong), ratios, n_judged)


def _distances(key: Key, rows: Array, exact: Array) -> Array:
    """How far each recorded value is off; infinitely, where only one of the two is finite."""
    if key[0] == SCORES:  # a token's scores end with itself
        n = len(rows)
        hidden = np.arange(n)[None, None, :] > np.arange(n)[:, None, None]
        heads = exact.shape[1] // n
        exact = np.where(hidden, 0, exact.reshape(n, heads, n)).reshape(n, -1)
        rows = np.where(hidden, 0, rows.reshape(n, heads, n)).reshape(n, -1)
    with np.errstate(invalid="ignore"):
        off = np.abs(rows.astype(np.float64) - exact)
    same = (rows == exact) | (np.isnan(rows) & np.isnan(exact))
    out: Array = np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf))
    return out


_INPUTS = {
    "attn_norm": ("embedding", "ffn_residual"),
    "q_raw": ("attn_norm",),
    "k_raw": ("attn_norm",),
    "v": ("attn_norm",),
    "q": ("q_raw",),
    "k": ("k_raw",),
    SCORES: ("q", "k"),
    "attn_mix": (SCORES, "v"),
    "attn_out": ("attn_mix",),
    "attn_residual": ("attn_out", "embedding", "ffn_residual"),
    "ffn_norm": ("attn_residual",),
    "gate": ("ffn_norm",),
    "up": ("ffn_norm",),
    "ffn_mix": ("gate", "up"),
    "ffn_out": ("ffn_mix",),
    "ffn_residual": ("ffn_out", "attn_residual"),
    "final_norm": ("ffn_residual",),
    "logits": ("final_norm",),
}


def _since(computed: Sequence[Key], book: Book, key: Key, row: int) -> tuple[str, ...]:
    """The recorded points that an output was judged from; an input without a record counts by its own inputs."""
    found: list[str] = []
    seen: set[Key] = set()
    ahead = [key]
    while ahead:
        name, layer = ahead.pop(0)
        for before in _INPUTS.get(name, ()):
            at = _source(computed, before, name, layer)
            if at is None or at in seen:
                continue
            seen.add(at)
            if at in book and book[at][1][row]:
                found.append(before if at[1] in (layer, -1) else f"{before} of layer {at[1]}")
            else:
                ahead.append(at)
    return tuple(found)


def _source(computed: Sequence[Key], before: str, name: str, layer: int) -> Key | None:
    """Where an operation of a layer finds an input: in its own layer, before the first, or in the last one."""
    into_layer = name in ("attn_norm", "attn_residual")
    n_layers = 1 + max((at for _, at in computed), default=-1)
    if before == "embedding":
        at: Key = ("embedding", -1)
        return at if into_layer and layer == 0 else None
    if before == "ffn_residual" and into_layer:
        return (before, layer - 1) if layer > 0 else None
    if name == "final_norm":
        return before, n_layers - 1
    at = before, layer
    if at not in computed and before == "attn_residual":  # a parallel block
        return None
    return at if at in computed else None
