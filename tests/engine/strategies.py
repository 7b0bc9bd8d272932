"""Tiny engines with ordinary weights: logits of a few units, as a trained model has."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from harness.checkpoint import Checkpoint, expected_shapes
from tests.strategies import configs, quantised

__all__ = ["divisors", "ids_of", "models", "quantised_models"]


@st.composite
def models(draw, **changes):
    """Return a Checkpoint of random weights; `changes` fix dimensions."""
    config = replace(draw(configs()), **changes)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors = {}
    for name, shape in expected_shapes(config).items():
        values = random.standard_normal(shape).astype(np.float32)
        tensors[name] = 1 + values / 4 if len(shape) == 1 else values * np.float32(1.5 / np.sqrt(shape[1]))
    return Checkpoint(config, tensors)


def divisors(checkpoint):
    """Group sizes that divide every matrix, but not necessarily its rows."""
    sizes = [tensor.size for tensor in checkpoint.tensors.values() if tensor.ndim == 2]
    return [n for n in range(1, min(sizes) + 1) if all(size % n == 0 for size in sizes)]


@st.composite
def quantised_models(draw):
    """The same in int8, of any group size that fits: groups often straddle rows."""
    checkpoint = draw(models())
    return quantised(checkpoint, draw(st.sampled_from(divisors(checkpoint))))


def ids_of(checkpoint, n, seed=0):
    """n token ids, the same for the same arguments."""
    return np.random.default_rng(seed).integers(0, checkpoint.config.vocab_size, n).tolist()
