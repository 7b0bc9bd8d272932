"""`.lmw` checkpoints; the container, and what its parts mean, is `lmw_file`'s."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from harness.checkpoint import Checkpoint, LazyTensors, Source, Streamed, expected_shapes
from harness.checkpoint.files import replaced
from harness.errors import CheckpointError
from harness.formats import lmw_file, numbers, stored
from harness.formats.format import Format, WriteOptions
from harness.formats.llama_names import meta_name
from harness.formats.lmw_file import CODES, MAGIC, File, Params, Record, layout_of
from harness.formats.rotary import to_adjacent
from harness.model_config import Block, ModelConfig
from harness.tokenizer import AnyTokenizer, Tokenizer, sentencepiece_model, tiktoken_ranks

__all__ = ["FORMATS", "read", "read_tokenizer", "write"]

_MAX_SEQ_LEN = 1 << 24
_EMBEDDING, _CLASSIFIER = "tok_embeddings.weight", "output.weight"
# Meta's own files carry it along; nobody uses it.
_IGNORED = {"rope.freqs"}

# ---- to a checkpoint -----------------------------------------------------------------------------


def read(path: Path) -> Checkpoint:
    """Read a checkpoint; its tensors are views of the file, except of bfloat16.

    Raises:
        CheckpointError: the file is damaged, or its tensors are not those of its numbers.
    """
    file = lmw_file.read(Path(path))
    config = _config(file)
    sources: dict[str, Source] = {}
    for name in expected_shapes(config):
        tensor = file.tensors.get(_spelled(name))
        if tensor is not None:
            is_turned = config.block.qkv_bias and name.rpartition(".")[2].removesuffix("_bias") in ("wq", "wk")
            reorder = (
                partial(to_adjacent, head_dim=config.head_dim, rotary_dim=config.head_dim) if is_turned else None
            )
            sources[name] = stored.source(tensor, reorder)
    stored.check_shapes(config, sources, file.path, _spelled)
    known = {_spelled(name) for name in expected_shapes(config)} | {_CLASSIFIER} | _IGNORED
    if unknown := [name for name in file.tensors if name not in known]:
        raise CheckpointError(f"tensor {unknown[0]} is not known", path=file.path, expected="Meta's names")
    return Checkpoint(config, LazyTensors(sources), f"lmw-{file.layout.lower()}", path=file.path)


def _spelled(name: str) -> str:
    """Translate a canonical name; biases, which Meta has none of, are Qwen's."""
    if name.endswith("_bias"):
        return meta_name(name.removesuffix("_bias")).removesuffix("weight") + "bias"
    return meta_name(name)


def _config(file: File) -> ModelConfig:
    params, tensors = file.params, file.tensors
    w1, embedding, classifier = (
        tensors.get(name) for name in ("layers.0.feed_forward.w1.weight", _EMBEDDING, _CLASSIFIER)
    )
    if w1 is None or embedding is None:
        name = _EMBEDDING if embedding is None else "layers.0.feed_forward.w1.weight"
        raise CheckpointError(f"tensor {name} is missing", path=file.path)
    if not 1 <= params.n_layers <= len(tensors):
        raise CheckpointError(
            "n_layers is out of range", path=file.path, expected=f"1 to {len(tensors)}", actual=params.n_layers
        )
    if not 1 <= params.max_seq_len <= _MAX_SEQ_LEN:
        raise CheckpointError(
            "max_seq_len is out of range",
            path=file.path,
            expected=f"1 to {_MAX_SEQ_LEN:,}",
            actual=params.max_seq_len,
        )
    for name in ("rope_theta", "norm_eps"):
        if not 0 <= getattr(params, name) < math.inf:
            raise CheckpointError(f"{name} is out of range", path=file.path, actual=getattr(params, name))
    is_qwen = file.model.lower().startswith("qwen")
    try:
        return ModelConfig(
            params.dim,
            w1.shape[0],
            params.n_layers,
            params.n_heads,
            params.n_kv_heads,
            embedding.shape[0],
            params.max_seq_len,
            is_tied=classifier is None or stored.same(classifier, embedding),
            norm_eps=numbers.shortest(params.norm_eps),
            rope_theta=numbers.shortest(params.rope_theta),
            block=Block(qkv_bias=is_qwen),
        )
    except ValueError as error:
        raise CheckpointError(f"the header contradicts itself: {error}", path=file.path) from error


def read_tokenizer(path: Path) -> AnyTokenizer | None:
    """Return the tokenizer that a file of layout C holds, None where there is none.

    Raises:
        TokenizerError: it is damaged, or of a kind that is not read.
    """
    content = lmw_file.read(Path(path)).tokenizer
    if not content:
        return None
    if tiktoken_ranks.sniff(content[:512]):
        return tiktoken_ranks.parse(content, path)
    return sentencepiece_model.parse(content, path)


# ---- from a checkpoint ---------------------------------------------------------------------------


def write(layout: str, checkpoint: Checkpoint, path: Path, options: WriteOptions) -> None:
    """Write a checkpoint in layout A or C; the model's name is that of the file.

    Raises:
        CheckpointError: the layout cannot hold the model, or the file cannot be written.
        TokenizerError: the tokenizer cannot be embedded.
    """
    path = Path(path)
    checkpoint.validate()
    if why := _refuses(checkpoint.config):
        raise CheckpointError(f"an .lmw file cannot hold this model: {why}", path=checkpoint.path)
    if layout == "A" and options.tokenizer is not None:
        raise CheckpointError("layout A has no place for a tokenizer", path=checkpoint.path, hint="leave it out")
    tensors = Streamed(checkpoint.tensors)
    records = _records(layout, checkpoint, tensors, options)
    model = path.stem if path.stem.isascii() and path.stem.isprintable() else "model"
    tokenizer = b"" if options.tokenizer is None else _tokenizer_file(options.tokenizer, path)
    with replaced(path) as file:
        for n_bytes in lmw_file.write(file, layout, _params(checkpoint.config), records, model, tokenizer):
            options.progress(n_bytes)
    tensors.release()


def _records(layout: str, checkpoint: Checkpoint, tensors: Streamed, options: WriteOptions) -> Iterator[Record]:
    names = list(expected_shapes(checkpoint.config))
    if layout == "A" and checkpoint.config.is_tied:
        names.append("lm_head")
    for name in names:
        values = stored.floats(tensors["tok_embedding" if name == "lm_head" and name not in tensors else name])
        stored_name = meta_name(name)
        is_transposed = layout == "C" and values.ndim == 2 and stored_name != _EMBEDDING
        dtype = "float32"
        if layout == "C" and not (options.dtype and values.ndim == 1):
            dtype = stored.dtype_to_store(checkpoint, name, options, tuple(CODES))
        elements = values.T if is_transposed else values
        yield Record(stored_name, values.shape, is_transposed, dtype, _blocks(name, elements, dtype, checkpoint))


def _blocks(name: str, values: NDArray[Any], dtype: str, checkpoint: Checkpoint) -> Iterator[NDArray[Any]]:
    for piece in numbers.blocks(values):
        try:
            yield numbers.narrow(piece, dtype)
        except ValueError as error:
            raise CheckpointError(f"tensor {name} cannot be stored: {error}", path=checkpoint.path) from error


def _params(config: ModelConfig) -> Params:
    return Params(
        config.dim,
        config.n_layers,
        config.n_heads,
        config.n_kv_heads,
        _multiple_of(config),
        config.vocab_size,
        config.seq_len,
        config.rope_theta,
        config.norm_eps,
    )


def _multiple_of(config: ModelConfig) -> int:
    """Find the number that llama2.c's rule for the feed-forward's width would need.

    >>> _multiple_of(ModelConfig(64, 172, 5, 8, 4, 512, 512))
    4
    """
    powers = (256, 128, 64, 32, 16, 8, 4, 2, 1)
    width = int(2 * 4 * config.dim / 3)
    for power in powers:
        if -(-width // power) * power == config.hidden_dim:
            return power
    return next(power for power in powers if config.hidden_dim % power == 0)


def _tokenizer_file(tokenizer: AnyTokenizer, path: Path) -> bytes:
    if isinstance(tokenizer, Tokenizer):
        return sentencepiece_model.dump(tokenizer, path)
    return tiktoken_ranks.dump(tokenizer, path)


def _refuses(config: ModelConfig) -> str | None:
    if config.block != Block():
        return "its programs have llama's block, and take Qwen's from the name of the model"
    if config.q_dim != config.dim:
        return "it has no place for a width of heads"
    if config.rope_scaling:
        return "it has no place for a scaling of rotary frequencies"
    return None


def _format(layout: str, what: str, suffixes: tuple[str, ...], dtypes: tuple[str, ...]) -> Format:
    return Format(
        name=f"lmw-{layout.lower()}",
        what=what,
        suffixes=suffixes,
        detect=lambda path, head: head.startswith(MAGIC) and (layout_of(head) == layout or layout == "C"),
        read=read,
        write=partial(write, layout),
        dtypes=dtypes,
        refuses=_refuses,
        read_tokenizer=read_tokenizer if layout == "C" else None,
    )


FORMATS = (
    _format("A", "llama-np's files of April 2024: float32, without tokenizer", (), ("float32",)),
    _format("C", "llama-np's files, with their tokenizer", (".lmw",), ("float32", "bfloat16")),
)
