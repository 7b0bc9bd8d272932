"""TOML and JSON that people write: a file as tables or as a model, or one line that says what is wrong with it.

Each function is told which InputError to raise, since that says whose file it is.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import InputError

__all__ = ["first_problem", "fitted", "parse_toml", "read_json", "read_text", "read_toml"]

_MAX_BYTES = 16 << 20  # far above what is kept in one document here

_Model = TypeVar("_Model", bound=BaseModel)


def read_text(
    path: Path, error: type[InputError] = InputError, *, max_bytes: int = _MAX_BYTES, hint: str | None = None
) -> str:
    """Read a whole file of text.

    Args:
        hint: for one that cannot be opened.

    Raises:
        error: it cannot be read, is larger than `max_bytes`, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as cause:
        raise error(f"cannot be read: {cause.strerror}", path=path, hint=hint) from cause
    if len(raw) > max_bytes:
        raise error("is too large", path=path, expected=f"at most {max_bytes:,} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise error("is not UTF-8", path=path, where=f"byte {cause.start:,}") from cause


def parse_toml(text: str, path: Path, error: type[InputError] = InputError) -> dict[str, Any]:
    """Return the tables of a text that stands in `path`.

    Raises:
        error: it is no TOML; `where` names the line.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as cause:
        raise error("is nested too deeply", path=path, hint="it is no TOML") from cause
    except ValueError as cause:  # a number of too many digits is one too
        what, place = str(cause), None
        if found := re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", what):
            what, place = found[1], f"line {found[2]}"
        raise error(what, path=path, where=place, hint="it is no TOML") from cause


def read_toml(path: Path, error: type[InputError] = InputError, *, max_bytes: int = _MAX_BYTES) -> dict[str, Any]:
    """Read a file of TOML; raises as read_text() and parse_toml() do."""
    return parse_toml(read_text(path, error, max_bytes=max_bytes), path, error)


def read_json(
    path: Path, error: type[InputError] = InputError, *, max_bytes: int = _MAX_BYTES, hint: str | None = None
) -> Any:
    """Read a file of JSON.

    Raises:
        error: as read_text() does, or it is no JSON.
    """
    text = read_text(path, error, max_bytes=max_bytes, hint=hint)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise error(f"is no JSON: {cause}", path=path, hint=hint) from cause


def fitted(model: type[_Model], content: object, path: Path, error: type[InputError] = InputError) -> _Model:
    """Return what was read from `path` as a model.

    Raises:
        error: it does not fit; `where` names the first key that is wrong.
    """
    try:
        return model.model_validate(content)
    except ValidationError as cause:
        key, what = first_problem(cause)
        more = f" (and {cause.error_count() - 1} more)" if cause.error_count() > 1 else ""
        raise error(f"{what}{more}", path=path, where=f"key {key}" if key else None) from cause


def first_problem(invalid: ValidationError) -> tuple[str, str]:
    """Return the first key that does not fit its model, dots between its parts, and why."""
    first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    return ".".join(map(str, first["loc"])), str(first["msg"])
