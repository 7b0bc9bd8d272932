"""`harness selftest`: what it says, its exit status, its document, Ctrl-C. (tests/cli has other goldens.)"""

from __future__ import annotations

import json

import pytest

from harness.__main__ import main
from harness.cli import selftest as command
from harness.conformance.selftest import kills, run
from harness.conformance.selftest.kept import Kept
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
    assert (found["schema"], found["complete"], found["whole"]) == ("harness-selftest/1", True, [])
    assert found["missing"][0].startswith("kills: ")
    (row,) = found["kills"]
    assert (row["program"], row["fault"], row["killed_in"], row["by"]) == (
        "numpy",
        "heads-modulo",
        ALL,
        ["core/gqa-greedy"],
    )
    assert (
        "numpy: of 1 bugs that show, `harness check` stops 1 by quick (text alone), 1 by quick"
        in capsys.readouterr().out
    )


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
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["is"] for row in rows] == ["self-test", "kill"]


def test_it_goes_on_with_what_it_has(tmp_path, monkeypatch, capsys):
    given = ("--impls", "numpy", "--fault", "heads-modulo,norm-sum", "--out", str(tmp_path / "out.jsonl"))
    _, whole = selftest(tmp_path, *given)
    assert "part kills of numpy: 2 results in 0:" in capsys.readouterr().err
    lines = (tmp_path / "out.jsonl").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_text("".join(lines[:2]) + lines[2][:20])  # killed while it wrote
    asked = []
    made = kills.fate_of
    monkeypatch.setattr(
        run, "fate_of", lambda impl, *more, **named: asked.append(impl.name) or made(impl, *more, **named)
    )
    _, again = selftest(tmp_path, *given, "--resume")
    assert asked == ["numpy+heads-modulo"]  # the second of the catalogue
    assert [(row["fault"], row["by"]) for row in again["kills"]] == [
        (row["fault"], row["by"]) for row in whole["kills"]
    ]
    assert [row["n"] for row in again["parts"]] == [1]
    _, third = selftest(tmp_path, *given[-2:], "--resume", "--part", "none")
    assert third["kills"] == again["kills"]


def test_results_are_not_overwritten_or_mixed(tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    path.write_text("x\n")
    assert main(["selftest", "--out", str(path)]) == 2
    assert "--resume goes on with it" in capsys.readouterr().err
    assert main(["selftest", "--out", str(path), "--resume"]) == 2
    assert "holds no results of a self-test" in capsys.readouterr().err
    path.unlink()
    Kept.begun(path, ["core"], resume=False)
    assert main(["selftest", "--out", str(path), "--resume", "--suite", "stress"]) == 2
    assert "is of other suites" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["--impls", "rust"], "no faults are known for rust"),
        (["--fault", "heads-mod"], "there is no fault heads-mod"),
        (["--part", "speed"], "speed is no part"),
        (["--suite", "none"], "none is no suite"),
        (["--against", "absent.json"], "cannot be read"),
        (["--resume"], "--resume goes on with the file of --out"),
        (["--turn", "3"], "is for --quick"),
    ],
)
def test_what_cannot_be_asked_for(given, what, capsys):
    assert main(["selftest", *given]) == 2
    assert what in capsys.readouterr().err


def test_nine_turns_of_a_quick_one_have_every_fault_once():
    whole = [one.key for one in run.subjects()]
    turns = [[one.key for one in run.subjects(turn=turn)] for turn in range(9)]
    assert sorted(key for keys in turns for key in keys) == sorted(whole)
    for keys in turns:
        assert {key.partition("+")[0] for key in keys} == {"numpy", "c", "zig", "ts"}
    assert run.subjects(turn=9) == run.subjects(turn=0) or [one.key for one in run.subjects(turn=9)] == turns[0]


def test_honest_programs_in_a_quick_one_are_few_and_others_each_time(monkeypatch, capsys):
    asked = []

    def alarms(programs, models, tokens, **more):
        asked.append(([one.name for one in programs], tokens, more.get("first"), more.get("n_cases")))
        return iter(())

    monkeypatch.setattr(run, "alarms", alarms)
    monkeypatch.setattr(command.record, "recorded", lambda: None)
    main(["selftest", "--quick", "--turn", "20", "--part", "alarms,alarms-int8"])
    assert "sample 3 of 9: --turn 20 takes it again" in capsys.readouterr().err
    (names, tokens, first, n), int8 = asked
    assert (len(names), tokens, first, n, int8[3]) == (3, 1, 0, 24, 6)
    for turn in range(21, 27):
        main(["selftest", "--quick", "--turn", str(turn), "--part", "alarms"])
    assert len({name for names, *_ in asked for name in names}) >= 16
    del asked[:]
    main(["selftest", "--part", "alarms,alarms-int8", "--tokens", "500"])
    assert [(len(names) >= 12, tokens) for names, tokens, *_ in asked] == [(True, 500), (True, 100)]
