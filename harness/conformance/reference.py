"""Reference: the judge's own model, with its exact logits and the noise floors of honest programs.

float32 models are judged by float64 logits, int8 models by the strict arithmetic (float32, sums left to right, the C
library's functions), because int8 text depends on the order of sums and that order is llama2.c's.

Floors come from ensembles of engines; see `harness.judging.floor` for what they mean.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checkpoint import Streamed
from harness.engine import LIBRARY, STRICT, Engine, Judged, Ops, Session, blas_threads, generate
from harness.engine.honest import ensemble, rounded
from harness.judging.floor import position_floor, run_floor
from harness.judging.printing import Printing, byte_level_printings, printings
from harness.judging.text_walk import Floors
from harness.model_config import ModelConfig
from harness.models import Model
from harness.tokenizer import ByteLevelTokenizer

__all__ = ["Reference", "rounded"]

Array = npt.NDArray[Any]

_KEEP_BYTES = 3 << 30
_KEEP_LOGITS_BYTES = 128 << 20  # of exact logits: all programs are judged by the same golden sequences
_FREE_RUN = 96  # positions of the reference's own story that every run floor includes


class Reference:
    """A model as the judge sees it. Engines are made when first needed and kept.

    Attributes:
        model: checkpoint and tokenizer.
        is_int8: whether the checkpoint holds int8 weights.
        exact: the engine whose logits are taken for true.
        printings: conventions of printing over this vocabulary, llama2.c's first.
    """

    def __init__(self, model: Model, *, keep_bytes: int = _KEEP_BYTES) -> None:
        """Prepare to judge.

        Args:
            keep_bytes: weights that are no larger in float64 stay in memory; others are read from the file in every
                pass, a layer at a time.
        """
        self.model = model
        self.config: ModelConfig = model.checkpoint.config
        self._keep_bytes = keep_bytes
        tensors = model.checkpoint.tensors
        self._tensors = Streamed(tensors) if 8 * self.config.n_params > keep_bytes else tensors
        self.is_int8 = model.checkpoint.group_size is not None
        self._known_floors: dict[tuple[str, tuple[int, ...]], float] = {}
        self._known_logits: dict[tuple[int, tuple[int, ...]], Array] = {}
        self._risen: dict[tuple[int, tuple[int, ...]], list[Array]] = {}
        self.confirmed: set[Hashable] = set()  # golden sequences, and goldens, that this reference agrees with

    def _engine(self, dtype: npt.DTypeLike, ops: Ops) -> Engine:
        return Engine(self.config, self._tensors, dtype=dtype, ops=ops, keep_bytes=self._keep_bytes)

    @cached_property
    def exact(self) -> Engine:
        return self._engine(np.float32, STRICT) if self.is_int8 else self._engine(np.float64, LIBRARY)

    @cached_property
    def printings(self) -> list[Printing]:
        tokenizer = self.model.vocabulary
        if isinstance(tokenizer, ByteLevelTokenizer):
            return byte_level_printings(
                tokenizer.pieces, tokenizer.special, bos_id=tokenizer.bos_id, ends=tokenizer.stop_ids
            )
        byte_of = [tokenizer.is_byte_piece(i) for i in range(tokenizer.vocab_size)]
        return printings(tokenizer.pieces, byte_of, bos_id=tokenizer.bos_id)

    @cached_property
    def ensemble(self) -> list[Engine]:
        """Honest programs of the model's own arithmetic, in other orders of sums and with inputs moved by an ulp."""
        return ensemble(self.config, self.model.checkpoint.tensors, is_int8=self.is_int8)

    def classes(self, precision: str) -> list[Engine]:
        """Honest programs of a declared lower precision: weights alone rounded, and activations too."""
        if precision not in self._classes:
            group = next(
                g for g in (64, 32, 16, 8, 4, 2, 1) if not self.config.dim % g and not self.config.hidden_dim % g
            )
            self._classes[precision] = [self._engine(np.float32, ops) for ops in rounded(precision, group_size=group)]
        return self._classes[precision]

    @cached_property
    def _classes(self) -> dict[str, list[Engine]]:
        return {}

    def session(self) -> Session:
        """Start a growing sequence on the exact engine."""
        return self.exact.session()

    def judge(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> list[Judged]:
        """Judge tokens of many sequences in one teacher-forced pass; see `Engine.judge`."""
        with blas_threads(1):
            return self.exact.judge(sequences, first)

    def floors(self, precision: str, sequence: Sequence[int]) -> Floors:
        """The noise that a run near `sequence` has, for a program of a declared precision."""
        declared = None
        if precision != "f32" and not (precision == "q8" and self.is_int8):
            declared = self.run_floor(precision, sequence)
        usual = self.run_floor("int8", sequence) if self.is_int8 else self.usual_floor
        return Floors(self.floor_at if not self.is_int8 else lambda ids: usual, usual, declared)

    def floor_at(self, ids: Sequence[int]) -> float:
        """The noise floor of the logits after ids, in float32."""
        key = ("f32", tuple(ids))
        if key not in self._known_floors:
            last = len(ids) - 1
            members = [engine.logits(ids, first=last) for engine in self.ensemble]
            self._known_floors[key] = float(position_floor(self.exact.logits(ids, first=last), members)[0])
        return self._known_floors[key]

    def exact_logits(self, sequence: Sequence[int], first: int = 0) -> Array:
        """The exact logits (n_positions, vocab_size) in float64 from position `first` on; not to be written to."""
        key = (first, tuple(sequence))
        found = self._known_logits.pop(key, None)
        if found is None:
            found = self.exact.logits(sequence, first=first).astype(np.float64, copy=False)
            found.flags.writeable = False
        self._known_logits[key] = found  # the last one used is the last to go
        while len(self._known_logits) > 1 and sum(a.nbytes for a in self._known_logits.values()) > _KEEP_LOGITS_BYTES:
            del self._known_logits[next(iter(self._known_logits))]
        return found

    def floors_along(self, sequence: Sequence[int], first: int = 0) -> Array:
        """Return (n_positions,) the noise floors of a sequence from position `first` on.

        For float32 the floor of each position; for an int8 model one for all, the quantile over the run.
        """
        return list(self.rising_floors(sequence, first))[-1]

    def rising_floors(self, sequence: Sequence[int], first: int = 0) -> Iterator[Array]:
        """Yield the floors by one honest program, by two, and so on; the last are those of `floors_along`.

        What is inside of the floors by some is inside of those by all, and each program costs a pass.
        """
        if self.is_int8:
            yield np.full(len(sequence) - first, self.run_floor("int8", sequence))
            return
        risen = self._risen.setdefault((first, tuple(sequence)), [])
        # Plain sums from left to right cost more than all others.
        for n, engine in enumerate(sorted(self.ensemble, key=lambda one: one.ops is STRICT)):
            if n == len(risen):
                found = position_floor(self.exact_logits(sequence, first), [engine.logits(sequence, first=first)])
                risen.append(np.maximum(risen[-1], found) if risen else found)
            yield risen[n]

    @cached_property
    def usual_floor(self) -> float:
        """The largest noise floor over the reference's own story."""
        story = self._own_story
        exact = self.exact.logits(story)
        return float(position_floor(exact, [engine.logits(story) for engine in self.ensemble]).max())

    def run_floor(self, arithmetic: str, sequence: Sequence[int]) -> float:
        """Upper quantile of the distances over a sequence and the reference's own story.

        Args:
            arithmetic: "int8" for an int8 model's own, or a declared precision ("f16", "bf16", "q8").
        """
        key = (arithmetic, tuple(sequence))
        if key not in self._known_floors:
            engines = self.ensemble if arithmetic == "int8" else self.classes(arithmetic)
            distances = [
                position_floor(self.exact.logits(run), [engine.logits(run) for engine in engines])
                for run in (list(sequence), self._own_story)
            ]
            self._known_floors[key] = run_floor(np.concatenate(distances))
        return self._known_floors[key]

    @cached_property
    def _own_story(self) -> list[int]:
        vocabulary = self.model.vocabulary
        bos = max(0, vocabulary.bos_id)  # some vocabularies have none
        with blas_threads(1):
            return [bos, *generate(self.exact, [bos], steps=_FREE_RUN, stop=vocabulary.stop_ids)]
