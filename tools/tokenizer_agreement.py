"""Encode many generated texts with our tokenizers and with the libraries that define them; count disagreements.

    python tools/tokenizer_agreement.py --against sentencepiece --model tokenizer.model --count 1000000
    python tools/tokenizer_agreement.py --against tiktoken --ranks tokenizer.model --count 1000000

Text number i depends on the seed and i only: `--only i` repeats it. Against sentencepiece, --model is a BPE model
with byte fallback, such as Llama 2's. Against tiktoken, --ranks is a list of ranks, such as Llama 3's; where only a
model of SentencePiece is at hand, --model makes ranks of it: the 256 bytes, then its pieces of more than one byte, in
their order. The words are cut by Llama 3's pattern. A text is a run of parts: pieces of the vocabulary, random
characters of many scripts, white space, digits, contractions, spellings of special pieces, and bits of other parts.
Characters that Unicode has not assigned (by this Python's tables) are left out: whether they are letters depends on
how new a library's tables are, and with it where words are cut.

Exit status 1 if any text has other ids, or comes back from decoding as another text.
"""

from __future__ import annotations

import argparse
import random
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from harness.tokenizer import ByteLevelTokenizer, Tokenizer, sentencepiece_model, tiktoken_ranks
from harness.tokenizer.byte_level import LLAMA3

# First and last code points of what is drawn from; surrogates are in none.
RANGES = (
    *((0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x6FF), (0x900, 0x97F)),
    *((0xE00, 0xE7F), (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x2070, 0x218F), (0x2190, 0x25FF), (0x3000, 0x30FF)),
    *((0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x1F300, 0x1FAFF)),
    *((0x10000, 0x100FF), (0x12000, 0x120FF), (0x1D400, 0x1D7FF), (0x20000, 0x200FF), (0xE0000, 0xE007F), (1, 0x1F)),
)
SPACES = (" ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u2028", "\u3000", "\v", "\f", "\x85")
SPELLINGS = (
    *("<s>", "</s>", "<unk>", "<0x41>", "<0x0A>", "[INST]", "\u2581", "<|begin_of_text|>", "<|eot_id|>", "<|", "|>"),
    *("'s", "'T", "'re", "'VE", "'ll", "'D", "\u2019s", "don't", "I'M", "'\u017f", "e\u0301", "\ufeff", "\u200d"),
)

Encode = Callable[[str], list[int]]
Decode = Callable[[list[int]], bytes]


def text(seed: int, index: int, pieces: Sequence[str]) -> str:
    """Generate text number `index`."""
    source = random.Random(f"{seed}:{index}")
    parts: list[str] = []
    for _ in range(source.choice((0, 1, 2, 3, 5, 8, 13, 21))):
        kind = source.random()
        if kind < 0.35:
            parts.append(source.choice(pieces))
        elif kind < 0.6:
            first, last = source.choice(RANGES)
            drawn = (chr(source.randint(first, last)) for _ in range(source.randint(1, 5)))
            parts.append("".join(one for one in drawn if unicodedata.category(one) != "Cn"))
        elif kind < 0.75:
            parts.append(source.choice(SPACES) * source.choice((1, 1, 1, 2, 7)))
        elif kind < 0.83:
            parts.append(str(source.randrange(10 ** source.randint(1, 9))))
        elif kind < 0.93:
            parts.append(source.choice(SPELLINGS))
        elif parts:
            other = source.choice(parts)
            parts.append(other[: source.randint(0, len(other))] * source.choice((1, 2, 5)))
    return "".join(parts)


def sentencepiece_pair(model: Path) -> tuple[Encode, Decode, Encode, list[str]]:
    """Return our encoder and decoder, SentencePiece's encoder, and the texts of the pieces."""
    import sentencepiece

    ours = sentencepiece_model.read(model)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return (lambda one: ours.encode(one, bos=False)), _after_bos(ours), theirs.encode, _texts(ours)


def _after_bos(ours: Tokenizer) -> Decode:
    return lambda ids: ours.decode([ours.bos_id, *ids])


def _texts(ours: Tokenizer) -> list[str]:
    return [piece.decode() for id_, piece in enumerate(ours.pieces) if id_ not in ours.hidden]


def tiktoken_pair(ours: ByteLevelTokenizer) -> tuple[Encode, Decode, Encode, list[str]]:
    """Return our encoder and decoder, tiktoken's encoder, and the texts of the pieces that are texts."""
    import tiktoken

    n = ours.vocab_size - len(ours.special)
    theirs = tiktoken.Encoding(
        "ranks",
        pat_str=LLAMA3,
        mergeable_ranks={piece: rank for rank, piece in enumerate(ours.pieces[:n])},
        special_tokens={ours.pieces[id_].decode(): id_ for id_ in ours.special},
    )
    texts = [piece.decode(errors="ignore") for piece in ours.pieces[:n]]
    return (
        (lambda one: ours.encode(one, bos=False)),
        ours.decode,
        theirs.encode_ordinary,
        [one for one in texts if one],
    )


def ranks_of(model: Path) -> ByteLevelTokenizer:
    """Make ranks of a SentencePiece model: the bytes, then its pieces of more than one byte."""
    found = sentencepiece_model.read(model)
    pieces = dict.fromkeys(bytes((byte,)) for byte in range(256))
    pieces |= dict.fromkeys(
        piece for id_, piece in enumerate(found.pieces) if id_ not in found.hidden and len(piece) > 1
    )
    special = [name.encode() for name in tiktoken_ranks.LLAMA3_SPECIAL]
    ids = range(len(pieces), len(pieces) + len(special))
    return ByteLevelTokenizer((*pieces, *special), frozenset(ids), (LLAMA3,))


def compare(
    pair: tuple[Encode, Decode, Encode, list[str]], seed: int, indices: range, replaced: tuple[str, str]
) -> list[str]:
    """Return a line for each text that differs.

    Args:
        replaced: what comes back as something else: U+2581 as a space from SentencePiece's vocabularies.
    """
    ours, decode, theirs, pieces = pair
    faults: list[str] = []
    for index in indices:
        one = text(seed, index, pieces)
        ids = ours(one)
        expected = theirs(one)
        if ids != expected:
            faults.append(f"--seed {seed} --only {index}: {one!r}: {ids} is not {expected}")
        elif decode(ids) != one.replace(*replaced).encode():
            faults.append(f"--seed {seed} --only {index}: {one!r} comes back as {decode(ids)!r}")
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--against", choices=("sentencepiece", "tiktoken"), required=True)
    parser.add_argument("--model", type=Path, help="a model of SentencePiece")
    parser.add_argument("--ranks", type=Path, help="a list of ranks, for tiktoken")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1_000_000, help="number of texts (default: 1000000)")
    parser.add_argument("--only", type=int, help="the number of the one text to repeat")
    options = parser.parse_args(arguments)
    if options.model is None and (options.against == "sentencepiece" or options.ranks is None):
        parser.error("--model is needed" + ("" if options.against == "sentencepiece" else ", or --ranks"))
    if options.against == "sentencepiece":
        pair, replaced = sentencepiece_pair(options.model), ("\u2581", " ")
    else:
        ours = tiktoken_ranks.read(options.ranks) if options.ranks else ranks_of(options.model)
        pair, replaced = tiktoken_pair(ours), ("", "")
    indices = range(options.count) if options.only is None else range(options.only, options.only + 1)
    start = perf_counter()
    faults = compare(pair, options.seed, indices, replaced)
    print(f"{len(indices):,} texts against {options.against} in {perf_counter() - start:.0f} s: {len(faults)} differ")
    for fault in faults[:10]:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
