"""A session: each flawed program ends as exactly what it is, the session goes on after it, and nothing leaks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from harness.adapters.channel import Channel
from harness.adapters.process import Limits
from harness.adapters.protocol import VERBS, Session
from harness.errors import (
    Crashed,
    ImplementationError,
    ProtocolViolation,
    Refused,
    StartFailed,
    TimedOut,
    Unsupported,
)
from harness.results import kind_of_failure
from tests.line_miniatures import FLAWS, PROGRAM, Flaw, outcome, session_of

BY_NAME = {flaw.name: flaw for flaw in FLAWS}


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.name or "right")
def test_each_flaw_has_exactly_its_outcome(flaw: Flaw, tmp_path: Path) -> None:
    error = outcome(flaw, str(tmp_path))
    if flaw.kind is None:
        assert error is None
        return
    assert error is not None
    assert (kind_of_failure(error), getattr(error, "fault", "")) == (flaw.kind, flaw.fault), error.what
    assert str(PROGRAM) in error.command
    if isinstance(error, ProtocolViolation) and flaw.fault != "unasked":
        assert error.sent
        assert error.received or flaw.name == "empty_line"


def test_a_right_program_says_what_it_is(tmp_path: Path) -> None:
    with session_of(BY_NAME[""], str(tmp_path)) as session:
        info = session.info()
        assert (info.name, info.vocab_size, info.seq_len, info.threads) == ("miniature", 300, 64, 1)
        assert info.verbs == set(VERBS)
        assert session.offers("encode")
        assert not session.offers("trace")


def test_texts_and_ids_of_any_kind_pass(tmp_path: Path) -> None:
    with session_of(BY_NAME[""], str(tmp_path)) as session:
        every = bytes(range(1, 256))
        assert session.decode(session.encode(every, eos=True)) == every
        assert session.encode(b"") == [1]
        assert session.encode(b"", bos=False) == []
        assert session.decode([]) == b""
        long = os.urandom(300_000).replace(b"\0", b"x")
        assert session.decode(session.encode(long)) == long
        assert session.generate([1], 0) == []
        assert len(session.generate([1] * 60, 9)) == 5  # the context is full
        assert session.logits([1, 2, 3]).shape == (3, 300)


@pytest.mark.parametrize("seed", [1, -1, 3_000_000_000, 2**31 - 1])
def test_a_seed_is_sent_as_the_command_line_takes_it(seed: int, tmp_path: Path) -> None:
    with session_of(BY_NAME[""], str(tmp_path)) as session:
        session.generate([1], 3, temperature=float("inf"), topp=0.95, seed=seed)
        sent = int(session.sent.split()[5])
        assert (sent - seed) % 2**32 == 0
        assert -(2**31) <= sent < 2**31


def test_after_a_crash_the_program_is_started_anew_and_the_session_goes_on(tmp_path: Path) -> None:
    with session_of(BY_NAME["dies_at_3"], str(tmp_path)) as session:
        assert session.encode(b"Hi") == [1, 75, 108]
        with pytest.raises(Crashed) as caught:
            session.encode(b"Ho")
        assert caught.value.exit_code == -11
        assert session.encode(b"Ha") == [1, 75, 100]
        assert session.n_starts == 2


def test_after_a_violation_the_program_is_started_anew(tmp_path: Path) -> None:
    with session_of(BY_NAME["own_seed"], str(tmp_path)) as session:
        with pytest.raises(ProtocolViolation, match=r"asked for 3 0 0\.9 7, it went by 3 0 0\.9 1234"):
            session.generate([1], 3, seed=7)
        assert session.encode(b"Hi") == [1, 75, 108]
        assert session.n_starts == 2


@pytest.mark.parametrize(("name", "kind"), [("offers_nothing", Unsupported), ("refuses", Refused)])
def test_after_an_honest_no_the_same_program_goes_on(
    name: str, kind: type[ImplementationError], tmp_path: Path
) -> None:
    with session_of(BY_NAME[name], str(tmp_path)) as session:
        with pytest.raises(kind):
            session.generate([1], 3, seed=7)
        assert session.info().name == "miniature"
        assert session.n_starts == 1


def test_a_hanging_program_is_ended_and_the_next_request_is_answered(tmp_path: Path) -> None:
    with session_of(BY_NAME["mute_at_logits"], str(tmp_path)) as session:
        with pytest.raises(TimedOut):
            session.logits([1])
        assert session.waited_s >= BY_NAME["mute_at_logits"].limits.time_s
        assert session.encode(b"Hi") == [1, 75, 108]


def test_a_program_that_cannot_be_started_is_said_to(tmp_path: Path) -> None:
    for command in (["no-such-program-anywhere"], [str(tmp_path / "absent")]):
        with Session(command, cwd=tmp_path) as session, pytest.raises(StartFailed):
            session.encode(b"Hi")


def test_what_it_wrote_on_stderr_is_in_the_error(tmp_path: Path) -> None:
    code = "import sys; sys.stderr.write('no room on deck\\n'); sys.exit(1)"
    with Session([sys.executable, "-I", "-S", "-c", code], cwd=tmp_path) as session, pytest.raises(Crashed) as caught:
        session.info()
    assert caught.value.stderr_tail == "no room on deck\n"


def test_the_line_to_reproduce_puts_the_same_request(tmp_path: Path) -> None:
    with session_of(BY_NAME[""], str(tmp_path)) as session:
        session.encode(b"Hi")
        assert session.reproduce.startswith("printf '%s\\n' '2 encode 1 0 4869' | ")
        # Through a shell, as one would paste it.
        with Channel(["/bin/sh", "-c", session.reproduce], cwd=tmp_path) as shell:
            shell.start()
            assert shell.ask(b"\n") == b"2 ok 1 0 3 1 75 108"


def test_a_session_of_many_requests_leaks_nothing(tmp_path: Path) -> None:
    own = psutil.Process()
    with session_of(BY_NAME[""], str(tmp_path)) as session:
        for _ in range(200):
            session.encode(b"Hi")
        descriptors, resident = own.num_fds(), own.memory_info().rss
        for _ in range(10_000):
            session.encode(b"Hi")
        assert own.num_fds() == descriptors
        assert own.memory_info().rss - resident < 4 << 20
        assert session.n_starts == 1


def test_many_lost_programs_leave_no_descriptor_and_no_process(tmp_path: Path) -> None:
    own = psutil.Process()
    flaws = [BY_NAME["exits_at_generate"], BY_NAME["own_seed"], BY_NAME["offers_nothing"]]

    def lose() -> None:
        for flaw in flaws:
            with session_of(flaw, str(tmp_path)) as session:
                for _ in range(3):
                    with pytest.raises(ImplementationError):
                        session.generate([1], 3, seed=7)

    lose()
    descriptors = own.num_fds()
    lose()
    assert own.num_fds() == descriptors
    command = str(PROGRAM)
    assert not [child for child in own.children(recursive=True) if command in child.cmdline()]


def test_a_channel_carries_lines_of_megabytes_both_ways(tmp_path: Path) -> None:
    with Channel(["cat"], cwd=tmp_path, limits=Limits(output_bytes=8 << 20)) as channel:
        channel.start()
        line = b"x" * (5 << 20) + b"\n"
        assert channel.ask(line) == line[:-1]
        assert channel.close() == 0
