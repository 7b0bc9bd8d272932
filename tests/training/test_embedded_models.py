"""The files in golden/models are those of models.toml, of exactly the size that their headers call for."""

import hashlib
import itertools
import struct
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest

from training import checkpoint, llama3, stories, tokenizer
from training.models import MODELS

HERE = Path(__file__).parents[2] / "golden" / "models"
ENTRIES = {entry["name"]: entry for entry in tomllib.loads((HERE / "models.toml").read_text())["model"]}


def v0_size(dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len):
    head_dim, kv_dim = dim // n_heads, dim * n_kv_heads // n_heads
    layer = 2 * dim + 2 * dim * dim + 2 * dim * kv_dim + 3 * dim * hidden_dim
    n_embeddings = 1 if vocab_size > 0 else 2
    return 28 + 4 * (n_embeddings * abs(vocab_size) * dim + n_layers * layer + dim + 2 * (seq_len * head_dim // 2))


def v2_size(dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, is_tied, group_size):
    kv_dim = dim * n_kv_heads // n_heads
    n_quantised = vocab_size * dim * (1 if is_tied else 2)
    n_quantised += n_layers * (2 * dim * dim + 2 * dim * kv_dim + 3 * dim * hidden_dim)
    return 256 + 4 * (2 * n_layers * dim + dim) + n_quantised + 4 * (n_quantised // group_size)


def test_each_model_is_listed_in_float32_and_in_int8():
    assert set(ENTRIES) == {name + suffix for name in MODELS for suffix in ("", "-q8")} | {llama3.NAME}


def sha256sums(directory):
    """What `sha256sum *` prints there."""
    command = "LC_ALL=C; export LC_ALL; sha256sum *"
    return subprocess.run(["sh", "-c", command], cwd=directory, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize("name", ENTRIES)
def test_hashes_are_the_listed_ones(name):
    entry = ENTRIES[name]
    path = HERE / entry["file"]
    content = path.read_bytes() if path.is_file() else sha256sums(path)
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert hashlib.sha256((HERE / entry["tokenizer"]).read_bytes()).hexdigest() == entry["tokenizer_sha256"]


@pytest.mark.parametrize("name", MODELS)
def test_a_float32_file_has_exactly_the_size_its_header_calls_for(name):
    raw = (HERE / f"{name}.bin").read_bytes()
    header = struct.unpack_from("<7i", raw)
    assert len(raw) == v0_size(*header) <= 1_500_000
    config = MODELS[name].config
    assert header == (
        *config.integers()[:5],
        config.vocab_size * (1 if config.is_tied else -1),
        config.seq_len,
    )


@pytest.mark.parametrize("name", MODELS)
def test_an_int8_file_has_exactly_the_size_its_header_calls_for(name):
    raw = (HERE / f"{name}-q8.bin").read_bytes()
    magic, version, *shape, is_tied, group_size = struct.unpack_from("<Ii7iBi", raw)
    assert (magic, version) == (0x616B3432, 2)
    assert group_size == ENTRIES[f"{name}-q8"]["group_size"]
    assert len(raw) == v2_size(*shape[:6], is_tied, group_size)


@pytest.mark.parametrize("name", MODELS)
def test_an_int8_group_never_straddles_a_row(name):
    model = MODELS[name]
    assert model.config.dim % model.group_size == 0
    assert model.config.hidden_dim % model.group_size == 0


@pytest.mark.parametrize("name", MODELS)
def test_the_int8_file_holds_the_float32_weights(name, tmp_path):
    config, weights = checkpoint.read_v0(HERE / f"{name}.bin")
    assert all(np.isfinite(tensor).all() for tensor in weights.values())
    checkpoint.write_v2(config, weights, tmp_path / "q8.bin", group_size=MODELS[name].group_size)
    assert (tmp_path / "q8.bin").read_bytes() == (HERE / f"{name}-q8.bin").read_bytes()


def test_the_untied_classifier_is_not_the_embedding():
    _, weights = checkpoint.read_v0(HERE / "mha.bin")
    likeness = np.corrcoef(weights["lm_head"].ravel(), weights["tok_embedding"].ravel())[0, 1]
    assert abs(likeness) < 0.9


@pytest.mark.parametrize("name", MODELS)
def test_a_tokenizer_has_as_many_distinct_pieces_as_its_model(name):
    vocabulary = tokenizer.read(HERE / f"{name}-tok.bin")
    assert len(vocabulary.pieces) == len(set(vocabulary.pieces)) == MODELS[name].config.vocab_size
    assert vocabulary.pieces[:3] == (b"<unk>", b"\n<s>\n", b"\n</s>\n")
    assert vocabulary.pieces[3] == b"<0x00>"
    assert vocabulary.pieces[258] == b"<0xFF>"
    longest = struct.unpack_from("<I", (HERE / f"{name}-tok.bin").read_bytes())[0]
    assert longest == max(map(len, vocabulary.pieces))


HARD_TEXTS = [
    "",
    " ",
    "  two  spaces  ",
    "Zoë saw a 🦙",
    "“Hi,” said José.\n“Señor Biscuit ate 12 crêpes!”",
    "tab\tand\r\nnewline",
    "日本語 and łódź",
    "<s> is text, and so is <0x41>",
    "e\u0301 is two code points",
]


def merge_greedily(vocabulary: tokenizer.Vocabulary, text: str) -> list[int]:
    """llama2.c's rule without shortcuts: over the whole text, join the adjacent pair with the best score."""
    ids_of = {piece: i for i, piece in enumerate(vocabulary.pieces)}
    ids = []
    for character in " " + text if text else "":
        raw = character.encode()
        ids += [ids_of[raw]] if raw in ids_of else [byte + 3 for byte in raw]
    while True:
        joined = [ids_of.get(vocabulary.pieces[a] + vocabulary.pieces[b]) for a, b in itertools.pairwise(ids)]
        candidates = [(vocabulary.scores[piece], -at) for at, piece in enumerate(joined) if piece is not None]
        if not candidates:
            return ids
        at = -max(candidates)[1]
        ids[at : at + 2] = [joined[at]]


@pytest.mark.parametrize("name", MODELS)
def test_encoding_round_trips_and_is_llama2c_s(name):
    vocabulary = tokenizer.read(HERE / f"{name}-tok.bin")
    texts = HARD_TEXTS + list(itertools.islice(stories.stories(MODELS[name].recipe.style, 99), 3))
    for text in texts:
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        assert ids == merge_greedily(vocabulary, text)


@pytest.mark.parametrize("name", MODELS)
def test_curly_quotes_have_pieces_and_rare_letters_fall_back_to_bytes(name):
    vocabulary = tokenizer.read(HERE / f"{name}-tok.bin")
    assert "“".encode() in vocabulary.pieces
    assert "é".encode() in vocabulary.pieces
    # ë is C3 AB; byte pieces start at id 3.
    assert vocabulary.encode("Zoë")[-2:] == [0xC3 + 3, 0xAB + 3]


@pytest.mark.parametrize("name", MODELS)
def test_the_tokenizer_is_what_its_recipe_learns(name, tmp_path):
    tokenizer.write(MODELS[name].vocabulary(), tmp_path / "tok.bin")
    assert (tmp_path / "tok.bin").read_bytes() == (HERE / f"{name}-tok.bin").read_bytes()
