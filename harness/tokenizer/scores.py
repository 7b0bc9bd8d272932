"""Whether a vocabulary whose merges are listed merges as its scores would, so that a file of scores can hold it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from harness.errors import TokenizerError
from harness.tokenizer.tokenizer import Tokenizer

__all__ = ["require_scores", "scores_say"]


def require_scores(tokenizer: Tokenizer, path: Path | None) -> None:
    """Refuse a tokenizer that is not described by its pieces and scores.

    Raises:
        TokenizerError: its merges are a list that scores cannot say.
    """
    if why := scores_say(tokenizer):
        raise TokenizerError(f"scores cannot say how this tokenizer merges: {why}", path=path)


def scores_say(tokenizer: Tokenizer) -> str | None:
    """Say why merging by scores would differ from merging by this tokenizer's list, or return None.

    It would not if every two pieces whose joined text is a piece are in the list, and if the pairs that make one
    piece follow each other. What remains is the order among pairs that overlap and make the same piece (a + aa and
    aa + a in aaaa), where scores take the leftmost.
    """
    if tokenizer.merges is None:
        return None
    ids = {piece: id_ for id_, piece in enumerate(tokenizer.pieces) if id_ not in tokenizer.hidden}
    best: dict[int, list[float]] = {}
    for (left, right), (score, made) in tokenizer.merges.items():
        if tokenizer.pieces[left] + tokenizer.pieces[right] != tokenizer.pieces[made]:
            return f"its list merges {left} and {right} to {made}, which is not their text"
        best.setdefault(made, []).append(score)
    for id_, piece in enumerate(tokenizer.pieces):
        if id_ in tokenizer.hidden or id_ in tokenizer.whole:
            continue
        for cut in range(1, len(piece)):
            left, right = ids.get(piece[:cut], -1), ids.get(piece[cut:], -1)
            if left >= 0 and right >= 0 and (left, right) not in tokenizer.merges:
                return f"its list does not merge {left} and {right}, whose text is piece {id_}"
    spans = sorted((max(scores), min(scores)) for scores in best.values())
    for (high, _), (_, low) in pairwise(spans):
        if high >= low:
            return "its list mixes the pairs of different pieces"
    return None
