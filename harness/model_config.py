"""ModelConfig: the dimensions of a llama, what sets its block apart, their invariants, and the sizes derived.

The family is one block with a few choices (`Block`), so that a model of another name is data and not another engine:

    Llama 1, 2, TinyLlama    Block()
    Llama 3.1, 3.2           Block() and RopeScaling("llama3", ...)
    Mistral                  Block(window=4096)
    Qwen2                    Block(qkv_bias=True)
    Qwen3                    Block(qk_norm=True), a head_size of its own
    Phi-2                    PHI_2, its rotary_dim set
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["PHI_2", "Block", "ModelConfig", "RopeScaling"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are changed for contexts longer than the trained one.

    Attributes:
        kind: "linear" divides every frequency by `factor`; "llama3" does so where the wavelength exceeds
            original_context / low_freq_factor, leaves alone what is below original_context / high_freq_factor, and
            goes from one to the other in between.
        factor: how far the context is stretched.
        low_freq_factor, high_freq_factor, original_context: of "llama3" only.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def problems(self) -> list[str]:
        """List, in words, what is wrong with these numbers."""
        found = []
        if self.kind not in ("linear", "llama3"):
            found.append(f"rope scaling {self.kind!r} is unknown, must be 'linear' or 'llama3'")
        if not self.factor > 0:
            found.append(f"rope scaling factor is {self.factor}, must be above 0")
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            found.append(
                f"rope scaling factors are {self.low_freq_factor} and {self.high_freq_factor}, "
                "the low must be above 0 and below the high"
            )
        if self.original_context < 1:
            found.append(f"rope scaling's original_context is {self.original_context}, must be at least 1")
        return found


@dataclass(frozen=True, slots=True)
class Block:
    """What sets a block apart from llama's. The defaults are llama's.

    Attributes:
        norm: "rms", or "layer": the mean is taken off first, and a bias added.
        is_parallel: attention and feed-forward read one norm, and both are added to the residual at once.
        activation: of the feed-forward: "silu", or "gelu" by its tanh formula.
        is_gated: whether the activation of a gate multiplies `up`; else `up` itself is activated.
        qkv_bias: wq, wk and wv add a bias.
        other_bias: wo, w_up (w_gate), w_down and the classifier add one.
        qk_norm: each head of q and k is normalised (RMS), before rotation.
        window: tokens that a query sees, itself included; None: all.
        rotary_dim: how many of a head's first values are rotated; None: all.
    """

    norm: Literal["rms", "layer"] = "rms"
    is_parallel: bool = False
    activation: Literal["silu", "gelu"] = "silu"
    is_gated: bool = True
    qkv_bias: bool = False
    other_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    rotary_dim: int | None = None

    def problems(self, head_dim: int) -> list[str]:
        """List, in words, what is wrong with these choices."""
        found = []
        if self.window is not None and self.window < 1:
            found.append(f"window is {self.window}, must be at least 1")
        if self.rotary_dim is not None and not (0 < self.rotary_dim <= head_dim and self.rotary_dim % 2 == 0):
            found.append(f"rotary_dim is {self.rotary_dim}, must be even, above 0 and at most head_dim {head_dim}")
        return found


PHI_2 = Block(norm="layer", is_parallel=True, activation="gelu", is_gated=False, qkv_bias=True, other_bias=True)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What must be known of a llama-family model before any weight is read.

    Attributes:
        dim: width of the residual stream.
        hidden_dim: width of the feed-forward block.
        n_layers: number of blocks.
        n_heads: number of query heads.
        n_kv_heads: number of key/value heads; a divisor of n_heads.
        vocab_size: number of token ids; always positive here, whatever sign a file uses.
        seq_len: longest context, in positions.
        is_tied: whether the classifier is the token embedding.
        norm_eps: added to the mean square inside RMSNorm's root. llama2.c files do not store it (1e-5).
        rope_theta: base of the rotary frequencies. Not stored either (10000).
        head_size: width of a head where it is not dim / n_heads; read `head_dim`.
        rope_scaling: change of the rotary frequencies, if any.
        block: what sets the block apart from llama's.
    """

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int
    is_tied: bool = True
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    head_size: int | None = None
    rope_scaling: RopeScaling | None = None
    block: Block = field(default_factory=Block)

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise ValueError("; ".join(problems))

    def problems(self) -> list[str]:
        """List, in words, every invariant that these dimensions break (empty: none)."""
        found = [
            f"{name} is {value}, must be at least 1"
            for name, value in (
                ("dim", self.dim),
                ("hidden_dim", self.hidden_dim),
                ("n_layers", self.n_layers),
                ("n_heads", self.n_heads),
                ("n_kv_heads", self.n_kv_heads),
                ("vocab_size", self.vocab_size),
                ("seq_len", self.seq_len),
            )
            if value < 1
        ]
        if found:
            return found
        if self.head_size is None and self.dim % self.n_heads:
            found.append(f"dim {self.dim} is not a multiple of n_heads {self.n_heads}")
        elif self.head_dim < 1 or self.head_dim % 2:
            found.append(f"head_dim {self.head_dim} is odd or below 1, rotary pairs need it even")
        if self.n_heads % self.n_kv_heads:
            found.append(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.rope_scaling:
            found += self.rope_scaling.problems()
        return found + self.block.problems(self.head_dim)

    @property
    def is_plain(self) -> bool:
        """Whether llama2.c's programs can run it: llama's block, base and eps, which their files do not store."""
        stored_nowhere = (self.norm_eps, self.rope_theta, self.rope_scaling, self.block)
        return stored_nowhere == (1e-5, 10000.0, None, Block()) and self.q_dim == self.dim

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads if self.head_size is None else self.head_size

    @property
    def q_dim(self) -> int:
        """Width of all query heads together: dim, unless heads have a size of their own."""
        return self.n_heads * self.head_dim

    @property
    def rotary_dim(self) -> int:
        """How many of a head's values are rotated, as adjacent pairs, from the first on."""
        return self.block.rotary_dim or self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.n_kv_heads * self.head_dim

    @property
    def n_rep(self) -> int:
        """Query heads that share one key/value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def n_params(self) -> int:
        """Number of weights, a tied classifier counted once."""
        block, dim, hidden_dim = self.block, self.dim, self.hidden_dim
        n_norms = (1 if block.is_parallel else 2) * (2 if block.norm == "layer" else 1)
        layer = n_norms * dim + 2 * dim * (self.q_dim + self.kv_dim) + (3 if block.is_gated else 2) * dim * hidden_dim
        if block.qkv_bias:
            layer += self.q_dim + 2 * self.kv_dim
        if block.qk_norm:
            layer += 2 * self.head_dim
        if block.other_bias:
            layer += 2 * dim + (2 if block.is_gated else 1) * hidden_dim
        tables = self.vocab_size * dim * (1 if self.is_tied else 2) + (self.vocab_size if block.other_bias else 0)
        return tables + self.n_layers * layer + (2 if block.norm == "layer" else 1) * dim
