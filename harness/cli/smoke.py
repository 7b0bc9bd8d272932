"""`harness smoke`: try a new program of the line protocol with three requests."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from harness.adapters.implementation import resolve_lines
from harness.cli.output import emit, tell
from harness.conformance.smoke import N_CASES, Trial, smoke
from harness.models import impls_dir

__all__ = ["command"]

_SHOWN_BYTES = 700


def command(
    program: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...",
            help="A quoted command line, with {model} {tokenizer} if it cannot load; a name in impls/; an impl.toml.",
        ),
    ],
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="Seconds for each request.")] = 10.0,
) -> int:
    """Try a new program of the line protocol with three requests, and show every byte where one fails.

    Exit status 1 if one does. docs/protocol.md has the protocol.
    """
    spec = program[0] if len(program) == 1 else shlex.join(program)
    trials = smoke(resolve_lines(spec, impls_dir(), progress=tell), time_s=timeout_s)
    emit("".join(map(_described, trials)))
    n_wrong = sum(bool(trial.problem) for trial in trials)
    left = f"; {N_CASES - len(trials)} not tried" if len(trials) < N_CASES else ""
    emit(f"{n_wrong} of {len(trials)} requests FAILED{left}\n" if n_wrong else "PASS: next, harness check\n")
    return 1 if n_wrong else 0


def _described(trial: Trial) -> str:
    if not trial.problem:
        return f"ok    {trial.asked}" + (f" ({trial.note})" if trial.note else "") + "\n"
    text = [f"FAIL  {trial.asked}: {trial.problem}", f"  sent      {_bytes(trial.sent)}"]
    text.append(f"  received  {_bytes(trial.received) if trial.received else 'nothing'}")
    if trial.expected:
        text.append(f"  expected  {_bytes(trial.expected)}")
    text += [f"  stderr    {line}" for line in trial.stderr_tail.splitlines()[-5:]]
    text.append(f"  again:    {trial.reproduce}")
    return "\n".join(text) + "\n"


def _bytes(raw: bytes) -> str:
    r"""Write bytes so that each can be seen, a newline as \n.

    >>> _bytes(b"1 ok\r\n")
    '1 ok\\r\\n'
    """
    shown = repr(raw[:_SHOWN_BYTES])[2:-1]
    return shown if len(raw) <= _SHOWN_BYTES else f"{shown}... ({len(raw):,} bytes)"
