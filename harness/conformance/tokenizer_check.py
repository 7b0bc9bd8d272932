"""Tokenizer check: two encoders on thousands of hard texts, what they disagree in, and why.

One side is judged, the other is right: a program that speaks the line protocol against a tokenizer file, as a rule.
A disagreement is shrunk to a few bytes, and put down to one of the known wrong ways if that way explains every text
that was put to the program, the right ones included.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.process import Limits
from harness.conformance.record import PlannedCase, answer
from harness.conformance.verify import files_for, reference_of, verify_group
from harness.errors import Refused, TokenizerError, Unsupported
from harness.judging.printing import printings
from harness.models import ModelFiles
from harness.results import Kind, Verdict
from harness.tokenizer import Tokenizer
from harness.tokenizer.bpe import KNOWN_WRONG
from harness.tokenizer.hard_texts import hard_texts, long_text

__all__ = ["Check", "Disagreement", "Encoder", "check_by_text", "check_program", "check_tokenizer"]

_KEPT = 60  # wrong texts of each kind, and right ones, that are kept to find the cause by
_MOST_DECODED = 400  # wrong texts of decoding that are kept
_SHOWN = 5
_MOST_LOOKED_AT = 6000  # hard texts, of which some become prompts of a program that only prints
_PROMPT_BYTES = 120
_GENERATED = 36  # tokens after each of them: enough to be judged
_LENGTHS = (2_000, 4_000, 8_000, 16_000)
_SLOW_S = 0.1
_QUADRATIC = 1.75  # exponent of time over length, from which on it is called quadratic


class Encoder(Protocol):
    """Something that encodes and decodes; `Tokenizer` and a line protocol's `Session` are two."""

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
    took_s: float = 0.0

    @property
    def verdict(self) -> Kind:
        if self.encode_wrong or self.decode_wrong:
            return Kind.MISMATCH
        return Kind.UNSUPPORTED if "encode" in self.unsupported else Kind.EXACT

    @property
    def is_quadratic(self) -> bool:
        return self.exponent >= _QUADRATIC and self.long_s >= _SLOW_S


def check_program(
    impl: ProcessImplementation,
    files: ModelFiles,
    *,
    n_texts: int = 5000,
    seed: int = 1,
    limits: Limits | None = None,
) -> Check:
    """Put the hard texts of a model's vocabulary to a program that speaks the line protocol.

    Raises:
        InputError: it cannot be given this model.
        ImplementationError: it was lost, or broke the protocol.
        MissingDependency: it cannot be run here.
    """
    reference = reference_of(files)
    tokenizer = reference.model.tokenizer
    given = files_for(impl.manifest, files)
    shape = (impl.manifest.needs.vocab_size or reference.config.vocab_size, reference.config.seq_len)
    with impl.session(given.checkpoint, given.tokenizer, limits=limits, shape=shape) as session:
        found = check_tokenizer(session, tokenizer, n_texts=n_texts, seed=seed)
        session.quit()
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
        if 0 < len(text) <= _PROMPT_BYTES and not text.startswith(b"-") and _is_utf8(text):
            by_kind.setdefault(kind, []).append(text)
    chosen: dict[bytes, str] = {}
    for n in range(n_texts):
        for kind, texts in by_kind.items():
            if len(chosen) < n_texts:
                chosen.setdefault(texts[n * len(texts) // n_texts], kind)
    cases = []
    for n, (text, kind) in enumerate(chosen.items()):
        try:
            steps = len(tokenizer.encode(text)) - 1 + _GENERATED
        except TokenizerError:
            continue
        name = f"{kind.replace(' ', '-')}-{n}"
        cases.append(answer(PlannedCase(name, "tokenizer", (), kind, files.name, text, steps)))
    return verify_group(cases, impl, files=files, limits=limits, levels=["TEXT"])


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def check_tokenizer(
    actual: Encoder,
    tokenizer: Tokenizer,
    *,
    n_texts: int = 5000,
    seed: int = 1,
    texts: Iterable[tuple[str, bytes]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Check:
    """Put texts to an encoder, and their right ids to its decoder.

    Args:
        tokenizer: what is right.
        n_texts: as many of the hard texts of its vocabulary.
        texts: these instead, each with its kind.

    Raises:
        ImplementationError: the program was lost, or broke the protocol.
    """
    found = Check()
    start = clock()
    wrong: list[tuple[str, bytes, list[int]]] = []
    right: list[bytes] = []
    wrong_texts: list[tuple[str, bytes, list[int], bytes]] = []
    offers = {"encode": True, "decode": True}
    counts: Counter[str] = Counter()
    wrong_counts: Counter[str] = Counter()
    for kind, text in itertools.islice(texts if texts is not None else hard_texts(tokenizer, seed=seed), n_texts):
        try:
            expected = tokenizer.encode(text)
        except TokenizerError:
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
                right.append(text)
        if offers["decode"] and (said := _decoded(actual, expected, offers)) is not None:
            found.n_decoded += 1
            if said != tokenizer.decode(expected):
                found.decode_wrong += 1
                if found.decode_wrong <= _MOST_DECODED:
                    wrong_texts.append((kind, text, expected, said))
    found.by_kind = {kind: (n, wrong_counts[kind]) for kind, n in counts.items()}
    found.unsupported = tuple(verb for verb, is_there in offers.items() if not is_there)
    if wrong:
        _find_encode_cause(found, tokenizer, wrong, right)
        found.examples += _examples(actual, tokenizer, wrong)
    if wrong_texts:
        _find_decode_cause(found, tokenizer, wrong_texts)
        by_ids = {tuple(one[2]): one for one in sorted(wrong_texts, key=lambda one: -len(one[2]))}
        shortest = list(by_ids.values())[: -_SHOWN - 1 : -1]
        found.examples += [
            Disagreement(kind, text, tuple(ids), _text(said), _text(tokenizer.decode(ids)))
            for kind, text, ids, said in shortest
        ]
    if offers["encode"]:
        _time_long(found, actual, tokenizer, clock)
    found.took_s = clock() - start
    return found


_REFUSED = [-1]  # stands for an encoding that the program refused


def _encoded(actual: Encoder, text: bytes, offers: dict[str, bool]) -> list[int] | None:
    try:
        return actual.encode(text)
    except Unsupported:
        offers["encode"] = False
        return None
    except Refused:
        return _REFUSED


def _decoded(actual: Encoder, ids: Sequence[int], offers: dict[str, bool]) -> bytes | None:
    try:
        return actual.decode(ids)
    except Unsupported:
        offers["decode"] = False
        return None
    except Refused as refusal:
        return b"error: " + refusal.what.encode()


# ---- why -----------------------------------------------------------------------------------------------------------


def _find_encode_cause(
    found: Check, tokenizer: Tokenizer, wrong: Sequence[tuple[str, bytes, list[int]]], right: Sequence[bytes]
) -> None:
    """Name the known wrong ways that give what the program gave, for every text."""
    whole, partly = [], []
    for name, description, rules in KNOWN_WRONG:

        def by_rule(text: bytes, rules: object = rules) -> list[int]:
            try:
                return tokenizer.encode(text, rules=rules)  # type: ignore[arg-type]
            except TokenizerError:
                return _REFUSED

        n = sum(by_rule(text) == ids for _, text, ids in wrong)
        if n == len(wrong) and all(by_rule(text) == tokenizer.encode(text) for text in right):
            whole.append(f"{description} ({name})")
        elif n:
            partly.append((f"{description} ({name})", n / len(wrong)))
    found.encode_cause = ", or ".join(whole)
    found.partly = tuple(sorted(partly, key=lambda one: -one[1])[:3]) if not whole else ()


def _find_decode_cause(
    found: Check, tokenizer: Tokenizer, wrong: Sequence[tuple[str, bytes, list[int], bytes]]
) -> None:
    byte_of = [tokenizer.is_byte_piece(i) for i in range(tokenizer.vocab_size)]
    known = printings(tokenizer.pieces, byte_of, bos_id=tokenizer.bos_id)
    names = [
        printing.name
        for printing in known
        if all(b"".join(printing.render(ids)) == said for _, _, ids, said in wrong)
    ]
    trims: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
        ("all leading spaces are dropped", lambda text: text.lstrip(b" ")),
        ("white space at both ends is dropped", bytes.strip),
    )
    for name, trim in trims:
        if all(said == trim(tokenizer.decode(ids)) for _, _, ids, said in wrong):
            names.append(name)
    found.decode_cause = names[0] if names else ""


# ---- the smallest examples -----------------------------------------------------------------------------------------


def _examples(
    actual: Encoder, tokenizer: Tokenizer, wrong: Sequence[tuple[str, bytes, list[int]]]
) -> list[Disagreement]:
    """Shrink the shortest disagreement of each kind, and keep some."""
    first: dict[str, tuple[str, bytes, list[int]]] = {}
    for one in sorted(wrong, key=lambda one: len(one[1])):
        first.setdefault(one[0], one)
    shown: dict[bytes, Disagreement] = {}
    for kind, text, _ in itertools.islice(first.values(), _SHOWN):

        def differs(candidate: bytes) -> bool:
            try:
                return _ids(actual, candidate) != tokenizer.encode(candidate)
            except TokenizerError:
                return False

        least = shrink(text, differs)
        shown.setdefault(
            least,
            Disagreement(kind, least, (), _numbers(_ids(actual, least)), _numbers(tokenizer.encode(least))),
        )
    return list(shown.values())


def _ids(actual: Encoder, text: bytes) -> list[int]:
    try:
        return actual.encode(text)
    except Refused:
        return _REFUSED


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


def _numbers(ids: Sequence[int]) -> str:
    if ids == _REFUSED:
        return "an error"
    return " ".join(map(str, ids[:16])) + (" ..." if len(ids) > 16 else "")


def _text(raw: bytes) -> str:
    return repr(raw[:64])[1:]


# ---- time ----------------------------------------------------------------------------------------------------------


def _time_long(found: Check, actual: Encoder, tokenizer: Tokenizer, clock: Callable[[], float]) -> None:
    """Fit the exponent of time over length; the quickest of five, since others use the machine too."""
    times = []
    for length in _LENGTHS:
        text = long_text(length)
        try:
            expected = tokenizer.encode(text)
        except TokenizerError:
            return
        took = []
        for _ in range(5):
            start = clock()
            try:
                ids = actual.encode(text)
            except (Unsupported, Refused):
                ids = _REFUSED
            took.append(clock() - start)
        if ids != expected and not found.encode_wrong:
            found.encode_wrong += 1
            found.examples.append(
                Disagreement("long text", text[:64], (), _numbers(ids), _numbers(expected) + f" ({length:,} bytes)")
            )
        times.append(min(took))
    logs = [(math.log(length), math.log(max(took, 1e-9))) for length, took in zip(_LENGTHS, times, strict=True)]
    mean_x, mean_y = (sum(axis) / len(logs) for axis in zip(*logs, strict=True))
    found.exponent = sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)
    found.long_s = times[-1]
