"""Programs of the line protocol with one flaw each, and what becomes of them. The program is miniatures/lines.py.

`python -m tests.line_miniatures` runs them all and prints the table of docs/trust.md.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.adapters.process import Limits
from harness.adapters.protocol import Session
from harness.errors import ImplementationError, ProtocolViolation
from harness.results import Kind, kind_of_failure

PROGRAM = Path(__file__).with_name("miniatures") / "lines.py"
SHAPE = (300, 64)
LIMITS = Limits(time_s=0.8, output_bytes=1 << 20, memory_bytes=200 << 20)
PATIENT = Limits(time_s=20.0, output_bytes=1 << 20, memory_bytes=200 << 20)


@dataclass(frozen=True, slots=True)
class Flaw:
    """One flaw of the program.

    Attributes:
        kind: of the failure that it ends as; None: it is right in all that is asked here.
        fault: of a ProtocolViolation.
        what: what it does, for the table.
    """

    name: str
    kind: Kind | None
    fault: str
    what: str
    limits: Limits = PATIENT


P = Kind.PROTOCOL
FLAWS = (
    Flaw("", None, "", "is right"),
    Flaw("floods_stderr", None, "", "writes 32 MiB to stderr before it answers"),
    Flaw("mute", Kind.TIMED_OUT, "", "reads, and never answers", LIMITS),
    Flaw("never_reads", Kind.TIMED_OUT, "", "does not even read", LIMITS),
    Flaw("mute_at_logits", Kind.TIMED_OUT, "", "answers all but one verb", LIMITS),
    Flaw("half_a_line", Kind.TIMED_OUT, "", "writes half a line, and waits", LIMITS),
    Flaw("drips", Kind.TIMED_OUT, "", "writes a byte now and then, and never the end of the line", LIMITS),
    Flaw("floods", Kind.OUTPUT_LIMIT, "", "writes a line without end"),
    Flaw("eats_memory", Kind.MEMORY_LIMIT, "", "takes ever more memory instead of answering"),
    Flaw("dies_at_3", Kind.CRASHED, "", "ends by SIGSEGV at the third request"),
    Flaw("exits_at_generate", Kind.CRASHED, "", "ends with exit code 3 instead of answering"),
    Flaw("exits_well", Kind.CRASHED, "", "ends with exit code 0 instead of answering"),
    Flaw("ends_each_time", Kind.CRASHED, "", "answers one request, and ends"),
    Flaw("closes_stdout", Kind.CRASHED, "", "closes its output, and waits"),
    Flaw("half_a_line_and_dies", Kind.CRASHED, "", "ends in the middle of a line"),
    Flaw("refuses", Kind.CRASHED, "", "answers `error out of memory`"),
    Flaw("offers_nothing", Kind.UNSUPPORTED, "", "answers `unsupported`"),
    Flaw("greets", P, "malformed", "prints a line when it starts"),
    Flaw("garbage", P, "malformed", "writes all 256 bytes"),
    Flaw("crlf", P, "malformed", "ends its lines in CR LF"),
    Flaw("two_spaces", P, "malformed", "writes two spaces between words"),
    Flaw("trailing_space", P, "malformed", "writes a space at the end of a line"),
    Flaw("no_number", P, "malformed", "leaves out the number"),
    Flaw("empty_line", P, "malformed", "writes empty lines"),
    Flaw("shouts", P, "malformed", "writes OK for ok"),
    Flaw("utf8_error", P, "malformed", "has an error text that is not ASCII"),
    Flaw("bare_error", P, "malformed", "has an error without a text"),
    Flaw("parrot", P, "malformed", "gives the request back"),
    Flaw("id_out_of_range", P, "malformed", "gives an id that the vocabulary does not have"),
    Flaw("negative_id", P, "malformed", "gives the id -1"),
    Flaw("huge_id", P, "malformed", "gives an id of 500 digits"),
    Flaw("odd_hex", P, "malformed", "writes an odd number of hexadecimal digits"),
    Flaw("plain_text", P, "malformed", "writes text as it is"),
    Flaw("decimal_logits", P, "malformed", "writes logits in decimal"),
    Flaw("one_id_short", P, "count", "gives one id fewer than it says"),
    Flaw("one_id_more", P, "count", "gives one id more than it was asked for"),
    Flaw("stops_early", P, "count", "gives fewer ids than it was asked for, without a stop"),
    Flaw("short_row", P, "count", "leaves out the last logit"),
    Flaw("no_temperature", P, "echo", "is greedy whatever the temperature, and says so"),
    Flaw("clamps_topp", P, "echo", "knows no top-p"),
    Flaw("own_seed", P, "echo", "takes a seed of its own"),
    Flaw("clamps_n", P, "echo", "generates 4 ids at most"),
    Flaw("forgets_bos", P, "echo", "ignores that BOS is wanted"),
    Flaw("half_the_rows", P, "echo", "begins at another row"),
    Flaw("other_model", P, "echo", "has loaded another model"),
    Flaw("one_behind", P, "number", "answers with the number before"),
    Flaw("renumbers", P, "number", "loses count at the fourth request"),
    Flaw("extra_reply", P, "unasked", "answers twice"),
    Flaw("extra_after_last", P, "unasked", "says goodbye"),
    Flaw("other_version", P, "version", "speaks version 2"),
)


def session_of(flaw: Flaw, cwd: str) -> Session:
    command = [sys.executable, "-I", "-S", str(PROGRAM), flaw.name]
    return Session(command, cwd=cwd, limits=flaw.limits, shape=SHAPE)


def converse(session: Session) -> None:
    """Put one request of each kind; the first that fails raises."""
    assert session.encode(b"Hi") == [1, 75, 108]
    assert session.decode([1, 75, 108]) == b"Hi"
    assert session.generate([1, 75], 8, temperature=0.5, topp=0.9, seed=7) == [236, 139, 138, 135, 126, 99, 18, 65]
    rows = session.logits([1, 75, 108], first=1)
    assert rows.argmax(axis=1).tolist() == [236, 45]
    assert session.quit() == 0


def outcome(flaw: Flaw, cwd: str) -> ImplementationError | None:
    """Hold the conversation; return what it failed with."""
    with session_of(flaw, cwd) as session:
        try:
            converse(session)
        except ImplementationError as error:
            return error
    return None


def main() -> None:
    print("| program | what it does | outcome |")
    print("| --- | --- | --- |")
    for flaw in FLAWS[1:]:
        with tempfile.TemporaryDirectory() as cwd:
            error = outcome(flaw, cwd)
        kind = "answers" if error is None else kind_of_failure(error).value
        fault = f": {error.fault}" if isinstance(error, ProtocolViolation) else ""
        print(f"| `{flaw.name}` | {flaw.what} | {kind}{fault} |")


if __name__ == "__main__":
    main()
