"""Meta's directories: params.json and consolidated.*.pth, one PyTorch file for each shard.

params.json has dim, n_layers, n_heads, norm_eps, and maybe n_kv_heads (none or 0: n_heads), rope_theta (none: 10000),
use_scaled_rope with rope_scaling_factor (none: 8; the other numbers are fixed in Meta's code), max_seq_len (ours;
none: 2048, as llama2.c's importer assumes). vocab_size is not believed (it is often -1): the embedding's rows count.

Shards are in the order of their names. A vector is every shard's own copy, and the first is taken. wo and w2 are cut
into columns, the other matrices into rows; the embedding into columns in Llama 2, into rows in Llama 3, which its
shapes tell apart. The rows of wq and wk are adjacent pairs, as here. "rope.freqs" is computed, and left alone.

One shard is written, under a name that is not there yet.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint import Checkpoint, LazyTensors, Source, Streamed, expected_shapes
from harness.errors import CheckpointError
from harness.formats import meta_forward, numbers, stored, torch_zip
from harness.formats.files import read_json, replaced_directory, tokenizer_in
from harness.formats.format import Format, WriteOptions
from harness.formats.llama2c_pt import multiple_for
from harness.formats.llama_names import meta_name
from harness.formats.stored import Stored
from harness.formats.torch_zip import Planned
from harness.model_config import Block, ModelConfig, RopeScaling
from harness.tokenizer import AnyTokenizer, ByteLevelTokenizer, write_any

__all__ = ["FORMAT", "own_logits", "read", "write"]

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_SEQ_LEN = 2048
_SCALING = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
_BY_COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight")
_IGNORED = ("rope.freqs",)


def read(path: Path) -> Checkpoint:
    """Read a directory; what is in one shard are views, what is cut is joined when it is asked for.

    Raises:
        CheckpointError: a file is missing or lies, or the shards do not fit together.
    """
    params = read_json(path / "params.json")
    files = sorted(path.glob("consolidated.*.pth"))
    if not files:
        raise CheckpointError("there are no weights", path=path, expected="consolidated.*.pth", hint="fetch them too")
    shards = [torch_zip.read_state(file) for file in files]
    for file, shard in zip(files, shards, strict=True):
        if different := sorted(set(shard) ^ set(shards[0])):
            raise CheckpointError(f"the shards have different tensors, such as {different[0][:80]}", path=file)
    dim = _integer(params, "dim", path)
    joined = {name: _joined([shard[name] for shard in shards], name, dim, path) for name in shards[0]}
    config = _config(params, joined, path)
    sources = {}
    used = set()
    for name in expected_shapes(config):
        theirs = meta_name(name)
        if theirs in joined:
            sources[name] = joined[theirs]
            used.add(theirs)
    stored.check_shapes(config, sources, path, meta_name)
    for name in joined:
        if name not in used and name not in _IGNORED:
            raise CheckpointError(f"tensor {name[:120]} is of no llama", path=path)
    return Checkpoint(config, LazyTensors(sources), FORMAT.name, path=path)


def own_logits(path: Path, ids: Sequence[int]) -> NDArray[np.float64]:
    """Compute logits by Meta's names, in the order of its code."""
    params = read_json(path / "params.json")
    shards = [torch_zip.read_state(file) for file in sorted(path.glob("consolidated.*.pth"))]
    dim = _integer(params, "dim", path)
    joined = {name: _joined([shard[name] for shard in shards], name, dim, path) for name in shards[0]}
    head = "output.weight" if "output.weight" in joined else "tok_embeddings.weight"
    return meta_forward.logits(lambda name: stored.floats(joined[name].load()), params, ids, head=head)


def _joined(parts: list[Stored], name: str, dim: int, path: Path) -> Source:
    """Offer a tensor that is cut over the shards."""
    first = parts[0]
    if first.dtype not in numbers.BYTES:
        raise CheckpointError(f"tensor {name[:120]} is not of floating point", path=path, actual=first.dtype)
    if len(parts) == 1 or len(first.shape) < 2:
        return stored.source(first)
    is_columns = name.endswith(_BY_COLUMNS) or (name == "tok_embeddings.weight" and first.shape[1] != dim)
    axis = 1 if is_columns else 0
    if any(part.dtype != first.dtype or part.shape[1 - axis] != first.shape[1 - axis] for part in parts):
        raise CheckpointError(f"the parts of tensor {name[:120]} do not fit together", path=path)
    shape = list(first.shape)
    shape[axis] = sum(part.shape[axis] for part in parts)

    def load() -> NDArray[Any]:
        return numbers.widen(np.concatenate([part.bits for part in parts], axis), first.dtype)

    return Source(tuple(shape), first.dtype, load)


def _integer(params: Mapping[str, Any], key: str, path: Path, default: int | None = None) -> int:
    value = params.get(key) or default
    if type(value) is not int or not 0 < value < 1 << 31:
        raise _no_number(key, value, path)
    return value


def _no_number(key: str, value: object, path: Path) -> CheckpointError:
    return CheckpointError(
        f"{key} is missing or no number above 0", path=path / "params.json", actual=str(value)[:40]
    )


def _config(params: Mapping[str, Any], tensors: Mapping[str, Source], path: Path) -> ModelConfig:
    rows = []
    for name in ("tok_embeddings.weight", "layers.0.feed_forward.w1.weight"):
        if name not in tensors or len(tensors[name].shape) != 2:
            raise CheckpointError(f"tensor {name} is missing or no matrix", path=path)
        rows.append(tensors[name].shape[0])
    integer = partial(_integer, params, path=path)
    n_heads, n_layers = integer("n_heads"), integer("n_layers")
    if n_layers > len(tensors):
        raise CheckpointError("there are fewer tensors than layers", path=path, actual=len(tensors))
    scaling = None
    if params.get("use_scaled_rope"):
        factor = _number(params, "rope_scaling_factor", path, _SCALING.factor)
        scaling = RopeScaling("llama3", factor, 1.0, 4.0, 8192)
    try:
        return ModelConfig(
            dim=integer("dim"),
            hidden_dim=rows[1],
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=integer("n_kv_heads", default=n_heads),
            vocab_size=rows[0],
            seq_len=integer("max_seq_len", default=_SEQ_LEN),
            is_tied="output.weight" not in tensors,
            norm_eps=_number(params, "norm_eps", path),
            rope_theta=_number(params, "rope_theta", path, 10000.0),
            rope_scaling=scaling,
        )
    except ValueError as error:
        raise CheckpointError(f"the parameters contradict themselves: {error}", path=path / "params.json") from error


def _number(params: Mapping[str, Any], key: str, path: Path, default: float | None = None) -> float:
    value = params.get(key, default)
    if type(value) not in (int, float) or not 0 < value < 1e30:
        raise _no_number(key, value, path)
    return float(value)


def write(checkpoint: Checkpoint, path: Path, options: WriteOptions) -> None:
    """Write params.json and one shard."""
    checkpoint.validate()
    config = checkpoint.config
    tree = {
        meta_name(name): Planned(name, expected_shapes(config)[name], dtype)
        for name, dtype in stored.dtypes_to_store(checkpoint, options, _DTYPES).items()
    }
    tensors = Streamed(checkpoint.tensors)
    with replaced_directory(path) as directory:
        (directory / "params.json").write_text(json.dumps(_params(config), indent=2) + "\n", "utf-8")
        if options.tokenizer is not None:
            write_any(options.tokenizer, directory / _tokenizer_name(options.tokenizer))
        file = directory / "consolidated.00.pth"
        torch_zip.write(file, tree, lambda name: stored.floats(tensors[name]), options.progress)


def _tokenizer_name(tokenizer: AnyTokenizer) -> str:
    """Meta's name is tokenizer.model; what neither SentencePiece nor ranks can say is a tokenizer.json."""
    is_listed = isinstance(tokenizer, ByteLevelTokenizer) and tokenizer.merges is not None
    return "tokenizer.json" if is_listed else "tokenizer.model"


def _params(config: ModelConfig) -> dict[str, Any]:
    params: dict[str, Any] = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "vocab_size": config.vocab_size,
        "multiple_of": multiple_for(config) or 1,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "max_seq_len": config.seq_len,
    }
    if multiple_for(config) is None:
        two_thirds = int(2 * 4 * config.dim / 3)
        factor = config.hidden_dim / two_thirds
        while int(factor * two_thirds) < config.hidden_dim:  # the product is truncated there
            factor = math.nextafter(factor, math.inf)
        params["ffn_dim_multiplier"] = factor
    if config.rope_scaling:
        params |= {"use_scaled_rope": True, "rope_scaling_factor": config.rope_scaling.factor}
    return params


def _refuses(config: ModelConfig) -> str | None:
    if config.block != Block():
        return f"Meta's files are of llama's block only, and this is {config.block}"
    if config.q_dim != config.dim:
        return f"its heads have {config.head_dim} values, and Meta's dim / n_heads"
    scaling = config.rope_scaling
    if scaling and (scaling.kind, scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context) != (
        *("llama3", 1.0, 4.0),
        8192,
    ):
        return f"Meta's code has one scaling of rotary frequencies, and this is {scaling}"
    return None


def _detect(path: Path, head: bytes) -> bool:
    return (path / "params.json").is_file()


FORMAT = Format(
    name="meta",
    what="Meta's directory: params.json and consolidated.*.pth",
    suffixes=(),
    detect=_detect,
    read=read,
    write=write,
    dtypes=_DTYPES,
    refuses=_refuses,
    own_logits=own_logits,
    read_tokenizer=tokenizer_in,
    is_directory=True,
)
