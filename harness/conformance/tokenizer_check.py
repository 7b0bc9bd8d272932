"""Tokenizer check: two encoders on thousands of hard texts, what they disagree in, and why.

One side is judged, the other is right; either may be a tokenizer file of any format or a program that speaks the line
protocol. A disagreement is shrunk to a few bytes, and put down to one of the known wrong ways if that way explains
every text that was put to the program, the right ones included.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.process import Limits
from harness.conformance.prompted import GENERATED, can_be_prompt
from harness.conformance.record import PlannedCase, answer
from harness.conformance.tokenizer_causes import REFUSED, decode_cause, encode_causes, shown
from harness.conformance.tokenizer_sides import File, Side
from harness.conformance.verify import files_for, reference_of, verify_group
from harness.errors import InputError, Refused, TimedOut, TokenizerError, Unsupported
from harness.models import ModelFiles
from harness.results import Kind, Verdict
from harness.tokenizer import AnyTokenizer
from harness.tokenizer.hard_texts import hard_texts, long_text

__all__ = [
    "Check",
    "Disagreement",
    "Encoder",
    "check_by_text",
    "check_sides",
    "check_tokenizer",
]

_KEPT = 60  # wrong texts of each kind, and right ones, that are kept to find the cause by
_MOST_DECODED = 400  # wrong texts of decoding that are kept
_SHOWN = 5
_MOST_LOOKED_AT = 6000  # hard texts, of which some become prompts of a program that only prints
_LENGTHS = (2_000, 4_000, 8_000, 16_000)
_FITTED = 3  # of them, the longest
_SLOW_S = 0.1
_ONCE_S = 1.0  # a text that takes as long is timed once
_QUADRATIC = 1.75  # exponent of time over length, from which on it is called quadratic


class Encoder(Protocol):
    """Something that encodes and decodes, and says Refused where it cannot; a line protocol's `Session` is one."""

    def encode(self, text: bytes, *, bos: bool = True, eos: bool = False) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One text or list of ids that the two sides take differently, shrunk.

    Attributes:
        kind: of the text.
        text: that was encoded, or that the ids stand for.
        ids: that were decoded; empty for an encoding.
        actual, expected: ids in decimal, or a text, as shown.
    """

    kind: str
    text: bytes
    ids: tuple[int, ...]
    actual: str
    expected: str


@dataclass(slots=True)
class Check:
    """What came of it.

    Attributes:
        n_texts, n_decoded: put to the program.
        by_kind: texts of each kind, and those among them whose ids were wrong.
        encode_wrong, decode_wrong: how many were.
        encode_cause, decode_cause: the known wrong way that explains all of them, in words; empty for none.
        partly: other known ways, with the share of the wrong texts that they explain.
        examples: some of the disagreements, shrunk.
        unsupported: verbs that the program does not offer.
        exponent: of the time to encode over the length of the text; nan where it was not measured.
        long_s: seconds for the longest text.
        late_bytes: length of the text that was not encoded within the limit; 0 where each was.
    """

    n_texts: int = 0
    n_decoded: int = 0
    by_kind: dict[str, tuple[int, int]] = field(default_factory=dict)
    encode_wrong: int = 0
    decode_wrong: int = 0
    encode_cause: str = ""
    decode_cause: str = ""
    partly: tuple[tuple[str, float], ...] = ()
    examples: list[Disagreement] = field(default_factory=list)
    unsupported: tuple[str, ...] = ()
    exponent: float = math.nan
    long_s: float = math.nan
    late_bytes: int = 0
    took_s: float = 0.0

    @property
    def verdict(self) -> Kind:
        if self.encode_wrong or self.decode_wrong:
            return Kind.MISMATCH
        if self.late_bytes:
            return Kind.TIMED_OUT
        return Kind.UNSUPPORTED if "encode" in self.unsupported else Kind.EXACT

    @property
    def is_quadratic(self) -> bool:
        return self.exponent >= _QUADRATIC and self.long_s >= _SLOW_S


def check_sides(
    actual: Side,
    expected: Side | None = None,
    *,
    files: ModelFiles | None = None,
    n_texts: int = 5000,
    seed: int = 1,
    limits: Limits | None = None,
) -> Check:
    """Put hard texts to one side, and compare with the other.

    Args:
        actual: what is judged.
        expected: what is right; None: the tokenizer of `files`.
        files: the model that programs load. Needed by programs, and where `expected` is None.

    Raises:
        InputError: a program cannot be given this model.
        ImplementationError: a program was lost, or broke the protocol.
        MissingDependency: it cannot be run here.
    """
    with contextlib.ExitStack() as stack:

        def opened(side: Side) -> Encoder:
            if isinstance(side, File):
                return side
            assert files is not None, "a program needs a model"
            reference = reference_of(files)
            given = files_for(side.manifest, files)
            shape = (side.manifest.needs.vocab_size or reference.config.vocab_size, reference.config.seq_len)
            return stack.enter_context(side.session(given.checkpoint, given.tokenizer, limits=limits, shape=shape))

        sides = [opened(side) for side in (actual, expected) if side is not None]
        vocabulary = expected.tokenizer if isinstance(expected, File) else None
        if vocabulary is None and files is not None:
            vocabulary = reference_of(files).model.tokenizer
        if vocabulary is None:
            raise InputError("a tokenizer file needs another to be compared with", hint="name it with --against")
        found = check_tokenizer(
            sides[0], vocabulary, against=sides[1] if len(sides) > 1 else None, n_texts=n_texts, seed=seed
        )
        for side in sides:
            if not isinstance(side, File):
                side.quit()  # type: ignore[attr-defined]  # what is no file is a session
    return found


def check_by_text(
    impl: ProcessImplementation,
    files: ModelFiles,
    *,
    n_texts: int = 48,
    limits: Limits | None = None,
) -> list[Verdict]:
    """Judge the tokenizer of a program that only prints text, by its echo of prompts and what it writes after them.

    Each text is a run of the program, so they are few, some of each kind; and ids that print alike and lead into the
    same text cannot be told apart. What comes of it is a part of what `check_program` finds.

    Returns:
        One verdict for each text, whose case is named after its kind; `tokenizer` says what became of its ids.
    """
    tokenizer = reference_of(files).model.tokenizer
    by_kind: dict[str, list[bytes]] = {}
    for kind, text in itertools.islice(hard_texts(tokenizer), _MOST_LOOKED_AT):
        if can_be_prompt(text):
            by_kind.setdefault(kind, []).append(text)
    chosen: dict[bytes, str] = {}
    for n in range(n_texts):
        for kind, texts in by_kind.items():
            if len(chosen) < n_texts:
                chosen.setdefault(texts[n * len(texts) // n_texts], kind)
    cases = []
    for n, (text, kind) in enumerate(chosen.items()):
        try:
            steps = len(tokenizer.encode(text)) - 1 + GENERATED
        except TokenizerError:
            continue
        name = f"{kind.replace(' ', '-')}-{n}"
        cases.append(answer(PlannedCase(name, "tokenizer", (), kind, files.name, text, steps)))
    return verify_group(cases, impl, files=files, limits=limits, levels=["TEXT"])


# ---- the comparison -----------------------------------------------------------------------------------------------


def check_tokenizer(
    actual: Encoder,
    tokenizer: AnyTokenizer,
    *,
    against: Encoder | None = None,
    n_texts: int = 5000,
    seed: int = 1,
    texts: Iterable[tuple[str, bytes]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Check:
    """Put texts to an encoder, and their right ids to its decoder.

    Args:
        tokenizer: the vocabulary, from which the texts and the causes come; what is right, unless
        against: is given, whose ids and texts are right then.
        n_texts: as many of the hard texts of the vocabulary.
        texts: these instead, each with its kind.

    Raises:
        ImplementationError: the program was lost, or broke the protocol.
    """
    right_side = against or File(tokenizer)
    found = Check()
    start = clock()
    wrong: list[tuple[str, bytes, list[int]]] = []
    right: list[tuple[bytes, list[int]]] = []
    wrong_texts: list[tuple[str, bytes, list[int], bytes, bytes]] = []
    offers = {"encode": True, "decode": True}
    counts: Counter[str] = Counter()
    wrong_counts: Counter[str] = Counter()
    for kind, text in itertools.islice(texts if texts is not None else hard_texts(tokenizer, seed=seed), n_texts):
        expected = _ids(right_side, text)
        if expected == REFUSED:
            continue  # this vocabulary cannot say it
        found.n_texts += 1
        counts[kind] += 1
        if offers["encode"] and (ids := _encoded(actual, text, offers)) is not None:
            if ids != expected:
                found.encode_wrong += 1
                wrong_counts[kind] += 1
                if wrong_counts[kind] <= _KEPT:
                    wrong.append((kind, text, ids))
            elif counts[kind] - wrong_counts[kind] <= _KEPT:
                right.append((text, ids))
        if offers["decode"] and (said := _decoded(actual, expected, offers)) is not None:
            found.n_decoded += 1
            whole = right_side.decode(expected)
            if said != whole:
                found.decode_wrong += 1
                if found.decode_wrong <= _MOST_DECODED:
                    wrong_texts.append((kind, text, expected, said, whole))
    found.by_kind = {kind: (n, wrong_counts[kind]) for kind, n in counts.items()}
    found.unsupported = tuple(verb for verb, is_there in offers.items() if not is_there)
    if wrong:
        causes = encode_causes(tokenizer, [(text, ids) for _, text, ids in wrong], right)
        found.encode_cause, found.partly = ", or ".join(causes.whole), causes.partly
        found.examples += _examples(actual, right_side, wrong)
    if wrong_texts:
        found.decode_cause = decode_cause(tokenizer, [one[2:] for one in wrong_texts])
        by_ids = {tuple(one[2]): one for one in sorted(wrong_texts, key=lambda one: -len(one[2]))}
        shortest = list(by_ids.values())[: -_SHOWN - 1 : -1]
        found.examples += [
            Disagreement(kind, text, tuple(ids), _text(said), _text(whole))
            for kind, text, ids, said, whole in shortest
        ]
    if offers["encode"]:
        _time_long(found, actual, right_side, clock)
    found.took_s = clock() - start
    return found


def _encoded(actual: Encoder, text: bytes, offers: dict[str, bool]) -> list[int] | None:
    try:
        return _ids(actual, text)
    except Unsupported:
        offers["encode"] = False
        return None


def _decoded(actual: Encoder, ids: Sequence[int], offers: dict[str, bool]) -> bytes | None:
    try:
        return actual.decode(ids)
    except Unsupported:
        offers["decode"] = False
        return None
    except Refused as refusal:
        return b"error: " + refusal.what.encode()


def _ids(side: Encoder, text: bytes) -> list[int]:
    try:
        return side.encode(text)
    except Refused:
        return REFUSED


# ---- the smallest examples -----------------------------------------------------------------------------------------


def _examples(
    actual: Encoder, right_side: Encoder, wrong: Sequence[tuple[str, bytes, list[int]]]
) -> list[Disagreement]:
    """Shrink the shortest disagreement of each kind, and keep some."""
    first: dict[str, tuple[str, bytes, list[int]]] = {}
    for one in sorted(wrong, key=lambda one: len(one[1])):
        first.setdefault(one[0], one)
    found: dict[bytes, Disagreement] = {}
    for kind, text, _ in itertools.islice(first.values(), _SHOWN):

        def differs(candidate: bytes) -> bool:
            expected = _ids(right_side, candidate)
            return expected != REFUSED and _ids(actual, candidate) != expected

        least = shrink(text, differs)
        found.setdefault(
            least, Disagreement(kind, least, (), shown(_ids(actual, least)), shown(_ids(right_side, least)))
        )
    return list(found.values())


def shrink(text: bytes, is_wrong: Callable[[bytes], bool]) -> bytes:
    """Leave out parts of a text, ever smaller ones, as long as it stays wrong.

    >>> shrink(b"Once upon a time", lambda text: b"p" in text and b"t" in text)
    b'pt'
    """
    size = len(text)
    while size:
        at = 0
        while at < len(text):
            shorter = text[:at] + text[at + size :]
            if is_wrong(shorter):
                text = shorter
            else:
                at += size
        size //= 2
    return text


def _text(raw: bytes) -> str:
    return repr(raw[:64])[1:]


# ---- time ----------------------------------------------------------------------------------------------------------


def _time_long(found: Check, actual: Encoder, right_side: Encoder, clock: Callable[[], float]) -> None:
    """Fit the exponent of time over length; the quickest of five, since others use the machine too.

    A text that is not encoded within the limit is the last.
    """
    times = []
    for length in _LENGTHS:
        text = long_text(length)
        expected = _ids(right_side, text)
        if expected == REFUSED:
            return
        took = []
        for _ in range(5):
            start = clock()
            try:
                ids = _ids(actual, text)
            except TimedOut:
                found.late_bytes = length
                break
            took.append(clock() - start)
            if took[-1] >= _ONCE_S:
                break
        if found.late_bytes:
            break
        if ids != expected and not found.encode_wrong:
            found.encode_wrong += 1
            found.examples.append(
                Disagreement("long text", text[:64], (), shown(ids), shown(expected) + f" ({length:,} bytes)")
            )
        times.append(min(took))
    if len(times) < 2:
        return
    logs = [(math.log(length), math.log(max(took, 1e-9))) for length, took in zip(_LENGTHS, times, strict=False)]
    logs = logs[-_FITTED:]  # what every request costs, and what is linear, hides the rest in short texts
    mean_x, mean_y = (sum(axis) / len(logs) for axis in zip(*logs, strict=True))
    found.exponent = sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)
    found.long_s = times[-1]
