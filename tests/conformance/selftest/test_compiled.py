"""Faults compiled into programs: the file that lists them, and the sources that come of it."""

from __future__ import annotations

import re

import pytest

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.process import Limits
from harness.conformance.selftest.compiled import fault_files, patched, read
from harness.diagnosis import by_name
from harness.errors import InputError, ManifestError
from harness.models import impls_dir, locate
from harness.results import Request

IMPL = """
name = "shell"
inputs = ["*.sh"]
run = ["sh", "{src}/run.sh", "{model}"]

[variant.shell-b]
formats = ["llama2c-v1"]
"""
FAULT = """
[[fault]]
name = "heads-modulo"
file = "run.sh"
old = "right"
new = "wrong"
"""


@pytest.fixture
def program(tmp_path):
    """A program in shell that prints one word; call it with the text of its faults.toml."""

    def write(faults: str = FAULT):
        folder = tmp_path / "shell"
        folder.mkdir()
        (folder / "impl.toml").write_text(IMPL)
        (folder / "run.sh").write_text("echo right\n")
        (folder / "faults.toml").write_text(faults)
        return folder / "faults.toml"

    return write


def said(manifest) -> bytes:
    files = locate("gqa")
    return ProcessImplementation(manifest).run(Request(files.checkpoint, files.tokenizer), Limits(time_s=10)).stdout


def test_a_fault_is_another_text_in_the_sources_and_the_sources_stay_as_they_are(program, tmp_path):
    path = program()
    compiled = read(path)
    (patch,) = compiled.patches
    assert said(patched(compiled, patch, home=tmp_path / "faults")) == b"wrong\n"
    assert said(patched(compiled, None, home=tmp_path / "faults")) == b"right\n"
    assert (path.parent / "run.sh").read_text() == "echo right\n"


def test_the_name_says_what_it_is(program, tmp_path):
    compiled = read(program())
    manifest = patched(compiled, compiled.patches[0], home=tmp_path / "faults")
    assert manifest.name == "shell+heads-modulo"
    assert manifest.known == ()


def test_sources_are_made_once_and_anew_when_the_program_changes(program, tmp_path):
    path = program()
    compiled, home = read(path), tmp_path / "faults"
    first = patched(compiled, compiled.patches[0], home=home)
    assert patched(compiled, compiled.patches[0], home=home).path == first.path
    (path.parent / "run.sh").write_text("echo right again\n")
    second = patched(compiled, compiled.patches[0], home=home)
    assert second.path != first.path
    assert said(second) == b"wrong again\n"


def test_a_variant_and_its_formats(program):
    compiled = read(program('variant = "shell-b"\n' + FAULT))
    assert compiled.manifest.formats == ("llama2c-v1",)


def test_formats_that_the_program_reads_besides(program):
    compiled = read(program('formats = ["llama2c-v0", "llama2c-v2"]\n' + FAULT))
    assert compiled.manifest.formats == ("llama2c-v0", "llama2c-v2")


@pytest.mark.parametrize(
    ("faults", "where", "what"),
    [
        (FAULT.replace("right", "left"), "fault heads-modulo", "is in run.sh 0 times"),
        (FAULT.replace('"right"', '"o"').replace("wrong", "u"), "fault heads-modulo", "is in run.sh 1 times"),
        (FAULT.replace('"right"', '""'), "fault heads-modulo", "is in run.sh 0 times"),
        (FAULT.replace("wrong", "right"), "fault heads-modulo", "replaces a text by itself"),
        (FAULT.replace("heads-modulo", "heads-mod"), "fault heads-mod", "is not in the catalogue"),
        (FAULT + FAULT, "fault heads-modulo", "stands there twice"),
        (FAULT.replace("run.sh", "run.c"), "fault heads-modulo", "run.c is none of the program's inputs"),
        (FAULT.replace("new", "newer"), "key fault.0.new", "Field required"),
        ("tests = 1\n" + FAULT, "key tests", "Extra inputs"),
        ('variant = "other"\n' + FAULT, "key variant", "there is no variant other"),
        ("[[fault", None, "is no TOML"),
    ],
)
def test_what_is_wrong_with_a_file_of_faults_is_said(program, faults, where, what):
    if "1 times" in what:  # a text that is there once is right: there must be two
        path = program(faults)
        (path.parent / "run.sh").write_text("echo o o\n")
        what = "is in run.sh 3 times"
    else:
        path = program(faults)
    with pytest.raises(ManifestError, match=re.escape(what)) as failure:
        read(path)
    assert failure.value.where == where
    assert failure.value.path == str(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        read(tmp_path / "faults.toml")


def test_an_installation_without_faults_says_so(tmp_path):
    with pytest.raises(InputError, match=r"there is no faults\.toml"):
        fault_files(tmp_path)


def test_the_faults_of_our_programs_fit_their_sources():
    counts = {one.program: len(one.patches) for one in fault_files(impls_dir())}
    assert counts["c"] >= 40
    assert sum(count >= 15 for count in counts.values()) >= 3
    for one in fault_files(impls_dir()):
        for patch in one.patches:
            assert by_name(patch.name)
