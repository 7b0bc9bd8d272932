"""What is run to be measured: models of the published shapes, prompts, and token sequences.

Speed does not depend on the values of weights, so where the real ones are not at hand a synthetic model of exactly
the shape runs at the same speed; whatever is reported of it says that it is synthetic. It is made once, in the cache,
so that a fresh machine measures offline.

A synthetic model never stops by itself: the rows of the classifier that belong to <unk>, BOS, EOS, the byte pieces
and the pieces of prompts are a tenth as long as the others, so that no greedy choice falls on them. The rows of its
matrices are windows of a few shared blocks of noise, each shifted against the last, hence a model of any size is
written from some megabytes. Its vocabulary has one spelling of every text: pieces of one length that are printable
and unique, and letters for prompts, of which any number makes a prompt of exactly that many tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import checkpoint, formats, tokenizer
from harness.checkpoint import Checkpoint, Tensor, expected_shapes
from harness.errors import InputError
from harness.formats import WriteOptions
from harness.model_config import ModelConfig
from harness.models import ModelFiles, ModelNotFound, cache_dir, locate
from harness.tokenizer import Tokenizer

__all__ = [
    "PRECISIONS",
    "SHAPES",
    "Workload",
    "find",
    "group_size",
    "make_synthetic",
    "named",
    "shape_of",
    "synthetic_tensors",
    "synthetic_tokenizer",
    "token_sequences",
]

# Shapes of the TinyStories models of llama2.c, as in their published checkpoints; of TinyLlama; of Llama 2.
SHAPES: Mapping[str, ModelConfig] = {
    "260K": ModelConfig(64, 172, 5, 8, 4, 512, 512),
    "15M": ModelConfig(288, 768, 6, 6, 6, 32000, 256),
    "42M": ModelConfig(512, 1376, 8, 8, 8, 32000, 1024),
    "110M": ModelConfig(768, 2048, 12, 12, 12, 32000, 1024),
    "1B": ModelConfig(2048, 5632, 22, 32, 4, 32000, 2048, is_tied=False),
    "7B": ModelConfig(4096, 11008, 32, 32, 32, 32000, 2048, is_tied=False),
}
# Names by which `harness.models` knows the real weights of a shape.
_REAL = {"260K": "stories260K", "15M": "stories15M", "42M": "stories42M", "110M": "stories110M"}

PRECISIONS = ("f32", "q8")

_SPARE_BYTES = 256 << 20  # left free on the disk, at least
_VERSION = 1  # of the construction: another one is another file
_N_BYTE_IDS = 259  # <unk>, BOS, EOS and the byte pieces
_LETTERS = b" " + string.ascii_lowercase.encode()  # the pieces of prompts; the space is put before every prompt
_N_QUIET = _N_BYTE_IDS + len(_LETTERS)
_QUIET = 0.1
_PIECE_LETTERS = 3  # after the capital: 26**4 pieces
_ROW_SHIFT = 127  # elements between the windows of two rows; odd, so no row of a shape comes twice
_EMBEDDING_STD = 0.1  # small beside what the layers add, else the model would repeat its last token
_PEAKEDNESS = 1.0  # of queries and keys: more multiplies the noise of honest arithmetic, and so the near ties


@dataclass(frozen=True, slots=True)
class Workload:
    """A model in one precision, ready to be given to programs.

    Attributes:
        name: of the shape ("15M"), or of the model ("llama3").
        precision: "f32" or "q8".
        files: checkpoint and tokenizer.
        is_synthetic: whether the weights are made up.
    """

    name: str
    precision: str
    files: ModelFiles
    config: ModelConfig
    is_synthetic: bool

    @property
    def token_bytes(self) -> int:
        """Bytes of weights that decoding one token must read: every matrix once, the embedding table's one row aside.

        The keys and values of earlier positions come on top of this; they are left out.
        """
        c = self.config
        layer = 2 * c.dim**2 + 2 * c.dim * c.kv_dim + 3 * c.dim * c.hidden_dim
        n = c.n_layers * layer + c.vocab_size * c.dim
        norms = 4 * (2 * c.n_layers + 1) * c.dim
        if self.precision == "q8":
            return n + 4 * (n // group_size(c)) + norms
        return 4 * n + norms


def shape_of(name: str) -> ModelConfig:
    """Return the dimensions that a model name stands for.

    Raises:
        InputError: the name is not known.
    """
    try:
        return SHAPES[name]
    except KeyError:
        raise InputError(f"no model shape {name!r}", expected=", ".join(SHAPES)) from None


def find(
    name: str, precision: str = "f32", *, synthetic: bool = False, told: Callable[[str], None] = lambda _: None
) -> Workload:
    """Return the real model of a shape where it is at hand, else the synthetic one, made now if need be.

    Args:
        name: a shape, or a model by its own name (`harness models list`).
        synthetic: the synthetic one also where the real one is at hand.
        told: how far making it has come.

    Raises:
        InputError: no such shape, model or precision, or the cache cannot be written, or has no room.
    """
    if (files := named(name, precision, synthetic=synthetic)) is not None:
        return _by_name(name, files, precision)
    config = shape_of(name)
    try:
        real = locate(_REAL[name]) if name in _REAL and not synthetic else None
    except ModelNotFound:
        real = None
    if real is None:
        return Workload(name, precision, make_synthetic(name, config, precision, told=told), config, True)
    config = checkpoint.read(real.checkpoint).config
    if precision == "q8":
        real = _quantised(real, config)
    return Workload(name, precision, real, config, False)


def named(name: str, precision: str = "f32", *, synthetic: bool = False) -> ModelFiles | None:
    """Return the files of a model by its own name, None for a shape; nothing is made.

    Raises:
        InputError: it is neither, the model's files are not here, or it cannot be had so.
    """
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision!r}", expected=" or ".join(PRECISIONS))
    if name in SHAPES:
        return None
    try:
        files = locate(name)
    except ModelNotFound:
        raise
    except InputError as unknown:
        expected = f"{', '.join(SHAPES)}, or a model's name"
        raise InputError(f"no model {name!r}", expected=expected, hint="harness models list") from unknown
    if synthetic:
        raise InputError(f"{name} is no shape", where="--synthetic", expected=", ".join(SHAPES))
    if files.format == "llama2c-v2" and precision != "q8":
        raise InputError(f"{name} is int8", where="--precision", expected="q8", actual=precision)
    return files


def _by_name(name: str, files: ModelFiles, precision: str) -> Workload:
    """A model as it is; in int8, where it is not that already, by the exporter's rule."""
    config = formats.read(files.checkpoint).config
    if precision == "q8" and files.format != "llama2c-v2":
        files = _quantised(files, config)
    return Workload(name, precision, files, config, False)


def group_size(config: ModelConfig) -> int:
    """The largest usual group of int8 quantisation that divides the rows of a shape.

    >>> group_size(SHAPES["260K"]), group_size(SHAPES["15M"]), group_size(SHAPES["7B"])
    (4, 32, 64)
    """
    return next(g for g in (64, 32, 16, 8, 4, 2, 1) if not config.dim % g and not config.hidden_dim % g)


def make_synthetic(
    name: str,
    config: ModelConfig,
    precision: str = "f32",
    *,
    directory: Path | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> ModelFiles:
    """Return a synthetic model of a shape, written to the cache if it is not there yet.

    Memory is bounded by the two largest tensors, not by the model. A file appears whole or not at all.

    Args:
        name: for the file.
        directory: instead of the cache.
        told: how far writing has come.

    Raises:
        InputError: the disk has no room for it.
    """
    home = directory or cache_dir() / "synthetic"
    version = 2 if precision == "q8" else 0
    path = home / f"{name}-{precision}-{_VERSION}.bin"
    words = home / f"tokenizer-{config.vocab_size}-{_VERSION}.bin"
    _make_directory(home)
    if not words.is_file():
        tokenizer.write(synthetic_tokenizer(config.vocab_size), words)
    if not path.is_file():
        size = group_size(config) if version == 2 else None
        n_bytes = checkpoint.file_bytes(config, version=version, group_size=size)
        _check_room(home, n_bytes, f"synthetic {name} {precision}")

        def progress(done: int) -> None:
            told(f"writing {path.name}: {done / 1e9:.1f} of {n_bytes / 1e9:.1f} GB")

        made = Checkpoint(config, _Noise(config))
        checkpoint.write(made, path, version=version, group_size=size, progress=progress)
        told(f"hashing {path.name}")
    return ModelFiles(
        name=f"synthetic-{name}",
        checkpoint=path,
        tokenizer=words,
        sha256=_remembered_sha256(path),
        tokenizer_sha256=_remembered_sha256(words),
        format=f"llama2c-v{version}",
        is_embedded=False,
    )


def _quantised(real: ModelFiles, config: ModelConfig) -> ModelFiles:
    """The int8 checkpoint of a real model, by the exporter's rule."""
    home = cache_dir() / "quantised"
    _make_directory(home)
    path = home / f"{real.name}-{real.sha256[:12]}-{group_size(config)}.bin"
    if not path.is_file():
        formats.write(formats.read(real.checkpoint), path, "llama2c-v2", WriteOptions(group_size=group_size(config)))
    return ModelFiles(
        name=f"{real.name}-q8",
        checkpoint=path,
        tokenizer=real.tokenizer,
        sha256=_remembered_sha256(path),
        tokenizer_sha256=real.tokenizer_sha256,
        format="llama2c-v2",
        is_embedded=False,
    )


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "HARNESS_CACHE names another directory"
        raise InputError(f"cannot be made: {error.strerror}", path=path, hint=hint) from error


def _check_room(directory: Path, n_bytes: int, what: str) -> None:
    free = shutil.disk_usage(directory).free
    if free < n_bytes + _SPARE_BYTES:
        raise InputError(
            f"no room on the disk for the {what} model",
            path=directory,
            expected=f"{(n_bytes + _SPARE_BYTES) / 1e9:.1f} GB free",
            actual=f"{free / 1e9:.1f} GB",
            hint="make room there, name another directory with HARNESS_CACHE, or leave the model out",
        )


def _remembered_sha256(path: Path) -> str:
    """Hash a file that may have gigabytes once, and remember it beside the file with its size and time of change."""
    status = path.stat()
    facts = [status.st_size, status.st_mtime_ns]
    note = path.with_suffix(".sha256.json")
    try:
        known = json.loads(note.read_text("utf-8"))
        if known["of"] == facts:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    sha256 = checkpoint.sha256_of(path)
    temporary = note.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"of": facts, "sha256": sha256}), "utf-8")
    temporary.replace(note)
    return sha256


# ---- synthetic models --------------------------------------------------------------------------------------------


class _Noise(Mapping[str, Tensor]):
    """The tensors of a synthetic model, each made when it is asked for."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        self._shapes = expected_shapes(config)
        self._seed = seed
        self._n_rows = max(config.vocab_size, config.hidden_dim, config.dim)
        self._n_columns = max(config.dim, config.hidden_dim)
        self._blocks: dict[float, npt.NDArray[np.float32]] = {}
        self._slack = 1 << 16  # windows of different tensors begin at different places

    def __len__(self) -> int:
        return len(self._shapes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        kind = name.rpartition(".")[2]
        std = shape[1] ** -0.5
        if kind in ("wq", "wk"):
            std *= _PEAKEDNESS
        if kind == "tok_embedding":
            std = _EMBEDDING_STD
        start = int.from_bytes(hashlib.sha256(f"{self._seed} {name}".encode()).digest()[:4], "little") % self._slack
        windows = np.lib.stride_tricks.as_strided(
            self._block(std)[start:], shape, (4 * _ROW_SHIFT, 4), writeable=False
        )
        if kind in ("tok_embedding", "lm_head"):
            table = windows.copy()
            table[:_N_QUIET] *= np.float32(_QUIET)
            return table
        return windows

    def _block(self, std: float) -> npt.NDArray[np.float32]:
        if std not in self._blocks:
            rng = np.random.default_rng([self._seed, round(std * 1e6)])
            n = self._n_rows * _ROW_SHIFT + self._n_columns + self._slack
            self._blocks[std] = rng.standard_normal(n, np.float32) * np.float32(std)
        return self._blocks[std]


def synthetic_tokenizer(vocab_size: int) -> Tokenizer:
    """Make a vocabulary whose texts can be read in one way only.

    <unk>, BOS, EOS and the byte pieces as everywhere; then a space and the small letters, of which no two merge; then
    pieces of a capital and three small letters.

    >>> [piece.decode() for piece in synthetic_tokenizer(512).pieces[284:289]]
    ['y', 'z', 'Aaaa', 'Baab', 'Caac']
    """
    if not _N_QUIET < vocab_size <= _N_QUIET + 26 ** (_PIECE_LETTERS + 1):
        raise InputError("no synthetic vocabulary of this size", expected=f"more than {_N_QUIET}", actual=vocab_size)
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256))]
    pieces += [_LETTERS[i : i + 1] for i in range(len(_LETTERS))]
    pieces += [_piece(n) for n in range(vocab_size - _N_QUIET)]
    scores = np.zeros(vocab_size, np.float32)
    scores[_N_BYTE_IDS:] = -np.arange(vocab_size - _N_BYTE_IDS, dtype=np.float32)
    return Tokenizer(tuple(pieces), scores)


def _piece(n: int) -> bytes:
    """The n-th of 26**4 pieces: n in base 26 behind a capital that makes neighbours look different."""
    letters = []
    rest = n
    for _ in range(_PIECE_LETTERS):
        rest, digit = divmod(rest, 26)
        letters.append(digit)
    first = (rest + sum(letters)) % 26  # one to one, as the letters are known
    return bytes([65 + first, *(97 + digit for digit in reversed(letters))])


def synthetic_tensors(config: ModelConfig, *, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Make float32 weights of a shape, by canonical name, with activations that stay of order one."""
    rng = np.random.default_rng(seed)

    def matrix(n_out: int, n_in: int) -> npt.NDArray[Any]:
        return rng.standard_normal((n_out, n_in), np.float32) * np.float32(n_in**-0.5)

    tensors: dict[str, npt.NDArray[Any]] = {"tok_embedding": matrix(config.vocab_size, config.dim)}
    for layer in range(config.n_layers):
        shapes = {
            "wq": (config.dim, config.dim),
            "wk": (config.kv_dim, config.dim),
            "wv": (config.kv_dim, config.dim),
            "wo": (config.dim, config.dim),
            "w_gate": (config.hidden_dim, config.dim),
            "w_up": (config.hidden_dim, config.dim),
            "w_down": (config.dim, config.hidden_dim),
        }
        for name, (n_out, n_in) in shapes.items():
            tensors[f"layers.{layer}.{name}"] = matrix(n_out, n_in)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"layers.{layer}.{name}"] = np.ones(config.dim, np.float32)
    tensors["final_norm"] = np.ones(config.dim, np.float32)
    if not config.is_tied:
        tensors["lm_head"] = matrix(config.vocab_size, config.dim)
    return tensors


def token_sequences(config: ModelConfig, n_sequences: int, length: int, *, seed: int = 0) -> list[list[int]]:
    """Make sequences of `length` ids, each begun by BOS."""
    rng = np.random.default_rng(seed)
    return [[1, *rng.integers(3, config.vocab_size, length - 1).tolist()] for _ in range(n_sequences)]
