"""GGUF's keys to a ModelConfig and back, for the architectures that are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from harness.errors import CheckpointError
from harness.formats import gguf_types
from harness.formats.gguf_file import GgufFile, Value
from harness.formats.numbers import shortest
from harness.model_config import PHI_2, Block, ModelConfig, RopeScaling

__all__ = [
    "ROPE_FREQS",
    "Architecture",
    "architecture_for",
    "architecture_of",
    "config_of",
    "keys_of",
    "rope_factors",
]

ROPE_FREQS = "rope_freqs.weight"
# Far above any llama; the sizes of tensors bound the other dimensions.
_MAX_SEQ_LEN = 1 << 24
# What Meta published for Llama 3.1 and 3.2, whose factors are 8 and 32.
_PUBLISHED = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context": 8192}


@dataclass(frozen=True, slots=True)
class Architecture:
    """What one of llama.cpp's architectures is.

    Attributes:
        name: the value of general.architecture.
        block: its block; the window, and what part of a head is rotated, is the file's to say.
        has_halves: rotated pairs are half a head apart in wq and wk, not adjacent.
        eps_key: the key of the norm's epsilon.
    """

    name: str
    block: Block
    has_halves: bool
    eps_key: str = "attention.layer_norm_rms_epsilon"


_ARCHITECTURES = (
    Architecture("llama", Block(), has_halves=False),
    Architecture("qwen2", Block(qkv_bias=True), has_halves=True),
    Architecture("qwen3", Block(qk_norm=True), has_halves=True),
    Architecture("phi2", PHI_2, has_halves=True, eps_key="attention.layer_norm_epsilon"),
)


def architecture_for(config: ModelConfig) -> Architecture | str:
    """Choose the architecture that a model is written as, or say in words why there is none."""
    same = replace(config.block, window=None, rotary_dim=None)
    chosen = next((one for one in _ARCHITECTURES if one.block == same), None)
    if chosen is None:
        return "no architecture of llama.cpp that we write has such a block"
    if config.rotary_dim != config.head_dim and chosen.name != "phi2":
        return f"llama.cpp's {chosen.name} rotates whole heads, not {config.rotary_dim} values of {config.head_dim}"
    if chosen.name == "phi2" and config.is_tied:
        return "llama.cpp's phi2 has a classifier of its own"
    if config.rope_scaling and config.rope_scaling.kind == "llama3" and chosen.name != "llama":
        return f"llama.cpp's {chosen.name} has no frequency factors"
    window = config.block.window
    if window is not None and window < config.seq_len:
        return (
            f"llama.cpp's {chosen.name} attends to the whole context, not to the last {window} of {config.seq_len} "
            f"positions; with a context of {window} it would be the same model"
        )
    return chosen


def architecture_of(file: GgufFile) -> Architecture:
    """Find the architecture that a file names.

    Raises:
        CheckpointError: it names none, or one that is not known.
    """
    name = file.metadata.get("general.architecture")
    found = next((one for one in _ARCHITECTURES if one.name == name), None)
    if found is None:
        raise CheckpointError(
            "the file names no architecture" if name is None else "the architecture is not supported",
            path=file.path,
            where="key general.architecture",
            expected=", ".join(one.name for one in _ARCHITECTURES),
            actual=None if name is None else repr(name)[:80],
        )
    return found


# ---- keys to config ------------------------------------------------------------------------------


def config_of(file: GgufFile, architecture: Architecture) -> ModelConfig:
    """Read the dimensions, and what of the block is left to the file.

    Raises:
        CheckpointError: a key is missing, of the wrong type or out of range, or says what is not supported.
    """
    keys = _Keys(file, architecture.name)
    for key in ("expert_count", "attention.causal"):
        if (value := keys.value(key)) not in (None, 0, True):
            keys.fail(key, "is not supported", value)
    n_layers = keys.integer("block_count", len(file.entries))
    n_heads = keys.integer("attention.head_count", 1 << 16)
    dim = keys.integer("embedding_length", 1 << 32)
    head_dim = keys.integer("attention.key_length", 1 << 32, default=dim // n_heads)
    if (value_length := keys.integer("attention.value_length", 1 << 32, default=head_dim)) != head_dim:
        keys.fail("attention.value_length", "differs from the keys'", value_length, head_dim)
    rotary_dim = keys.integer("rope.dimension_count", 1 << 32, default=head_dim)
    window = keys.integer("attention.sliding_window", 1 << 32, default=0, least=0) or None
    block = architecture.block
    if architecture.name == "llama" and "blk.0.attn_q.bias" in file.entries:
        block = Block(qkv_bias=True)
    embedding = file.entries.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError("tensor token_embd.weight is missing", path=file.path)
    fields: dict[str, Any] = {
        "dim": dim,
        "hidden_dim": keys.integer("feed_forward_length", 1 << 32),
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_kv_heads": keys.integer("attention.head_count_kv", 1 << 16, default=n_heads),
        "vocab_size": embedding.shape[0],
        "seq_len": keys.integer("context_length", _MAX_SEQ_LEN),
        "is_tied": "output.weight" not in file.entries,
        "norm_eps": keys.number(architecture.eps_key),
        "rope_theta": keys.number("rope.freq_base", default=10000.0),
        "head_size": None if head_dim * n_heads == dim else head_dim,
    }
    try:
        block = replace(block, window=window, rotary_dim=None if rotary_dim == head_dim else rotary_dim)
        plain = ModelConfig(**fields, block=block)
        return ModelConfig(**fields, block=block, rope_scaling=_scaling(file, keys, plain))
    except ValueError as error:
        raise CheckpointError(f"the header contradicts itself: {error}", path=file.path) from error


class _Keys:
    """The keys of one architecture."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self.file = file
        self.prefix = f"{architecture}."

    def fail(self, key: str, what: str, actual: object, expected: object = None) -> NoReturn:
        raise CheckpointError(
            f"key {self.prefix}{key} {what}", path=self.file.path, expected=expected, actual=str(actual)[:80]
        )

    def value(self, key: str) -> Value | None:
        return self.file.metadata.get(self.prefix + key)

    def integer(self, key: str, most: int, *, default: int | None = None, least: int = 1) -> int:
        value = self.value(key)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iu" and (value == value[0]).all():
            value = int(value[0])  # one number for each layer, all the same
        if value is None and default is not None:
            return default
        if value is None:
            raise CheckpointError(f"key {self.prefix}{key} is missing", path=self.file.path)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.fail(key, "is out of range", value, f"{least} to {most:,}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.value(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise CheckpointError(f"key {self.prefix}{key} is missing", path=self.file.path)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            self.fail(key, "is out of range", value, "a finite number, not below 0")
        return shortest(value)


def _scaling(file: GgufFile, keys: _Keys, config: ModelConfig) -> RopeScaling | None:
    kind = keys.value("rope.scaling.type") or "none"
    if ROPE_FREQS in file.entries:
        return _llama3(file, keys, config)
    if kind == "none":
        return None
    if kind != "linear":
        keys.fail("rope.scaling.type", "is not supported", kind, "none or linear")
    return RopeScaling("linear", keys.number("rope.scaling.factor"))


def _llama3(file: GgufFile, keys: _Keys, config: ModelConfig) -> RopeScaling:
    """Find the parameters that make the tensor of factors."""
    entry = file.entries[ROPE_FREQS]
    if entry.shape != (config.rotary_dim // 2,) or entry.encoding.word != "float32":
        raise CheckpointError(
            f"tensor {ROPE_FREQS} has the wrong shape or type",
            path=file.path,
            expected=f"float32 {(config.rotary_dim // 2,)}",
            actual=f"{entry.encoding.word} {entry.shape}",
        )
    table = gguf_types.dequantize(file.raw(ROPE_FREQS), entry.encoding, entry.shape)
    if keys.value("rope.scaling.llama3.factor") is not None:
        found = RopeScaling(
            "llama3",
            keys.number("rope.scaling.llama3.factor"),
            keys.number("rope.scaling.llama3.low_freq_factor"),
            keys.number("rope.scaling.llama3.high_freq_factor"),
            keys.integer("rope.scaling.llama3.original_context", _MAX_SEQ_LEN),
        )
    else:
        found = RopeScaling("llama3", shortest(float(table.max())), **_PUBLISHED)  # type: ignore[arg-type]
    if found.problems() or not np.allclose(table, rope_factors(config, found), rtol=1e-5, atol=0):
        raise CheckpointError(
            f"tensor {ROPE_FREQS} is not what Llama 3's scaling gives",
            path=file.path,
            expected=f"factors between 1 and {found.factor:g}, as of {found}",
            hint="another kind of scaling is not supported",
        )
    return found


def rope_factors(config: ModelConfig, scaling: RopeScaling) -> NDArray[np.float32]:
    """Compute by what each frequency is divided, (rotary_dim / 2,).

    Wavelengths, in positions, up to original_context / high_freq_factor are kept (1), those from original_context /
    low_freq_factor on are divided by the factor, and between the two the frequency goes linearly with
    original_context / wavelength. Source: Llama 3.1's published code, as llama.cpp's converter has it.
    """
    half = np.arange(0, config.rotary_dim, 2) / config.rotary_dim
    turns = scaling.original_context * config.rope_theta**-half / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / scaling.factor + kept)).astype(np.float32)


# ---- config to keys ------------------------------------------------------------------------------


def keys_of(config: ModelConfig, architecture: Architecture) -> dict[str, Value]:
    """Return the keys that say these dimensions."""
    keys: dict[str, Value] = {
        "context_length": config.seq_len,
        "embedding_length": config.dim,
        "block_count": config.n_layers,
        "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        architecture.eps_key: float(config.norm_eps),
        "rope.dimension_count": config.rotary_dim,
        "rope.freq_base": float(config.rope_theta),
        "vocab_size": config.vocab_size,
    }
    if config.head_size is not None:
        keys |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if config.block.window is not None:
        keys["attention.sliding_window"] = config.block.window
    scaling = config.rope_scaling
    if scaling and scaling.kind == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}
    elif scaling:
        keys |= {
            "rope.scaling.llama3.factor": float(scaling.factor),
            "rope.scaling.llama3.low_freq_factor": float(scaling.low_freq_factor),
            "rope.scaling.llama3.high_freq_factor": float(scaling.high_freq_factor),
            "rope.scaling.llama3.original_context": scaling.original_context,
        }
    return {f"{architecture.name}.{key}": value for key, value in keys.items()}
