from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judging.printing import LLAMA2C, Printing, byte_level_printings, printings
from tests.judging.toy import BOS, BYTES, PIECES
from tests.strategies import tokenizers

ALL = printings(PIECES, BYTES)
BY_NAME = {printing.name: printing for printing in ALL}
NEWLINE, C3, A9, BELL, SPACE_A, A = 3, 4, 5, 6, 11, 8


# ---- Examples worked by hand


def test_llama2c_comes_first_and_every_convention_has_a_name_of_its_own():
    assert ALL[0].name == LLAMA2C
    assert len(BY_NAME) == len(ALL) == 14


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (LLAMA2C, [b"a", b"\n", b"", b"", b"", b" a"]),
        ("the space after BOS is printed", [b" a", b"\n", b"", b"", b"", b" a"]),
        (
            "bytes that are no printable ASCII are written as they are",
            [b"a", b"\n", b"\xc3", b"\xa9", b"\x07", b" a"],
        ),
        ("byte pieces are spelt out, as <0x0A>", [b"a", b"<0x0A>", b"<0xC3>", b"<0xA9>", b"<0x07>", b" a"]),
        ("bytes are written as Latin-1 characters", [b"a", b"\n", "Ã".encode(), "©".encode(), b"\x07", b" a"]),
        ("non-ASCII bytes become U+FFFD", [b"a", b"\n", "\ufffd".encode(), "\ufffd".encode(), b"\x07", b" a"]),
        ("byte pieces are dropped", [b"a", b"", b"", b"", b"", b" a"]),
        ("byte pieces print as a space", [b"a", b" ", b" ", b" ", b" ", b" a"]),
    ],
)
def test_a_convention_prints(name, shown):
    assert BY_NAME[name].render([BOS, SPACE_A, NEWLINE, C3, A9, BELL, SPACE_A]) == shown


def test_a_bos_at_the_end_prints_nothing_and_a_lone_bos_is_no_text():
    assert ALL[0].render([BOS, A, BOS]) == [b"a", b""]
    assert ALL[0].render([BOS]) == []


def test_candidates_are_the_pieces_that_begin_the_text_and_those_that_print_nothing():
    widthless = [C3, A9, BELL]
    assert ALL[0].candidates(A, b"abac") == [*widthless, 8, 15, 10, 13]
    assert ALL[0].candidates(A, b"ab") == [*widthless, 8, 15, 10]
    assert ALL[0].candidates(A, b"zzz") == widthless


def test_after_bos_a_piece_with_a_space_may_print_without_it():
    # " " alone prints nothing there; " a" prints like "a", " ab" like "ab"
    assert set(ALL[0].candidates(BOS, b"ab")) == {C3, A9, BELL, 7, 8, 15, 11, 10, 12}


# ---- Properties


@given(tokenizers(), st.data())
def test_llama2cs_convention_is_what_the_tokenizer_prints(tokenizer, data):
    byte_of = [tokenizer.is_byte_piece(i) for i in range(tokenizer.vocab_size)]
    printing = printings(tokenizer.pieces, byte_of)[0]
    ids = [BOS, *data.draw(st.lists(st.integers(2, tokenizer.vocab_size - 1), max_size=20))]
    assert b"".join(printing.render(ids)) == tokenizer.print_text(ids)


@given(st.sampled_from(ALL), st.lists(st.sampled_from([0, *range(2, len(PIECES))]), min_size=1, max_size=12))
def test_the_token_that_printed_a_text_is_among_its_candidates(printing: Printing, ids):
    ids = [BOS, *ids]
    text = b"".join(printing.render(ids))
    for before, token in pairwise(ids):
        assert token in printing.candidates(before, text)
        text = text[len(printing.of(before, token)) :]


@given(st.sampled_from(ALL), st.sampled_from([BOS, A]), st.text("ab \n<0xCA9>é", max_size=8).map(str.encode))
def test_no_candidate_prints_anything_else(printing: Printing, before, text):
    found = printing.candidates(before, text)
    assert len(found) == len(set(found))
    assert set(found) == {i for i in range(len(PIECES)) if text.startswith(printing.of(before, i))}


def test_a_byte_level_vocabulary_prints_its_bytes_and_its_stop_ids_nothing() -> None:
    pieces = (b"\xc3", b"\xa9", b" a", b"<|x|>", b"<|end|>")
    plain, silent = byte_level_printings(pieces, {3, 4}, bos_id=3, ends=frozenset({4}))
    assert plain.render([3, 0, 1, 2, 3, 4]) == [b"\xc3", b"\xa9", b" a", b"<|x|>", b""]
    assert silent.render([3, 0, 1, 2, 3, 4]) == [b"\xc3", b"\xa9", b" a", b"", b""]
    assert plain.render([3, 2, 3]) == [b" a", b"<|x|>"]  # BOS ends nothing here
    assert plain.candidates(3, b" ab") == [2]  # and takes no space away
    assert plain.name == LLAMA2C
