"""impls/llama-cpp without llama.cpp: its manifest, what is prepared for it, and its loop, over a stand-in."""

import subprocess
import sys
from collections import Counter

import pytest

from harness import formats, models
from harness.conformance import case, check
from harness.formats import gguf_file
from harness.results import Kind

from .contract import HERE, IMPLS

RUN = IMPLS / "llama-cpp" / "run.py"


@pytest.fixture
def python(tmp_path, monkeypatch):
    """A Python whose llama_cpp is the stand-in, named as a machine would that has the real one."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={HERE / "fake_llama_cpp"} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("LLAMA_CPP_PYTHON", str(script))
    monkeypatch.delenv("LLAMA_CPP_BATCH", raising=False)
    return script


def judged(name, **selection):
    [impl] = check.implementations([name])
    return [v for verdicts in check.check([impl], case.select(("core",), **selection)) for v in verdicts]


def converted(tmp_path, name, dtype="float32"):
    files = models.locate(name)
    path = tmp_path / f"{name}.gguf"
    options = formats.WriteOptions(dtype=dtype, tokenizer=formats.read_tokenizer(files.tokenizer))
    formats.write(formats.read(files.checkpoint), path, options=options)
    return path


def said(python, *words, **variables):
    done = subprocess.run([python, RUN, *words], capture_output=True, check=False, env=variables or None)
    return done.stdout, done.stderr, done.returncode


def test_every_greedy_case_is_exact_in_text_ids_and_logits(python):
    verdicts = judged(
        "llama-cpp",
        models=["gqa", "llama3"],
        cases=["gqa-bytes", "gqa-prompt-cut-off", "gqa-greedy", "gqa-cool*", "llama3-letters", "llama3-spellings"],
    )
    kinds = Counter(v.kind for v in verdicts)
    assert set(kinds) == {Kind.EXACT, Kind.UNSUPPORTED}, [v for v in verdicts if not v.kind.is_green]
    assert kinds[Kind.EXACT] == 5
    reasons = {v.reason for v in verdicts if v.kind is Kind.UNSUPPORTED}
    assert reasons <= {"decodes greedily only", "has no chat"}


def test_int8_is_judged_as_int8(python, monkeypatch):
    monkeypatch.setenv("FAKE_TILES", "1")  # ids are read one at a time, else the stand-in dies
    verdicts = judged("llama-cpp-q8", models=["gqa-q8"])
    kinds = Counter(v.kind for v in verdicts)
    assert kinds[Kind.EXACT] + kinds[Kind.TIE] + kinds[Kind.WITHIN] == 3, verdicts
    assert not any(v.kind.is_failure for v in verdicts)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, b"Once\n"), (3, b"Once upon a\n"), (4, b"Once upon a time\n"), (6, b"Once upon a time, there\n")],
)
def test_steps_are_positions_of_which_the_prompt_takes_its_own(python, tmp_path, steps, expected):
    path = converted(tmp_path, "gqa")
    out, _, status = said(python, path, "-n", str(steps), "-i", "Once upon a time")
    assert (out, status) == (expected, 0)


def test_a_text_ends_with_the_context(python, tmp_path):
    path = converted(tmp_path, "mha")
    whole, told, _ = said(python, path, "-n", "0", "-i", "Once")
    more, _, _ = said(python, path, "-n", "100000", "-i", "Once")
    assert whole == more
    assert whole.startswith(b"Once")
    assert float(told.split()[-1]) > 0


def test_a_file_that_is_none_is_an_error_of_one_line(python, tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"GGUF")
    out, told, status = said(python, tmp_path / "no.gguf")
    assert (out, status) == (b"", 1)
    assert told.decode().endswith("no.gguf: llama.cpp cannot load it\n")
    assert told.count(b"\n") == 1


def test_the_line_protocol_refuses_what_it_cannot_do_and_goes_on(python, tmp_path):
    path = converted(tmp_path, "gqa")
    asked = [
        "1 info",
        "2 encode 1 0 4f6e6365",
        f"3 load {str(path).encode().hex()} -",
        "4 generate 3 0.5 0.9 1 1",
        "5 logits 0 512",
        "6 logits 2 1 2",
        "7 sing",
        "8 encode 1 1 4f6e6365",
        "9 decode 1 432 441",
        f"10 load {b'/nowhere'.hex()} -",
        "11 generate 3 0 0.9 1 1",
        "12 quit",
    ]
    done = subprocess.run(
        [python, RUN, "--lines", "1"], input="\n".join(asked) + "\n", capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "1 ok llama-lines 1 llama.cpp 0 0 1 info load encode decode generate logits quit",
        "2 error no model is loaded",
        "3 ok 512 512",
        "4 error decodes greedily only",
        "5 error an id is outside of the vocabulary",
        "6 error more ids than the context, or none",
        "7 unsupported",
        "8 ok 1 1 3 1 432 2",
        "9 ok 3 4f6e63652075706f6e",
        "10 error /nowhere: llama.cpp cannot load it",
        "11 error no model is loaded",
        "12 ok",
    ]


def test_what_is_prepared_is_float32_or_q8_0_with_the_tokenizer(python):
    for name, model, stored in (("llama-cpp", "llama3", "float32"), ("llama-cpp-q8", "gqa-q8", "q8_0")):
        [impl] = check.implementations([name])
        files = models.locate(model)
        file = gguf_file.read(impl.prepare(files.checkpoint, files.tokenizer))
        assert file.entries["blk.0.attn_q.weight"].encoding.word == stored
        assert len(file.metadata["tokenizer.ggml.tokens"]) == file.entries["token_embd.weight"].shape[0]
