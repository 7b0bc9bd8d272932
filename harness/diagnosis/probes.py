"""Probes: named requests to named models, and what each fault changes in their answers.

Many faults are tried in seconds: as long as a faulty program has said what the right one says, its logits at a
position are those of one teacher-forced pass over the right answer. So the first wrong token of every probe of a
model comes out of one pass over all of them; only faults of the encoder, the loop and the printer are run freely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.fault import Fault, faulted
from harness.diagnosis.port import Answer, Port, PortCrashed, Request
from harness.engine import Engine
from harness.engine.honest import ensemble
from harness.judging.floor import position_floor, run_floor
from harness.models import Model

__all__ = ["Effect", "Probed", "Shift", "first_difference"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a fault does to one probe.

    Attributes:
        kind: "tokens", "bytes" (the same tokens, another stdout), "crash", or "" for nothing.
        first: index of the first wrong token, counted from the one after the first position; a missing or surplus
            token counts.
        token: the wrong one, where the fault only changes choices; no part of its value.
    """

    kind: str
    first: int | None = None
    token: int | None = field(default=None, compare=False)

    def __bool__(self) -> bool:
        return bool(self.kind)


NOTHING = Effect("")


@dataclass(frozen=True, slots=True)
class Shift:
    """How far a fault moves logits.

    Attributes:
        distance: largest, over positions and vocabulary. For float32 models measured in float64, where both
            roundings are far below any floor; for int8 models in llama2.c's own order of sums.
        floor: largest noise floor of these positions; for int8 models the run's.
        ratio: largest distance over the floor of its position, infinite where honest programs do not differ at all;
            for int8 models the run's quantile of distances over the run's floor, that quantile of honest programs.
    """

    distance: float
    floor: float
    ratio: float


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

    def overflows(self, fault: Fault) -> bool:
        """Whether the fault makes logits that are no numbers, in float32."""
        return not all(np.isfinite(rows).all() for rows in self._logits(faulted(fault).engine(self.model)).values())

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

    def shift(self, fault: Fault) -> Shift:
        """How far the fault moves the logits of the right answers, in the arithmetic in which that can be seen best.

        Raises:
            PortCrashed: there are no logits.
        """
        dtype = np.float64 if self.model.checkpoint.group_size is None else np.float32
        actual = self._stacked(self._logits(faulted(fault).engine(self.model, dtype=dtype)))
        distance = np.abs(actual - self._exact).max(axis=1)
        distance[np.isnan(distance)] = np.inf
        if dtype is np.float64:
            floor = self._floor
            ratio = np.divide(distance, floor, out=np.where(distance > 0, np.inf, 0.0), where=floor > 0)
            return Shift(float(distance.max()), float(floor.max()), float(ratio.max()))
        usual = run_floor(self._floor)
        typical = run_floor(distance) if np.isfinite(distance).all() else np.inf
        return Shift(float(distance.max()), usual, typical / usual if usual else np.inf if typical else 0.0)

    @cached_property
    def _exact(self) -> Array:
        dtype = np.float64 if self.model.checkpoint.group_size is None else np.float32
        return self._stacked(self._logits(Port().engine(self.model, dtype=dtype)))

    @cached_property
    def _floor(self) -> Array:
        return position_floor(self._exact, self.honest_logits())

    def honest_logits(self) -> list[Array]:
        """Logits (n_positions, vocab_size) along all right answers, of each program of the honest ensemble."""
        found = self.model.checkpoint
        members = ensemble(found.config, found.tensors, is_int8=found.group_size is not None)
        return [self._stacked(self._logits(engine)) for engine in members]

    def _stacked(self, logits: Mapping[str, Array]) -> Array:
        return np.concatenate(list(logits.values())).astype(np.float64)

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
                pairs = enumerate(zip(choices, expected, strict=False))
                first, token = next(((i, a) for i, (a, b) in pairs if a != b), (None, None))
            except PortCrashed:
                found[name] = Effect("crash")
                continue
            found[name] = NOTHING if first is None else Effect("tokens", first, token)
        return found

    def _freely(self, port: Port, name: str) -> Effect:
        """Run a port whose forward pass is right, as far as it says what the right one says."""
        request, expected = self.requests[name], self.right[name]
        if request.before is not None and port.loop != Port().loop:
            return self._compared(port.answer(self.model, request), expected)
        try:
            right_prompt = Port().prompt_ids(self.model, request.prompt)
            prompt = port.prompt_ids(self.model, request.prompt)
        except PortCrashed:
            return Effect("crash")
        if prompt[0] != right_prompt[0]:
            return self._compared(port.answer(self.model, replace(request, steps=len(prompt) + 8)), expected)
        fed, rows = self._fed(name), self._right_logits[name]
        session = None

        def feed(position: int, token: int) -> Array:
            nonlocal session
            if position < len(rows):
                row: Array = rows[position]
                return row
            if session is None:  # behind the end of the right answer
                session = Port().engine(self.model).session(capacity=_LONGEST)
                session.extend(fed)
            return session.extend([token])[0]  # type: ignore[no-any-return]

        ids: list[int] = []
        for token in port.choices(self.model, prompt, request, feed):
            if len(ids) < len(expected.ids) and token != expected.ids[len(ids)]:
                return Effect("tokens", len(ids), token)
            ids.append(token)
            if len(ids) > len(expected.ids):
                break
        return self._compared(Answer(ids, port.text(self.model, request.prompt, prompt, ids)), expected)

    def _compared(self, actual: Answer, expected: Answer) -> Effect:
        first = first_difference(actual.ids, expected.ids)
        if first is not None:
            return Effect("tokens", first)
        return NOTHING if actual.text == expected.text else Effect("bytes")


_LONGEST = 1 << 14


class _Rows:
    """Keeps whole rows of logits."""

    def __init__(self, n: int, vocab_size: int, dtype: npt.DTypeLike) -> None:
        self.logits = np.empty((n, vocab_size), dtype)

    def take(self, rows: slice, first_id: int, block: Array) -> None:
        self.logits[rows, first_id : first_id + block.shape[1]] = block
