"""The codec of the line protocol: what it writes it reads, and nothing but replies is a reply."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.adapters.lines import (
    Malformed,
    hexed,
    number,
    parse,
    read_floats,
    read_hex,
    read_ids,
    read_int,
    request,
    same_float,
    shown,
)

words = st.from_regex(r"[!-~]+", fullmatch=True).map(str.encode)


# ---- by hand


def test_a_request_is_number_verb_and_words():
    assert request(1, "info") == b"1 info\n"
    assert request(12, "encode", [1, 0, hexed(b"Once")]) == b"12 encode 1 0 4f6e6365\n"
    assert request(3, "generate", [8, 0.0, 0.9, -1, 1, 403]) == b"3 generate 8 0 0.9 -1 1 403\n"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"7 ok", (7, "ok", ())),
        (b"7 ok 1 0 2 1 432", (7, "ok", (b"1", b"0", b"2", b"1", b"432"))),
        (b"7 unsupported", (7, "unsupported", ())),
        (b"7 error no such file", (7, "error", (b"no such file",))),
        (b"007 ok", (7, "ok", ())),
    ],
)
def test_a_reply_is_taken_apart(line, found):
    reply = parse(line)
    assert (reply.number, reply.status, reply.words) == found


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"", "one space"),
        (b"7", "number and a status"),
        (b" 7 ok", "one space"),
        (b"7 ok ", "one space"),
        (b"7  ok", "one space"),
        (b"7 OK", "ok, unsupported or error"),
        (b"-7 ok", "number and a status"),
        (b"x ok", "number and a status"),
        (b"7 ok\r", "CR LF"),
        (b"7 ok\t1", "0x09"),
        (b"\xff 7 ok", "0xFF"),
        (b"7 unsupported yet", "nothing after"),
        (b"7 error", "a text after"),
        (b"9" * 5000 + b" ok", "number and a status"),
    ],
)
def test_a_line_that_is_no_reply_is_refused(line, says):
    with pytest.raises(Malformed, match=says):
        parse(line)


@pytest.mark.parametrize(("value", "word"), [(0.9, b"0.899999976"), (0.9, b"0.9"), (1e-8, b"9.99999994e-09")])
def test_the_same_float32_may_be_written_in_several_ways(value, word):
    assert same_float(word, value)


@pytest.mark.parametrize("word", [b"0.90000004", b"1", b"-0.9", b"inf"])
def test_another_float32_is_another_number(word):
    assert not same_float(word, 0.9)


@pytest.mark.parametrize("word", [b"", b"0x1p-3", b"0,9", b"1_0", b"infinity", b".", b"1e", b"--1", b"\xd9\xa3"])
def test_what_is_no_number_is_refused(word):
    with pytest.raises(Malformed):
        same_float(word, 0.9)


@pytest.mark.parametrize("word", [b"", b"1.0", b"+1", b"1_0", b"9" * 30, b"0x10"])
def test_what_is_no_integer_is_refused(word):
    with pytest.raises(Malformed):
        read_int(word, "it")


@pytest.mark.parametrize(
    ("given_words", "fault"),
    [
        ([b"2", b"5"], "count"),
        ([b"0", b"5"], "count"),
        ([b"1", b"-5"], "malformed"),
        ([b"1", b"300"], "malformed"),
        ([b"1", b"9" * 400], "malformed"),
        ([b"x"], "malformed"),
        ([], "malformed"),
    ],
)
def test_ids_that_are_none_or_not_as_many_are_refused(given_words, fault):
    with pytest.raises(Malformed) as caught:
        read_ids(given_words, vocab_size=300)
    assert caught.value.fault == fault


def test_a_float_is_its_four_bytes_the_lowest_first():
    assert read_floats(b"0000803F000000c0", (1, 2)).tolist() == [[1.0, -2.0]]


@pytest.mark.parametrize(("word", "fault"), [(b"0000803", "count"), (b"-", "count"), (b"0000803g", "malformed")])
def test_floats_that_are_none_are_refused(word, fault):
    with pytest.raises(Malformed) as caught:
        read_floats(word, (1, 1))
    assert caught.value.fault == fault


# ---- properties


@given(st.binary(max_size=200))
def test_any_text_comes_back(text):
    word = hexed(text)
    assert read_hex(word) == text
    assert read_hex(word.upper()) == text
    assert parse(b"1 ok " + word).words == (word,)


@given(st.integers(0, 10**18 - 1), st.lists(words))
def test_any_words_come_back(n, given_words):
    line = b" ".join([b"%d" % n, b"ok", *given_words])
    assert parse(line) == parse(line)
    assert parse(line).words == tuple(given_words)


@given(st.lists(st.integers(0, 2**31 - 1), max_size=30))
def test_any_ids_come_back(ids):
    assert read_ids([b"%d" % value for value in [len(ids), *ids]]) == ids


@given(st.floats(width=32, allow_nan=False))
def test_any_float32_comes_back_from_its_shortest_and_from_nine_digits(value):
    assert same_float(number(value), value)
    assert same_float(b"%.9g" % value, value)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_any_row_of_logits_comes_back_bit_for_bit(values):
    row = np.array([values], "<f4")
    back = read_floats(row.tobytes().hex().encode(), (1, len(values)))
    assert back.tobytes() == row.tobytes()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_reply_or_refused(line):
    try:
        reply = parse(line)
    except Malformed:
        return
    assert b" ".join([line.split(b" ")[0], reply.status.encode(), *reply.words]) == line


@given(st.binary(max_size=300))
def test_any_bytes_can_be_shown_in_one_line(raw):
    assert shown(raw).isprintable()
    assert "\n" not in shown(raw)


@given(st.floats(width=32), st.floats(width=32))
def test_two_numbers_are_the_same_only_if_they_are_equal(a, b):
    if not math.isnan(a) and not math.isnan(b):
        assert same_float(number(a), b) == (np.float32(a) == np.float32(b))
