"""Dialogs to ids, as Llama 2 and Llama 3 were trained on them.

A dialog is messages of the roles system (the first, or absent), user and assistant, in turn, beginning and ending
with user. The answer is what the model writes behind the ids.

Llama 2, by the code published with it. A turn is

    BOS "[INST] " question " [/INST] " answer " " EOS

and the last one, without an answer, `BOS "[INST] " question " [/INST]"`. Each turn is encoded for itself, so each has
the tokenizer's dummy prefix, and questions and answers lose the white space at their ends. A system prompt is put
before the first question, as "<<SYS>>\\n" prompt "\\n<</SYS>>\\n\\n", before the white space is taken off: so that of
the prompt itself stays. An empty system prompt has its frame too; without a system message there is none. The markers
are ordinary text to the tokenizer, so a message that spells one would pass for a frame: it is refused.

Llama 3, by the code published with it:

    <|begin_of_text|>, then for every message <|start_header_id|> role <|end_header_id|> "\\n\\n" content <|eot_id|>,
    then <|start_header_id|> "assistant" <|end_header_id|> "\\n\\n"

The names in angle brackets are special pieces. Role, newlines and content are encoded each for itself; the content
loses the white space at its ends. What a message spells stays text.

White space is what Python's `str.strip` takes off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.errors import InputError
from harness.tokenizer.byte_level import ByteLevelTokenizer
from harness.tokenizer.tokenizer import Tokenizer

__all__ = ["Message", "dialog_ids", "llama2_ids", "llama3_ids"]

_MARKERS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


@dataclass(frozen=True, slots=True)
class Message:
    """What one side says."""

    role: Literal["system", "user", "assistant"]
    content: str


def dialog_ids(tokenizer: Tokenizer | ByteLevelTokenizer, dialog: Sequence[Message]) -> list[int]:
    """Encode a dialog by the template that goes with the tokenizer: Llama 3's if it is byte-level.

    Raises:
        InputError: the dialog is not one, or spells Llama 2's markers.
        TokenizerError: the vocabulary lacks a special piece, or cannot express the text.
    """
    if isinstance(tokenizer, ByteLevelTokenizer):
        return llama3_ids(tokenizer, dialog)
    return llama2_ids(tokenizer, dialog)


def llama2_ids(tokenizer: Tokenizer, dialog: Sequence[Message]) -> list[int]:
    """Encode a dialog as Llama 2's chat models expect it."""
    _check(dialog)
    for number, message in enumerate(dialog):
        for marker in _MARKERS:
            if marker in message.content:
                raise InputError(
                    f"message {number} spells {marker}, which Llama 2 could not tell from the frame of the dialog",
                    hint="take it out",
                )
    contents = [message.content for message in dialog]
    if dialog[0].role == "system":
        contents[:2] = [f"<<SYS>>\n{contents[0]}\n<</SYS>>\n\n{contents[1]}"]
    ids: list[int] = []
    for question, answer in zip(contents[::2], contents[1::2], strict=False):
        ids += tokenizer.encode(f"[INST] {question.strip()} [/INST] {answer.strip()} ", eos=True)
    return ids + tokenizer.encode(f"[INST] {contents[-1].strip()} [/INST]")


def llama3_ids(tokenizer: ByteLevelTokenizer, dialog: Sequence[Message]) -> list[int]:
    """Encode a dialog as Llama 3's instruct models expect it, up to the head of the answer."""
    _check(dialog)
    ids = [tokenizer.id_of("<|begin_of_text|>")]
    for message in dialog:
        ids += _header(tokenizer, message.role)
        ids += tokenizer.encode(message.content.strip(), bos=False)
        ids.append(tokenizer.id_of("<|eot_id|>"))
    return ids + _header(tokenizer, "assistant")


def _header(tokenizer: ByteLevelTokenizer, role: str) -> list[int]:
    begin, end = tokenizer.id_of("<|start_header_id|>"), tokenizer.id_of("<|end_header_id|>")
    return [begin, *tokenizer.encode(role, bos=False), end, *tokenizer.encode("\n\n", bos=False)]


def _check(dialog: Sequence[Message]) -> None:
    """Refuse what is no dialog that a model could answer."""
    turns = dialog[1:] if dialog and dialog[0].role == "system" else dialog
    for number, message in enumerate(turns):
        wanted = "assistant" if number % 2 else "user"
        if message.role != wanted:
            raise InputError(
                "the roles do not take turns",
                where=f"message {number + len(dialog) - len(turns)}",
                expected=wanted,
                actual=message.role,
            )
    if len(turns) % 2 == 0:
        raise InputError(
            "the dialog does not end with the user", expected="user", actual=turns[-1].role if turns else "no message"
        )
