"""`harness run`: the text on stdout, the speed on stderr."""

import io
import re
import shutil

import numpy as np
import pytest

from harness import formats, models, tokenizer
from harness.__main__ import main
from harness.checkpoint import Checkpoint, expected_shapes
from harness.engine import Engine, generate
from harness.model_config import ModelConfig
from harness.tokenizer import tiktoken_ranks
from harness.tokenizer.chat import Message, dialog_ids
from tests.derived_models import published
from tests.tokenizer.vocabularies import learn, rank_file

MODELS = models.golden_dir() / "models"
GQA = str(MODELS / "gqa.bin")
SPEED = (
    r"harness: load [\d.e-]+ s, prefill [\d,]+ tokens at [\d,]+ tok/s, decode [\d,]+ tokens at [\d,]+ tok/s\n"
    r"harness: memory: weights 1\.04 MB, keys and values of 30 positions 38\.4 kB, "
    r"the whole process at most [\d.]+ MB\n"
)


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


def test_quiet_tells_nothing(write):
    status, out, err = write(GQA, "-i", "Once upon a time", "--temperature", "0", "--steps", "30", "-q")
    assert (status, err) == (0, "")
    assert out.startswith(b"Once upon a time")


@pytest.mark.parametrize("dtype", ["float32", "strict"])
def test_operations_are_timed_and_change_no_text(dtype, write):
    args = (GQA, "-i", "Once upon a time", "-t", "0", "-n", "40", "--dtype", dtype)
    _, out, err = write(*args, "--operations")
    assert out == write(*args)[1]
    rows = re.findall(r"^harness:   (\S.*\S) +([\d,.]+) us a token +([\d.]+)%$", err, re.MULTILINE)
    names = {name.strip() for name, _, _ in rows}
    assert names >= {
        "norms",
        "attention",
        "rotation",
        "activation",
        "product wq",
        "product w_down",
        "product lm_head",
    }
    assert sum(float(share) for _, _, share in rows) == pytest.approx(100, abs=2)
    assert all(float(time.replace(",", "")) >= 0 for _, time, _ in rows)


def test_memory_is_that_of_the_dimensions(write):
    """260,032 weights; five layers of 32 keys and as many values."""
    for dtype, weights, cache in (("float32", "1.04 MB", "51.2 kB"), ("float64", "2.08 MB", "102 kB")):
        _, _, err = write(GQA, "-t", "0", "-n", "40", "--dtype", dtype)
        assert f"memory: weights {weights}, keys and values of 40 positions {cache}" in err


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
    assert "decode 0 tokens\n" in err


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


# ---- llama-np's way, prompts from files, candidates, other formats


def test_the_uniform_sampler_writes_the_text_that_llama_np_publishes(write):
    args = ("-i", "It is easy", "--sampler", "uniform", "-t", "0.6", "-p", "0.9", "-s", "34", "-n", "48")
    status, out, _ = write(str(published("stories260K.bin")), *args)
    assert status == 0
    assert out == (b"It is easy. It was very fast. As he was cold, he saw a small hill with many books. The book\n")


def test_the_uniform_sampler_may_go_past_the_trained_context(write):
    args = (GQA, "--sampler", "uniform", "-t", "0", "-n", "600", "--candidates", "1")
    status, _, err = write(*args)
    assert status == 0
    assert err.count("harness: of 1: ") == 1 + 600 - 1


def test_candidates_are_told_with_their_probabilities(write):
    _, out, err = write(GQA, "-i", "Once upon a", "-t", "0", "-n", "5", "--candidates", "3")
    lines = [line for line in err.splitlines() if ": of " in line]
    assert lines
    assert out.startswith(b"Once upon a")
    assert all(re.fullmatch(r"harness: of 1: \d+ '.*' [\d.e-]+", line) for line in lines)
    _, _, err = write(GQA, "-i", "Once upon a", "-t", "1", "-p", "0.9", "-s", "1", "-n", "12", "--candidates", "2")
    shares = [
        [
            float(one.rpartition(" ")[2])
            for one in re.split(r", (?=\d+ ')", line.partition(": of ")[2].partition(": ")[2])
        ]
        for line in err.splitlines()
        if ": of " in line
    ]
    assert shares
    assert all(len(row) <= 2 and row == sorted(row, reverse=True) and sum(row) <= 1.001 for row in shares)


def test_the_prompt_may_come_from_a_file_whose_last_newline_counts(write, tmp_path):
    (tmp_path / "prompt").write_bytes(b"Once upon a time\n")
    from_file = write(GQA, "-f", str(tmp_path / "prompt"), "-t", "0", "-n", "30")[1]
    assert from_file == write(GQA, "-i", "Once upon a time\n", "-t", "0", "-n", "30")[1]
    assert write(GQA, "-f", str(tmp_path / "absent"))[0] == 2
    assert write(GQA, "-f", str(tmp_path / "prompt"), "-i", "x")[0] == 2


@pytest.mark.parametrize("suffix", ["gguf", "lmw"])
def test_other_formats_run_with_the_tokenizer_in_them(write, tmp_path, suffix):
    path = tmp_path / f"gqa.{suffix}"
    words = tokenizer.read(MODELS / "gqa-tok.bin")
    formats.write(formats.read(GQA), path, options=formats.WriteOptions(tokenizer=words))
    args = ("-i", "Once upon a time", "-t", "0", "-n", "40")
    assert write(str(path), *args)[1] == write(GQA, *args)[1]


def test_a_byte_level_model_runs_and_stops_where_its_tokenizer_says(write, tmp_path):
    words = tiktoken_ranks.read(rank_file(tmp_path / "ranks", learn(40)))
    config = ModelConfig(8, 12, 1, 2, 1, words.vocab_size, 64, norm_eps=1e-6, rope_theta=500000.0)
    random = np.random.default_rng(2)
    tensors = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in expected_shapes(config).items()
    }
    path = tmp_path / "small.gguf"
    formats.write(Checkpoint(config, tensors), path, options=formats.WriteOptions(tokenizer=words))
    status, out, _ = write(str(path), "-i", "Hi 123", "-t", "0", "-n", "20")
    assert status == 0
    assert out.startswith(b"Hi 123")


# ---- chat


@pytest.fixture
def say(monkeypatch, write):
    """Run a chat on the lines given; return its status, answers and stderr."""

    def run(lines, *args):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
        return write(*args, "--chat", "-t", "0")

    return run


def answers_of(questions, system, steps):
    """What the engine says to each question, by the template, greedily."""
    found = formats.read(GQA)
    words = tokenizer.read(MODELS / "gqa-tok.bin")
    engine = Engine(found.config, found.tensors, dtype=np.float32)
    dialog = [Message("system", system)] if system is not None else []
    said = []
    for question in questions:
        dialog.append(Message("user", question))
        ids = dialog_ids(words, dialog)
        new = list(generate(engine, ids, steps=len(ids) - 1 + steps, stop=frozenset()))[len(ids) - 1 :]
        new = new[: new.index(2)] if 2 in new else new
        text = b"".join(words.printed(before, token) for before, token in zip([ids[-1], *new], new, strict=False))
        said.append(text)
        dialog.append(Message("assistant", text.decode(errors="replace")))
    return said


def test_a_chat_answers_each_line_with_all_that_was_said(say):
    status, out, _ = say(b"Hi\nAnd then?\n", GQA, "--system", "Be kind.", "-n", "20")
    assert status == 0
    assert out == b"".join(text + b"\n" for text in answers_of(["Hi", "And then?"], "Be kind.", 20))


def test_a_chat_s_system_prompt_and_its_absence_differ(say):
    assert say(b"Hi\n", GQA, "-n", "30")[1] == answers_of(["Hi"], None, 30)[0] + b"\n"
    assert say(b"Hi\n", GQA, "--system", "", "-n", "30")[1] == answers_of(["Hi"], "", 30)[0] + b"\n"


def test_a_chat_that_has_no_room_or_no_sense_is_refused(say, write):
    assert say(b"Hi\n" * 200, GQA, "-n", "5")[0] == 2
    assert say(b"[INST]\n", GQA)[0] == 2
    assert write(GQA, "--chat", "-i", "x")[0] == 2
    assert write(GQA, "--system", "x")[0] == 2
