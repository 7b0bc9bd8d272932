"""The block between two markers of a README, renewed; everything else stays as it is, to the byte.

    <!-- harness:bench -->
    (what stands here is replaced)
    <!-- /harness:bench -->

A marker is a line of its own, apart from blanks around it. Both must be there, once, in this order.
"""

from __future__ import annotations

import os
import re

from harness.errors import InputError

__all__ = ["BEGIN", "END", "renewed"]

BEGIN, END = "<!-- harness:bench -->", "<!-- /harness:bench -->"


def renewed(content: bytes, block: str, path: str | os.PathLike[str]) -> bytes:
    """Return the content of a README with another block between its markers; its line ends are kept.

    Args:
        path: for messages.

    Raises:
        InputError: a marker is missing, is there more than once, or they are in the wrong order.
    """
    places = [_place(content, marker, path) for marker in (BEGIN, END)]
    (_, begin), (end, _) = places
    if end < begin:
        raise InputError(f"{END} stands before {BEGIN}", path=path)
    newline = b"\r\n" if content[:begin].endswith(b"\r\n") else b"\n"
    lines = block.strip("\n").encode().split(b"\n")
    return content[:begin] + newline + newline.join(lines) + newline * 2 + content[end:]


def _place(content: bytes, marker: str, path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return where the line of a marker begins and ends, its line end included."""
    found = [*re.finditer(rb"^[ \t]*" + re.escape(marker.encode()) + rb"[ \t]*(?:\r?\n|\Z)", content, re.MULTILINE)]
    if len(found) != 1:
        hint = f"the block stands between the lines {BEGIN} and {END}"
        raise InputError(f"the line {marker}", path=path, expected="once", actual=len(found), hint=hint)
    return found[0].span()
