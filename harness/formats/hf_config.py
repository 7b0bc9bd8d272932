"""Hugging Face's config.json to ModelConfig and back, for the architectures of the family; any other is refused.

    LlamaForCausalLM     Block(), or rope scaling "linear" or "llama3"
    MistralForCausalLM   Block(window=sliding_window)
    Qwen2ForCausalLM     Block(qkv_bias=True)
    Qwen3ForCausalLM     Block(qk_norm=True), head_dim of its own
    PhiForCausalLM       PHI_2 with rotary_dim = int(head_dim * partial_rotary_factor)

A key that changes what is computed, and that we do not know how to compute, is refused by its name: better no model
than a wrong one. What is absent has the default of the library's own class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError
from harness.model_config import PHI_2, Block, ModelConfig, RopeScaling

__all__ = ["ARCHITECTURES", "architecture_of", "parse", "render"]


@dataclass(frozen=True, slots=True)
class _Architecture:
    """What the library's class for an architecture assumes.

    Attributes:
        model_type: config.json's word.
        block: without window and rotary_dim, which are numbers of the configuration.
        eps_key: where norm_eps stands.
        activations: words for the activation that the block has.
        kv_heads: of a configuration that does not say; None: as many as heads.
        head_dim: likewise; None: hidden_size / heads.
        windowed: whether sliding_window counts without use_sliding_window.
    """

    model_type: str
    block: Block
    eps_key: str = "rms_norm_eps"
    default_eps: float = 1e-6
    activations: tuple[str, ...] = ("silu", "swish")
    kv_heads: int | None = None
    head_dim: int | None = None
    windowed: bool = False


ARCHITECTURES = {
    "LlamaForCausalLM": _Architecture("llama", Block()),
    "MistralForCausalLM": _Architecture("mistral", Block(), kv_heads=8, windowed=True),
    "Qwen2ForCausalLM": _Architecture("qwen2", Block(qkv_bias=True), kv_heads=32),
    "Qwen3ForCausalLM": _Architecture("qwen3", Block(qk_norm=True), kv_heads=32, head_dim=128),
    "PhiForCausalLM": _Architecture(
        "phi",
        PHI_2,
        eps_key="layer_norm_eps",
        default_eps=1e-5,
        activations=("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    ),
}

# Keys that change what is computed, with the values that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "qk_layernorm": (False,),
    "quantization_config": (),
    "attention_multiplier": (1.0,),
    "logit_scale": (1.0,),
    "num_local_experts": (0,),
}
_MISTRAL_WINDOW = 4096
_PHI_ROTARY = 0.5


def parse(config: Mapping[str, Any], path: Path) -> ModelConfig:
    """Read the dimensions and choices of config.json.

    Raises:
        CheckpointError: naming an architecture or a key that we cannot compute, or a number that is missing or
        impossible.
    """
    reader = _Reader(config, path)
    name = reader.architecture()
    kind = ARCHITECTURES[name]
    for key, neutral in _NEUTRAL.items():
        if config.get(key) is not None and config[key] not in neutral:
            raise reader.refusal(key, neutral[0] if neutral else "none")
    activation = config.get("hidden_act", kind.activations[0])
    if activation not in kind.activations:
        raise reader.refusal("hidden_act", " or ".join(kind.activations))
    dim, n_heads, n_layers = (
        reader.integer(key) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")
    )
    head_dim = reader.integer("head_dim", kind.head_dim or dim // n_heads)
    rope = reader.rope()
    block = kind.block
    if kind.windowed or config.get("use_sliding_window"):
        block = replace(block, window=reader.window(kind.windowed, n_layers))
    if kind.block == PHI_2:
        factor = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", _PHI_ROTARY))
        rotary_dim = int(head_dim * reader.number("partial_rotary_factor", factor))
        block = replace(block, rotary_dim=rotary_dim)
    elif rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise reader.refusal("partial_rotary_factor", "1.0 for this architecture")
    try:
        return ModelConfig(
            dim=dim,
            hidden_dim=reader.integer("intermediate_size"),
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=reader.integer("num_key_value_heads", kind.kv_heads or n_heads),
            vocab_size=reader.integer("vocab_size"),
            seq_len=reader.integer("max_position_embeddings"),
            is_tied=bool(config.get("tie_word_embeddings", False)),
            norm_eps=reader.number(kind.eps_key, config.get(kind.eps_key, kind.default_eps)),
            rope_theta=reader.number("rope_theta", rope.get("rope_theta", config.get("rope_theta", 10000.0))),
            head_size=None if head_dim * n_heads == dim else head_dim,
            rope_scaling=reader.scaling(rope),
            block=block,
        )
    except ValueError as error:
        raise CheckpointError(f"the configuration contradicts itself: {error}", path=path) from error


class _Reader:
    """Typed access to config.json; every complaint names the key."""

    def __init__(self, config: Mapping[str, Any], path: Path) -> None:
        self._config, self._path = config, path

    def architecture(self) -> str:
        listed = self._config.get("architectures")
        if isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], str):
            name = listed[0]
        else:
            model_type = self._config.get("model_type")
            name = next((each for each, kind in ARCHITECTURES.items() if kind.model_type == model_type), "")
            name = name or f"of model_type {model_type!r}"
        if name not in ARCHITECTURES:
            raise CheckpointError(
                f"the architecture {name[:80]} is not of the family",
                path=self._path,
                expected=", ".join(ARCHITECTURES),
            )
        return name

    def refusal(self, key: str, expected: object) -> CheckpointError:
        return CheckpointError(
            f"{key} is more than the reference can compute",
            path=self._path,
            expected=expected,
            actual=str(self._config.get(key))[:80],
        )

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._config.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 1 << 31:
            raise CheckpointError(
                f"{key} is missing or no number",
                path=self._path,
                expected="a whole number above 0",
                actual=str(value)[:40],
            )
        return value

    def number(self, key: str, value: Any) -> float:
        if type(value) not in (int, float) or not 0 < value < 1e30:
            raise CheckpointError(
                f"{key} is no number", path=self._path, expected="a number above 0", actual=str(value)[:40]
            )
        return float(value)

    def rope(self) -> Mapping[str, Any]:
        """Return the table of rotary parameters, wherever this version of the library writes it."""
        for key in ("rope_parameters", "rope_scaling"):
            table = self._config.get(key)
            if table is not None:
                if not isinstance(table, dict):
                    raise CheckpointError(f"{key} is no table", path=self._path)
                return table
        return {}

    def scaling(self, rope: Mapping[str, Any]) -> RopeScaling | None:
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind == "default":
            return None
        if kind == "linear":
            return RopeScaling("linear", self.number("rope factor", rope.get("factor")))
        if kind == "llama3":
            context = rope.get("original_max_position_embeddings")
            if type(context) is not int:
                raise CheckpointError("rope scaling lacks original_max_position_embeddings", path=self._path)
            factor, low, high = (
                self.number(f"rope {key}", rope.get(key)) for key in ("factor", "low_freq_factor", "high_freq_factor")
            )
            return RopeScaling("llama3", factor, low, high, context)
        raise CheckpointError(
            "this rope scaling is more than the reference can compute",
            path=self._path,
            expected="default, linear or llama3",
            actual=str(kind)[:40],
        )

    def window(self, is_windowed: bool, n_layers: int) -> int | None:
        """Return the window that every layer has; windows in some layers only are refused."""
        window = self._config.get("sliding_window", _MISTRAL_WINDOW if is_windowed else None)
        kinds = self._config.get("layer_types")
        if kinds is not None:
            different = set(kinds) if isinstance(kinds, list) else {str(kinds)}
            if different == {"full_attention"}:
                return None
            if different != {"sliding_attention"}:
                raise self.refusal("layer_types", "one kind for all layers")
        elif not is_windowed and self._config.get("max_window_layers", n_layers) < n_layers:
            raise self.refusal("max_window_layers", "a window in no layer")
        elif not is_windowed:
            return None
        return None if window is None else self.integer("sliding_window", window)


def architecture_of(config: ModelConfig) -> str | None:
    """Name the architecture that computes a model, or None where the library has none."""
    bare = replace(config.block, window=None)
    if bare == Block():
        return "LlamaForCausalLM" if config.block.window is None else "MistralForCausalLM"
    if config.block.window is not None:
        return None
    if bare == Block(qkv_bias=True):
        return "Qwen2ForCausalLM"
    if bare == Block(qk_norm=True):
        return "Qwen3ForCausalLM"
    if replace(bare, rotary_dim=None) == PHI_2 and not config.is_tied:
        return "PhiForCausalLM"
    return None


def render(config: ModelConfig, *, dtype: str, bos_id: int = 1, eos_id: int = 2) -> dict[str, Any]:
    """Return the config.json of a model that `architecture_of` names.

    The rotary parameters stand in both spellings that the library has had.
    """
    name = architecture_of(config)
    assert name
    kind = ARCHITECTURES[name]
    rope: dict[str, Any] = {"rope_type": "default"}
    if scaling := config.rope_scaling:
        rope = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context,
            }
    document: dict[str, Any] = {
        "architectures": [name],
        "model_type": kind.model_type,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.seq_len,
        kind.eps_key: config.norm_eps,
        "hidden_act": kind.activations[0],
        "tie_word_embeddings": config.is_tied,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else rope,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "torch_dtype": dtype,
    }
    if name == "MistralForCausalLM":
        document["sliding_window"] = config.block.window
    if name == "PhiForCausalLM":
        factor = config.rotary_dim / config.head_dim
        while int(config.head_dim * factor) < config.rotary_dim:  # the product is truncated, not rounded
            factor = math.nextafter(factor, 1)
        document["partial_rotary_factor"] = factor
        document["rope_parameters"]["partial_rotary_factor"] = document["partial_rotary_factor"]
    if name in ("LlamaForCausalLM", "Qwen3ForCausalLM"):
        document["attention_bias"] = False
    return document
