"""`harness report`: every form of run files, of checks and of benchmarks."""

import json
import xml.etree.ElementTree as ET

import pytest

from harness.__main__ import main
from harness.benchfile import BenchWriter
from harness.report import readme
from tests.parrots import make_parrot
from tests.report.speeds_by_hand import bench, row


@pytest.fixture
def run_file(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    main(["check", str(make_parrot(tmp_path / "port", says={"two": "Two cats"})), "--out", str(path)])
    capsys.readouterr()
    return path


def write_bench(path, *rows, complete=True, with_rows=True):
    """Write the run file of a benchmark."""
    file = bench(*rows)
    with BenchWriter.create(path, file.header) as writer:
        writer.add(*file.limits, *file.samples, *(file.rows if with_rows else ()))
        if complete:
            writer.finish()
    return path


@pytest.fixture
def bench_file(tmp_path):
    return write_bench(tmp_path / "bench.jsonl", row("c", 100.0), row("zig", 250.0))


def rendered(capsys, *args):
    assert main(["report", *map(str, args)]) == 0
    return capsys.readouterr().out


def test_every_form_is_rendered(run_file, capsys):
    assert "port: wrong: 1 MISMATCH" in rendered(capsys, run_file)
    assert rendered(capsys, run_file, "--to", "md").startswith("### Conformance: fail")
    assert rendered(capsys, run_file, "--to", "html").startswith("<!doctype html>")
    assert ET.fromstring(rendered(capsys, run_file, "--to", "junit").encode()).get("failures") == "1"
    assert json.loads(rendered(capsys, run_file, "--to", "badge"))["schemaVersion"] == 1
    assert json.loads(rendered(capsys, run_file, "--to", "json"))["passed"] is False


def test_out_names_a_file(run_file, tmp_path, capsys):
    assert rendered(capsys, run_file, "--to", "badge", "--out", tmp_path / "badge.json") == ""
    assert json.loads((tmp_path / "badge.json").read_text())["color"] == "red"


def test_a_run_that_was_cut_short_is_never_shown_as_complete(run_file, capsys):
    lines = run_file.read_bytes().splitlines(keepends=True)
    run_file.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    printed = " ".join(rendered(capsys, run_file).split())
    assert "the run is not complete" in printed
    assert "cut short: 1 of 3 verdicts" in printed
    assert "was dropped" in printed
    assert json.loads(rendered(capsys, run_file, "--to", "badge"))["message"] == "incomplete"


@pytest.mark.parametrize("content", [None, b"", b"hello\n"])
def test_what_is_no_run_file_is_2(content, tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert main(["report", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_last_run_is_2(capsys):
    assert main(["report"]) == 2
    assert "there is no last run" in capsys.readouterr().err


def test_a_form_that_does_not_exist_is_2(run_file):
    assert main(["report", str(run_file), "--to", "docx"]) == 2


def test_several_checks_are_one_report_and_later_verdicts_count(tmp_path, capsys):
    port = make_parrot(tmp_path / "port", says={"two": "Two cats"})
    main(["check", str(port), "--out", str(tmp_path / "old.jsonl")])
    make_parrot(tmp_path / "port")
    main(["check", str(port), "--case", "two", "--out", str(tmp_path / "new.jsonl")])
    capsys.readouterr()
    found = json.loads(rendered(capsys, tmp_path / "old.jsonl", tmp_path / "new.jsonl", "--to", "json"))
    assert found["passed"]
    assert len(found["verdicts"]) == 3
    assert found["notes"] == ["in more than one run file: 1 verdict; the later file counts"]


# ---- benchmarks


def test_a_benchmark_has_its_forms(bench_file, capsys):
    assert "Tokens per second" in rendered(capsys, bench_file)
    assert "\n| 15M | 100 | 250 | |\n" in rendered(capsys, bench_file, "--to", "md")
    page = rendered(capsys, bench_file, "--to", "html")
    assert page.startswith("<!doctype html>")
    assert page.count("<figure>") == 2
    assert len(json.loads(rendered(capsys, bench_file, "--to", "json"))["rows"]) == 2
    assert len(rendered(capsys, bench_file, "--to", "csv").splitlines()) == 3
    assert len(rendered(capsys, bench_file, "--to", "samples").splitlines()) == 19


def test_programs_are_compared_by_the_rounds_that_both_have(bench_file, capsys):
    assert "2.50 × c ?" in rendered(capsys, bench_file)  # three rounds can show nothing


def test_checks_and_benchmarks_are_one_report(run_file, bench_file, capsys):
    text = rendered(capsys, bench_file, run_file)
    assert text.index("port: wrong: 1 MISMATCH") < text.index("Tokens per second")
    page = rendered(capsys, run_file, bench_file, "--to", "html")
    assert "<title>Conformance: fail; Speed</title>" in page
    found = json.loads(rendered(capsys, run_file, bench_file, "--to", "json"))
    assert (found["check"]["passed"], len(found["bench"]["rows"])) == (False, 2)


def test_several_forms_are_written_at_once_and_nothing_is_printed(bench_file, tmp_path, capsys):
    files = {"--html": "a.html", "--markdown": "a.md", "--json": "a.json", "--csv": "a.csv", "--samples": "s.csv"}
    options = [word for option, name in files.items() for word in (option, tmp_path / name)]
    assert rendered(capsys, bench_file, *options) == ""
    assert all((tmp_path / name).stat().st_size > 0 for name in files.values())
    assert rendered(capsys, bench_file, "--csv", "-").startswith("cpu,model,precision,threads,impl,")


def test_a_benchmark_that_was_killed_shows_what_it_measured(tmp_path, capsys):
    path = write_bench(tmp_path / "killed.jsonl", row("c", 100.0), complete=False, with_rows=False)
    text = rendered(capsys, path)
    assert "killed.jsonl: the benchmark was cut short" in text
    assert "100" in text.split()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"wall_s": ', '"wall_s": "nan", "was": '),
        ('"decode_s": {"value": ', '"decode_s": {"value": -'),
        ('"verdict": "EXACT"', '"verdict": "SUPERB"'),
        ('"models": {"15M f32"', '"models": {"42M f32"'),
        ('"n_cpus": 2', '"n_cpus": "two"'),
    ],
)
def test_figures_that_no_benchmark_writes_are_2(bench_file, old, new, capsys):
    content = bench_file.read_text()
    assert old in content
    bench_file.write_text(content.replace(old, new))
    assert main(["report", str(bench_file)]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)


@pytest.mark.parametrize("form", ["junit", "badge"])
def test_what_is_of_a_check_is_refused_for_a_benchmark(bench_file, form, capsys):
    assert main(["report", str(bench_file), "--to", form]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("option", ["--csv", "--samples", "--readme"])
def test_what_is_of_a_benchmark_is_refused_for_a_check(run_file, option, tmp_path, capsys):
    target = tmp_path / "README.md"
    target.write_text(f"{readme.BEGIN}\n{readme.END}\n")
    assert main(["report", str(run_file), option, str(target)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert target.read_text() == f"{readme.BEGIN}\n{readme.END}\n"


# ---- the block of a README


def test_the_block_of_a_readme_is_renewed(bench_file, tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text(f"# Port\n{readme.BEGIN}\nold\n{readme.END}\nrest\n")
    assert rendered(capsys, bench_file, "--readme", page) == ""
    lines = page.read_text().splitlines()
    assert lines[:5] == ["# Port", readme.BEGIN, "", "| model | c | zig | notes |", "| --- | ---: | ---: | --- |"]
    assert lines[-3:] == ["", readme.END, "rest"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("content", ["", f"{readme.BEGIN}\n", f"{readme.BEGIN}\n{readme.END}\n" * 2, None])
def test_a_readme_without_its_markers_is_2_and_stays(bench_file, tmp_path, content, capsys):
    page = tmp_path / "README.md"
    if content is not None:
        page.write_text(content)
    assert main(["report", str(bench_file), "--readme", str(page), "--csv", str(tmp_path / "rows.csv")]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert not (tmp_path / "rows.csv").exists()
    if content is not None:
        assert page.read_text() == content


def test_a_readme_is_a_file(bench_file, capsys):
    assert main(["report", str(bench_file), "--readme", "-"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_readme_that_is_no_utf8_is_2(bench_file, tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_bytes(f"{readme.BEGIN}\n{readme.END}\n".encode() + b"\xff")
    assert main(["report", str(bench_file), "--readme", str(page)]) == 2
    assert "is not UTF-8" in capsys.readouterr().err
