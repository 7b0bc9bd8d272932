"""Faults of the tokenizer and of printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from harness.diagnosis.fault import Change, Fault, encoder, printer
from harness.tokenizer import Tokenizer
from harness.tokenizer.bpe import KNOWN_WRONG, EncodeRules

__all__ = ["PRINTING", "TOKENIZER"]

# ---- tokenizer: the wrong encoders that `bpe` knows, with their symptom, cause and fix ---------------------------

_STORIES = {
    "no-bos": (
        "a prompt's text differs from the first token on; without a prompt there is nothing to feed",
        "the prompt is encoded without BOS",
        "put id 1 in front",
    ),
    "eos-appended": (
        "text ends, or another story begins, right after the prompt",
        "the prompt is encoded with EOS, as training examples are",
        "do not append id 2",
    ),
    "no-dummy-prefix": (
        "a prompted story differs from the first token on",
        "the text is encoded as it is",
        "put the id of the lone space in front of a text that is not empty",
    ),
    "dummy-prefix-on-empty": (
        "without a prompt another story begins",
        "the dummy prefix is added to an empty prompt too",
        "an empty prompt is BOS alone",
    ),
    "dummy-prefix-unless-space": (
        "prompts that begin with a space give another story",
        "no prefix is added where the text begins with a space already",
        "add it always: two spaces are encoded then",
    ),
    "trimmed": (
        "prompts with a space or newline at either end give another story",
        "the prompt is stripped",
        "encode it as it is",
    ),
    "squeezed": (
        "prompts with several spaces in a row give another story",
        "runs of spaces are made one, as SentencePiece does for vocabularies trained with its defaults",
        "encode every space",
    ),
    "meta-space": (
        "a prompt with U+2581 gives another story",
        "U+2581 is replaced by a space, as SentencePiece does",
        "it is a character like any other: three byte pieces",
    ),
    "specials-parsed": (
        "a prompt that spells <s> or </s> gives another story, or ends at once",
        "the names of special tokens are looked for in the text",
        "text never becomes a control token",
    ),
    "byte-lookup": (
        "prompts with characters beyond ASCII give another story",
        "every byte is looked up for itself",
        "look up whole code points, and fall back to bytes",
    ),
    "raw-byte-pieces": (
        "prompts are split otherwise: single characters become byte pieces",
        "byte pieces are stored as their byte, and found before the piece of the same character",
        "byte pieces are spelled <0xHH>, and come into play only where no piece fits",
    ),
    "no-byte-offset": (
        "ids of bytes are 3 too small; the text may hide it, for such pieces print nothing",
        "the id of byte b is taken to be b",
        "b + 3",
    ),
    "unk-for-unknown": (
        "prompts with characters that are no piece give another story",
        "unknown characters become <unk>",
        "their bytes, each plus 3",
    ),
    "unknown-dropped": (
        "prompts with characters that are no piece give another story",
        "unknown characters are left out",
        "their bytes, each plus 3",
    ),
    "no-merges": (
        "a prompt costs a step for every character, and its story differs",
        "pairs are never merged",
        "merge the best pair until there is none",
    ),
    "one-merge": (
        "a prompt costs a step for nearly every character, and its story differs",
        "the loop over merges ends after one",
        "repeat it until no pair is a piece",
    ),
    "leftmost-first": (
        "only words that merge in several ways show it (here, lllly)",
        "the first pair that is a piece is merged, whatever its score",
        "merge the pair of the highest score",
    ),
    "ties-right": (
        "only repeated letters show it (oooo)",
        "score >= best replaces the best pair",
        "score > best: the leftmost wins",
    ),
    "lowest-score": (
        "only words that merge in several ways show it (here, lllly)",
        "the pair of the lowest score is merged first",
        "merge the pair of the highest score",
    ),
    "longest-match": (
        "often the same, but not for all words (here, lllly)",
        "the longest piece is taken from the left",
        "merge pairs by score",
    ),
    "floor-1e9": (
        "only runs of spaces show it, and only where the vocabulary has pieces for them, scored -1e9",
        "the search for the best pair starts at -1e9",
        "at -1e10",
    ),
    "floor-100": (
        "rare words fall apart, and the story differs",
        "the search for the best pair starts at -100",
        "at -1e10",
    ),
    "floor-0": (
        "nothing is merged: a prompt costs a step for every character",
        "the search for the best pair starts at 0, and scores are negative",
        "at -1e10",
    ),
}


# How these sound after "it behaves exactly as if", where the cause would not say enough.
_AS_IF = {
    "no-dummy-prefix": "the prompt were encoded as it is, without the space (the dummy prefix) in front",
    "trimmed": "white space at both ends of the prompt were stripped before it is encoded",
    "byte-lookup": "the prompt were looked up byte by byte, not by whole code points",
    "raw-byte-pieces": "byte pieces were found under their byte, before the piece of the same character",
    "no-byte-offset": "the id of byte b were b instead of b + 3",
    "one-merge": "the encoder's loop over merges ended after one",
    "no-merges": "the encoder never merged a pair",
    "ties-right": "of pairs with the same score the encoder merged the last, not the first",
    "floor-1e9": "the search for the best pair to merge started at -1e9 instead of -1e10",
    "floor-100": "the search for the best pair to merge started at -100 instead of -1e10",
    "floor-0": "the search for the best pair to merge started at 0, and scores are negative",
    "no-bos": "the prompt were encoded without BOS (id 1) in front",
    "eos-appended": "EOS (id 2) were appended to the prompt",
    "dummy-prefix-on-empty": "an empty prompt got the space in front (the dummy prefix) too",
    "dummy-prefix-unless-space": "a prompt that begins with a space got none in front (no dummy prefix)",
    "squeezed": "every run of spaces in the prompt were made one space",
    "meta-space": "U+2581 in the prompt were taken for a space",
    "specials-parsed": "<s> and </s> in the prompt became ids 1 and 2",
    "unk-for-unknown": "characters without a piece became <unk> (id 0)",
    "unknown-dropped": "characters without a piece were left out",
    "leftmost-first": "the encoder merged the first pair that is a piece, whatever its score",
    "lowest-score": "the encoder merged the pair of the lowest score first",
    "longest-match": "the encoder took the longest piece from left to right instead of merging pairs by score",
}


def _by(rules: EncodeRules) -> Change:
    def encoded(tokenizer: Tokenizer, prompt: bytes) -> list[int]:
        return tokenizer.encode(prompt, rules=rules)

    return encoder(encoded=encoded)


def _by_decoded_text(tokenizer: Tokenizer, prompt: bytes) -> list[int]:
    """Pieces are found in a map by text: all byte pieces that are no UTF-8 by themselves have the same, U+FFFD."""
    ids = tokenizer.encode(prompt)
    last = max((id_ for id_ in range(tokenizer.vocab_size) if (tokenizer.is_byte_piece(id_) or 0) >= 0x80), default=0)
    return [last if (tokenizer.is_byte_piece(id_) or 0) >= 0x80 else id_ for id_ in ids]


TOKENIZER = (
    *(
        Fault(f"tokenizer-{name}", "tokenizer", *_STORIES[name], _by(rules), as_if=_AS_IF.get(name, ""))
        for name, _, rules in KNOWN_WRONG
    ),
    Fault(
        "tokenizer-map-of-text",
        "tokenizer",
        "characters of byte pieces all become the same piece",
        "pieces are decoded to text and kept in a map by it, where bytes from 0x80 on collide as U+FFFD",
        "keep pieces as bytes",
        encoder(encoded=_by_decoded_text),
        as_if="pieces were looked up by their decoded text, in which all bytes from 0x80 on are the same (U+FFFD)",
    ),
    Fault(
        "tokenizer-size-checked",
        "tokenizer",
        "it refuses a tokenizer that has more pieces than the model",
        "the number of pieces in the file is compared with vocab_size",
        "take the first vocab_size pieces and ignore the rest",
        encoder(fits=lambda tokenizer, n_pieces, config: n_pieces == config.vocab_size),
    ),
)


# ---- printing ----------------------------------------------------------------------------------------------------


def _always_after_bos(tokenizer: Tokenizer, previous: int, token: int) -> bytes:
    return tokenizer.printed(tokenizer.bos_id, token)


def _never_after_bos(tokenizer: Tokenizer, previous: int, token: int) -> bytes:
    return tokenizer.printed(-1, token)


def _spelled_out(tokenizer: Tokenizer, previous: int, token: int) -> bytes:
    if tokenizer.is_byte_piece(token) is None:
        return tokenizer.printed(previous, token)
    return tokenizer.pieces[token]


def _piece_by_piece(tokenizer: Tokenizer, previous: int, token: int) -> bytes:
    return tokenizer.decode_piece(previous, token).decode("utf-8", "replace").encode()


def _fed(fed: Sequence[int], stops: frozenset[int]) -> Iterator[tuple[int, int]]:
    yield from pairwise((0, *fed[:-1]))


def _argument(prompt: bytes, pieces: Sequence[bytes]) -> bytes:
    return prompt


def _nothing(prompt: bytes, pieces: Sequence[bytes]) -> bytes:
    return b""


def _shown(function: Callable[[Tokenizer, int, int], bytes]) -> Change:
    return printer(shown=function)


PRINTING = (
    Fault(
        "space-after-bos-kept",
        "printing",
        "the text begins with a space",
        "pieces are printed as they are",
        "strip one leading space from the piece after BOS",
        _shown(_never_after_bos),
        as_if="the space that begins the first piece after BOS were printed",
    ),
    Fault(
        "spaces-stripped",
        "printing",
        "Onceuponatime,",
        "the previous token is never updated, so that every piece is taken to follow BOS",
        "set token = next after printing",
        _shown(_always_after_bos),
        as_if="every piece lost its leading space, as if it followed BOS: token is never set to next",
    ),
    Fault(
        "byte-pieces-literal",
        "printing",
        "<0x0A> instead of newlines, Zo<0xC3><0xAB>",
        "byte pieces are printed as they are spelled",
        "print their byte",
        _shown(_spelled_out),
        as_if="byte pieces were printed as they are spelled, <0x0A>",
    ),
    Fault(
        "bytes-unfiltered",
        "printing",
        "characters of byte pieces appear (which looks better, and differs from llama2.c)",
        "every byte is printed",
        "a piece of one byte only if that is printable ASCII or white space",
        _shown(lambda tokenizer, previous, token: tokenizer.decode_piece(previous, token)),
        as_if="every byte piece were printed, even where it is not printable",
    ),
    Fault(
        "pieces-as-text",
        "printing",
        "U+FFFD where a character is split over several pieces",
        "each piece is decoded to text for itself",
        "write bytes, or decode across pieces",
        _shown(_piece_by_piece),
        as_if="each piece were decoded to text for itself",
    ),
    Fault(
        "fed-token-printed",
        "printing",
        "<s> begins the text and its last piece is missing",
        "the token that was fed is printed, not the one that follows",
        "print next",
        printer(printed_ids=_fed),
        as_if="the token that was fed were printed, not the next one",
    ),
    Fault(
        "prompt-from-argument",
        "printing",
        "characters of byte pieces appear in the prompt but not in the story",
        "the prompt is printed from the command line",
        "print its pieces, decoded like all others",
        printer(echo=_argument),
        as_if="the prompt were printed from the command line, not from its pieces",
    ),
    Fault(
        "prompt-not-echoed",
        "printing",
        "the prompt is missing",
        "only new tokens are printed",
        "print the prompt's pieces too",
        printer(echo=_nothing),
        as_if="the prompt were not printed",
    ),
)
