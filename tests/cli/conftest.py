"""Every test of the command line has goldens that a parrot can say, a judge of bytes, and a cache of its own."""

import pytest

from tests.parrots import judge_bytes, make_goldens


@pytest.fixture(autouse=True)
def cases(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("harness.conformance.case.golden_dir", lambda: tmp_path / "golden")
    monkeypatch.setattr("harness.conformance.check.verify_group", judge_bytes)
    return make_goldens(tmp_path / "golden")
