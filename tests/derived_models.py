"""The published files that tests use, and the six models derived from stories260K.bin by byte edits.

Published files are looked for in the directory that the environment variable HARNESS_MODELS names; a test that needs
one is skipped where it is absent. The derived models exercise what the plain one never does.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.impls.llama2c_goldens import MODEL_SHA256, build_model

__all__ = ["DERIVED_SHA256", "derive", "published"]

DERIVED_SHA256 = {
    name: sha256 for name, sha256 in MODEL_SHA256.items() if name != "stories260K" and not name.startswith("q8-")
}


def published(name: str) -> Path:
    """Find a published file, or skip the test."""
    directory = os.environ.get("HARNESS_MODELS")
    if not directory:
        pytest.skip(f"{name}: HARNESS_MODELS names no directory of published models")
    path = Path(directory) / name
    if not path.is_file():
        pytest.skip(f"{name} is not in HARNESS_MODELS ({directory})")
    return path


def derive(name: str, stories_path: Path, out_dir: Path) -> Path:
    """Build a derived model in out_dir and return its path; its hash is checked.

    Args:
        name: one of DERIVED_SHA256.
        stories_path: the published stories260K.bin.
    """
    path = out_dir / f"{name}.bin"
    path.write_bytes(build_model(name, stories_path.read_bytes()))
    return path
