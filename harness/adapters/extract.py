"""The generated text out of what a program prints.

Programs print more than the text: headers, logs, statistics, the text a second time, each step's text so
far; and they print it in their own way: with NULs, colours, CRLF, the leading space kept, the prompt left
out. None of that is wrong. `candidates` lists the plausible readings, the most literal first; `best` picks
the one that goes along with the expected text furthest, and names, in `conventions`, everything that had to
be set aside.

Time is linear in the output: every reading is a span of at most four cleaned copies of it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

__all__ = ["Extracted", "best", "candidates", "reported_tps"]

# Conventions, as they are named in reports.
ANSI = "terminal escapes"
AGAIN = "text printed again at the end"
AS_GIVEN = "prompt echoed as given"
BOS_HEADER = "<s> before the text"
CRLF = "CRLF line ends"
CUMULATIVE = "whole text printed at each step"
LEADING_SPACE = "leading space kept"
LOGS = "log lines before the text"
NO_LEADING_SPACE = "leading space of the continuation dropped"
NO_NEWLINE = "no final newline"
NO_ECHO = "prompt not echoed"
NUL = "NUL bytes between pieces"
OVERPRINT = "line printed over by carriage returns"
PATTERN = "found by the manifest's pattern"
PROMPT_HEADER = "Prompt: before the text"
SPEED = "speed printed on stdout"
STATISTICS = "statistics after the text on stdout"
TWO_NEWLINES = "two final newlines"

MORE_THAN_TEXT = frozenset(
    {AGAIN, ANSI, BOS_HEADER, CRLF, CUMULATIVE, LOGS, NUL, OVERPRINT, PATTERN, PROMPT_HEADER, SPEED, STATISTICS}
)
"""Conventions of programs that print more than the text: read literally, it is not what they said."""

_ESCAPE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-B]|[=>78cDEHMNOZ])")
_CLEAR = re.compile(rb"\x1b\[[0-9;]*[JHf]|\x1bc|\x0c")
_STEP_LINE = re.compile(rb"^\.+(?:\d+)? ?\d*\.?\d* ?seconds\r?$", re.MULTILINE)
_SPEED = (
    rb"(?:tok(?:en)?s?[ \t]*(?:/|per)[ \t]*s(?:ec(?:ond)?s?)?\b|\bt/s\b|\btps\b|"
    rb"\b(?:ms|s|sec|seconds)[ \t]*(?:/|per)[ \t]*tok(?:en)?\b)"
)
# A line that can only be statistics.
_STRONG = re.compile(
    rb"^[^\n]{0,200}?" + _SPEED + rb"[^\n]*$|^(?:Profile )?Stats:[^\n]*$|^max \d+ tokens reached$|^EOS generated$",
    re.IGNORECASE | re.MULTILINE,
)
# A line that is statistics when nothing but statistics follows.
_WEAK = re.compile(
    rb"[ \t]*(?:\[[^\]\n]*\]|[-=_*#]{3,}|-?[\d.,]+(?:e[+-]?\d+)?[ \t]+\S{1,40}(?:[ \t]\S{1,20}){0,2}|"
    rb"[^\n]{0,80}?[\d.]+ ?(?:ns|us|\xc2\xb5s|ms|s|secs?|seconds|min|MB|GB|MiB|GiB|KB|KiB|bytes|tokens|%|tps)\.?\)?|"
    rb"\w[^\n:=]{0,40}[:=][ \t]*-?[\d.,]+(?:e[+-]?\d+)?[^\n]{0,40})[ \t\r]*",
    re.IGNORECASE,
)
_INLINE_SPEED = re.compile(
    rb"[ \t]*(?:\[|\(|achieved|speed|throughput)[^\n\[(]{0,60}?" + _SPEED + rb"[^\n]*\n?\Z", re.IGNORECASE
)
_LOG_LINE = re.compile(
    rb"[ \t]*(?:[\[(<{#*=-].*|[\w .,/()-]{1,60}[:=].*|"
    rb"(?:load|read|build|init|us|creat|open|runn|mapp|alloc|start|generat|model|config|warn|info)\w*\b.*|.*\.\.\.)?\r?",
    re.IGNORECASE,
)
_TAIL_BYTES = 1 << 16  # statistics are looked for in so much of the end
_HEAD_LINES, _TAIL_LINES = 96, 24  # line starts at which a text may begin when nothing else tells
_HEAD_BYTES = 24  # of the expected text, to find it by
_MAX_HITS = 24  # of such finds, from either end
_MAX_LISTED_BYTES = 64 << 20  # what candidates() may copy together


@dataclass(frozen=True, slots=True)
class Extracted:
    """One reading of what a program printed.

    Attributes:
        text: the generated text; the prompt's echo is part of it if `echoes_prompt`.
        conventions: what had to be set aside to get there, in words; empty: as llama2.c prints.
        echoes_prompt: whether the text begins with the prompt.
    """

    text: bytes
    conventions: tuple[str, ...] = ()
    echoes_prompt: bool = True


@dataclass(frozen=True, slots=True)
class _Span:
    base: bytes
    start: int
    end: int
    conventions: tuple[str, ...]

    def extracted(self) -> Extracted:
        return Extracted(self.base[self.start : self.end], _unique(self.conventions))


def candidates(stdout: bytes, *, prompt: bytes, pattern: str | None = None) -> list[Extracted]:
    """List the plausible readings of an output, the most literal first, each text once.

    Args:
        stdout: all that was printed.
        prompt: bytes of the prompt that was asked for.
        pattern: a manifest's `text`: its first group, if it matches, is read instead of the whole output.
    """
    found: dict[bytes, Extracted] = {}
    copied = 0
    for base, conventions in _bases(stdout, pattern):
        for start, before in _starts(base, prompt):
            for end, after in _ends(base):
                if end < start or copied > _MAX_LISTED_BYTES:
                    continue
                reading = _Span(base, start, end, (*conventions, *before, *after)).extracted()
                copied += len(reading.text)
                if reading.text not in found:
                    echoed = reading.text.startswith(prompt)
                    found[reading.text] = reading if echoed else replace(reading, echoes_prompt=False)
    return list(found.values())


def best(
    stdout: bytes, *, prompt: bytes, expected: bytes, pattern: str | None = None, echo: str = "auto"
) -> Extracted:
    """Return the reading that agrees with the expected text furthest.

    Args:
        stdout: all that was printed.
        prompt: bytes of the prompt that was asked for.
        expected: what llama2.c's way of printing would give without the final newline: the prompt's echo, then
            the continuation.
        pattern: a manifest's `text`.
        echo: a manifest's: "prompt" (the echo is there), "none" (it is not), "auto" (see which fits).

    Returns:
        The reading. Where the prompt is not echoed, its text is to be compared with what follows the echo in
        `expected`: see `after_echo`.
    """
    if stdout == expected + b"\n" and pattern is None and echo != "none":
        return Extracted(expected)
    rest = after_echo(prompt, expected)
    targets: list[tuple[bytes, bool, tuple[str, ...]]] = []
    if echo != "none" or not prompt:
        targets.append((expected, True, ()))
    if prompt and echo != "prompt":
        targets.append((rest, False, (NO_ECHO,)))
        if rest[:1] == b" ":
            targets.append((rest[1:], False, (NO_ECHO, NO_LEADING_SPACE)))
    chosen: Extracted | None = None
    chosen_key: tuple[int, ...] | None = None
    order = 0
    for cleanness, (base, conventions) in enumerate(_bases(stdout, pattern)):
        ends: list[tuple[int, tuple[str, ...]]] | None = None
        starts = [(start, before, 2 if _is_repeat(before) else 1) for start, before in _starts(base, prompt)]
        for target, echoes, how in targets:
            anchors = [(start, before, 0) for start, before in _anchors(base, target, prompt, echoes)]
            agreeing, furthest = _furthest([*starts, *anchors], base, target)
            if chosen_key is not None and furthest < chosen_key[0]:
                continue
            ends = ends if ends is not None else list(_ends(base))
            for start, before, is_structure in agreeing:
                whole = _before_statistics(base, start + furthest) if 0 < furthest == len(target) else ()
                for end, after in (*whole, *ends):
                    if end < start:
                        continue
                    order += 1
                    agreed = min(furthest, end - start)
                    is_exact = agreed == len(target) == end - start
                    excess = abs(_length_without_newlines(base, start, end) - len(target.rstrip(b"\n")))
                    rank = _rank_of_end(before, after)
                    excess = 0 if rank else excess  # nothing to guess
                    key = (agreed, int(is_exact), cleanness, is_structure, rank, -excess, -order)
                    if chosen_key is None or key > chosen_key:
                        names = (*conventions, *_as_given(before, how), *after)
                        reading = _Span(base, start, end, names).extracted()
                        chosen, chosen_key = replace(reading, echoes_prompt=echoes), key
                        if is_exact and agreed and start == cleanness == 0:
                            return chosen
    return chosen if chosen is not None else Extracted(stdout, (), False)


def _furthest(
    starts: list[tuple[int, tuple[str, ...], int]], base: bytes, target: bytes
) -> tuple[list[tuple[int, tuple[str, ...], int]], int]:
    """Return the starts from which a target is met furthest (not more than a few), and how far that is."""
    agreeing: list[tuple[int, tuple[str, ...], int]] = []
    furthest = -1
    for start in starts:
        common = _common(base, start[0], target)
        if common > furthest:
            agreeing, furthest = [], common
        if common == furthest:
            agreeing.append(start)
    return agreeing[:_MAX_HITS] + agreeing[_MAX_HITS:][-_MAX_HITS:], furthest


def _is_repeat(before: tuple[str, ...]) -> bool:
    """Whether a start is the last of several prints of the same text, which is the one that is complete."""
    return AGAIN in before or CUMULATIVE in before


def _rank_of_end(before: tuple[str, ...], after: tuple[str, ...]) -> int:
    """Rank the ends of texts that go along with the expected one equally far: what is surely no text is cut off."""
    if SPEED in after:
        return 2
    return 1 if AGAIN in before and TWO_NEWLINES in after else 0


def after_echo(prompt: bytes, expected: bytes) -> bytes:
    """Return what follows the prompt's echo in an expected text; the echo may lack bytes that are not printed.

    >>> after_echo("Zoë saw".encode(), b"Zo saw a cat")
    b' a cat'
    """
    if expected.startswith(prompt):
        return expected[len(prompt) :]
    place = 0
    for byte in prompt:
        if place < len(expected) and expected[place] == byte:
            place += 1
    return expected[place:]


def reported_tps(pattern: str | None, stderr: str, stdout: bytes) -> float | None:
    """Return a program's own claim of tokens per second, from stderr or else stdout; the last one counts.

    Args:
        pattern: a manifest's `tps`; None: the common ways of writing it.

    Returns:
        None if there is none, or it is not a finite number.
    """
    for text in (stderr.encode("utf-8", "surrogateescape"), stdout[-_TAIL_BYTES:]):
        found: list[bytes] = []
        for regex in (pattern.encode(),) if pattern is not None else _SPEED_FORMS:
            found = [match[1] for match in re.finditer(regex, text, re.DOTALL) if match[1]]
            if found:
                break
        if found:
            try:
                value = float(found[-1].replace(b",", b""))
            except ValueError:
                continue
            return value if math.isfinite(value) else None
    return None


_NUMBER = rb"(\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?|\binf\b|\bnan\b)"
_UNIT = rb"(?i:tok(?:en)?s?[ \t]*(?:/|per)[ \t]*s(?:ec(?:ond)?s?)?\b|t/s\b|tps\b)"
_SPEED_FORMS = (_UNIT + rb"[ \t]*[:=][ \t]*" + _NUMBER, _NUMBER + rb"[ \t]*" + _UNIT)


# ---- readings


def _bases(stdout: bytes, pattern: str | None) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    """Yield the output as it is, and cleaned of what is no text, as far as there is any."""
    if pattern is not None:
        found = re.search(pattern.encode(), stdout, re.DOTALL)
        if found is not None and found[1] is not None:
            yield from ((base, (PATTERN, *how)) for base, how in _cleaned(found[1]))
            return
    yield from _cleaned(stdout)


def _cleaned(stdout: bytes) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    yield stdout, ()
    text = stdout
    conventions: tuple[str, ...] = ()
    if b"\x1b" in text:
        text, conventions = _ESCAPE.sub(b"", text), (*conventions, ANSI)
    if b"\0" in text:
        text, conventions = text.replace(b"\0", b""), (*conventions, NUL)
    if b"\r\n" in text:
        text, conventions = text.replace(b"\r\n", b"\n"), (*conventions, CRLF)
    if conventions:
        yield text, conventions
    if b"\r" in text:
        # What a terminal would show, when each print covers the one before.
        shown = b"\n".join(line.rstrip(b"\r").rpartition(b"\r")[2] for line in text.split(b"\n"))
        yield shown, (*conventions, OVERPRINT)
        yield text[text.rstrip(b"\r\n").rfind(b"\r") + 1 :], (*conventions, OVERPRINT)
    pages = [place.end() for place in _CLEAR.finditer(stdout)]
    for start, end in zip(reversed(pages), [len(stdout), *reversed(pages)], strict=False):
        # A screen that is cleared before each step: the last one that is not empty holds the text.
        page = _ESCAPE.sub(b"", stdout[start:end])
        if page.strip():
            yield page, (ANSI, CUMULATIVE)
            break


def _starts(base: bytes, prompt: bytes) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the places where the text may begin by what stands there, the most literal first."""
    yield from _with_space(base, 0, ())
    for header in (b"<s>\n", b"\n<s>\n", b"<s> ", b"<s>"):
        if base.startswith(header):
            yield from _with_space(base, len(header), (BOS_HEADER,))
    place = base.rfind(b"Response:\n\n")
    if place >= 0:
        yield from _with_space(base, place + 11, (AGAIN,))
    place = base.find(b"Prompt: ", 0, _TAIL_BYTES)
    if place >= 0:
        yield from _with_space(base, place + 8, (PROMPT_HEADER, *((LOGS,) if place else ())))
        end = base.find(b"\n", place)
        if end >= 0:
            yield from _with_space(base, end + 1, (PROMPT_HEADER,))
    yield from _last_blocks(base)
    if prompt:
        # An echo at the start of a line, from either end.
        for place in _finds(base, b"\n" + prompt, 3):
            yield place + 1, (LOGS,)
        for place in _finds(base, b"\n " + prompt, 1):
            yield place + 2, (LOGS, LEADING_SPACE)
    place = _after_logs(base)
    if place:
        yield from _with_space(base, place, (LOGS,))


def _with_space(base: bytes, place: int, how: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    yield place, how
    if base[place : place + 1] == b" ":
        yield place + 1, (*how, LEADING_SPACE)
    elif base[place : place + 1] == b"\n":
        yield place + 1, (*how, LOGS)


def _last_blocks(base: bytes) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield where the last of the blocks begins when each step prints the whole text so far."""
    steps = list(_STEP_LINE.finditer(base))
    if steps:
        # A stop id has a line of its own and no text after it, so the last block that has some is wanted.
        for step in reversed(steps[-3:]):
            place = step.end() + 1
            following = _STEP_LINE.search(base, place)
            block = base[place : following.start() if following else len(base)]
            if block.strip() and not _is_statistics(block):
                yield place + (1 if block[:1] == b"\n" else 0), (CUMULATIVE, LOGS)
                yield place, (CUMULATIVE, LOGS)
                break
    for separator in (b"\n\n", b"\n", b"\r"):
        head = base[: base.find(separator, 1)] if separator in base[1:] else b""
        if len(head.strip()) < 2 or len(head) > 4096:
            continue
        needle = separator + head
        places = [base.rfind(needle)]
        while len(places) < 3 and places[-1] > 0:
            places.append(base.rfind(needle, 0, places[-1] + len(needle) - 1))
        begins = [place + len(separator) for place in places if place >= 0]
        if len(begins) < 3:
            begins.append(0)
        blocks = [base[a : b - len(separator)] for b, a in itertools.pairwise(begins)]
        # Each must go on where the one before ended: a text that repeats a line is no such thing.
        if blocks and all(
            base.startswith(block, begin) and not base.startswith(separator, begin + len(block))
            for begin, block in zip(begins, blocks, strict=False)
        ):
            yield begins[0], (CUMULATIVE,)


def _after_logs(base: bytes) -> int:
    """Return where the leading lines that look like logs end; 0 if there are none."""
    place = 0
    for _ in range(_HEAD_LINES):
        end = base.find(b"\n", place, place + 4096)
        if end < 0 or not _LOG_LINE.fullmatch(base, place, end):
            break
        place = end + 1
    return place


def _anchors(base: bytes, target: bytes, prompt: bytes, echoes: bool) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield places to which only the expected text points: where its head stands, and line starts."""
    if prompt and not echoes and not prompt.isspace():
        for place in _finds(base, prompt, 3):
            yield place + len(prompt), (AS_GIVEN, *((LOGS,) if place else ()))
    head = target[:_HEAD_BYTES]
    if len(head) >= 4:
        for place in _finds(base, head, _MAX_HITS):
            yield place, ((LOGS,) if place else ())
        if target is not base and b" " + head in base[:_TAIL_BYTES]:
            place = base.find(b" " + head)
            yield place + 1, (LEADING_SPACE, *((LOGS,) if place else ()))
    place = -1
    for _ in range(_HEAD_LINES):
        place = base.find(b"\n", place + 1)
        if place < 0:
            break
        yield from _with_space(base, place + 1, (LOGS,))
    place = len(base)
    for _ in range(_TAIL_LINES):
        place = base.rfind(b"\n", 0, place)
        if place < 0:
            break
        yield place + 1, (LOGS,)


def _ends(base: bytes) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the places where the text may end, the most literal first."""
    size = len(base)
    final = base[-1:] == b"\n"
    if final:
        yield size - 1, ()
    yield size, (NO_NEWLINE,)
    if base[-2:] == b"\n\n":
        yield size - 2, (TWO_NEWLINES,)
    for cut, name in _statistics(base):
        for newlines in (2, 1, 3, 0):
            if cut < size and base[max(0, cut - newlines) : cut] == b"\n" * newlines:
                yield cut - newlines, (name,)


def _statistics(base: bytes) -> Iterator[tuple[int, str]]:
    """Yield where statistics at the end of an output may begin, and what they are: the longest first."""
    window = max(0, len(base) - _TAIL_BYTES)
    tail = base[window:]
    inline = _INLINE_SPEED.search(tail, max(0, len(tail) - 400))
    if inline and inline.start() - tail.rfind(b"\n", 0, inline.start()) > 24:  # too much before it for a label
        yield window + inline.start(), SPEED
    # Backwards, line by line, as long as they look like it.
    end, first, name = len(tail), -1, STATISTICS
    while end > 0:
        start = tail.rfind(b"\n", 0, end - 1) + 1
        line = tail[start:end].rstrip(b"\n")
        if line.strip():
            if (start == 0 and window) or not _is_statistics(line):
                break
            first = start
            if _STRONG.match(line):
                name = SPEED
        end = start
    if first >= 0:
        yield window + first, name
    if strong := _STRONG.search(tail):
        yield window + strong.start(), SPEED
    place = tail.find(b"\nStats:")
    if place >= 0:
        yield window + place + 1, SPEED
    if inline:
        yield window + inline.start(), SPEED


def _before_statistics(base: bytes, end: int) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Return where an expected text ends, if only statistics follow it: lines of its own may look like them."""
    rest = base[end : end + _TAIL_BYTES + 1]
    if rest[:1] != b"\n" or not rest.strip() or len(rest) > _TAIL_BYTES or not _is_statistics(rest):
        return ()
    return ((end, (SPEED if _STRONG.search(rest) else STATISTICS,)),)


def _is_statistics(text: bytes) -> bool:
    return all(
        not line.strip() or _STRONG.match(line) or (len(line) <= 200 and _WEAK.fullmatch(line))
        for line in text.split(b"\n", 64)
    )


def _finds(base: bytes, needle: bytes, n: int) -> list[int]:
    """Find the first n and the last n places of a needle."""
    found: dict[int, None] = {}
    place = -1
    for _ in range(n):
        place = base.find(needle, place + 1)
        if place < 0:
            return list(found)
        found[place] = None
    place = len(base)
    for _ in range(n):
        place = base.rfind(needle, 0, place + len(needle) - 1)
        if place < 0 or place in found:
            break
        found[place] = None
    return list(found)


def _common(base: bytes, start: int, target: bytes) -> int:
    """Return how many bytes of the target stand at a place, by bisection over comparisons of slices."""
    low, high = 0, min(len(target), len(base) - start)
    if base[start : start + high] == target[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if base[start + low : start + middle] == target[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _length_without_newlines(base: bytes, start: int, end: int) -> int:
    bound = max(start, end - 16)  # more are no newlines after a text
    while end > bound and base[end - 1] == 10:
        end -= 1
    return end - start


def _as_given(before: tuple[str, ...], how: tuple[str, ...]) -> tuple[str, ...]:
    """A prompt that was echoed, only not by pieces, is not one that was left out."""
    return (*before, *(word for word in how if not (word == NO_ECHO and AS_GIVEN in before)))


def _unique(conventions: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(conventions))
