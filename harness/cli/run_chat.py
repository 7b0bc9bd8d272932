"""`harness run --chat`: answer the lines of stdin, each with all that was said before it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from harness.errors import InputError
from harness.tokenizer import AnyTokenizer, Tokenizer
from harness.tokenizer.chat import Message, dialog_ids

__all__ = ["converse"]


def converse(
    vocabulary: AnyTokenizer, system: str | None, n_positions: int, answer: Callable[[list[int]], Iterator[int]]
) -> None:
    """Write an answer to every line of stdin, on a line of its own.

    The whole dialog is encoded anew for each answer, by the template that goes with the tokenizer, so an answer
    depends on nothing but the dialog. It ends at EOS, or what else ends a turn, or where the positions do.

    Args:
        system: the system prompt; None: none.
        n_positions: the context, which the dialog has to fit into.
        answer: ids -> the tokens behind them, without an end.

    Raises:
        InputError: the dialog has no room left, or spells the template's markers.
    """
    stop = frozenset({vocabulary.eos_id}) if isinstance(vocabulary, Tokenizer) else vocabulary.stop_ids
    dialog = [] if system is None else [Message("system", system)]
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        dialog.append(Message("user", line.decode("utf-8", "replace").rstrip("\n")))
        ids = dialog_ids(vocabulary, dialog)
        if len(ids) >= n_positions:
            raise InputError(
                "the dialog leaves no room for an answer",
                expected=f"fewer than {n_positions} tokens",
                actual=len(ids),
                hint="begin anew, or let answers be shorter with --steps",
            )
        said, before = bytearray(), ids[-1]
        for token in answer(ids):
            if token in stop:
                break
            shown = vocabulary.printed(before, token)
            said += shown
            out.write(shown)
            out.flush()
            before = token
        out.write(b"\n")
        out.flush()
        dialog.append(Message("assistant", said.decode("utf-8", "replace")))
