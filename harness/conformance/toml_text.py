"""The little of TOML that golden files are written in; the standard library only reads it.

The same value always gives the same text, and text that a person can review: prose in multi-line strings, ids in
wrapped lists, everything that does not print as an escape.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Sequence

__all__ = ["bytes_lines", "integers", "number", "string", "strings"]


def bytes_lines(key: str, value: bytes | None, *, is_long: bool = False) -> list[str]:
    if value is None:
        return []
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return [f"{key}_hex = {string(value.hex())}"]
    return [f"{key} = {_long_string(text) if is_long else string(text)}"]


def string(text: str) -> str:
    return '"' + "".join(_escaped(c) for c in text) + '"'


def _long_string(text: str) -> str:
    """A multi-line string whose first line break is not part of it."""
    body = "".join(c if c in '"\n' else _escaped(c) for c in text)
    body = re.sub(r'"(?="|\Z)', r'\\"', body)  # three in a row, or one at the end, would end the string
    # A blank that ends a line would not survive every editor.
    parts = [line[:-1] + "\\u0020" if line.endswith(" ") else line for line in body.split("\n")]
    return '"""\n' + "\n".join(parts) + '"""'


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _escaped(c: str) -> str:
    if c in _ESCAPES:
        return _ESCAPES[c]
    if c.isprintable():
        return c
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"


def strings(texts: Sequence[str]) -> str:
    return "[" + ", ".join(string(text) for text in texts) + "]"


def integers(values: Sequence[int]) -> str:
    line = ", ".join(map(str, values))
    if len(line) <= 80:
        return f"[{line}]"
    return "[\n" + textwrap.fill(line, 100, initial_indent="    ", subsequent_indent="    ") + ",\n]"


def number(value: float) -> str:
    # The shortest decimal that reads back as the same number; JSON spells infinity otherwise.
    return "inf" if value == math.inf else json.dumps(float(value))
