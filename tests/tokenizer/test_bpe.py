"""harness.tokenizer.bpe: the honest rule, against a naive one and SentencePiece, and the known wrong ones."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import TokenizerError
from harness.tokenizer import HONEST, KNOWN_WRONG, EncodeRules, Tokenizer, bpe, read
from tests.derived_models import published
from tests.impls.llama2c_goldens import ENCODINGS
from tests.strategies import BYTE_PIECES, SPECIALS, texts, tokenizers

WRONG = {name: rules for name, _, rules in KNOWN_WRONG}

# Text, ids with tok512.bin, ids with tokenizer.bin, where both were measured on llama2.c; BOS on, EOS off.
VECTORS = [(text, tok512, tok32000) for text, tok512, tok32000 in ENCODINGS if tok512 and tok32000]

# Those measured with tokenizer.bin alone, upstream's own five cases among them, and those of a port in Zig.
MORE_32000 = [(text, tok32000) for text, tok512, tok32000 in ENCODINGS if tok32000 and not tok512] + [
    ("Lets try ö & 株式会社", "1 365 1691 1018 3963 669 29871 31409 30607 30437 30564"),
    ("𒎗𓐍", "1 29871 243 149 145 154 243 150 147 144"),
]
MORE_512 = [
    ("abcdefgh", "1 261 430 429 418 411 431 428 415"),
    ("It is easy", "1 359 413 410 293 344 412 419 422"),
    ("你好", "1 410 231 192 163 232 168 192"),
]

# File, text, the rule broken, and what comes out then.
DISCRIMINATING = [
    ("tok512.bin", "here", "leftmost-first", "1 311 411"),
    ("tok512.bin", "little", "leftmost-first", "1 397 413 413 305"),
    ("tok512.bin", "oooo", "ties-right", "1 334 414 347"),
    ("tok512.bin", "lllly", "ties-right", "1 278 421 306 422"),
    ("tok512.bin", "“Hi”", "byte-lookup", "1 410 229 131 159 440 417 229 131 160"),
    ("tok512.bin", "café", "byte-lookup", "1 280 412 431 198 172"),
    ("tok512.bin", "the", "no-dummy-prefix", "1 413 260"),
    ("tok512.bin", "and", "lowest-score", "1 410 303 418"),
    ("tokenizer.bin", "aaaa", "ties-right", "1 29099 7340"),
    ("tokenizer.bin", "aaaa", "leftmost-first", "1 29099 7340"),
    ("tokenizer.bin", "oooo", "ties-right", "1 288 29877 3634"),
    ("tokenizer.bin", "   ", "floor-1e9", "1 29871 29871 29871 29871"),
    ("tokenizer.bin", "a   b", "floor-1e9", "1 263 29871 29871 289"),
    ("tokenizer.bin", "café", "byte-lookup", "1 274 2142 198 172"),
    ("tokenizer.bin", "dog", "no-dummy-prefix", "1 26169"),
]

# A vocabulary by hand: the bytes, then id 259 upwards. "ab" and "bc" have equal scores.
TOY = Tokenizer(
    (*SPECIALS, *BYTE_PIECES, b" ", b"a", b"b", b"c", b"ab", b"bc", b"abc", "é".encode()),
    np.array([0] * 263 + [-2, -2, -1, 0], np.float32),
)
SPACE, A, B, C, AB, BC, ABC, E_ACUTE = range(259, 267)
# For a plain text, what a rule gives instead of 1 259 260 ...; worked by hand.
TOY_WRONG: list[tuple[str, str, list[int]]] = [
    ("no-bos", "ab", [SPACE, AB]),
    ("eos-appended", "ab", [1, SPACE, AB, 2]),
    ("no-dummy-prefix", "ab", [1, AB]),
    ("dummy-prefix-on-empty", "", [1, SPACE]),
    ("dummy-prefix-unless-space", " a", [1, SPACE, A]),
    ("trimmed", "  a  b ", [1, SPACE, A, SPACE, SPACE, B]),
    ("squeezed", "  a  b ", [1, SPACE, A, SPACE, B]),
    ("meta-space", "a\u2581b", [1, SPACE, A, SPACE, B]),
    ("specials-parsed", "<s>a</s><unk>", [1, SPACE, 1, A, 2, 0]),
    ("byte-lookup", "é", [1, SPACE, 3 + 0xC3, 3 + 0xA9]),
    ("raw-byte-pieces", "éabb", [1, 3 + 0x20, E_ACUTE, AB, 3 + ord("b")]),
    ("no-byte-offset", "d", [1, SPACE, ord("d")]),
    ("unk-for-unknown", "aë", [1, SPACE, A, 0]),
    ("unknown-dropped", "aëa", [1, SPACE, A, A]),
    ("no-merges", "abc", [1, SPACE, A, B, C]),
    ("one-merge", "abab", [1, SPACE, AB, A, B]),
    ("leftmost-first", "bcab", [1, SPACE, BC, AB]),
    ("ties-right", "aabcbc", [1, SPACE, A, ABC, BC]),
    ("lowest-score", "abc", [1, SPACE, ABC]),
    ("longest-match", "aabcë", [1, SPACE, A, ABC, 3 + 0xC3, 3 + 0xAB]),
    ("floor-1e9", "abc", [1, SPACE, ABC]),
    ("floor-100", "abc", [1, SPACE, ABC]),
    ("floor-0", "abc", [1, SPACE, A, B, C]),
]


def ids(listed: str) -> list[int]:
    return [int(id_) for id_ in listed.split()]


def naive(text: bytes, tokenizer: Tokenizer, rules: EncodeRules = HONEST) -> list[int]:
    """The rule as it is told, in quadratic time: scan every pair, merge the best, start again."""
    lookup: dict[bytes, int] = {}
    for id_, piece in enumerate(tokenizer.pieces):
        lookup.setdefault(piece, id_)
    out = [tokenizer.bos_id]
    if text:
        out.append(lookup[b" "])
    held = b""
    for index in range(len(text)):
        byte = text[index]
        if byte & 0xC0 != 0x80:
            held = b""
        held += bytes([byte])
        follows = index + 1 < len(text) and text[index + 1] & 0xC0 == 0x80
        if follows and len(held) < 4:
            continue
        out += [lookup[held]] if held in lookup else [one + 3 for one in held]
        held = b""
    while True:
        best_score, best = (np.inf if rules.merge == "lowest" else rules.floor), None
        for index in range(len(out) - 1):
            merged = lookup.get(tokenizer.pieces[out[index]] + tokenizer.pieces[out[index + 1]])
            if merged is None:
                continue
            score = float(tokenizer.scores[merged])
            if (
                (rules.merge == "best-left" and score > best_score)
                or (rules.merge == "best-right" and score > rules.floor and score >= best_score)
                or (rules.merge == "first" and best is None)
                or (rules.merge == "lowest" and score < best_score)
            ):
                best_score, best = score, (index, merged)
        if best is None:
            return out
        out[best[0] : best[0] + 2] = [best[1]]


# --- examples ---


@pytest.mark.parametrize(("text", "tok512", "tok32000"), VECTORS)
def test_published_vectors(text: str | bytes, tok512: str, tok32000: str) -> None:
    assert load("tok512.bin").encode(text) == ids(tok512)
    assert load("tokenizer.bin").encode(text) == ids(tok32000)


@pytest.mark.parametrize(
    ("name", "text", "listed"),
    [("tokenizer.bin", *row) for row in MORE_32000] + [("tok512.bin", *row) for row in MORE_512],
)
def test_vectors_of_upstream_and_of_a_port(name: str, text: str, listed: str) -> None:
    assert load(name).encode(text) == ids(listed)
    assert load(name).encode(text, bos=False, eos=True) == [*ids(listed)[1:], 2]


@pytest.mark.parametrize(("name", "text", "bug", "listed"), DISCRIMINATING)
def test_a_known_bug_gives_its_known_ids(name: str, text: str, bug: str, listed: str) -> None:
    assert load(name).encode(text, rules=WRONG[bug]) == ids(listed)
    assert load(name).encode(text) != ids(listed)


@pytest.mark.parametrize(("bug", "text", "expected"), TOY_WRONG)
def test_each_wrong_rule_by_hand(bug: str, text: str, expected: list[int]) -> None:
    assert TOY.encode(text, rules=WRONG[bug]) == expected


def test_every_wrong_rule_has_a_case_by_hand_a_description_and_a_name_of_its_own() -> None:
    assert [name for name, _, _ in KNOWN_WRONG] == [bug for bug, _, _ in TOY_WRONG]
    assert len(WRONG) == len({rules for _, _, rules in KNOWN_WRONG}) == len(KNOWN_WRONG)
    assert HONEST not in WRONG.values()
    assert all(description for _, description, _ in KNOWN_WRONG)


@pytest.mark.parametrize("bug", WRONG)
def test_every_wrong_rule_is_told_from_the_honest_one_by_some_text(bug: str) -> None:
    candidates = [text for text, _, _ in VECTORS] + ["a   b", "aaaa", " lead", "a\u2581b", "ab"]
    seen = [
        load(name).encode(text, rules=WRONG[bug]) != load(name).encode(text)
        for name in ("tok512.bin", "tokenizer.bin")
        for text in candidates
    ]
    assert any(seen)


def test_merging_takes_the_best_score_first_and_equals_from_the_left() -> None:
    assert TOY.encode("abc") == [1, SPACE, ABC]
    assert TOY.encode("aabcbc") == [1, SPACE, A, ABC, BC]
    assert TOY.encode("bcb") == [1, SPACE, BC, B]


def test_bos_takes_part_in_merging() -> None:
    pieces = (*TOY.pieces, b"\n<s>\n ")
    odd = Tokenizer(pieces, np.append(TOY.scores, np.float32(3)))
    assert odd.encode("a") == [267, A] == naive(b"a", odd)


def test_equal_pieces_are_found_under_the_lowest_id() -> None:
    doubled = Tokenizer((*TOY.pieces, b"a"), np.append(TOY.scores, np.float32(0)))
    assert doubled.encode("a") == [1, SPACE, A]


def test_scores_that_are_nan_or_below_the_floor_never_merge() -> None:
    for score in (np.nan, -1e10, -np.inf):
        scores = TOY.scores.copy()
        scores[AB] = score
        toy = replace(TOY, scores=scores)
        assert toy.encode("ab") == [1, SPACE, A, B] == naive(b"ab", toy)


def test_long_texts_are_encoded_in_nearly_linear_time() -> None:
    tokenizer = load("tokenizer.bin")
    source = random.Random(3)
    words = [piece.decode() for piece in tokenizer.pieces[259:] if piece.isascii()]
    text = "".join(source.choice(words) for _ in range(20_000))
    tokenizer.encode("a")
    start = process_time()
    encoded = tokenizer.encode(text)
    elapsed_s = process_time() - start
    assert tokenizer.decode(encoded) == text.encode()
    # Fifty thousand characters a second is a fifth of what a slow machine does, and far above a quadratic rule.
    assert len(text) / elapsed_s > 50_000


# --- properties ---


@given(tokenizers(), texts("ab é🦙\n"))
@settings(deadline=None, max_examples=300)
def test_the_heap_gives_what_the_quadratic_rule_gives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == naive(text.encode(), tokenizer)


@given(tokenizers(), texts("ab é\n"), st.sampled_from(["best-right", "first", "lowest"]))
@settings(deadline=None, max_examples=200)
def test_the_heap_gives_what_a_scan_gives_for_wrong_orders_too(tokenizer: Tokenizer, text: str, merge: str) -> None:
    rules = EncodeRules(merge=merge)  # type: ignore[arg-type]
    assert tokenizer.encode(text, rules=rules) == naive(text.encode(), tokenizer, rules)


@given(tokenizers(), st.binary(max_size=40).map(lambda raw: raw.replace(b"\0", b"")))
@settings(deadline=None)
def test_bytes_that_are_no_text_are_grouped_as_the_scanner_does(tokenizer: Tokenizer, raw: bytes) -> None:
    assert tokenizer.encode(raw) == naive(raw, tokenizer)


@given(tokenizers(), texts())
@settings(deadline=None)
def test_what_was_encoded_is_decoded(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text.encode()


@given(texts())
@settings(deadline=None, max_examples=200)
def test_published_vocabularies_decode_what_they_encode(text: str) -> None:
    for name in ("tok512.bin", "tokenizer.bin"):
        assert load(name).decode(load(name).encode(text)) == text.encode()


@given(texts(), texts("the dog ,.\n"), texts("   aé🦙 \t\n<s>"))
@settings(deadline=None, max_examples=300)
def test_sentencepiece_gives_the_same_ids(any_text: str, english: str, odd: str) -> None:
    # They differ on U+2581 only, which SentencePiece takes for a space.
    text = (any_text + english + odd).replace("\u2581", "")
    assert load("tokenizer.bin").encode(text) == [1, *sentencepiece_model().encode(text)]


def test_sentencepiece_has_the_same_pieces_and_scores() -> None:
    model, tokenizer = sentencepiece_model(), load("tokenizer.bin")
    assert model.get_piece_size() == tokenizer.vocab_size
    for id_, (piece, score) in enumerate(zip(tokenizer.pieces, tokenizer.scores.tolist(), strict=True)):
        assert model.get_score(id_) == score
        if id_ not in (1, 2):
            assert model.id_to_piece(id_).replace("\u2581", " ").encode() == piece


# --- hostile input ---


def test_a_nul_in_the_text_is_refused() -> None:
    with pytest.raises(TokenizerError) as caught:
        TOY.encode("ab\0c")
    assert caught.value.where == "byte 2"


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(TokenizerError) as caught:
        TOY.encode("ab\ud800")
    assert caught.value.where == "character 2"


def test_a_vocabulary_without_a_space_or_bytes_says_so() -> None:
    few = Tokenizer((*SPECIALS, b"a"), np.zeros(4, np.float32))
    with pytest.raises(TokenizerError, match="lone space"):
        few.encode("a")
    few = Tokenizer((*SPECIALS, b"a", b" "), np.zeros(5, np.float32))
    assert few.encode("a") == [1, 4, 3]
    with pytest.raises(TokenizerError) as caught:
        few.encode("b")
    assert (caught.value.expected, caught.value.actual) == ("ids below 5", ord("b") + 3)


def test_the_memory_of_pairs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "_MAX_PAIRS", 3)
    toy = replace(TOY)
    for text in ("abc", "bca", "cab", "abc"):
        assert toy.encode(text) == naive(text.encode(), toy)


def load(name: str) -> Tokenizer:
    return _read(published(name))


def sentencepiece_model() -> Any:
    pytest.importorskip("sentencepiece")
    return _sentencepiece(published("tokenizer.model"))


@cache
def _read(path: Path) -> Tokenizer:
    return read(path)


@cache
def _sentencepiece(path: Path) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(path))
