"""Train a byte-pair vocabulary with byte fallback and write it in llama2.c's `tokenizer.bin` layout.

The vocabulary is laid out as SentencePiece lays out its own: ids 0, 1, 2 are unknown, BOS and EOS, ids
3..258 the 256 byte pieces, then the merged pieces in the order they were learned (scores 0, -1, -2, ...),
then the single characters, commonest first, the scores going on downwards. Text is not normalised, a space
is a character like any other and begins the word it precedes, digits stand alone, and a newline has no
piece of its own (it is byte piece 13).

File: uint32 longest piece in bytes; then per piece float32 score, int32 length, that many bytes.
Little-endian.
"""

import itertools
import re
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BOS, EOS = 1, 2
N_SPECIAL = 3
N_BYTES = 256
SPECIAL_PIECES = (b"<unk>", b"\n<s>\n", b"\n</s>\n")
# A word or a run of other signs, each with the space before it; one digit; one space or newline.
_WORDS = re.compile(r" ?[^\W\d_]+| ?[^\w\s]+|\d|\s|_")


@dataclass(frozen=True)
class Vocabulary:
    """Pieces and scores in id order.

    >>> vocabulary = train(["a cat, a café"], vocab_size=3 + 256 + 9, fallback="é")
    >>> vocabulary.decode(vocabulary.encode("a café!"))
    'a café!'
    """

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]
    _words: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)
    _ids: dict[bytes, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._ids.update((piece, i) for i, piece in enumerate(self.pieces))

    def encode(self, text: str) -> list[int]:
        """Ids with the dummy prefix, without BOS; no piece crosses a word, so each is merged alone."""
        ids: list[int] = []
        for word in _WORDS.findall(" " + text) if text else []:
            if word not in self._words:
                self._words[word] = tuple(self._encode_word(word))
            ids += self._words[word]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids that `encode` gave."""
        text = b"".join(
            bytes([i - N_SPECIAL]) if N_SPECIAL <= i < N_SPECIAL + N_BYTES else self.pieces[i] for i in ids
        )
        return text.removeprefix(b" ").decode(errors="replace")

    def document(self, story: str) -> list[int]:
        """Ids of a whole story, BOS before it."""
        return [BOS, *self.encode(story)]

    def _encode_word(self, word: str) -> list[int]:
        ids: list[int] = []
        for character in word:
            raw = character.encode()
            ids += [self._ids[raw]] if raw in self._ids else [byte + N_SPECIAL for byte in raw]
        while True:
            merges = [
                (self._ids.get(self.pieces[a] + self.pieces[b]), i)
                for i, (a, b) in enumerate(itertools.pairwise(ids))
            ]
            found = [(self.scores[merged], -i, merged) for merged, i in merges if merged is not None]
            if not found:
                return ids
            _, at, merged = max(found)
            ids[-at : -at + 2] = [merged]


def train(texts: Iterable[str], *, vocab_size: int, fallback: str) -> Vocabulary:
    """Learn exactly `vocab_size` pieces; the characters of `fallback` get none and fall back to bytes."""
    words = Counter(word for text in texts for word in _WORDS.findall(" " + text))
    no_piece = set(fallback) | {"\n"}
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            if character not in no_piece:
                characters[character] += count
    n_merges = vocab_size - N_SPECIAL - N_BYTES - len(characters)
    if n_merges < 0:
        raise ValueError(f"vocab_size {vocab_size}: the characters alone need {vocab_size - n_merges} pieces")
    merges = _learn_merges(words, no_piece, n_merges)
    learned = [*merges, *sorted(characters, key=lambda c: (-characters[c], c))]
    pieces = [
        *SPECIAL_PIECES,
        *(b"<0x%02X>" % byte for byte in range(N_BYTES)),
        *(piece.encode() for piece in learned),
    ]
    scores = [0.0] * (N_SPECIAL + N_BYTES) + [-float(i) for i in range(len(learned))]
    return Vocabulary(tuple(pieces), tuple(scores))


def _learn_merges(words: Counter[str], no_piece: set[str], n_merges: int) -> list[str]:
    """The `n_merges` commonest joins, each counted after the ones before it; ties go to the smaller text."""
    # A character without a piece splits its word for good.
    splits = [(list(part), count) for word, count in words.items() for part in _parts(word, no_piece)]
    merges: list[str] = []
    while len(merges) < n_merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, count in splits:
            for pair in itertools.pairwise(symbols):
                pairs[pair] += count
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        # Two different pairs may spell one piece; it is listed once.
        if left + right not in merges:
            merges.append(left + right)
        for symbols, _ in splits:
            i = 0
            while i < len(symbols) - 1:
                if symbols[i] == left and symbols[i + 1] == right:
                    symbols[i : i + 2] = [left + right]
                i += 1
    return merges


def _parts(word: str, no_piece: set[str]) -> list[str]:
    parts = [""]
    for character in word:
        if character in no_piece:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if len(part) > 1]


def write(vocabulary: Vocabulary, path: Path) -> None:
    """Write `tokenizer.bin`."""
    with path.open("wb") as file:
        file.write(struct.pack("<I", max(map(len, vocabulary.pieces))))
        for piece, score in zip(vocabulary.pieces, vocabulary.scores, strict=True):
            file.write(struct.pack("<fi", score, len(piece)) + piece)


def read(path: Path) -> Vocabulary:
    """Read a `tokenizer.bin` that `write` wrote."""
    raw, offset = path.read_bytes(), 4
    pieces, scores = [], []
    while offset < len(raw):
        score, length = struct.unpack_from("<fi", raw, offset)
        pieces.append(raw[offset + 8 : offset + 8 + length])
        scores.append(score)
        offset += 8 + length
    return Vocabulary(tuple(pieces), tuple(scores))
