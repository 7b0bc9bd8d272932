"""A checkpoint's logits on a short prompt, computed layer by layer, so that the model need not fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint import Checkpoint, LazyTensors, Source, Streamed, Tensor
from harness.engine import Engine
from harness.formats.stored import floats
from harness.quant import QuantTensor

__all__ = ["distance", "prompt_of", "reference_logits", "tolerance"]

# A layer of this size is computed in float64; a larger one in float32, for it is held whole, twice.
_FLOAT64_LAYER_BYTES = 256 << 20
_N_PROMPT = 8
_STRIDE = 7919  # a prime, so that the ids of a prompt differ in any vocabulary


def prompt_of(checkpoint: Checkpoint) -> list[int]:
    """Return ids that are spread over the vocabulary; what they mean does not matter, that they differ does."""
    n = min(_N_PROMPT, checkpoint.config.seq_len)
    return [(1 + i * _STRIDE) % checkpoint.config.vocab_size for i in range(n)]


def reference_logits(checkpoint: Checkpoint, ids: Sequence[int]) -> NDArray[np.float64]:
    """Feed ids to the reference; return its logits (n_tokens, vocab_size).

    int8 weights count as codes times scales: what is compared are weights, not how runq rounds activations.
    """
    config = checkpoint.config
    layer_bytes = 8 * (config.n_params // config.n_layers)
    dtype = np.float64 if layer_bytes <= _FLOAT64_LAYER_BYTES else np.float32
    engine = Engine(config, _as_floats(Streamed(checkpoint.tensors)), dtype=dtype, keep_bytes=0)
    with np.errstate(all="ignore"):
        return np.asarray(engine.logits(list(ids)), np.float64)


def _as_floats(tensors: Mapping[str, Tensor]) -> LazyTensors:
    """Offer copies: pages of the file that a layer touches again while it is fused would stay with the process."""

    def load(name: str) -> NDArray[Any]:
        tensor = tensors[name]
        return floats(tensor) if isinstance(tensor, QuantTensor) else np.array(tensor)

    # The engine asks for tensors by name only.
    return LazyTensors({name: Source((), "float32", partial(load, name)) for name in tensors})


def distance(actual: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Return the largest difference of logits, as a share of how far the expected ones spread."""
    spread = float(expected.max() - expected.min()) or 1.0
    return float(np.abs(actual - expected).max()) / spread


def tolerance(checkpoint: Checkpoint) -> float:
    """Return how far two computations of the same function may lie apart, as a share of the logits' spread.

    In float64 some hundred roundings of 2**-53 are below 1e-12 even where a sum of many terms nearly cancels; in
    float32, the same of 2**-24. What a wrong conversion does is of the order of 1.
    """
    layer_bytes = 8 * (checkpoint.config.n_params // checkpoint.config.n_layers)
    return 1e-9 if layer_bytes <= _FLOAT64_LAYER_BYTES else 1e-3
