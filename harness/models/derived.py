"""Variants of stories260K, made of its bytes, that take the paths which the plain model never takes.

    eos-swap    rows of EOS and "." exchanged: EOS is produced where the model would end a sentence
    bos-swap    rows of BOS and "." exchanged: BOS is produced, and must end a generation
    unk-swap    rows of <unk> and "." exchanged: id 0 is produced, and printed
    seq32       context of 32 in the header, all else left: the clamp of steps, and bytes after the tables
    eps-probe   embedding x 2**-8, classifier as it was: RMSNorm's epsilon becomes visible in the text
    rev-cls     classifier of its own, the embedding upside down: untied path, and the skipped RoPE tables
    q8-GS       version 2 files of group size 64, 32, 4, 2 and 1

Every result is pinned by its hash, so a change of the construction cannot pass unnoticed. The embedding is
tied to the classifier, hence an exchange of rows changes what these ids mean as input, too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from harness import checkpoint

__all__ = ["ORIGINAL", "SHA256", "make"]

ORIGINAL = "stories260K"

SHA256 = {
    "eos-swap": "9f59e80b2004fa9562902c4cdc1206bb8cbe0fef187a2a989e2b2dfa1188af0c",
    "bos-swap": "3b6db32a5cbe33a2d8c150199d8513eb59ffa2599aca4aeefc1b57850686cb6a",
    "unk-swap": "7a8e31da8094b200b87473166de3e8cb085fc7044d82daef45d5fbeceb12dfdd",
    "seq32": "0a294d2fc8347efa6b171b717bdcdd828c9147f65db4153efa6793e050a7d03c",
    "eps-probe": "bb072c0086d1c50a059a309c950e6c14340730d88560f6f495bc7899ddc4cc3e",
    "rev-cls": "e6cb1002f6236af94df1e7976c91988e361b1e621dc4b6715777773253401bed",
    "q8-64": "4767083d20669c34b654cd94b60501da98b5e795dab7717e0f1b4f003c02117c",
    "q8-32": "5a37d012aaa035c561aa031e5009276d92d1b7ae8f37f0c58e39d9ff56f26a23",
    "q8-4": "c8c032d04f8a48b2c8f9b708cc571a895d45fe23521f47f542b897d64ad77c50",
    "q8-2": "c38b26e885073d8ffb434aa2f92fe5bdaca3e42ea7ec659ef5ee5b081d9cecb5",
    "q8-1": "2a53bcc4956ba7af3df2443c616231eb230d25583b2f5aef260a7b5abd32eb31",
}

# stories260K as a version 0 file: a header of seven int32, then the embedding of 512 rows of 64 floats.
_HEADER_BYTES = 28
_VOCAB_SIZE = 512
_ROW_BYTES = 64 * 4
_TABLE = slice(_HEADER_BYTES, _HEADER_BYTES + _VOCAB_SIZE * _ROW_BYTES)
_VOCAB_SIZE_AT = 20
_SEQ_LEN_AT = 24
_FULL_STOP = 426  # the id of "."


def make(name: str, original: Path, out: Path) -> None:
    """Write the variant `name` of the file `original` to `out`."""
    if name.startswith("q8-"):
        checkpoint.write(checkpoint.read(original), out, version=2, group_size=int(name.removeprefix("q8-")))
        return
    content = bytearray(original.read_bytes())
    _EDITS[name](content)
    out.write_bytes(content)


def _swap(row: int) -> Callable[[bytearray], None]:
    def edit(content: bytearray) -> None:
        a, b = _row(row), _row(_FULL_STOP)
        content[a], content[b] = content[b], content[a]

    return edit


def _row(row: int) -> slice:
    start = _HEADER_BYTES + _ROW_BYTES * row
    return slice(start, start + _ROW_BYTES)


def _shorten_context(content: bytearray) -> None:
    struct.pack_into("<i", content, _SEQ_LEN_AT, 32)


def _shrink_embedding(content: bytearray) -> None:
    table = bytes(content[_TABLE])
    _append_classifier(content, table)
    values = struct.unpack(f"<{len(table) // 4}f", table)
    content[_TABLE] = struct.pack(f"<{len(values)}f", *(value * 2.0**-8 for value in values))


def _reverse_classifier(content: bytearray) -> None:
    _append_classifier(content, b"".join(bytes(content[_row(i)]) for i in reversed(range(_VOCAB_SIZE))))


def _append_classifier(content: bytearray, table: bytes) -> None:
    struct.pack_into("<i", content, _VOCAB_SIZE_AT, -_VOCAB_SIZE)
    content += table


_EDITS: dict[str, Callable[[bytearray], None]] = {
    "eos-swap": _swap(2),
    "bos-swap": _swap(1),
    "unk-swap": _swap(0),
    "seq32": _shorten_context,
    "eps-probe": _shrink_embedding,
    "rev-cls": _reverse_classifier,
}
