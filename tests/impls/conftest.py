"""The published model that llama2.c's goldens are about, and the variants made from it."""

import hashlib
import os
from pathlib import Path

import pytest

from .llama2c_goldens import TOK512_SHA256, build_model
from .tiny import tiny_pieces, tiny_v0, tokenizer_file


@pytest.fixture(scope="session")
def published():
    if not os.environ.get("HARNESS_MODELS"):
        pytest.skip("HARNESS_MODELS does not name a directory with stories260K.bin and tok512.bin")
    return Path(os.environ["HARNESS_MODELS"])


@pytest.fixture(scope="session")
def tok512(published):
    path = published / "tok512.bin"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == TOK512_SHA256
    return path


@pytest.fixture(scope="session")
def model_path(published, tmp_path_factory):
    """The path of a model by its name in llama2c_goldens, made when first asked for."""
    folder = tmp_path_factory.mktemp("models")
    original = (published / "stories260K.bin").read_bytes()

    def path(name):
        file = folder / f"{name}.bin"
        if not file.exists():
            file.write_bytes(build_model(name, original))
        return file

    return path


@pytest.fixture
def tiny(tmp_path):
    """Write the tiny model or what is given instead, and return the arguments that name the files."""

    def write(*, checkpoint=None, tokenizer=None):
        model, vocabulary = tmp_path / "tiny.bin", tmp_path / "tokenizer.bin"
        model.write_bytes(tiny_v0()[0] if checkpoint is None else checkpoint)
        vocabulary.write_bytes(tokenizer_file(tiny_pieces()) if tokenizer is None else tokenizer)
        return [model, "-z", vocabulary]

    return write
