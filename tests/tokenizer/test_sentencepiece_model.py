"""sentencepiece_model and protobuf: bytes worked by hand, the library as oracle, damaged files."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings

from harness import tokenizer
from harness.errors import TokenizerError
from harness.tokenizer import EncodeRules, Tokenizer, protobuf, sentencepiece_model
from tests.derived_models import published
from tests.strategies import texts, tokenizers
from tests.tokenizer.vocabularies import LEARNED_FROM


def library(content: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=content)


def trained(**options: object) -> bytes:
    """A model that the library trains here and now."""
    out = io.BytesIO()
    settings = {
        "model_type": "bpe", "vocab_size": 400, "byte_fallback": True, "normalization_rule_name": "identity",
        "split_digits": True, "allow_whitespace_only_pieces": True, "character_coverage": 0.99, "minloglevel": 2,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LEARNED_FROM.splitlines()), model_writer=out, **{**settings, **options}
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def learned() -> bytes:
    return trained()


# ---- worked by hand


def test_a_message_is_keys_and_values():
    message = bytes.fromhex("0a026162 15 0000803f 18ffffffffffffffffff01")
    assert list(protobuf.fields(message)) == [(1, b"ab"), (2, b"\0\0\x80\x3f"), (3, (1 << 64) - 1)]
    written = protobuf.bytes_field(1, b"ab") + protobuf.float_field(2, 1.0) + protobuf.int_field(3, -1)
    assert written == message


@pytest.mark.parametrize(
    "message",
    [
        "0a05ab",
        "08",
        "0880",
        "08" + "ff" * 11,
        "0b00",
        "0f00",
        "00",
        "15000080",
        "0affffffffffffffffff01",
        "f8ffffff7f",
    ],
)
def test_a_message_that_is_cut_short_or_none_is_refused(message):
    with pytest.raises(ValueError, match="byte"):
        list(protobuf.fields(bytes.fromhex(message)))


def test_the_llama_2_model_is_the_tokenizer_bin_made_from_it():
    ours, exported = (
        sentencepiece_model.read(published("tokenizer.model")),
        tokenizer.read(published("tokenizer.bin")),
    )
    assert ours.pieces == exported.pieces
    np.testing.assert_array_equal(ours.scores, exported.scores)
    assert (ours.bos_id, ours.eos_id, ours.rules) == (1, 2, EncodeRules(meta_space=True))
    assert ours.hidden == frozenset(range(259))


# ---- against the library


def test_llama_2_texts_with_literal_meta_spaces_have_the_library_s_ids():
    path = published("tokenizer.model")
    ours, theirs = sentencepiece_model.read(path), sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in ("\u2581", "a\u2581b", "\u2581\u2581x", " \u2581", "<s></s><unk><0x41>"):
        assert ours.encode(text, bos=False) == theirs.encode(text), text


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"remove_extra_whitespaces": False},
        {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
        {"add_dummy_prefix": False},
        {"user_defined_symbols": ["<sep>", "<s", "time"], "remove_extra_whitespaces": False},
        {"unk_id": 3, "bos_id": 0, "eos_id": 1, "pad_id": 2},
        {"unk_id": 2, "bos_id": 0, "eos_id": 1},
    ],
    ids=["default", "all spaces", "no prefix", "no prefix, squeezed", "user-defined", "pad", "other ids"],
)
def test_models_of_every_setting_encode_as_the_library_does(tmp_path, options):
    content = trained(**options)
    (tmp_path / "m.model").write_bytes(content)
    ours, theirs = sentencepiece_model.read(tmp_path / "m.model"), library(content)
    alphabet = "  \u2581abeimntOw<s>ep./019\n\té日本🦙“”"
    random = np.random.default_rng(1)
    words = [*LEARNED_FROM.split(" "), "<sep>", "<s>", "</s>", "time", "a b"]
    for _ in range(400):
        text = "".join(random.choice([*alphabet, *words], size=random.integers(0, 12)))
        assert ours.encode(text, bos=False) == theirs.encode(text), repr(text)
    for id_ in range(ours.vocab_size):
        if id_ not in ours.hidden:
            assert sentencepiece_model.spelled(ours, id_).decode() == theirs.id_to_piece(id_)


@given(made=tokenizers(), text=texts("ab é🦙\n日"))
@settings(max_examples=60)
def test_a_model_written_from_a_tokenizer_bin_encodes_alike_in_the_library(made, text):
    assert library(sentencepiece_model.dump(made)).encode(text) == made.encode(text)[1:]


def test_tok512_as_a_model_gives_the_same_ids():
    ours = tokenizer.read(published("tok512.bin"))
    theirs = library(sentencepiece_model.dump(ours))
    assert (theirs.bos_id(), theirs.eos_id(), theirs.pad_id(), theirs.unk_id()) == (1, 2, -1, 0)
    for text, ids in (
        ("abcdefgh", [261, 430, 429, 418, 411, 431, 428, 415]),
        ("It is easy", [359, 413, 410, 293, 344, 412, 419, 422]),
        ("你好", [410, 231, 192, 163, 232, 168, 192]),
    ):
        assert theirs.encode(text) == ids == ours.encode(text)[1:]


# ---- properties


@given(made=tokenizers())
@settings(max_examples=60)
def test_what_is_written_is_read(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("model") / "m.model"
    sentencepiece_model.write(made, path)
    assert sentencepiece_model.sniff(path.read_bytes()[:512])
    read = sentencepiece_model.read(path)
    assert read.pieces == made.pieces
    np.testing.assert_array_equal(read.scores, made.scores)
    assert sentencepiece_model.dump(read) == path.read_bytes()


@given(text=texts())
def test_decoding_gives_the_text_back(learned_all, text):
    assert learned_all.decode(learned_all.encode(text)) == text.replace("\u2581", " ").encode()


@pytest.fixture(scope="module")
def learned_all(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.model"
    path.write_bytes(trained(remove_extra_whitespaces=False))
    return sentencepiece_model.read(path)


def test_a_model_is_written_back_as_tokenizer_bin_where_that_can_say_it(tmp_path, learned, learned_all):
    tokenizer.write(learned_all, tmp_path / "tok.bin")
    again = tokenizer.read(tmp_path / "tok.bin")
    assert again.encode("Once upon  a 🦙") == learned_all.encode("Once upon  a 🦙")
    (tmp_path / "m.model").write_bytes(learned)
    squeezes = sentencepiece_model.read(tmp_path / "m.model")
    with pytest.raises(TokenizerError, match="cannot say how this tokenizer encodes"):
        tokenizer.write(squeezes, tmp_path / "tok.bin")


# ---- refused, damaged


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_type": "unigram", "vocab_size": 350}, "another kind"),
        ({"byte_fallback": False, "vocab_size": 200}, "no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "table"),
        ({"treat_whitespace_as_suffix": True}, "behind words"),
        ({"user_defined_symbols": ["a b"]}, "plain space"),
    ],
)
def test_models_of_other_kinds_are_refused_by_name(tmp_path, options, words):
    (tmp_path / "m.model").write_bytes(trained(**options))
    with pytest.raises(TokenizerError, match=words):
        sentencepiece_model.read(tmp_path / "m.model")


def piece(text: bytes, score: float = 0.0, kind: int = 1) -> bytes:
    fields = protobuf.bytes_field(1, text) + protobuf.float_field(2, score) + protobuf.int_field(3, kind)
    return protobuf.bytes_field(1, fields)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (piece(b"a", kind=5), "unused"),
        (piece(b"a", kind=9), "unknown type 9"),
        (piece(b"a", float("nan")), "NaN"),
        (piece(b""), "0 bytes"),
        (piece(b"x" * 5000), "5000 bytes"),
        (piece(b" a") + piece("\u2581a".encode()), "the same"),
        (piece(b"<0x41>", kind=6), "byte pieces|the same"),
        (protobuf.bytes_field(2, protobuf.int_field(41, 1 << 40)), "BOS"),
        (protobuf.int_field(1, 7), "number"),
    ],
)
def test_damaged_models_are_one_clear_error(tmp_path, extra, words):
    plain = Tokenizer(
        (b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256)), b" "),
        np.zeros(260, np.float32),
    )
    path = tmp_path / "m.model"
    path.write_bytes(sentencepiece_model.dump(plain) + extra)
    with pytest.raises(TokenizerError, match=words):
        sentencepiece_model.read(path)


def test_every_truncation_is_refused(tmp_path, learned):
    path = tmp_path / "m.model"
    end = learned.rindex(b"identity") - 4  # from there on the normaliser is missing, which has defaults
    for length in (*range(0, end, 7), end - 1):
        path.write_bytes(learned[:length])
        with pytest.raises(TokenizerError):
            sentencepiece_model.read(path)


def test_a_vocabulary_without_byte_pieces_cannot_be_a_model(tmp_path):
    few = Tokenizer((b"<unk>", b"\n<s>\n", b"\n</s>\n", b" ", b"a"), np.zeros(5, np.float32))
    with pytest.raises(TokenizerError, match="byte pieces"):
        sentencepiece_model.write(few, tmp_path / "m.model")


def test_merges_that_scores_cannot_say_are_refused(tmp_path):
    plain = Tokenizer(
        (
            b"<unk>",
            b"\n<s>\n",
            b"\n</s>\n",
            *(b"<0x%02X>" % byte for byte in range(256)),
            b" ",
            b"a",
            b"b",
            b"ab",
            b" a",
        ),
        np.zeros(264, np.float32),
    )
    listed = replace(plain, merges={(260, 261): (-1.0, 262)})  # " a" is a piece, but "▁ a" is not listed
    with pytest.raises(TokenizerError, match="does not merge 259 and 260"):
        sentencepiece_model.write(listed, tmp_path / "m.model")
    with pytest.raises(TokenizerError, match="does not merge"):
        tokenizer.write(listed, tmp_path / "m.bin")
