"""The text out of what programs print, in the shapes that real programs print it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.adapters import extract
from harness.adapters.extract import Extracted, after_echo, best, candidates, reported_tps

PROMPT = b"Once upon"
STORY = (
    b"Once upon a time, there was a little girl named Lily. She had 3 cats: Tom, Tim and Mia.\n"
    b'"Help, Mia. Why are you sad?" she asked.\n\nMia felt proud of'
)


def pieces(text: bytes) -> list[bytes]:
    return re.findall(rb" ?[^ ]+| +", text)


def so_far(text: bytes) -> list[bytes]:
    parts = pieces(text)
    return [b"".join(parts[: n + 1]) for n in range(len(parts))]


def node(text: bytes) -> bytes:
    return (
        b'params = {"temperature":0}\nPrompt: \nconfig = {"dim":64}\n\nloading checkpoint\nloading tokenizer\n'
        b"loading weights\nPrompt Tokens\n1,403,407\n[0]\t<s>\n[1]\tOnce\n[2]\t upon\n\n"
        + text
        + b"\nStats:\n417.5\ttps\n200\ttokens\n"
        b"0\ttemperature\n0.9\ttopp\nProfile Stats:\n480.2\ttotal\n12.1\tload\n3\tforward (60%)\n"
        b"Response:\n\n" + text + b"\n\n"
    )


def numpy_blocks(text: bytes) -> bytes:
    head = b"Reading model file .......... 0.0011 seconds\nBuilding the network . 0.0001 seconds\n\n"
    head += b"[max seq length: 48   length of input prompt: 9]\n"
    steps = b"".join(b".....426 0.0041 seconds\n\n" + part + b"\n\n" for part in so_far(text))
    return head + steps + b"[1661.5187 tok/s]\nmax 48 tokens reached\n"


# Each wraps a text as some program does, and names what must be said of it.
SHAPES: dict[str, tuple[Callable[[bytes], bytes], set[str]]] = {
    "llama2.c": (lambda t: t + b"\n", set()),
    "no final newline": (lambda t: t, {extract.NO_NEWLINE}),
    "two final newlines": (lambda t: t + b"\n\n", {extract.TWO_NEWLINES}),
    "<s> line": (lambda t: b"<s>\n" + t + b"\n", {extract.BOS_HEADER}),
    "leading space": (lambda t: b" " + t + b"\n", {extract.LEADING_SPACE}),
    "log lines": (lambda t: b"loading model...\nvocab: 512\n[INFO] ready\n" + t + b"\n", {extract.LOGS}),
    "unlike logs": (lambda t: b"Hello there\nthis is my port\n\n" + t + b"\n", {extract.LOGS}),
    "statistics": (lambda t: t + b"\nachieved tok/s: 312.5\n", {extract.SPEED}),
    "zig": (lambda t: t + b"\n\nachieved: 2584.416 tok/s\n", {extract.SPEED}),
    "brackets": (lambda t: t + b"\n[1661.5187 tok/s]\n", {extract.SPEED}),
    "statistics on the same line": (lambda t: t + b" [1661.5 tok/s]\n", {extract.SPEED}),
    "several statistics": (
        lambda t: t + b"\n---\nTokens: 200\nTime: 0.31 s\nSpeed: 645.2 tokens per second\n",
        {extract.SPEED},
    ),
    "node": (node, {extract.AGAIN}),
    "numpy blocks": (numpy_blocks, {extract.CUMULATIVE}),
    "cumulative lines": (lambda t: b"".join(p + b"\n" for p in so_far(t)), {extract.CUMULATIVE}),
    "cumulative over": (lambda t: b"\r" + b"\r".join(so_far(t)) + b"\n", {extract.OVERPRINT}),
    "cumulative screens": (
        lambda t: b"".join(b"\x1b[2J\x1b[H" + p for p in so_far(t)) + b"\n",
        {extract.ANSI, extract.CUMULATIVE},
    ),
    "NULs": (lambda t: b"\0".join(pieces(t)) + b"\0\n", {extract.NUL}),
    "colours": (lambda t: b"\x1b[32m" + t + b"\x1b[0m\n", {extract.ANSI}),
    "CRLF": (lambda t: (t + b"\n").replace(b"\n", b"\r\n"), {extract.CRLF}),
    "Prompt: on the line": (lambda t: b"Prompt: " + t + b"\n", {extract.PROMPT_HEADER}),
    "Prompt: above": (lambda t: b"Prompt: Once upon\n" + t + b"\n", {extract.PROMPT_HEADER}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_story_is_recovered_from_every_shape(shape: str) -> None:
    wrap, conventions = SHAPES[shape]
    found = best(wrap(STORY), prompt=PROMPT, expected=STORY)
    assert found.text == STORY
    assert found.echoes_prompt
    assert conventions <= set(found.conventions)
    if shape in ("llama2.c",):
        assert found.conventions == ()


@pytest.mark.parametrize("shape", sorted(SHAPES.keys() - {"two final newlines"}))  # one may be the text's own
def test_a_story_that_goes_wrong_midway_is_recovered_whole(shape: str) -> None:
    wrap, _ = SHAPES[shape]
    wrong = STORY[:60] + b"dog, who ran away.\nHe was 7 years old and saw a"
    assert best(wrap(wrong), prompt=PROMPT, expected=STORY).text == wrong


@pytest.mark.parametrize(
    "shape", ["llama2.c", "no final newline", "statistics", "zig", "node", "numpy blocks", "NULs"]
)
def test_a_story_is_among_the_candidates_without_knowing_it(shape: str) -> None:
    wrap, _ = SHAPES[shape]
    assert STORY in [found.text for found in candidates(wrap(STORY), prompt=PROMPT)]


@pytest.mark.parametrize(
    "shape", ["llama2.c", "no final newline", "<s> line", "statistics", "zig", "log lines", "CRLF"]
)
def test_a_prompt_that_is_not_echoed_is_noticed(shape: str) -> None:
    wrap, conventions = SHAPES[shape]
    found = best(wrap(STORY[len(PROMPT) :]), prompt=PROMPT, expected=STORY)
    assert (found.text, found.echoes_prompt) == (STORY[len(PROMPT) :], False)
    assert conventions | {extract.NO_ECHO} <= set(found.conventions)


def test_a_continuation_without_its_space_is_named() -> None:
    found = best(STORY[len(PROMPT) + 1 :] + b"\n", prompt=PROMPT, expected=STORY)
    assert found.text == STORY[len(PROMPT) + 1 :]
    assert found.conventions == (extract.NO_ECHO, extract.NO_LEADING_SPACE)


def test_a_prompt_echoed_as_it_was_given_is_no_wrong_echo() -> None:
    prompt, expected = "Zoë saw a 🦙".encode(), b"Zo saw a  that was big and"
    found = best("Zoë saw a 🦙 that was big and\n".encode(), prompt=prompt, expected=expected)
    assert (found.text, found.echoes_prompt) == (b" that was big and", False)
    assert found.conventions == (extract.AS_GIVEN,)


def test_a_manifests_pattern_goes_before_everything_else() -> None:
    stdout = b"Once upon a lie\nTEXT<<Once upon a time>>\n"
    found = best(stdout, prompt=PROMPT, expected=b"Once upon a lie", pattern="TEXT<<(.*)>>")
    assert found.text == b"Once upon a time"
    assert found.conventions[0] == extract.PATTERN
    assert candidates(stdout, prompt=PROMPT, pattern="TEXT<<(.*)>>")[0].text == b"Once upon a time"


def test_bytes_that_are_no_utf8_are_kept() -> None:
    text = b"Once upon \xff\xfe a \xc3 time"
    assert best(text + b"\n", prompt=PROMPT, expected=text) == Extracted(text)


def test_the_most_literal_reading_comes_first() -> None:
    found = candidates(STORY + b"\n", prompt=PROMPT)
    assert found[0] == Extracted(STORY)
    assert found[1] == Extracted(STORY + b"\n", (extract.NO_NEWLINE,))


def test_an_output_of_nothing_or_of_a_newline_is_an_empty_text() -> None:
    assert best(b"\n", prompt=b"", expected=STORY).text == b""
    assert best(b"", prompt=b"", expected=STORY).text == b""


def test_numbers_in_a_story_are_no_statistics() -> None:
    text = b"Once upon a time: 3 cats\nTom: 12 mice\nThey ran 5 miles in 3 s"
    assert (
        best(text + b"\n", prompt=PROMPT, expected=text[:30] + b" and so on for a while, until it ended").text[:40]
        == text[:40]
    )


@pytest.mark.parametrize(
    ("stderr", "stdout", "expected"),
    [
        ("achieved tok/s: 311.123456\n", b"", 311.123456),
        ("", b"text\n\nachieved: 2584.416 tok/s\n", 2584.416),
        ("", b"[1661.5187 tok/s]\n", 1661.5187),
        ("", b"Stats:\n417.5\ttps\n", 417.5),
        ("", b"45.2931 tok/sec", 45.2931),
        ("1,234.5 tokens per second", b"", 1234.5),
        ("Speed: 12.5 tokens/second", b"", 12.5),
        ("achieved tok/s: inf", b"", None),
        ("nothing", b"She had 3 cats", None),
    ],
)
def test_a_programs_own_speed_is_read(stderr: str, stdout: bytes, expected: float | None) -> None:
    assert reported_tps(None, stderr, stdout) == expected


def test_a_manifests_own_pattern_for_speed_is_used() -> None:
    assert reported_tps(r"rate=([0-9.]+)", "rate=1.5 rate=2.5", b"9 tok/s") == 2.5
    assert reported_tps(r"rate=([0-9.]+)", "9 tok/s", b"rate=x") is None


# ---- properties

letters = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
words = st.lists(letters.map(lambda w: w.replace(" ", "_")), min_size=6, max_size=40)


@st.composite
def stories(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A prompt and the text that begins with it, of ordinary words with some newlines."""
    found = draw(words)
    breaks = draw(st.sets(st.integers(3, len(found) - 1), max_size=3))
    text = found[0] + "".join(("\n" if i in breaks else " ") + word for i, word in enumerate(found[1:], 1))
    n = draw(st.integers(0, 2))
    return " ".join(found[:n]).encode(), text.encode()


@settings(max_examples=400)
@example((b"", b"0 0 0\n0 0 0"), "several statistics")  # lines of the text that look like statistics themselves
@given(stories(), st.sampled_from(sorted(SHAPES)))
def test_any_text_in_any_shape_is_recovered(story: tuple[bytes, bytes], shape: str) -> None:
    prompt, text = story
    assert best(SHAPES[shape][0](text), prompt=prompt, expected=text).text == text


@given(st.binary(max_size=400), st.binary(max_size=20))
def test_any_bytes_printed_as_llama2c_does_are_taken_as_they_are(text: bytes, prompt: bytes) -> None:
    assert best(text + b"\n", prompt=prompt, expected=text) == Extracted(text)


@given(st.binary(max_size=300), st.binary(max_size=10), st.binary(max_size=60))
def test_no_output_whatever_is_an_error(stdout: bytes, prompt: bytes, expected: bytes) -> None:
    found = best(stdout, prompt=prompt, expected=expected)
    assert isinstance(found.text, bytes)
    for candidate in candidates(stdout, prompt=prompt):
        assert candidate.echoes_prompt == candidate.text.startswith(prompt)


@given(st.binary(max_size=30), st.binary(max_size=60))
def test_what_follows_an_echo_is_an_end_of_the_text(prompt: bytes, expected: bytes) -> None:
    assert expected.endswith(after_echo(prompt, expected))
    assert after_echo(prompt, prompt + expected) == expected


# ---- hostile output


@pytest.mark.parametrize(
    "unit",
    [
        b"x",
        b"\n",
        b"Once upon a time ",
        b"Once upon\n",
        b"\r",
        b"\x1b[2J",
        b"\x1b[",
        b"\0",
        b"[",
        b"a: 1\n",
        b"....1 0.1 seconds\n",
        b"Response:\n\n",
        b" 1 tok/s",
        b"1 2 3 ",
        b"Prompt: ",
        b"\r\n",
        None,
    ],
)
def test_16_mib_of_garbage_take_seconds_at_most(unit: bytes | None) -> None:
    size = 16 << 20
    garbage = os.urandom(size) if unit is None else (unit * (size // len(unit) + 1))[:size]
    start = time.process_time()  # a busy machine does not count
    best(garbage, prompt=PROMPT, expected=STORY)
    assert time.process_time() - start < 8.0
