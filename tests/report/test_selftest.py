"""The report of a self-test, from a document written by hand."""

from __future__ import annotations

from harness.report.selftest import markdown, terminal

ALL = ["quick, text", "quick", "full, text", "full"]


def kill(fault, program="numpy", killed_in=ALL, fate="killable", **more):
    facts = {
        "component": "attention",
        "by": ["core/gqa-greedy"] if killed_in else [],
        "took_s": 1.5,
        "obstacle": "",
        "broken": "",
    }
    return {"program": program, "fault": fault, "killed_in": killed_in, "fate": fate, **facts, **more}


def name(route, outcome, names, program="numpy", fault="heads-modulo", **more):
    facts = {"conclusion": "named" if names else outcome, "took_s": 0.5, "problem": "", "component": "attention"}
    parts = {"sees": True, "parts": ["attention"] if names else []}
    return {
        "route": route,
        "program": program,
        "fault": fault,
        "outcome": outcome,
        "names": names,
        **facts,
        **parts,
        **more,
    }


def document(**more):
    return {
        "command": "harness selftest",
        "harness": "1.0",
        "machine": "Linux x86_64",
        "took_s": 600,
        "complete": True,
        "suites": ["core"],
        "configurations": ALL,
        "kills": [
            kill("heads-modulo"),
            kill("norm-sum", killed_in=["full"], took_s=3.0),
            kill("topp-no-cutoff", killed_in=[], fate="equivalent"),
            kill("heads-modulo", "c", killed_in=[], obstacle="cc is not there\nmore"),
        ],
        "arguments": {"topp-no-cutoff": "a | b"},
        "alarms": [
            {
                "program": "gcc -O3",
                "models": "float32",
                "cases": 100,
                "tokens": 100_000,
                "kinds": {"EXACT": 100},
                "ties": 0,
                "alarms": [],
                "diagnoses": 0,
                "accused": [],
                "obstacle": "",
            }
        ],
        "names": [
            name("text", "exact", ["heads-modulo"]),
            name("probes", "sibling", ["heads-first"]),
            name("tracer", "unknown", []),
        ],
        "honest_names": [{"program": "gcc -O3", "route": "probes", "conclusion": "none", "names": []}],
        "missing": [],
        "parts": [{"part": "kills", "n": 4, "took_s": 90, "ended": "2020-02-02T02:02+00:00", "sources": "abc"}],
        "adequacy": {
            "sets": [{"name": "core, quick", "cases": 2, "seconds": 0.5, "kills": 85, "pairs": 1000}],
            "order": [
                {
                    "case": "core/gqa-greedy",
                    "quick": True,
                    "seconds": 0.123,
                    "kills": 90,
                    "new_kills": 90,
                    "kills_in_all": 90,
                    "new_pairs": 4000,
                    "pairs_in_all": 4000,
                }
            ],
            "idle": {"core/mha-n-40": "it stops 3, as others do"},
            "n_faults": 170,
            "n_pairs": 14365,
        },
        **more,
    }


def test_the_page_has_rates_with_their_intervals():
    text = markdown(document(), [])
    assert "| numpy | 2 | 1 (50.0%, 1.3% to 98.7%) |" in text
    assert "| 2 (100.0%, 15.8% to 100.0%) | 2.2 |" in text  # of 1.5 s and 3 s


def test_survivors_are_named_by_configuration():
    text = markdown(document(), [])
    assert "- quick, numpy: `norm-sum`" in text
    assert "- full, numpy" not in text


def test_what_cannot_be_seen_has_its_argument():
    assert "| `topp-no-cutoff` | equivalent | nothing | a \\| b |" in markdown(document(), [])


def test_a_program_that_was_not_tried_is_no_survivor():
    text = markdown(document(), [])
    assert "- not tried: c: cc is not there" in text
    assert "c: `heads-modulo`" not in text


def test_false_alarms_have_their_limit():
    assert "100,000 tokens, 0 false alarms: at most 3.0e-05 a token, 3.0e-02 a case" in markdown(document(), [])


def test_what_routes_say_of_honest_programs_is_counted():
    assert "Asked about honest programs, probes said: none 1." in markdown(document(), [])


def test_routes_are_counted_and_their_disagreements_told():
    text = markdown(document(), [])
    assert (
        "| text, numpy | 1 | 1 (100.0%, 2.5% to 100.0%) | 1 (100.0%, 2.5% to 100.0%) | 1 (100.0%, 2.5% to 100.0%) "
        "| 1 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0.5 |" in text
    )
    assert "- numpy, `heads-modulo`: text says heads-modulo; probes says heads-first" in text
    assert "- numpy, `heads-modulo`: text and probes name a bug; tracer unknown" in text
    assert "- text and probes: contradict one another on 1 programs" in text
    assert "- tracer, numpy, `heads-modulo`: unknown" in text
    assert "| numpy, `heads-modulo` | exact | sibling | unknown |" in text
    agreed = document(names=[name("text", "exact", ["a"]), name("probes", "class", ["a", "b"])])
    assert "No two routes disagree." in markdown(agreed, [])
    assert "| numpy, `heads-modulo` | exact | class of 2 |" in markdown(agreed, [])


def test_what_a_route_takes_for_what():
    rows = [name("probes", "exact", ["heads-modulo"])] * 2
    rows += [
        name("probes", "wrong", ["norm-sum"], parts=["normalisation"]),
        name("probes", "wrong", ["x", "y"], parts=["cache", "loading"]),
        name("probes", "unknown", [], component="cache"),
        name("probes", "none", [], sees=False),
    ]
    text = markdown(document(names=rows), [])
    table = text[text.index("### What probes takes for what") :].splitlines()[2:6]
    assert table == [
        "|  | attention | cache | normalisation | several parts | unknown |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| attention | 2 |  | 1 | 1 |  |",
        "| cache |  |  |  |  | 1 |",
    ]
    assert "- probes, numpy: 1 that it cannot see; named: none" in text


def test_where_the_tracer_sees_the_first_wrong_sub_block():
    true = {"true_place": "attention of layer 0"}
    rows = [
        name("tracer", "exact", ["heads-modulo"], place="attention of layer 0", **true),
        name("tracer", "unknown", [], fault="a", place="embedding", **true),
        name("tracer", "none", [], fault="b", place="nothing", **true),
        name("tracer", "refused", [], fault="c", place="refused", problem="mute", **true),
        name("tracer", "none", [], fault="d", place="nothing", true_place="nothing", sees=False),
    ]
    text = markdown(document(names=rows), [])
    assert "- numpy: right 1 (25.0%, 0.6% to 80.6%) of 4, wrong 1, nothing found 1, refused 1" in text
    assert "  - `a`: embedding; it is attention of layer 0" in text
    assert "- tracer, numpy, `c`: refused: mute" in text
    cells = [row.split(" | ")[-1] for row in text[text.index("### By fault") :].splitlines() if "| numpy" in row]
    assert cells == ["right |", "wrong |", "nothing |", "refused |", "- |"]
    assert "first wrong sub-block right in 1 of 4" in terminal(document(names=rows), [])


def test_a_selection_of_cases_has_its_worth_per_second():
    row = "| core, quick | 2 | 0.50 | 85 of 170 (50.0%) | 170.0 | 1,000 of 14,365 (7.0%) | 2,000 |"
    assert row in markdown(document(), [])


def test_the_runs_that_made_it_are_listed_and_what_is_missing():
    text = markdown(document(missing=["alarms", "kills: 3 of 9 programs"]), [])
    assert "| kills | 4 | 1.5 | 2020-02-02T02:02+00:00 | `abc` |" in text
    assert "Not measured: alarms; kills: 3 of 9 programs." in text


def test_a_case_that_adds_nothing_has_its_reason():
    text = markdown(document(), [])
    assert "| core/gqa-greedy | yes | 0.12 | 90 | 90 | 90 | 4,000 | 4,000 |" in text
    assert "- `core/mha-n-40` adds nothing to these: it stops 3, as others do" in text


def test_what_falls_short_comes_first():
    text = markdown(document(), ["numpy: quick stops 1 of 2"])
    assert text.index("- **falls short**: numpy: quick stops 1 of 2") < text.index("## Kill rates")


def test_a_part_that_was_not_measured_is_left_out():
    text = markdown(document(alarms=[], names=[], honest_names=[], adequacy=None), [])
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Kill rates",
        "## By part of a program",
        "## What passes",
        "## What cannot be seen",
        "## Runs",
    ]


def test_every_row_of_a_table_has_as_many_cells_as_its_heading():
    width = 0
    for line in markdown(document(), []).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = line.replace("\\|", "").count("|")
        width = width or cells
        assert cells == width, line


def test_a_screenful():
    text = terminal(document(), ["numpy: too few"])
    assert text.splitlines() == [
        "numpy: of 2 bugs that show, `harness check` stops 1 by quick (text alone), 1 by quick, "
        "1 by full (text alone), 2 by full",
        "  quick (text alone) lets pass: norm-sum",
        "  quick lets pass: norm-sum",
        "  full (text alone) lets pass: norm-sum",
        "seconds per kill: median 2.2, most 3.0",
        "not tried: c: cc is not there",
        "honest programs, float32: 1 of them, 100,000 tokens, 0 false alarms "
        "(at most 3.0e-05 a token, with 95 % confidence)",
        "what `harness check` says, from what was printed: of 1 bugs that it can see 1 named alone",
        "`harness probe`, by self-naming checkpoints: of 1 bugs that it can see 1 another of the same part",
        "`harness trace`, from text alone: of 1 bugs that it can see 1 unknown",
        "FALLS SHORT: numpy: too few",
    ]


def test_an_interrupted_one_says_so():
    assert terminal(document(complete=False), []).endswith(
        "interrupted: this is what had been measured; with --out and --resume it would go on\n"
    )
