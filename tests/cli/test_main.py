"""Dispatch, errors at the edge, completion."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.__main__ import main
from harness.cli import COMMANDS
from harness.cli.completion import candidates
from harness.errors import Crashed, InputError, MissingDependency


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"harness {harness.__version__}\n"


def test_python_m_harness_is_the_same_command():
    run = subprocess.run([sys.executable, "-m", "harness", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("harness ")


def test_help_names_every_command_and_the_exit_statuses(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)
    assert "Exit status: 0 all good" in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    assert main([name, "--help"]) == 0
    assert "Usage: harness" in capsys.readouterr().out


def test_every_command_file_is_listed():
    here = Path(harness.__file__).parent / "cli"
    commands = {path.stem for path in here.glob("*.py") if "\ndef command(" in path.read_text("utf-8")}
    assert {name.replace("-", "_") for name in COMMANDS} == commands


def test_a_command_that_does_not_exist_is_2_and_a_near_one_is_named(capsys):
    assert main(["chek"]) == 2
    assert "Did you mean 'check'?" in capsys.readouterr().err


def test_a_word_that_is_not_one_of_a_few_is_2_and_they_are_listed(capsys):
    assert main(["models", "lst"]) == 2
    told = "harness: invalid value for 'action': 'lst' is not one of 'list', 'pull', 'path', 'make'"
    assert capsys.readouterr().err == f"{told}; see harness models --help\n"


def test_nothing_shows_the_help(capsys):
    assert main([]) == 2
    printed = capsys.readouterr()
    assert "Usage: harness" in printed.out + printed.err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("is\nwrong", path="x.bin"), 2, "harness: x.bin: is wrong\n"),
        (MissingDependency("Jinja2", install="pip install jinja2"), 2, "install it with: pip install jinja2"),
        (Crashed("it crashed"), 1, "harness: it crashed\n"),
        (KeyboardInterrupt(), 130, ""),
        (RuntimeError("ours"), 3, "this is a bug of the harness itself"),
    ],
)
def test_each_error_has_its_exit_status_and_its_line(error, status, message, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr("harness.cli.app.run", fail)
    assert main(["check"]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert ("Traceback" in printed.err) == (status == 3)


# ---- completion


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rep"], ["report"]),
        (["check", "--ju"], ["--junit"]),
        (["check", "c", "--allow"], ["--allow-skip"]),
        (["report", "--t"], ["--to"]),
        (["check", "c"], []),
        (["nothing", "--x"], []),
        (["--v"], ["--version"]),
    ],
)
def test_candidates(words, expected):
    assert candidates(words) == expected


def test_nothing_typed_offers_every_command():
    assert candidates([""]) == candidates([]) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_completion_knows_every_option_that_help_shows(name, capsys):
    main([name, "--help"])
    shown = {
        word.rstrip(",.:;")
        for line in capsys.readouterr().out.splitlines()
        if line.lstrip().startswith("-")
        for word in line.split()
        if re.match("--[a-z]", word)
    }
    assert shown - set(candidates([name, "--"])) == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell, capsys):
    assert main(["--show-completion", shell]) == 0
    assert "_HARNESS_COMPLETE=1" in capsys.readouterr().out


def test_a_shell_that_is_not_known_is_2(capsys):
    assert main(["--show-completion", "tcsh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


def test_bash_completes_with_the_script():
    script = (
        f'harness() {{ {sys.executable} -m harness "$@"; }}\n'
        f'eval "$({sys.executable} -m harness --show-completion bash)"\n'
        'COMP_WORDS=(harness check --ju); COMP_CWORD=2; _harness_complete harness; echo "${COMPREPLY[@]}"'
    )
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "--junit\n"
