"""Hugging Face directories, and lone safetensors files with their names: config.json and weights.

A directory has config.json and one of these, the first that is there:

    model.safetensors.index.json     {"weight_map": {NAME: FILE, ...}}, the shards beside it
    model.safetensors
    pytorch_model.bin.index.json     the same over shards that are pickles (`torch_zip`)
    pytorch_model.bin

A directory's tokenizer is tokenizer.json or tokenizer.model; `hf_tokenizer` writes them.

A lone .safetensors file has the text of config.json in its metadata, under "config", or beside it.

The rows of wq, wk, their biases and the norms over a head are stored in halves and become adjacent pairs here
(`rotary`), with the head counts of the configuration. All else is stored as it is here. What config.json says goes
through `hf_config`; a tensor that nobody knows is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint import Checkpoint, LazyTensors, Streamed, Tensor, expected_shapes
from harness.checkpoint.files import replaced
from harness.errors import CheckpointError
from harness.formats import hf_config, hf_tokenizer, safetensors, stored, torch_zip
from harness.formats.files import parse_json, read_json, replaced_directory, tokenizer_in
from harness.formats.format import Format, WriteOptions
from harness.formats.hf_forward import logits
from harness.formats.hf_names import IGNORED, ROTATED, hf_name
from harness.formats.rotary import to_adjacent, to_halves
from harness.formats.stored import Stored, same
from harness.model_config import ModelConfig

__all__ = ["FORMATS", "own_logits", "read", "read_parts"]

# A shard is closed when it would grow beyond this, as the library's own are.
SHARD_BYTES = 5_000_000_000
DTYPES = ("float32", "float16", "bfloat16", "float64")

_Parts = tuple[dict[str, Any], dict[str, Stored]]


# ---- reading -------------------------------------------------------------------------------------


def read(path: Path) -> Checkpoint:
    """Read a directory or a lone file; wq and wk are permuted when asked for, all else are views.

    Raises:
        CheckpointError: a file is missing or lies, or the model is not of the family.
    """
    document, tensors = read_parts(path)
    where = path / "config.json" if path.is_dir() else path
    config = hf_config.parse(document, where)
    if config.n_layers > len(tensors):  # before anything is counted per layer
        raise CheckpointError(
            "there are fewer tensors than layers",
            path=path,
            expected=f"{config.n_layers:,} layers",
            actual=len(tensors),
        )
    config = _tied_or_not(config, tensors, path)
    reorder = partial(to_adjacent, head_dim=config.head_dim, rotary_dim=config.rotary_dim)
    sources, used = {}, set()
    for name, shape in expected_shapes(config).items():
        theirs = hf_name(config, name)
        found = tensors.get(theirs)
        used.add(theirs)
        if found is None or found.shape != shape or found.dtype not in DTYPES:
            raise _unfit(theirs, found, shape, path)
        is_rotated = name.rpartition(".")[2] in ROTATED
        sources[name] = stored.source(found, reorder if is_rotated else None)
    if config.is_tied:
        used.add("lm_head.weight")
    for name in tensors:
        if name not in used and not name.endswith(IGNORED):
            raise CheckpointError(f"tensor {name[:120]} is of no architecture that is known here", path=path)
    return Checkpoint(config, LazyTensors(sources), _name_of(path), path=path)


def read_parts(path: Path) -> _Parts:
    """Return config.json's table and the tensors as they lie in the files, under their own names."""
    if not path.is_dir():
        tensors, metadata = safetensors.read(path)
        if "config" in metadata:
            return parse_json(metadata["config"].encode(), path), tensors
        if not (path.parent / "config.json").is_file():
            raise CheckpointError(
                "the file does not say what model it is: config.json is not beside it, nor in its metadata", path=path
            )
        return read_json(path.parent / "config.json"), tensors
    document = read_json(path / "config.json")
    for index, one, reader in (
        ("model.safetensors.index.json", "model.safetensors", _safetensors),
        ("pytorch_model.bin.index.json", "pytorch_model.bin", torch_zip.read_state),
    ):
        if (path / index).is_file():
            return document, _shards(path, index, reader)
        if (path / one).is_file():
            return document, reader(path / one)
    raise CheckpointError(
        "there are no weights", path=path, expected="model.safetensors or pytorch_model.bin", hint="fetch them too"
    )


def _safetensors(path: Path) -> dict[str, Stored]:
    return safetensors.read(path)[0]


def _shards(path: Path, index: str, reader: Any) -> dict[str, Stored]:
    weight_map = read_json(path / index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError("the index has no weight_map of names to files", path=path / index)
    tensors: dict[str, Stored] = {}
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError("a shard lies elsewhere", path=path / index, actual=file[:80])
        shard = reader(path / file)
        for name in shard:
            if name in tensors:
                raise CheckpointError(f"tensor {name[:120]} is in two shards", path=path / file)
            if weight_map.get(name) != file:
                raise CheckpointError(f"tensor {name[:120]} is not where the index says", path=path / file)
        tensors |= shard
    for name in weight_map:
        if name not in tensors:
            raise CheckpointError(f"tensor {name[:120]} is missing", path=path / weight_map[name])
    return tensors


def _tied_or_not(config: ModelConfig, tensors: Mapping[str, Stored], path: Path) -> ModelConfig:
    """Hold "tie_word_embeddings" against the tensors that are there."""
    head, table = tensors.get("lm_head.weight"), tensors.get("model.embed_tokens.weight")
    if not config.is_tied and head is None:
        raise CheckpointError(
            "tensor lm_head.weight is missing, and config.json does not say that the classifier is the embedding",
            path=path,
            hint="if it is, say tie_word_embeddings: true",
        )
    if config.is_tied and head is not None and table is not None and not same(head, table):
        raise CheckpointError(
            "config.json says tie_word_embeddings, but lm_head.weight is not the embedding",
            path=path,
            hint="say tie_word_embeddings: false if the classifier has weights of its own",
        )
    return config


def _unfit(name: str, found: Stored | None, shape: tuple[int, ...], path: Path) -> CheckpointError:
    if found is None:
        return CheckpointError(f"tensor {name} is missing", path=path, hint="is a shard missing?")
    if found.dtype not in DTYPES:
        return CheckpointError(f"tensor {name} is not of floating point", path=path, actual=found.dtype)
    return CheckpointError(
        f"tensor {name} has another shape than config.json says", path=path, expected=shape, actual=found.shape
    )


def own_logits(path: Path, ids: Sequence[int]) -> NDArray[np.float64]:
    """Compute logits (n_tokens, vocab_size) by Hugging Face's own names and halves, sharing nothing with `read`."""
    return logits(*read_parts(path), ids)


# ---- writing -------------------------------------------------------------------------------------


def write_directory(checkpoint: Checkpoint, path: Path, options: WriteOptions) -> None:
    """Write config.json, the tokenizer and model.safetensors (in shards where it is large) under a new name."""
    checkpoint.validate()
    plan = _plan(checkpoint, options)
    shards: list[list[_Planned]] = [[]]
    for one in plan:
        if shards[-1] and sum(stored.tensor_bytes(*each[1:]) for each in [*shards[-1], one]) > SHARD_BYTES:
            shards.append([])
        shards[-1].append(one)
    written = 0
    with replaced_directory(path) as directory:
        _write_texts(checkpoint, directory, options)
        files: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
            files |= {hf_name(checkpoint.config, name): file for name, _, _ in shard}
            written += _write_file(checkpoint, directory / file, shard, options, written)
        if len(shards) > 1:
            index = {"metadata": {"total_size": written}, "weight_map": files}
            (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def write_file(checkpoint: Checkpoint, path: Path, options: WriteOptions) -> None:
    """Write one safetensors file with config.json's text in its metadata."""
    checkpoint.validate()
    _write_file(checkpoint, path, _plan(checkpoint, options), options, 0, config=_config_text(checkpoint, options))


def write_pickled(checkpoint: Checkpoint, path: Path, options: WriteOptions) -> None:
    """Write config.json, the tokenizer and pytorch_model.bin under a new name; a tied classifier is left out."""
    checkpoint.validate()
    config = checkpoint.config
    tree = {
        hf_name(config, name): torch_zip.Planned(name, shape, dtype)
        for name, shape, dtype in _plan(checkpoint, options)
    }
    tensors = Streamed(checkpoint.tensors)
    with replaced_directory(path) as directory:
        _write_texts(checkpoint, directory, options)
        file = directory / "pytorch_model.bin"
        torch_zip.write(file, tree, lambda name: _their_rows(tensors, name, config), options.progress)


def _write_texts(checkpoint: Checkpoint, directory: Path, options: WriteOptions) -> None:
    """Write what stands beside the weights."""
    (directory / "config.json").write_text(_config_text(checkpoint, options), "utf-8")
    if options.tokenizer is not None:
        hf_tokenizer.write(options.tokenizer, directory)


_Planned = tuple[str, tuple[int, ...], str]


def _their_rows(tensors: Mapping[str, Tensor], name: str, config: ModelConfig) -> NDArray[Any]:
    """Return a tensor's values in the order of Hugging Face's rows."""
    values = stored.floats(tensors[name])
    is_rotated = name.rpartition(".")[2] in ROTATED
    return to_halves(values, config.head_dim, config.rotary_dim) if is_rotated else values


def _plan(checkpoint: Checkpoint, options: WriteOptions) -> list[_Planned]:
    shapes = expected_shapes(checkpoint.config)
    return [
        (name, shapes[name], dtype) for name, dtype in stored.dtypes_to_store(checkpoint, options, DTYPES).items()
    ]


def _write_file(
    checkpoint: Checkpoint, path: Path, plan: Iterable[_Planned], options: WriteOptions, before: int, **metadata: str
) -> int:
    """Write the planned tensors; return how many bytes they have."""
    config = checkpoint.config
    plan = list(plan)
    tensors = Streamed(checkpoint.tensors)
    done = 0
    with replaced(path) as file:
        named = ((hf_name(config, name), shape, dtype) for name, shape, dtype in plan)
        file.write(safetensors.header_bytes(named, **metadata))
        for name, shape, dtype in plan:
            values = _their_rows(tensors, name, config)
            stored.write_tensor(file, name, values, dtype, path)
            done += stored.tensor_bytes(shape, dtype)
            options.progress(before + done)
    return done


def _config_text(checkpoint: Checkpoint, options: WriteOptions) -> str:
    words = list(stored.dtypes_to_store(checkpoint, options, DTYPES).values())
    ids = (options.tokenizer.bos_id, options.tokenizer.eos_id) if options.tokenizer else (1, 2)
    document = hf_config.render(
        checkpoint.config, dtype=max(set(words), key=words.count), bos_id=ids[0], eos_id=ids[1]
    )
    return json.dumps(document, indent=2) + "\n"


def _refuses(config: ModelConfig) -> str | None:
    if hf_config.architecture_of(config):
        return None
    return f"no architecture of Hugging Face's that is known here has {config.block}"


# ---- the formats ---------------------------------------------------------------------------------


def _detect_directory(path: Path, head: bytes) -> bool:
    return (path / "config.json").is_file() and not _is_pickled(path)


def _detect_pickled(path: Path, head: bytes) -> bool:
    return (path / "config.json").is_file() and _is_pickled(path)


def _is_pickled(path: Path) -> bool:
    return not any(path.glob("model.safetensors*")) and any(path.glob("pytorch_model.bin*"))


def _detect_file(path: Path, head: bytes) -> bool:
    return safetensors.sniff(head)


def _name_of(path: Path) -> str:
    if not path.is_dir():
        return "safetensors"
    return "huggingface-bin" if _is_pickled(path) else "huggingface"


DIRECTORY = Format(
    name="huggingface",
    what="a Hugging Face directory: config.json and model.safetensors",
    suffixes=("",),
    detect=_detect_directory,
    read=read,
    write=write_directory,
    dtypes=DTYPES,
    refuses=_refuses,
    own_logits=own_logits,
    read_tokenizer=tokenizer_in,
    is_directory=True,
)
FORMATS = (
    DIRECTORY,
    replace(
        DIRECTORY,
        name="huggingface-bin",
        what="a Hugging Face directory: config.json and pytorch_model.bin",
        suffixes=(),
        detect=_detect_pickled,
        write=write_pickled,
    ),
    replace(
        DIRECTORY,
        name="safetensors",
        what="one safetensors file with Hugging Face's names, config.json in its metadata",
        suffixes=(".safetensors",),
        detect=_detect_file,
        write=write_file,
        read_tokenizer=None,
        is_directory=False,
    ),
)
