"""The pytest plugin, in pytest runs of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness.pytest_goldens  # noqa: F401  (pytester forgets modules that are first imported within it)
from harness.conformance.case import read_case
from harness.models import golden_dir
from harness.pytest_distribution import group_of
from harness.pytest_plugin import concerns_goldens
from tests.parrots import judge_bytes, make_goldens, make_parrot

pytest_plugins = ["pytester"]


@pytest.fixture
def golden(pytester, monkeypatch, request):
    """Goldens that a parrot can say, in a directory that the plugin takes for ours, and a judge of bytes."""
    root = pytester.path / "golden"
    monkeypatch.setenv("HARNESS_CACHE", str(pytester.path / "cache"))
    make_goldens(root)
    (root / "__init__.py").touch()
    for name in ("harness.conformance.case.golden_dir", "harness.pytest_goldens.golden_dir"):
        monkeypatch.setattr(name, lambda: root)
    monkeypatch.setattr("harness.pytest_plugin._HERE", pytester.path)
    monkeypatch.setattr("harness.conformance.check.verify_group", judge_bytes)
    return root


@pytest.fixture
def run(pytester, golden):
    def run(*args):
        return pytester.runpytest_inprocess(str(golden), "-p", "no:cacheprovider", *map(str, args))

    return run


def test_a_right_program_passes_every_case(run, tmp_path):
    result = run("--impl", make_parrot(tmp_path / "good"))
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["good: 3 EXACT"])


def test_a_wrong_program_fails_with_a_report_and_no_traceback(run, tmp_path):
    result = run("--impl", make_parrot(tmp_path / "bad", says={"two": "Two cats"}))
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "bad: MISMATCH on core/two (model mha)",
            "  step 0, position 1: *; regret 1.25 against a noise floor of 5e-06",
            '  *expected | "Two dogs ran*',
            '  *actual   | "Two cats*',
            "  reproduce: *",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*pytest_goldens.py*Wrong*")


def test_impls_are_repeated_or_listed(run, tmp_path):
    good, bad = make_parrot(tmp_path / "good"), make_parrot(tmp_path / "bad", dies_on=["once"])
    run("--impl", good, "--impl", bad).assert_outcomes(passed=5, failed=1)
    run("--impl", f"{good},{bad}").assert_outcomes(passed=5, failed=1)


def test_suite_models_marker_and_keyword_select(run, tmp_path):
    good = make_parrot(tmp_path / "good")
    run("--impl", good, "--suite", "core").assert_outcomes(passed=2)
    run("--impl", good, "--models", "gqa").assert_outcomes(passed=2)
    run("--impl", good, "-m", "quick").assert_outcomes(passed=1, deselected=2)
    run("--impl", good, "-k", "two").assert_outcomes(passed=1, deselected=2)


def test_one_file_is_one_case(pytester, golden, tmp_path):
    good = make_parrot(tmp_path / "good")
    result = pytester.runpytest_inprocess(str(golden / "core" / "two.toml"), "--impl", str(good))
    result.assert_outcomes(passed=1)


def test_a_group_is_judged_once_and_without_what_was_deselected(run, tmp_path, monkeypatch):
    groups = []

    def judge(cases, impl, **options):
        groups.append([case.name for case in cases])
        return judge_bytes(cases, impl, **options)

    monkeypatch.setattr("harness.conformance.check.verify_group", judge)
    run("--impl", make_parrot(tmp_path / "good"), "--harness-jobs", "2").assert_outcomes(passed=3)
    assert sorted(groups) == [["once", "three"], ["two"]]
    groups.clear()
    run("--impl", make_parrot(tmp_path / "good"), "-k", "two")
    assert groups == [["two"]]


@pytest.mark.parametrize("options", [(), ("--dist", "loadgroup"), ("--dist", "worksteal")], ids=str)
def test_a_group_goes_to_one_process_where_a_run_is_distributed(pytester, tmp_path, options):
    # In processes of their own nothing of this one is patched: the goldens are ours, and no program runs.
    manifests = []
    for name in ("a", "b"):
        directory = tmp_path / name
        make_parrot(directory / "run")
        (directory / "impl.toml").write_text(f'name = "{name}"\nrun = ["{{src}}/run"]\nneeds_tool = ["zorkc"]\n')
        manifests.append(str(directory))
    root = golden_dir()
    cases = {path: read_case(path).model.sha256 for path in (root / "core").glob("*.toml") if path.stem != "plan"}
    result = pytester.runpytest_subprocess(
        *("-v", "-n", "2", *options, "-p", "no:cacheprovider", "--allow-skip", "--rootdir", str(root.parent)),
        *(str(root), "--suite", "core", "--impl", ",".join(manifests)),
    )
    result.assert_outcomes(skipped=2 * len(cases))
    processes = {}
    for process, case, impl in re.findall(r"\[(gw\d)\].*/core/([\w-]+)\.toml::.*\[(\w)\]", result.stdout.str()):
        processes.setdefault((impl, cases[root / "core" / f"{case}.toml"]), []).append(process)
    assert sum(map(len, processes.values())) == 2 * len(cases)
    assert {len(set(seen)) for seen in processes.values()} == {1}
    assert {process for seen in processes.values() for process in seen} == {"gw0", "gw1"}


def test_a_group_is_an_implementation_and_a_model_and_anything_else_is_on_its_own():
    root = golden_dir()
    for nodeid in ("tests/test_it.py::test_one[c]", "elsewhere/settings.toml::settings[c]", "test_it.py::test_one"):
        assert group_of(nodeid, root) == nodeid
    one, two = (group_of(f"../golden/core/{case}.toml::{case}[c]", root) for case in ("gqa-greedy", "gqa-bytes"))
    assert one == two != group_of("golden/core/gqa-greedy.toml::gqa-greedy[zig]", root)
    assert one != group_of("golden/core/mha-greedy.toml::mha-greedy[c]", root)


def test_collecting_runs_and_builds_nothing(run, tmp_path):
    directory = tmp_path / "port"
    make_parrot(directory / "run")
    (directory / "impl.toml").write_text('name = "port"\nrun = ["{src}/run"]\nbuild = ["false"]\n')
    result = run("--impl", directory, "--collect-only", "-q")
    result.stdout.fnmatch_lines(["*two.toml::two?port?"])
    assert result.ret == 0


def test_a_known_deviation_is_an_expected_failure_and_one_that_is_gone_fails(run, tmp_path):
    directory = tmp_path / "port"
    make_parrot(directory / "run", says={"two": "Two cats"})
    listed = "".join(f'[[known]]\ncase = "{c}"\nkind = "MISMATCH"\nreason = "issue 7"\n' for c in ("two", "once"))
    (directory / "impl.toml").write_text(f'name = "port"\nrun = ["{{src}}/run", "-i", "{{prompt}}"]\n{listed}')
    result = run("--impl", directory)
    result.assert_outcomes(passed=1, xfailed=1, failed=1)
    result.stdout.fnmatch_lines(["*listed deviation no longer happens*"])


def test_a_missing_tool_skips_and_nothing_green_fails_the_run(run, tmp_path):
    directory = tmp_path / "port"
    make_parrot(directory / "run")
    (directory / "impl.toml").write_text(
        'name = "port"\nrun = ["{src}/run"]\nneeds_tool = ["zorkc"]\n[tools]\nzorkc = "get-zorkc"\n'
    )
    result = run("--impl", directory, "-rs")
    result.assert_outcomes(skipped=3)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAIL: port: no case is green", "*get-zorkc*"])
    assert run("--impl", directory, "--allow-skip").ret == 0


def test_without_impl_all_of_ours_are_collected(run, monkeypatch):
    result = run("--collect-only", "-q", "-k", "once")
    result.stdout.fnmatch_lines(["*::once?c?"])


@pytest.mark.parametrize(
    "args", [("--impl", "no-such-thing"), ("--suite", "none"), ("--models", "none"), ("--harness-jobs", "x")]
)
def test_a_wrong_request_is_a_usage_error(run, args):
    assert run(*args).ret == pytest.ExitCode.USAGE_ERROR


def test_a_broken_golden_is_one_clear_collection_error(run, golden, tmp_path):
    (golden / "core" / "broken.toml").write_text("case = 1\n")
    result = run("--impl", make_parrot(tmp_path / "good"))
    assert result.ret != 0
    output = result.stdout.str() + result.stderr.str()
    assert "broken.toml" in output
    assert "Traceback" not in output


# ---- everybody else's runs


def test_an_unrelated_run_sees_none_of_it(pytester):
    pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--impl'); parser.addoption('--suite')")
    pytester.makefile(".toml", settings="case = 1")
    pytester.makepyfile("def test_it(pytestconfig): assert pytestconfig.getoption('--impl') == 'x'")
    result = pytester.runpytest_inprocess("--impl", "x", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*golden*")


def test_loading_the_plugin_imports_nothing_large():
    code = (
        "import sys, harness.pytest_plugin\n"
        "print([m for m in ('numpy', 'pandas', 'pydantic', 'typer', 'rich', 'harness.models') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


@pytest.mark.parametrize(
    ("args", "directory", "is_ours"),
    [
        (["golden"], "ROOT", True),
        (["golden/core/no-such.toml"], "ROOT", True),
        (["."], "ROOT", True),
        (["tests"], "ROOT", False),
        (["tests/test_jobs.py::test_x"], "ROOT", False),
        ([], "ROOT/golden", True),
        ([], "ROOT/tests", False),
        (["--pyargs", "harness.golden"], "/", True),
        (["--pyargs", "harness.golden.core"], "/", True),
        ([], "/", False),
        (["/"], "/", False),
    ],
)
def test_our_runs_are_told_from_others(args, directory, is_ours):
    root = golden_dir().parent
    assert concerns_goldens(args, Path(directory.replace("ROOT", str(root)))) is is_ours
