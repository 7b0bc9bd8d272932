"""What looks wrong with a model when it reads a plain English text.

Where the text is unlikely, or becomes much likelier with a known mistake undone (`suspects`), or to a program with a
fault of the catalogue, that is what happened to the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.checkpoint import Checkpoint
from harness.conversion.suspects import applicable
from harness.diagnosis import CATALOGUE, Fate, faulted
from harness.engine import LIBRARY, Engine
from harness.tokenizer import AnyTokenizer

__all__ = ["TEXTS", "Reading", "judge_by_text"]

# What published story models were made for, and what the models that come along were.
TEXTS = (
    b"Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw "
    b"a big red ball.",
    b"Once upon a time, there was a little girl named Rosa. She lived near the park. It was a rainy day, so she took "
    b"her raincoat. She went to the park with her dad.",
    b"This is a story in 3 chapters. Lily was a little girl who lived in house #17 with a big dog named Momo.",
    b"# Vera's book, 2014\n\nVera was a little girl who lived in house 72946 with her mom. She'd got a small bear, "
    b"and it's called Momo.",
)
# By how much a mistake, undone, must make the text likelier: nats a token, far above what eps or a rounding does; and
# nats in all, odds of 20,000 to 1.
_LIKELIER, _LIKELIER_IN_ALL = 0.2, 10.0
# Shares of what guessing costs, log(vocab_size): below the first a text is as likely as a model of any size makes it,
# and the catalogue is not asked; above the second it means nothing to the model, and what only makes it less unlikely
# explains nothing. (A model of another language is no broken model.)
_LIKELY, _UNLIKELY = 0.15, 0.5
_CATALOGUE_PARAMS = 60_000_000  # up to here a pass for every fault takes a minute at most
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """How likely the text is.

    Attributes:
        nats: mean negative log-likelihood of a token, the model as it is.
        guessing: that of a model that knows nothing, log(vocab_size).
        explanations: (what happened to the file, nats with that undone), the best first; empty: none helps.
    """

    nats: float
    guessing: float
    explanations: list[tuple[str, float]]

    @property
    def is_sensible(self) -> bool:
        return self.nats < _UNLIKELY * self.guessing and not self.explanations


def judge_by_text(checkpoint: Checkpoint, tokenizer: AnyTokenizer, texts: Sequence[bytes] = TEXTS) -> Reading:
    """Run the model over texts; where all are unlikely, look for the mistake that explains one."""
    engine = Engine(checkpoint.config, checkpoint.tensors)
    sequences = [tokenizer.encode(text)[: checkpoint.config.seq_len] for text in texts]
    found = sorted(((_nats(engine, ids), ids) for ids in sequences), key=lambda pair: pair[0])
    readings = []
    for nats, ids in found:
        readings.append(_read(checkpoint, ids, nats))
        if readings[-1].is_sensible or readings[-1].explanations:
            return readings[-1]
    return readings[0]


def _read(checkpoint: Checkpoint, ids: list[int], nats: float) -> Reading:
    guessing = math.log(checkpoint.config.vocab_size)
    limit = min(nats - max(_LIKELIER, _LIKELIER_IN_ALL / len(ids)), _UNLIKELY * guessing)
    helpful = _helpful(_mended(checkpoint, ids), limit)
    is_small = checkpoint.config.n_params <= _CATALOGUE_PARAMS and checkpoint.config.is_plain
    if is_small and min([nats, *(likely for _, likely in helpful)]) > _LIKELY * guessing:
        helpful = _helpful([*helpful, *_by_faults(checkpoint, ids)], limit)
    return Reading(nats, guessing, helpful[:_SHOWN])


def _helpful(found: Iterable[tuple[str, float]], limit: float) -> list[tuple[str, float]]:
    return sorted((pair for pair in found if pair[1] < limit), key=lambda pair: round(pair[1], 2))


def _mended(checkpoint: Checkpoint, ids: list[int]) -> Iterator[tuple[str, float]]:
    for suspect in applicable(checkpoint.config):
        mended = suspect.mend(checkpoint)
        yield suspect.what, _nats(Engine(mended.config, mended.tensors), ids)


def _by_faults(checkpoint: Checkpoint, ids: list[int]) -> Iterator[tuple[str, float]]:
    for fault in CATALOGUE:
        if fault.change.part == "ops" and fault.fate is Fate.KILLABLE:
            engine = Engine(checkpoint.config, checkpoint.tensors, ops=replace(LIBRARY, **dict(faulted(fault).ops)))
            yield f"it was made for a program that has the fault {fault.name}", _nats(engine, ids)


def _nats(engine: Engine, ids: list[int]) -> float:
    with np.errstate(all="ignore"):
        logits = np.asarray(engine.logits(ids), np.float64)[:-1]
    if not np.isfinite(logits).all():
        return math.inf
    top = logits.max(-1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    return float((log_sum - logits[np.arange(len(logits)), ids[1:]]).mean())
