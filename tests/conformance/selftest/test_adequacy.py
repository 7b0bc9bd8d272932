"""The order in which cases are worth most."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.conformance.case import select
from harness.conformance.selftest.adequacy import greedy, signatures
from harness.diagnosis import Port, Request, by_name, faulted
from harness.diagnosis.probes import first_difference
from harness.models import load, locate


def test_the_case_that_stops_most_per_second_comes_first():
    found = np.array([["a", "a", "a", ""], ["b", "", "", ""], ["", "", "", "c"]])
    assert greedy(found, [10.0, 1.0, 1.0])[0] == [1, 2, 0]  # 3 in 10 s, 1 in 1 s, 1 in 1 s
    assert greedy(found, [1.0, 1.0, 1.0])[0] == [0, 2, 1]  # the second stops nothing new, and tells some apart


def test_when_all_is_stopped_pairs_told_apart_count():
    found = np.array([["a", "a"], ["a", "b"]])
    assert greedy(found, [0.1, 1.0]) == ([0, 1], [])
    assert greedy(found, [1.0, 1.0]) == ([1], [0])  # of two that stop as much, the one that tells more apart


def test_a_case_that_stops_nothing_adds_nothing():
    assert greedy(np.array([["", ""], ["a", "a"]]), [1.0, 1.0]) == ([1], [0])


@given(st.lists(st.lists(st.sampled_from(["", "a", "b"]), min_size=4, max_size=4), min_size=1, max_size=6), st.data())
def test_the_order_loses_nothing(rows, data):
    found = np.array(rows)
    seconds = data.draw(st.lists(st.floats(0.1, 9), min_size=len(rows), max_size=len(rows)))
    order, idle = greedy(found, seconds)
    assert sorted([*order, *idle]) == list(range(len(rows)))
    assert ((found[order] != "").any(axis=0) == (found != "").any(axis=0)).all()
    for i in range(4):
        for j in range(4):
            assert (found[order, i] != found[order, j]).any() == (found[:, i] != found[:, j]).any()


def test_where_a_fault_shows_is_its_signature():
    cases = [case for case in select(["core"]) if case.name in ("gqa-greedy", "mha-greedy")]
    faults = [by_name(name) for name in ("heads-modulo", "heads-first", "size-of-tied-file", "hf-k-by-query-heads")]
    found = dict(zip([case.name for case in cases], signatures(cases, faults), strict=True))
    files = locate("gqa")
    gqa = load(files.checkpoint, files.tokenizer)
    for fault, signature in zip(faults[:2], found["gqa-greedy"], strict=False):
        right, wrong = (port.answer(gqa, Request(steps=64)).ids for port in (Port(), faulted(fault)))
        first = first_difference(wrong, right)
        assert signature == f"tokens {first} {wrong[first]}"
    assert found["gqa-greedy"][2] == ""
    # mha has as many KV heads as heads, and a classifier of its own.
    modulo, first_head, size, rows = found["mha-greedy"]
    assert (modulo, size, rows) == ("", "crash None None", "")
    assert first_head.startswith("tokens ")
