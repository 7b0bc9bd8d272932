"""Train a byte-level byte-pair vocabulary, as Llama 3 has one, and write it as Hugging Face's `tokenizer.json`.

Ids are laid out as Llama 3's: the 256 bytes in GPT-2's order (those that can be seen first), the merged pieces in the
order they were learned, then the special pieces. A text is cut into words by Llama 3's pattern; each word begins as
its bytes, and the pair that was learned first is merged first. There is no prefix and no fallback: every byte is a
piece.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.stories import Dialog

# Llama 3's pattern, as the file says it; `_WORDS` is the same in the terms of Python's `re`.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# \d for \p{N}: the stories have no other numbers, and no underscore.
_WORDS = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:[^\r\n\w]|_)?[^\W\d_]+|\d{1,3}| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The first of Llama 3.1's 256, at the same distances from each other.
SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(3, 8)),
)
# GPT-2 spells a byte as itself where it is printable Latin-1, else as the next character from U+0100 on.
_VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTE_ORDER = (*_VISIBLE, *(byte for byte in range(256) if byte not in _VISIBLE))
_SPELLING = {
    byte: chr(byte) if byte in _VISIBLE else chr(0x100 + i - len(_VISIBLE)) for i, byte in enumerate(BYTE_ORDER)
}


@dataclass(frozen=True)
class ByteVocabulary:
    """Pieces in id order, special ones apart, and the pairs of ids that are merged, first learned first.

    >>> vocabulary = train(["a cat, a cat"], vocab_size=256 + 2 + len(SPECIAL))
    >>> vocabulary.pieces[256:], vocabulary.decode(vocabulary.encode("a cat é"))
    ((b'at', b'cat'), 'a cat é')
    """

    pieces: tuple[bytes, ...]
    merges: tuple[tuple[int, int], ...]
    _words: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)
    _made: dict[tuple[int, int], int] = field(default_factory=dict, repr=False, compare=False)
    _byte_ids: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._made.update((pair, 256 + number) for number, pair in enumerate(self.merges))
        self._byte_ids.update((byte, id_) for id_, byte in enumerate(BYTE_ORDER))

    @property
    def vocab_size(self) -> int:
        return len(self.pieces) + len(SPECIAL)

    def special(self, name: str) -> int:
        """Id of a special piece by the name between its bars."""
        return len(self.pieces) + SPECIAL.index(f"<|{name}|>")

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without BOS."""
        ids: list[int] = []
        for word in _WORDS.findall(text):
            if word not in self._words:
                self._words[word] = tuple(self._encode_word(word))
            ids += self._words[word]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids that `encode` gave."""
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")

    def document(self, story: str | Dialog) -> list[int]:
        """Ids of a story, from begin to end of text, or of a dialog by Llama 3's template."""
        ids = [self.special("begin_of_text")]
        if isinstance(story, str):
            return [*ids, *self.encode(story), self.special("end_of_text")]
        for role, content in story:
            ids += [self.special("start_header_id"), *self.encode(role), self.special("end_header_id")]
            ids += [*self.encode("\n\n"), *self.encode(content), self.special("eot_id")]
        return ids

    def _encode_word(self, word: str) -> list[int]:
        ids = [self._byte_ids[byte] for byte in word.encode()]
        while True:
            found = [(self._made[pair], at) for at, pair in enumerate(itertools.pairwise(ids)) if pair in self._made]
            if not found:
                return ids
            merged, at = min(found)
            ids[at : at + 2] = [merged]


def train(texts: Iterable[str], *, vocab_size: int) -> ByteVocabulary:
    """Learn pieces until there are `vocab_size` ids, the commonest join first; ties go to the lower ids."""
    words = Counter(word for text in texts for word in _WORDS.findall(text))
    byte_ids = {byte: id_ for id_, byte in enumerate(BYTE_ORDER)}
    splits = [([byte_ids[byte] for byte in word.encode()], count) for word, count in words.items()]
    pieces, merges = [bytes((byte,)) for byte in BYTE_ORDER], []
    while len(pieces) + len(SPECIAL) < vocab_size:
        pairs: Counter[tuple[int, int]] = Counter()
        for ids, count in splits:
            for pair in itertools.pairwise(ids):
                # Another pair of the same text would make a second piece of it.
                if pieces[pair[0]] + pieces[pair[1]] not in pieces:
                    pairs[pair] += count
        if not pairs:
            raise ValueError(f"vocab_size {vocab_size}: the texts have only {len(pieces) + len(SPECIAL)} ids")
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for ids, _ in splits:
            i = 0
            while i < len(ids) - 1:
                if ids[i] == left and ids[i + 1] == right:
                    ids[i : i + 2] = [len(pieces)]
                i += 1
        merges.append((left, right))
        pieces.append(pieces[left] + pieces[right])
    return ByteVocabulary(tuple(pieces), tuple(merges))


def write(vocabulary: ByteVocabulary, path: Path) -> None:
    """Write `tokenizer.json`, with the parts that Llama 3's has."""
    spelled = ["".join(_SPELLING[byte] for byte in piece) for piece in vocabulary.pieces]
    begin, begin_id = SPECIAL[0], vocabulary.special("begin_of_text")
    first = {"SpecialToken": {"id": begin, "type_id": 0}}
    sequences = [{"Sequence": {"id": name, "type_id": type_id}} for type_id, name in enumerate("AB")]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": len(spelled) + place,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for place, name in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, sequences[0]],
            "pair": [first, sequences[0], {"SpecialToken": {"id": begin, "type_id": 1}}, sequences[1]],
            "special_tokens": {begin: {"id": begin, "ids": [begin_id], "tokens": [begin]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {piece: id_ for id_, piece in enumerate(spelled)},
            "merges": [f"{spelled[left]} {spelled[right]}" for left, right in vocabulary.merges],
        },
    }
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", "utf-8")


def read(path: Path) -> ByteVocabulary:
    """Read a `tokenizer.json` that `write` wrote."""
    model = json.loads(path.read_text("utf-8"))["model"]
    bytes_of = {character: byte for byte, character in _SPELLING.items()}
    pieces = tuple(bytes(bytes_of[character] for character in piece) for piece in model["vocab"])
    merges = (line.split(" ") for line in model["merges"])
    return ByteVocabulary(pieces, tuple((model["vocab"][a], model["vocab"][b]) for a, b in merges))
