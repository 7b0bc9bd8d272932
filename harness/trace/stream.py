"""The trace stream: named float32 records that a program writes while it computes; docs/trace.md specifies it.

    harness-trace 1\\n
    NAME LAYER POSITION COUNT\\n  followed by COUNT little-endian float32 values
    ...

One record per point, layer and position; the order of records does not matter. NAME is one of `POINTS`, LAYER -1
outside of the blocks. The record `token` holds one value, the id that is fed at that position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from harness.errors import TraceFormatError
from harness.trace.points import AFTER, BEFORE, IN_LAYER, SCORES

__all__ = ["MAGIC", "OUTSIDE", "POINTS", "TOKEN", "VARIABLE", "Record", "TraceWriter", "read_trace", "records_of"]

Array = npt.NDArray[Any]

VARIABLE = "HARNESS_TRACE"  # the environment variable that names the file to write
MAGIC = b"harness-trace 1\n"
TOKEN = "token"
POINTS = frozenset({TOKEN, SCORES, *BEFORE, *IN_LAYER, *AFTER})
OUTSIDE = frozenset({TOKEN, *BEFORE, *AFTER})
_HEADER = 128  # bytes: the longest header line, generously
_COUNT = 1 << 28  # values of one record


@dataclass(frozen=True, slots=True)
class Record:
    """One value of one forward pass.

    Attributes:
        name: the point, one of `POINTS`.
        layer: index of the block, -1 outside of the blocks.
        position: of the token, from 0.
        values: (count,) float32.
    """

    name: str
    layer: int
    position: int
    values: Array


def records_of(name: str, layer: int, values: Array, *, start: int = 0) -> Iterator[Record]:
    """Cut a tap's value, rows first, into the records of positions start..; scores (T, H, S) end with their token.

    The values are copied: a program may go on to change them in place.
    """
    kept = np.array(values, np.float32)
    for row, value in enumerate(kept):
        position = start + row
        yield Record(name, layer, position, (value[:, : position + 1] if name == SCORES else value).reshape(-1))


class TraceWriter:
    """Writes a trace as its values arise. `at` fits `harness.engine.generate`'s argument `taps`.

    >>> import io
    >>> file = io.BytesIO()
    >>> TraceWriter(file).write([Record("token", -1, 0, np.array([1.0]))])
    >>> file.getvalue()
    b'harness-trace 1\\ntoken -1 0 1\\n\\x00\\x00\\x80?'
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(MAGIC)

    def write(self, records: Iterable[Record]) -> None:
        for record in records:
            values = np.ascontiguousarray(record.values, "<f4").reshape(-1)
            header = f"{record.name} {record.layer} {record.position} {len(values)}\n"
            self._file.write(header.encode() + values.tobytes())

    def at(self, start: int, ids: Sequence[int]) -> Callable[[str, int, Array], None]:
        """Record the tokens of a call, and return the tap that records what it computes."""
        self.write(records_of(TOKEN, -1, np.array(ids)[:, None], start=start))
        return lambda name, layer, values: self.write(records_of(name, layer, values, start=start))


def read_trace(path: Path) -> Iterator[Record]:
    """Read the records of a file, one after the other.

    Raises:
        TraceFormatError: it is no trace, is cut off, or a record is none; with the offset of the record.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(len(MAGIC))
            if first != MAGIC:
                raise TraceFormatError(
                    f"begins with {first!r}", path=path, expected=repr(MAGIC), hint="docs/trace.md has the format"
                )
            while True:
                offset = file.tell()
                line = file.readline(_HEADER)
                if not line:
                    return
                name, layer, position, count = _header(line, path, offset)
                if size - file.tell() < 4 * count:
                    got = f"{count} values of {name} are announced, the file ends after {size - file.tell()} bytes"
                    raise TraceFormatError(
                        got, path=path, where=f"byte {offset}", hint="was the program ended early?"
                    )
                yield Record(name, layer, position, np.frombuffer(file.read(4 * count), "<f4"))
    except OSError as error:
        raise TraceFormatError(f"cannot be read: {error.strerror}", path=path) from None


def _header(line: bytes, path: Path, offset: int) -> tuple[str, int, int, int]:
    """Take a record's first line apart."""

    def wrong(what: str) -> TraceFormatError:
        expected = "'NAME LAYER POSITION COUNT' and a line feed"
        return TraceFormatError(
            what, path=path, where=f"byte {offset}", expected=expected, hint="docs/trace.md has the format"
        )

    words = line.split(b" ")
    if not line.endswith(b"\n") or len(words) != 4:
        raise wrong(f"no record begins with {line[:60]!r}")
    name = words[0].decode("ascii", "replace")
    if name not in POINTS:
        raise wrong(f"{name!r} is no point of a trace")
    try:
        layer, position, count = (int(word) for word in words[1:])
    except ValueError:
        raise wrong(f"no numbers in {line[:60]!r}") from None
    if not 0 <= count <= _COUNT or position < 0 or layer < -1 or (layer == -1) != (name in OUTSIDE):
        raise wrong(f"layer, position or count cannot be: {line[:60]!r}")
    return name, layer, position, count
