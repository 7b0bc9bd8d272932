"""The tokenizer in a GGUF file's metadata, to a tokenizer value and back.

Keys, with `tokenizer.ggml.` in front:

    model          "llama": pieces and scores as SentencePiece has them, U+2581 for a space; "gpt2": byte-level,
                   pieces and merges in GPT-2's characters for bytes; "none" or absent: no tokenizer
    pre            of "gpt2": by which pattern words are cut: "llama-bpe", "qwen2", "gpt-2", "phi-2", ...
    tokens, scores, token_type (1 normal, 2 unknown, 3 control, 4 user-defined, 6 byte), merges ("a b")
    bos_token_id, eos_token_id, unknown_token_id, eot_token_id, add_bos_token, add_space_prefix,
    remove_extra_whitespaces

Source: the keys and the names of patterns are llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from harness.errors import TokenizerError
from harness.formats import gguf_file
from harness.formats.gguf_file import Value
from harness.tokenizer import HONEST, AnyTokenizer, ByteLevelTokenizer, Tokenizer, sentencepiece_model
from harness.tokenizer.byte_level import (
    GPT2,
    LLAMA3,
    NONE,
    QWEN2,
    byte_of_character,
    character_of_byte,
)
from harness.tokenizer.scores import require_scores

__all__ = ["metadata_of", "read", "tokenizer_of"]

_PREFIX = "tokenizer.ggml."
_PATTERNS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), QWEN2),
    **dict.fromkeys(("gpt-2", "phi-2"), GPT2),
}
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4


def read(path: Path) -> AnyTokenizer | None:
    """Return the tokenizer in a file, None where there is none.

    Raises:
        CheckpointError: the file is damaged.
        TokenizerError: the tokenizer is, or is of a kind that is not supported.
    """
    path = Path(path)
    return tokenizer_of(gguf_file.read(path).metadata, path)


# ---- from metadata -------------------------------------------------------------------------------


def tokenizer_of(metadata: Mapping[str, Value], path: Path) -> AnyTokenizer | None:
    """Make a tokenizer of the metadata; as `read`."""
    keys = _Keys(metadata, path)
    model = keys.text("model", "none")
    if model in ("none", "no_vocab"):
        return None
    if model not in ("llama", "gpt2"):
        keys.fail("model", "is a kind that is not supported", model, "llama or gpt2")
    return _with_scores(keys) if model == "llama" else _byte_level(keys)


class _Keys:
    def __init__(self, metadata: Mapping[str, Value], path: Path) -> None:
        self.metadata, self.path = metadata, path

    def fail(self, key: str, what: str, actual: object = None, expected: object = None) -> NoReturn:
        raise TokenizerError(
            what,
            path=self.path,
            where=f"key {_PREFIX}{key}",
            expected=expected,
            actual=None if actual is None else repr(actual)[:80],
        )

    def value(self, key: str) -> Any:
        return self.metadata.get(_PREFIX + key)

    def text(self, key: str, default: str) -> str:
        value = self.value(key)
        if value is not None and not isinstance(value, str):
            self.fail(key, "is no text", value)
        return default if value is None else value

    def truth(self, key: str, *, default: bool) -> bool:
        value = self.value(key)
        if value is not None and not isinstance(value, bool):
            self.fail(key, "is no truth value", value)
        return default if value is None else value

    def id_(self, key: str, n: int, default: int) -> int:
        value = self.value(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < n:
            self.fail(key, "is no piece", value, f"0 to {n - 1}")
        return value

    def texts(self, key: str) -> list[str]:
        value = self.value(key)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self.fail(key, "is no list of texts", None if value is None else type(value).__name__)
        return value

    def numbers(self, key: str, n: int, kind: str) -> list[Any]:
        value = self.value(key)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kind or len(value) != n:
            self.fail(key, "is no list of a number for each piece", None, f"{n} numbers")
        return list(value.tolist())


def _with_scores(keys: _Keys) -> Tokenizer:
    texts = [token.encode("utf-8", "surrogateescape") for token in keys.texts("tokens")]
    n = len(texts)
    rules = replace(
        HONEST,
        meta_space=True,
        dummy_prefix="nonempty" if keys.truth("add_space_prefix", default=True) else "never",
        spaces="spaces-squeezed" if keys.truth("remove_extra_whitespaces", default=False) else "keep",
    )
    return sentencepiece_model.assemble(
        texts,
        keys.numbers("scores", n, "f"),
        keys.numbers("token_type", n, "iu"),
        bos_id=keys.id_("bos_token_id", n, 1),
        eos_id=keys.id_("eos_token_id", n, 2),
        rules=rules,
        layout="gguf",
        path=keys.path,
    )


def _byte_level(keys: _Keys) -> ByteLevelTokenizer:
    pre = keys.text("pre", "default")
    if pre not in _PATTERNS:
        keys.fail("pre", "cuts words in a way that is not supported", pre, ", ".join(_PATTERNS))
    tokens = keys.texts("tokens")
    n = len(tokens)
    kinds = keys.numbers("token_type", n, "iu")
    pieces = []
    for id_, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind in (_CONTROL, _USER_DEFINED, _UNKNOWN):
            pieces.append(token.encode("utf-8", "surrogateescape"))
            continue
        try:
            pieces.append(bytes(byte_of_character[character] for character in token))
        except KeyError:
            keys.fail("tokens", f"piece {id_} is not spelled in characters for bytes", token)
    ids = {token: id_ for id_, token in enumerate(tokens)}
    merges: dict[tuple[int, int], tuple[float, int]] = {}
    for number, pair in enumerate(keys.texts("merges")):
        left, _, right = pair.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            keys.fail("merges", f"merge {number} is not of pieces", pair)
        merges[ids[left], ids[right]] = (-number, ids[left + right])
    stops = {keys.id_(key, n, NONE) for key in ("eos_token_id", "eot_token_id", "eom_token_id")}
    # llama.cpp puts BOS before a text where the file says so, and for Llama 3 where it says nothing.
    adds_bos = keys.truth("add_bos_token", default=_PATTERNS[pre] == LLAMA3)
    return ByteLevelTokenizer(
        tuple(pieces),
        frozenset(id_ for id_, kind in enumerate(kinds) if kind in (_CONTROL, _UNKNOWN)),
        (_PATTERNS[pre],),
        merges,
        bos_id=keys.id_("bos_token_id", n, NONE) if adds_bos else NONE,
        eos_id=keys.id_("eos_token_id", n, NONE),
        stop_ids=frozenset(stops - {NONE}),
        whole_words=_PATTERNS[pre] == LLAMA3,
        whole=tuple(id_ for id_, kind in enumerate(kinds) if kind == _USER_DEFINED),
        layout="gguf",
    )


# ---- to metadata ---------------------------------------------------------------------------------


def metadata_of(tokenizer: AnyTokenizer | None, path: Path) -> dict[str, Value]:
    """Return the keys of a tokenizer, as llama.cpp reads them.

    Raises:
        TokenizerError: llama.cpp has no such tokenizer.
    """
    if tokenizer is None:
        found: dict[str, Value] = {"model": "none"}
    elif isinstance(tokenizer, Tokenizer):
        found = _of_scores(tokenizer, path)
    else:
        found = _of_byte_level(tokenizer, path)
    return {_PREFIX + key: value for key, value in found.items()}


def _of_scores(tokenizer: Tokenizer, path: Path) -> dict[str, Value]:
    require_scores(tokenizer, path)
    spelled = (sentencepiece_model.spelled(tokenizer, id_) for id_ in range(tokenizer.vocab_size))
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [piece.decode("utf-8", "surrogateescape") for piece in spelled],
        "scores": np.asarray(tokenizer.scores, "<f4"),
        "token_type": np.array(sentencepiece_model.types(tokenizer), "<i4"),
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "unknown_token_id": 0,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": tokenizer.rules.dummy_prefix != "never",
        "remove_extra_whitespaces": tokenizer.rules.spaces == "spaces-squeezed",
    }


def _of_byte_level(tokenizer: ByteLevelTokenizer, path: Path) -> dict[str, Value]:
    names: dict[tuple[str, ...], str] = {(LLAMA3,): "llama-bpe", (QWEN2,): "qwen2", (GPT2,): "gpt-2"}
    pre = names.get(tokenizer.splits)
    if pre is None or tokenizer.whole_words != (pre == "llama-bpe"):
        raise TokenizerError(
            "llama.cpp has no name for the way in which this tokenizer cuts words",
            path=path,
            expected="Llama 3's, Qwen 2's or GPT-2's",
        )
    named = tokenizer.special | set(tokenizer.whole)
    spelled = [
        piece.decode() if id_ in named else "".join(character_of_byte[byte] for byte in piece)
        for id_, piece in enumerate(tokenizer.pieces)
    ]
    kinds = np.full(tokenizer.vocab_size, _NORMAL, "<i4")
    kinds[sorted(tokenizer.special)] = _CONTROL
    kinds[sorted(tokenizer.whole)] = _USER_DEFINED
    found: dict[str, Value] = {
        "model": "gpt2",
        "pre": pre,
        "tokens": list(spelled),
        "token_type": kinds,
        "merges": [f"{spelled[left]} {spelled[right]}" for left, right in tokenizer.listed_merges()],
        "add_bos_token": tokenizer.bos_id != NONE,
    }
    stops = sorted(tokenizer.stop_ids - {tokenizer.eos_id})
    ids = (
        ("bos_token_id", tokenizer.bos_id),
        ("eos_token_id", tokenizer.eos_id),
        ("eot_token_id", (stops or [NONE])[-1]),
    )
    return found | {key: id_ for key, id_ in ids if id_ != NONE}
