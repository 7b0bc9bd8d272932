"""The white-box tracer names the operation of every arithmetic fault that is compiled into impls/c, and no other.

What a right build records is judged in tests/impls/test_traces.py; here, only the build that the faults are made of.
"""

from __future__ import annotations

import pytest

from harness import checkpoint, models
from harness.adapters.implementation import ProcessImplementation
from harness.conformance import tracing
from harness.conformance.selftest.compiled import Patch, patched, read
from harness.diagnosis import Fate, by_name
from harness.diagnosis import stress as stresses
from harness.diagnosis.shown import SHOWN_BY
from harness.errors import MissingDependency
from harness.models import ModelFiles
from harness.models.files import sha256_of
from harness.results import Trace
from harness.tokenizer import tokenizer_bin
from tests.diagnosis.test_white_box import arithmetic, expected_point

COMPILED = read(models.impls_dir() / "c" / "faults.toml")
ARITHMETIC = {fault.name for fault in arithmetic() if fault.fate is Fate.KILLABLE}
PATCHES = [patch for patch in COMPILED.patches if patch.name in ARITHMETIC]
PROMPT = b"Once upon a time"
# What this C does wrong where the catalogue's engine does the same mistake in another operation.
OTHERWISE_IN_C = {
    "mask-excludes-self-but-first": "scores",  # that of the position itself is not computed, rather than hidden
    "ffn-gate-up-swapped": "ffn_mix",  # the activation is applied to the other product; both products are right
}


@pytest.fixture(autouse=True)
def _only_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which faults of the catalogue would explain it is asked after the operations are judged, and takes longest."""
    monkeypatch.setattr(tracing, "explanations", lambda *_: [])


def program(patch: Patch | None) -> ProcessImplementation:
    manifest = patched(COMPILED, patch)
    (command,) = manifest.build
    quickly = tuple("-O0" if word == "-O3" else word for word in command)
    return ProcessImplementation(manifest.model_copy(update={"build": (quickly,)}))


def traced(patch: Patch | None, files: ModelFiles, *, steps: int = 12) -> Trace:
    try:
        return tracing.trace(program(patch), files, prompt=PROMPT, steps=steps)
    except MissingDependency as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def under_stress(tmp_path_factory: pytest.TempPathFactory):
    """Files of a model as it shows a fault in text, written once."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def files(model: str, stress: str) -> ModelFiles:
        if (model, stress) not in made:
            found = models.locate(model)
            altered = stresses.by_name(stress).made(models.load(found.checkpoint, found.tokenizer))
            path = folder / f"{model}-{stress}.bin"
            version = 0 if altered.checkpoint.group_size is None else 2
            checkpoint.write(altered.checkpoint, path, version=version)
            tokenizer_bin.write(altered.tokenizer, path.with_suffix(".tok"))
            made[model, stress] = ModelFiles(
                name=path.stem,
                checkpoint=path,
                tokenizer=path.with_suffix(".tok"),
                sha256=sha256_of(path),
                tokenizer_sha256=sha256_of(path.with_suffix(".tok")),
                format=f"llama2c-v{version}",
                is_embedded=False,
            )
        return made[model, stress]

    return files


def test_these_are_most_of_them() -> None:
    assert len(PATCHES) >= 45


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_the_first_wrong_operation_is_that_of_the_fault(patch: Patch, under_stress) -> None:
    model, stress, _ = SHOWN_BY[patch.name]
    found = traced(patch, models.locate("gqa-q8" if by_name(patch.name).component == "int8" else "gqa"))
    if not found.wrong:  # it shows only on a model that was made for it
        found = traced(patch, under_stress(model, stress))
    assert found.wrong
    assert found.wrong[0].name == OTHERWISE_IN_C.get(patch.name, expected_point(by_name(patch.name)))


@pytest.mark.parametrize("model", ["gqa", "mha", "mqa", "gqa-q8"])
def test_without_a_fault_nothing_is_named(model: str) -> None:
    assert traced(None, models.locate(model), steps=32).wrong == ()
