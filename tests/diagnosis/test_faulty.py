"""The program that has a fault: llama2.c's flags, the line protocol, and where it would die."""

from __future__ import annotations

import os
import sys

import pytest

from harness.adapters.implementation import ProcessImplementation
from harness.conformance.selftest.ported import PortedFault
from harness.diagnosis import Port, Request, by_name, faulted
from harness.diagnosis.faulty import CRASHED, Lines, main
from harness.errors import InputError
from harness.models import load, locate
from harness.results import Request as Asked


@pytest.fixture(scope="module")
def files():
    return locate("gqa")


@pytest.fixture(scope="module")
def gqa(files):
    return load(files.checkpoint, files.tokenizer)


def words(files, *more: str) -> list[bytes]:
    return [os.fsencode(word) for word in (files.checkpoint, "-z", files.tokenizer, "-t", "0", "-n", "24", *more)]


@pytest.mark.parametrize("fault", ["none", "heads-modulo", "newline-missing"])
def test_it_prints_what_the_port_answers(fault, files, gqa, capfdbinary):
    assert main([fault.encode(), *words(files, "-i", "The dog")]) == 0
    sys.stdout.flush()
    port = Port() if fault == "none" else faulted(by_name(fault))
    assert capfdbinary.readouterr().out == port.answer(gqa, Request(b"The dog", steps=24)).text


def test_where_a_program_would_be_ended_it_says_so_by_its_status(capfd):
    files = locate("mha")
    assert main([b"size-of-tied-file", *words(files)]) == CRASHED
    assert "it would end here" in capfd.readouterr().err


def test_a_tokenizer_of_more_pieces_is_refused_by_who_does_so(capfd):
    files = locate("gqa/surplus-piece")
    assert main([b"tokenizer-size-checked", *words(files)]) == CRASHED
    assert "more pieces" in capfd.readouterr().err
    assert main([b"none", *words(files)]) == 0


@pytest.mark.parametrize(
    ("given", "what"), [(["-q", "1"], "-q is no option"), (["-i"], "-i is no option, or has no value")]
)
def test_a_wrong_option_is_named(files, given, what, capfd):
    assert main([b"none", *words(files, *given)]) == 2
    assert what in capfd.readouterr().err


def test_a_fault_that_does_not_exist(files, capfd):
    assert main([b"heads-mod", *words(files)]) == 2
    assert "there is no fault heads-mod" in capfd.readouterr().err


def test_without_a_model_it_says_how_it_is_called(capfd):
    assert main([b"none"]) == 2
    assert "--lines" in capfd.readouterr().err


def lines(fault, files):
    program = Lines(fault)
    program.answer(b"load", [os.fsencode(path).hex().encode() for path in (files.checkpoint, files.tokenizer)])
    return program


def test_before_a_model_is_loaded_there_is_nothing_to_say():
    program = Lines("none")
    assert program.answer(b"info", []).startswith(b"ok llama-lines 1 none 0 0 1 info load")
    assert program.answer(b"encode", [b"1", b"0", b"-"]) == b"error no model is loaded"
    assert program.answer(b"sing", []) == b"unsupported"


def test_ids_that_a_model_cannot_take_are_refused(files):
    with pytest.raises(InputError):
        lines("none", files).answer(b"logits", [b"0", b"9999"])


def test_a_session_sees_what_the_request_before_it_left(files):
    asked = [b"12", b"0", b"0.9", b"1", b"1"]
    right, left = lines("none", files), lines("cache-not-reset", files)
    assert right.answer(b"generate", asked) == right.answer(b"generate", asked)
    first = left.answer(b"generate", asked)
    assert first == right.answer(b"generate", asked)
    assert left.answer(b"generate", asked) != first


@pytest.mark.parametrize("fault", ["none", "tokenizer-no-byte-offset"])
def test_the_line_protocol_of_the_real_program(fault, files, gqa):
    with PortedFault(fault).session(files.checkpoint, files.tokenizer, shape=(512, 512)) as session:
        ids = session.encode("Zoë saw 🦙".encode())
        assert (ids == gqa.tokenizer.encode("Zoë saw 🦙".encode())) == (fault == "none")
        assert session.decode([1, 432, 441]) == gqa.tokenizer.decode([1, 432, 441])
        assert len(session.generate([1, 432], 5)) == 5
        assert session.logits([1, 432]).shape == (2, 512)
        assert session.quit() == 0


def test_within_the_process_it_answers_what_the_real_program_prints(files):
    request = Asked(files.checkpoint, files.tokenizer, prompt=b"The dog", steps=16, temperature=0.8, seed=7)
    within = PortedFault("rope-missing")
    assert within.run(request).stdout == ProcessImplementation(within.manifest).run(request).stdout
