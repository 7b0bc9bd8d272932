"""llama2.c's three checkpoint containers, read as views of the file and written atomically.

Integers are little-endian int32 and floats little-endian IEEE binary32 unless said otherwise; matrices are
row-major (out, in). D dim, F hidden_dim, V vocab_size, S seq_len, hs = dim / n_heads, KV = n_kv_heads * hs.
"All wq" means layer 0's, then layer 1's, and so on.

Version 0 (legacy), the only one that llama2.c's `run` reads. No magic, no version:

    0    7 int32   dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len
                   vocab_size < 0: the classifier has weights of its own, V = -vocab_size
    28   float32   tok_embedding (V, D); all attn_norm (D); all wq (D, D); all wk (KV, D); all wv (KV, D);
                   all wo (D, D); all ffn_norm (D); all w_gate (F, D); all w_down (D, F); all w_up (F, D);
                   final_norm (D); RoPE cosines (S, hs / 2); RoPE sines (S, hs / 2);
                   lm_head (V, D) only if vocab_size < 0

Nobody uses the RoPE tables, but they stand before lm_head and must be skipped. In a tied file nothing follows
them, so programs read such files whatever comes after final_norm. We accept, for tied files only, (a) a file
that ends right after final_norm and (b) surplus bytes after the tables, which is what a seq_len edited
downwards leaves; in both cases `rope_tables` is None. A file that ends inside the tables counts as truncated.

Version 1, float32, and version 2, int8 ("Q8_0"), the only one that `runq` reads:

    0    uint32    magic 0x616b3432 (the bytes "24ka")
    4    int32     version
    8    7 int32   as above; vocab_size positive
    36   uint8     1: the classifier is tok_embedding; 0: it has its own weights
    37   int32     version 2 only: group size GS (unaligned)
    ..   zeros     up to byte 256; not checked
    256  payload, after which the file ends

    version 1      float32: all attn_norm; all ffn_norm; final_norm; tok_embedding; all wq; all wk; all wv;
                   all wo; all w_gate; all w_down; all w_up; lm_head if not tied. No RoPE tables.
    version 2      float32: all attn_norm; all ffn_norm; final_norm. Then the other tensors in the order of
                   version 1, each as its n int8 codes followed at once by its n / GS float32 scales.

None of the three stores RMSNorm's epsilon (1e-5) or RoPE's theta (10000).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint.checkpoint import NORMS, Checkpoint, expected_shapes
from harness.checkpoint.files import opened, replaced
from harness.checkpoint.streamed import Streamed
from harness.checkpoint.tensors import Tensor, is_quantised, without
from harness.errors import CheckpointError
from harness.model_config import Block, ModelConfig
from harness.quant import QuantTensor, quantize_weights

__all__ = ["DEFAULT_GROUP_SIZE", "HEAD_BYTES", "file_bytes", "read", "refuses", "sniff", "write"]

MAGIC = 0x616B3432
HEAD_BYTES = 256
DEFAULT_GROUP_SIZE = 64  # upstream's exporter's

_FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
# Far above any llama, and low enough that text, archives and other headers read as seven ints fall outside.
_LIMITS = dict(zip(_FIELDS, (1 << 18, 1 << 20, 1 << 12, 1 << 12, 1 << 12, 1 << 23, 1 << 24), strict=True))

# The orders in the file; "*" stands for the layers, all of one kind together.
_ATTENTION = ("*wq", "*wk", "*wv", "*wo")
_FEED_FORWARD = ("*w_gate", "*w_down", "*w_up")
_TABLES = ("rope_cos", "rope_sin")
_V0_ORDER = ("tok_embedding", "*attn_norm", *_ATTENTION, "*ffn_norm", *_FEED_FORWARD, "final_norm", *_TABLES)
_V1_ORDER = ("*attn_norm", "*ffn_norm", "final_norm", "tok_embedding", *_ATTENTION, *_FEED_FORWARD)
_ORDER = {0: (*_V0_ORDER, "lm_head"), 1: (*_V1_ORDER, "lm_head"), 2: (*_V1_ORDER, "lm_head")}
_HEADER_BYTES = {0: 28, 1: HEAD_BYTES, 2: HEAD_BYTES}


def sniff(head: bytes) -> str | None:
    """Name the container that a file beginning with these bytes may be, or None.

    Args:
        head: the first HEAD_BYTES bytes, or the whole of a shorter file. Version 0 has no magic: it is
            recognised by seven integers that could be a llama's dimensions, so ask it after every format that
            has one.
    """
    if len(head) >= 8 and struct.unpack_from("<I", head)[0] == MAGIC:
        return f"llama2c-v{struct.unpack_from('<i', head, 4)[0]}"
    if len(head) >= 28 and not _implausible(struct.unpack_from("<7i", head), is_v0=True):
        return "llama2c-v0"
    return None


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint; its tensors are read-only views of the mapped file, nothing is copied.

    Raises:
        CheckpointError: the file cannot be opened, its header is impossible, or its size is not the header's.
    """
    path = Path(path)
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        version, config, group_size = _read_header(file.read(HEAD_BYTES), path)
        has_tables = _check_size(version, config, group_size, size, path)
        content = np.asarray(np.memmap(file, np.uint8, mode="r", shape=(size,)))
    tensors: dict[str, Tensor] = {}
    tables: dict[str, NDArray[np.float32]] = {}
    for name, shape, offset in _layout(version, config, group_size, has_tables):
        if name in _TABLES:
            tables[name] = _floats(content, shape, offset)
        elif group_size is None or _is_float(name):
            tensors[name] = _floats(content, shape, offset)
        else:
            tensors[name] = _quantised(content, shape, offset, group_size)
    return Checkpoint(
        config,
        {name: tensors[name] for name in expected_shapes(config)},
        f"llama2c-v{version}",
        group_size,
        path,
        (tables["rope_cos"], tables["rope_sin"]) if has_tables else None,
    )


def write(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    version: int = 0,
    group_size: int | None = None,
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Write a checkpoint; the file appears complete or not at all.

    Floats are stored as float32. A classifier whose values equal the embedding's is written as tied. Version
    0 keeps the RoPE tables that were read, or computes them.

    Args:
        version: 0, 1 or 2.
        group_size: version 2 only. It must divide every quantised tensor's element count; no other size is
            tried. Default: that of a checkpoint that is quantised already, whose codes are then kept as they
            are, else 64.
        progress: told the bytes written so far, after each tensor.

    Raises:
        CheckpointError: the checkpoint does not fit the container, or the file cannot be written.
    """
    path = Path(path)
    checkpoint.validate()
    checkpoint = _tie(checkpoint)
    _check_writable(checkpoint, version, group_size, path)
    if version == 2:
        group_size = _wanted_group_size(checkpoint, group_size)
        _check_group_size(checkpoint.config, group_size, path)
    checkpoint = replace(checkpoint, tensors=Streamed(checkpoint.tensors))
    with replaced(path) as file:
        file.write(_header(checkpoint.config, version, group_size))
        for name, _, _ in _layout(version, checkpoint.config, group_size, has_tables=True):
            _write_tensor(file, checkpoint, name, group_size)
            progress(file.tell())


def refuses(config: ModelConfig) -> str | None:
    """Say what of a model these files have no place for, though their programs would have to know it; or None."""
    block, plain = config.block, Block()
    found = [
        f"{name} {value} (theirs is {assumed})"
        for name, value, assumed in (
            ("norm_eps", config.norm_eps, 1e-5),
            ("rope_theta", config.rope_theta, 10000.0),
        )
        if value != assumed
    ]
    if config.rope_scaling:
        found.append(f"rope scaling {config.rope_scaling.kind!r}")
    if config.q_dim != config.dim:
        found.append(f"a head_dim of {config.head_dim}, where dim / n_heads is {config.dim / config.n_heads:g}")
    found += [
        f"{field.name} {getattr(block, field.name)}"
        for field in fields(block)
        if getattr(block, field.name) != getattr(plain, field.name)
    ]
    return ", ".join(found) or None


def file_bytes(config: ModelConfig, version: int = 0, group_size: int | None = None) -> int:
    """Size of the file that `write` makes of these dimensions."""
    return _payload_end(version, config, group_size, has_tables=True)


# --- layout ---


def _layout(
    version: int, config: ModelConfig, group_size: int | None, has_tables: bool
) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Yield (name, shape, byte offset) in file order; lazily, as n_layers may be a hostile number."""
    table = (config.seq_len, config.head_dim // 2)
    kinds: dict[str, tuple[int, ...]] = {**expected_shapes(replace(config, n_layers=1))}
    if version == 0 and has_tables:
        kinds |= {"rope_cos": table, "rope_sin": table}
    offset = _HEADER_BYTES[version]
    for pattern in _ORDER[version]:
        shape = kinds.get(pattern.replace("*", "layers.0."))
        if shape is None:
            continue
        n_bytes = _tensor_bytes(pattern, shape, group_size)
        for layer in range(config.n_layers if pattern.startswith("*") else 1):
            yield pattern.replace("*", f"layers.{layer}."), shape, offset
            offset += n_bytes


def _tensor_bytes(name: str, shape: tuple[int, ...], group_size: int | None) -> int:
    n = math.prod(shape)
    return 4 * n if group_size is None or _is_float(name) else n + 4 * (n // group_size)


def _is_float(name: str) -> bool:
    """Whether version 2 stores the tensor as float32."""
    return name.endswith(NORMS)


def _payload_end(version: int, config: ModelConfig, group_size: int | None, has_tables: bool) -> int:
    """Compute the file size in closed form: a hostile n_layers must not cost time."""
    one, two = (_end_by_walk(version, replace(config, n_layers=n), group_size, has_tables) for n in (1, 2))
    return one + (config.n_layers - 1) * (two - one)


def _end_by_walk(version: int, config: ModelConfig, group_size: int | None, has_tables: bool) -> int:
    *_, (name, shape, offset) = _layout(version, config, group_size, has_tables)
    return offset + _tensor_bytes(name, shape, group_size)


# --- reading ---


def _read_header(head: bytes, path: Path) -> tuple[int, ModelConfig, int | None]:
    is_v0 = len(head) < 4 or struct.unpack_from("<I", head)[0] != MAGIC
    need = 28 if is_v0 else HEAD_BYTES
    if len(head) < need:
        raise CheckpointError(
            "the header is cut short",
            path=path,
            where="byte 0",
            expected=f"{need} bytes",
            actual=f"{len(head)}",
        )
    if is_v0:
        numbers = struct.unpack_from("<7i", head)
        problem = _implausible(numbers, is_v0=True)
        if problem:
            field, limit = problem
            raise CheckpointError(
                "not a llama2.c checkpoint: there is no magic number, and read as a version 0 header "
                f"{field} is out of range",
                path=path,
                where=f"byte {4 * _FIELDS.index(field)}",
                expected=limit,
                actual=f"{numbers[_FIELDS.index(field)]:,}",
                hint=_foreign(head),
            )
        return 0, _config(numbers, numbers[5] > 0, path), None
    version = struct.unpack_from("<i", head, 4)[0]
    if version not in (1, 2):
        raise CheckpointError(
            "unknown version", path=path, where="byte 4", expected="1 or 2 behind this magic", actual=version
        )
    numbers = struct.unpack_from("<7i", head, 8)
    problem = _implausible(numbers, is_v0=False)
    if problem:
        field, limit = problem
        index = _FIELDS.index(field)
        raise CheckpointError(
            f"header field {field} is out of range",
            path=path,
            where=f"byte {8 + 4 * index}",
            expected=limit,
            actual=f"{numbers[index]:,}",
        )
    if head[36] > 1:
        raise CheckpointError(
            "the shared-classifier flag is wrong",
            path=path,
            where="byte 36",
            expected="0 or 1",
            actual=head[36],
        )
    config = _config(numbers, bool(head[36]), path)
    if version == 1:
        return 1, config, None
    group_size = struct.unpack_from("<i", head, 37)[0]
    _check_group_size(config, group_size, path)
    return 2, config, group_size


def _implausible(numbers: tuple[int, ...], *, is_v0: bool) -> tuple[str, str] | None:
    """Return the first field that no llama has, with its range in words."""
    for (field, limit), value in zip(_LIMITS.items(), numbers, strict=True):
        signed = is_v0 and field == "vocab_size"
        if not 1 <= (abs(value) if signed else value) <= limit:
            return field, f"{'+/- ' if signed else ''}1 to {limit:,}"
    return None


def _config(numbers: tuple[int, ...], is_tied: bool, path: Path) -> ModelConfig:
    sizes: dict[str, Any] = dict(zip(_FIELDS, numbers, strict=True))
    sizes["vocab_size"] = abs(sizes["vocab_size"])
    try:
        return ModelConfig(**sizes, is_tied=is_tied)
    except ValueError as error:
        raise CheckpointError(f"the header contradicts itself: {error}", path=path) from error


def _check_size(version: int, config: ModelConfig, group_size: int | None, size: int, path: Path) -> bool:
    """Compare the file's size with the header's; return whether RoPE tables are there to be read."""
    expected = _payload_end(version, config, group_size, has_tables=True)
    if size == expected:
        return version == 0
    if (
        version == 0
        and config.is_tied
        and (size > expected or size == _payload_end(version, config, group_size, has_tables=False))
    ):
        return False
    if size > expected:
        raise CheckpointError(
            "bytes follow the last tensor", path=path, expected=f"{expected:,} bytes", actual=f"{size:,}"
        )
    for name, shape, offset in _layout(version, config, group_size, has_tables=True):
        need = _tensor_bytes(name, shape, group_size)
        if offset + need > size:
            raise CheckpointError(
                f"tensor {name} is cut short",
                path=path,
                where=f"byte {offset:,}",
                expected=f"{need:,} bytes",
                actual=f"{max(0, size - offset):,} left",
                hint=f"the header asks for {expected:,} bytes in all, the file has {size:,}: fetch it again",
            )
    raise AssertionError("the layout ends before its own size")


def _floats(content: NDArray[np.uint8], shape: tuple[int, ...], offset: int) -> NDArray[np.float32]:
    return content[offset : offset + 4 * math.prod(shape)].view("<f4").reshape(shape)


def _quantised(content: NDArray[np.uint8], shape: tuple[int, ...], offset: int, group_size: int) -> QuantTensor:
    n = math.prod(shape)
    codes = content[offset : offset + n].view(np.int8).reshape(shape)
    return QuantTensor(codes, _floats(content, (n // group_size,), offset + n), group_size)


_FOREIGN = (
    (b"GGUF", "it looks like GGUF"),
    (b"ggml", "it looks like GGML"),
    (b"PK\x03\x04", "it looks like a zip archive, as PyTorch's .pt files are"),
    (b"\x80\x02", "it looks like a Python pickle"),
    (b"\x1f\x8b", "it looks gzipped: unpack it"),
    (b"version https://git-lfs", "it is a Git LFS pointer: fetch the file itself with git lfs pull"),
    (b"<!", "it looks like a web page: the download went wrong"),
    (b"<html", "it looks like a web page: the download went wrong"),
)


def _foreign(head: bytes) -> str | None:
    if len(head) >= 9 and head[8:9] == b"{" and struct.unpack_from("<Q", head)[0] < 1 << 32:
        return "it looks like safetensors"
    return next((hint for magic, hint in _FOREIGN if head.startswith(magic)), None)


# --- writing ---


def _tie(checkpoint: Checkpoint) -> Checkpoint:
    """Drop a classifier that equals the embedding, value by value as upstream's exporter compares them."""
    if checkpoint.config.is_tied or not _equal(checkpoint.classifier, checkpoint.tensor("tok_embedding")):
        return checkpoint
    tied = replace(checkpoint.config, is_tied=True)
    return replace(checkpoint, config=tied, tensors=without(checkpoint.tensors, "lm_head"))


def _equal(a: Tensor, b: Tensor) -> bool:
    if isinstance(a, QuantTensor) and isinstance(b, QuantTensor):
        return (
            a.group_size == b.group_size and np.array_equal(a.codes, b.codes) and np.array_equal(a.scales, b.scales)
        )
    if isinstance(a, QuantTensor) or isinstance(b, QuantTensor):
        return False
    return np.array_equal(a, b)


def _check_writable(checkpoint: Checkpoint, version: int, group_size: int | None, path: Path) -> None:
    if version not in _ORDER:
        raise CheckpointError("no such llama2.c version", path=path, expected="0, 1 or 2", actual=version)
    if version != 2 and group_size is not None:
        raise CheckpointError("a group size belongs to version 2 only", path=path, actual=f"version {version}")
    config = checkpoint.config
    if why := refuses(config):
        raise CheckpointError(f"llama2.c files cannot say {why}", path=path)
    problem = _implausible(_numbers(config, version), is_v0=version == 0)
    if problem:
        field, limit = problem
        raise CheckpointError(f"{field} is out of range", path=path, expected=limit, actual=getattr(config, field))
    wanted = _wanted_group_size(checkpoint, group_size)
    for name in checkpoint.tensors:
        if version != 2 or not is_quantised(checkpoint.tensors, name):
            continue
        tensor = checkpoint.tensors[name]
        if isinstance(tensor, QuantTensor) and tensor.group_size != wanted:
            raise CheckpointError(
                f"tensor {name} is quantised already, and quantising twice adds error",
                path=path,
                expected=f"group size {tensor.group_size}",
                actual=wanted,
                hint="start from the float32 weights",
            )


def _wanted_group_size(checkpoint: Checkpoint, group_size: int | None) -> int:
    if group_size is not None:
        return group_size
    return checkpoint.group_size or DEFAULT_GROUP_SIZE


def _check_group_size(config: ModelConfig, group_size: int, path: Path) -> None:
    if group_size < 1:
        raise CheckpointError("the group size is out of range", path=path, expected="at least 1", actual=group_size)
    for name, shape in expected_shapes(replace(config, n_layers=1)).items():
        if not _is_float(name) and math.prod(shape) % group_size:
            raise CheckpointError(
                f"the group size does not divide tensor {name}",
                path=path,
                expected=f"a divisor of {math.prod(shape):,}",
                actual=group_size,
            )


def _numbers(config: ModelConfig, version: int) -> tuple[int, ...]:
    sign = -1 if version == 0 and not config.is_tied else 1
    return (
        *(config.dim, config.hidden_dim, config.n_layers, config.n_heads, config.n_kv_heads),
        *(sign * config.vocab_size, config.seq_len),
    )


def _header(config: ModelConfig, version: int, group_size: int | None) -> bytes:
    numbers = struct.pack("<7i", *_numbers(config, version))
    if version == 0:
        return numbers
    header = struct.pack("<Ii", MAGIC, version) + numbers + struct.pack("<B", config.is_tied)
    if version == 2:
        assert group_size is not None
        header += struct.pack("<i", group_size)
    return header.ljust(HEAD_BYTES, b"\0")


def _write_tensor(file: IO[bytes], checkpoint: Checkpoint, name: str, group_size: int | None) -> None:
    tensors: Mapping[str, Tensor] = checkpoint.tensors
    if name in _TABLES:
        tables = checkpoint.rope_tables or _rope_tables(checkpoint.config)
        _write_floats(file, tables[name == "rope_sin"])
        return
    tensor = tensors[name]
    if group_size is None or _is_float(name):
        _write_floats(file, tensor.dequantize() if isinstance(tensor, QuantTensor) else tensor)
        return
    if not isinstance(tensor, QuantTensor):
        try:
            tensor = quantize_weights(tensor, group_size)
        except ValueError as error:
            raise CheckpointError(f"tensor {name} cannot be quantised: {error}", path=checkpoint.path) from error
    file.write(np.ascontiguousarray(tensor.codes).data)
    _write_floats(file, tensor.scales)


def _write_floats(file: IO[bytes], values: NDArray[Any]) -> None:
    file.write(np.ascontiguousarray(values, "<f4").data)


def _rope_tables(config: ModelConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the two (seq_len, head_dim // 2) tables from float32 angles.

    Right to the last bit or one beside it: the training framework's cosf and sinf cannot be reproduced here.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1) / np.power(np.float32(config.rope_theta), exponents)
    angles = np.outer(np.arange(config.seq_len, dtype=np.float32), frequencies).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
