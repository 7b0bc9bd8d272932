"""Faults compiled into impls/c say what the catalogue says that they say."""

import shutil
import subprocess
from functools import lru_cache

import pytest

from harness import checkpoint, models
from harness.adapters.toolchain import tool
from harness.conformance.selftest.compiled import read
from harness.diagnosis import Fate, Port, by_name, faulted
from harness.diagnosis import stress as stresses
from harness.diagnosis.shown import SHOWN_BY
from harness.errors import MissingDependency
from harness.tokenizer import tokenizer_bin

SOURCES = models.impls_dir() / "c"
PATCHES = read(SOURCES / "faults.toml").patches
FLAGS = ["-O1", "-std=gnu11", "-pthread", "-ffp-contract=off", "-DSTRICT", "-w"]
# What is asked of a fault that no probe shows.
ELSEWHERE = ("gqa", "plain", "greedy")


@lru_cache
def compiler():
    try:
        return tool("cc")
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """Files of a model under stress, written once."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def files(model, stress):
        if (model, stress) not in made:
            found = models.locate(model)
            altered = stresses.by_name(stress).made(models.load(found.checkpoint, found.tokenizer))
            path = folder / f"{model}-{stress}.bin"
            checkpoint.write(altered.checkpoint, path, version=0 if altered.checkpoint.group_size is None else 2)
            tokenizer_bin.write(altered.tokenizer, path.with_suffix(".tok"))
            made[model, stress] = altered, path
        return made[model, stress]

    return files


def built(folder, patch=None):
    """Compile impls/c, with the text of one place replaced."""
    for path in SOURCES.glob("*.[ch]"):
        shutil.copy(path, folder)
    if patch:
        text = (folder / patch.file).read_text("utf-8")
        (folder / patch.file).write_text(text.replace(patch.old, patch.new), "utf-8")
    subprocess.run([*compiler(), *FLAGS, "-o", folder / "run", folder / "run.c", "-lm"], check=True, timeout=120)
    return folder / "run"


def said(program, path, request):
    """Stdout of the compiled program for a request."""
    options = {"-t": request.temperature, "-p": request.topp, "-s": request.seed, "-n": request.steps}
    command = [program, path, "-z", path.with_suffix(".tok")]
    for option, value in options.items():
        command += [option, str(value)]
    command += ["-i", request.prompt]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout


def where(name):
    return SHOWN_BY.get(name, ELSEWHERE)


def test_there_are_enough_of_them():
    assert len(PATCHES) >= 40


@pytest.mark.parametrize("patch", PATCHES, ids=lambda one: one.name)
def test_a_faulty_program_in_c_says_what_the_faulty_port_says(patch, subjects, tmp_path):
    fault = by_name(patch.name)
    model, stress, probe = where(fault.name)
    altered, path = subjects(model, stress)
    request = stresses.by_name(stress).requests(altered)[probe]
    expected = faulted(fault).answer(altered, request).text
    assert said(built(tmp_path, patch), path, request) == expected
    assert (expected != Port().answer(altered, request).text) == (fault.fate is Fate.KILLABLE)


@pytest.fixture(scope="module")
def right_program(tmp_path_factory):
    return built(tmp_path_factory.mktemp("right"))


@pytest.mark.parametrize("key", sorted({where(patch.name)[:2] for patch in PATCHES}), ids="-".join)
def test_the_program_without_fault_says_what_the_port_says(key, subjects, right_program):
    altered, path = subjects(*key)
    for probe in {where(patch.name)[2] for patch in PATCHES if where(patch.name)[:2] == key}:
        request = stresses.by_name(key[1]).requests(altered)[probe]
        assert said(right_program, path, request) == Port().answer(altered, request).text
