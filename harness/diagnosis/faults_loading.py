"""Faults of loading: what is read from a checkpoint file, and what conversions make of it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Checkpoint, Tensor
from harness.diagnosis.fault import Fault, ops, reader
from harness.diagnosis.reading import READER, Header, Place, Section
from harness.engine.ops import LIBRARY, STRICT, Step, Weight
from harness.model_config import ModelConfig
from harness.quant import QuantTensor

__all__ = ["CONVERSION", "LOADING"]

Array = npt.NDArray[Any]
_TABLES = ("rope_cos", "rope_sin")


def _reordered(*order: str) -> Callable[[int, ModelConfig], list[Section]]:
    """Version 0's sections with the kinds in another order; "rope" stands for the tables."""

    def sections(version: int, config: ModelConfig) -> list[Section]:
        found = READER.sections(version, config)
        if version != 0:
            return list(found)
        place = {kind: index for index, kind in enumerate(order)}
        return sorted(found, key=lambda section: place[section[0].rpartition(".")[2]])

    return sections


_V0 = (
    "tok_embedding",
    "attn_norm",
    "wq",
    "wk",
    "wv",
    "wo",
    "ffn_norm",
    "w_gate",
    "w_down",
    "w_up",
    "final_norm",
    *_TABLES,
    "lm_head",
)


def _moved(kind: str, behind: str) -> tuple[str, ...]:
    rest = [name for name in _V0 if name != kind]
    rest.insert(rest.index(behind) + 1, kind)
    return tuple(rest)


def _without_tables(version: int, config: ModelConfig) -> list[Section]:
    return [section for section in READER.sections(version, config) if section[0] not in _TABLES]


def _half_tables(version: int, config: ModelConfig) -> list[Section]:
    def halved(section: Section) -> Section:
        name, shape = section
        return (name, (shape[0] // 2, shape[1])) if name in _TABLES else section

    return [halved(section) for section in READER.sections(version, config)]


def _by_layer(version: int, config: ModelConfig) -> list[Section]:
    found = READER.sections(version, config)
    layers = [name for name, _ in found if name.startswith("layers.")]
    shapes = dict(found)
    first = [name for name, _ in found].index(layers[0])
    by_layer = sorted(layers, key=lambda name: int(name.split(".")[1]))
    out = [section for section in found if section[0] not in set(layers)]
    out[first:first] = [(name, shapes[name]) for name in by_layer]
    return out


def _square_keys(version: int, config: ModelConfig) -> list[Section]:
    square = (config.dim, config.dim)
    return [
        (name, square if name.endswith((".wk", ".wv")) else shape) for name, shape in READER.sections(version, config)
    ]


def _v0_order(version: int, config: ModelConfig) -> list[Section]:
    return _without_tables(0, config)


def _final_norm_first(version: int, config: ModelConfig) -> list[Section]:
    found = list(READER.sections(version, config))
    if version != 2:
        return found
    return sorted(found, key=lambda section: section[0] != "final_norm")


def _scales_first(header: Header, found: Sequence[Section]) -> list[Place]:
    def turned(place: Place) -> Place:
        if place.scales_at is None or header.group_size is None:
            return place
        n = place.scales_at - place.at
        return Place(place.name, place.shape, place.at + 4 * (n // header.group_size), place.at)

    return [turned(place) for place in READER.places(header, found)]


def _all_codes_first(header: Header, found: Sequence[Section]) -> list[Place]:
    table = READER.places(header, found)
    out: list[Place] = []
    for place in table:
        group = [other for other in table if _kind(other) == _kind(place)]
        if place.scales_at is None or header.group_size is None:
            out.append(place)
            continue
        n, index = place.scales_at - place.at, group.index(place)
        codes_at, scales_at = group[0].at, group[0].at + n * len(group)
        out.append(
            Place(place.name, place.shape, codes_at + index * n, scales_at + index * 4 * (n // header.group_size))
        )
    return out


def _kind(place: Place) -> str:
    return place.name.rpartition(".")[2]


def _tied_formula(size: int, header: Header, needed: int) -> bool:
    dim, *_, number, _ = header.numbers
    return header.version != 0 or size == needed - (0 if header.is_tied else 4 * abs(number) * dim)


def _written_without_tables(found: Checkpoint, version: int) -> bytes:
    content = READER.written(found, version)
    if version != 0:
        return content
    config = found.config
    n_tables = 4 * config.seq_len * config.head_dim
    n_behind = 0 if config.is_tied else 4 * config.vocab_size * config.dim
    return content[: len(content) - n_tables - n_behind] + content[len(content) - n_behind :]


def _unsigned_embedding(step: Step, table: Weight, ids: Array) -> Array:
    if not isinstance(table, QuantTensor):
        return LIBRARY.embed(step, table, ids)
    n = table.shape[1]
    flat = ids[:, None] * n + np.arange(n)
    out: Array = table.codes[ids].view(np.uint8).astype(np.float32) * table.scales[flat // table.group_size]
    return out


def _unsigned_product(step: Step, name: str, x: Array, w: Weight) -> Array:
    """An unsigned code is the signed one, and 256 more where that is negative: two products of signed codes."""
    if not isinstance(w, QuantTensor):
        return LIBRARY.matmul(step, name, x, w)
    negative = QuantTensor((w.codes < 0).astype(np.int8), w.scales, w.group_size)
    out: Array = STRICT.matmul(step, name, x, w) + np.float32(256) * STRICT.matmul(step, name, x, negative)
    return out


LOADING = (
    Fault(
        "negative-vocab-size",
        "loading",
        "it asks for an absurd amount of memory, or crashes, on models with a classifier of their own",
        "vocab_size is used with its sign",
        "a negative vocab_size means an untied classifier; its absolute value counts",
        reader(vocab_size=lambda number: number),
        as_if="vocab_size were used with its sign, which is negative where the classifier is separate",
    ),
    Fault(
        "negative-vocab-tied",
        "loading",
        "models with a classifier of their own tell the story of the embedding",
        "the sign of vocab_size is dropped, and the embedding always is the classifier",
        "vocab_size < 0: read the classifier at the end of the file",
        reader(tied=lambda number: True),
        as_if="the sign of vocab_size were dropped, and the embedding always were the classifier",
    ),
    Fault(
        "tables-not-skipped",
        "loading",
        "noise on models with a classifier of their own; tied models are right",
        "the classifier is read right after the final norm",
        "skip the two RoPE tables, seq_len * head_size / 2 floats each",
        reader(sections=_without_tables),
        as_if="the classifier were read right behind rms_final_weight, where freq_cis_real and freq_cis_imag are",
    ),
    Fault(
        "tables-not-written",
        "loading",
        "files of models with a classifier of their own are too short by 4 * seq_len * head_dim bytes",
        "an exporter leaves out the RoPE tables that nobody uses",
        "write them, if only as zeros",
        reader(written=_written_without_tables),
        as_if="freq_cis_real and freq_cis_imag were missing from the file: its exporter left them out",
    ),
    Fault(
        "tables-of-other-length",
        "loading",
        "noise on models with a classifier of their own",
        "seq_len is lowered before the tables are skipped",
        "skip by the seq_len of the file",
        reader(sections=_half_tables),
        as_if="seq_len were changed before freq_cis_real and freq_cis_imag are skipped by it",
    ),
    Fault(
        "v0-ffn-norm-second",
        "loading",
        "garbage from the first token on, often a newline",
        "the feed-forward norms are expected right after the attention's, as in version 1",
        "in version 0 they stand between wo and w1",
        reader(sections=_reordered(*_moved("ffn_norm", "attn_norm"))),
        as_if="rms_ffn_weight were read right behind rms_att_weight, as in version 1 of the file",
    ),
    Fault(
        "v0-w3-before-w2",
        "loading",
        "garbage from the first token on",
        "w1, w3, w2 are read in this order",
        "read w1, w2, w3: the down projection is in the middle",
        reader(sections=_reordered(*_moved("w_down", "w_up"))),
        as_if="the feed-forward weights were read in the order w1, w3, w2",
    ),
    Fault(
        "v0-layers-interleaved",
        "loading",
        "garbage from the first token on; a model of one layer is right",
        "all tensors of layer 0 are read, then all of layer 1",
        "the file has rms_att_weight of all layers, then wq of all layers, and so on",
        reader(sections=_by_layer),
        as_if="all weights of layer 0 were read, then all of layer 1, and so on",
    ),
    Fault(
        "wk-wv-square",
        "loading",
        "garbage, or reading behind the end, where heads share keys; right for MHA",
        "wk and wv are taken for dim x dim",
        "they are dim x kv_dim, kv_dim = dim * n_kv_heads / n_heads",
        reader(sections=_square_keys),
        as_if="wk and wv were dim x dim",
    ),
    Fault(
        "v1-in-v0-order",
        "loading",
        "a version 1 file gives garbage",
        "only the header is read as version 1's; the payload is taken to start with the embedding",
        "in version 1 all norms come first, and there are no RoPE tables",
        reader(version=1, sections=_v0_order),
        as_if="the weights of a version 1 file were read in the order of version 0",
    ),
    Fault(
        "header-big-endian",
        "loading",
        "absurd sizes",
        "the header is read in network byte order",
        "little-endian",
        reader(integers=lambda head, at, n: struct.unpack_from(f">{n}i", head, at)),
        as_if="the header were read in network byte order",
    ),
    Fault(
        "header-64-bit",
        "loading",
        "absurd sizes",
        "the header's fields are read as 64-bit integers (long, i64, int in some languages)",
        "seven 32-bit integers",
        reader(integers=lambda head, at, n: struct.unpack_from(f"<{n}q", head.ljust(at + 8 * n, b"\0"), at)),
        as_if="the header's seven numbers were read as 64-bit integers (long, i64, int in some languages)",
    ),
    Fault(
        "size-of-tied-file",
        "loading",
        "it refuses models with a classifier of their own",
        "the file's size is compared with the formula for tied models",
        "add vocab_size * dim floats if vocab_size is negative",
        reader(accepts=_tied_formula),
        as_if="the file's size were checked by the formula for a shared classifier",
    ),
    Fault(
        "v2-header-padded",
        "loading",
        "a division by zero when an int8 file is opened",
        "the header is read as a struct, whose group size is aligned to byte 40",
        "the group size is at byte 37, right behind the flag",
        reader(group_size=lambda head: struct.unpack_from("<i", head, 40)[0]),
        as_if="the header were read as a C struct, whose group size is aligned to byte 40",
    ),
    Fault(
        "v2-group-size-64",
        "loading",
        "garbage, or reading behind the end, unless the file was made with groups of 64",
        "the group size is a constant",
        "read it from byte 37",
        reader(group_size=lambda head: 64),
        as_if="the group size were 64, whatever the header says",
    ),
    Fault(
        "v2-scales-first",
        "loading",
        "NaN logits, <unk> for ever, from int8 files",
        "each tensor's scales are read before its codes",
        "int8 values first, then scales",
        reader(places=_scales_first),
        as_if="each tensor's scales were read before its int8 values",
    ),
    Fault(
        "v2-all-codes-first",
        "loading",
        "NaN logits, <unk> for ever, from int8 files",
        "the codes of all layers of a kind are read, then their scales",
        "each layer's int8 values are followed by its own scales",
        reader(places=_all_codes_first),
        as_if="the int8 values of all layers of one kind were read, then all their scales",
    ),
    Fault(
        "v2-final-norm-first",
        "loading",
        "wrong within a few tokens, from int8 files",
        "the final norm is expected before the norms of the layers",
        "rms_att_weight, rms_ffn_weight, rms_final_weight",
        reader(sections=_final_norm_first),
        as_if="rms_final_weight were read before the norms of the layers",
    ),
    Fault(
        "v2-codes-unsigned",
        "loading",
        "garbage from the first token on, from int8 files",
        "codes are read as unsigned bytes",
        "int8 is signed",
        ops(embed=_unsigned_embedding, matmul=_unsigned_product),
        as_if="int8 values were read as unsigned bytes",
    ),
)


# ---- conversions -------------------------------------------------------------------------------------------------


def _to_halves(w: Array, n_heads: int) -> Array:
    """Meta's rows (2j, 2j + 1) of each head to Hugging Face's (j, j + head_dim / 2)."""
    rows, columns = w.shape
    out: Array = w.reshape(n_heads, rows // n_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return out


def _to_pairs(w: Array, n_heads: int) -> Array:
    """Hugging Face's rows to Meta's."""
    rows, columns = w.shape
    out: Array = w.reshape(n_heads, 2, rows // n_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return out


def _mapped(**functions: Callable[[ModelConfig, Array], Array]) -> Callable[..., dict[str, Tensor]]:
    """Convert tensors by the last part of their name; quantised ones are as they are."""

    def converted(config: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        def one(name: str, tensor: Tensor) -> Tensor:
            function = functions.get(name.rpartition(".")[2])
            return tensor if function is None or isinstance(tensor, QuantTensor) else function(config, tensor)

        return {name: one(name, tensor) for name, tensor in tensors.items()}

    return converted


def _k_by_query_heads(config: ModelConfig, w: Array) -> Array:
    return _to_pairs(_to_halves(w, config.n_kv_heads), config.n_heads)


def _one_axis(config: ModelConfig, w: Array) -> Array:
    """Two shards that were cut by columns, joined by rows."""
    half = w.shape[1] // 2
    return np.concatenate([w[:, :half], w[:, half:]]).reshape(w.shape)


def _untrained(config: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    return {
        name: tensor
        if isinstance(tensor, QuantTensor)
        else (0.02 * rng.standard_normal(tensor.shape) if tensor.ndim == 2 else np.ones(tensor.shape)).astype(
            np.float32
        )
        for name, tensor in tensors.items()
    }


CONVERSION = (
    Fault(
        "hf-rows-kept",
        "loading",
        "position 0 is exact; nonsense after a few tokens",
        "wq and wk come from a Hugging Face model, whose rows are in halves, and are used as they are",
        "reorder the rows of every head from (j, j + head_size / 2) to (2j, 2j + 1)",
        reader(
            converted=_mapped(
                wq=lambda config, w: _to_halves(w, config.n_heads),
                wk=lambda config, w: _to_halves(w, config.n_kv_heads),
            )
        ),
        as_if="wq and wk came from a Hugging Face model, which turns halves of a head, and were used as they are",
    ),
    Fault(
        "hf-rows-reordered-twice",
        "loading",
        "position 0 is exact; fluent for some ten tokens, then nonsense, as with rope-half-split",
        "rows are reordered as for a Hugging Face model, though the weights are Meta's (.pth, .pt, .bin)",
        "leave them as they are",
        reader(
            converted=_mapped(
                wq=lambda config, w: _to_pairs(w, config.n_heads),
                wk=lambda config, w: _to_pairs(w, config.n_kv_heads),
            )
        ),
        as_if="the rows of wq and wk were reordered as for a Hugging Face model, and these weights are Meta's",
    ),
    Fault(
        "hf-k-by-query-heads",
        "loading",
        "position 0 is exact; nonsense after some ten tokens where heads share keys; right for MHA",
        "the rows of wk are reordered in n_heads heads",
        "in n_kv_heads heads",
        reader(converted=_mapped(wk=_k_by_query_heads)),
        as_if="the rows of wk were reordered in n_heads heads instead of n_kv_heads",
    ),
    Fault(
        "hf-k-rows-kept",
        "loading",
        "position 0 is exact; nonsense after some tokens",
        "the rows of wq are reordered, those of wk are not",
        "reorder both",
        reader(converted=_mapped(wk=lambda config, w: _to_halves(w, config.n_kv_heads))),
        as_if="the rows of wq were reordered, as a Hugging Face model's must be, and those of wk were not",
    ),
    Fault(
        "shards-on-one-axis",
        "loading",
        "garbage from the first token on, or a complaint about shapes",
        "all tensors of several consolidated files are joined by rows",
        "wo, w2 and the embedding are cut by columns",
        reader(converted=_mapped(wo=_one_axis, w_down=_one_axis)),
        as_if="the parts of a model in several files were all joined by rows",
    ),
    Fault(
        "prefix-not-stripped",
        "loading",
        "noise: tokens at random",
        "a state dict's names begin with _orig_mod., none matches, and a lenient load keeps the initial weights",
        "strip the prefix, and load strictly",
        reader(converted=_untrained),
        as_if="no weight of the state dict were found (names begin with _orig_mod.), and the initial ones stayed",
    ),
)
