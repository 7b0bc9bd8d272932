"""Read a tokenizer of whatever format, by its content, and write one by the name of the file.

    read     tokenizer.json (JSON), a list of ranks, SentencePiece's .model, and else llama2.c's tokenizer.bin, which
             has no mark of its own
    write    .bin: tokenizer.bin; .json: tokenizer.json; .model: SentencePiece's, or a list of ranks if it is
             byte-level, as Llama 3 names its own; .tiktoken: a list of ranks

A format that cannot say how a tokenizer encodes is refused, with the reason.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import TokenizerError
from harness.tokenizer import files, hf_json, hf_json_write, sentencepiece_model, tiktoken_ranks, tokenizer_bin
from harness.tokenizer.byte_level import ByteLevelTokenizer
from harness.tokenizer.tokenizer import Tokenizer

__all__ = ["of_a_model", "read_any", "write_any"]

_HEAD_BYTES = 512


def read_any(path: str | os.PathLike[str], vocab_size: int | None = None) -> Tokenizer | ByteLevelTokenizer:
    """Read a tokenizer.

    Args:
        vocab_size: of the model. Of a tokenizer.bin so many pieces are taken; another file with more is refused. One
            with fewer is read: models pad their tables.

    Raises:
        TokenizerError: the file is damaged, of a kind that is not supported, or of another vocabulary.
    """
    path = Path(path)
    head = files.content(path)[:_HEAD_BYTES]
    found: Tokenizer | ByteLevelTokenizer
    if hf_json.sniff(head):
        found = hf_json.read(path)
    elif tiktoken_ranks.sniff(head):
        found = tiktoken_ranks.read(path)
    elif sentencepiece_model.sniff(head):
        found = sentencepiece_model.read(path)
    else:
        return tokenizer_bin.read(path, vocab_size)
    return of_a_model(found, vocab_size, path)


def of_a_model(
    found: Tokenizer | ByteLevelTokenizer, vocab_size: int | None, path: Path
) -> Tokenizer | ByteLevelTokenizer:
    """Return what was read from `path`, if a model of so many ids can have it; None: any model.

    Raises:
        TokenizerError: it has more pieces.
    """
    if vocab_size is not None and found.vocab_size > vocab_size:
        raise TokenizerError(
            "the tokenizer is of another vocabulary",
            path=path,
            expected=f"at most {vocab_size:,} pieces",
            actual=f"{found.vocab_size:,}",
        )
    return found


def write_any(tokenizer: Tokenizer | ByteLevelTokenizer, path: str | os.PathLike[str]) -> None:
    """Write a tokenizer; the file appears complete or not at all.

    Raises:
        TokenizerError: the format cannot say how it encodes, or no format has the suffix.
    """
    path = Path(path)
    match path.suffix.lower(), tokenizer:
        case ".bin", Tokenizer():
            tokenizer_bin.write(tokenizer, path)
        case ".bin", _:
            raise TokenizerError(
                "a tokenizer.bin cannot hold a byte-level vocabulary, whose words are merged apart",
                path=path,
                hint="write a tokenizer.json",
            )
        case ".json", _:
            hf_json_write.write(tokenizer, path)
        case ".model", Tokenizer():
            sentencepiece_model.write(tokenizer, path)
        case ((".model" | ".tiktoken"), ByteLevelTokenizer()):
            tiktoken_ranks.write(tokenizer, path)
        case ".tiktoken", _:
            raise TokenizerError(
                "a list of ranks cannot hold a vocabulary with scores", path=path, hint="name a .model"
            )
        case _:
            raise TokenizerError(
                "no format of tokenizers is written to such files",
                path=path,
                expected=".bin, .json, .model or .tiktoken",
            )
