"""byte_level and tiktoken_ranks: words and merges worked by hand, tiktoken as oracle, damaged files."""

from __future__ import annotations

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import TokenizerError
from harness.tokenizer import byte_level, tiktoken_ranks
from harness.tokenizer.byte_level import GPT2, LLAMA3, QWEN2, ByteLevelTokenizer
from tests.strategies import texts
from tests.tokenizer.vocabularies import LEARNED_FROM, learn, rank_file

PIECES = learn(300)
NASTY = "aA1 '’sSſdDlLéß日🦙\n\r\t\u00a0\u2028\u3000\u200b\u0301½²Ⅷ१_-.!<|>\x1c\x85\0"

# Pieces for every two of these characters, so that a word cut elsewhere gives other ids.
DENSE = tuple(
    dict.fromkeys([*PIECES[:256], *(a.encode() for a in NASTY), *((a + b).encode() for a in NASTY for b in NASTY)])
)


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    return tiktoken_ranks.read(rank_file(tmp_path_factory.mktemp("ranks") / "tokenizer.model", PIECES))


@pytest.fixture(scope="module")
def oracle():
    ranks = {piece: rank for rank, piece in enumerate(PIECES)}
    special = {name: len(ranks) + n for n, name in enumerate(tiktoken_ranks.LLAMA31_SPECIAL)}
    return tiktoken.Encoding("llama3", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=special)


def words(text, *splits):
    return list(ByteLevelTokenizer((), frozenset(), splits).words(text))


# ---- worked by hand


def test_llama_3_cuts_contractions_runs_of_three_digits_and_spaces_before_words():
    assert words("I'LL pay  12345 now!\n\n Ok", LLAMA3) == [
        "I", "'LL", " pay", " ", " ", "123", "45", " now", "!\n\n", " Ok",
    ]  # fmt: skip


def test_qwen_cuts_every_digit_and_gpt_2_none():
    assert words("a 123", QWEN2) == ["a", " ", "1", "2", "3"]
    assert words("a 123", GPT2) == ["a", " 123"]


def test_patterns_are_applied_one_after_another_and_what_lies_between_their_matches_stays():
    assert words("ab12-3c", r"\p{N}", r"-") == ["ab", "1", "2", "-", "3", "c"]


def test_the_lowest_rank_is_merged_first_and_the_leftmost_of_equals():
    bytes_ = tuple(bytes((byte,)) for byte in range(256))
    three = ByteLevelTokenizer((*bytes_, b"bc", b"ab", b"aa"), frozenset(), (LLAMA3,))
    assert three.encode("abc") == [97, 256]
    assert three.encode("aaa") == [258, 97]


def test_a_word_that_is_a_piece_is_taken_whole_if_that_is_the_rule():
    bytes_ = tuple(bytes((byte,)) for byte in range(256))
    pieces = (*bytes_, b"bc", b"abc")  # no merge makes abc from a + bc where the merges are a list without it
    merges = {(98, 99): (0.0, 256)}
    assert ByteLevelTokenizer(pieces, frozenset(), (LLAMA3,), merges).encode("abc") == [257]
    assert ByteLevelTokenizer(pieces, frozenset(), (LLAMA3,), merges, whole_words=False).encode("abc") == [97, 256]


def test_special_pieces_have_the_published_ids(llama3):
    n = len(PIECES)
    assert tiktoken_ranks.LLAMA3_SPECIAL[:11] == (
        "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
        "<|reserved_special_token_2|>", "<|reserved_special_token_3|>", "<|start_header_id|>", "<|end_header_id|>",
        "<|reserved_special_token_4|>", "<|eot_id|>", "<|reserved_special_token_5|>",
    )  # fmt: skip
    assert tiktoken_ranks.LLAMA3_SPECIAL[-1] == "<|reserved_special_token_250|>"
    assert tiktoken_ranks.LLAMA31_SPECIAL[-1] == "<|reserved_special_token_247|>"
    assert (llama3.bos_id, llama3.id_of("<|eot_id|>"), llama3.vocab_size) == (n, n + 9, n + 256)


def test_the_spelling_of_a_special_piece_stays_text(llama3):
    ids = llama3.encode("<|begin_of_text|>hi<|eot_id|>")
    assert ids[0] == llama3.bos_id
    assert not set(ids[1:]) & llama3.special
    assert llama3.decode(ids) == b"<|begin_of_text|>hi<|eot_id|>"


def test_bytes_are_spelled_as_gpt_2_spells_them():
    assert "".join(byte_level.character_of_byte[byte] for byte in b" a\n\x00\xad") == "ĠaĊĀŃ"


# ---- against tiktoken


@given(text=texts() | texts(NASTY) | st.lists(st.sampled_from(LEARNED_FROM.split(" "))).map(" ".join))
def test_tiktoken_gives_the_same_ids(llama3, oracle, text):
    assert llama3.encode(text, bos=False) == oracle.encode_ordinary(text)


@pytest.mark.parametrize("pattern", [LLAMA3, QWEN2, GPT2])
@given(text=texts() | texts(NASTY))
def test_every_pattern_cuts_as_tiktoken_s_engine_does(pattern, text):
    ranks = {piece: rank for rank, piece in enumerate(DENSE)}
    theirs = tiktoken.Encoding("dense", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    ours = ByteLevelTokenizer(DENSE, frozenset(), (pattern,))
    assert ours.encode(text) == theirs.encode_ordinary(text)


@pytest.mark.parametrize(
    "text",
    ["a" * 60_000, " " * 60_000, ("b" * 24_999 + "  ") * 3, "x " * 210_000],
    ids=["a", "space", "words", "long"],
)
def test_long_texts_are_cut_as_the_published_encoder_cuts_them(llama3, oracle, text):
    # Llama 3's own rule: 400,000 characters, and 25,000 of only white space or of none.
    parts = []
    for start in range(0, len(text), 400_000):
        part = text[start : start + 400_000]
        begin = run = 0
        for at in range(1, len(part) + 1):
            run = run + 1 if at > 1 and part[at - 1].isspace() == part[at - 2].isspace() else 1
            if run > 25_000:
                parts.append(part[begin : at - 1])
                begin, run = at - 1, 1
        parts.append(part[begin:])
    assert llama3.encode(text, bos=False) == [id_ for part in parts for id_ in oracle.encode_ordinary(part)]


# ---- properties


@given(text=texts())
def test_decoding_gives_the_text_back(llama3, text):
    assert llama3.decode(llama3.encode(text)) == text.encode()


@given(text=texts(NASTY))
def test_merges_as_a_list_give_the_same_ids_as_ranks(llama3, text):
    listed = {pair: (-n, llama3.join(*pair)[1]) for n, pair in enumerate(llama3.listed_merges())}
    assert len(listed) == len(PIECES) - 256
    other = ByteLevelTokenizer(llama3.pieces, llama3.special, llama3.splits, listed, llama3.bos_id, llama3.eos_id)
    assert other.encode(text) == llama3.encode(text)


def test_ranks_are_written_as_they_were(llama3, tmp_path):
    tiktoken_ranks.write(llama3, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == rank_file(tmp_path / "first", PIECES).read_bytes()


# ---- hostile


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"IQ== 0\n", "twice"),
        (b"????? 300\n", "not a line"),
        (b"IQ= 300\n", "not a line"),
        (b"YWFh\n", "not a line"),
        (b"YWFh -1\n", "not a line"),
        (b"YWFh 9999999999\n", "not a line"),
        (b"YWFhYQ== 999999999\n", "one run"),
        (b"\xff\xfe 5\n", "not a line"),
    ],
)
def test_damaged_lines_are_refused(tmp_path, line, words):
    path = rank_file(tmp_path / "ranks", PIECES[:256])
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(TokenizerError, match=words):
        tiktoken_ranks.read(path)


def test_a_missing_byte_is_refused(tmp_path):
    path = rank_file(tmp_path / "ranks", [*PIECES[:255], b"ab"])
    with pytest.raises(TokenizerError, match="0xFF"):
        tiktoken_ranks.read(path)


@pytest.mark.parametrize("text", ["\ud800", b"\xff"])
def test_what_is_no_unicode_is_refused(llama3, text):
    with pytest.raises(TokenizerError, match="Unicode"):
        llama3.encode(text)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(TokenizerError, match="pattern"):
        words("a", "(")
