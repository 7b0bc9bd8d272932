"""Smoke: is a new program of the line protocol wired right? Three requests on the smallest model, byte by byte.

It asks what it is, for the ids of one prompt, and for eight tokens after it. A program that is wired wrong fails here
with the bytes that went in and came out; one that computes wrong is for `harness check`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.process import Limits
from harness.adapters.protocol import Session
from harness.engine import Engine, generate
from harness.errors import ImplementationError, Refused, TimedOut, Unsupported
from harness.models import load, locate

__all__ = ["MODEL", "N_CASES", "PROMPT", "Trial", "smoke"]

MODEL = "gqa"
PROMPT = b"Once upon a time"
N_CASES = 3
N_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Trial:
    """One case and what came of it.

    Attributes:
        asked: what it asks, in words.
        sent, received: the deciding request and what came, as bytes.
        expected: the reply that would be right; empty where several are.
        problem: what is wrong; empty if nothing is.
        note: what is right, but worth knowing.
        stderr_tail: the end of what the program wrote on stderr.
        reproduce: a command line that shows it again.
    """

    asked: str
    sent: bytes
    received: bytes
    expected: bytes
    problem: str = ""
    note: str = ""
    stderr_tail: str = ""
    reproduce: str = ""


def smoke(impl: ProcessImplementation, *, time_s: float = 10.0) -> list[Trial]:
    """Put the three cases to a program; if the first fails, it alone.

    Raises:
        BuildFailed, MissingDependency: it cannot be run at all.
    """
    files = locate(MODEL)
    model = load(files.checkpoint, files.tokenizer)
    config = model.checkpoint.config
    ids = model.vocabulary.encode(PROMPT)
    steps = len(ids) - 1 + N_TOKENS
    after = list(generate(Engine(config, model.checkpoint.tensors), ids, steps=steps))[len(ids) - 1 :]
    shape = (config.vocab_size, config.seq_len)
    cases: list[tuple[str, Callable[[Session], object], object, bytes]] = [
        (
            f"what it is, and to load the model {MODEL}",
            lambda session: session.offers("info"),
            True,
            b"ok %d %d" % shape,
        ),
        (
            f"the ids of {PROMPT.decode()!r}, BOS first",
            lambda session: session.encode(PROMPT),
            ids,
            b"ok 1 0 " + _listed(ids),
        ),
        (
            f"the {N_TOKENS} likeliest tokens after them",
            lambda session: session.generate(ids, N_TOKENS),
            after,
            b"ok %d 0 0.9 1 %b" % (N_TOKENS, _listed(after)),
        ),
    ]
    limits = Limits(time_s=time_s)
    with impl.session(files.checkpoint, files.tokenizer, limits=limits, shape=shape) as session:
        trials = [_tried(session, *cases[0])]
        if not trials[0].problem:
            trials += [_tried(session, *case) for case in cases[1:]]
        return trials


def _tried(session: Session, asked: str, ask: Callable[[Session], object], right: object, expected: bytes) -> Trial:
    problem = note = ""
    try:
        answer = ask(session)
        if answer != right:
            problem = "it is wired right, and the answer is wrong" if right is not True else "it has no verb info"
    except Unsupported as honest:
        note = honest.what
    except Refused as refusal:
        problem = refusal.what
    except ImplementationError as failure:
        problem = failure.what
        if isinstance(failure, TimedOut) and not session.unread:
            # At the end of its input a program writes what it held back, so that the command below shows an answer.
            problem += "; if the command below answers, it does not write each reply out at once: flush it"
    number = session.sent.partition(b" ")[0]
    return Trial(
        asked,
        session.sent,
        session.received + b"\n" if session.received else session.unread,
        b"" if session.sent.endswith(b" info\n") else number + b" " + expected + b"\n",
        problem,
        note,
        session.stderr_tail,
        session.reproduce,
    )


def _listed(ids: list[int]) -> bytes:
    return b" ".join(b"%d" % value for value in [len(ids), *ids])
