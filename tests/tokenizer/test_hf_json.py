"""hf_json: a file of each form worked by hand, and what is refused by name; tests/oracles has the library's view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import TokenizerError
from harness.tokenizer import ByteLevelTokenizer, Tokenizer, hf_json
from harness.tokenizer.byte_level import LLAMA3, character_of_byte

BYTES = {character: byte for byte, character in enumerate(character_of_byte)}


def byte_level() -> dict[str, Any]:
    return {
        "added_tokens": [
            {"id": 258, "content": "<|begin|>", "special": True},
            {"id": 259, "content": "<sep>", "special": False},
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        },
        "model": {"type": "BPE", "vocab": {**BYTES, "Ġa": 256, "Ġab": 257}, "merges": ["Ġ a", "Ġa b"]},
    }


def with_fallback() -> dict[str, Any]:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
    return {
        "added_tokens": [{"id": id_, "content": pieces[id_], "special": True} for id_ in range(3)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "unk_token": "<unk>",
            "vocab": {piece: id_ for id_, piece in enumerate(pieces)},
            "merges": [["▁", "a"]],
        },
    }


def read(tmp_path: Path, document: object) -> Tokenizer | ByteLevelTokenizer:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    return hf_json.read(path)


# ---- worked by hand


def test_byte_level(tmp_path):
    made = read(tmp_path, byte_level())
    assert isinstance(made, ByteLevelTokenizer)
    assert made.encode("ab ab") == [258, 97, 98, 257]
    assert made.encode("a<sep> a") == [258, 97, 259, 256]  # an added token is found in the text
    assert made.encode("<|begin|>", bos=False) == list(b"<|begin|>")  # a special one is not
    assert made.decode([258, 257, 259]) == b" ab<sep>"


def test_with_byte_fallback(tmp_path):
    made = read(tmp_path, with_fallback())
    assert isinstance(made, Tokenizer)
    assert (made.bos_id, made.eos_id) == (1, 2)
    assert made.encode("a") == [1, 261]
    assert made.encode("é") == [1, 259, 0xC3 + 3, 0xA9 + 3]
    assert not {1, 2} & set(made.encode("<s></s>", bos=False))


def test_the_names_of_llama_2_give_bos_where_no_template_does(tmp_path):
    document = with_fallback()
    document["post_processor"] = None
    assert read(tmp_path, document).bos_id == 1


# ---- refused


def changed(document: dict[str, Any], where: str, value: object) -> dict[str, Any]:
    *path, last = where.split(".")
    inner = document
    for key in path:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[int(last) if isinstance(inner, list) else last] = value
    return document


BYTE_LEVEL_FAULTS = [
    ("model.type", "Unigram", "another kind"),
    ("model", [], "no object"),
    ("model.vocab", ["a"], "no object"),
    ("model.vocab", {**BYTES, "Ġa": 256, "Ġab": -1}, "a piece and its id"),
    ("model.vocab", {**BYTES, "Ġa": 256, "Ġab": 1 << 40}, "a piece and its id"),
    ("model.vocab", {**BYTES, "Ġa": 256, "Ġab": True}, "a piece and its id"),
    ("model.vocab", {**BYTES, "Ġa": 256, "Ġab": 300}, "no piece has the id 257"),
    ("model.vocab", {**BYTES, "Ġa": 256, "日": 257}, "characters for bytes|merges"),
    ("model.merges", "Ġ a", "no list"),
    ("model.merges", ["Ġ a b"], "no pair"),
    ("model.merges", [[1, 2]], "no pair"),
    ("model.merges", ["a b"], "no piece"),
    ("model.dropout", 0.1, "not supported"),
    ("added_tokens.0.id", 5, "twice"),
    ("added_tokens.1.lstrip", True, "lstrip"),
    ("added_tokens", "<s>", "no list"),
    ("normalizer", {"type": "Lowercase"}, "normaliser is not supported"),
    ("pre_tokenizer.pretokenizers.0.behavior", "Removed", "way of cutting"),
    ("pre_tokenizer.pretokenizers.0.invert", True, "way of cutting"),
    ("pre_tokenizer.pretokenizers.0.type", "Whitespace", "way of cutting"),
    ("pre_tokenizer.pretokenizers.1.add_prefix_space", True, "space before the text"),
    ("post_processor.single.0.SpecialToken.id", "<|no|>", "no piece"),
]


@pytest.mark.parametrize(("where", "value", "words"), BYTE_LEVEL_FAULTS)
def test_byte_level_files_that_are_damaged_or_not_supported(tmp_path, where, value, words):
    with pytest.raises(TokenizerError, match=words):
        read(tmp_path, changed(byte_level(), where, value))


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("model.byte_fallback", False, "neither byte-level nor"),
        ("model.ignore_merges", True, "ignore_merges|not supported"),
        ("normalizer.normalizers.0.prepend", "_", "normaliser is not supported"),
        ("normalizer", None, "not spelled as U"),
        ("pre_tokenizer", {"type": "Metaspace", "replacement": "▁", "split": False}, "way of cutting"),
        ("pre_tokenizer", {"type": "Whitespace"}, "way of cutting"),
        ("added_tokens.1.special", False, "added but not special"),
        ("added_tokens", [], "BOS|byte"),
    ],
)
def test_files_with_fallback_that_are_damaged_or_not_supported(tmp_path, where, value, words):
    document = changed(with_fallback(), where, value)
    if where == "added_tokens":
        del document["model"]["vocab"]["<s>"]
        document["model"]["vocab"]["<x>"] = 1
    with pytest.raises(TokenizerError, match=words):
        read(tmp_path, document)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"model": ' * 5000, b"null"])
def test_what_is_no_json_object_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match="not"):
        hf_json.read(path)
