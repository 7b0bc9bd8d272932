"""The published files that tests use, and the six models derived from stories260K.bin by byte edits.

Published files are looked for in the directory that the environment variable HARNESS_MODELS names; a test that needs
one is skipped where it is absent. The derived models exercise what the plain one never does.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

__all__ = ["DERIVED_SHA256", "derive", "published"]

_HEADER_BYTES = 28
_VOCAB_OFFSET, _SEQ_LEN_OFFSET = 20, 24
_VOCAB_SIZE, _DIM = 512, 64
_ROW_BYTES = 4 * _DIM
_TABLE_BYTES = _VOCAB_SIZE * _ROW_BYTES

DERIVED_SHA256 = {
    "eos-swap": "9f59e80b2004fa9562902c4cdc1206bb8cbe0fef187a2a989e2b2dfa1188af0c",
    "bos-swap": "3b6db32a5cbe33a2d8c150199d8513eb59ffa2599aca4aeefc1b57850686cb6a",
    "unk-swap": "7a8e31da8094b200b87473166de3e8cb085fc7044d82daef45d5fbeceb12dfdd",
    "seq32": "0a294d2fc8347efa6b171b717bdcdd828c9147f65db4153efa6793e050a7d03c",
    "eps-probe": "bb072c0086d1c50a059a309c950e6c14340730d88560f6f495bc7899ddc4cc3e",
    "rev-cls": "e6cb1002f6236af94df1e7976c91988e361b1e621dc4b6715777773253401bed",
}


def published(name: str) -> Path:
    """Find a published file, or skip the test."""
    directory = os.environ.get("HARNESS_MODELS")
    if not directory:
        pytest.skip(f"{name}: HARNESS_MODELS names no directory of published models")
    path = Path(directory) / name
    if not path.is_file():
        pytest.skip(f"{name} is not in HARNESS_MODELS ({directory})")
    return path


def derive(name: str, stories_path: Path, out_dir: Path) -> Path:
    """Build a derived model in out_dir and return its path.

    Args:
        name: one of DERIVED_SHA256.
        stories_path: the published stories260K.bin.
    """
    content = bytearray(stories_path.read_bytes())
    _EDITS[name](content)
    digest = hashlib.sha256(content).hexdigest()
    assert digest == DERIVED_SHA256[name], f"{name} came out as {digest}: is {stories_path} the published file?"
    path = out_dir / f"{name}.bin"
    path.write_bytes(content)
    return path


def _row(index: int) -> slice:
    start = _HEADER_BYTES + index * _ROW_BYTES
    return slice(start, start + _ROW_BYTES)


def _swap_with_full_stop(index: int) -> Callable[[bytearray], None]:
    """Exchange an embedding row with that of id 426, the full stop."""

    def edit(content: bytearray) -> None:
        content[_row(index)], content[_row(426)] = content[_row(426)], content[_row(index)]

    return edit


def _seq32(content: bytearray) -> None:
    struct.pack_into("<i", content, _SEQ_LEN_OFFSET, 32)


def _append_classifier(content: bytearray, rows: bytes) -> None:
    struct.pack_into("<i", content, _VOCAB_OFFSET, -_VOCAB_SIZE)
    content += rows


def _eps_probe(content: bytearray) -> None:
    """Embedding times 2**-8, exact in float32; the unscaled one becomes the classifier."""
    table = slice(_HEADER_BYTES, _HEADER_BYTES + _TABLE_BYTES)
    original = bytes(content[table])
    content[table] = (np.frombuffer(original, "<f4") * np.float32(2**-8)).tobytes()
    _append_classifier(content, original)


def _rev_cls(content: bytearray) -> None:
    """The embedding's rows in reverse order become the classifier."""
    table = slice(_HEADER_BYTES, _HEADER_BYTES + _TABLE_BYTES)
    _append_classifier(content, np.frombuffer(bytes(content[table]), "<f4").reshape(-1, _DIM)[::-1].tobytes())


_EDITS: dict[str, Callable[[bytearray], None]] = {
    "eos-swap": _swap_with_full_stop(2),
    "bos-swap": _swap_with_full_stop(1),
    "unk-swap": _swap_with_full_stop(0),
    "seq32": _seq32,
    "eps-probe": _eps_probe,
    "rev-cls": _rev_cls,
}
