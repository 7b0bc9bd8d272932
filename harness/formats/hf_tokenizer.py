"""The tokenizer of a Hugging Face directory: its file, and tokenizer_config.json, which says which class reads it.

tokenizer.model     SentencePiece's, where it can say how the tokenizer encodes: Llama 2's
tokenizer.json      else: Llama 3's, and lists of merges that scores cannot say
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.errors import TokenizerError
from harness.tokenizer import AnyTokenizer, Tokenizer, hf_json_write, sentencepiece_model

__all__ = ["write"]


def write(tokenizer: AnyTokenizer, directory: Path) -> None:
    """Write a tokenizer into a directory.

    Raises:
        TokenizerError: neither format can say how it encodes.
    """
    is_model = isinstance(tokenizer, Tokenizer) and _write_model(tokenizer, directory / "tokenizer.model")
    if not is_model:
        hf_json_write.write(tokenizer, directory / "tokenizer.json")
    text = json.dumps(_config(tokenizer, is_model=is_model), indent=2, ensure_ascii=False)
    (directory / "tokenizer_config.json").write_text(text + "\n", "utf-8")


def _write_model(tokenizer: Tokenizer, path: Path) -> bool:
    """Write a SentencePiece model; return whether one can hold this tokenizer."""
    try:
        sentencepiece_model.write(tokenizer, path)
    except TokenizerError:
        return False
    return True


def _config(tokenizer: AnyTokenizer, *, is_model: bool) -> dict[str, Any]:
    """Name the special pieces; the class reads the file as it is, and adds nothing to it."""

    def named(id_: int) -> str | None:
        if not 0 <= id_ < tokenizer.vocab_size:
            return None
        piece = tokenizer.pieces[id_]
        if isinstance(tokenizer, Tokenizer):
            piece = sentencepiece_model.spelled(tokenizer, id_)
        return piece.decode("utf-8", "replace")

    document: dict[str, Any] = {
        "tokenizer_class": "LlamaTokenizer" if is_model else "PreTrainedTokenizerFast",
        "bos_token": named(tokenizer.bos_id),
        "eos_token": named(tokenizer.eos_id),
        "clean_up_tokenization_spaces": False,
    }
    if is_model:
        document |= {"unk_token": named(0), "add_bos_token": True, "add_eos_token": False, "legacy": False}
    return {key: value for key, value in document.items() if value is not None}
