"""Rows of the goldens that hold more than one text: texts with their ids, and fingerprints of logits.

In the file a text with its ids is `["text", [1, 2, 3]]`, with the text in hex under the keys that end in `_hex`; a
fingerprint is a table `[[expected.rows]]` with the fields of `harness.judging.fingerprint.Fingerprint`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import pydantic

from harness.conformance import toml_text
from harness.judging.fingerprint import N_PROJECTIONS, N_TOP, Fingerprint

__all__ = ["Encoding", "EncodingRow", "FingerprintTable", "encoding_lines", "fingerprint_lines", "is_text", "rounded"]

_DIGITS = 12  # float64 logits agree between machines to more, and the reference is held to fewer

_Id = Annotated[int, pydantic.Field(ge=0, lt=2**31)]
_Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]
# TOML has no tuples: arrays must do.
EncodingRow = Annotated[tuple[str, list[_Id]], pydantic.Strict(False)]
_TopRow = Annotated[tuple[_Id, _Number], pydantic.Strict(False)]


@dataclass(frozen=True, slots=True)
class Encoding:
    """A text and the ids that it becomes, BOS first, or the ids that become it."""

    text: bytes
    ids: tuple[int, ...]


class FingerprintTable(pydantic.BaseModel):
    """`[[expected.rows]]`."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)

    position: Annotated[int, pydantic.Field(ge=0)]
    floor: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    mean: _Number
    top: Annotated[list[_TopRow], pydantic.Field(min_length=N_TOP, max_length=N_TOP)]
    projections: Annotated[list[_Number], pydantic.Field(min_length=N_PROJECTIONS, max_length=N_PROJECTIONS)]

    @property
    def value(self) -> Fingerprint:
        return Fingerprint(self.position, self.floor, self.mean, tuple(self.top), tuple(self.projections))


def is_text(raw: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def encoding_lines(key: str, rows: Sequence[Encoding]) -> list[str]:
    """Write rows under `key`, and those whose text is no UTF-8 under `key`_hex."""
    lines = []
    for name, some in (
        (key, [(row.text.decode(), row.ids) for row in rows if is_text(row.text)]),
        (f"{key}_hex", [(row.text.hex(), row.ids) for row in rows if not is_text(row.text)]),
    ):
        if some:
            listed = [f"    [{toml_text.string(text)}, [{', '.join(map(str, ids))}]]," for text, ids in some]
            lines += [f"{name} = [", *listed, "]"]
    return lines


def rounded(row: Fingerprint) -> Fingerprint:
    """Return a fingerprint with the digits that a file keeps."""
    top = tuple((id_, _rounded(value)) for id_, value in row.top)
    return Fingerprint(
        row.position, float(f"{row.floor:.3g}"), _rounded(row.mean), top, tuple(map(_rounded, row.projections))
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def fingerprint_lines(row: Fingerprint) -> list[str]:
    """Write one fingerprint as a table."""
    top = ", ".join(f"[{id_}, {toml_text.number(value)}]" for id_, value in row.top)
    return [
        "",
        "[[expected.rows]]",
        f"position = {row.position}",
        f"floor = {toml_text.number(row.floor)}",
        f"mean = {toml_text.number(row.mean)}",
        f"top = [{top}]",
        f"projections = [{', '.join(map(toml_text.number, row.projections))}]",
    ]
