"""What a run recorded, judged by the white-box tracer: EXACT, or MISMATCH with the first wrong operation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.adapters.implementation import ProcessImplementation
from harness.conformance.claim import Claim, last_line, plain_verdict
from harness.conformance.tracing import judged, read_run
from harness.errors import ImplementationError, TraceFormatError
from harness.models import Model
from harness.results import Kind, Verdict, WrongOperation, kind_of_failure
from harness.trace.stream import VARIABLE

__all__ = ["traced"]


def traced(impl: ProcessImplementation, model: Model, claim: Claim, path: Path) -> Verdict:
    """Judge every operation that a run recorded into a file by itself, from what that run recorded of its inputs.

    Returns:
        `n_judged` is the number of recorded values. A trace that cannot be read is a violation of its protocol.
    """
    verdict = plain_verdict(claim.case, impl.name, Kind.EXACT)
    shown = replace(verdict, reproduce=f'export {VARIABLE}="$PWD/trace.bin"; {claim.reproduce}')
    try:
        checked = judged(model.checkpoint, read_run(claim.seen, path), precision=impl.manifest.precision)
    except ImplementationError as failure:
        tail = last_line(failure.stderr_tail)
        reason = f"{failure.what}: {tail}" if tail else failure.what
        return replace(shown, kind=kind_of_failure(failure), reason=reason)
    except TraceFormatError as error:
        return replace(shown, kind=Kind.PROTOCOL, reason=str(error))
    if not checked.n_judged:
        return replace(shown, kind=Kind.INCONCLUSIVE, reason="recorded tokens, and nothing else")
    if checked.first is not None:
        return replace(shown, kind=Kind.MISMATCH, reason=_place(checked.first), n_judged=checked.n_judged)
    return replace(verdict, n_judged=checked.n_judged)


def _place(wrong: WrongOperation) -> str:
    layer = "" if wrong.layer < 0 else f" of layer {wrong.layer}"
    since = f", computed from {' and '.join(wrong.since)}," if wrong.since else ""
    return (
        f"first wrong operation: {wrong.name}{layer}{since} at position {wrong.position}: element {wrong.index} is "
        f"{wrong.actual:.7g}, expected {wrong.expected:.7g}, {wrong.ratio:.3g} times the noise floor"
    )
