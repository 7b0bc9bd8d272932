"""The tokenizer of a Hugging Face directory: its files, and tokenizer_config.json, which says which class reads them.

tokenizer.json      what the library reads
tokenizer.model     SentencePiece's, beside it where it can say how the tokenizer encodes, as of Llama 2: it has the
                    scores, of which a tokenizer.json keeps the order only
"""

from __future__ import annotations

import json
from collections.abc import Callable
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
    is_model = isinstance(tokenizer, Tokenizer) and _is_written(
        sentencepiece_model.write, tokenizer, directory / "tokenizer.model"
    )
    if is_model:
        is_json = _is_written(hf_json_write.write, tokenizer, directory / "tokenizer.json")
    else:
        hf_json_write.write(tokenizer, directory / "tokenizer.json")
        is_json = True
    text = json.dumps(_config(tokenizer, is_json=is_json), indent=2, ensure_ascii=False)
    (directory / "tokenizer_config.json").write_text(text + "\n", "utf-8")


def _is_written(write: Callable[[Any, Path], None], tokenizer: AnyTokenizer, path: Path) -> bool:
    """Write a file if its format can say how the tokenizer encodes; return whether it can."""
    try:
        write(tokenizer, path)
    except TokenizerError:
        return False
    return True


def _config(tokenizer: AnyTokenizer, *, is_json: bool) -> dict[str, Any]:
    """Name the special pieces; the class reads the file as it is, and adds nothing to it."""

    def named(id_: int) -> str | None:
        if not 0 <= id_ < tokenizer.vocab_size:
            return None
        piece = tokenizer.pieces[id_]
        if isinstance(tokenizer, Tokenizer):
            piece = sentencepiece_model.spelled(tokenizer, id_)
        return piece.decode("utf-8", "replace")

    document: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast" if is_json else "LlamaTokenizer",
        "bos_token": named(tokenizer.bos_id),
        "eos_token": named(tokenizer.eos_id),
        "clean_up_tokenization_spaces": False,
    }
    if not is_json:
        document |= {"unk_token": named(0), "add_bos_token": True, "add_eos_token": False, "legacy": False}
    return {key: value for key, value in document.items() if value is not None}
