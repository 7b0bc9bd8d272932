"""Write Hugging Face's `tokenizer.json`, in the two forms that `hf_json` reads; `hf_json.read` gives the same back.

byte-level      merges as a list; a vocabulary of ranks has the list made of them (`listed_merges`). One thing is not
                said: that Llama 3's published encoder cuts very long texts, which the library does not.
with fallback   the list of merges that there is, or what scores mean: every two pieces whose joined text is a piece,
                the best pieces first
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import TokenizerError
from harness.tokenizer import files, sentencepiece_model
from harness.tokenizer.bpe import HONEST
from harness.tokenizer.byte_level import NONE, ByteLevelTokenizer, character_of_byte
from harness.tokenizer.tokenizer import Tokenizer

__all__ = ["write"]

_META_SPACE = "\u2581"
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": _META_SPACE}
# How a text gets its first space -> (normaliser, pre-tokenizer).
_PREFIXES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "nonempty": (
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _META_SPACE}, _SPACES]},
        None,
    ),
    "never": ({"type": "Sequence", "normalizers": [_SPACES]}, None),
    "unless-space": (
        {},
        {"type": "Metaspace", "replacement": _META_SPACE, "prepend_scheme": "first", "split": False},
    ),
}


def write(tokenizer: Tokenizer | ByteLevelTokenizer, path: str | os.PathLike[str]) -> None:
    """Write a tokenizer.json; the file appears complete or not at all.

    Raises:
        TokenizerError: the format cannot say how it encodes, or the file cannot be written.
    """
    path = Path(path)
    parts = _byte_level(tokenizer) if isinstance(tokenizer, ByteLevelTokenizer) else _with_fallback(tokenizer, path)
    document = {"version": "1.0", "truncation": None, "padding": None, **parts}
    text = json.dumps(document, ensure_ascii=False, indent=1)
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError("a piece is no UTF-8, which a tokenizer.json needs", path=path) from error
    files.write(path, [content, b"\n"])


def _byte_level(tokenizer: ByteLevelTokenizer) -> dict[str, Any]:
    named = tokenizer.special | set(tokenizer.whole)
    spelled = [
        piece.decode("utf-8", "surrogateescape")
        if id_ in named
        else "".join(character_of_byte[byte] for byte in piece)
        for id_, piece in enumerate(tokenizer.pieces)
    ]
    bos_id = tokenizer.bos_id
    cuts: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in tokenizer.splits
    ]
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "added_tokens": [_added(id_, spelled[id_], is_special=id_ in tokenizer.special) for id_ in sorted(named)],
        "normalizer": None if tokenizer.normalization is None else {"type": tokenizer.normalization},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, as_bytes]},
        "post_processor": None if bos_id == NONE else _with_bos(spelled[bos_id], bos_id),
        "decoder": {**as_bytes, "add_prefix_space": True, "use_regex": True},
        "model": _model(
            range(_n_plain(len(spelled), named)),
            spelled,
            tokenizer.listed_merges(),
            ignore_merges=tokenizer.whole_words,
        ),
    }


def _n_plain(n: int, named: Set[int]) -> int:
    """Return how many pieces stand before the named ones at the end.

    Named ones before them are listed with the plain: the library numbers what only `added_tokens` has from there on.
    """
    while n and n - 1 in named:
        n -= 1
    return n


def _with_fallback(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    rules = tokenizer.rules
    plain = replace(
        HONEST, meta_space=rules.meta_space, dummy_prefix=rules.dummy_prefix, byte_offset=rules.byte_offset
    )
    if rules != plain or rules.dummy_prefix not in _PREFIXES or tokenizer.whole:
        raise TokenizerError(
            "a tokenizer.json cannot say how this tokenizer encodes", path=path, actual=str(rules)[:200]
        )
    kinds = sentencepiece_model.types(tokenizer)
    if sentencepiece_model.BYTE not in kinds:
        raise TokenizerError("a tokenizer.json with fallback needs byte pieces, this vocabulary has none", path=path)
    spelled = [
        sentencepiece_model.spelled(tokenizer, id_).decode("utf-8", "surrogateescape")
        for id_ in range(tokenizer.vocab_size)
    ]
    apart = (sentencepiece_model.UNKNOWN, sentencepiece_model.CONTROL)
    unknown = next((text for text, kind in zip(spelled, kinds, strict=True) if kind == apart[0]), None)
    normalizer, cutting = _PREFIXES[rules.dummy_prefix]
    merges = _pairs_of_scores(tokenizer, kinds) if tokenizer.merges is None else _in_order(tokenizer)
    steps = [
        {"type": "Replace", "pattern": {"String": _META_SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([] if rules.dummy_prefix == "never" else [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]),
    ]
    return {
        "added_tokens": [
            _added(id_, text, is_special=True)
            for id_, (text, kind) in enumerate(zip(spelled, kinds, strict=True))
            if kind in apart
        ],
        "normalizer": normalizer or None,
        "pre_tokenizer": cutting,
        "post_processor": _with_bos(spelled[tokenizer.bos_id], tokenizer.bos_id),
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": _model(range(len(spelled)), spelled, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }


def _model(
    ids: Iterable[int], spelled: Sequence[str], merges: Iterable[tuple[int, int]], **settings: Any
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": {spelled[id_]: id_ for id_ in ids},
        "merges": [[spelled[left], spelled[right]] for left, right in merges],
    }


def _in_order(tokenizer: Tokenizer) -> list[tuple[int, int]]:
    merges = tokenizer.merges or {}
    return sorted(merges, key=lambda pair: -merges[pair][0])


def _pairs_of_scores(tokenizer: Tokenizer, kinds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield every two pieces that join to a third, the pairs of the best piece first."""
    ids = {tokenizer.pieces[id_]: id_ for id_, kind in enumerate(kinds) if kind == sentencepiece_model.NORMAL}
    merged = [id_ for id_ in ids.values() if tokenizer.scores[id_] > tokenizer.rules.floor]
    for id_ in sorted(merged, key=lambda id_: (-tokenizer.scores[id_], id_)):
        piece = tokenizer.pieces[id_]
        for cut in range(1, len(piece)):
            left, right = ids.get(piece[:cut], NONE), ids.get(piece[cut:], NONE)
            if left != NONE and right != NONE:
                yield left, right


def _added(id_: int, text: str, *, is_special: bool) -> dict[str, Any]:
    switches = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": text, **switches, "special": is_special}


def _with_bos(name: str, id_: int) -> dict[str, Any]:
    """Put BOS before a text, and before each of a pair."""
    first, second = ({"SpecialToken": {"id": name, "type_id": n}} for n in (0, 1))
    a, b = ({"Sequence": {"id": text, "type_id": n}} for n, text in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [first, a],
        "pair": [first, a, second, b],
        "special_tokens": {name: {"id": name, "ids": [id_], "tokens": [name]}},
    }
