"""What crosses from running to judging."""

import os
import subprocess

import pytest

from harness.results import Observation


@pytest.mark.parametrize(
    "word",
    [
        "",
        "plain",
        "two words",
        "it's",
        "Björn 🦊",
        "a\nb\t'c' \\n",
        "\x1b[31m\x01f",
        "\udcff\xa0",
    ],
)
def test_a_command_line_is_one_printable_line_that_bash_reads_as_the_command(word):
    line = Observation(("printf", "%s", word), cwd="/", stdout=b"").command_line
    assert line.isprintable()
    run = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert run.stdout == os.fsencode(word)
