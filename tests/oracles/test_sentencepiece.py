"""Encoding against SentencePiece, on the vocabulary of Llama 2 in both file formats."""

import numpy as np
import pytest

sentencepiece = pytest.importorskip("sentencepiece", reason="an oracle of its own environment: tests/oracles/run.sh")

from harness import tokenizer  # noqa: E402
from tests.derived_models import published  # noqa: E402

ALPHABET = [
    *"  abcdeilnorstuABC019.,'\"-!?\n\t",
    "é",
    "ß",
    "ñ",
    "Ж",
    "д",
    "日",
    "本",
    "語",
    "한",
    "🦙",
    "👩‍🚀",
    "\u00a0",
]
WORDS = [
    "Once",
    " upon",
    " a",
    " time",
    "<s>",
    "</s>",
    "<0x41>",
    "[INST]",
    "    ",
    "1234",
    "naïve",
    " được",
    "\u200b",
]


@pytest.fixture(scope="module")
def pair():
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(published("tokenizer.model")))
    return tokenizer.read(published("tokenizer.bin")), theirs


def test_random_texts_have_the_same_ids(pair):
    # Not compared: a literal U+2581, which SentencePiece takes for a space, and what is no Unicode.
    ours, theirs = pair
    random = np.random.default_rng(12)
    for _ in range(3000):
        parts = random.choice([*ALPHABET, *WORDS], size=random.integers(0, 25))
        text = "".join(parts)
        assert ours.encode(text) == [1, *theirs.encode(text)], repr(text)


def test_decoding_gives_the_text_back(pair):
    ours, theirs = pair
    for text in ("Once upon a time", "  Tom", "naïve 🦙\n日本"):
        ids = ours.encode(text)
        assert ours.decode(ids).decode() == text == theirs.decode(ids[1:])
