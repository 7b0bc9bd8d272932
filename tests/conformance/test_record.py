"""Recording: the reference answers, others must agree, and a person sees the difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness import checkpoint as checkpoints
from harness import tokenizer as tokenizers
from harness.checkpoint import Checkpoint
from harness.conformance import record as recording
from harness.conformance.case import Case, read_case, write_case
from harness.conformance.record import PlannedCase, difference, planned, read_plan, record
from harness.errors import CaseError, TimedOut
from harness.model_config import ModelConfig
from harness.models import ModelFiles
from harness.results import Observation, Request
from harness.tokenizer import Tokenizer

WANTED = PlannedCase(
    name="ab", suite="tiny", tags=("greedy",), why="two letters", model="tiny", prompt=b"ab", steps=9
)


def says(stdout: bytes) -> recording.Agree:
    def run(request: Request) -> Observation:
        return Observation(command=("other",), cwd=".", stdout=stdout)

    return run


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFiles:
    """A model whose next token is always its input plus one: 259 " ", 260 "a" ... 264 "e", then 0 again.

    Every block adds nothing (its matrices are zero), so the final state is the embedding, normalised; the
    classifier's row of id i+1 is the embedding of i.
    """
    n = 265
    config = ModelConfig(dim=n + 1, hidden_dim=2, n_layers=1, n_heads=1, n_kv_heads=1, vocab_size=n, seq_len=12,
                         is_tied=False)  # fmt: skip
    tensors = {name: np.zeros(shape, np.float32) for name, shape in checkpoints.expected_shapes(config).items()}
    tensors["tok_embedding"] = np.eye(n, n + 1, dtype=np.float32)
    tensors["lm_head"] = np.roll(tensors["tok_embedding"], 1, axis=0)
    tensors["final_norm"] = np.ones(n + 1, np.float32)
    pieces = (b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256)), *map(bytes, zip(b" abcde")))
    files = ModelFiles("tiny", tmp_path / "tiny.bin", tmp_path / "tok.bin", "a" * 64, "b" * 64, "llama2c-v0", True)
    checkpoints.write(Checkpoint(config, tensors), files.checkpoint, version=0)
    tokenizers.write(Tokenizer(pieces, -np.arange(n, dtype=np.float32)), files.tokenizer)
    monkeypatch.setattr(recording, "locate", lambda name: {"tiny": files}[name])
    return files


def test_the_reference_goes_on_where_the_prompt_ends(tiny: ModelFiles) -> None:
    case = record(WANTED, agree={"other": says(b"abcde<unk>\n")})
    assert case.prompt_ids == (1, 259, 260, 261)
    assert case.ids == (259, 260, 261, 262, 263, 264, 0, 1)
    assert case.ends == "bos"
    assert case.stdout == b"abcde<unk>\n"
    assert case.provenance.source == "float64 reference"
    assert case.provenance.agreed == ("other",)


def test_margins_are_of_the_generated_steps_and_closest_first(tiny: ModelFiles) -> None:
    case = record(WANTED, agree={"other": says(b"abcde<unk>\n")})
    # One logit is that of a normalised unit vector of 266, the others are 0; the lowest id of these comes second.
    assert [margin.step for margin in case.margins] == [0, 1, 2, 3, 4]
    assert case.margins[0].margin == pytest.approx((1 / 266 + 1e-5) ** -0.5, rel=1e-5)
    assert case.margins[0].runner_up == 0
    assert [m.margin for m in case.margins] == sorted(m.margin for m in case.margins)


def test_fewer_steps_than_prompt_ids_cut_the_echo_off(tiny: ModelFiles) -> None:
    case = record(replace(WANTED, steps=2), agree={"other": says(b"a\n")})
    assert (case.ids, case.ends, case.margins, case.n_generated) == ((259, 260), "steps", (), 0)


def test_a_sampled_case_has_no_margins(tiny: ModelFiles) -> None:
    case = record(replace(WANTED, temperature=0.01, seed=7), agree={"other": says(b"abcde<unk>\n")})
    assert case.is_sampled
    assert case.margins == ()


def test_an_int8_model_is_answered_in_strict_arithmetic(tiny: ModelFiles, tmp_path: Path) -> None:
    checkpoint = checkpoints.read(tiny.checkpoint)
    checkpoints.write(checkpoint, tmp_path / "q8.bin", version=2, group_size=2)
    tiny.checkpoint.write_bytes((tmp_path / "q8.bin").read_bytes())
    case = record(WANTED, agree={"other": says(b"abcde<unk>\n")})
    assert case.provenance.source == "strict arithmetic"


def test_nobody_to_agree_is_a_mistake_of_the_caller(tiny: ModelFiles) -> None:
    with pytest.raises(ValueError, match="independent"):
        record(WANTED, agree={})


@pytest.mark.parametrize(("stdout", "at"), [(b"abcdx\n", 4), (b"abcde<unk>", 10), (b"", 0), (b"abcde<unk>\n\n", 11)])
def test_another_text_is_refused_with_the_place(tiny: ModelFiles, stdout: bytes, at: int) -> None:
    with pytest.raises(CaseError) as caught:
        record(WANTED, agree={"right": says(b"abcde<unk>\n"), "wrong": says(stdout)})
    assert "wrong" in caught.value.what
    assert caught.value.where == f"byte {at} of stdout"


def test_a_program_that_fails_agrees_to_nothing(tiny: ModelFiles) -> None:
    def run(request: Request) -> Observation:
        return Observation(("other",), ".", b"abcde<unk>\n", failure=TimedOut("too slow"))

    with pytest.raises(CaseError, match="too slow"):
        record(WANTED, agree={"other": run})


def test_others_are_asked_what_the_case_asks(tiny: ModelFiles) -> None:
    asked: list[Request] = []

    def run(request: Request) -> Observation:
        asked.append(request)
        return Observation(("other",), ".", b"abcde<unk>\n")

    record(replace(WANTED, steps=8), agree={"other": run})
    assert [(r.model, r.tokenizer, r.prompt, r.steps) for r in asked] == [(tiny.checkpoint, tiny.tokenizer, b"ab", 8)]


# ---- renewing -----------------------------------------------------------------------------------


def test_an_answer_that_stays_keeps_its_sources(tiny: ModelFiles) -> None:
    first = record(WANTED, agree={"published": says(b"abcde<unk>\n")})
    again = record(planned(first), agree={"other": says(b"abcde<unk>\n")}, old=first)
    assert again.provenance.agreed == ("published", "other")


def test_an_answer_that_changes_forgets_who_agreed_with_the_old_one(tiny: ModelFiles) -> None:
    first = record(replace(WANTED, steps=5), agree={"published": says(b"abcd\n")})
    again = record(WANTED, agree={"other": says(b"abcde<unk>\n")}, old=first)
    assert again.provenance.agreed == ("other",)


def test_the_difference_is_shown_and_nothing_is_written(tiny: ModelFiles, tmp_path: Path) -> None:
    first = record(replace(WANTED, steps=5), agree={"other": says(b"abcd\n")})
    again = record(WANTED, agree={"other": says(b"abcde<unk>\n")})
    shown = difference(first, again)
    assert '\n-abcd"""\n+abcde<unk>"""\n' in shown
    assert difference(again, again) == ""
    assert difference(None, again).count("\n+") == 1 + len(recording.render(again).splitlines())
    assert not list(tmp_path.glob("**/*.toml"))
    write_case(again, tmp_path / "ab.toml")
    assert read_case(tmp_path / "ab.toml") == again


def test_a_chat_is_not_recorded(tiny: ModelFiles) -> None:
    case: Case = record(WANTED, agree={"other": says(b"abcde<unk>\n")})
    with pytest.raises(CaseError, match="chat"):
        planned(replace(case, mode="chat"))


# ---- plans --------------------------------------------------------------------------------------

ENTRY = '[[case]]\nname = "ab"\nmodel = "tiny"\nwhy = "two letters"\nsteps = 9\nprompt = "ab"\ntags = ["greedy"]\n'


def test_a_plan_is_a_list_of_questions(tmp_path: Path) -> None:
    path = tmp_path / "tiny" / "plan.toml"
    path.parent.mkdir()
    path.write_text(ENTRY)
    assert read_plan(path) == [WANTED]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (ENTRY + ENTRY, None),
        ("[[case]\n", "line 1"),
        ("", "key case"),
        (ENTRY + "surprise = 1\n", "key case.0.surprise"),
        (ENTRY.replace("steps = 9", "steps = -9"), "key case.0.steps"),
        (ENTRY.replace('"ab"', '"../ab"', 1), "key case.0.name"),
        (ENTRY + "topp = 2.0\n", "key case.0.topp"),
    ],
)
def test_a_wrong_plan_names_the_key(tmp_path: Path, text: str, where: str | None) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(CaseError) as caught:
        read_plan(path)
    assert (caught.value.path, caught.value.where) == (str(path), where)
    with pytest.raises(CaseError):
        read_plan(tmp_path)
