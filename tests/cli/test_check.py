"""`harness check` from its arguments to its exit status."""

import json
import signal
import threading
import time
import xml.etree.ElementTree as ET

import psutil
import pytest

from harness import runfile
from harness.__main__ import main
from harness.errors import InputError
from harness.results import Kind
from tests.parrots import make_parrot


@pytest.fixture
def good(tmp_path):
    return str(make_parrot(tmp_path / "good"))


@pytest.fixture
def bad(tmp_path):
    return str(make_parrot(tmp_path / "bad", says={"two": "Two cats"}))


# ---- exit statuses and what is printed


def test_a_right_program_passes(good, capsys):
    assert main(["check", good]) == 0
    printed = capsys.readouterr()
    assert "good: right: 3 EXACT" in printed.out
    assert printed.out.endswith("PASS\n")
    assert printed.err == ""


def test_a_wrong_program_fails_with_the_step_both_texts_the_regret_and_the_command(bad, capsys):
    assert main(["check", bad]) == 1
    printed = " ".join(capsys.readouterr().out.split())  # lines end where the terminal does
    for part in (
        "bad: MISMATCH on core/two (model mha)",
        "step 0, position 1",
        "regret 1.25 against a noise floor of 5e-06",
        '"Two dogs ran\\n"',
        '"Two cats\\n"',
        "reproduce: ",
        "bad: wrong: 1 MISMATCH (first at step 0 of two); 2 EXACT",
        "FAIL: bad: 1 MISMATCH",
    ):
        assert part in printed


def test_a_crash_is_a_verdict_and_the_run_goes_on(tmp_path, capsys):
    crashing = make_parrot(tmp_path / "crashing", dies_on=["once"])
    assert main(["check", str(crashing)]) == 1
    assert "does not work: 1 CRASHED" in capsys.readouterr().out


def test_two_programs_of_one_name_stay_apart(tmp_path, capsys):
    one, two = make_parrot(tmp_path / "a" / "run"), make_parrot(tmp_path / "b" / "run", says={"two": "x"})
    assert main(["check", str(one), str(two)]) == 1
    printed = capsys.readouterr().out
    assert "run: right: 3 EXACT" in printed
    assert "run-2: wrong: 1 MISMATCH" in printed


def test_the_same_program_twice_is_judged_once(good, tmp_path):
    assert main(["check", good, good, "--out", str(tmp_path / "r.jsonl")]) == 0
    assert len(runfile.read(tmp_path / "r.jsonl").verdicts) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no-such-program"], "no implementation of that name"),
        (["GOOD", "--suite", "none"], "there is no suite none"),
        (["GOOD", "--case", "none"], "has case none"),
        (["GOOD", "--case", "two", "--quick"], "no case is selected"),
        (["GOOD", "--json", "no/such/directory/x.json"], "directory does not exist"),
        (["GOOD", "--json", "-", "--junit", "-"], "only one result can go to stdout"),
        (["GOOD", "--out", "/"], "is a directory"),
        (["GOOD", "--out", "-"], "a run file cannot go to stdout"),
        (["GOOD", "--out", "no/such/directory/x.jsonl"], "directory does not exist"),
        (["GOOD", "--badge", "x" * 300], "cannot be written: File name too long"),
        (["GOOD", "--junit", "/proc/x"], "cannot be written"),
        (["GOOD", "--jobs", "0"], "see harness check --help"),
        (["GOOD", "--no-such-option"], "see harness check --help"),
    ],
)
def test_a_wrong_request_is_one_line_and_2(args, message, good, capsys):
    assert main(["check", *(good if word == "GOOD" else word for word in args)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert message in printed.err


@pytest.mark.parametrize("args", [["--jobs", "0"], ["--jobs", "two"], ["--no-such-option"], ["--timeout-s", "-1"]])
def test_a_wrong_option_is_2(args, capsys):
    assert main(["check", *args]) == 2
    assert "check" in capsys.readouterr().err


def test_a_bug_of_ours_is_a_traceback_and_3(good, capsys, monkeypatch):
    def broken(*args, **options):
        raise ZeroDivisionError("our own")

    monkeypatch.setattr("harness.conformance.check.verify_group", broken)
    assert main(["check", good]) == 3
    assert "ZeroDivisionError: our own" in capsys.readouterr().err


def test_a_model_that_is_not_here_is_skipped_and_a_named_program_needs_something_green(good, capsys, monkeypatch):
    from harness.models import ModelNotFound

    def nowhere(name, **hashes):
        raise ModelNotFound(f"{name} is not here")

    monkeypatch.setattr("harness.conformance.check.locate", nowhere)
    assert main(["check", good]) == 1
    assert "good: not judged; 3 SKIPPED (gqa is not here; and others)" in capsys.readouterr().out
    assert main(["check", good, "--allow-skip"]) == 0


def test_a_missing_tool_skips_with_the_install_line(tmp_path, capsys):
    directory = tmp_path / "port"
    make_parrot(directory / "run")
    (directory / "impl.toml").write_text(
        'name = "port"\nrun = ["{src}/run", "-i", "{prompt}"]\nneeds_tool = ["zorkc"]\n'
        '[tools]\nzorkc = "get-zorkc --now"\n'
    )
    assert main(["check", str(directory)]) == 1
    assert "install it with: get-zorkc --now" in " ".join(capsys.readouterr().out.split())


def test_a_build_that_fails_shows_what_the_compiler_said(tmp_path, capsys):
    directory = tmp_path / "port"
    make_parrot(directory / "run")
    (directory / "impl.toml").write_text(
        'name = "port"\nrun = ["{src}/run"]\nbuild = ["{python}", "-c", "import sys; sys.exit(\'no semicolon\')"]\n'
    )
    assert main(["check", str(directory)]) == 1
    printed = capsys.readouterr().out
    assert "3 BUILD_FAILED" in printed
    assert "no semicolon" in printed


# ---- selection


def test_suite_case_model_and_quick_select(good, tmp_path):
    def judged(*options):
        out = tmp_path / "run.jsonl"
        assert main(["check", good, "--out", str(out), *options]) == 0
        return [v.case for v in runfile.read(out).verdicts]

    assert judged() == ["once", "three", "two"]  # by model
    assert judged("--suite", "core") == ["once", "two"]
    assert judged("--case", "t*") == ["two", "three"]
    assert judged("--models", "gqa") == ["once", "three"]
    assert judged("--quick") == ["once"]


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_the_number_of_jobs_changes_nothing(good, tmp_path, jobs):
    out = tmp_path / "run.jsonl"
    assert main(["check", good, "--jobs", jobs, "--out", str(out)]) == 0
    assert [v.case for v in runfile.read(out).verdicts] == ["once", "three", "two"]


# ---- listed deviations


@pytest.fixture
def port(tmp_path):
    """A program that is wrong on `two`, and a function that lists deviations in its manifest."""
    directory = tmp_path / "port"
    make_parrot(directory / "run", says={"two": "Two cats"})

    def lists(*entries):
        known = "".join(f'[[known]]\ncase = "{c}"\nkind = "{k}"\nreason = "issue 7"\n' for c, k in entries)
        run = '["{src}/run", "-i", "{prompt}"]'
        (directory / "impl.toml").write_text(f'name = "port"\nrun = {run}\n{known}')
        return str(directory)

    return lists


def test_a_listed_deviation_is_known_and_passes(port, capsys):
    assert main(["check", port(("two", "MISMATCH"))]) == 0
    printed = capsys.readouterr().out
    assert "1 KNOWN (MISMATCH as listed: issue 7)" in printed


def test_a_listed_deviation_that_no_longer_happens_fails(port, capsys):
    assert main(["check", port(("two", "MISMATCH"), ("core/once", "MISMATCH"))]) == 1
    assert "listed deviation no longer happens" in capsys.readouterr().out


def test_another_failure_than_the_listed_one_fails(port, capsys):
    assert main(["check", port(("two", "CRASHED"))]) == 1
    assert "listed as CRASHED (issue 7), but it is MISMATCH" in capsys.readouterr().out


def test_a_listed_deviation_of_no_case_is_a_wrong_manifest(port, capsys):
    assert main(["check", port(("vanished", "MISMATCH"))]) == 2
    assert "known vanished" in capsys.readouterr().err


# ---- documents


def test_documents_are_written(good, bad, tmp_path, capsys):
    names = {option: tmp_path / option.strip("-") for option in ("--json", "--junit", "--markdown", "--badge")}
    assert main(["check", good, bad, *(str(word) for pair in names.items() for word in pair)]) == 1
    document = json.loads(names["--json"].read_text())
    assert (document["passed"], len(document["verdicts"])) == (False, 6)
    assert ET.parse(names["--junit"]).getroot().get("failures") == "1"
    assert "| implementation |" in names["--markdown"].read_text()
    assert json.loads(names["--badge"].read_text())["color"] == "red"
    assert "FAIL" in capsys.readouterr().out


def test_a_document_that_cannot_be_made_leaves_the_others_and_the_table(good, tmp_path, capsys, monkeypatch):
    def fails(summary):
        raise InputError("cannot be made")

    monkeypatch.setattr("harness.cli.check.junit.render", fails)
    files = [tmp_path / "j.xml", tmp_path / "b.json"]
    assert main(["check", good, "--junit", str(files[0]), "--badge", str(files[1])]) == 2
    printed = capsys.readouterr()
    assert "PASS" in printed.out
    assert printed.err == "harness: cannot be made\n"
    assert [file.exists() for file in files] == [False, True]


def test_a_file_that_is_there_is_replaced_whole_and_keeps_its_mode(good, tmp_path):
    target = tmp_path / "b.json"
    target.write_text("x" * 10_000)
    target.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(target)
    assert main(["check", good, "--badge", str(link)]) == 0
    assert (link.is_symlink(), target.stat().st_mode & 0o777) == (True, 0o640)
    assert json.loads(target.read_text())["color"] == "brightgreen"


def test_a_document_on_stdout_stands_there_alone(good, capsys):
    assert main(["check", good, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True


# ---- the run file


def test_the_run_file_is_complete_and_report_renders_the_last_one(good, capsys):
    assert main(["check", good]) == 0
    table = capsys.readouterr().out
    assert main(["report"]) == 0
    assert capsys.readouterr().out == table


def test_resume_runs_only_what_is_missing(good, tmp_path, capsys):
    out = tmp_path / "run.jsonl"
    assert main(["check", good, "--out", str(out)]) == 0
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:2]) + lines[2][:10])
    ran = []

    class Reporting(runfile.RunWriter):
        def add(self, verdicts):
            verdicts = list(verdicts)
            ran.extend(v.case for v in verdicts)
            super().add(verdicts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.cli.check.RunWriter", Reporting)
        assert main(["check", good, "--out", str(out), "--resume"]) == 0
    run = runfile.read(out)
    assert run.complete
    assert sorted(v.case for v in run.verdicts) == ["once", "three", "two"]
    assert len(ran) == 2


def test_resume_with_other_inputs_is_2_and_says_the_difference(good, bad, tmp_path, capsys):
    out = tmp_path / "run.jsonl"
    assert main(["check", good, "--out", str(out)]) == 0
    assert main(["check", bad, "--out", str(out), "--resume"]) == 2
    assert "impl good is no longer asked for; impl bad is new" in capsys.readouterr().err


def test_a_program_that_was_rebuilt_is_another_input(good, tmp_path, capsys):
    out = tmp_path / "run.jsonl"
    assert main(["check", good, "--out", str(out)]) == 0
    make_parrot(tmp_path / "good", says={"two": "x"})
    assert main(["check", good, "--out", str(out), "--resume"]) == 2
    assert "impl good has changed" in capsys.readouterr().err


def test_an_interrupted_run_keeps_what_it_has(good, tmp_path, capsys, monkeypatch):
    from harness.conformance import check as conformance

    judge = conformance.verify_group

    def interrupted(cases, impl, **options):
        if cases[0].name == "two":
            raise KeyboardInterrupt
        return judge(cases, impl, **options)

    monkeypatch.setattr(conformance, "verify_group", interrupted)
    out = tmp_path / "run.jsonl"
    assert main(["check", good, "--out", str(out)]) == 130
    run = runfile.read(out)
    assert ([v.case for v in run.verdicts], run.complete) == (["once", "three"], False)
    printed = capsys.readouterr()
    assert "the run is not complete" in printed.out
    assert "2 of 3 verdicts" in printed.err
    monkeypatch.setattr(conformance, "verify_group", judge)
    assert main(["check", good, "--out", str(out), "--resume"]) == 0
    assert runfile.read(out).complete


def test_a_group_that_is_interrupted_keeps_the_verdicts_that_were_settled(good, tmp_path, monkeypatch):
    from harness.conformance import check as conformance

    judge = conformance.verify_group

    def interrupted(cases, impl, on_settled, **options):
        on_settled(judge(cases[:1], impl, **options)[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(conformance, "verify_group", interrupted)
    out = tmp_path / "run.jsonl"
    assert main(["check", good, "--out", str(out)]) == 130
    assert len(runfile.read(out).verdicts) == 1
    monkeypatch.setattr(conformance, "verify_group", judge)
    assert main(["check", good, "--out", str(out), "--resume"]) == 0
    run = runfile.read(out)
    assert run.complete
    assert sorted(v.case for v in run.verdicts) == ["once", "three", "two"]


def test_verdicts_of_other_kinds_than_green_are_kept_by_name(tmp_path, capsys):
    crashing = make_parrot(tmp_path / "crashing", dies_on=["two"])
    main(["check", str(crashing), "--out", str(tmp_path / "run.jsonl")])
    kinds = {v.case: v.kind for v in runfile.read(tmp_path / "run.jsonl").verdicts}
    assert kinds == {"once": Kind.EXACT, "two": Kind.CRASHED, "three": Kind.EXACT}


@pytest.fixture
def heeds_ctrl_c():
    """Tests that a shell started in the background ignore the signal, and so would what is tested."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_the_command_with_130_and_leaves_no_program(tmp_path, jobs, heeds_ctrl_c):
    pids = tmp_path / "pids"
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho $$ >> {pids}\nexec sleep 60\n")
    slow.chmod(0o755)

    def interrupt():
        while not (pids.exists() and pids.read_text().endswith("\n")):
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    assert main(["check", str(slow), "--models", "gqa", "--jobs", jobs]) == 130
    assert time.monotonic() - began < 10
    patience = time.monotonic() + 5  # on a busy machine a killed process is not gone at once
    while any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < patience
        time.sleep(0.01)
