"""llama2.c's training checkpoints (.pt): a PyTorch file with the dicts `model` and `model_args`.

    model        {NAME: tensor, ...}; every name may have "_orig_mod." in front
    model_args   dim, n_layers, n_heads, n_kv_heads, vocab_size, multiple_of, max_seq_len, dropout; what is absent or
                 None has the default of llama2.c's model

The width of the feed-forward is that of its weights. The training code ties the classifier to the embedding, both
names referring to one storage; a file in which they differ is refused, as is an untied model to be written, because
loading would let one overwrite the other. RoPE's theta is not stored, and is 10000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint import Checkpoint, LazyTensors, Streamed, expected_shapes, llama2c_bin
from harness.errors import CheckpointError
from harness.formats import meta_forward, stored, torch_zip, zip_archive
from harness.formats.format import Format, WriteOptions
from harness.formats.llama_names import PREFIX, meta_name
from harness.formats.stored import Stored, same
from harness.formats.torch_zip import Planned
from harness.model_config import ModelConfig

__all__ = ["FORMAT", "ffn_width", "own_logits", "read", "write"]

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_DEFAULTS = {"dim": 4096, "n_layers": 32, "n_heads": 32, "max_seq_len": 2048}


def read(path: Path) -> Checkpoint:
    """Read a training checkpoint; its tensors are views of the file.

    Raises:
        CheckpointError: it is none, or contradicts itself.
    """
    found = torch_zip.load(path)
    model, args = (found.get("model"), found.get("model_args")) if type(found) is dict else (None, None)
    if type(model) is not dict or type(args) is not dict:
        raise CheckpointError(
            "not a training checkpoint of llama2.c: it has no dicts model and model_args",
            path=path,
            hint="of pytorch_model.bin or consolidated.*.pth give the directory, with config.json or params.json",
        )
    tensors = {str(name).removeprefix(PREFIX): value for name, value in model.items() if isinstance(value, Stored)}
    config = _config(args, tensors, path)
    head, table = tensors.get("output.weight"), tensors["tok_embeddings.weight"]
    if head is not None and not same(head, table):
        raise CheckpointError(
            "output.weight is not tok_embeddings.weight, though the training code ties them",
            path=path,
            hint="loaded there, the classifier would overwrite the embedding: it is no model of llama2.c's",
        )
    sources = {
        name: stored.source(tensors[meta_name(name)])
        for name in expected_shapes(config)
        if meta_name(name) in tensors
    }
    stored.check_shapes(config, sources, path, meta_name)
    return Checkpoint(config, LazyTensors(sources), FORMAT.name, path=path)


def own_logits(path: Path, ids: Sequence[int]) -> NDArray[np.float64]:
    """Compute logits by the names and in the order of the training code, which is Meta's."""
    found = torch_zip.load(path)
    args, model = found["model_args"], found["model"]
    prefix = PREFIX if f"{PREFIX}tok_embeddings.weight" in model else ""
    params = {"n_layers": 32, "n_heads": 32, "norm_eps": 1e-5, **args}
    return meta_forward.logits(lambda name: model[prefix + name].values(), params, ids, head="output.weight")


def _config(args: Mapping[str, Any], tensors: Mapping[str, Stored], path: Path) -> ModelConfig:
    def integer(key: str, default: int) -> int:
        value = args.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 1 << 31:
            raise CheckpointError(f"model_args.{key} is no number above 0", path=path, actual=str(value)[:40])
        return value

    sizes = {key: integer(key, default) for key, default in _DEFAULTS.items()}
    vocab_size, hidden_dim = table_and_ffn(tensors, path)
    if sizes["n_layers"] > len(tensors):
        raise CheckpointError("there are fewer tensors than layers", path=path, actual=len(tensors))
    eps = args.get("norm_eps", 1e-5)
    if type(eps) is not float or not eps > 0:
        raise CheckpointError("model_args.norm_eps is no number above 0", path=path, actual=str(eps)[:40])
    try:
        return ModelConfig(
            dim=sizes["dim"],
            hidden_dim=hidden_dim,
            n_layers=sizes["n_layers"],
            n_heads=sizes["n_heads"],
            n_kv_heads=integer("n_kv_heads", sizes["n_heads"]),
            vocab_size=vocab_size,
            seq_len=sizes["max_seq_len"],
            norm_eps=eps,
        )
    except ValueError as error:
        raise CheckpointError(f"model_args contradict themselves: {error}", path=path) from error


def table_and_ffn(tensors: Mapping[str, Stored], path: Path) -> tuple[int, int]:
    """Return the rows of the embedding and of the first feed-forward, which no argument says reliably."""
    rows = []
    for name in ("tok_embeddings.weight", "layers.0.feed_forward.w1.weight"):
        tensor = tensors.get(name)
        if tensor is None or len(tensor.shape) != 2:
            raise CheckpointError(f"tensor {name} is missing or no matrix", path=path)
        rows.append(tensor.shape[0])
    return rows[0], rows[1]


def ffn_width(dim: int, multiple_of: int) -> int:
    """Return the width that the training code derives: two thirds of 4 dim, rounded up.

    >>> ffn_width(64, 4), ffn_width(288, 32), ffn_width(4096, 256)
    (172, 768, 11008)
    """
    return -(-int(2 * 4 * dim / 3) // multiple_of) * multiple_of


def multiple_for(config: ModelConfig) -> int | None:
    """Return a multiple_of that gives the model its width, the usual ones first; None if none does."""
    candidates = (256, 32, 4, config.hidden_dim)
    return next((m for m in candidates if ffn_width(config.dim, m) == config.hidden_dim), None)


def write(checkpoint: Checkpoint, path: Path, options: WriteOptions) -> None:
    """Write a checkpoint that llama2.c's Python code loads."""
    checkpoint.validate()
    config = checkpoint.config
    plan = {
        meta_name(name): Planned(name, expected_shapes(config)[name], dtype)
        for name, dtype in stored.dtypes_to_store(checkpoint, options, _DTYPES).items()
    }
    args: dict[str, Any] = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "vocab_size": config.vocab_size,
        "multiple_of": multiple_for(config) or 1,
        "max_seq_len": config.seq_len,
        "dropout": 0.0,
    }
    if multiple_for(config) is None:
        args["hidden_dim"] = config.hidden_dim
    if config.norm_eps != 1e-5:
        args["norm_eps"] = config.norm_eps
    tree = {
        "model": {**plan, "output.weight": plan["tok_embeddings.weight"]},
        "model_args": args,
        "iter_num": 0,
        "best_val_loss": 1e9,
        "config": {},
    }
    tensors = Streamed(checkpoint.tensors)
    torch_zip.write(path, tree, lambda name: stored.floats(tensors[name]), options.progress)


def _refuses(config: ModelConfig) -> str | None:
    if not config.is_tied:
        return "its classifier has weights of its own, and the training code ties it to the embedding"
    why = llama2c_bin.refuses(replace(config, norm_eps=1e-5))
    return why and f"the training code assumes llama's block and constants, and cannot say {why}"


def _detect(path: Path, head: bytes) -> bool:
    return head.startswith(zip_archive.MAGIC) or head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04")


FORMAT = Format(
    name="llama2c-pt",
    what="llama2.c's training checkpoint, a PyTorch file",
    suffixes=(".pt",),
    detect=_detect,
    read=read,
    write=write,
    dtypes=_DTYPES,
    refuses=_refuses,
    own_logits=own_logits,
)
