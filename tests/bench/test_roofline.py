"""The probe of the limits: it answers with plausible numbers, and numpy stands in where nothing can be built."""

import pytest

from harness.bench import roofline
from harness.errors import MissingDependency


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))


@pytest.mark.parametrize(("n_bytes", "threads"), [(1, 1), (1_000_003, 2), (50_000_000, 1)])
def test_the_probe_reads_any_number_of_bytes_with_any_number_of_threads(own_cache, n_bytes, threads):
    read, product, flops, how = roofline.probes().limits(n_bytes, threads)
    assert how == "C"
    assert 1e8 < read < 1e13
    assert 1e8 < product < 1e13
    assert 1e8 < flops < 1e14


def test_without_a_compiler_numpy_stands_in_and_says_so(monkeypatch):
    def no_compiler(*_, **__):
        raise MissingDependency("cc", install="apt-get install gcc")

    monkeypatch.setattr(roofline, "build", no_compiler)
    monkeypatch.setattr(roofline, "_PEAK_SIZE", 64)
    read, product, flops, how = roofline.probes().limits(100_000, 1)
    assert how == "numpy"
    assert read > 0
    assert product > 0
    assert flops > 0
    assert roofline.probes().spawn_s() is None


def test_an_answer_that_is_no_number_is_not_believed(own_cache, monkeypatch):
    probe = roofline.probes().limits
    monkeypatch.setattr(roofline, "_PEAK_SIZE", 64)
    assert probe(0, 1)[3] == "numpy"  # the program refuses to read nothing


def test_what_starting_a_program_adds_is_some_milliseconds(own_cache):
    added = roofline.probes().spawn_s()
    assert added is not None
    assert 0 <= added < 5


@pytest.mark.parametrize("size", [1, 10_000, 3 << 20])
def test_a_file_of_any_size_can_be_read_from_the_disk(tmp_path, size):
    (tmp_path / "weights").write_bytes(bytes(size))
    assert 0 < roofline.disk_rate(tmp_path / "weights", n_bytes=1 << 20) < 1e12
