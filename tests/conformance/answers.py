"""Cases made on the spot: what the float64 engine answers on a shipped model, without a golden file."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from harness import checkpoint
from harness.checkpoint import Checkpoint
from harness.conformance.case import Case, ModelRef, Provenance
from harness.engine import Engine, generate
from harness.models import ModelFiles, load, locate


@functools.cache
def answered(
    prompt: str = "",
    *,
    model: str = "gqa",
    steps: int = 64,
    temperature: float = 0.0,
    topp: float = 0.9,
    seed: int = 1,
    name: str = "made-here",
) -> Case:
    """Return a Case of a shipped model."""
    return answer(
        locate(model), prompt, steps=steps, temperature=temperature, topp=topp, seed=seed, name=name, model=model
    )


def answer(
    files: ModelFiles,
    prompt: str = "",
    *,
    steps: int = 64,
    temperature: float = 0.0,
    topp: float = 0.9,
    seed: int = 1,
    name: str = "made-here",
    model: str = "made-here",
) -> Case:
    """Return a Case of any files."""
    found = load(files.checkpoint, files.tokenizer)
    engine = Engine(found.checkpoint.config, found.checkpoint.tensors, dtype=np.float64)
    prompt_ids = tuple(found.tokenizer.encode(prompt))
    ids = tuple(generate(engine, prompt_ids, steps=steps, temperature=temperature, topp=topp, seed=seed))
    has_bos = len(ids) >= len(prompt_ids) and ids[-1] == prompt_ids[0]
    return Case(
        name=name,
        suite="here",
        tags=(),
        why="a test",
        model=ModelRef(model, files.sha256, files.tokenizer_sha256, files.format),
        mode="generate",
        prompt=prompt.encode() or None,
        steps=steps,
        temperature=temperature,
        topp=topp,
        seed=seed,
        system=None,
        stdin=b"",
        prompt_ids=prompt_ids,
        ids=ids,
        stdout=found.tokenizer.print_text([prompt_ids[0], *ids]) + b"\n",
        ends="bos" if has_bos else "steps",
        margins=(),
        provenance=Provenance("float64 reference"),
    )


def written(made: Checkpoint, directory: Path, *, tokenizer_of: str) -> ModelFiles:
    """Write a checkpoint of one's own and return its files."""
    path = directory / "made.bin"
    checkpoint.write(made, path, version=0)
    shipped = locate(tokenizer_of)
    return ModelFiles(
        name="made-here",
        checkpoint=path,
        tokenizer=shipped.tokenizer,
        sha256=checkpoint.sha256_of(path),
        tokenizer_sha256=shipped.tokenizer_sha256,
        format="llama2c-v0",
        is_embedded=False,
    )
