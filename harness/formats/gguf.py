"""GGUF, llama.cpp's format, for the architectures `llama`, `qwen2`, `qwen3` and `phi2`; any other is refused by name.

The container is `gguf_file`'s, the ways of storing numbers `gguf_types`'. Tensors, layer i's with `blk.i.` in front:

    token_embd, attn_norm, attn_q, attn_k, attn_v, attn_output, ffn_norm, ffn_gate, ffn_up, ffn_down, output_norm, and
    output unless it is tied to token_embd; each with `.weight` behind it, and `.bias` where there is one; attn_q_norm
    and attn_k_norm in qwen3. phi2 may have q, k and v in one attn_qkv.

`llama` keeps the pairs that are rotated adjacent, the others half a head apart (see `rotary`). Keys, with the
architecture in front: context_length, embedding_length, block_count, feed_forward_length, attention.head_count,
attention.head_count_kv, attention.layer_norm_rms_epsilon (phi2: layer_norm_epsilon), rope.dimension_count,
rope.freq_base, attention.key_length and value_length where heads have a size of their own, rope.scaling.type and
.factor for linear scaling, attention.sliding_window.

Llama 3.1's scaling is a tensor, rope_freqs.weight (rotary_dim / 2), by which frequencies are divided. Its parameters
cannot be read off it in general, so we write them beside it (rope.scaling.llama3.*), and try the published ones on
files that lack them; a tensor that neither explains is refused.

A window that is shorter than the context is read, and not written: llama.cpp has none for these architectures.

int8 codes in groups of whole blocks of Q8_0 stay as they are; their scales become float16.

Numbers of the configuration are float32 there; the shortest decimal that means the same float32 is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from harness.checkpoint import Checkpoint, LazyTensors, Source, Streamed, Tensor, expected_shapes
from harness.errors import CheckpointError
from harness.formats import gguf_file, gguf_tokenizer, gguf_types, numbers
from harness.formats.format import Format, WriteOptions
from harness.formats.gguf_config import (
    ROPE_FREQS,
    architecture_for,
    architecture_of,
    config_of,
    keys_of,
    rope_factors,
)
from harness.formats.gguf_file import Entry, GgufFile
from harness.formats.gguf_forward import own_logits
from harness.formats.gguf_types import Encoding
from harness.formats.rotary import to_adjacent, to_halves
from harness.formats.stored import dtype_to_store, floats
from harness.model_config import ModelConfig
from harness.quant import QuantTensor

__all__ = ["FORMAT", "read", "write"]

_ENCODINGS = {
    one.word: one for one in (gguf_types.F32, gguf_types.F16, gguf_types.BF16, gguf_types.Q8_0, gguf_types.Q4_0)
}
# llama.cpp's numbers for what most tensors of a file are.
_FILE_TYPES = {"float32": 0, "float16": 1, "q4_0": 2, "q8_0": 7, "bfloat16": 32}
_DTYPES = tuple(_ENCODINGS)
# Values of int8 that are packed at a time: bounds the temporaries to some megabytes, whatever the tensor's size.
_BLOCK_VALUES = 1 << 20

_NAMES = {
    "tok_embedding": "token_embd",
    "attn_norm": "attn_norm",
    "wq": "attn_q",
    "wk": "attn_k",
    "wv": "attn_v",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "w_gate": "ffn_gate",
    "w_up": "ffn_up",
    "w_down": "ffn_down",
    "final_norm": "output_norm",
    "lm_head": "output",
}
_ROTATED = ("wq", "wk", "wq_bias", "wk_bias", "q_norm", "k_norm")


def _stored_name(name: str) -> str:
    """Translate a canonical name.

    >>> _stored_name("layers.3.wq_bias"), _stored_name("tok_embedding")
    ('blk.3.attn_q.bias', 'token_embd.weight')
    """
    *layer, last = name.rsplit(".", 1)
    prefix = layer[0].replace("layers.", "blk.") + "." if layer else ""
    stem = last.removesuffix("_bias")
    return f"{prefix}{_NAMES[stem]}.{'weight' if stem == last else 'bias'}"


# ---- reading -------------------------------------------------------------------------------------


def read(path: Path) -> Checkpoint:
    """Read a checkpoint; its tensors are views of the mapped file, or made from it when asked for.

    Raises:
        CheckpointError: the header cannot be true, the architecture is another, or tensors do not fit it.
    """
    file = gguf_file.read(Path(path))
    architecture = architecture_of(file)
    config = config_of(file, architecture)
    sources: dict[str, Source] = {}
    known = {ROPE_FREQS}
    for name, shape in expected_shapes(config).items():
        place = _place(file, name, shape, config)
        known.add(place.entry.name)
        is_turned = architecture.has_halves and name.rpartition(".")[2] in _ROTATED
        sources[name] = Source(
            shape, place.entry.encoding.word, partial(_load, file, place, shape, config if is_turned else None)
        )
    for name in file.entries:
        if name not in known:
            raise CheckpointError(
                f"tensor {name} is not known",
                path=file.path,
                expected=f"those of {architecture.name}",
                hint="a model of this name with other parts is not supported",
            )
    return Checkpoint(config, LazyTensors(sources), "gguf", path=file.path)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's bytes are: an entry, and its rows from `start` on."""

    entry: Entry
    start: int


def _place(file: GgufFile, name: str, shape: tuple[int, ...], config: ModelConfig) -> _Place:
    stored = _stored_name(name)
    entry, start, rows = file.entries.get(stored), 0, shape[0]
    if entry is None:
        fused = stored.replace("attn_q.", "attn_qkv.").replace("attn_k.", "attn_qkv.").replace("attn_v.", "attn_qkv.")
        entry = file.entries.get(fused) if fused != stored else None
        starts = {"attn_q": 0, "attn_k": config.q_dim, "attn_v": config.q_dim + config.kv_dim}
        if entry is not None:
            start, rows = starts[stored.rsplit(".", 2)[1]], config.q_dim + 2 * config.kv_dim
    if entry is None:
        raise CheckpointError(f"tensor {stored} is missing", path=file.path)
    if entry.shape != (rows, *shape[1:]):
        raise CheckpointError(
            f"tensor {entry.name} has the wrong shape",
            path=file.path,
            expected=(rows, *shape[1:]),
            actual=entry.shape,
        )
    return _Place(entry, start)


def _load(file: GgufFile, place: _Place, shape: tuple[int, ...], turned: ModelConfig | None) -> Tensor:
    encoding = place.entry.encoding
    row = 1 if len(shape) == 1 else shape[1]
    if len(shape) == 1 and encoding.block != 1:  # a quantised vector cannot be cut
        values = gguf_types.dequantize(file.raw(place.entry.name), encoding, place.entry.shape)
        values = values[place.start : place.start + shape[0]]
    else:
        first = encoding.n_bytes(place.start * row)
        raw = file.raw(place.entry.name)[first : first + encoding.n_bytes(shape[0] * row)]
        values = gguf_types.dequantize(raw, encoding, shape)
    return values if turned is None else to_adjacent(values, turned.head_dim, turned.rotary_dim)


# ---- writing -------------------------------------------------------------------------------------


def write(checkpoint: Checkpoint, path: Path, options: WriteOptions) -> None:
    """Write a checkpoint; norms and biases stay float32, matrices are stored as `options.dtype` says.

    Raises:
        CheckpointError: the model does not fit, a weight has no place in the type, or the file cannot be written.
    """
    checkpoint.validate()
    config, tensors = checkpoint.config, Streamed(checkpoint.tensors)
    architecture = architecture_for(config)
    if isinstance(architecture, str):
        raise CheckpointError(f"gguf cannot hold this model: {architecture}", path=checkpoint.path)
    names: dict[str, str] = {}
    entries: list[tuple[str, tuple[int, ...], Encoding]] = []
    for name, shape in expected_shapes(config).items():
        stored = _stored_name(name)
        names[stored] = name
        entries.append((stored, shape, _encoding(checkpoint, name, shape, options)))
    scaling = config.rope_scaling
    if scaling and scaling.kind == "llama3":
        entries.append((ROPE_FREQS, (config.rotary_dim // 2,), gguf_types.F32))
    encodings = {stored: encoding for stored, _, encoding in entries}

    def blocks(stored: str) -> Iterator[NDArray[Any]]:
        if stored == ROPE_FREQS:
            assert scaling is not None
            yield rope_factors(config, scaling)
            return
        name, encoding = names[stored], encodings[stored]
        tensor = tensors[name]
        is_turned = architecture.has_halves and name.rpartition(".")[2] in _ROTATED
        try:
            if isinstance(tensor, QuantTensor) and _keeps_codes(tensor, encoding) and not is_turned:
                yield from _packed(tensor)
                return
            values = floats(tensor)
            if is_turned:
                values = to_halves(values, config.head_dim, config.rotary_dim)
            for piece in numbers.blocks(values):
                yield gguf_types.encode(piece, encoding)
        except ValueError as error:
            raise CheckpointError(f"tensor {name} cannot be stored: {error}", path=checkpoint.path) from error

    kinds = [encoding.word for _, shape, encoding in entries if len(shape) == 2]
    metadata: dict[str, gguf_file.Value] = {
        "general.architecture": architecture.name,
        "general.type": "model",
        "general.quantization_version": 2,
        "general.file_type": _FILE_TYPES[max(kinds, key=kinds.count)],
        **keys_of(config, architecture),
        **gguf_tokenizer.metadata_of(options.tokenizer, path),
    }
    gguf_file.write(path, metadata, entries, blocks, options.progress)
    tensors.release()


def _encoding(checkpoint: Checkpoint, name: str, shape: tuple[int, ...], options: WriteOptions) -> Encoding:
    """Choose how a tensor is stored: vectors as float32, rows that are no whole blocks as float16.

    llama.cpp's own quantiser stores such rows so.
    """
    if len(shape) == 1:
        return gguf_types.F32
    chosen = _ENCODINGS[dtype_to_store(checkpoint, name, options, _DTYPES)]
    return gguf_types.F16 if shape[-1] % chosen.block else chosen


def _keeps_codes(tensor: QuantTensor, encoding: Encoding) -> bool:
    """Whether int8 groups are whole blocks of Q8_0, so that codes stay and only scales are rounded."""
    return encoding is gguf_types.Q8_0 and tensor.group_size % encoding.block == 0


def _packed(tensor: QuantTensor) -> Iterator[NDArray[Any]]:
    codes = tensor.codes.reshape(-1, tensor.group_size)
    step = max(1, _BLOCK_VALUES // tensor.group_size)
    for start in range(0, len(codes), step):
        yield gguf_types.pack_q8_0(codes[start : start + step], tensor.scales[start : start + step])


def _refuses(config: ModelConfig) -> str | None:
    found = architecture_for(config)
    return found if isinstance(found, str) else None


FORMAT = Format(
    name="gguf",
    what="GGUF, as llama.cpp reads it",
    suffixes=(".gguf",),
    detect=lambda path, head: head.startswith(gguf_file.MAGIC),
    read=read,
    write=write,
    dtypes=_DTYPES,
    refuses=_refuses,
    own_logits=own_logits,
    read_tokenizer=gguf_tokenizer.read,
    error_bound=lambda values, word: gguf_types.error_bound(values, _ENCODINGS[word]),
)
