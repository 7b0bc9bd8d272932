"""expf and its companions have the C library's bits."""

import ctypes
import ctypes.util

import numpy as np
import pytest

from harness.engine import libm
from harness.errors import MissingDependency

# Every kind of result: overflow, the largest, ordinary, 1, tiny, subnormal, zero, infinities, NaN.
EDGES = [0.0, -0.0, 1.0, 88.72283, 88.72284, 89.0, -87.33654, -87.33655, -103.9720, -103.9721, -104.0, -120.0, -1e30]
EDGES += [1e-45, -1e-45, 1e-30, 1e30, np.inf, -np.inf, np.nan, np.finfo(np.float32).max, -np.finfo(np.float32).max]


@pytest.fixture(scope="module")
def library():
    name = ctypes.util.find_library("m") or "libm.so.6"
    functions = {}
    for function, n_args in (("expf", 1), ("cosf", 1), ("sinf", 1), ("powf", 2)):
        call = getattr(ctypes.CDLL(name), function)
        call.restype, call.argtypes = ctypes.c_float, [ctypes.c_float] * n_args
        functions[function] = call
    return functions


def bits(values):
    return np.asarray(values, np.float32).view(np.uint32)


def assert_same_bits(actual, expected, x):
    expected = np.asarray(expected, np.float32)
    differs = (bits(actual) != bits(expected)) & ~(np.isnan(actual) & np.isnan(expected))
    worst = [
        (float(v), float(a), float(e)) for v, a, e in zip(x[differs], actual[differs], expected[differs], strict=True)
    ]
    assert not worst, f"{len(worst)} of {len(x)} differ (x, ours, the library's): {worst[:5]}"


def expf_inputs(kind, n, random):
    if kind == "edges":
        return np.array(EDGES, np.float32)
    if kind == "whole range":
        return random.uniform(-104, 89, n).astype(np.float32)
    if kind == "softmax":  # what attention and sampling ask for
        return -random.exponential(8, n).astype(np.float32)
    if kind == "subnormal results":
        return random.uniform(-104, -87.2, n).astype(np.float32)
    if kind == "near 0":
        return (random.choice([-1, 1], n) * 2.0 ** random.uniform(-30, 0, n)).astype(np.float32)
    assert kind == "any bits"
    return random.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("kind", "n"),
    [
        ("edges", 0),
        ("whole range", 120_000),
        ("softmax", 60_000),
        ("subnormal results", 20_000),
        ("near 0", 20_000),
        ("any bits", 40_000),
    ],
)
def test_expf_is_the_librarys_over_its_whole_range(kind, n, library):
    x = expf_inputs(kind, n, np.random.default_rng(7))
    assert_same_bits(libm.expf(x), [library["expf"](value) for value in x.tolist()], x)


def test_expf_is_the_librarys_for_consecutive_values(library):
    # A run of neighbours meets every distance from a rounding boundary that this stretch has.
    for start in (np.float32(-10.5), np.float32(0.7), np.float32(-88.0)):
        x = (bits([start])[0] + np.arange(5_000, dtype=np.uint32)).view(np.float32)
        assert_same_bits(libm.expf(x), [library["expf"](value) for value in x.tolist()], x)


def test_most_of_expf_is_computed_without_the_library(library, monkeypatch):
    asked = []
    monkeypatch.setattr(libm, "_function", lambda name, n: lambda value: asked.append(value) or library[name](value))
    x = np.random.default_rng(1).uniform(-80, 80, 10_000).astype(np.float32)
    libm.expf(x)
    assert len(asked) < 0.04 * len(x)  # 0.01 to 0.02 of a unit on either side of a half: 2 to 4 %


@pytest.mark.parametrize("name", ["cosf", "sinf"])
def test_angles_go_to_the_library(name, library):
    x = np.random.default_rng(2).uniform(-2048, 2048, (50, 40)).astype(np.float32)
    actual = getattr(libm, name)(x)
    assert actual.shape == x.shape
    assert actual.dtype == np.float32
    assert_same_bits(actual.ravel(), [library[name](value) for value in x.ravel().tolist()], x.ravel())


def test_powers_go_to_the_library(library):
    x = np.linspace(0, 1, 1000, dtype=np.float32)
    assert_same_bits(libm.powf(10000.0, x), [library["powf"](10000.0, value) for value in x.tolist()], x)


def test_any_shape_and_emptiness_are_kept():
    assert libm.expf(np.zeros((2, 3, 4), np.float32)).shape == (2, 3, 4)
    assert libm.expf(np.zeros((0, 3), np.float32)).shape == (0, 3)
    strided = np.full((4, 6), np.inf, np.float32)[::2, ::3]
    assert (libm.expf(strided) == np.inf).all()


def test_a_missing_library_says_so(monkeypatch):
    def fail(name):
        raise OSError(name)

    monkeypatch.setattr(libm.ctypes, "CDLL", fail)
    libm._library.cache_clear()
    try:
        with pytest.raises(MissingDependency, match="libm"):
            libm._library()
    finally:
        libm._library.cache_clear()
