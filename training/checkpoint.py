"""Write llama2.c checkpoints, float32 (version 0) and int8 (version 2), from named arrays. All numbers
little-endian.

Version 0: seven int32 (`dim hidden_dim n_layers n_heads n_kv_heads vocab_size seq_len`; vocab_size
negative when the classifier is separate), then float32 in the order of `WEIGHTS`, the RoPE cosine and sine
tables of (seq_len, head_dim / 2), and the separate classifier.

Version 2: a 256-byte header (magic, 2, the same seven int32 with vocab_size positive, uint8 is_tied, int32
group size, zeros), the three norms in float32, then every matrix as int8 values followed by one float32
scale for each group of consecutive values.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAGIC = 0x616B3432
ROPE_THETA = 10000.0
# Version 0 order; every name but the first and the last is stacked over layers.
WEIGHTS = (
    "tok_embedding",
    "attn_norm",
    "wq",
    "wk",
    "wv",
    "wo",
    "ffn_norm",
    "w_gate",
    "w_down",
    "w_up",
    "final_norm",
)
NORMS = ("attn_norm", "ffn_norm", "final_norm")
# Version 2 order of what is quantised.
MATRICES = ("tok_embedding", "wq", "wk", "wv", "wo", "w_gate", "w_down", "w_up")

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class RopeScaling:
    """How Llama 3.1 stretches the rotary waves that are longer than its first training's context.

    Waves longer than context / low turn `factor` times slower, those shorter than context / high as before, and
    those between by a mixture.
    """

    factor: float
    low: float
    high: float
    context: int


@dataclass(frozen=True)
class Config:
    """The shape of a model."""

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int
    is_tied: bool = True
    rope_theta: float = ROPE_THETA
    rope_scaling: RopeScaling | None = None

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def kv_dim(self) -> int:
        return self.head_dim * self.n_kv_heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight, layers outermost, matrices (out, in)."""
        layers, dim, hidden = self.n_layers, self.dim, self.hidden_dim
        shapes = {
            "tok_embedding": (self.vocab_size, dim),
            "attn_norm": (layers, dim),
            "wq": (layers, dim, dim),
            "wk": (layers, self.kv_dim, dim),
            "wv": (layers, self.kv_dim, dim),
            "wo": (layers, dim, dim),
            "ffn_norm": (layers, dim),
            "w_gate": (layers, hidden, dim),
            "w_down": (layers, dim, hidden),
            "w_up": (layers, hidden, dim),
            "final_norm": (dim,),
        }
        return shapes if self.is_tied else shapes | {"lm_head": (self.vocab_size, dim)}

    def integers(self) -> tuple[int, ...]:
        return (
            self.dim,
            self.hidden_dim,
            self.n_layers,
            self.n_heads,
            self.n_kv_heads,
            self.vocab_size,
            self.seq_len,
        )


def rope_angles(config: Config) -> np.ndarray:
    """(seq_len, head_dim / 2) float32: position times frequency, both float32."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    powers = np.power(np.float64(config.rope_theta), exponents.astype(np.float64))
    frequencies = np.float32(1) / powers.astype(np.float32)
    if config.rope_scaling:
        frequencies = scaled(frequencies.astype(np.float64), config.rope_scaling).astype(np.float32)
    return np.arange(config.seq_len, dtype=np.float32)[:, None] * frequencies[None, :]


def scaled(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Frequencies as Llama 3.1 turns them."""
    waves_in_context = scaling.context * frequencies / (2 * np.pi)
    kept = np.clip((waves_in_context - scaling.low) / (scaling.high - scaling.low), 0, 1)
    out: np.ndarray = frequencies * (kept + (1 - kept) / scaling.factor)
    return out


def write_v0(config: Config, weights: Weights, path: Path) -> None:
    """Write the float32 checkpoint."""
    _check(config, weights)
    *integers, seq_len = config.integers()
    if not config.is_tied:
        integers[-1] *= -1
    # Float64 trigonometry, rounded once: the table does not depend on a library's float32 functions.
    angles = rope_angles(config).astype(np.float64)
    with path.open("wb") as file:
        file.write(struct.pack("<7i", *integers, seq_len))
        for name in WEIGHTS:
            file.write(_float32(weights[name]))
        file.write(_float32(np.cos(angles)) + _float32(np.sin(angles)))
        if not config.is_tied:
            file.write(_float32(weights["lm_head"]))


def write_v2(config: Config, weights: Weights, path: Path, *, group_size: int) -> None:
    """Write the int8 checkpoint; the group size must divide dim and hidden_dim: no group straddles a row."""
    _check(config, weights)
    if config.dim % group_size or config.hidden_dim % group_size:
        raise ValueError(f"group size {group_size} must divide dim {config.dim} and hidden_dim {config.hidden_dim}")
    header = struct.pack("<Ii7iBi", MAGIC, 2, *config.integers(), config.is_tied, group_size)
    with path.open("wb") as file:
        file.write(header.ljust(256, b"\0"))
        for name in NORMS:
            file.write(_float32(weights[name]))
        for name in MATRICES if config.is_tied else (*MATRICES, "lm_head"):
            tensor = weights[name]
            for matrix in tensor if tensor.ndim == 3 else [tensor]:
                values, scales = quantize(matrix, group_size)
                file.write(values.tobytes() + _float32(scales))


def read_v0(path: Path) -> tuple[Config, Weights]:
    """Read a float32 checkpoint that `write_v0` wrote."""
    raw = path.read_bytes()
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = struct.unpack_from("<7i", raw)
    is_tied = vocab_size > 0
    config = Config(dim, hidden_dim, n_layers, n_heads, n_kv_heads, abs(vocab_size), seq_len, is_tied)
    floats, offset, weights = np.frombuffer(raw, "<f4", offset=28), 0, {}
    tables = seq_len * config.head_dim
    for name, shape in config.shapes().items():
        offset += tables if name == "lm_head" else 0
        size = int(np.prod(shape))
        weights[name] = floats[offset : offset + size].reshape(shape)
        offset += size
    if offset + (tables if config.is_tied else 0) != floats.size:
        raise ValueError(f"{path}: {floats.size} floats, expected {offset}")
    return config, weights


def quantize(matrix: np.ndarray, group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 values and one float32 scale for each group; halves round to even, as in llama2.c's exporter."""
    groups = matrix.astype(np.float32).reshape(-1, group_size)
    scales = np.abs(groups).max(axis=1) / np.float32(127)
    if not scales.all():
        raise ValueError("a group of zeros has no scale")
    return np.rint(groups / scales[:, None]).astype(np.int8), scales


def _float32(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, dtype="<f4").tobytes()


def _check(config: Config, weights: Weights) -> None:
    if config.rope_theta != ROPE_THETA or config.rope_scaling:
        raise ValueError("the files of llama2.c cannot say how their positions turn")
    for name, shape in config.shapes().items():
        if weights[name].shape != shape:
            raise ValueError(f"{name}: shape {weights[name].shape}, expected {shape}")
