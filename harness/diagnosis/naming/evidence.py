"""Evidence: what one program answered to one request, read as far as it can be read without knowing its bug."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.diagnosis.port import Answer, Port, Request
from harness.judging.printing import Printing, printings
from harness.models import Model

__all__ = ["Evidence", "Noise", "certain", "heard", "printing_of"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One answer.

    Attributes:
        request: what was asked.
        prompt_ids: the honest ids of the prompt, BOS first.
        ids: the prompt's ids and the generated ones, as far as they are known for certain.
        is_right: whether the judge found nothing wrong with it.
        is_whole: whether `ids` is all that was generated; else the text goes on after them, with a wrong token.
        printing: what the program prints for a token.
        rest: the text after the prompt's echo; None where no honest echo was found, or no text is known.
        texts: readings of the whole output, prompt included, for those who had other prompt ids.
        stdout: all that was printed, to the byte; None where only ids are known.
        encoded: the ids that the program gave for the prompt, where it was asked.
    """

    request: Request
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    is_right: bool
    is_whole: bool
    printing: Printing
    rest: bytes | None = None
    texts: tuple[bytes, ...] = ()
    stdout: bytes | None = None
    encoded: tuple[int, ...] | None = None

    @property
    def n_known(self) -> int:
        """Generated tokens that are known."""
        return len(self.ids) - len(self.prompt_ids)


@dataclass(frozen=True, slots=True)
class Noise:
    """How far the logits of honest programs lie from the exact ones.

    Attributes:
        own: in the model's own arithmetic.
        lower: in lower precisions, by name, the finest first.
    """

    own: float
    lower: Mapping[str, float] = field(default_factory=dict)

    @property
    def levels(self) -> list[tuple[str, float]]:
        """Names ("" for the model's own arithmetic) and floors, each at least as large as the one before."""
        found = [("", self.own)]
        for name, floor in self.lower.items():
            found.append((name, max(floor, found[-1][1])))
        return found


def printing_of(model: Model) -> Printing:
    """What llama2.c prints for the pieces of a model."""
    tokenizer = model.tokenizer
    byte_of = [tokenizer.is_byte_piece(i) for i in range(tokenizer.vocab_size)]
    return printings(tokenizer.pieces, byte_of, bos_id=tokenizer.bos_id)[0]


_BACK = 16  # tokens that are gone back over


def certain(ids: Sequence[int], n_prompt: int, printing: Printing, rest: bytes) -> tuple[int, ...]:
    """Cut off generated ids that a text need not have, though it agrees with them.

    A token may reach over the place where the text leaves what was expected, as " very" does after " "; and that a
    text agrees with what prints nothing says nothing.

    Args:
        rest: the text after the prompt.
    """
    ends = [0]
    for piece in printing.render(ids)[n_prompt - 1 :]:
        ends.append(ends[-1] + len(piece))
    kept = len(ids)
    for at in range(len(ids) - 1, max(n_prompt, len(ids) - _BACK) - 1, -1):
        begin = ends[at - n_prompt]
        reach = (len(printing.of(ids[at - 1], one)) for one in printing.candidates(ids[at - 1], rest[begin:]))
        if begin == ends[-1] or max(reach, default=0) > ends[-1] - begin:
            kept = at
    return tuple(ids[:kept])


def heard(model: Model, request: Request, answer: Answer, *, right: Answer | None = None) -> Evidence:
    """Make evidence of the text of an answer that is printed as llama2.c prints.

    Args:
        right: the right answer to that request, if it is known already.
    """
    right = right or Port().answer(model, request)
    printing = printing_of(model)
    prompt = Port().prompt_ids(model, request.prompt)
    whole = [prompt[0], *right.ids]
    pieces = printing.render(whole)
    text = answer.text.removesuffix(b"\n")
    is_right = answer.text == right.text
    n_agreed, at = 0, 0
    while n_agreed < len(pieces) and text.startswith(pieces[n_agreed], at):
        at += len(pieces[n_agreed])
        n_agreed += 1
    echo = b"".join(pieces[: len(prompt) - 1])
    rest = text[len(echo) :] if text.startswith(echo) else None
    known = whole[: max(len(prompt), n_agreed + 1)]
    ids = whole if is_right else certain(known, len(prompt), printing, rest or b"")
    return Evidence(
        request=request,
        prompt_ids=tuple(prompt),
        ids=tuple(ids),
        is_right=is_right,
        is_whole=is_right,
        printing=printing,
        rest=rest,
        texts=(text,),
        stdout=answer.text,
    )
