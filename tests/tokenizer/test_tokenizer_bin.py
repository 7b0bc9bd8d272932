"""harness.tokenizer.tokenizer_bin: five layouts told apart by their bytes."""

from __future__ import annotations

import os
import struct
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import tokenizer as tokenizer_files
from harness.errors import TokenizerError
from harness.tokenizer import Tokenizer, count_pieces, read, tokenizer_bin, write
from harness.tokenizer.tokenizer_bin import LAYOUTS
from tests.derived_models import published
from tests.strategies import BYTE_PIECES, SPECIALS, tokenizers

on_files = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])

TINY = Tokenizer((b"<unk>", b"\n<s>\n", b"\n</s>\n", b" ", b"a", b" a"), np.array([0, 0, 0, -3, -2, -1], np.float32))
WITH_BYTES = Tokenizer(
    (*SPECIALS, *BYTE_PIECES, b" ", b"a", b" a"), np.array([0] * 259 + [-259, -260, -261], np.float32)
)


def assert_same(actual: Tokenizer, expected: Tokenizer) -> None:
    assert actual.pieces == expected.pieces
    assert actual.scores.tobytes() == expected.scores.tobytes()
    assert (actual.bos_id, actual.eos_id) == (expected.bos_id, expected.eos_id)


def refused(path: Path, vocab_size: int | None = None) -> TokenizerError:
    with pytest.raises(TokenizerError) as caught:
        read(path, vocab_size)
    assert caught.value.path == str(path)
    return caught.value


# --- examples ---


@pytest.mark.parametrize(
    ("name", "n_pieces", "longest", "space", "lowest"),
    [("tok512.bin", 512, 7, 410, -252), ("tokenizer.bin", 32000, 27, 29871, -1e9)],
)
def test_published_files_are_read_and_rewritten_byte_for_byte(
    tmp_path: Path, name: str, n_pieces: int, longest: int, space: int, lowest: float
) -> None:
    path = published(name)
    tokenizer = read(path)
    assert (tokenizer.vocab_size, tokenizer.max_token_length, tokenizer.layout) == (n_pieces, longest, "today")
    assert tokenizer.pieces[:3] == SPECIALS
    assert tokenizer.pieces[3:259] == BYTE_PIECES
    assert tokenizer.pieces.index(b" ") == space
    assert tokenizer.scores.min() == lowest
    assert not tokenizer.scores.flags.writeable
    assert count_pieces(path) == n_pieces
    write(tokenizer, tmp_path / "t.bin")
    assert (tmp_path / "t.bin").read_bytes() == path.read_bytes()


def test_surplus_pieces_are_ignored() -> None:
    path = published("tokenizer.bin")
    first = read(path, 512)
    assert first.pieces == read(path).pieces[:512]
    assert first.scores.tobytes() == read(path).scores[:512].tobytes()


def test_each_layout_by_hand(tmp_path: Path) -> None:
    def content(layout: str, *, n_pieces: int = 262) -> bytes:
        out = b""
        for id_ in range(n_pieces):
            piece = WITH_BYTES.pieces[id_]
            if 3 <= id_ < 259 and layout == "raw-bytes":
                piece = bytes([id_ - 3])
            if 3 <= id_ < 259 and layout in ("raw-utf8", "no-scores"):
                piece = chr(id_ - 3).encode()
            if layout != "no-scores":
                out += struct.pack("<f", 0 if id_ < 259 else -id_)
            out += struct.pack("<i", len(piece)) + piece
        return out if layout in ("no-max", "no-scores") else struct.pack("<I", 6) + out

    for layout in LAYOUTS:
        path = tmp_path / layout
        path.write_bytes(content(layout))
        tokenizer = read(path)
        assert tokenizer.layout == layout
        assert_same(tokenizer, WITH_BYTES)
        write(tokenizer, tmp_path / "again", layout)
        assert (tmp_path / "again").read_bytes() == path.read_bytes()
        assert tokenizer.decode([1, 260, 3 + 0xC3, 3 + 0xA9]) == "aé".encode()
        assert count_pieces(path) == 262


def test_without_scores_the_lower_id_merges_first(tmp_path: Path) -> None:
    pieces = (*SPECIALS, *BYTE_PIECES, b" ", b"a", b"b", b"c", b"bc", b"ab")
    scores = np.array([0] * 263 + [-5, -4], np.float32)
    write(Tokenizer(pieces, scores), tmp_path / "t.bin", "no-scores")
    again = read(tmp_path / "t.bin")
    assert Tokenizer(pieces, scores).encode("abc") == [1, 259, 264, 262]
    assert again.encode("abc") == [1, 259, 260, 263]
    assert again.scores[258:].tolist() == [0, -259, -260, -261, -262, -263, -264]


def test_a_small_vocabulary_without_byte_pieces_is_read_as_it_is(tmp_path: Path) -> None:
    for layout in ("today", "no-max"):
        write(TINY, tmp_path / "t.bin", layout)
        assert_same(read(tmp_path / "t.bin"), TINY)
        assert read(tmp_path / "t.bin").layout == layout


def test_a_stated_length_above_the_longest_piece_is_accepted_and_corrected(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    write(TINY, path)
    content = path.read_bytes()
    path.write_bytes(struct.pack("<I", 99) + content[4:])
    tokenizer = read(path)
    assert tokenizer.max_token_length == 6
    write(tokenizer, path)
    assert path.read_bytes() == content


# --- properties ---


@given(tokenizer=tokenizers(), layout=st.sampled_from([one for one in LAYOUTS if one != "no-scores"]))
@on_files
def test_a_written_tokenizer_is_read_back(tokenizer: Tokenizer, layout: str, tmp_path: Path) -> None:
    write(tokenizer, tmp_path / "t.bin", layout)
    again = read(tmp_path / "t.bin", tokenizer.vocab_size)
    assert again.layout == layout
    assert_same(again, tokenizer)


@given(tokenizer=tokenizers())
@on_files
def test_without_scores_the_pieces_are_read_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write(tokenizer, tmp_path / "t.bin", "no-scores")
    assert read(tmp_path / "t.bin").pieces == tokenizer.pieces


# --- hostile input ---


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_truncation_is_refused_unless_it_falls_between_two_pieces(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "t.bin"
    write(TINY, path, layout)
    content = path.read_bytes()
    whole = [4 if layout not in ("no-max", "no-scores") else 0]
    for piece in TINY.pieces:
        whole.append(whole[-1] + len(piece) + (4 if layout == "no-scores" else 8))
    for length in range(len(content)):
        path.write_bytes(content[:length])
        if length in whole[3:]:
            # A file does not know its size; only the model's vocab_size tells.
            assert read(path).pieces == TINY.pieces[: whole.index(length)]
            error = refused(path, TINY.vocab_size)
            assert (error.expected, error.actual) == ("at least 6", f"{whole.index(length)}")
        else:
            refused(path)


def test_bytes_after_the_last_piece_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    write(TINY, path)
    path.write_bytes(path.read_bytes() + b"\0")
    assert "piece 6 at byte" in str(refused(path))


@pytest.mark.parametrize(
    ("offset", "value", "fault"),
    [
        (8, 0, "today: piece 0 at byte 4 has length 0"),
        (8, -1, "today: piece 0 at byte 4 has length -1"),
        (8, 4097, "today: piece 0 at byte 4 has length 4,097"),
        (8, 2**31 - 1, "today: piece 0 at byte 4 has length 2,147,483,647"),
        (8, 4096, "today: piece 0 lacks"),
        (0, 5, "today: its header says that pieces have at most 5 bytes, one has 6"),
    ],
)
def test_lengths_that_lie_are_refused_without_allocating(tmp_path: Path, offset: int, value: int, fault: str) -> None:
    path = tmp_path / "t.bin"
    write(TINY, path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<i", content, offset, value)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        actual = str(refused(path).actual)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert fault in actual
    assert "no-max: " in actual
    assert "no-scores: " in actual


def test_a_file_that_fits_two_layouts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    # As today: longest 12, then three pieces of score bits 0, 8, 8 and length 4. Without scores: a piece of 12 bytes,
    # which is all of the first, and two of 8 bytes, which are the length and bytes of the others.
    path.write_bytes(struct.pack("<I", 12) + b"".join(struct.pack("<ii", bits, 4) + b"abcd" for bits in (0, 8, 8)))
    assert refused(path).what == "ambiguous: the file can be read as today and as no-scores"


def test_a_score_that_is_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    write(TINY, path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 4, np.nan)
    path.write_bytes(content)
    error = refused(path)
    assert (error.what, error.where) == ("the score of piece 0 is NaN", "byte 4")


@pytest.mark.parametrize("vocab_size", [0, -1])
def test_a_vocab_size_below_1_is_refused(tmp_path: Path, vocab_size: int) -> None:
    write(TINY, tmp_path / "t.bin")
    assert refused(tmp_path / "t.bin", vocab_size).expected == "a positive vocab_size"


@pytest.mark.parametrize(
    "content", [b"", b"\x06\0\0\0", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02" * 9, bytes(64), b"text " * 40]
)
def test_files_of_other_programs_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(content)
    refused(path)
    with pytest.raises(TokenizerError):
        count_pieces(path)


def test_every_flipped_bit_gives_a_tokenizer_or_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    write(TINY, path)
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        edited = bytearray(content)
        edited[bit // 8] ^= 1 << bit % 8
        path.write_bytes(edited)
        with suppress(TokenizerError):
            read(path).encode("a a", bos=True)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    with open(path, "wb") as file:
        file.truncate((64 << 20) + 1)
    tracemalloc.start()
    try:
        assert refused(path).what == "too large for a tokenizer"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_too_many_pieces_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(TINY, tmp_path / "t.bin")
    monkeypatch.setattr(tokenizer_bin, "_MAX_PIECES", 5)
    assert "more than 5 pieces" in str(refused(tmp_path / "t.bin").actual)
    with pytest.raises(TokenizerError, match="vocabulary size out of range"):
        write(TINY, tmp_path / "u.bin")


def test_paths_that_are_no_readable_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe", Path("/dev/null")):
        refused(path)
    with pytest.raises(TokenizerError, match="NUL"):
        read("a\0b")


@pytest.mark.parametrize(
    ("tokenizer", "layout", "message"),
    [
        (TINY, "tomorrow", "no such layout"),
        (replace(TINY, pieces=(*TINY.pieces[:5], b"")), "today", "piece 5 cannot be stored"),
        (replace(TINY, pieces=(*TINY.pieces[:5], b"a" * 4097)), "today", "piece 5 cannot be stored"),
        (replace(TINY, scores=np.full(6, np.nan, np.float32)), "today", "score of piece 0 is NaN"),
        (Tokenizer((), np.zeros(0, np.float32)), "today", "vocabulary size out of range"),
    ],
)
def test_what_no_file_can_hold_is_not_written(
    tmp_path: Path, tokenizer: Tokenizer, layout: str, message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        write(tokenizer, tmp_path / "t.bin", layout)
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "absent" / "t.bin", tmp_path):
        with pytest.raises(TokenizerError, match="cannot be written"):
            write(TINY, path)
    assert os.listdir(tmp_path) == []


def test_the_public_names_are_a_list() -> None:
    assert set(tokenizer_files.__all__) == {
        "HONEST",
        "KNOWN_WRONG",
        "AnyTokenizer",
        "ByteLevelTokenizer",
        "EncodeRules",
        "Tokenizer",
        "count_pieces",
        "read",
        "read_any",
        "write",
        "write_any",
    }
