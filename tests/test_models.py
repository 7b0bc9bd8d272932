"""Names to files, derived variants, and expansions that compute the same function."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from harness import checkpoint as checkpoints
from harness import models
from harness import tokenizer as tokenizers
from harness.checkpoint import Checkpoint
from harness.engine import STRICT, Engine, TopTwo
from harness.errors import InputError
from harness.model_config import ModelConfig
from harness.models import ModelFiles, ModelNotFound, derived, files
from harness.tokenizer import Tokenizer
from tests import strategies

TINY = ModelConfig(12, 15, 2, 6, 2, 270, 16)
PUBLISHED = "HARNESS_MODELS names no directory with stories260K.bin and tok512.bin"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFiles:
    """stories260K, with a cache of its own."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    try:
        return models.locate("stories260K")
    except ModelNotFound:
        pytest.skip(PUBLISHED)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A golden directory of one embedded model, called tiny, and an empty cache and search path."""
    golden = tmp_path / "golden"
    (golden / "models").mkdir(parents=True)
    monkeypatch.setattr(files, "golden_dir", lambda: golden)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_MODELS", "")
    checkpoint, tokenizer = tiny_model()
    checkpoints.write(checkpoint, golden / "models" / "tiny.bin", version=0)
    tokenizers.write(tokenizer, golden / "models" / "tiny-tok.bin")
    write_index(golden / "models")
    return golden / "models"


def write_index(directory: Path, **changed: str) -> None:
    entry = {
        "name": "tiny",
        "file": "tiny.bin",
        "tokenizer": "tiny-tok.bin",
        "sha256": checkpoints.sha256_of(directory / "tiny.bin"),
        "tokenizer_sha256": checkpoints.sha256_of(directory / "tiny-tok.bin"),
        "format": "llama2c-v0",
    } | changed
    lines = "".join(f'{key} = "{value}"\n' for key, value in entry.items())
    (directory / "models.toml").write_text("[[model]]\n" + lines)


def tiny_model(config: ModelConfig = TINY) -> tuple[Checkpoint, Tokenizer]:
    """Random weights, and the bytes and a few letters as pieces."""
    n_pieces = config.vocab_size
    pieces = (*strategies.SPECIALS, *strategies.BYTE_PIECES, b" ", *(bytes([c]) for c in b"abcdefghij"))
    scores = np.array([0.0] * 259 + [-float(i) for i in range(n_pieces - 259)], np.float32)
    random = np.random.default_rng(7)
    tensors = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in checkpoints.expected_shapes(config).items()
    }
    return Checkpoint(config, tensors), Tokenizer(pieces[:n_pieces], scores)


# ---- names to files -----------------------------------------------------------------------------


def test_an_embedded_model_is_found_with_its_hashes(small: Path) -> None:
    found = models.locate("tiny")
    assert found.checkpoint == small / "tiny.bin"
    assert found.sha256 == checkpoints.sha256_of(small / "tiny.bin")
    assert found.is_embedded
    assert models.load(found.checkpoint, found.tokenizer).tokenizer.vocab_size == 270


def test_a_published_model_that_is_absent_says_how_to_get_it(small: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        models.locate("stories15M")
    assert "HARNESS_MODELS" in (caught.value.hint or "")


def test_a_search_path_that_leads_nowhere_is_said_to(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = small / "nowhere"
    monkeypatch.setenv("HARNESS_MODELS", f"{small}{os.pathsep}{nowhere}")
    with pytest.raises(ModelNotFound) as caught:
        models.locate("stories15M")
    assert caught.value.hint == f"HARNESS_MODELS names {nowhere}, which is no directory"


def test_an_unknown_name_is_an_error_and_no_skip(small: Path) -> None:
    with pytest.raises(InputError) as caught:
        models.locate("stories15m")
    assert not isinstance(caught.value, ModelNotFound)
    assert "stories15M" in (caught.value.hint or "")


def test_an_unknown_variant_is_an_error_and_no_skip(small: Path) -> None:
    with pytest.raises(InputError, match="no model stories260K/q8-3"):
        models.locate("stories260K/q8-3")


def test_a_file_of_another_content_is_refused(small: Path) -> None:
    write_index(small, sha256="0" * 64)
    with pytest.raises(InputError) as caught:
        models.locate("tiny")
    assert caught.value.expected == f"sha256 {'0' * 64}"
    assert not isinstance(caught.value, ModelNotFound)


def test_a_model_of_another_version_than_the_golden_is_refused(small: Path) -> None:
    for pin in ({"sha256": "1" * 64}, {"tokenizer_sha256": "1" * 64}):
        with pytest.raises(InputError, match="different versions"):
            models.locate("tiny", **pin)


@pytest.mark.parametrize("damage", ["not TOML [", '[[model]]\nname = "tiny"\n', "model = 3\n"])
def test_a_damaged_list_of_embedded_models_is_an_input_error(small: Path, damage: str) -> None:
    (small / "models.toml").write_text(damage)
    with pytest.raises(InputError):
        models.locate("tiny")


def test_later_directories_are_searched_past_a_wrong_file(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, right = tmp_path / "wrong", tmp_path / "right"
    for directory, content in ((wrong, b"something else"), (right / "stories15M", b"weights")):
        directory.mkdir(parents=True)
        (directory / "stories15M.bin").write_bytes(content)
        (directory / "tokenizer.bin").write_bytes(b"pieces")
    entry = files._Entry(
        "stories15M.bin",
        "tokenizer.bin",
        checkpoints.sha256_of(right / "stories15M" / "stories15M.bin"),
        checkpoints.sha256_of(right / "stories15M" / "tokenizer.bin"),
        "llama2c-v0",
    )
    monkeypatch.setitem(files.PUBLISHED, "stories15M", entry)
    monkeypatch.setenv("HARNESS_MODELS", f"{wrong}{os.pathsep}{right}")
    assert models.locate("stories15M").checkpoint == right / "stories15M" / "stories15M.bin"
    monkeypatch.setenv("HARNESS_MODELS", str(wrong))
    with pytest.raises(InputError, match=r"is not the stories15M\.bin"):
        models.locate("stories15M")


def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    before = files.sha256_of(path)
    path.write_bytes(b"another")
    assert files.sha256_of(path) != before


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert models.cache_dir() == tmp_path
    monkeypatch.delenv("HARNESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_dir() == tmp_path / "llama-harness"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.cache_dir() == Path.home() / ".cache" / "llama-harness"


def test_a_tokenizer_beside_a_checkpoint_is_found_by_its_number_of_pieces(small: Path) -> None:
    assert models.tokenizer_beside(small / "tiny.bin", 270) == small / "tiny-tok.bin"
    with pytest.raises(InputError, match=r"no tokenizer of 271 pieces .* -z"):
        models.tokenizer_beside(small / "tiny.bin", 271)


def test_two_tokenizers_that_differ_ask_for_a_choice(small: Path) -> None:
    _, tokenizer = tiny_model()
    other = small / "other-tok.bin"
    tokenizers.write(tokenizer, other)
    assert models.tokenizer_beside(small / "tiny.bin", 270).is_file(), "the same content twice is no choice"
    tokenizers.write(replace(tokenizer, scores=tokenizer.scores * 2), other)
    with pytest.raises(InputError, match=r"several .* -z"):
        models.tokenizer_beside(small / "tiny.bin", 270)


def test_the_shipped_models_are_what_their_list_says() -> None:
    names = [name for name in models.known_names() if not name.startswith("stories")]
    if not names:
        pytest.skip("no model is embedded in this checkout")
    for name in names:
        found = models.locate(name)
        model = models.load(found.checkpoint, found.tokenizer)
        assert model.checkpoint.format == found.format
        assert model.vocabulary.vocab_size == model.checkpoint.config.vocab_size


# ---- derived models -----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", derived.SHA256)
def test_a_derived_model_has_its_published_hash_and_can_be_read(published: ModelFiles, variant: str) -> None:
    found = models.locate(f"stories260K/{variant}")
    assert checkpoints.sha256_of(found.checkpoint) == derived.SHA256[variant]
    assert checkpoints.read(found.checkpoint).format == found.format


def test_a_damaged_derived_model_is_made_again(published: ModelFiles) -> None:
    path = models.locate("stories260K/seq32").checkpoint
    path.write_bytes(b"damaged")
    assert models.locate("stories260K/seq32").checkpoint == path
    assert checkpoints.sha256_of(path) == derived.SHA256["seq32"]
    assert list(path.parent.iterdir()) == [path], "no temporary file is left"


def test_a_cache_that_cannot_be_written_is_an_input_error(
    published: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="HARNESS_CACHE"):
        models.locate("stories260K/seq32")


# ---- expansions ---------------------------------------------------------------------------------


def logits(checkpoint: Checkpoint, ids: list[int]) -> np.ndarray:
    """Logits at every position, in llama2.c's order of sums."""
    engine = Engine(checkpoint.config, checkpoint.tensors, ops=STRICT)
    session = engine.session(cache="in-place", capacity=len(ids))
    return session.extend(ids, all_logits=True)


@st.composite
def checkpoints_either(draw: st.DrawFn) -> Checkpoint:
    """Ordinary weights, float32 or int8 in groups of 2 (hidden_dim may be odd, so that groups cross rows)."""
    config = draw(strategies.configs().filter(lambda config: config.hidden_dim >= 2))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in checkpoints.expected_shapes(config).items()
    }
    checkpoint = Checkpoint(config, tensors)
    return strategies.quantised(checkpoint, 2) if draw(st.booleans()) else checkpoint


def ids_for(checkpoint: Checkpoint) -> list[int]:
    config = checkpoint.config
    return [i % config.vocab_size for i in range(1, config.seq_len + 1)]


@hypothesis.given(checkpoints_either())
def test_repeated_kv_heads_change_no_bit(checkpoint: Checkpoint) -> None:
    expanded = models.expand_mha(checkpoint)
    assert expanded.config.n_kv_heads == checkpoint.config.n_heads
    ids = ids_for(checkpoint)
    np.testing.assert_array_equal(logits(expanded, ids), logits(checkpoint, ids))


@hypothesis.given(checkpoints_either())
def test_a_copied_classifier_changes_no_bit(checkpoint: Checkpoint) -> None:
    expanded = models.untie(checkpoint)
    assert not expanded.config.is_tied
    ids = ids_for(checkpoint)
    np.testing.assert_array_equal(logits(expanded, ids), logits(checkpoint, ids))


@hypothesis.given(checkpoints_either(), st.sampled_from([1, 2, 4, 6, 32]))
def test_hidden_units_of_zeros_change_no_bit(checkpoint: Checkpoint, multiple: int) -> None:
    group_size = checkpoint.group_size or 1
    hypothesis.assume(checkpoint.config.hidden_dim % group_size == 0)
    hypothesis.assume(-(-checkpoint.config.hidden_dim // multiple) * multiple % group_size == 0)
    expanded = models.pad_hidden(checkpoint, multiple)
    assert expanded.config.hidden_dim % multiple == 0
    ids = ids_for(checkpoint)
    np.testing.assert_array_equal(logits(expanded, ids), logits(checkpoint, ids))


@hypothesis.given(checkpoints_either(), st.integers(0, 40))
def test_padded_ids_never_win_and_change_no_other_logit(checkpoint: Checkpoint, more: int) -> None:
    n = checkpoint.config.vocab_size
    tokenizer = Tokenizer(tuple(b"%d." % i for i in range(n)), np.zeros(n, np.float32))
    expanded, wider = models.pad_vocab(checkpoint, tokenizer, n + more)
    assert wider.vocab_size == expanded.config.vocab_size == n + more
    ids = ids_for(checkpoint)
    before, after = logits(checkpoint, ids), logits(expanded, ids)
    np.testing.assert_array_equal(after[:, :n], before)
    assert (after.argmax(axis=1) == before.argmax(axis=1)).all()


@hypothesis.given(strategies.tokenizers(), strategies.texts("ab é🦙<0123456789>"), st.integers(1, 300))
def test_padded_pieces_encode_no_text(tokenizer: Tokenizer, text: str, more: int) -> None:
    config = ModelConfig(2, 1, 1, 1, 1, tokenizer.vocab_size, 1)
    tensors = {n: np.ones(s, np.float32) for n, s in checkpoints.expected_shapes(config).items()}
    _, wider = models.pad_vocab(Checkpoint(config, tensors), tokenizer, tokenizer.vocab_size + more)
    assert len(set(wider.pieces)) == len(set(tokenizer.pieces)) + more
    assert wider.encode(text) == tokenizer.encode(text)


def test_a_vocabulary_does_not_shrink() -> None:
    checkpoint, tokenizer = tiny_model()
    with pytest.raises(InputError, match="only grow"):
        models.pad_vocab(checkpoint, tokenizer, 269)


def test_groups_that_cross_rows_are_refused() -> None:
    checkpoint, _ = tiny_model()
    narrow, _ = tiny_model(ModelConfig(4, 8, 1, 2, 1, 260, 8))
    quantised = strategies.quantised(checkpoint, 6)
    with pytest.raises(InputError, match="groups would cross rows"):
        models.pad_hidden(quantised, 16)
    with pytest.raises(InputError, match="groups cross rows"):
        models.expand_mha(strategies.quantised(narrow, 8))


def test_scores_are_dropped_only_where_the_ids_are_in_their_order() -> None:
    _, tokenizer = tiny_model()
    assert models.older_layout(tokenizer, "no-scores").layout == "no-scores"
    with pytest.raises(InputError, match="without scores"):
        models.older_layout(replace(tokenizer, scores=np.zeros_like(tokenizer.scores)), "no-scores")


# ---- prepared files -----------------------------------------------------------------------------

NEEDS = {
    "nothing": {},
    "mha": {"mha": True},
    "untied": {"untied": True},
    "vocab": {"vocab_size": 300},
    "hidden": {"hidden_multiple": 8},
    "version 1": {"format": "llama2c-v1"},
    "old tokenizer": {"tokenizer_layout": "raw-bytes"},
    "all": {
        "mha": True,
        "untied": True,
        "vocab_size": 300,
        "hidden_multiple": 8,
        "format": "llama2c-v1",
        "tokenizer_layout": "no-max",
    },
}


@pytest.mark.parametrize("needs", NEEDS)
def test_prepared_files_hold_the_same_function(small: Path, tmp_path: Path, needs: str) -> None:
    original = models.locate("tiny")
    wanted = {"format": "llama2c-v0"} | NEEDS[needs]
    prepared = models.prepare(original, **wanted, out_dir=tmp_path / "out")
    assert prepared.format == wanted["format"]
    before = models.load(original.checkpoint, original.tokenizer)
    after = models.load(prepared.checkpoint, prepared.tokenizer)
    assert after.checkpoint.format == prepared.format
    if wanted.get("untied"):
        assert not after.checkpoint.config.is_tied
    assert after.tokenizer.layout == wanted.get("tokenizer_layout", "today")
    ids = before.tokenizer.encode("abba cd")
    assert after.tokenizer.encode("abba cd") == ids
    same = logits(after.checkpoint, ids)[:, : before.checkpoint.config.vocab_size]
    np.testing.assert_array_equal(same, logits(before.checkpoint, ids))


def test_files_that_meet_every_need_are_used_as_they_are(small: Path, tmp_path: Path) -> None:
    original = models.locate("tiny")
    assert models.prepare(original, format="llama2c-v0", out_dir=tmp_path / "out") == original
    assert models.prepare(original, format="llama2c-v0", hidden_multiple=5, out_dir=tmp_path) == original
    assert not (tmp_path / "out").exists()


def test_prepared_files_are_written_once(small: Path, tmp_path: Path) -> None:
    original = models.locate("tiny")
    first = models.prepare(original, format="llama2c-v1", out_dir=tmp_path / "out")
    written = first.checkpoint.stat().st_mtime_ns
    assert models.prepare(original, format="llama2c-v1", out_dir=tmp_path / "out") == first
    assert first.checkpoint.stat().st_mtime_ns == written


@pytest.mark.parametrize("format", ["huggingface", "huggingface-bin", "safetensors", "gguf", "npz", "lmw-c", "meta"])
def test_every_container_holds_the_same_numbers_and_a_tokenizer(small: Path, tmp_path: Path, format: str) -> None:
    original = models.locate("tiny")
    prepared = models.prepare(original, format=format, untied=True, out_dir=tmp_path)
    assert models.prepare(original, format=format, untied=True, out_dir=tmp_path) == prepared
    before = models.load(original.checkpoint, original.tokenizer)
    after = models.load(prepared.checkpoint, prepared.tokenizer)
    assert after.checkpoint.format == prepared.format == format
    assert after.vocabulary.pieces == before.vocabulary.pieces
    ids = before.tokenizer.encode("abba cd")
    assert after.tokenizer.encode("abba cd") == ids
    np.testing.assert_array_equal(logits(after.checkpoint, ids), logits(before.checkpoint, ids))


@pytest.mark.parametrize("format", ["llama2c-v2", "tarball"])
def test_no_other_precision_or_unknown_container_is_written(small: Path, tmp_path: Path, format: str) -> None:
    with pytest.raises(InputError):
        models.prepare(models.locate("tiny"), format=format, out_dir=tmp_path)


def test_an_int8_model_is_untied_in_its_file(published: ModelFiles, tmp_path: Path) -> None:
    original = models.locate("stories260K/q8-4")
    prepared = models.prepare(original, format="llama2c-v2", untied=True, mha=True, out_dir=tmp_path)
    before, after = checkpoints.read(original.checkpoint), checkpoints.read(prepared.checkpoint)
    assert not after.config.is_tied
    assert after.config.n_kv_heads == 8
    ids = [1, 403, 407, 261, 378]
    np.testing.assert_array_equal(logits(after, ids), logits(before, ids))


def test_a_padded_story_model_tells_the_same_story(published: ModelFiles, tmp_path: Path) -> None:
    prepared = models.prepare(
        published, format="llama2c-v0", vocab_size=32000, mha=True, hidden_multiple=64, out_dir=tmp_path
    )
    sequence = [1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317]
    best = []
    for path in (published.checkpoint, prepared.checkpoint):
        checkpoint = checkpoints.read(path)
        top = TopTwo(len(sequence))
        Engine(checkpoint.config, checkpoint.tensors, dtype=np.float64).score([sequence], top)
        best.append(top.ids[:, 0].tolist())
    assert best[0] == best[1] == [*sequence[1:], 426]
