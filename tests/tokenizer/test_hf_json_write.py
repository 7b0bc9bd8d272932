"""hf_json_write: what is written is read back as it was, in both forms; tests/oracles asks the library."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import tokenizer
from harness.errors import TokenizerError
from harness.tokenizer import hf_json, hf_json_write, tiktoken_ranks
from harness.tokenizer.byte_level import GPT2, QWEN2, ByteLevelTokenizer
from harness.tokenizer.tokenizer import Tokenizer
from tests.derived_models import published
from tests.strategies import tokenizers
from tests.tokenizer.vocabularies import learn, rank_file

TEXTS = [
    "",
    " ",
    "  a  b\n\n\tc",
    "It's THEY'VE 12345 o'clock",
    "Zoë e\u0301 日本 🦙",
    "<|eot_id|><s>",
    "aaaaaaa abab",
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> ByteLevelTokenizer:
    return tiktoken_ranks.read(rank_file(tmp_path_factory.mktemp("ranks") / "ranks", learn(200)))


def again(made: Tokenizer | ByteLevelTokenizer, tmp_path: Path) -> Tokenizer | ByteLevelTokenizer:
    hf_json_write.write(made, tmp_path / "tokenizer.json")
    return hf_json.read(tmp_path / "tokenizer.json")


def test_a_file_worked_by_hand(tmp_path: Path) -> None:
    """Bytes are spelled in GPT-2's characters: a space is U+0120, a line feed U+010A."""
    pieces = (*(bytes((byte,)) for byte in range(256)), b" a", b"\n\n", b"<|x|>")
    made = ByteLevelTokenizer(pieces, frozenset({258}), (GPT2,), bos_id=258)
    hf_json_write.write(made, tmp_path / "tokenizer.json")
    document = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    assert document["model"]["merges"] == [["\u0120", "a"], ["\u010a", "\u010a"]]
    assert document["model"]["vocab"]["\u0120a"] == 256
    assert "<|x|>" not in document["model"]["vocab"]
    assert [(one["id"], one["content"], one["special"]) for one in document["added_tokens"]] == [(258, "<|x|>", True)]
    assert document["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": GPT2}
    assert document["post_processor"]["special_tokens"]["<|x|>"]["ids"] == [258]


def test_ranks_are_read_back_as_a_list_that_encodes_alike(tmp_path: Path, ranks: ByteLevelTokenizer) -> None:
    found = again(ranks, tmp_path)
    assert isinstance(found, ByteLevelTokenizer)
    assert (found.pieces, found.special, found.bos_id, found.eos_id) == (
        ranks.pieces,
        ranks.special,
        ranks.bos_id,
        ranks.eos_id,
    )
    assert found.stop_ids == ranks.stop_ids
    for text in TEXTS:
        assert found.encode(text) == ranks.encode(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"splits": (QWEN2,), "normalization": "NFC", "bos_id": -1},
        {"splits": (r"[\r\n]", r"\s?\p{L}+", r"\p{N}"), "whole_words": False},
        {"whole": "the last"},
    ],
)
def test_other_ways_of_cutting_words_come_back(
    changes: dict[str, object], tmp_path: Path, ranks: ByteLevelTokenizer
) -> None:
    if "whole" in changes:
        ranks = replace(ranks, pieces=(*ranks.pieces, b"<sep>"))
        changes = {**changes, "whole": (len(ranks.pieces) - 1,)}
    made = replace(ranks, merges={pair: (-n, 256 + n) for n, pair in enumerate(ranks.listed_merges())}, **changes)  # type: ignore[arg-type]
    found = again(made, tmp_path)
    assert isinstance(found, ByteLevelTokenizer)
    for name in ("splits", "normalization", "bos_id", "whole_words", "whole"):
        assert getattr(found, name) == getattr(made, name)
    for text in TEXTS:
        assert found.encode(text) == made.encode(text)


def _is_utf8(piece: bytes) -> bool:
    try:
        return bool(piece.decode())
    except UnicodeDecodeError:
        return False


@given(made=tokenizers(), text=st.text(alphabet="ab c\u00e9🦙\n", max_size=12))
@settings(max_examples=60, deadline=None)
def test_scores_are_read_back_as_a_list_that_encodes_alike(
    tmp_path_factory: pytest.TempPathFactory, made: Tokenizer, text: str
) -> None:
    """Where no two pieces have one score: their list has an order, and equal scores have none."""
    if any(not _is_utf8(piece) for piece in made.pieces):
        return  # parts of characters, which the format has no spelling for
    scores = np.array([0.0] * 259 + [-float(n) for n in range(made.vocab_size - 259)], np.float32)
    made = replace(made, scores=scores)
    found = again(made, tmp_path_factory.mktemp("json"))
    assert found.pieces == made.pieces
    assert (found.bos_id, found.eos_id) == (made.bos_id, made.eos_id)
    assert found.encode(text) == made.encode(text)


@pytest.mark.parametrize("prefix", ["nonempty", "never", "unless-space"])
def test_the_dummy_prefix_comes_back(prefix: str, tmp_path: Path) -> None:
    first = tokenizer.read(published("tok512.bin"))
    made = replace(first, rules=replace(first.rules, dummy_prefix=prefix, meta_space=True))  # type: ignore[arg-type]
    found = again(made, tmp_path)
    assert isinstance(found, Tokenizer)
    assert found.rules.dummy_prefix == prefix
    for text in [*TEXTS, " a", "\u2581a"]:
        assert found.encode(text) == made.encode(text)


def test_what_the_format_cannot_say_is_refused(tmp_path: Path) -> None:
    first = tokenizer.read(published("tok512.bin"))
    for rules in (replace(first.rules, spaces="spaces-squeezed"), replace(first.rules, dummy_prefix="always")):
        with pytest.raises(TokenizerError, match="cannot say how"):
            hf_json_write.write(replace(first, rules=rules), tmp_path / "t.json")
    assert not list(tmp_path.iterdir())
