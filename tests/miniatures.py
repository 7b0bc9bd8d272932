"""Programs with one flaw each, and what the harness must say of them. The scripts are in miniatures/.

`python -m tests.miniatures` runs them all and prints the table of docs/trust.md.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness.adapters.process import Limits, run
from harness.results import Kind, Observation, kind_of_failure

DIRECTORY = Path(__file__).with_name("miniatures")
MIB = 1 << 20
# Short, so that the whole table takes seconds; a Python interpreter fits in 64 MiB several times.
LIMITS = Limits(time_s=0.8, output_bytes=2 * MIB, memory_bytes=200 * MIB)


@dataclass(frozen=True, slots=True)
class Miniature:
    """One flawed program.

    Attributes:
        file: its script.
        kind: the failure that it must end as; None: it is judged like any other.
        flaw: what it does, for the table.
        limits: under which it runs.
        judged: what the judge says of its text on the case core/gqa-greedy, where there is no failure.
    """

    file: str
    kind: Kind | None
    flaw: str
    limits: Limits = LIMITS
    judged: Kind | None = None

    @property
    def name(self) -> str:
        return self.file.partition(".")[0]

    @property
    def command(self) -> list[str]:
        path = str(DIRECTORY / self.file)
        if path.endswith(".py"):
            return [sys.executable, "-I", "-S", path]
        return ["/bin/sh", path] if path.endswith(".sh") else [path]

    @property
    def verdict(self) -> str:
        """What the table says of it."""
        return self.kind.value if self.kind else f"{self.judged}, by its text"


PATIENT = Limits(time_s=20.0, output_bytes=2 * MIB, memory_bytes=200 * MIB)

MINIATURES = (
    Miniature("hangs.py", Kind.TIMED_OUT, "prints half an answer, then waits for ever"),
    Miniature("ignores_sigterm.py", Kind.TIMED_OUT, "ignores SIGTERM, SIGINT and SIGHUP"),
    Miniature("stops_itself.py", Kind.TIMED_OUT, "stops itself with SIGSTOP"),
    Miniature("reads_stdin.py", Kind.TIMED_OUT, "asks for input again after its end, for ever"),
    Miniature("closes_stdout.py", Kind.TIMED_OUT, "closes stdout and stderr, then waits"),
    Miniature("drips.py", Kind.TIMED_OUT, "prints a piece now and then, for ever"),
    Miniature("forks.py", Kind.TIMED_OUT, "starts 50 processes, a third in their own sessions"),
    Miniature("respawns.py", Kind.NO_OUTPUT, "hands over to a successor in a new session, 200 times"),
    Miniature("daemonises_and_hangs.py", Kind.TIMED_OUT, "leaves orphans in new sessions, then waits"),
    Miniature("floods_stdout.py", Kind.OUTPUT_LIMIT, "never stops printing", PATIENT),
    Miniature("eats_memory.py", Kind.MEMORY_LIMIT, "takes ever more memory", PATIENT),
    Miniature("eats_memory_in_children.py", Kind.MEMORY_LIMIT, "has 8 children that take too much together", PATIENT),
    Miniature("crashes.py", Kind.CRASHED, "ends by SIGSEGV in the middle of its answer", PATIENT),
    Miniature("exits_3.py", Kind.CRASHED, "ends with exit code 3", PATIENT),
    Miniature("deletes_directory.py", Kind.CRASHED, "deletes its working directory, then exits with 4", PATIENT),
    Miniature("kills_spawner.py", Kind.CRASHED, "kills the process that started it", PATIENT),
    Miniature("mute.sh", Kind.NO_OUTPUT, "ends well without a word", PATIENT),
    Miniature("no_interpreter.txt", Kind.START_FAILED, "is no program at all", PATIENT),
    Miniature("half_line.py", None, "prints no final newline", PATIENT, Kind.MISMATCH),
    Miniature("prints_nuls.py", None, "prints a NUL after each piece", PATIENT, Kind.INCONCLUSIVE),
    Miniature("invalid_utf8.py", None, "prints bytes that are no UTF-8", PATIENT, Kind.MISMATCH),
    Miniature("floods_stderr.py", None, "writes 32 MiB to stderr before it answers", PATIENT, Kind.INCONCLUSIVE),
    Miniature("keeps_pipe.sh", None, "answers; a child keeps its stdout open", PATIENT, Kind.INCONCLUSIVE),
    Miniature(
        "daemonises.py", None, "answers; a daemon (double fork, setsid) stays behind", PATIENT, Kind.INCONCLUSIVE
    ),
)


def observe(miniature: Miniature) -> tuple[Observation, float]:
    """Run one in a fresh directory; return what it did and the seconds until the harness was done with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cwd:
        start = time.monotonic()
        seen = run(miniature.command, cwd=cwd, limits=miniature.limits)
        return seen, time.monotonic() - start


def main() -> None:
    print("| program | what it does | verdict | limit | ended after |")
    print("| --- | --- | --- | --- | --- |")
    for miniature in MINIATURES:
        seen, took_s = observe(miniature)
        kind = kind_of_failure(seen.failure).value if seen.failure else f"{miniature.judged}, by its text"
        limit = f"{miniature.limits.time_s:g} s"
        print(f"| `{miniature.name}` | {miniature.flaw} | {kind} | {limit} | {took_s:.2f} s |")


if __name__ == "__main__":
    main()
