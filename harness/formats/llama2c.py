"""llama2.c's three containers as formats; their bytes are `harness.checkpoint.llama2c_bin`'s."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from harness.checkpoint import Checkpoint, llama2c_bin
from harness.formats.format import Format, WriteOptions
from harness.model_config import ModelConfig

__all__ = ["FORMATS"]


def _detect(version: int, path: Path, head: bytes) -> bool:
    return llama2c_bin.sniff(head) == f"llama2c-v{version}"


def _write(version: int, checkpoint: Checkpoint, path: Path, options: WriteOptions) -> None:
    llama2c_bin.write(checkpoint, path, version, options.group_size, options.progress)


def _refuses(config: ModelConfig) -> str | None:
    why = llama2c_bin.refuses(config)
    return why and f"its programs assume llama's block and constants, and its files cannot say {why}"


def _format(version: int, what: str, suffixes: tuple[str, ...], dtype: str) -> Format:
    return Format(
        name=f"llama2c-v{version}",
        what=what,
        suffixes=suffixes,
        detect=partial(_detect, version),
        read=llama2c_bin.read,
        write=partial(_write, version),
        dtypes=(dtype,),
        refuses=_refuses,
    )


FORMATS = (
    _format(2, "llama2.c, version 2: int8 in groups, as runq reads it", (), "int8"),
    _format(1, "llama2.c, version 1: float32 behind a magic number", (), "float32"),
    _format(0, "llama2.c, version 0: float32, as run reads it", (".bin",), "float32"),
)
