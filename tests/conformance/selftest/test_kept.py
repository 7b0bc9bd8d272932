"""The file of results: what is written is read back, cut lines are left out, several runs may append."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from harness.conformance.selftest.alarms import Batch, Judged
from harness.conformance.selftest.kept import Kept, judged_of, judged_row, sources
from harness.errors import InputError


def test_results_are_read_back_by_kind(tmp_path):
    kept = Kept.begun(tmp_path / "x", ["core"], resume=False)
    kept.add("kill", {"fault": "a"})
    kept.add("part", {"n": 1})
    kept.add("kill", {"fault": "b"})
    again = Kept.begun(tmp_path / "x", ["core"], resume=True)
    assert again.rows("kill") == kept.rows("kill") == [{"fault": "a"}, {"fault": "b"}]
    assert again.n_results == kept.n_results == 3


def test_without_a_file_they_are_kept_in_the_process():
    kept = Kept.begun(None, ["core"], resume=False)
    kept.add("kill", {"fault": "a"})
    assert kept.rows("kill") == [{"fault": "a"}]


def test_a_line_that_was_cut_is_left_out_and_what_follows_stands_by_itself(tmp_path):
    path = tmp_path / "x"
    kept = Kept.begun(path, ["core"], resume=False)
    kept.add("kill", {"fault": "a"})
    with path.open("a") as file:
        file.write('{"is": "kill", "fau')
    Kept.begun(path, ["core"], resume=True).add("kill", {"fault": "b"})
    assert [row["fault"] for row in Kept.begun(path, ["core"], resume=True).rows("kill")] == ["a", "b"]


def test_two_runs_append_to_one_file(tmp_path):
    path = tmp_path / "x"
    one = Kept.begun(path, ["core"], resume=False)
    two = Kept.begun(path, ["core"], resume=True)
    for number in range(5):
        one.add("kill", {"fault": f"a{number}"})
        two.add("kill", {"fault": f"b{number}"})
    assert len(Kept.begun(path, ["core"], resume=True).rows("kill")) == 10


@pytest.mark.parametrize("content", ["[1]\n", '{"is": "kill"}\n', '{"schema": "harness-selftest/1"}\n'])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    (tmp_path / "x").write_text(content)
    with pytest.raises(InputError):
        Kept.begun(tmp_path / "x", ["core"], resume=True)


def test_what_was_judged_comes_back_as_it_was():
    alarm = ("case", "MISMATCH", "a\nb", "run.sh")
    one = Judged(
        "p", Batch("gqa", 3), 6, 10, Counter(EXACT=5, MISMATCH=1), 2, (alarm,), 1, ("norm-sum",), 0.5, "", 1, 11
    )
    assert judged_of(json.loads(json.dumps(judged_row(one)))) == one


def test_the_same_code_has_the_same_digest():
    assert sources() == sources()
    assert len(sources()) == 12
