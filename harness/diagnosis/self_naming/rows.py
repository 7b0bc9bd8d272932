"""Rows: the tokens behind the old vocabulary, and the classifier that knows a state by its direction.

Behind the old vocabulary of V ids: V is `ok`; some spare tokens, on which ports stumble that read the classifier too
early in the file; then a row for each state; then, in untied models, two rows that win only where every other logit
is negative, so that id 0 (which a first maximum falls back to) is left to states that are no numbers.

In an untied model the embedding of a name is so long that the token after it is BOS, where llama2.c stops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Tensor
from harness.diagnosis.self_naming.outcome import angles, hypotheses
from harness.model_config import ModelConfig
from harness.models import Model, pad_vocab
from harness.quant import QuantTensor, quantize_weights

__all__ = ["grown", "placed", "room", "separation_of", "stored", "with_rows"]

Array = npt.NDArray[Any]

_ROW_LENGTH = 16.0  # in an untied classifier; RoPE tables that are taken for it have rows of half that
_OVER_OTHERS = 8.0  # of the longest other row, in a tied one
_STOP_LENGTH = 1000.0  # of the embedding of a name: what the layers add to it counts for nothing


def room(config: ModelConfig, version: int, n_hypotheses: int) -> int:
    """New tokens: spares, one for each hypothesis, and two; a multiple of 32, which int8 groups like."""
    return -(-(_spares(config, version) + n_hypotheses + 3) // 32) * 32


def _spares(config: ModelConfig, version: int) -> int:
    """Rows by which a classifier is late that is read where version 0's RoPE tables are."""
    if config.is_tied or version != 0:
        return 0
    return math.ceil(config.seq_len * config.head_dim / config.dim) + 1


def placed(
    model: Model, version: int, owners: Sequence[Sequence[str]], states: Mapping[str, Array]
) -> dict[int, Array]:
    config = model.checkpoint.config
    first = config.vocab_size - room(config, version, len(hypotheses(model, version)))
    spares = _spares(config, version)
    tokens = [first, *(first + spares + i for i in range(1, len(owners)))]
    return {token: states[group[0]] for token, group in zip(tokens, owners, strict=True)}


def grown(model: Model, n: int) -> Model:
    """Add n tokens that no text is encoded to; an untied classifier becomes all zeros."""
    found, tokenizer = pad_vocab(model.checkpoint, model.tokenizer, model.checkpoint.config.vocab_size + n)
    tensors = dict(found.tensors)
    if not found.config.is_tied:
        zeros = np.zeros((found.config.vocab_size, found.config.dim), np.float32)
        tensors["lm_head"] = _as_stored(zeros, found.group_size)
    return Model(replace(found, tensors=tensors, path=None), tokenizer, model.name)


def _as_stored(matrix: Array, group_size: int | None) -> Tensor:
    """A classifier as the file has it; int8 rows are made as long again as they were, through their scales.

    A row that is longer by a share e wins from as far away as sqrt(2 e).
    """
    if group_size is None:
        return matrix
    found = quantize_weights(matrix, group_size)
    lengths = np.linalg.norm(matrix, axis=1)
    coded = np.linalg.norm(found.dequantize().astype(np.float64), axis=1)
    grown = np.divide(lengths, coded, out=np.ones_like(coded), where=coded > 0)
    scales = (found.scales.reshape(len(matrix), -1) * grown[:, None]).astype(np.float32)
    return QuantTensor(found.codes, scales.reshape(-1), group_size)


def with_rows(blank: Model, rows: Mapping[int, Array], ok: Array) -> Model:
    found = blank.checkpoint
    tensors = dict(found.tensors)
    embedding = found.tensors["tok_embedding"]
    index, block = np.array(list(rows)), np.stack(list(rows.values()))
    if found.config.is_tied:
        assert not isinstance(embedding, QuantTensor)
        matrix = np.array(embedding, np.float32)
        longest = float(np.linalg.norm(matrix, axis=1).max())
        matrix[index[0] :] = 0
        matrix[0] = 0
        matrix[index] = _OVER_OTHERS * longest * block
        tensors["tok_embedding"] = matrix
    else:
        head = np.zeros((found.config.vocab_size, found.config.dim), np.float32)
        head[index] = _ROW_LENGTH * block
        way, stop = _stop(found.tensors["final_norm"], block, ok)
        head[1] = _ROW_LENGTH * stop
        head[-2], head[-1] = 0.01 * _ROW_LENGTH * stop, -0.01 * _ROW_LENGTH * stop
        tensors["lm_head"] = _as_stored(head, found.group_size)
        if not isinstance(embedding, QuantTensor):
            matrix = np.array(embedding, np.float32)
            matrix[index[0] :] = _STOP_LENGTH * way
            # Taken for the classifier, the embedding says this token, which has no row.
            matrix[index[0] + 1 if len(index) < 2 or index[1] > index[0] + 1 else -3] = 2 * _STOP_LENGTH * way
            tensors["tok_embedding"] = matrix
    return replace(blank, checkpoint=replace(found, tensors=tensors))


def _stop(gain: Tensor, block: Array, ok: Array) -> tuple[Array, Array]:
    """A direction of the residual stream, and the final state that it becomes: one that no row is near to."""
    assert not isinstance(gain, QuantTensor)
    ways = np.random.default_rng(0).standard_normal((256, block.shape[1]))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    ways *= np.where(ways @ ok < 0, -1, 1)[:, None]
    stops = ways * np.asarray(gain, np.float64)
    stops /= np.linalg.norm(stops, axis=1, keepdims=True)
    best = int(np.abs(stops @ block.T).max(axis=1).argmin())
    return ways[best], stops[best]


def stored(model: Model, rows: Mapping[int, Array]) -> dict[int, Array]:
    """The rows as they stand in the file, at unit length: int8 codes turn them a little."""
    classifier = model.checkpoint.classifier
    matrix = classifier.dequantize() if isinstance(classifier, QuantTensor) else np.asarray(classifier)
    found = {token: np.asarray(matrix[token], np.float64) for token in rows}
    return {token: row / np.linalg.norm(row) for token, row in found.items()}


def separation_of(rows: Mapping[int, Array]) -> float:
    block = np.stack(list(rows.values()))
    between = angles(block, block)
    np.fill_diagonal(between, math.pi)
    return float(between.min())
