"""Why an encoder or decoder is wrong: the known wrong ways that give what it gave, for every text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.errors import TokenizerError
from harness.judging.printing import printings
from harness.tokenizer import AnyTokenizer, Tokenizer
from harness.tokenizer.bpe import HONEST, KNOWN_WRONG, EncodeRules

__all__ = ["REFUSED", "EncodeCauses", "decode_cause", "encode_causes", "shown"]

REFUSED = [-1]
"""Stands for an encoding that was refused."""


@dataclass(frozen=True, slots=True)
class EncodeCauses:
    """What is known to encode so.

    Attributes:
        whole: descriptions, with the name, of ways that give the ids of every text.
        partly: of ways that give those of some wrong texts, with their share; only where `whole` is empty.
    """

    whole: tuple[str, ...] = ()
    partly: tuple[tuple[str, float], ...] = ()


def encode_causes(
    tokenizer: AnyTokenizer,
    wrong: Sequence[tuple[bytes, Sequence[int]]],
    right: Sequence[tuple[bytes, Sequence[int]]],
) -> EncodeCauses:
    """Try the known wrong ways of encoding.

    Args:
        tokenizer: the vocabulary. Of byte-level ones no wrong ways are known.
        wrong, right: texts, each with the ids that it became.
    """
    if not wrong or not isinstance(tokenizer, Tokenizer):
        return EncodeCauses()
    known = [(f"{description} ({name})", rules) for name, description, rules in KNOWN_WRONG]
    if tokenizer.rules != HONEST:  # as of a SentencePiece model, for which llama2.c's rules are the wrong ones
        known.insert(0, ("as llama2.c's programs do (llama2.c)", HONEST))
    whole, partly = [], []
    for description, rules in known:
        n = sum(_by(tokenizer, text, rules) == list(ids) for text, ids in wrong)
        if n == len(wrong) and all(_by(tokenizer, text, rules) == list(ids) for text, ids in right):
            whole.append(description)
        elif n:
            partly.append((description, n / len(wrong)))
    best = tuple(sorted(partly, key=lambda one: -one[1])[:3])
    return EncodeCauses(tuple(whole), () if whole else best)


def _by(tokenizer: Tokenizer, text: bytes, rules: EncodeRules) -> list[int]:
    try:
        return tokenizer.encode(text, rules=rules)
    except TokenizerError:
        return REFUSED


def decode_cause(tokenizer: AnyTokenizer, wrong: Sequence[tuple[Sequence[int], bytes, bytes]]) -> str:
    """Name the known way of printing that gives every wrong text; empty if none does.

    Args:
        wrong: ids, the text that they became, and the right one.
    """
    trims: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
        ("all leading spaces are dropped", lambda text: text.lstrip(b" ")),
        ("white space at both ends is dropped", bytes.strip),
    )
    names = []
    if isinstance(tokenizer, Tokenizer):
        byte_of = [tokenizer.is_byte_piece(i) for i in range(tokenizer.vocab_size)]
        known = printings(tokenizer.pieces, byte_of, bos_id=tokenizer.bos_id)
        names = [one.name for one in known if all(b"".join(one.render(ids)) == said for ids, said, _ in wrong)]
    names += [name for name, trim in trims if all(said == trim(expected) for _, said, expected in wrong)]
    return names[0] if names else ""


def shown(ids: Sequence[int]) -> str:
    """Write ids in decimal, the first of many."""
    if list(ids) == REFUSED:
        return "an error"
    return " ".join(map(str, ids[:16])) + (" ..." if len(ids) > 16 else "") or "nothing"
