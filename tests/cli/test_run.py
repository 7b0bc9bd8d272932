"""`harness run`: the text on stdout, the speed on stderr."""

import re
import shutil

import pytest

from harness import models
from harness.__main__ import main

MODELS = models.golden_dir() / "models"
GQA = str(MODELS / "gqa.bin")
SPEED = r"harness: prefill [\d,]+ tokens at [\d,]+ tok/s, decode [\d,]+ tokens at [\d,]+ tok/s\n"


@pytest.fixture
def write(capfdbinary):
    """Run the command; return its exit status, stdout, and stderr as text."""

    def run(*args):
        status = main(["run", *args])
        out, err = capfdbinary.readouterr()
        return status, out, err.decode()

    return run


def test_the_prompt_and_its_continuation_go_to_stdout_and_the_speed_to_stderr(write):
    status, out, err = write(GQA, "-i", "Once upon a time", "--temperature", "0", "--steps", "30")
    assert status == 0
    assert out.startswith(b"Once upon a time")
    assert out.endswith(b"\n")
    assert re.fullmatch(SPEED, err), err


@pytest.mark.parametrize(
    "options",
    [
        ["--cache", "concat"],
        ["--cache", "none"],
        ["--prefill", "token"],
        ["--prefill", "token", "--cache", "none"],
        ["--dtype", "float64"],
        ["--dtype", "strict"],
        ["--threads", "2"],
        ["-z", str(MODELS / "gqa-tok.bin")],
    ],
)
def test_no_way_of_computing_changes_the_text(options, write):
    args = (GQA, "-i", "Once upon a time", "-t", "0.8", "-s", "5", "-n", "40")
    assert write(*args, *options)[1] == write(*args)[1]


def test_a_seed_repeats_a_text_and_another_gives_another(write):
    texts = [write(GQA, "-s", seed, "-n", "60")[1] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_a_known_model_is_found_by_its_name(write):
    assert write("gqa", "-t", "0", "-n", "20")[1] == write(GQA, "-t", "0", "-n", "20")[1]


def test_int8_is_strict_unless_asked_otherwise(write):
    args = ("mqa-q8", "-t", "0", "-n", "20")
    default, strict, library = (write(*args, *more) for more in ([], ["--dtype", "strict"], ["--dtype", "float32"]))
    assert default[1] == strict[1]
    assert library[0] == 0


def test_a_prompt_longer_than_the_steps_is_cut_off(write):
    status, out, err = write(GQA, "-i", "Once upon a time there was a dog", "-n", "3")
    assert status == 0
    assert b"Once upon a time there was a dog".startswith(out.rstrip(b"\n"))
    assert err.endswith("decode 0 tokens\n")


def test_without_a_fitting_tokenizer_beside_it_z_is_asked_for(write, tmp_path):
    shutil.copy(GQA, tmp_path / "model.bin")
    status, out, err = write(str(tmp_path / "model.bin"))
    assert (status, out) == (2, b"")
    assert re.fullmatch(r"harness: .*model\.bin: .*-z\n", err), err


def test_two_fitting_tokenizers_are_one_too_many(write, tmp_path):
    shutil.copy(GQA, tmp_path / "model.bin")
    tokenizer = (MODELS / "gqa-tok.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(tokenizer)
    other = bytearray(tokenizer)
    other[7] ^= 1  # another score
    (tmp_path / "b.bin").write_bytes(other)
    status, _, err = write(str(tmp_path / "model.bin"))
    assert status == 2
    assert "-z" in err


@pytest.mark.parametrize(
    "args",
    [
        ["no-such-model"],
        ["no-such-file.bin"],
        [GQA, "-t", "-1"],
        [GQA, "-p", "1.5"],
        [GQA, "-t", "nan"],
        [GQA, "-t", "1e40"],
        [GQA, "-t", "inf"],
        [GQA, "-n", "-1"],
        [GQA, "--dtype", "float16"],
        [GQA, "--cache", "ring"],
        [GQA, "--threads", "0"],
        [],
    ],
)
def test_wrong_requests_are_told_on_stderr_with_exit_2(args, write):
    status, out, err = write(*args)
    assert (status, out) == (2, b"")
    assert err
