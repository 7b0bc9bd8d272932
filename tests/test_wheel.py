"""The wheel: what it carries, and that its goldens run where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(target.glob("*.whl"))


def test_it_carries_goldens_implementations_and_templates(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "harness/golden/__init__.py",
        "harness/golden/conftest.py",
        "harness/golden/models/models.toml",
        "harness/golden/models/llama3/model.safetensors",
        "harness/golden/chat/dialogs.json",
        "harness/impls/c/impl.toml",
        "harness/impls/c/run.c",
        "harness/report/page.html.j2",
    ):
        assert name in names
    assert [name for name in names if name.startswith("harness/golden/tinystories/")]
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]


def test_its_goldens_are_collected_by_package_name(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    command = [sys.executable, "-m", "pytest", "--pyargs", "harness.golden", "--impl", "c", "--collect-only", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "::g01-greedy-200[c]" in run.stdout
    assert "site/harness/golden" in run.stdout
