"""gguf_tokenizer: keys worked by hand, round trips of both kinds, what llama.cpp would be told, damaged keys."""

from __future__ import annotations

from dataclasses import replace

import gguf as oracle
import numpy as np
import pytest
from hypothesis import given, settings

from harness import checkpoint, tokenizer
from harness.errors import TokenizerError
from harness.formats import gguf, gguf_tokenizer
from harness.formats.format import WriteOptions
from harness.tokenizer import ByteLevelTokenizer, Tokenizer, tiktoken_ranks
from harness.tokenizer.byte_level import LLAMA3
from tests.derived_models import published
from tests.strategies import BYTE_PIECES, SPECIALS, texts, tokenizers
from tests.tokenizer.vocabularies import learn, rank_file

PREFIX = "tokenizer.ggml."
LEARNED = learn(200)
SMALL = Tokenizer((*SPECIALS, *BYTE_PIECES, b" ", b"a", b" a"), -np.arange(262).astype(np.float32))


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    return tiktoken_ranks.read(rank_file(tmp_path_factory.mktemp("ranks") / "ranks", LEARNED))


def keys(made: object) -> dict[str, object]:
    found = gguf_tokenizer.metadata_of(made, "x.gguf")  # type: ignore[arg-type]
    return {key.removeprefix(PREFIX): value for key, value in found.items()}


def again(made: object) -> object:
    return gguf_tokenizer.tokenizer_of(gguf_tokenizer.metadata_of(made, "x.gguf"), "x.gguf")  # type: ignore[arg-type]


# ---- worked by hand


def test_pieces_with_scores_are_spelled_as_sentencepiece_spells_them():
    found = keys(SMALL)
    assert found["model"] == "llama"
    assert found["tokens"][:4] == ["<unk>", "<s>", "</s>", "<0x00>"]  # type: ignore[index]
    assert found["tokens"][259:] == ["▁", "a", "▁a"]  # type: ignore[index]
    assert found["token_type"].tolist() == [2, 3, 3, *[6] * 256, 1, 1, 1]  # type: ignore[attr-defined]
    assert found["scores"].tolist() == SMALL.scores.tolist()  # type: ignore[attr-defined]
    assert (found["bos_token_id"], found["eos_token_id"], found["unknown_token_id"]) == (1, 2, 0)
    assert (found["add_bos_token"], found["add_space_prefix"]) == (True, True)


def test_byte_level_pieces_and_merges_are_spelled_in_gpt_2s_characters():
    pieces = (*(bytes((byte,)) for byte in range(256)), b" a", b" ab", b"<|x|>")
    made = ByteLevelTokenizer(pieces, frozenset({258}), (LLAMA3,), bos_id=258)
    found = keys(made)
    assert (found["model"], found["pre"]) == ("gpt2", "llama-bpe")
    assert found["tokens"][256:] == ["Ġa", "Ġab", "<|x|>"]  # type: ignore[index]
    assert found["merges"] == ["Ġ a", "Ġa b"]
    assert found["token_type"].tolist()[256:] == [1, 1, 3]  # type: ignore[attr-defined]


def test_a_file_without_tokenizer_says_so():
    assert keys(None) == {"model": "none"}
    assert again(None) is None


# ---- round trips


@given(made=tokenizers(), text=texts("ab é🦙\n日"))
@settings(max_examples=50)
def test_vocabularies_with_scores_come_back(made, text):
    read = again(made)
    assert isinstance(read, Tokenizer)
    assert read.pieces == made.pieces
    np.testing.assert_array_equal(read.scores, made.scores)
    assert read.encode(text) == made.encode(text)


@given(text=texts() | texts("aeiou tn'sS19\n 日🦙"))
def test_ranks_come_back_as_a_list_that_encodes_alike(llama3, reread, text):
    assert reread.encode(text) == llama3.encode(text)
    assert (reread.bos_id, reread.eos_id) == (llama3.bos_id, llama3.eos_id)


@pytest.fixture(scope="module")
def reread(llama3):
    return again(llama3)


def test_the_tokenizer_lies_in_the_file(tmp_path):
    path = tmp_path / "m.gguf"
    ours = tokenizer.read(published("tok512.bin"))
    gguf.write(checkpoint.read(published("stories260K.bin")), path, WriteOptions(tokenizer=ours))
    read = gguf_tokenizer.read(path)
    assert isinstance(read, Tokenizer)
    assert read.encode("Once upon a time") == ours.encode("Once upon a time")
    fields = oracle.GGUFReader(path).fields
    assert fields[PREFIX + "tokens"].contents()[259] == "▁t"
    assert fields[PREFIX + "scores"].contents()[261] == ours.scores[261]
    known = {value for name, value in vars(oracle.Keys.Tokenizer).items() if not name.startswith("_")}
    assert {key for key in fields if key.startswith("tokenizer.")} <= known


def test_special_spellings_in_a_text_stay_text(llama3, reread):
    assert not set(reread.encode("<|eot_id|><|begin_of_text|>", bos=False)) & reread.special
    small = again(SMALL)
    assert not {1, 2} & set(small.encode("<s></s>", bos=False))  # type: ignore[attr-defined]


# ---- refused


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model", "t5", "not supported"),
        ("model", 5, "no text"),
        ("tokens", ["a"], "a number for each piece"),
        ("tokens", np.zeros(262, "<f4"), "list of texts"),
        ("scores", np.zeros(261, "<f4"), "a number for each piece"),
        ("scores", np.zeros(262, "<i4"), "a number for each piece"),
        ("scores", np.full(262, np.nan, "<f4"), "NaN"),
        ("token_type", np.full(262, 5, "<i4"), "unused"),
        ("token_type", np.ones(262, "<i4"), "byte pieces"),
        ("bos_token_id", 262, "no piece"),
        ("bos_token_id", -1, "no piece"),
        ("add_space_prefix", 1, "truth"),
    ],
)
def test_damaged_keys_of_scores_are_one_clear_error(key, value, words):
    metadata = {**gguf_tokenizer.metadata_of(SMALL, "x.gguf"), PREFIX + key: value}  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match=words):
        gguf_tokenizer.tokenizer_of(metadata, "x.gguf")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pre", "mystery", "not supported"),
        ("merges", ["a b c"], "not of pieces"),
        ("merges", ["nothing here"], "not of pieces"),
        ("merges", None, "list of texts"),
        ("tokens", ["日"] * (len(LEARNED) + 256), "characters for bytes"),
    ],
)
def test_damaged_keys_of_merges_are_one_clear_error(llama3, key, value, words):
    metadata = {**gguf_tokenizer.metadata_of(llama3, "x.gguf"), PREFIX + key: value}
    with pytest.raises(TokenizerError, match=words):
        gguf_tokenizer.tokenizer_of(metadata, "x.gguf")  # type: ignore[arg-type]


def test_a_way_of_cutting_words_without_a_name_is_refused():
    made = ByteLevelTokenizer(tuple(bytes((byte,)) for byte in range(256)), frozenset(), (r"\w+",))
    with pytest.raises(TokenizerError, match="no name for the way"):
        gguf_tokenizer.metadata_of(made, "x.gguf")  # type: ignore[arg-type]


def test_a_vocabulary_without_dummy_prefix_says_so():
    made = replace(SMALL, rules=replace(SMALL.rules, dummy_prefix="never", meta_space=True))
    assert keys(made)["add_space_prefix"] is False
    assert again(made).encode("a", bos=False) == [260]  # type: ignore[attr-defined]
