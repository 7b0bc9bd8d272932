"""any_format: every format is known by its content, and written where it can say how the tokenizer encodes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings

from harness import tokenizer
from harness.errors import TokenizerError
from harness.tokenizer import ByteLevelTokenizer, Tokenizer, read_any, write_any
from harness.tokenizer.tokenizer_bin import LAYOUTS
from tests.derived_models import published
from tests.strategies import tokenizers
from tests.tokenizer.test_hf_json import byte_level, with_fallback
from tests.tokenizer.vocabularies import learn, rank_file


@given(made=tokenizers())
@settings(max_examples=40)
@pytest.mark.parametrize("suffix", ["bin", "model"])
def test_vocabularies_with_scores_go_through_either_file(tmp_path_factory, suffix, made):
    path = tmp_path_factory.mktemp("any") / f"tok.{suffix}"
    write_any(made, path)
    read = read_any(path)
    assert isinstance(read, Tokenizer)
    assert read.layout == ("today" if suffix == "bin" else "sentencepiece")
    assert read.pieces == made.pieces
    np.testing.assert_array_equal(read.scores, made.scores)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layout_of_tokenizer_bin_is_taken_for_another_format(tmp_path, layout):
    tokenizer.write(tokenizer.read(published("tok512.bin")), tmp_path / "t.bin", layout)
    assert read_any(tmp_path / "t.bin").layout == layout


@pytest.mark.parametrize("name", ["t.model", "t.tiktoken"])
def test_ranks_go_through_their_list(tmp_path, name):
    made = read_any(rank_file(tmp_path / "ranks", learn(30)))
    assert isinstance(made, ByteLevelTokenizer)
    write_any(made, tmp_path / name)
    assert read_any(tmp_path / name).pieces == made.pieces


def test_tokenizer_json_is_known_in_both_forms(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(byte_level(), indent=2))
    assert isinstance(read_any(path), ByteLevelTokenizer)
    path.write_text("\n " + json.dumps(with_fallback()))
    made = read_any(path)
    assert isinstance(made, Tokenizer)
    write_any(made, tmp_path / "tok.bin")
    assert read_any(tmp_path / "tok.bin").encode("a a") == made.encode("a a")


def test_the_vocabulary_of_the_model_bounds_it(tmp_path):
    path = published("tokenizer.model")
    assert read_any(path, 32000).vocab_size == read_any(path, 40000).vocab_size == 32000
    with pytest.raises(TokenizerError, match="another vocabulary"):
        read_any(path, 512)


def test_what_a_format_cannot_say_is_refused(tmp_path):
    ranks = read_any(rank_file(tmp_path / "ranks", learn(0)))
    with pytest.raises(TokenizerError, match="byte-level"):
        write_any(ranks, tmp_path / "t.bin")
    scores = tokenizer.read(published("tok512.bin"))
    with pytest.raises(TokenizerError, match="scores"):
        write_any(scores, tmp_path / "t.tiktoken")
    with pytest.raises(TokenizerError, match="no format"):
        write_any(scores, tmp_path / "t.txt")
