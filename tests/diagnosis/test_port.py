"""A port without fault is llama2.c: its parts agree with the harness's own, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness import checkpoint, models
from harness.diagnosis import Port, PortCrashed, Request, by_name, faulted
from harness.diagnosis.faults_int8 import _product
from harness.diagnosis.reading import Reader
from harness.diagnosis.sampling import SAMPLER
from harness.engine import Engine, generate
from harness.engine.ops import quantised_matmul
from harness.engine.sampler import Xorshift, sample
from harness.quant import QuantTensor


def load(name):
    found = models.locate(name)
    return models.load(found.checkpoint, found.tokenizer)


@pytest.fixture(scope="module")
def gqa():
    return load("gqa")


REQUESTS = [
    Request(steps=40),
    Request(b"The dog", steps=40),
    Request(b"The dog", steps=3),
    Request(b"One day", steps=30, temperature=1, topp=0.9, seed=42),
    Request(steps=30, temperature=0.8, topp=0.0, seed=-3),
    Request("caf\u00e9 \U0001f999".encode(), steps=24, temperature=1.5, topp=0.5, seed=2**31),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_answer_of_a_port_without_fault_is_the_engines(request_, gqa):
    prompt = gqa.tokenizer.encode(request_.prompt)
    expected = list(
        generate(
            Engine(gqa.checkpoint.config, gqa.checkpoint.tensors),
            prompt,
            steps=request_.steps,
            temperature=request_.temperature,
            topp=request_.topp,
            seed=request_.seed,
        )
    )
    answer = Port().answer(gqa, request_)
    assert answer.ids == expected
    assert answer.text == gqa.tokenizer.print_text([prompt[0], *expected]) + b"\n"


def test_a_request_does_not_depend_on_the_one_before(gqa):
    request = Request(b"The sun", steps=20)
    assert Port().answer(gqa, replace(request, before=b"A cat")) == Port().answer(gqa, request)
    kept = faulted(by_name("cache-not-reset")).answer(gqa, replace(request, before=b"A cat"))
    assert kept.ids != Port().answer(gqa, request).ids


@given(
    hnp.arrays(np.float32, st.integers(2, 40), elements=st.floats(-20, 20, width=32)),
    st.floats(0.125, 4, width=32),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0]),
    st.integers(0, 2**24 - 1).map(lambda n: np.float32(n / 2**24)),
)
def test_the_sampler_is_the_engines(logits, temperature, topp, coin):
    expected = sample(logits, temperature=temperature, topp=float(np.float32(topp)), coin=coin)
    assert SAMPLER.sample(logits, temperature, float(np.float32(topp)), coin) == expected


@given(st.integers(-(2**33), 2**33).filter(bool))
def test_the_generator_is_the_engines(seed):
    rng, state = Xorshift.from_argument(seed), SAMPLER.seeded(seed, 5)
    for _ in range(3 if rng.state else 0):
        state, coin = SAMPLER.draw(state)
        assert coin == rng.coin()
    assert SAMPLER.seeded(0, 1234) == 1234


@pytest.mark.parametrize(("temperature", "topp"), [(-1, 0.5), (0.5, 1.5), (0.5, -0.1), (0.7, 0.3)])
def test_options_out_of_range_are_replaced_as_llama2c_does(temperature, topp):
    expected = (max(0.0, float(np.float32(temperature))), float(np.float32(topp if 0 <= topp <= 1 else 0.9)))
    assert SAMPLER.settings(temperature, topp) == expected


def equal(a, b):
    if isinstance(a, QuantTensor):
        return np.array_equal(a.codes, b.codes) and np.array_equal(a.scales, b.scales)
    return np.array_equal(a, b)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("name", ["gqa", "mha", "mqa"])
def test_the_reader_reads_what_is_in_a_float_file(name, version, tmp_path):
    found = load(name).checkpoint
    checkpoint.write(found, tmp_path / "model.bin", version=version)
    read = Reader(version=version).parsed((tmp_path / "model.bin").read_bytes())
    assert read.config == found.config
    assert list(read.tensors) == list(found.tensors)
    assert all(equal(read.tensors[key], found.tensors[key]) for key in found.tensors)


@pytest.mark.parametrize("name", ["gqa-q8", "mha-q8", "mqa-q8"])
def test_the_reader_reads_what_is_in_an_int8_file(name):
    found = load(name).checkpoint
    read = Reader().parsed(found.path.read_bytes())
    assert (read.config, read.group_size) == (found.config, found.group_size)
    assert all(equal(read.tensors[key], found.tensors[key]) for key in found.tensors)


def test_a_file_that_ends_early_ends_a_port():
    content = load("gqa").checkpoint.path.read_bytes()
    with pytest.raises(PortCrashed, match="of a file of 500,000"):
        Reader().parsed(content[:500_000])


@pytest.mark.parametrize("name", ["gqa-q8", "mqa-q8"])
def test_the_int8_product_without_fault_has_the_bits_of_the_engines(name):
    tensors = load(name).checkpoint.tensors
    rng = np.random.default_rng(3)
    for w in (tensors["layers.0.wq"], tensors["layers.1.w_down"]):
        x = rng.standard_normal((3, w.shape[1])).astype(np.float32)
        assert np.array_equal(_product(x, w), quantised_matmul(None, "wq", x, w))
