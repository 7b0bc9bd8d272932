"""What can stand on a side of a tokenizer check: the tokenizer of a file, of any format, or a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import formats
from harness.adapters.implementation import ProcessImplementation
from harness.errors import Refused, TokenizerError
from harness.tokenizer import AnyTokenizer

__all__ = ["SUFFIXES", "File", "Side", "other_pieces", "read_file"]

SUFFIXES = (".bin", ".model", ".json", ".tiktoken", ".gguf", ".lmw")
"""Of files that are taken for tokenizers, not for programs."""


@dataclass(frozen=True, slots=True)
class File:
    """A tokenizer in this process: an Encoder."""

    tokenizer: AnyTokenizer

    def encode(self, text: bytes, *, bos: bool = True, eos: bool = False) -> list[int]:
        try:
            return self.tokenizer.encode(text, bos=bos, eos=eos)
        except TokenizerError as error:
            raise Refused(error.what) from error

    def decode(self, ids: Sequence[int]) -> bytes:
        try:
            return self.tokenizer.decode(ids)
        except TokenizerError as error:
            raise Refused(error.what) from error


Side = File | ProcessImplementation


def read_file(path: Path) -> File:
    """Read the tokenizer of a file: tokenizer.bin, tokenizer.json, a SentencePiece model, a list of ranks, or a
    checkpoint that holds one (GGUF, .lmw); of a directory, the one that lies in it.

    Raises:
        CheckpointError, TokenizerError: it is damaged, or of no known format.
        InputError: no tokenizer is in it.
    """
    return File(formats.read_tokenizer(path))


def other_pieces(actual: AnyTokenizer, expected: AnyTokenizer) -> str:
    """Say in which pieces two vocabularies differ; empty if in none."""
    if actual.vocab_size != expected.vocab_size:
        return f"{actual.vocab_size:,} pieces, expected {expected.vocab_size:,}"
    differ = [id_ for id_, (a, b) in enumerate(zip(actual.pieces, expected.pieces, strict=True)) if a != b]
    if not differ:
        return ""
    first = differ[0]
    return (
        f"{len(differ):,} other pieces: id {first} is {actual.pieces[first]!r}, expected {expected.pieces[first]!r}"
    )
