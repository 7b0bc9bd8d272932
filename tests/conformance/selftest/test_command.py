"""`harness selftest`: what it says, its exit status, its document, Ctrl-C. (tests/cli has other goldens.)"""

from __future__ import annotations

import json

import pytest

from harness.__main__ import main
from harness.cli import selftest as command
from harness.conformance.selftest import kills, run
from harness.conformance.selftest.kills import Outcome

ALL = ["quick, text", "quick", "full, text", "full"]


@pytest.fixture(autouse=True)
def one_case(monkeypatch):
    """The gate is one case of core: quick, and enough for what is asked here."""
    read = kills._read
    monkeypatch.setattr(kills, "_read", lambda suites: [one for one in read(suites) if one.key == "core/gqa-greedy"])


def selftest(tmp_path, *given: str, before: dict | None = None) -> tuple[int, dict]:
    path, against = tmp_path / "out.json", tmp_path / "before.json"
    against.write_text(json.dumps(before or {"schema": "harness-selftest/1", "kills": [], "alarms": []}))
    given = ("--part", "kills", "--against", str(against), "--json", str(path), *given)
    status = main(["selftest", *given])
    return status, json.loads(path.read_text("utf-8"))


def test_a_fault_that_is_stopped(tmp_path, capsys):
    status, found = selftest(tmp_path, "--impls", "numpy", "--fault", "heads-modulo")
    assert status == 0
    assert (found["schema"], found["complete"], found["selected"]) == ("harness-selftest/1", True, True)
    (row,) = found["kills"]
    assert (row["program"], row["fault"], row["killed_in"], row["by"]) == (
        "numpy",
        "heads-modulo",
        ALL,
        ["core/gqa-greedy"],
    )
    assert "numpy: of 1 faults that can be seen, stopped in quick, text 1, quick 1" in capsys.readouterr().out


def test_a_fault_that_passes_fails_the_self_test(tmp_path, capsys):
    status, found = selftest(tmp_path, "--impls", "numpy", "--fault", "tokenizer-byte-lookup", "--suite", "core")
    assert status == 1
    assert found["kills"][0]["killed_in"] == []
    assert "FALLS SHORT: numpy: full stops 0 of 1" in capsys.readouterr().out


def test_a_fault_that_was_stopped_before(tmp_path, capsys):
    facts = {"program": "numpy", "fault": "tokenizer-byte-lookup", "fate": "killable", "obstacle": "", "broken": ""}
    before = {
        "schema": "harness-selftest/1",
        "alarms": [],
        "kills": [{**facts, "killed_in": ["full"], "by": ["core/gqa-curly-quotes"]}],
    }
    given = ("--impls", "numpy", "--fault", "tokenizer-byte-lookup", "--suite", "core")
    status, _ = selftest(tmp_path, *given, before=before)
    assert status == 1
    assert "numpy+tokenizer-byte-lookup: no longer stopped in full\n" in capsys.readouterr().out


def test_the_report_names_what_passes(tmp_path):
    report = tmp_path / "out.md"
    selftest(tmp_path, "--impls", "numpy", "--fault", "tokenizer-byte-lookup", "--markdown", str(report))
    text = report.read_text("utf-8")
    assert "- full, numpy: `tokenizer-byte-lookup`" in text
    assert "**falls short**" in text


def test_interrupted_it_keeps_what_it_has(tmp_path, monkeypatch, capsys):
    def kills(found, **more):
        yield found[0], Outcome("numpy", found[0].fault.name, tuple(ALL), ("core/gqa-greedy",), ("MISMATCH",), 1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "kills", kills)
    out = tmp_path / "out.jsonl"
    status, found = selftest(tmp_path, "--impls", "numpy", "--out", str(out))
    assert status == 130
    assert (found["complete"], len(found["kills"])) == (False, 1)
    assert "interrupted" in capsys.readouterr().out
    (line,) = out.read_text("utf-8").splitlines()
    assert json.loads(line)["is"] == "kill"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["--impls", "rust"], "no faults are known for rust"),
        (["--fault", "heads-mod"], "there is no fault heads-mod"),
        (["--part", "speed"], "speed is no part"),
        (["--suite", "none"], "none is no suite"),
        (["--against", "absent.json"], "cannot be read"),
    ],
)
def test_what_cannot_be_asked_for(given, what, capsys):
    assert main(["selftest", *given]) == 2
    assert what in capsys.readouterr().err


def test_a_quick_one_has_every_fault_in_numpy_and_a_sample_of_the_others():
    whole, quick = run.subjects(), run.subjects(quick=True)
    numpy = [one.key for one in whole if one.program == "numpy"]
    assert [one.key for one in quick if one.program == "numpy"] == numpy
    for program in ("c", "zig", "ts"):
        some = [one for one in quick if one.program == program]
        assert 0 < len(some) < sum(one.program == program for one in whole)


def test_honest_programs_in_a_quick_one_are_few(monkeypatch, tmp_path):
    asked = {}

    def alarms(programs, **more):
        asked.update(more, n=len(programs))
        return iter(())

    monkeypatch.setattr(run, "alarms", alarms)
    monkeypatch.setattr(command.record, "recorded", lambda: None)
    main(["selftest", "--quick", "--part", "alarms"])
    assert (asked["n"], asked["rounded"]) == (3, [])
    main(["selftest", "--part", "alarms", "--tokens", "500"])
    assert asked["n"] >= 12
    assert (asked["tokens"], asked["int8_tokens"]) == (500, 500)
    assert len(asked["rounded"]) == 8
