"""Probes: named requests to named models, and what each fault changes in their answers.

Many faults are tried in seconds: as long as a faulty program has said what the right one says, its logits at a
position are those of one teacher-forced pass over the right answer. So the first wrong token of every probe of a
model comes out of one pass over all of them; only faults of the encoder, the loop and the printer are run freely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.fault import Fault, faulted
from harness.diagnosis.port import Answer, Port, PortCrashed, Request
from harness.engine import Engine
from harness.models import Model

__all__ = ["Effect", "Probed", "first_difference"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a fault does to one probe.

    Attributes:
        kind: "tokens", "bytes" (the same tokens, another stdout), "crash", or "" for nothing.
        first: index of the first wrong token, counted from the one after the first position; a missing or surplus
            token counts.
    """

    kind: str
    first: int | None = None

    def __bool__(self) -> bool:
        return bool(self.kind)


NOTHING = Effect("")


def first_difference(actual: Sequence[int], expected: Sequence[int]) -> int | None:
    """Index of the first differing token, a missing or surplus one included; None: equal."""
    pairs = enumerate(zip_longest(actual, expected))
    return next((i for i, (a, b) in pairs if a != b), None)


class Probed:
    """A model, its probes, and the right answers to them.

    Args:
        model: checkpoint and tokenizer.
        requests: by name of the probe.
    """

    def __init__(self, model: Model, requests: Mapping[str, Request]) -> None:
        self.model = model
        self.requests = dict(requests)

    @cached_property
    def right(self) -> dict[str, Answer]:
        """The answers of a port without fault."""
        return {name: Port().answer(self.model, request) for name, request in self.requests.items()}

    def effects(self, fault: Fault) -> dict[str, Effect]:
        """What the fault does to every probe."""
        port = faulted(fault)
        if fault.change.part in ("ops", "reader", "sampler"):
            try:
                engine = port.engine(self.model)
            except PortCrashed:
                return dict.fromkeys(self.requests, Effect("crash"))
            rows = self._right_logits if fault.change.part == "sampler" else self._logits(engine)
            return self._by_prefill(port, rows)
        return {name: self._freely(port, name) for name in self.requests}

    def _fed(self, name: str) -> list[int]:
        """The ids that are fed, as long as all goes well: the first, then all but the last."""
        prompt = Port().prompt_ids(self.model, self.requests[name].prompt)
        return [prompt[0], *self.right[name].ids[:-1]]

    def _logits(self, engine: Engine) -> dict[str, Array]:
        sequences = [self._fed(name) for name in self.requests]
        kept = _Rows(sum(map(len, sequences)), self.model.checkpoint.config.vocab_size, engine.dtype)
        with np.errstate(all="ignore"):
            engine.score(sequences, kept)
        ends = np.cumsum([len(s) for s in sequences])
        return {
            name: kept.logits[end - len(s) : end] for name, s, end in zip(self.requests, sequences, ends, strict=True)
        }

    @cached_property
    def _right_logits(self) -> dict[str, Array]:
        return self._logits(Port().engine(self.model))

    def _by_prefill(self, port: Port, rows: Mapping[str, Array]) -> dict[str, Effect]:
        found = {}
        for name, request in self.requests.items():
            expected, logits = self.right[name].ids, rows[name]
            prompt = Port().prompt_ids(self.model, request.prompt)

            def feed(position: int, token: int, logits: Array = logits) -> Array:
                row: Array = logits[position]
                return row

            choices = port.choices(self.model, prompt, request, feed)
            try:
                first = next((i for i, (a, b) in enumerate(zip(choices, expected, strict=False)) if a != b), None)
            except PortCrashed:
                found[name] = Effect("crash")
                continue
            found[name] = NOTHING if first is None else Effect("tokens", first)
        return found

    def _freely(self, port: Port, name: str) -> Effect:
        request, expected = self.requests[name], self.right[name]
        try:
            prompt = Port().prompt_ids(self.model, request.prompt)
            if port.loop == Port().loop and port.prompt_ids(self.model, request.prompt) == prompt:
                text = port.text(self.model, request.prompt, prompt, expected.ids)  # of the same tokens
                return NOTHING if text == expected.text else Effect("bytes")
            answer = port.answer(self.model, request)
        except PortCrashed:
            return Effect("crash")
        first = first_difference(answer.ids, expected.ids)
        if first is not None:
            return Effect("tokens", first)
        return NOTHING if answer.text == expected.text else Effect("bytes")


class _Rows:
    """Keeps whole rows of logits."""

    def __init__(self, n: int, vocab_size: int, dtype: npt.DTypeLike) -> None:
        self.logits = np.empty((n, vocab_size), dtype)

    def take(self, rows: slice, first_id: int, block: Array) -> None:
        self.logits[rows, first_id : first_id + block.shape[1]] = block
