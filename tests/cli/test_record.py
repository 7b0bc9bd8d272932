"""`harness record` from its arguments to the files that it writes, on embedded models and a plan of its own."""

import sys

import pytest

from harness.__main__ import main
from harness.conformance.case import read_case, write_case
from tests.parrots import make_case, make_parrot

PLAN = """
[[case]]
name = "nora"
model = "gqa"
why = "a prompt and a few steps"
prompt = "Nora"
steps = 9

[[case]]
name = "from-bos"
model = "mha"
why = "no prompt, sampled"
steps = 6
temperature = 1.0
seed = 7
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """The directory of a suite that is planned, and has no golden yet."""
    monkeypatch.setattr("harness.conformance.record.golden_dir", lambda: tmp_path / "golden")
    directory = tmp_path / "golden" / "own"
    directory.mkdir()
    (directory / "plan.toml").write_text(PLAN)
    return directory


def record(*args):
    return main(["record", "--suite", "own", "--agree", "numpy", *args])


# ---- showing and writing


def test_nothing_is_written_before_it_was_shown(suite, capsys):
    assert record() == 0
    printed = capsys.readouterr()
    assert "--- own/nora (as it is)\n+++ own/nora (recorded)\n" in printed.out
    assert '+why = "no prompt, sampled"\n' in printed.out
    assert "2 would change, 0 as they are; --write writes them" in printed.err
    assert [path.name for path in suite.iterdir()] == ["plan.toml"]


def test_what_is_written_is_what_was_shown(suite, capsys):
    assert record("--write") == 0
    printed = capsys.readouterr()
    for name in ("nora", "from-bos"):
        case = read_case(suite / f"{name}.toml")
        assert case.provenance.source == "float64 reference"
        assert case.provenance.agreed == ("impls/numpy",)
        assert f'+stdout_sha256 = "{case.stdout_sha256}"\n' in printed.out
    assert "2 written, 0 as they are" in printed.err


def test_one_named_case_is_recorded_alone(suite, capsys):
    assert record("--case", "nora", "--write") == 0
    assert sorted(path.name for path in suite.iterdir()) == ["nora.toml", "plan.toml"]
    assert record("--case", "nora", "--write") == 0
    assert capsys.readouterr().err.endswith("harness: 0 written, 1 as they are\n")


def test_int8_goldens_need_the_program_that_reads_int8(suite):
    (suite / "plan.toml").write_text('[[case]]\nname = "int8"\nmodel = "mha-q8"\nwhy = "int8"\nsteps = 4\n')
    assert record("--write") == 0
    provenance = read_case(suite / "int8.toml").provenance
    assert (provenance.source, provenance.agreed) == ("strict arithmetic", ("impls/numpy",))


def test_a_golden_without_a_plan_is_renewed_from_what_it_asks(suite, capsys):
    record("--write")
    (suite / "plan.toml").unlink()
    assert record("--check") == 0
    assert "0 would change, 2 as they are" in capsys.readouterr().err


# ---- checking


def test_a_check_finds_the_golden_that_differs(suite, capsys):
    record("--write")
    nora = suite / "nora.toml"
    true = nora.read_text()
    nora.write_text(true.replace("a prompt and a few steps", "something else"))
    capsys.readouterr()
    assert record("--check") == 1
    assert '-why = "something else"\n+why = "a prompt and a few steps"\n' in capsys.readouterr().out
    assert "something else" in nora.read_text()
    nora.write_text(true)
    assert record("--check") == 0


def test_a_check_does_not_ask_that_the_same_programs_agreed(suite):
    record("--write")
    nora = suite / "nora.toml"
    nora.write_text(nora.read_text().replace("impls/numpy", "a program of long ago"))
    assert record("--check") == 0


def test_a_golden_that_is_missing_differs(suite):
    assert record("--check") == 1


# ---- refusing


def test_what_another_program_reads_differently_is_refused_and_the_rest_goes_on(suite, tmp_path, capsys):
    parrot = make_parrot(tmp_path / "parrot", says={"Nora": "Nora was", "": "?"})
    assert main(["record", "--suite", "own", "--agree", f"numpy,{parrot}", "--write"]) == 1
    printed = capsys.readouterr()
    assert "own/nora: parrot does not agree: expected b" in printed.err
    assert "2 refused" in printed.err
    assert [path.name for path in suite.iterdir()] == ["plan.toml"]


def test_a_program_that_crashes_agrees_to_nothing(suite, tmp_path, capsys):
    parrot = make_parrot(tmp_path / "parrot", dies_on=["Nora"])
    assert main(["record", "--suite", "own", "--case", "nora", "--agree", str(parrot)]) == 1
    assert "refused: own/nora: parrot failed: " in capsys.readouterr().err


def test_a_program_that_reads_no_int8_cannot_agree_to_it(suite, capsys):
    (suite / "plan.toml").write_text('[[case]]\nname = "int8"\nmodel = "mha-q8"\nwhy = "int8"\nsteps = 4\n')
    assert main(["record", "--suite", "own", "--agree", "compact"]) == 1
    assert "compact does not read llama2c-v2" in capsys.readouterr().err


def test_a_model_that_is_not_here_is_skipped_unless_nothing_is_left(suite, capsys, monkeypatch):
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    absent = '[[case]]\nname = "far"\nmodel = "stories110M"\nwhy = "large"\nsteps = 4\n'
    (suite / "plan.toml").write_text(PLAN + absent)
    assert record() == 0
    assert "own/far is skipped: " in capsys.readouterr().err
    assert record("--case", "far") == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--suite", "none"], "there is no such suite"),
        (["--suite", "own", "--case", "none"], "has no case none"),
        (["--suite", "own", "--agree", "no-such-program"], "no implementation of that name"),
        (["--suite", "own", "--agree", ","], "a golden needs an independent program"),
        (["--suite", "own", "--write", "--check"], "either --write or --check"),
    ],
)
def test_a_wrong_request_is_one_line_and_2(suite, args, message, capsys):
    assert main(["record", *args]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_a_chat_is_left_out_unless_it_is_named(suite, capsys):
    chat = make_case("two", "own")
    write_case(chat, suite / "two.toml")
    (suite / "two.toml").write_text((suite / "two.toml").read_text().replace('mode = "generate"', 'mode = "chat"'))
    record()
    assert "own/two" not in capsys.readouterr().out
    assert record("--case", "two") == 2
    assert "is a chat, which cannot be recorded" in capsys.readouterr().err


def test_the_provenance_names_the_flags_that_decide_the_arithmetic():
    from harness.adapters.implementation import resolve
    from harness.conformance.record import source_name
    from harness.models import impls_dir

    names = {spec: source_name(resolve(spec, impls_dir())[0]) for spec in ("c", "c-q8", "c-double", sys.executable)}
    assert names["c"] == names["c-q8"] == "impls/c at -O3"
    assert names["c-double"] == "impls/c at -O3 -DACCUM=double"
