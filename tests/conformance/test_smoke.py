"""Smoke: wired wrong shows its bytes, computes wrong is told apart, and the line to paste shows it again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.__main__ import main
from harness.adapters.implementation import resolve_lines
from harness.conformance.smoke import N_CASES, smoke
from harness.errors import InputError
from harness.models import impls_dir
from tests.line_miniatures import PROGRAM

# Answers as impls/numpy does, changed by a function of the reply.
BENT = """\
import subprocess, sys
child = subprocess.Popen([{python!r}, {lines!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
for line in sys.stdin.buffer:
    child.stdin.write(line)
    child.stdin.flush()
    reply = child.stdout.readline()
    number, verb = line.split()[:2]
    {bend}
    sys.stdout.buffer.write(reply)
    sys.stdout.buffer.flush()
"""


def bent(tmp_path, bend):
    program = tmp_path / "bent.py"
    lines = str(impls_dir() / "numpy" / "lines.py")
    program.write_text(BENT.format(python=sys.executable, lines=lines, bend=bend))
    return f"{sys.executable} {program}"


def tried(command, time_s=10.0):
    return smoke(resolve_lines(command, impls_dir()), time_s=time_s)


def test_a_right_program_passes_all_three():
    assert [trial.problem for trial in tried("numpy")] == [""] * N_CASES


def test_a_program_whose_command_names_the_model_needs_no_load(tmp_path):
    bend = "if verb == b'load': reply = number + b' unsupported\\n'"
    program = bent(tmp_path, bend)
    assert "does not offer load" in tried(program)[0].note + tried(program)[0].problem
    loads = "child.stdin.write(b'0 load %b %b\\n' % tuple(w.encode().hex().encode() for w in sys.argv[1:3]))"
    own = (
        (tmp_path / "bent.py")
        .read_text()
        .replace("for line", f"{loads}\nchild.stdin.flush(); child.stdout.readline()\nfor line")
    )
    (tmp_path / "bent.py").write_text(own)
    assert [trial.problem for trial in tried(f"{program} {{model}} {{tokenizer}}")] == [""] * N_CASES


def test_wrong_ids_are_told_from_wrong_wiring(tmp_path):
    bend = "if verb == b'generate': reply = reply.replace(b'461', b'460')"
    first, second, third = tried(bent(tmp_path, bend))
    assert (first.problem, second.problem) == ("", "")
    assert "wired right" in third.problem
    assert b" 460 " in third.received
    assert third.expected == third.received.replace(b"460", b"461")


def test_what_is_not_offered_is_no_failure(tmp_path):
    bend = "if verb == b'encode': reply = number + b' unsupported\\n'"
    second = tried(bent(tmp_path, bend))[1]
    assert (second.problem, second.note) == ("", "does not offer encode")


@pytest.mark.parametrize(
    ("flaw", "received"),
    [("greets", b"Loading the model ...\n"), ("crlf", b"quit\r\n"), ("mute", b""), ("empty_line", b"")],
)
def test_wrong_wiring_ends_at_the_first_request_with_its_bytes(flaw, received):
    trials = tried(f"{sys.executable} -I -S {PROGRAM} {flaw}", 0.5)
    assert len(trials) == 1
    assert trials[0].problem
    assert trials[0].sent == b"1 info\n"
    assert trials[0].received.endswith(received)


def test_replies_that_are_held_back_are_explained(tmp_path):
    program = tmp_path / "held.py"
    program.write_text(
        "import sys\nheld = open(1, 'w', buffering=1 << 16)\n"
        "for line in sys.stdin: print(line.split()[0], 'unsupported', file=held)\n"
    )
    (trial,) = tried(f"{sys.executable} {program}", 0.5)
    assert trial.problem.endswith("it does not write each reply out at once: flush it")
    assert subprocess.run(trial.reproduce, shell=True, capture_output=True, check=True).stdout == b"1 unsupported\n"


def test_the_command_line_shows_the_bytes_and_a_line_that_shows_them_again(capsys, tmp_path):
    bend = "if verb == b'encode': reply = reply.replace(b'\\n', b'\\r\\n')"
    assert main(["smoke", bent(tmp_path, bend)]) == 1
    said = capsys.readouterr().out
    assert r"sent      3 encode 1 0 4f6e63652075706f6e20612074696d65\n" in said
    assert r"received  3 ok 1 0 5 1 432 441 261 440\r\n" in said
    assert r"expected  3 ok 1 0 5 1 432 441 261 440\n" in said
    line = next(line.partition("again:")[2] for line in said.splitlines() if "again:" in line)
    shown = subprocess.run(line, shell=True, capture_output=True, check=True).stdout
    assert shown.endswith(b"3 ok 1 0 5 1 432 441 261 440\r\n")


def test_the_command_line_says_pass(capsys):
    assert main(["smoke", "numpy"]) == 0
    assert capsys.readouterr().out.endswith("PASS: next, harness check\n")


@pytest.mark.parametrize("spec", ["compact", "no-such-program", "cat {prompt}"])
def test_what_cannot_speak_it_is_refused(spec):
    with pytest.raises(InputError):
        resolve_lines(spec, impls_dir())
