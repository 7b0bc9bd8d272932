"""The answering side of the line protocol, over a model of eight ids: the text of an id is its letter."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pytest

from harness.errors import InputError
from harness.line_program import LineProgram, hexed


class Letters(LineProgram):
    name = "letters"

    def load(self, checkpoint, tokenizer):
        if checkpoint != "model":
            raise InputError("is no\nmodel", path=checkpoint)
        return 8, 4

    def encode(self, text, *, bos, eos):
        return [1] * bos + [byte - ord("a") for byte in text] + [2] * eos

    def decode(self, ids):
        return bytes(ord("a") + i for i in ids)

    def generate(self, ids, n, temperature, topp, seed):
        return [(ids[-1] + 1 + i) % 8 for i in range(n)]

    def logits(self, ids, *, first):
        return np.eye(8)[ids[first:]]


LOAD = b"load %b %b" % (hexed(b"model"), hexed(b"vocabulary"))


def said(monkeypatch, *requests: bytes) -> list[bytes]:
    """What it replies, each request with its number."""
    asked = b"".join(b"%d %b\n" % (i, request) for i, request in enumerate(requests))
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(asked)))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
    Letters().serve()
    replies = out.getvalue().split(b"\n")
    assert replies.pop() == b""
    numbers = [reply.partition(b" ")[0] for reply in replies]
    assert numbers == [b"%d" % i for i in range(len(replies))]
    return [reply.partition(b" ")[2] for reply in replies]


def test_a_session_by_hand(monkeypatch):
    one_hot = hexed(struct.pack("<8f", 0, 0, 0, 1, 0, 0, 0, 0))
    assert said(
        monkeypatch,
        b"info",
        LOAD,
        b"info",
        b"encode 1 1 " + hexed(b"cab"),
        b"encode 0 0 -",
        b"decode 2 0 1",
        b"decode",
        b"generate 2 0.50 0.9 7 1 3",
        b"logits 1 0 3",
        b"quit",
        b"info",
    ) == [
        b"ok llama-lines 1 letters 0 0 1 info load encode decode generate logits quit",
        b"ok 8 4",
        b"ok llama-lines 1 letters 8 4 1 info load encode decode generate logits quit",
        b"ok 1 1 5 1 2 0 1 2",
        b"ok 0 0 0",
        b"ok 3 " + hexed(b"cab"),
        b"ok 0 -",
        b"ok 2 0.5 0.9 7 2 4 5",
        b"ok 1 1 8 " + one_hot,
        b"ok",
    ]


@pytest.mark.parametrize("ids", [b"", b" 0 1 2 3 4", b" 8", b" -1"])
@pytest.mark.parametrize("verb", [b"generate 1 0 0.9 1", b"logits 0"])
def test_ids_that_the_model_cannot_take_are_an_error_and_the_session_goes_on(monkeypatch, verb, ids):
    refused, fine = said(monkeypatch, LOAD, verb + ids, verb + b" 3")[1:]
    assert refused == b"error ids that the model cannot take"
    assert fine.startswith(b"ok ")


@pytest.mark.parametrize("request_", [b"encode 1 0 -", b"decode 1", b"logits 0 1", b"generate 1 0 0.9 1 1"])
def test_before_a_model_is_loaded_and_after_one_that_failed_there_is_none(monkeypatch, request_):
    bad = b"load %b -" % hexed(b"other")
    assert said(monkeypatch, request_, LOAD, bad, request_) == [
        b"error no model is loaded",
        b"ok 8 4",
        b"error other: is no model",
        b"error no model is loaded",
    ]


@pytest.mark.parametrize(
    "request_",
    [b"encode", b"encode 1 0 6", b"encode 1 x -", b"decode 1.5", b"logits", b"logits x 1", b"load 61", b"load"],
)
def test_words_that_are_missing_or_no_numbers_are_an_error(monkeypatch, request_):
    assert said(monkeypatch, LOAD, request_)[1].startswith(b"error ")


@pytest.mark.parametrize("verb", [b"sing", b"", b"INFO", b"info\r"])
def test_what_it_does_not_know_is_unsupported(monkeypatch, verb):
    assert said(monkeypatch, verb) == [b"unsupported"]
