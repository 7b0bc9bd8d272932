"""What each golden run is worth: the faults that it stops, and the pairs of faults that it tells apart, per second.

For each fault of the catalogue and each case the first wrong token is found by one teacher-forced pass over the right
answer (`harness.diagnosis.probes`), which is cheap enough for all of them. Two faults are told apart by a case where
they part from the right answer at different places, or with different tokens. Near ties are not looked at here: what
the gate concludes, they and all, is what `kills` measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.adapters.implementation import Implementation, ProcessImplementation
from harness.conformance.case import Case, select
from harness.conformance.check import check
from harness.conformance.selftest.compiled import fault_files, patched
from harness.conformance.selftest.ported import PortedFault
from harness.diagnosis import CATALOGUE, Fate, Fault, Request
from harness.diagnosis.probes import Effect, Probed
from harness.engine import blas_threads
from harness.errors import BuildFailed, MissingDependency
from harness.models import impls_dir, load, locate
from harness.results import Kind

__all__ = ["adequacy", "greedy", "signatures"]

Array = npt.NDArray[Any]
Progress = Callable[[int, int, str], None]
_REPEATS = 3

# What numpy refuses where a real program would read behind the end of an array.
_CRASHES = (ValueError, IndexError)


def adequacy(suites: Sequence[str], *, progress: Progress | None = None) -> dict[str, Any]:
    """Measure every run of some suites against every killable fault.

    Returns:
        `sets`: what whole selections stop and tell apart, and the seconds that they take; `order`: rows in the order
        of greedy(); `idle`: why a case that adds nothing is kept; `n_faults`, `n_pairs`.
    """
    # The catalogue is of ports of llama2.c: models of other families are not for them.
    cases = [one for one in select(suites) if one.mode == "generate" and one.model.format.startswith("llama2c")]
    faults = [fault for fault in CATALOGUE if fault.fate is Fate.KILLABLE]
    found = signatures(cases, faults, progress=progress)
    seconds = _seconds(cases, progress)
    order, idle = greedy(found, seconds)
    n = len(faults)
    stops = (found != "").sum(axis=1)
    rows, stopped, apart = [], np.zeros(n, bool), np.zeros((n, n), bool)
    for at in [*order, *idle]:
        hits, told = found[at] != "", _told_apart(found[at])
        new_kills, new_pairs = int((hits & ~stopped).sum()), int((told & ~apart).sum()) // 2
        stopped |= hits
        apart |= told
        rows.append(
            {
                "case": cases[at].key,
                "quick": cases[at].is_quick,
                "seconds": round(seconds[at], 4),
                "kills": int(stops[at]),
                "new_kills": new_kills,
                "kills_in_all": int(stopped.sum()),
                "new_pairs": new_pairs,
                "pairs_in_all": int(apart.sum()) // 2,
            }
        )
    return {
        "sets": _sets(cases, found, seconds),
        "order": rows[: len(order)],
        "idle": {
            cases[at].key: f"it stops {stops[at]}, as others do; it is there for: {cases[at].why}" for at in idle
        },
        "n_faults": n,
        "n_pairs": n * (n - 1) // 2,
        "unstopped": [fault.name for fault, is_stopped in zip(faults, stopped, strict=True) if not is_stopped],
    }


def _sets(cases: Sequence[Case], found: Array, seconds: Sequence[float]) -> list[dict[str, Any]]:
    """What the quick cases of a suite, all of it, and all suites together stop and tell apart."""
    suites = dict.fromkeys(case.suite for case in cases)
    chosen = [(f"{suite}, quick", [c.suite == suite and c.is_quick for c in cases]) for suite in suites]
    chosen += [(suite, [c.suite == suite for c in cases]) for suite in suites]
    chosen += [("all, quick", [c.is_quick for c in cases]), ("all", [True for _ in cases])]
    rows = []
    for name, picked in chosen:
        some = found[np.array(picked)]
        if not len(some):
            continue
        apart = np.zeros((found.shape[1], found.shape[1]), bool)
        for row in some:
            apart |= _told_apart(row)
        rows.append(
            {
                "name": name,
                "cases": len(some),
                "seconds": round(sum(s for s, is_in in zip(seconds, picked, strict=True) if is_in), 3),
                "kills": int((some != "").any(axis=0).sum()),
                "pairs": int(apart.sum()) // 2,
            }
        )
    return rows


def signatures(cases: Sequence[Case], faults: Sequence[Fault], *, progress: Progress | None = None) -> Array:
    """Return (n_cases, n_faults) texts: where and how a fault's answer leaves the right one; "" where it does not."""
    found = np.full((len(cases), len(faults)), "", dtype="U24")
    models = list(dict.fromkeys(case.model.name for case in cases))
    for number, model in enumerate(models):
        files = locate(model)
        some = [i for i, case in enumerate(cases) if case.model.name == model]
        with blas_threads(1), np.errstate(all="ignore"):
            probed = Probed(load(files.checkpoint, files.tokenizer), {cases[i].key: _request(cases[i]) for i in some})
            for j, fault in enumerate(faults):
                try:
                    effects = probed.effects(fault)
                except _CRASHES:
                    effects = dict.fromkeys(probed.requests, Effect("crash"))
                for i in some:
                    effect = effects[cases[i].key]
                    found[i, j] = f"{effect.kind} {effect.first} {effect.token}" if effect else ""
                if progress is not None:
                    progress(number * len(faults) + j + 1, len(models) * len(faults), f"{fault.name} on {model}")
    return found


def _request(case: Case) -> Request:
    return Request(case.prompt or b"", case.steps, case.temperature, case.topp, case.seed)


def greedy(found: Array, seconds: Sequence[float]) -> tuple[list[int], list[int]]:
    """Order cases by what each adds per second: first faults stopped, then pairs of faults told apart.

    Args:
        found: as signatures() returns it.

    Returns:
        The indices that add something, in order, and those that add nothing to these.

    >>> greedy(np.array([["a", "", ""], ["a", "b", ""], ["a", "b", "b"]]), [1.0, 1.0, 9.0])
    ([1, 2], [0])
    """
    n_cases, n_faults = found.shape
    left, order = list(range(n_cases)), []
    stopped, apart = np.zeros(n_faults, bool), np.zeros((n_faults, n_faults), bool)
    told = [_told_apart(row) for row in found]
    while left:
        new_kills = [int(((found[i] != "") & ~stopped).sum()) for i in left]
        new_pairs = [int((told[i] & ~apart).sum()) for i in left]
        worth = new_kills if any(new_kills) else new_pairs
        if not any(worth):
            break
        best = max(range(len(left)), key=lambda at: (worth[at] / seconds[left[at]], new_pairs[at]))
        chosen = left.pop(best)
        order.append(chosen)
        stopped |= found[chosen] != ""
        apart |= told[chosen]
    return order, left


def _told_apart(row: Array) -> Array:
    apart: Array = row[:, None] != row[None, :]
    return apart


def _seconds(cases: Sequence[Case], progress: Progress | None) -> list[float]:
    """What each case costs at the gate, run and judging, for a right program in C; in numpy without a compiler."""
    impl: Implementation = PortedFault()
    for compiled in fault_files(impls_dir()):
        if compiled.program == "c":
            program = ProcessImplementation(patched(compiled, None))
            try:
                program.out()
                impl = program
            except (BuildFailed, MissingDependency):
                break
    found = []
    for number, case in enumerate(cases, 1):
        times = []
        for _ in range(_REPEATS):
            start = time.perf_counter()
            kinds = [v.kind for group in check([impl], [case], levels=("TEXT",)) for v in group]
            times.append(time.perf_counter() - start)
        assert kinds[0] in (Kind.EXACT, Kind.TIE), f"{case.key}: {kinds[0]} of a right program"
        found.append(min(times))
        if progress is not None:
            progress(number, len(cases), f"seconds of {case.key}")
    return found
