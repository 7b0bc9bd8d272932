"""harness.tokenizer.tokenizer: from ids to bytes, and to what a terminal shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from harness.errors import TokenizerError
from harness.tokenizer import Tokenizer, read
from tests.derived_models import published
from tests.strategies import BYTE_PIECES, SPECIALS, texts, tokenizers

BOS, EOS = 1, 2
ANY = 300  # a predecessor that is not BOS


def make(*pieces: bytes) -> Tokenizer:
    return Tokenizer((*SPECIALS, *BYTE_PIECES, *pieces), np.zeros(259 + len(pieces), np.float32))


@pytest.mark.parametrize(
    ("token", "text", "after_bos"),
    [
        (3, b"", b""),
        (13, b"\n", b"\n"),
        (35, b" ", b" "),  # a byte piece's text starts with "<", so BOS takes no space off
        (259, b" t", b"t"),
        (410, b" ", b""),
        (1, b"\n<s>\n", b"\n<s>\n"),
        (2, b"\n</s>\n", b"\n</s>\n"),
        (0, b"<unk>", b"<unk>"),
        (403, b" Once", b"Once"),
    ],
)
def test_published_decodings(token: int, text: bytes, after_bos: bytes) -> None:
    tok512 = read(published("tok512.bin"))
    assert tok512.decode_piece(ANY, token) == text
    assert tok512.decode_piece(BOS, token) == after_bos


def test_the_echo_of_a_prompt_drops_the_bytes_of_split_characters() -> None:
    tok512 = read(published("tok512.bin"))
    encoded = tok512.encode("Zoë saw a 🦙")
    assert tok512.print_text(encoded) == b"Zo saw a "
    assert tok512.decode(encoded) == "Zoë saw a 🦙".encode()


@pytest.mark.parametrize(
    ("piece", "byte"),
    [
        (b"<0x41>", 0x41),
        (b"<0xfF>", 0xFF),
        (b"<0x4", 4),
        (b"<0x4g", 4),
        (b"<0x412>", 0x41),
        (b"<0x", None),
        (b"<0xg0>", None),
        (b"x<0x41>", None),
        (b"<0X41>", None),
    ],
)
def test_byte_pieces_are_recognised_without_their_closing_bracket(piece: bytes, byte: int | None) -> None:
    tokenizer = make(piece)
    assert tokenizer.is_byte_piece(259) == byte
    assert tokenizer.decode_piece(ANY, 259) == (piece if byte is None else bytes([byte]))


def test_one_space_only_goes_after_bos_and_before_the_bytes_are_recognised() -> None:
    tokenizer = make(b"  a", b" <0x41>", b" ")
    assert tokenizer.decode_piece(BOS, 259) == b" a"
    assert tokenizer.decode_piece(BOS, 260) == b"A"
    assert tokenizer.decode_piece(ANY, 260) == b" <0x41>"
    assert tokenizer.decode_piece(BOS, 261) == b""


def test_a_piece_ends_at_a_nul() -> None:
    assert make(b"ab\0cd").decode_piece(ANY, 259) == b"ab"


def test_single_bytes_are_printed_only_if_ascii_can_show_them() -> None:
    tokenizer = make()
    shown = bytes(byte for byte in range(256) if tokenizer.printed(ANY, 3 + byte))
    assert shown == b"\t\n\v\f\r" + bytes(range(0x20, 0x7F))


def test_longer_pieces_are_printed_whatever_they_hold() -> None:
    tokenizer = make("é".encode(), b"\x80\x80", b"\x80", b" \x80")
    assert tokenizer.printed(ANY, 259) == "é".encode()
    assert tokenizer.printed(ANY, 260) == b"\x80\x80"
    assert tokenizer.printed(ANY, 261) == b""
    assert tokenizer.printed(BOS, 262) == b""


def test_a_sequence_with_bos_loses_one_space_and_one_without_none() -> None:
    tokenizer = make(b" a", b" ")
    assert tokenizer.decode([BOS, 259, 259]) == b"a a"
    assert tokenizer.decode([259, 259]) == b" a a"
    assert tokenizer.decode([BOS]) == tokenizer.decode([]) == b""
    assert tokenizer.decode(np.array([BOS, 259])) == b"a"  # type: ignore[arg-type]


def test_what_is_printed_starts_after_the_first_id_and_ends_before_bos() -> None:
    tokenizer = make(b" a")
    assert tokenizer.print_text([BOS, 259, EOS, 259, BOS, 259]) == b"a\n</s>\n a"
    assert tokenizer.print_text([259, 259]) == b" a"
    assert tokenizer.print_text([BOS]) == tokenizer.print_text([]) == b""


def test_sizes() -> None:
    assert (make(b"abcdefgh").vocab_size, make(b"abcdefgh").max_token_length) == (260, 8)


# --- properties ---


@given(tokenizers(), texts())
@settings(deadline=None)
def test_printing_drops_bytes_and_adds_none(tokenizer: Tokenizer, text: str) -> None:
    printed = tokenizer.print_text(tokenizer.encode(text))
    rest = iter(text.encode())
    assert all(byte in rest for byte in printed)


# --- hostile input ---


@pytest.mark.parametrize("token", [-1, 259, 2**40])
def test_ids_outside_the_vocabulary_are_refused(token: int) -> None:
    tokenizer = make()
    for call in (
        lambda: tokenizer.decode_piece(BOS, token),
        lambda: tokenizer.printed(ANY, token),
        lambda: tokenizer.is_byte_piece(token),
        lambda: tokenizer.decode([BOS, token]),
    ):
        with pytest.raises(TokenizerError) as caught:
            call()
        assert (caught.value.expected, caught.value.actual) == ("0 to 258", token)


def test_pieces_and_scores_must_belong_together() -> None:
    with pytest.raises(ValueError, match="2 pieces but scores of shape"):
        Tokenizer((b"a", b"b"), np.zeros(3, np.float32))
