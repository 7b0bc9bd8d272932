"""`harness bench`: what it refuses before it measures."""

import pytest

from harness.__main__ import main


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "add --self"),
        (["--self", "--models", "7X"], "no model shape '7X'"),
        (["--self", "--models", ","], "no model is selected"),
        (["--self", "--json", "no/such/directory/x.json"], "the directory does not exist"),
        (["--self", "--rounds", "0"], "see harness bench --help"),
    ],
)
def test_a_wrong_request_is_one_line_and_2(args, message, capsys):
    assert main(["bench", *args]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert message in printed.err
