"""tokenizer.json against Hugging Face's tokenizers, on vocabularies that it trains here and now, in both forms."""

import json

import numpy as np
import pytest

hf = pytest.importorskip("tokenizers", reason="an oracle of its own environment: tests/oracles/run.sh")

from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

from harness import tokenizer  # noqa: E402
from harness.errors import TokenizerError  # noqa: E402
from harness.tokenizer import hf_json, sentencepiece_model  # noqa: E402
from harness.tokenizer.byte_level import LLAMA3, QWEN2  # noqa: E402
from harness.tokenizer.scores import scores_say  # noqa: E402
from tests.derived_models import published  # noqa: E402

TEXT = [
    "Once upon a time, in the year 2024, there was a little girl who didn't like 12345 numbers.",
    "She'd say: “It's naïve!” — and they'LL go   home.\n\n\tIF (x == 10) { return 100; }\r\n",
    "Жила-была девочка. 今日は、世界！ 안녕하세요 🦙🦙 नमस्ते the the then there other another mother.",
]
ALPHABET = [
    *"  \u2581abeimntOw<s>ep./019'\n\t\r\u00a0",
    "é",
    "e\u0301",
    "日",
    "🦙",
    "“",
    "<|x|>",
    "<sep>",
    *TEXT[0].split(" "),
]


def random_texts(n):
    random = np.random.default_rng(4)
    return ["".join(random.choice(ALPHABET, size=random.integers(0, 14))) for _ in range(n)]


def byte_level(cut, *, normalizer=None, ignore_merges=False, bos=True):
    made = hf.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.pre_tokenizer = cut
    if normalizer:
        made.normalizer = normalizer
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|x|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(TEXT * 3, trainer)
    made.add_tokens(["<sep>"])
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<|x|> $A", special_tokens=[("<|x|>", 0)])
    return made


def isolated(pattern):
    return pre_tokenizers.Split(hf.Regex(pattern), behavior="isolated")


def bytes_only():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


BYTE_LEVEL = {
    "llama-3": lambda: byte_level(pre_tokenizers.Sequence([isolated(LLAMA3), bytes_only()]), ignore_merges=True),
    "qwen-2": lambda: byte_level(
        pre_tokenizers.Sequence([isolated(QWEN2), bytes_only()]), normalizer=normalizers.NFC(), bos=False
    ),
    "phi-2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), bos=False),
    "deepseek-coder": lambda: byte_level(
        pre_tokenizers.Sequence(
            [
                isolated(r"[\r\n]"),
                isolated(r"\s?\p{L}+"),
                isolated(r"\s?\p{P}+"),
                pre_tokenizers.Digits(individual_digits=True),
                bytes_only(),
            ]
        )
    ),
}


def without_specials(made):
    """The same tokenizer, but that it finds no special token in a text: what is found there is a matter of trust."""
    document = json.loads(made.to_str())
    kept = [token for token in document["added_tokens"] if not token["special"]]
    return hf.Tokenizer.from_str(json.dumps({**document, "added_tokens": kept, "post_processor": None}))


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_texts_have_the_same_ids(tmp_path, name):
    made = BYTE_LEVEL[name]()
    made.save(str(tmp_path / "tokenizer.json"))
    ours, theirs = hf_json.read(tmp_path / "tokenizer.json"), without_specials(made)
    assert ours.vocab_size == made.get_vocab_size()
    assert (ours.bos_id, ours.eos_id) == (0 if name in ("llama-3", "deepseek-coder") else -1, 1)
    for text in random_texts(3000):
        assert ours.encode(text, bos=False) == theirs.encode(text).ids, repr(text)
    assert ours.encode("a") == made.encode("a").ids


def with_fallback(vocab, merges, *, metaspace):
    made = hf.Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if metaspace is None:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme=metaspace, split=False)
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def merges_of(ours):
    """The list that Hugging Face's converter makes of scores: every split of every piece, best pieces first."""
    spelled = [sentencepiece_model.spelled(ours, id_).decode() for id_ in range(ours.vocab_size)]
    ids = {piece: id_ for id_, piece in enumerate(spelled)}
    merges = []
    for id_ in sorted(range(259, ours.vocab_size), key=lambda id_: (-ours.scores[id_], id_)):
        piece = spelled[id_]
        splits = [(piece[:at], piece[at:]) for at in range(1, len(piece)) if piece[:at] in ids and piece[at:] in ids]
        merges += sorted(splits, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return ids, merges


@pytest.mark.parametrize("metaspace", [None, "first", "never"])
def test_texts_with_byte_fallback_have_the_same_ids(tmp_path, metaspace):
    made = with_fallback(*merges_of(tokenizer.read(published("tok512.bin"))), metaspace=metaspace)
    made.save(str(tmp_path / "tokenizer.json"))
    ours, theirs = hf_json.read(tmp_path / "tokenizer.json"), without_specials(made)
    assert (ours.bos_id, ours.eos_id) == (1, 2)
    for text in random_texts(3000):
        assert ours.encode(text, bos=False) == theirs.encode(text).ids, repr(text)


def test_what_was_made_from_scores_is_written_as_scores_again(tmp_path):
    first = tokenizer.read(published("tokenizer.bin"))
    ids, merges = merges_of(first)
    with_fallback(ids, merges, metaspace=None).save(str(tmp_path / "tokenizer.json"))
    listed = hf_json.read(tmp_path / "tokenizer.json")
    assert scores_say(listed) is None
    tokenizer.write(listed, tmp_path / "again.bin")
    again = tokenizer.read(tmp_path / "again.bin")
    assert again.pieces == first.pieces
    for text in random_texts(1000):
        if "\u2581" not in text:
            assert again.encode(text) == first.encode(text), repr(text)


def test_a_list_that_is_not_what_scores_would_say_is_kept_as_a_list(tmp_path):
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", "a", "b", "ab", "aab", "aa"]
    # aab could be made of aa and b too, which the list does not have.
    merges = [("a", "a"), ("a", "b"), ("a", "ab")]
    made = with_fallback({piece: id_ for id_, piece in enumerate(pieces)}, merges, metaspace=None)
    made.save(str(tmp_path / "tokenizer.json"))
    listed, theirs = hf_json.read(tmp_path / "tokenizer.json"), without_specials(made)
    for text in ("aaab", "abab aaaaa", "  baa aa", "ab\n"):
        assert listed.encode(text, bos=False) == theirs.encode(text).ids
    assert scores_say(listed)
    with pytest.raises(TokenizerError, match="scores cannot say"):
        tokenizer.write(listed, tmp_path / "no.bin")
