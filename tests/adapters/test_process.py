"""One child process: what it did, and that nothing of it is left, whatever it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from harness.adapters import process, spawners
from harness.adapters.process import Limits, run
from harness.errors import Crashed, InputError, NoOutput, OutputLimit, StartFailed, TimedOut
from harness.results import kind_of_failure
from tests.miniatures import MINIATURES, Miniature

MARK = "HARNESS_TEST_MARK"
SHORT = Limits(time_s=0.5)
PYTHON = [sys.executable, "-I", "-S", "-c"]


def alive(mark: str) -> list[psutil.Process]:
    """List the processes that carry a mark in their environment."""
    found = []
    for candidate in psutil.process_iter():
        try:
            if candidate.environ().get(MARK) == mark and candidate.status() != psutil.STATUS_ZOMBIE:
                found.append(candidate)
        except (psutil.Error, OSError):
            continue
    return found


def sleeping(mark: str) -> int:
    """Count the marked processes that sleep below a harness."""
    n = 0
    for candidate in alive(mark):
        try:
            n += candidate.cmdline() == ["sleep", "1234"]
        except psutil.Error:
            continue
    return n


def gone(mark: str, within_s: float = 2.0) -> bool:
    deadline = time.monotonic() + within_s
    while alive(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def marked() -> Iterator[Mapping[str, str]]:
    """An environment whose processes can be found; whatever is left of them in the end is killed."""
    mark = uuid.uuid4().hex
    yield {**os.environ, MARK: mark}
    for stray in alive(mark):
        stray.kill()


# ---- hostile programs


@pytest.mark.parametrize("miniature", MINIATURES, ids=lambda m: m.name)
def test_a_flawed_program_gets_its_verdict_in_time_and_leaves_nothing(
    miniature: Miniature, marked: Mapping[str, str], tmp_path: Path
) -> None:
    cwd = tmp_path / "work"
    cwd.mkdir()
    start = time.monotonic()
    seen = run(miniature.command, cwd=cwd, env=marked, limits=miniature.limits)
    took_s = time.monotonic() - start
    assert (None if seen.failure is None else kind_of_failure(seen.failure)) == miniature.kind
    assert took_s <= miniature.limits.time_s + 1.0
    assert alive(marked[MARK]) == []


def test_all_flawed_programs_at_once_do_not_get_into_each_others_way(
    marked: Mapping[str, str], tmp_path: Path
) -> None:
    def kind(miniature: Miniature) -> object:
        cwd = tmp_path / miniature.name
        cwd.mkdir()
        # Two processors for all of them: a hand-over of 200 steps or a start may take its time.
        limits = Limits(5.0, miniature.limits.output_bytes, 8192, miniature.limits.memory_bytes)
        failure = run(miniature.command, cwd=cwd, env=marked, limits=limits).failure
        return None if failure is None else kind_of_failure(failure)

    with ThreadPoolExecutor(len(MINIATURES)) as pool:
        kinds = list(pool.map(kind, MINIATURES))
    assert kinds == [miniature.kind for miniature in MINIATURES]
    assert alive(marked[MARK]) == []


def test_what_was_printed_before_a_failure_is_kept(tmp_path: Path) -> None:
    seen = run(["/bin/sh", "-c", "printf 'Once upon'; echo oh >&2; sleep 100"], cwd=tmp_path, limits=SHORT)
    assert isinstance(seen.failure, TimedOut)
    assert (seen.stdout, seen.stderr_tail, seen.exit_code) == (b"Once upon", "oh\n", None)
    assert (seen.failure.limit, seen.failure.stderr_tail) == (0.5, "oh\n")
    assert seen.failure.command == "/bin/sh -c 'printf '\"'\"'Once upon'\"'\"'; echo oh >&2; sleep 100'"


def test_output_is_kept_up_to_its_limit_exactly(tmp_path: Path) -> None:
    limits = Limits(time_s=5.0, output_bytes=1000)
    seen = run([*PYTHON, "print('x' * 5000, end='')"], cwd=tmp_path, limits=limits)
    assert isinstance(seen.failure, OutputLimit)
    assert seen.stdout == b"x" * 1000
    whole = run([*PYTHON, "print('x' * 1000, end='')"], cwd=tmp_path, limits=limits)
    assert whole.failure is None
    assert whole.stdout == b"x" * 1000


def test_a_crash_names_its_signal_and_keeps_the_end_of_stderr(tmp_path: Path) -> None:
    script = "import os,sys; sys.stderr.write('a' * 100000 + 'end'); sys.stderr.flush(); os.abort()"
    seen = run([*PYTHON, script], cwd=tmp_path)
    assert isinstance(seen.failure, Crashed)
    assert (seen.exit_code, seen.failure.exit_code, seen.failure.what) == (-6, -6, "ended by SIGABRT")
    assert len(seen.stderr_tail) == 8192
    assert seen.stderr_tail.endswith("aend")


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["no-such-program-anywhere"], "not found in PATH"),
        (["./no-such-file"], "No such file"),
        (["./plain"], "Permission denied"),
        (["/"], "Permission denied"),
        (["./script"], "its interpreter or loader is missing"),
    ],
)
def test_a_program_that_cannot_be_started_says_why(command: list[str], what: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program\n")
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    seen = run(command, cwd=tmp_path)
    assert isinstance(seen.failure, StartFailed)
    assert what in seen.failure.what
    assert (seen.stdout, seen.exit_code, seen.wall_s) == (b"", None, 0.0)


def test_a_missing_working_directory_is_named(tmp_path: Path) -> None:
    seen = run(["true"], cwd=tmp_path / "nowhere")
    assert isinstance(seen.failure, StartFailed)
    assert seen.failure.what == f"{tmp_path / 'nowhere'}: No such file or directory"


def test_a_nul_byte_in_an_argument_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="argument 1"):
        run(["echo", b"a\0b"], cwd=tmp_path)
    with pytest.raises(InputError, match="empty"):
        run([], cwd=tmp_path)


# ---- what a child is given


def test_a_large_input_is_fed_while_output_is_drained(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192
    assert run(["cat"], cwd=tmp_path, stdin=data).stdout == data


def test_a_program_that_does_not_read_its_input_does_not_hold_us_up(tmp_path: Path) -> None:
    seen = run(["echo", "done"], cwd=tmp_path, stdin=b"x" * (1 << 20))
    assert (seen.stdout, seen.failure) == (b"done\n", None)


def test_a_child_has_three_open_files_its_own_session_and_default_signals(tmp_path: Path) -> None:
    script = (
        "import os, signal; fds = os.listdir('/proc/self/fd'); print(sorted(map(int, fds))[:3], len(fds),"
        " os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,"
        " signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getcwd())"
    )
    seen = run([*PYTHON, script], cwd=tmp_path)
    assert seen.stdout.decode() == f"[0, 1, 2] 4 True True set() {os.path.realpath(tmp_path)}\n"


def test_arguments_may_be_any_bytes(tmp_path: Path) -> None:
    assert run(["printf", "%s", b"\xff\xfe {x} \n"], cwd=tmp_path).stdout == b"\xff\xfe {x} \n"


def test_the_environment_is_replaced_when_given(tmp_path: Path) -> None:
    seen = run(["/usr/bin/env"], cwd=tmp_path, env={"A": "1"})
    assert [line.partition(b"=")[0] for line in seen.stdout.split()] == [b"A", process.MARK.encode()]


def test_a_relative_program_is_found_from_the_working_directory(tmp_path: Path) -> None:
    script = tmp_path / "hello"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o755)
    assert run(["./hello"], cwd=tmp_path).stdout == b"hello\n"


# ---- resource use


def test_peak_memory_is_the_childs_own_not_that_of_a_large_parent(tmp_path: Path) -> None:
    ballast = bytearray(150 << 20)
    for i in range(0, len(ballast), 4096):
        ballast[i] = 1
    small = run([*PYTHON, "print('hi', flush=True); import time; time.sleep(0.1)"], cwd=tmp_path)
    large = run([*PYTHON, "x = bytearray(80 << 20); print('hi')"], cwd=tmp_path)
    tiny = run(["/bin/sh", "-c", "sleep 0.1; echo hi"], cwd=tmp_path)
    assert small.peak_rss_bytes < 40 << 20
    assert 80 << 20 <= large.peak_rss_bytes < 120 << 20
    assert 0 < tiny.peak_rss_bytes < 6 << 20
    del ballast


def test_times_are_the_processes_own(tmp_path: Path) -> None:
    script = (
        "import time; time.sleep(0.1); print('a', flush=True); t = time.time() + 0.2\nwhile time.time() < t: pass"
    )
    seen = run([*PYTHON, script], cwd=tmp_path)
    assert seen.first_byte_s is not None
    assert 0.1 <= seen.first_byte_s <= seen.wall_s
    assert seen.wall_s >= 0.3
    assert 0.01 <= seen.cpu_s <= seen.wall_s  # of the 0.2 s only what a busy machine gave it


def test_the_harnesss_own_time_is_that_while_the_program_ran(tmp_path: Path) -> None:
    before = time.process_time()
    seen = run([*PYTHON, "import time; time.sleep(0.1); print('a')"], cwd=tmp_path)
    spent = time.process_time() - before
    assert seen.harness_cpu_s is not None
    assert 0 < seen.harness_cpu_s < spent
    assert run(["./nowhere"], cwd=tmp_path).harness_cpu_s is None


def test_a_mapped_file_is_not_held_against_the_limit_of_memory(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x" * (64 << 20))
    script = (
        "import mmap, time; f = open('weights', 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "print(sum(m[i] for i in range(0, len(m), 4096))); time.sleep(0.2)"
    )
    seen = run([*PYTHON, script], cwd=tmp_path, limits=Limits(memory_bytes=32 << 20))
    assert seen.failure is None
    assert seen.peak_rss_bytes > 64 << 20


def test_a_silent_success_is_no_output(tmp_path: Path) -> None:
    seen = run(["true"], cwd=tmp_path)
    assert isinstance(seen.failure, NoOutput)
    assert seen.exit_code == 0


def test_a_lone_newline_is_an_output(tmp_path: Path) -> None:
    assert run(["echo"], cwd=tmp_path).failure is None


# ---- the end of the harness


def start_harness(mark: str, tmp_path: Path, body: str, *, n_sleeping: int = 2) -> subprocess.Popen[bytes]:
    """Start a Python that runs something through the harness, and wait until that is under way."""
    # Whoever runs the tests may ignore these signals, and a child inherits that.
    heed = "signal.signal(signal.SIGHUP, signal.SIG_DFL); signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"import signal; {heed}\nfrom harness.adapters.process import *\nimport threading, os, time\n{body}"
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, MARK: mark, "PYTHONPATH": str(Path(process.__file__).parents[2])},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20.0
    while sleeping(mark) < n_sleeping:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return child


HANG = "run(['/bin/sh', '-c', '(setsid sleep 1234 &) ; trap : TERM INT; sleep 1234; sleep 1234'], cwd='.')"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_outlives_a_harness_that_is_ended(number: int, marked: Mapping[str, str], tmp_path: Path) -> None:
    harness = start_harness(marked[MARK], tmp_path, HANG)
    harness.send_signal(number)
    assert harness.wait(5.0) != 0
    assert gone(marked[MARK])


def test_interrupting_one_thread_can_end_the_runs_of_all(marked: Mapping[str, str], tmp_path: Path) -> None:
    body = (
        f"threads = [threading.Thread(target=lambda: {HANG}) for _ in range(2)]\n"
        "for t in threads: t.start()\n"
        "try: time.sleep(1000)\n"
        "except KeyboardInterrupt: terminate_all()\n"
        "for t in threads: t.join()\n"
        "os._exit(7)\n"
    )
    harness = start_harness(marked[MARK], tmp_path, body, n_sleeping=4)
    time.sleep(0.2)
    harness.send_signal(signal.SIGINT)
    assert harness.wait(5.0) == 7
    assert gone(marked[MARK])


def test_a_forked_copy_of_the_harness_does_not_keep_its_programs_alive(
    marked: Mapping[str, str], tmp_path: Path
) -> None:
    body = f"run(['true'], cwd='.')\nif os.fork() == 0:\n    time.sleep(20)\n    os._exit(0)\n{HANG}"
    harness = start_harness(marked[MARK], tmp_path, body)
    harness.send_signal(signal.SIGKILL)
    harness.wait(5.0)
    deadline = time.monotonic() + 3.0
    while sleeping(marked[MARK]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_cancelled_runs_say_so(tmp_path: Path) -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(run(["sleep", "100"], cwd=tmp_path).failure))
    thread.start()
    time.sleep(0.2)
    process.terminate_all()
    thread.join(3.0)
    assert isinstance(found[0], Crashed)
    assert found[0].what == "was cancelled"


def test_a_dead_idle_spawner_is_replaced(tmp_path: Path) -> None:
    assert run(["echo", "1"], cwd=tmp_path).failure is None
    for spawner in list(spawners._idle):
        spawner.process.kill()
        spawner.process.wait()
    assert run(["echo", "2"], cwd=tmp_path).stdout == b"2\n"


def test_the_documented_table_is_the_one_that_is_tested() -> None:
    text = (Path(__file__).parents[2] / "docs" / "trust.md").read_text("utf-8")
    names = {f"`{m.name}`" for m in MINIATURES}
    # Programs of text have five columns; those of the line protocol, in a table of their own, three.
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    rows = [line[:3] for line in lines if len(line) == 5 and line[0] in names]
    assert rows == [[f"`{m.name}`", m.flaw, m.verdict] for m in MINIATURES]
