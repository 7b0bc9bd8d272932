"""Reader: how a port gets from a checkpoint file to tensors, every step of it a value.

`harness.checkpoint` reads files safely; this one reads them as ports do, from a table of what stands where, trusting
everything, so that each misreading is one replaced step. `Reader().tensors_of(bytes)` gives what `checkpoint.read`
gives; tests hold the two against each other.
"""

from __future__ import annotations

import math
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import checkpoint as checkpoints
from harness.checkpoint import Checkpoint, Tensor
from harness.checkpoint.checkpoint import NORMS, expected_shapes
from harness.model_config import ModelConfig
from harness.quant import QuantTensor

__all__ = ["READER", "Header", "Place", "PortCrashed", "Reader", "Section", "kinds"]

Array = npt.NDArray[Any]
Section = tuple[str, tuple[int, ...]]

_LAYER = ("wq", "wk", "wv", "wo"), ("w_gate", "w_down", "w_up")


class PortCrashed(Exception):
    """A program with this fault would end here: it refuses the file, divides by zero, or leaves its memory."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first bytes of a file, understood.

    Attributes:
        numbers: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size (its sign kept), seq_len.
        is_tied: whether no classifier of its own follows.
        group_size: of version 2.
    """

    version: int
    numbers: tuple[int, ...]
    is_tied: bool
    group_size: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands: its first byte, and that of its scales if it is quantised."""

    name: str
    shape: tuple[int, ...]
    at: int
    scales_at: int | None = None


def integers(head: bytes, at: int, n: int) -> tuple[int, ...]:
    """n little-endian 32-bit integers."""
    return struct.unpack_from(f"<{n}i", head, at)


def tied(vocab_size: int) -> bool:
    """What the sign of version 0's vocab_size says."""
    return vocab_size > 0


def vocab_size(number: int) -> int:
    """How many ids there are, from version 0's number."""
    return abs(number)


def group_size(head: bytes) -> int:
    """Version 2's group size: an integer right behind the flag at byte 36, unaligned."""
    return integers(head, 37, 1)[0]


def accepts(size: int, header: Header, needed: int) -> bool:
    """Whether the port goes on with a file of this size; llama2.c does with any."""
    return True


def sections(version: int, config: ModelConfig) -> list[Section]:
    """What follows the header, in the file's order; the RoPE tables are "rope_cos" and "rope_sin"."""
    shapes = expected_shapes(config)
    half = (config.seq_len, config.head_dim // 2)
    attention, feed_forward = _LAYER
    if version == 0:
        order = ["tok_embedding", *kinds(config, "attn_norm", *attention, "ffn_norm", *feed_forward), "final_norm"]
    else:
        order = [*kinds(config, "attn_norm", "ffn_norm"), "final_norm", "tok_embedding"]
        order += kinds(config, *attention, *feed_forward)
    found: list[Section] = [(name, shapes[name]) for name in order]
    if version == 0:
        found += [("rope_cos", half), ("rope_sin", half)]
    return found + ([] if config.is_tied else [("lm_head", shapes["lm_head"])])


def kinds(config: ModelConfig, *names: str) -> list[str]:
    """Names of tensors, all layers of one kind together."""
    return [f"layers.{layer}.{name}" for name in names for layer in range(config.n_layers)]


def places(header: Header, found: Sequence[Section]) -> list[Place]:
    """Where each section stands; a quantised one is its codes and then its scales."""
    at = 28 if header.version == 0 else 256
    out: list[Place] = []
    for name, shape in found:
        n = math.prod(shape)
        if header.group_size is None or name.endswith(NORMS):
            out.append(Place(name, shape, at))
            at += 4 * n
        else:
            out.append(Place(name, shape, at, at + n))
            at += n + 4 * (n // header.group_size)
    return out


def floats(content: bytes, at: int, n: int) -> Array:
    """n little-endian float32."""
    if at + 4 * n > len(content):
        raise PortCrashed(f"it reads up to byte {at + 4 * n:,} of a file of {len(content):,}")
    return np.frombuffer(content, "<f4", n, at)


def codes(content: bytes, at: int, n: int) -> Array:
    """n signed bytes."""
    if at + n > len(content):
        raise PortCrashed(f"it reads up to byte {at + n:,} of a file of {len(content):,}")
    return np.frombuffer(content, np.int8, n, at)


def converted(config: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is done to the weights between the file they come from and the engine: nothing."""
    return tensors


def written(found: Checkpoint, version: int) -> bytes:
    """The bytes that an exporter makes of the weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        checkpoints.write(found, path, version=version)
        return path.read_bytes()


@dataclass(frozen=True, slots=True)
class Reader:
    """The steps from a file to tensors.

    Attributes:
        version: of the container that the port reads, 0 or 1, for float32 weights; int8 weights are version 2.
    """

    version: int = 0
    written: Callable[[Checkpoint, int], bytes] = written
    integers: Callable[[bytes, int, int], tuple[int, ...]] = integers
    tied: Callable[[int], bool] = tied
    vocab_size: Callable[[int], int] = vocab_size
    group_size: Callable[[bytes], int] = group_size
    accepts: Callable[[int, Header, int], bool] = accepts
    sections: Callable[[int, ModelConfig], Sequence[Section]] = sections
    places: Callable[[Header, Sequence[Section]], list[Place]] = places
    converted: Callable[[ModelConfig, dict[str, Tensor]], dict[str, Tensor]] = converted

    def read(self, found: Checkpoint) -> Checkpoint:
        """What this port makes of the file of a checkpoint.

        Raises:
            PortCrashed: it gives up, or would be ended by the operating system.
        """
        if self == READER:
            return found
        version = self.version if found.group_size is None else 2
        return self.parsed(self.written(found, version))

    def parsed(self, content: bytes) -> Checkpoint:
        """Read the bytes of a file."""
        header = self.header(content)
        config = self.config(header)
        table = self.places(header, self.sections(header.version, config))
        needed = max(self._end(header, place) for place in table)
        if not self.accepts(len(content), header, needed):
            raise PortCrashed(f"it refuses a file of {len(content):,} bytes, and wants {needed:,}")
        tensors: dict[str, Tensor] = {}
        for place in table:
            n = math.prod(place.shape)
            if place.name.startswith("rope_"):
                continue  # nobody uses them
            if place.scales_at is None:
                tensors[place.name] = floats(content, place.at, n).reshape(place.shape)
            else:
                assert header.group_size is not None
                scales = floats(content, place.scales_at, n // header.group_size)
                weights = codes(content, place.at, n).reshape(place.shape)
                tensors[place.name] = QuantTensor(weights, scales.astype(np.float32), header.group_size)
        wanted = expected_shapes(config)
        if missing := [name for name in wanted if name not in tensors]:
            raise PortCrashed(f"it looks for {missing[0]} in vain")
        tensors = self.converted(config, {name: tensors[name] for name in wanted})
        return Checkpoint(config, tensors, f"llama2c-v{header.version}", header.group_size)

    def header(self, content: bytes) -> Header:
        """Read the header."""
        if struct.unpack_from("<I", content)[0] != 0x616B3432:
            numbers = self.integers(content, 0, 7)
            return Header(0, numbers, self.tied(numbers[5]), None)
        version = struct.unpack_from("<i", content, 4)[0]
        group = self.group_size(content) if version == 2 else None
        if group is not None and group < 1:
            raise PortCrashed("it divides by a group size of 0")
        return Header(version, self.integers(content, 8, 7), bool(content[36]), group)

    def config(self, header: Header) -> ModelConfig:
        """Make dimensions of a header."""
        dim, hidden_dim, n_layers, n_heads, n_kv_heads, number, seq_len = header.numbers
        n_ids = self.vocab_size(number)
        if not all(0 < value < 1 << 24 for value in (*header.numbers[:5], n_ids, seq_len)):
            raise PortCrashed(f"it asks for memory for dimensions of {header.numbers}")
        return ModelConfig(dim, hidden_dim, n_layers, n_heads, n_kv_heads, n_ids, seq_len, is_tied=header.is_tied)

    def _end(self, header: Header, place: Place) -> int:
        n = math.prod(place.shape)
        return place.at + 4 * n if place.scales_at is None else place.at + n


READER = Reader()
