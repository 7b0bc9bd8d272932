"""What keeps a self-test from passing, on documents written by hand."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from harness.conformance.selftest.alarms import Batch, Judged
from harness.conformance.selftest.kills import Outcome
from harness.conformance.selftest.record import SCHEMA, alarm_rows, kill_row, killers, read
from harness.conformance.selftest.run import Subject
from harness.conformance.selftest.shortfalls import shortfalls, survivors
from harness.diagnosis import by_name
from harness.errors import InputError

ALL = ("quick, text", "quick", "full, text", "full")


def row(fault="heads-modulo", program="numpy", killed_in=ALL, **more):
    by = ["core/gqa-greedy"] if killed_in else []
    facts = {"fate": by_name(fault).fate.value, "obstacle": "", "broken": ""}
    return {"program": program, "fault": fault, "killed_in": list(killed_in), "by": by, **facts, **more}


def document(*kills, alarms=(), names=(), is_whole=True):
    whole = list(dict.fromkeys(row["program"] for row in (*kills, *names))) if is_whole else []
    rest = {"names": list(names), "honest_names": [], "whole": whole, "whole_names": whole}
    return {"kills": list(kills), "alarms": list(alarms), **rest}


def name(outcome, *names, route="probes", fault="heads-modulo", program="c", **more):
    facts = {"conclusion": "named" if names else outcome, "sees": True, "names": list(names), "outcome": outcome}
    return {"route": route, "program": program, "fault": fault, **facts, **more}


def alarm(models="float32", cases=100, wrong=0, accused=()):
    alarms = [["case-1", "MISMATCH", "token 7 is wrong\nmore", "run.sh"]] * wrong
    return {"program": "gcc -O3", "models": models, "cases": cases, "alarms": alarms, "accused": list(accused)}


def test_all_stopped_and_nobody_accused_passes():
    assert shortfalls(document(row(), row("norm-sum"), alarms=[alarm()]), document(row())) == []


def test_a_fault_that_is_no_longer_stopped_where_it_was():
    found = shortfalls(document(row(killed_in=("full",)), is_whole=False), document(row()))
    assert found == ["numpy+heads-modulo: no longer stopped in quick, text; quick; full, text"]


def test_a_fault_that_passes_everything_counts_without_a_record():
    (found,) = shortfalls(document(row(killed_in=()), row("norm-sum"), is_whole=False), None)
    assert found == "numpy: full stops 1 of 2, 100% are wanted; it lets pass heads-modulo"


def test_the_quick_bar_is_for_whole_runs():
    rows = [row(), row("norm-sum", killed_in=("full",))]
    (found,) = shortfalls(document(*rows), None)
    assert found.startswith("numpy: quick stops 1 of 2, 95% are wanted")
    assert shortfalls(document(*rows, is_whole=False), None) == []


def test_one_of_twenty_may_pass_the_quick_cases():
    names = ["heads-modulo", "heads-first", "norm-sum", "rope-missing", "ffn-relu"]
    rows = [row(name, program) for name in names for program in ("a",)]
    many = [row(name, "a") for name in names] * 4
    many[0] = row(killed_in=("full",), program="a")
    assert shortfalls(document(*many), None) == []
    assert shortfalls(document(many[0], *rows[1:]), None) != []


def test_a_fault_that_computes_the_right_function_and_is_stopped():
    (found,) = shortfalls(document(row("topp-no-cutoff")), None)
    assert found == "numpy+topp-no-cutoff: computes the same function, and core/gqa-greedy calls it wrong"


def test_a_program_that_is_not_built_fails_and_a_missing_tool_does_not():
    broken = row(program="c", killed_in=(), broken="error: ;\nmore")
    assert shortfalls(document(broken), None) == ["c+heads-modulo: was not built: error: ;"]
    assert shortfalls(document(row(program="c", killed_in=(), obstacle="no compiler")), document(row())) == []


def test_a_false_alarm_fails():
    (found,) = shortfalls(document(row(), alarms=[alarm(wrong=1)]), None)
    assert found == "gcc -O3 on float32 models: false alarm: case-1: MISMATCH: token 7 is wrong"


def test_many_false_alarms_are_counted():
    found = shortfalls(document(row(), alarms=[alarm(wrong=10)]), None)
    assert len(found) == 4
    assert found[-1] == "gcc -O3 on float32 models: 7 more false alarms"


@pytest.mark.parametrize(("wrong", "passes"), [(1, True), (2, False)])
def test_of_a_lower_precision_one_case_in_a_hundred_may_fail(wrong, passes):
    assert (shortfalls(document(row(), alarms=[alarm("lower precision", wrong=wrong)]), None) == []) == passes


def test_nobody_honest_may_be_accused():
    (found,) = shortfalls(document(row(), alarms=[alarm("lower precision", accused=["heads-modulo"])]), None)
    assert found == "gcc -O3: an honest program is accused of heads-modulo"


def test_a_route_that_accuses_an_honest_program_fails():
    said = {"program": "gcc -O3", "route": "probes", "names": ["norm-sum"]}
    found = shortfalls({**document(row()), "honest_names": [said, {**said, "names": []}]}, None)
    assert found == ["gcc -O3: probes accuses an honest program of norm-sum"]


def test_what_was_named_is_named_again():
    before = document(names=[name("class", "heads-modulo", "heads-first"), name("unknown", fault="norm-sum")])

    def found(*rows):
        return shortfalls(document(names=rows, is_whole=False), before)

    assert found(name("exact", "heads-modulo"), name("unknown", fault="norm-sum")) == []
    assert found(name("unknown")) == ["c+heads-modulo: probes said heads-modulo, heads-first, and now unknown"]
    (wider,) = found(name("class", "heads-modulo", "heads-first", "norm-sum"))
    assert wider.endswith("and now heads-modulo, heads-first, norm-sum")


def test_probes_and_tracer_may_name_no_other_bug():
    for row in (name("sibling", "heads-first"), name("wrong", "norm-sum"), name("wrong", "norm-sum", sees=False)):
        (found,) = shortfalls(document(names=[row], is_whole=False), None)
        assert found.startswith("c+heads-modulo: probes names another bug: ")
    assert shortfalls(document(names=[name("wrong", "norm-sum", route="text")], is_whole=False), None) == []


def test_the_bars_of_names_are_for_programs_that_were_asked_about_wholly():
    rows = [name("exact", "heads-modulo")] * 8 + [name("class", "heads-modulo", "heads-first")] * 2
    (found,) = shortfalls(document(names=rows), None)
    assert found == "c: probes names 8 of 10 alone, 85% are wanted"
    assert shortfalls(document(names=rows, is_whole=False), None) == []
    unseen = [name("none", sees=False)] * 5
    assert shortfalls(document(names=[*rows[:8], *rows[8:9], *unseen]), None) == []  # 8 of 9


def test_a_place_is_found_where_it_was_found():
    right = name(
        "exact", "heads-modulo", route="tracer", place="attention of layer 0", true_place="attention of layer 0"
    )
    wrong = {**right, "place": "embedding"}
    (found,) = shortfalls(document(names=[wrong], is_whole=False), document(names=[right]))
    assert found == "c+heads-modulo: tracer no longer finds its place, attention of layer 0"
    assert shortfalls(document(names=[wrong]), None) == ["c: tracer finds the place of 0 of 1, 95% are wanted"]


def test_who_does_not_declare_a_lower_precision_may_be_called_wrong_but_not_accused():
    wrong = Judged("b", Batch("gqa", 0), 6, 10, Counter(MISMATCH=6), 0, (("x", "MISMATCH", "", ""),) * 6, 1)
    (found,) = alarm_rows([wrong], undeclared=["b"])
    assert (found["models"], found["alarms"], found["diagnoses"]) == ("lower precision, undeclared", [], 1)
    assert shortfalls(document(row(), alarms=[found]), None) == []


def test_survivors_are_the_killable_ones_that_were_tried():
    rows = [
        row(killed_in=("full",)),
        row("norm-sum"),
        row("topp-no-cutoff", killed_in=()),
        row("ffn-relu", killed_in=(), obstacle="no compiler"),
        row("ffn-relu", "c", killed_in=()),
    ]
    assert survivors(rows, "numpy", "quick") == ["heads-modulo"]
    assert survivors(rows, "numpy", "full") == []
    assert survivors(rows, "c", "full") == ["ffn-relu"]


def test_a_row_has_what_the_outcome_says():
    subject = Subject("c", by_name("heads-modulo"), lambda: None)
    found = kill_row(subject, Outcome("c", "heads-modulo", ALL, ("core/gqa-greedy",), ("MISMATCH",), 1.23456))
    assert (found["component"], found["fate"], found["took_s"]) == ("attention", "killable", 1.235)
    assert killers(document(found)) == {"c+heads-modulo": ("quick, text", "core/gqa-greedy")}
    assert json.loads(json.dumps(found)) == found


def test_alarms_are_added_up_by_program_and_kind_of_model():
    one = Judged("a", Batch("gqa", 0), 24, 1000, Counter(EXACT=24))
    two = Judged("a", Batch("mha", 0), 24, 500, Counter(EXACT=23, MISMATCH=1), 2, (("x", "MISMATCH", "", ""),))
    int8 = Judged("a", Batch("gqa-q8", 0), 24, 10, Counter(TIE=24))
    low = Judged("b", Batch("gqa", 0), 24, 10, Counter(WITHIN=24))
    rows = alarm_rows([one, two, int8, low], rounded=["b"])
    assert [(r["program"], r["models"], r["cases"], r["tokens"]) for r in rows] == [
        ("a", "float32", 48, 1500),
        ("a", "int8", 24, 10),
        ("b", "lower precision", 24, 10),
    ]
    assert rows[0]["kinds"] == {"EXACT": 47, "MISMATCH": 1}
    assert (rows[0]["ties"], len(rows[0]["alarms"])) == (2, 1)


@pytest.mark.parametrize("content", ["", "[]", '{"schema": "other/1"}', "{"])
def test_what_is_no_document_is_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError):
        read(path)


def test_a_document_that_is_absent_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "x.json")


def test_a_document_is_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"schema": SCHEMA, **document(row())}))
    assert killers(read(path)) == {"numpy+heads-modulo": ("quick, text", "core/gqa-greedy")}
