"""`harness bench`: what it refuses before it measures, and what it tells of what it measured."""

import json

import pytest

from harness import benchfile
from harness.__main__ import main
from harness.bench.stats import Result
from harness.cli import bench
from harness.conformance import check
from harness.models import impls_dir
from tests.parrots import make_parrot


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--impls", "no-such-port"], "no implementation of that name"),
        (["--models", "260K,7X"], "no model '7X': expected 260K, 15M"),
        (["--models", "gqa-q8"], "gqa-q8 is int8"),
        (["--models", "gqa", "--synthetic", "--impls", "numpy"], "gqa is no shape"),
        (["--models", "llama3", "--impls", "numpy-q8", "--precision", "q8"], "llama2c-v2 cannot hold"),
        (["--precision", "f64"], "no such precision"),
        (["--threads", "0"], "whole numbers from 1 on"),
        (["--threads", "two"], "whole numbers from 1 on"),
        (["--tolerance", "5 percent"], "is no share"),
        (["--baseline", "no-such.jsonl"], "cannot be read"),
        (["--calibrate", "--models", "260K", "--impls", "numpy,compact"], "one program on one model"),
        (["--budget", "0"], "see harness bench --help"),
        (["--contexts", "64,x"], "whole numbers from 1 on"),
        (["--series", "no-such.jsonl"], "is for a calibration"),
        (["--calibrate", "--series", "no-such.jsonl"], "cannot be read"),
        (["--self", "--models", "7X"], "no model '7X'"),
        (["--self", "--models", "gqa"], "no model shape 'gqa'"),
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


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0), ("12.5%", 0.125)])
def test_a_tolerance_is_a_share_or_a_percentage(text, share):
    assert bench.share_of(text) == pytest.approx(share)


def test_a_real_program_is_measured_from_end_to_end_and_compared_with_itself(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    ask = ["bench", "--models", "260K", "--impls", "c", "--rounds", "1", "--seed", "1"]
    documents = [
        "--markdown",
        tmp_path / "table.md",
        "--html",
        tmp_path / "page.html",
        "--csv",
        tmp_path / "rows.csv",
    ]
    assert main([*ask, "--out", str(first), "--json", "-", *map(str, documents)]) == 0
    facts = json.loads(capsys.readouterr().out)
    (row,) = facts["rows"]
    assert row["verdict"] == "EXACT"
    assert row["is_synthetic"]
    assert row["decode_s"]["value"] > 0
    assert "| model | c | notes |\n| --- | ---: | --- |\n| 260K | " in (tmp_path / "table.md").read_text()
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 2
    run = benchfile.read(first)
    assert run.complete
    assert [s.verdict for s in run.samples] == ["EXACT"] * 5
    # One round can show nothing, so nothing is slower.
    assert main([*ask, "--out", str(second), "--baseline", str(first)]) == 0
    printed = capsys.readouterr().out
    assert "synthetic weights" in printed
    assert Result.INCONCLUSIVE in printed
    assert main(["bench", *ask[1:], "--out", str(first), "--baseline", str(first)]) == 2
    assert "is the baseline itself" in capsys.readouterr().err


def test_a_program_that_cannot_be_built_has_a_cell_that_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    (tmp_path / "broken").mkdir()
    manifest = 'name = "broken"\nbuild = ["{cc}", "-o", "{out}/run", "{src}/run.c"]\nrun = ["{out}/run", "{model}"]\n'
    (tmp_path / "broken" / "impl.toml").write_text(manifest)
    (tmp_path / "broken" / "run.c").write_text("int main(void) { return")
    ask = ["bench", "--models", "260K", "--rounds", "1", "--out", str(tmp_path / "run.jsonl")]
    assert main([*ask, "--impls", f"numpy,{tmp_path / 'broken'}"]) == 1
    assert "BUILD_FAILED" in capsys.readouterr().out
    # One round on a machine that is busy may tell nothing of numpy's speed; that is not what is looked for here.
    absent = {one.key.impl: one.kind for one in benchfile.read(tmp_path / "run.jsonl").absent}
    assert absent.pop("broken") == "BUILD_FAILED"
    assert set(absent) <= {"numpy"}
    assert main([*ask, "--impls", str(tmp_path / "broken")]) == 2
    assert "building broken failed" in capsys.readouterr().err


def test_a_program_that_is_not_on_this_machine_is_a_line_unless_it_is_named(tmp_path, capsys, monkeypatch):
    for name in ("HARNESS_MODELS", "ELSEWHERE"):
        monkeypatch.delenv(name, raising=False)
    impls = tmp_path / "impls"
    (impls / "elsewhere").mkdir(parents=True)
    (impls / "elsewhere" / "impl.toml").write_text('run = ["{env:ELSEWHERE}", "{model}"]\n')
    (impls / "compact").symlink_to(impls_dir() / "compact")
    monkeypatch.setattr(check, "impls_dir", lambda: impls)
    ask = ["bench", "--models", "260K", "--rounds", "1", "--out", str(tmp_path / "run.jsonl")]
    assert main(ask) == 0
    said = capsys.readouterr()
    assert "elsewhere" not in said.out
    assert "elsewhere is left out: ELSEWHERE, an environment variable" in said.err
    assert benchfile.read(tmp_path / "run.jsonl").absent == ()
    assert main([*ask, "--impls", "compact,elsewhere"]) == 0
    assert [one.kind for one in benchfile.read(tmp_path / "run.jsonl").absent] == ["SKIPPED"]


def test_a_calibration_records_its_series_and_can_be_repeated_from_it(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    recorded, text, facts = tmp_path / "series.jsonl", tmp_path / "report.md", tmp_path / "facts.json"
    main(["bench", "--calibrate", "--rounds", "24", "--out", str(recorded), "--json", str(facts)])
    capsys.readouterr()
    run = benchfile.read(recorded)
    assert {(s.run, s.round) for s in run.samples if s.round >= 0} == {
        (name, n) for n in range(24) for name in ("short", "long")
    }
    assert not run.limits
    told = json.loads(facts.read_text())
    assert len(told["series"]) == 24
    assert [one["n_pairs"] for one in told["calibrations"]] == [10]
    again = main(["bench", "--calibrate", "--series", str(recorded), "--markdown", str(text)])
    assert again in (0, 1)
    assert text.read_text() in capsys.readouterr().out
    assert "c on 260K f32 with 1 thread, compared with itself: 24 rounds recorded" in text.read_text()
    assert "| 10 | " in text.read_text()


def test_a_series_of_two_programs_calibrates_nothing(tmp_path, capsys):
    facts = benchfile.ModelFacts("a", "b", True, 1, 1)
    head = benchfile.Header("0", {"cpu": "x"}, {"260K f32": facts}, {}, {})
    with benchfile.BenchWriter.create(tmp_path / "two.jsonl", head) as writer:
        for impl in ("a", "b"):
            key = benchfile.Key("260K", "f32", 1, impl)
            for name, n in (("short", 8), ("long", 100)):
                writer.add(benchfile.Sample(key, 0, name, 8, n, n / 100, None, 0.1, 1, None, 1, "EXACT"))
    assert main(["bench", "--calibrate", "--series", str(tmp_path / "two.jsonl")]) == 2
    assert "one program on one model" in capsys.readouterr().err


# ---- harness compare


def test_a_benchmark_is_not_compared_with_a_check(tmp_path, capsys):
    facts = benchfile.ModelFacts("a", "b", True, 1, 1)
    head = benchfile.Header("0", {"cpu": "x"}, {"260K f32": facts}, {}, {})
    with benchfile.BenchWriter.create(tmp_path / "bench.jsonl", head):
        pass
    assert main(["check", "numpy", "--quick", "--out", str(tmp_path / "check.jsonl")]) in (0, 1)
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "bench.jsonl"), str(tmp_path / "check.jsonl")]) == 2
    assert "one is of a benchmark and the other of a check" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "bench.jsonl"), str(tmp_path / "bench.jsonl")]) == 0


def test_checks_are_compared_by_what_became_of_each_verdict(tmp_path, capsys):
    good = make_parrot(tmp_path / "good" / "parrot")
    bad = make_parrot(tmp_path / "bad" / "parrot", says={"two": "Two cats ran"})
    for name, program in (("good", good), ("bad", bad)):
        main(["check", str(program), "--suite", "core", "--out", str(tmp_path / f"{name}.jsonl")])
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "good.jsonl"), str(tmp_path / "bad.jsonl")]) == 1
    assert "became wrong" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "bad.jsonl"), str(tmp_path / "good.jsonl")]) == 0
    assert "fixed" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "good.jsonl"), str(tmp_path / "good.jsonl")]) == 0
    assert "Every verdict is what it was." in capsys.readouterr().out


def test_lost_coverage_is_worse(tmp_path, capsys):
    program = make_parrot(tmp_path / "parrot")
    main(["check", str(program), "--suite", "core", "--out", str(tmp_path / "all.jsonl")])
    main(["check", str(program), "--suite", "core", "--case", "once", "--out", str(tmp_path / "one.jsonl")])
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "all.jsonl"), str(tmp_path / "one.jsonl")]) == 1
    assert "coverage lost" in capsys.readouterr().out
