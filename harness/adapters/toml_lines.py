"""Where in a TOML text each key stands, which `tomllib` does not tell: a wrong value is named with its line."""

from __future__ import annotations

import re

__all__ = ["key_lines"]

_STRING = re.compile(r'"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL)
_NAME = re.compile(r"""[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*'""")
_HEADER = re.compile(r"""[ \t]*\[(\[?)((?:[A-Za-z0-9_. \t-]|"[^"\n]*"|'[^'\n]*')+)\]""")
_KEY = re.compile(r"""[ \t]*((?:[A-Za-z0-9_. \t-]|"[^"\n]*"|'[^'\n]*')+?)[ \t]*=""")


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Find the line of every table and key; arrays of tables are numbered ("known", "0", "case")."""
    # Brackets in strings and comments do not count: blank them, newlines kept, for the depth of each line.
    blank = _STRING.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    lines: dict[tuple[str, ...], int] = {}
    counts: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    depth = 0
    within = _string_lines(text)
    for number, (line, plain) in enumerate(zip(text.split("\n"), blank.split("\n"), strict=True), 1):
        if depth == 0 and number not in within:
            if header := _HEADER.match(line):
                table = _names(header[2])
                lines.setdefault(table, number)
                if header[1]:
                    counts[table] = counts.get(table, -1) + 1
                    table = (*table, str(counts[table]))
                    lines[table] = number
                continue
            if key := _KEY.match(line):
                keys = _names(key[1])
                for n in range(1, len(keys) + 1):
                    lines.setdefault((*table, *keys[:n]), number)
        depth += plain.count("[") + plain.count("{") - plain.count("]") - plain.count("}")
    return lines


def _string_lines(text: str) -> set[int]:
    """List the lines that begin inside a string of several lines."""
    found: set[int] = set()
    for string in _STRING.finditer(text):
        first = text.count("\n", 0, string.start()) + 1
        found.update(range(first + 1, first + string[0].count("\n") + 1))
    return found


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(name.strip("\"'") for name in _NAME.findall(dotted))
