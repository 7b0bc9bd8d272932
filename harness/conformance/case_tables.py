"""The tables of a golden file, as pydantic checks them: keys, types and ranges; `case` says what they mean."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from harness.conformance.rows import EncodingRow, FingerprintTable

__all__ = ["FILES", "MAX_MARGINS", "AnyFile", "EncodeFile", "LogitsFile", "RelationFile", "RunFile"]

MAX_MARGINS = 8

_Name = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
_ModelName = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)?$")]
_Line = Annotated[str, pydantic.Field(pattern=r"^[^\r\n]*$")]
_Sha256 = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
_Hex = Annotated[str, pydantic.Field(pattern=r"^([0-9a-f]{2})*$")]
_Id = Annotated[int, pydantic.Field(ge=0, lt=2**31)]
_Count = Annotated[int, pydantic.Field(ge=0, lt=2**31)]
_Logits = Annotated[float, pydantic.Field(ge=0.0, allow_inf_nan=False)]
# TOML has no tuples: an array of three must do.
_MarginRow = Annotated[tuple[_Count, _Logits, _Id], pydantic.Strict(False)]


class _Table(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class _ModelTable(_Table):
    name: _ModelName
    format: Annotated[str, pydantic.Field(min_length=1)]
    sha256: _Sha256
    tokenizer_sha256: _Sha256


class _RequestTable(_Table):
    mode: Literal["generate", "chat"]
    prompt: str | None = None
    prompt_hex: _Hex | None = None
    steps: _Count
    temperature: Annotated[float, pydantic.Field(ge=0.0)]
    topp: Annotated[float, pydantic.Field(ge=0.0, le=1.0)]
    seed: Annotated[int, pydantic.Field(ge=-(2**63), lt=2**63)]
    system: str | None = None
    system_hex: _Hex | None = None
    stdin: str | None = None
    stdin_hex: _Hex | None = None


class _ExpectedTable(_Table):
    ends: Literal["bos", "eos", "steps"]
    stdout_sha256: _Sha256
    text: str | None = None
    text_hex: _Hex | None = None
    prompt_ids: Annotated[list[_Id], pydantic.Field(min_length=1)]
    ids: list[_Id] | None = None
    margins: Annotated[list[_MarginRow], pydantic.Field(max_length=MAX_MARGINS)] = []


class _ProvenanceTable(_Table):
    source: Literal["float64 reference", "strict arithmetic", "harness tokenizer", "published", "relation"]
    agreed: list[_Line] = []
    note: _Line = ""


class _EncodeRequestTable(_Table):
    mode: Literal["encode"]


class _EncodeTable(_Table):
    texts: list[EncodingRow] = []
    texts_hex: list[EncodingRow] = []
    decoded: list[EncodingRow] = []
    decoded_hex: list[EncodingRow] = []


class _LogitsRequestTable(_Table):
    mode: Literal["logits"]
    ids: Annotated[list[_Id], pydantic.Field(min_length=1)]


class _LogitsTable(_Table):
    rows: Annotated[list[FingerprintTable], pydantic.Field(min_length=1)]


class _RelationRequestTable(_Table):
    mode: Literal["relation"]
    relation: _Name
    prompts: Annotated[list[str], pydantic.Field(min_length=1)]
    steps: Annotated[int, pydantic.Field(ge=1, lt=2**31)]


class Head(_Table):
    """What every golden says of itself."""

    case: _Name
    suite: _Name
    tags: list[_Name] = []
    why: Annotated[_Line, pydantic.Field(min_length=1)]
    model: _ModelTable
    provenance: _ProvenanceTable


class RunFile(Head):
    """A run that prints a text."""

    request: _RequestTable
    expected: _ExpectedTable


class EncodeFile(Head):
    """Texts with their ids."""

    request: _EncodeRequestTable
    expected: _EncodeTable


class LogitsFile(Head):
    """Fingerprints of logits."""

    request: _LogitsRequestTable
    expected: _LogitsTable


class RelationFile(Head):
    """What may not change an answer; there is nothing to expect."""

    request: _RelationRequestTable


AnyFile = RunFile | EncodeFile | LogitsFile | RelationFile

FILES: dict[str, type[AnyFile]] = {"encode": EncodeFile, "logits": LogitsFile, "relation": RelationFile}
"""Value of request.mode -> the tables of such a file, where they are not a run's."""
