"""A model with a byte-level vocabulary, in a Hugging Face directory, through the whole gate."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.manifest import load
from harness.conformance.case import Case, select
from harness.conformance.verify import files_for, verify_group
from harness.models import ModelFiles, impls_dir, locate
from harness.results import Kind, Verdict

# Prints what numpy's program prints, changed by the expression; it is told the model and the prompt as numpy's is.
BENT = """\
import subprocess, sys
done = subprocess.run([{python!r}, {program!r}, *sys.argv[1:]], stdout=subprocess.PIPE, check=True)
text = done.stdout
sys.stdout.buffer.write({changed})
"""
NUMPY = impls_dir() / "numpy"
FLAGS = '"{model}", "-z", "{tokenizer}", "-t", "{temperature}", "-n", "{steps}", "{prompt_args}"'


@pytest.fixture(scope="module")
def files() -> ModelFiles:
    return locate("llama3")


def cases(*names: str) -> list[Case]:
    return select(["core"], cases=[f"llama3-{name}" for name in names])


def bent(tmp_path: Path, changed: str, *, formats: str = '["huggingface"]', extra: str = "") -> ProcessImplementation:
    program = str(NUMPY / "run.py")
    (tmp_path / "bent.py").write_text(BENT.format(python=sys.executable, program=program, changed=changed))
    (tmp_path / "impl.toml").write_text(
        f'name = "bent"\nformats = {formats}\nrun = ["{{python}}", "{{src}}/bent.py", {FLAGS}]\n{extra}\n'
    )
    return ProcessImplementation(load(tmp_path)[0])


@pytest.fixture
def verdict(tmp_path: Path, files: ModelFiles) -> Callable[..., Verdict]:
    def judged(name: str, changed: str, **options: str) -> Verdict:
        (found,) = verify_group(cases(name), bent(tmp_path, changed, **options), files=files)
        return found

    return judged


@pytest.mark.parametrize("form", ["huggingface", "huggingface-bin", "safetensors", "gguf", "npz"])
def test_a_right_program_is_exact_in_every_format_that_holds_the_model(
    form: str, verdict: Callable[..., Verdict]
) -> None:
    found = verdict("letters", "text", formats=f'["{form}"]')
    assert (found.kind, found.reason) == (Kind.EXACT, "")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("text.removesuffix(b'\\n')", "no final newline"),
        (
            "text[text.index('“Hello,”'.encode()) + len('“Hello,”'.encode()):]",  # no echo of the prompt
            "",
        ),
    ],
)
def test_other_habits_of_printing_are_exact_and_told(
    changed: str, named: str, verdict: Callable[..., Verdict]
) -> None:
    found = verdict("letters", changed)
    assert found.kind is Kind.EXACT, found.reason
    assert named in " ".join(found.conventions)


def test_a_wrong_word_is_a_mismatch_with_its_step(verdict: Callable[..., Verdict]) -> None:
    """The text is right for a while; then one word is another, and a walk names the token."""
    found = verdict("letters", "text[:-60] + b' zebra' + text[-54:]")
    assert found.kind is Kind.MISMATCH
    assert found.divergence is not None
    assert found.divergence.step > 20
    assert found.divergence.regret > 100 * found.divergence.floor
    assert found.tokenizer is Kind.EXACT


def test_the_end_of_a_text_is_no_place_to_stop_early(verdict: Callable[..., Verdict]) -> None:
    found = verdict("whole-book", "text[:-200]")
    assert not found.kind.is_green


def test_what_follows_the_end_of_a_text_must_be_the_model_s(verdict: Callable[..., Verdict]) -> None:
    found = verdict("whole-book", "text.rstrip(b'\\n') + b'and they all lived happily'")
    assert found.kind is Kind.MISMATCH


@pytest.mark.parametrize("variant", ["numpy", "numpy-strict"])
def test_numpy_is_exact_at_every_level(variant: str, files: ModelFiles) -> None:
    (manifest,) = [one for one in load(NUMPY) if one.name == variant]
    names = ("greedy", "white-space", "spellings") if variant == "numpy" else ("spellings",)
    for found in verify_group(cases(*names), ProcessImplementation(manifest), files=files):
        assert (found.kind, found.reason) == (Kind.EXACT, ""), found
        assert [level for level, _ in found.levels] == ["TEXT", "TOKENS", "LOGITS"]


@pytest.mark.parametrize("name", ["c", "numpy-q8"])
def test_a_program_that_cannot_hold_it_is_unsupported_with_the_reason(name: str, files: ModelFiles) -> None:
    (manifest,) = [one for path in impls_dir().iterdir() if path.is_dir() for one in load(path) if one.name == name]
    found = verify_group(cases("greedy", "letters"), ProcessImplementation(manifest), files=files)
    assert {verdict.kind for verdict in found} == {Kind.UNSUPPORTED}
    expected = "rope" if name == "c" else "reads llama2c-v2; the model is huggingface"
    assert all(expected in verdict.reason for verdict in found), found[0].reason


def test_files_are_given_in_the_format_that_a_program_likes_best(tmp_path: Path, files: ModelFiles) -> None:
    impl = bent(tmp_path, "text", formats='["llama2c-v0", "gguf", "npz"]')
    given = files_for(impl.manifest, files)
    assert given.format == "gguf"
    assert given.checkpoint.suffix == ".gguf"
    assert given.tokenizer.name == "tokenizer.json"
    as_it_is = files_for(bent(tmp_path, "text").manifest, files)
    assert as_it_is == files


def test_needs_that_a_byte_level_vocabulary_cannot_meet_are_unsupported(verdict: Callable[..., Verdict]) -> None:
    found = verdict("letters", "text", extra="[needs]\nvocab_size = 32000")
    assert (found.kind, "byte-level" in found.reason) == (Kind.UNSUPPORTED, True)
