"""Tokenizers that we write, read by the libraries that own the formats: the same ids."""

import numpy as np
import pytest

hf = pytest.importorskip("tokenizers", reason="an oracle of its own environment: tests/oracles/run.sh")
transformers = pytest.importorskip("transformers", reason="an oracle of its own environment: tests/oracles/run.sh")
sentencepiece = pytest.importorskip("sentencepiece", reason="an oracle of its own environment: tests/oracles/run.sh")

from harness import formats, models, tokenizer  # noqa: E402
from harness.formats import WriteOptions  # noqa: E402
from harness.tokenizer import hf_json, hf_json_write, tiktoken_ranks  # noqa: E402
from tests.derived_models import published  # noqa: E402
from tests.oracles.test_tokenizers import BYTE_LEVEL, random_texts, with_fallback, without_specials  # noqa: E402
from tests.tokenizer.vocabularies import learn, rank_file  # noqa: E402

MODELS = models.golden_dir() / "models"


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_a_byte_level_tokenizer_json_is_read_by_the_library(tmp_path, name):
    made = BYTE_LEVEL[name]()
    made.save(str(tmp_path / "theirs.json"))
    ours = hf_json.read(tmp_path / "theirs.json")
    hf_json_write.write(ours, tmp_path / "tokenizer.json")
    theirs = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain = without_specials(theirs)
    assert theirs.get_vocab_size() == ours.vocab_size
    for text in random_texts(3000):
        assert plain.encode(text).ids == ours.encode(text, bos=False), repr(text)
    assert theirs.encode("a").ids == ours.encode("a")


def test_ranks_become_a_list_that_the_library_merges_alike(tmp_path):
    ours = tiktoken_ranks.read(rank_file(tmp_path / "ranks", learn(300)))
    hf_json_write.write(ours, tmp_path / "tokenizer.json")
    theirs = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain = without_specials(theirs)
    for text in random_texts(3000):
        assert plain.encode(text).ids == ours.encode(text, bos=False), repr(text)
    assert theirs.encode("a").ids == ours.encode("a")


@pytest.mark.parametrize("name", ["tok512.bin", "tokenizer.bin"])
def test_scores_become_a_list_that_the_library_merges_alike(tmp_path, name):
    ours = tokenizer.read(published(name))
    hf_json_write.write(ours, tmp_path / "tokenizer.json")
    theirs = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain = without_specials(theirs)
    for text in random_texts(1500):
        if "\u2581" not in text:  # to llama2.c's programs a character like others
            assert plain.encode(text).ids == ours.encode(text, bos=False), repr(text)
    assert theirs.encode("a b").ids == ours.encode("a b")
    assert theirs.decode(ours.encode("Zoë saw  a 🦙")) == "Zoë saw  a 🦙"


@pytest.mark.parametrize("metaspace", [None, "first", "never"])
def test_a_list_with_fallback_is_read_by_the_library(tmp_path, metaspace):
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", "a", "b", "ab", "aab", "aa"]
    # aab could be made of aa and b too, which the list does not have: no scores say this.
    merges = [("a", "a"), ("a", "b"), ("a", "ab")]
    vocab = {piece: id_ for id_, piece in enumerate(pieces)}
    with_fallback(vocab, merges, metaspace=metaspace).save(str(tmp_path / "theirs.json"))
    ours = hf_json.read(tmp_path / "theirs.json")
    hf_json_write.write(ours, tmp_path / "tokenizer.json")
    theirs = without_specials(hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json")))
    for text in ("aaab", "abab aaaaa", "  baa aa", "ab\n", " ", "", "bé"):
        assert theirs.encode(text).ids == ours.encode(text, bos=False), repr(text)


@pytest.mark.parametrize("model", ["gqa", "mha", "llama3"])
@pytest.mark.parametrize("to", ["huggingface", "huggingface-bin"])
def test_transformers_reads_the_tokenizer_of_a_directory_that_we_write(tmp_path, model, to):
    files = models.locate(model)
    words = formats.read_tokenizer(files.tokenizer)
    formats.write(formats.read(files.checkpoint), tmp_path / "hf", to, WriteOptions(tokenizer=words))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.bos_token_id == words.bos_id
    assert theirs.eos_token_id == words.eos_id
    random = np.random.default_rng(2)
    for text in [*random_texts(400), "Once upon a time, Zoë saw  a 🦙.\n\nIt's 12345!", ""]:
        if "\u2581" not in text and "<" not in text:
            assert theirs(text)["input_ids"] == words.encode(text), repr(text)
    ids = words.encode("Zoë saw  a 🦙 " + str(random.integers(10**9)))
    assert theirs.decode(ids, skip_special_tokens=True).encode() == words.decode(ids)


def test_sentencepiece_reads_the_model_of_a_directory_that_we_write(tmp_path):
    files = models.locate("gqa")
    words = formats.read_tokenizer(files.tokenizer)
    formats.write(formats.read(files.checkpoint), tmp_path / "hf", options=WriteOptions(tokenizer=words))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "hf" / "tokenizer.model"))
    for text in random_texts(400):
        if "\u2581" not in text:
            assert theirs.encode(text) == words.encode(text, bos=False), repr(text)
