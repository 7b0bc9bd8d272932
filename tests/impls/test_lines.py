"""Our programs speak the line protocol as docs/protocol.md has it, byte for byte, and survive what they are asked."""

from __future__ import annotations

import os
import re

import numpy as np
import psutil
import pytest

from harness.adapters import lines
from harness.adapters.channel import Channel
from harness.adapters.implementation import ProcessImplementation, resolve
from harness.adapters.protocol import VERBS
from harness.errors import ImplementationError, MissingDependency, Refused
from harness.models import golden_dir, impls_dir, load, locate
from tests.test_docs import ROOT

from .contract import environment_of

OURS = ["numpy", "c", "ts", "napi", "ts-wasm", "zig", "zig-scalar"]
GQA, MQA = locate("gqa"), locate("mqa")
MODEL = load(GQA.checkpoint, GQA.tokenizer)


@pytest.fixture(params=OURS)
def impl(request: pytest.FixtureRequest) -> ProcessImplementation:
    found = resolve(request.param, impls_dir())[0]
    try:
        found.out()
    except MissingDependency as missing:
        pytest.skip(str(missing))
    return found


@pytest.fixture
def session(impl):
    with impl.session(GQA.checkpoint, GQA.tokenizer) as session:
        yield session


def documented() -> list[tuple[str, str]]:
    """The requests and replies of the worked session."""
    text = (ROOT / "docs" / "protocol.md").read_text("utf-8").partition("## A session")[2]
    return re.findall(r"^> (.*)\n< (.*)$", text, re.MULTILINE)


def test_the_worked_session_is_what_happens(impl):
    pairs = documented()
    assert len(pairs) >= 14
    assert {request.split()[1] for request, _ in pairs} >= set(VERBS)
    command = [word.decode() for word in _command(impl)]
    with Channel(command, cwd=golden_dir().parent, env=_environment(impl)) as channel:
        channel.start()
        for request, expected in pairs:
            reply = channel.ask(request.encode() + b"\n").decode()
            if expected.endswith("..."):
                assert re.fullmatch(re.escape(expected[:-3]) + "[0-9a-fA-F]{4096}", reply)
            elif " info " in f" {request} ":
                assert _without_name(reply) == _without_name(expected)
            elif " error " in expected:
                assert reply.startswith(expected.partition(" error ")[0] + " error ")
            else:
                assert _same(reply, expected), (request, reply)
        assert channel.close() == 0


def _same(reply: str, expected: str) -> bool:
    """Whether two replies have the same words; 0.9 and 0.899999976 are the same float32."""
    pairs = list(zip(reply.split(" "), expected.split(" "), strict=True))
    return all(a == b or ("." in a and lines.same_float(a.encode(), float(b))) for a, b in pairs)


def _without_name(reply: str) -> list[str]:
    words = reply.split(" ")
    return [*words[:4], *words[5:]]


def _command(impl: ProcessImplementation) -> list[bytes]:
    with impl.session(GQA.checkpoint, GQA.tokenizer) as session:
        return [word.encode() for word in session._words]


def _environment(impl: ProcessImplementation) -> dict[str, str]:
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment_of(impl.manifest, impl.out())}


def test_every_verb_is_offered(session):
    assert session.info().verbs == set(VERBS)


def test_another_model_can_be_loaded_and_the_first_one_again(session):
    text = b"Once upon a time"
    ids = session.encode(text)
    first = session.generate(ids, 20)
    mqa = load(MQA.checkpoint, MQA.tokenizer)
    config = mqa.checkpoint.config
    assert session.load(MQA.checkpoint, MQA.tokenizer) == (config.vocab_size, config.seq_len)
    assert session.encode(text) == mqa.tokenizer.encode(text)
    session.load(GQA.checkpoint, GQA.tokenizer)
    assert (session.encode(text), session.generate(ids, 20)) == (ids, first)
    assert session.n_starts == 1


def test_loading_again_and_again_takes_no_more_memory(session):
    session.load(GQA.checkpoint, GQA.tokenizer)
    child = psutil.Process(session._channel._pid)

    def load_often(n):
        for _ in range(n):
            session.load(GQA.checkpoint, GQA.tokenizer)
            session.generate([1], 2)
        return child.memory_info().rss

    before = load_often(30)  # a collector takes its time: what it owes at once is some 20 MB
    assert load_often(120) - before < 120 * GQA.checkpoint.stat().st_size / 2


def test_a_file_that_is_not_there_is_an_error_and_no_end(session):
    with pytest.raises(Refused):
        session.load(GQA.checkpoint.with_name("absent.bin"), GQA.tokenizer)
    session.load(GQA.checkpoint, GQA.tokenizer)
    assert session.encode(b"") == [1]
    assert session.n_starts == 1


def test_a_file_that_is_no_checkpoint_ends_as_an_error_or_a_crash_and_the_session_goes_on(session, tmp_path):
    (tmp_path / "bad.bin").write_bytes(b"no checkpoint at all" * 10)
    with pytest.raises(ImplementationError):
        session.load(tmp_path / "bad.bin", GQA.tokenizer)
    assert session.load(GQA.checkpoint, GQA.tokenizer) == (512, 512)


def test_ids_and_text_are_the_reference_s(session):
    tokenizer = MODEL.tokenizer
    for text in (b"", b" ", b"Once  upon\n", "naïve 🦙 日本".encode(), b"\xff\x80<s>", b"a" * 5000):
        for bos in (True, False):
            for eos in (True, False):
                ids = tokenizer.encode(text, bos=bos, eos=eos)
                assert session.encode(text, bos=bos, eos=eos) == ids
                assert session.decode(ids) == tokenizer.decode(ids)
    assert session.decode([403, 1, 403, 3, 300]) == tokenizer.decode([403, 1, 403, 3, 300])


def test_sequences_do_not_disturb_each_other(session):
    ids = MODEL.tokenizer.encode(b"The dog")
    rows = session.logits(ids)
    session.generate([1, 300, 301, 302], 30, temperature=1.0, seed=5)
    assert np.array_equal(session.logits(ids), rows)
    # A library may take the sums of one row in another order than those of several.
    assert np.allclose(session.logits(ids, first=len(ids) - 1), rows[-1:], rtol=0, atol=1e-4)
    assert session.generate(ids, 1) == [int(rows[-1].argmax())]


def test_the_context_can_be_filled_and_no_more(session):
    assert len(session.generate([1] + [300] * 511, 5)) == 1
    with pytest.raises(Refused):
        session.generate([1] + [300] * 512, 5)
    with pytest.raises(Refused):
        session.logits([1, 512])
    with pytest.raises(Refused):
        session.logits([])
    assert session.n_starts == 1


def test_a_seed_gives_the_same_ids_each_time(session):
    def drawn(seed):
        return session.generate([1], 40, temperature=1.0, topp=0.9, seed=seed)

    assert drawn(42) == drawn(42)
    assert drawn(42) != drawn(43)
    assert drawn(-1) == drawn(2**32 - 1)
