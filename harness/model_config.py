"""ModelConfig: the dimensions of a llama, their invariants, and the sizes derived from them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelConfig"]


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
        if self.dim % self.n_heads:
            found.append(f"dim {self.dim} is not a multiple of n_heads {self.n_heads}")
        elif (self.dim // self.n_heads) % 2:
            found.append(f"head_dim {self.dim // self.n_heads} is odd, rotary pairs need it even")
        if self.n_heads % self.n_kv_heads:
            found.append(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        return found

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

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
        layer = 2 * self.dim + 2 * self.dim**2 + 2 * self.dim * self.kv_dim + 3 * self.dim * self.hidden_dim
        tables = self.vocab_size * self.dim * (1 if self.is_tied else 2)
        return tables + self.n_layers * layer + self.dim
