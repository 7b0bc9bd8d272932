"""What a port whose forward pass is right would print: all of stdout, from logits that are computed once.

Faults of the loop and of printing change no logits, so one run of the right port, longer whenever somebody goes on,
serves them all; where a port leaves it, it goes on alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.port import Port, PortCrashed, Request
from harness.engine import Engine
from harness.models import Model

__all__ = ["Printed"]

Array = npt.NDArray[Any]
_LONGEST = 1 << 12


class Printed:
    """Stdout of ports on one model.

    Args:
        model: checkpoint and tokenizer.
        engine: the right forward pass.
    """

    def __init__(self, model: Model, engine: Engine) -> None:
        self._model = model
        self._engine = engine
        self._runs: dict[Request, _Run] = {}

    @np.errstate(all="ignore")
    def stdout(self, port: Port, request: Request) -> bytes | None:
        """Return what a port prints; None if it does not come to an end."""
        common = self._runs.setdefault(request, _Run(self._engine))
        own: _Run | None = None
        fed: list[int] = []

        def feed(position: int, token: int) -> Array:
            nonlocal own
            fed.append(token)
            if own is None and not common.follows(fed):
                own = _Run(self._engine)
            return (own or common).after(fed)

        try:
            prompt = port.prompt_ids(self._model, request.prompt)
            ids = list(port.choices(self._model, prompt, request, feed))
        except PortCrashed:
            return None
        return port.text(self._model, request.prompt, prompt, ids)


class _Run:
    """A sequence that grows, with the logits after each of its ids."""

    def __init__(self, engine: Engine) -> None:
        self._session = engine.session(capacity=_LONGEST)
        self._rows: list[Array] = []

    def follows(self, ids: list[int]) -> bool:
        """Whether ids are a beginning of this run, or go on from its end."""
        n = min(len(ids), len(self._rows))
        return self._session.ids[:n] == ids[:n]

    def after(self, ids: list[int]) -> Array:
        """The logits after ids, of which all but the last few are known."""
        if len(ids) > _LONGEST:
            raise PortCrashed("it goes on for ever")
        if len(ids) > len(self._rows):
            self._rows += list(self._session.extend(ids[len(self._rows) :], all_logits=True))
        return self._rows[len(ids) - 1]
