"""Exact expansions: the same function in a shape that a program with fixed dimensions accepts.

A port that reads multi-head models only, or has 32000 written into it, is tested on a model of that shape
whose tokens are those of the original. "Exact" is meant in real numbers, and mostly bit for bit:

    expand_mha    each key/value head is repeated for its query heads: bit for bit
    untie         the classifier is a copy of the embedding: bit for bit
    pad_hidden    feed-forward units of zeros: silu(0) * 0 = 0 is added, bit for bit if sums go from left to right
    pad_vocab     ids that are never chosen, see there
    older_layout  the tokenizer in a file layout of llama2.c's history

Quantised tensors keep their codes and scales: nothing is quantised again. Into another container everything goes
that it can hold, with its numbers as they are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness import checkpoint as checkpoints
from harness import formats
from harness.checkpoint import Checkpoint, Tensor, shape_and_dtype
from harness.errors import InputError
from harness.formats import Format, WriteOptions
from harness.formats.files import tokenizer_file_in
from harness.model_config import ModelConfig
from harness.models.files import ModelFiles, load, made_whole, sha256_of
from harness.quant import QuantTensor
from harness.tokenizer import AnyTokenizer, Tokenizer, tokenizer_bin, write_any

__all__ = ["expand_mha", "older_layout", "pad_hidden", "pad_vocab", "prepare", "untie"]

# Part of the key of prepared files; raise it when an expansion changes what it writes.
_EDITION = 2

_VERSIONS = {"llama2c-v0": 0, "llama2c-v1": 1, "llama2c-v2": 2}
_INT8 = "llama2c-v2"

# Where a llama2.c file says whether the classifier is the embedding: a sign in version 0, a flag in 1 and 2.
_V0_VOCAB_SIZE_AT = 20
_SHARED_FLAG_AT = 36

# Merges need a score above this (llama2.c's floor), so no text is ever encoded to a piece that has less.
_MERGE_FLOOR = -1e10
_NEVER_MERGED = -1e11
# Ids below are special and byte pieces, which no merge makes.
_FIRST_MERGE_ID = 259


# ---- of a checkpoint -----------------------------------------------------------------------------


def expand_mha(checkpoint: Checkpoint) -> Checkpoint:
    """Give every query head a key/value head of its own, a copy of the one that it shared."""
    config = checkpoint.config
    if config.n_rep == 1:
        return checkpoint

    def repeat(tensor: Tensor) -> Tensor:
        rows = np.arange(config.dim) // config.head_dim // config.n_rep * config.head_dim
        return _take_rows(tensor, rows + np.arange(config.dim) % config.head_dim)

    tensors = {
        name: repeat(tensor) if name.endswith((".wk", ".wv")) else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    return _changed(checkpoint, replace(config, n_kv_heads=config.n_heads), tensors)


def untie(checkpoint: Checkpoint) -> Checkpoint:
    """Give the classifier weights of its own, those of the embedding."""
    if not checkpoint.config.is_tied:
        return checkpoint
    tensors = dict(checkpoint.tensors)
    tensors["lm_head"] = tensors["tok_embedding"]
    return _changed(checkpoint, replace(checkpoint.config, is_tied=False), tensors)


def pad_vocab(checkpoint: Checkpoint, tokenizer: Tokenizer, vocab_size: int) -> tuple[Checkpoint, Tokenizer]:
    """Add ids that are never chosen, and pieces for them that no text is encoded to.

    A classifier has no bias, so no row is certain to stay low for every hidden state; zeros would win
    wherever all other logits are negative. Each new row is therefore a copy of the row of a piece that is
    never produced: <0x00>, or id 0 where there is none. Its logit equals that row's bit for bit, so it can
    tie with the largest but never exceed it, and a tie goes to the lower id: greedy choices are exact,
    whatever the hidden state. A sampled choice sees the probability of that one piece (about 1e-9 in the
    stories models) as often as there are new ids, which moves a token only if its coin falls within that
    distance of a boundary.

    Returns:
        The checkpoint and the tokenizer, as they are if vocab_size is theirs already.
    """
    config = checkpoint.config
    if vocab_size == config.vocab_size:
        return checkpoint, tokenizer
    if vocab_size < config.vocab_size:
        raise InputError(
            "a vocabulary can only grow",
            path=checkpoint.path,
            expected=f"at least {config.vocab_size}",
            actual=vocab_size,
        )
    dead = tokenizer.pieces.index(b"<0x00>") if b"<0x00>" in tokenizer.pieces else 0
    rows = np.concatenate([np.arange(config.vocab_size), np.full(vocab_size - config.vocab_size, dead)])
    tensors = {
        name: _take_rows(tensor, rows) if name in ("tok_embedding", "lm_head") else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    return _changed(checkpoint, replace(config, vocab_size=vocab_size), tensors), _with_unused(tokenizer, vocab_size)


def _with_unused(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    n_unused = vocab_size - tokenizer.vocab_size
    taken = set(tokenizer.pieces)
    names = (b"<%d>" % i for i in itertools.count(tokenizer.vocab_size))
    unused = itertools.islice((name for name in names if not _can_be_merged(name, taken)), n_unused)
    scores = np.append(tokenizer.scores, np.full(n_unused, _NEVER_MERGED, np.float32))
    return replace(tokenizer, pieces=(*tokenizer.pieces, *unused), scores=scores)


def _can_be_merged(name: bytes, pieces: set[bytes]) -> bool:
    """Whether some text may be encoded to this piece: it is there, or two that are there make it up."""
    return name in pieces or any(name[:i] in pieces and name[i:] in pieces for i in range(1, len(name)))


def pad_hidden(checkpoint: Checkpoint, multiple: int) -> Checkpoint:
    """Grow hidden_dim to the next multiple with units that compute zero and lead nowhere.

    Raises:
        InputError: int8 groups cross the rows of w_down. There llama2.c's runq uses other scales than the
            file's author meant, which ones depends on hidden_dim, so the padded model would differ.
    """
    config = checkpoint.config
    hidden_dim = -(-config.hidden_dim // multiple) * multiple
    if hidden_dim == config.hidden_dim:
        return checkpoint
    group_size = checkpoint.group_size or 1
    if config.hidden_dim % group_size or hidden_dim % group_size:
        raise InputError(
            f"hidden_dim cannot grow from {config.hidden_dim} to {hidden_dim}: int8 groups would cross rows",
            path=checkpoint.path,
            expected=f"multiples of the group size {group_size}",
        )
    n_new = hidden_dim - config.hidden_dim
    tensors: dict[str, Tensor] = {}
    for name, tensor in checkpoint.tensors.items():
        if name.endswith((".w_gate", ".w_up")):
            tensor = _padded(tensor, (n_new, 0))
        elif name.endswith(".w_down"):
            tensor = _padded(tensor, (0, n_new))
        tensors[name] = tensor
    return _changed(checkpoint, replace(config, hidden_dim=hidden_dim), tensors)


def _changed(checkpoint: Checkpoint, config: ModelConfig, tensors: dict[str, Tensor]) -> Checkpoint:
    changed = replace(checkpoint, config=config, tensors=tensors)
    changed.validate()
    return changed


def _take_rows(tensor: Tensor, rows: np.ndarray[tuple[int], np.dtype[np.int_]]) -> Tensor:
    if not isinstance(tensor, QuantTensor):
        return tensor[rows]
    scales = _scale_rows(tensor)[rows]
    return QuantTensor(tensor.codes[rows], scales.reshape(-1), tensor.group_size)


def _padded(tensor: Tensor, more: tuple[int, int]) -> Tensor:
    """Append rows and columns of zeros."""
    if not isinstance(tensor, QuantTensor):
        return np.pad(tensor, ((0, more[0]), (0, more[1])))
    codes = np.pad(tensor.codes, ((0, more[0]), (0, more[1])))
    scales = np.pad(_scale_rows(tensor), ((0, more[0]), (0, more[1] // tensor.group_size)))
    return QuantTensor(codes, scales.reshape(-1), tensor.group_size)


def _scale_rows(tensor: QuantTensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The scales, a row of them for each row of codes."""
    n_rows, row = tensor.shape
    if row % tensor.group_size:
        raise InputError(
            "int8 groups cross rows, so rows cannot be rearranged",
            expected=f"rows of a multiple of {tensor.group_size}",
            actual=row,
        )
    return tensor.scales.reshape(n_rows, -1)


# ---- of files ------------------------------------------------------------------------------------


def older_layout(tokenizer: Tokenizer, layout: str) -> Tokenizer:
    """Mark a tokenizer to be written in one of `harness.tokenizer.tokenizer_bin.LAYOUTS`.

    Raises:
        InputError: the layout has no scores and merges by id, which is another order than the scores give.
    """
    if layout == "no-scores":
        scores = tokenizer.scores[_FIRST_MERGE_ID:]
        scores = scores[scores > _MERGE_FLOOR]
        if not (np.diff(scores) < 0).all():
            raise InputError(
                "this tokenizer cannot do without scores",
                expected="scores that fall with the id",
                hint="use another model",
            )
    return replace(tokenizer, layout=layout)


def prepare(
    files: ModelFiles,
    *,
    format: str,
    mha: bool = False,
    untied: bool = False,
    vocab_size: int | None = None,
    hidden_multiple: int | None = None,
    tokenizer_layout: str = "today",
    out_dir: Path,
) -> ModelFiles:
    """Return files of the same function that meet a program's needs, written once for each content and need.

    Args:
        format: container that the program reads, as `harness.formats` names it; "llama2c-v2" for int8 models.
        mha: it knows no grouped heads.
        untied: it reads a classifier of its own.
        vocab_size: the only one that it accepts.
        hidden_multiple: hidden_dim must be a multiple of this.
        tokenizer_layout: as `older_layout` takes it.
        out_dir: directory for the results; a subdirectory is named by content.

    Raises:
        InputError: no exact expansion exists: other precision, int8 groups that cross rows, or a container that
            cannot hold the model.
    """
    model = load(files.checkpoint, files.tokenizer)
    weights, pieces = model.checkpoint, model.vocabulary
    expanded = expand_mha(weights) if mha else weights
    if vocab_size is not None:
        expanded, pieces = pad_vocab(expanded, model.tokenizer, vocab_size)
    if hidden_multiple is not None:
        expanded = pad_hidden(expanded, hidden_multiple)
    if tokenizer_layout != "today":
        pieces = older_layout(replace(model, vocabulary=pieces).tokenizer, tokenizer_layout)
    needs_untying = untied and expanded.config.is_tied
    if expanded is weights and not needs_untying and format == files.format and tokenizer_layout == "today":
        return files
    chosen = formats.format_named(format)
    _check_exact(files, weights, chosen)
    key = [
        _EDITION,
        files.sha256,
        files.tokenizer_sha256,
        format,
        mha,
        untied,
        vocab_size,
        hidden_multiple,
        tokenizer_layout,
    ]
    directory = out_dir / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
    suffix = next(iter(chosen.suffixes), "" if chosen.is_directory else ".bin")
    new_checkpoint = directory / f"{files.name.replace('/', '-')}{suffix}"
    if not new_checkpoint.exists():
        with made_whole(new_checkpoint) as path:
            _write(expanded, path, chosen, pieces, untied=needs_untying)
    new_tokenizer = _write_tokenizer(pieces, directory, new_checkpoint, format, tokenizer_layout)
    return replace(
        files,
        checkpoint=new_checkpoint,
        tokenizer=new_tokenizer,
        sha256=sha256_of(new_checkpoint),
        tokenizer_sha256=sha256_of(new_tokenizer),
        format=format,
        is_embedded=False,
    )


def _write(expanded: Checkpoint, path: Path, chosen: Format, pieces: AnyTokenizer, *, untied: bool) -> None:
    """Write a checkpoint, and its tokenizer where the format has a place for it."""
    options = WriteOptions(tokenizer=pieces if chosen.read_tokenizer else None)
    if chosen.name in _VERSIONS:
        checkpoints.write(expanded, path, version=_VERSIONS[chosen.name])
        if untied:
            _append_classifier(path, _VERSIONS[chosen.name])
    else:
        formats.write(untie(expanded) if untied else expanded, path, chosen.name, options)


def _write_tokenizer(pieces: AnyTokenizer, directory: Path, model: Path, format: str, layout: str) -> Path:
    """Return the file that a program is told as the tokenizer: the one in a directory, else one beside the file."""
    if model.is_dir() and (inside := tokenizer_file_in(model)) is not None:
        return inside
    path = directory / ("tokenizer.bin" if isinstance(pieces, Tokenizer) else "tokenizer.json")
    if not path.is_file():
        with made_whole(path) as temporary:
            if isinstance(pieces, Tokenizer):
                tokenizer_bin.write(pieces, temporary, layout if format in _VERSIONS else "today")
            else:
                write_any(pieces, temporary.with_suffix(".json"))
                os.replace(temporary.with_suffix(".json"), temporary)
    return path


def _check_exact(files: ModelFiles, weights: Checkpoint, chosen: Format) -> None:
    """Refuse what would change numbers."""
    if (chosen.name == _INT8) != (weights.group_size is not None):
        raise InputError(
            f"{chosen.name} is of another precision than {files.format}",
            path=files.checkpoint,
            hint="use the model that is published in that precision",
        )
    if chosen.write is None:
        raise InputError(f"no exact way to {chosen.name}", path=files.checkpoint)
    if why := chosen.refuses(weights.config):
        raise InputError(f"{chosen.name} cannot hold this model: {why}", path=files.checkpoint)
    wide = [name for name in weights.tensors if shape_and_dtype(weights.tensors, name)[1] == "float64"]
    if wide and "float64" not in chosen.dtypes:
        raise InputError(f"{chosen.name} does not store float64, as {wide[0]} is", path=files.checkpoint)


def _append_classifier(path: Path, version: int) -> None:
    """Turn a tied file into the untied one with the same matrix twice.

    `harness.checkpoint.write` ties a classifier that equals the embedding, as llama2.c's exporter does.
    """
    checkpoint = checkpoints.read(path)
    matrix = checkpoint.classifier
    with open(path, "r+b") as file:
        if version == 0:
            file.seek(_V0_VOCAB_SIZE_AT)
            file.write(struct.pack("<i", -checkpoint.config.vocab_size))
        else:
            file.seek(_SHARED_FLAG_AT)
            file.write(b"\0")
        file.seek(0, os.SEEK_END)
        if isinstance(matrix, QuantTensor):
            file.write(matrix.codes.tobytes() + matrix.scales.tobytes())
        else:
            file.write(matrix.tobytes())
