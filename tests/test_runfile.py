"""The run file: round trips, resumption, and every way of being cut short."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import runfile
from harness.errors import RunFileError
from harness.results import Certificate, Divergence, Kind, Verdict
from harness.runfile import Header, RunWriter, dump_verdict, load_verdict, read

HEADER = Header(
    harness_version="0.1.0",
    impls={"c": "aa", "numpy": "bb"},
    cases={"core/once": "11", "core/twice": "22", "core/thrice": "33"},
    settings={"threads": 1},
    machine={"cpu": "a"},
    started="2024-01-01T00:00:00",
)
WRONG = Verdict(
    case="twice",
    impl="c",
    model="tiny",
    kind=Kind.MISMATCH,
    reason="wrong from step 3 on\u2028 “é” \udcff",
    divergence=Divergence(3, 5, None, 7, math.nan, math.inf, "Once", " upon", "\x00\x1b"),
    certificates=(Certificate(1, 2, 3, -0.0, 1e-300, 0.1),),
    conventions=("prints BOS",),
    suite="core",
    tags=("quick", "gqa"),
)
VERDICTS = [Verdict("once", "c", "tiny", Kind.EXACT, suite="core"), WRONG]


def write(path: Path, verdicts=VERDICTS, *, is_complete: bool = True, header: Header = HEADER) -> bytes:
    with RunWriter.create(path, header) as writer:
        writer.add(verdicts)
        if is_complete:
            writer.finish()
    return path.read_bytes()


def same(a: Verdict, b: Verdict) -> bool:
    """Equality in which nan is nan and -0.0 is not 0.0."""
    return repr(a) == repr(b)


# ---- examples


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path / "run.jsonl")
    run = read(tmp_path / "run.jsonl")
    assert run.header == HEADER
    assert [same(a, b) for a, b in zip(run.verdicts, VERDICTS, strict=True)] == [True, True]
    assert (run.complete, run.damage) == (True, "")


def test_every_line_is_strict_json(tmp_path):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    lines = write(tmp_path / "run.jsonl").splitlines()
    assert [json.loads(line, parse_constant=refuse)["record"] for line in lines] == [
        "header",
        "verdict",
        "verdict",
        "footer",
    ]


def test_without_its_footer_a_run_is_not_complete(tmp_path):
    write(tmp_path / "run.jsonl", is_complete=False)
    run = read(tmp_path / "run.jsonl")
    assert (len(run.verdicts), run.complete) == (2, False)


def test_a_verdict_is_in_the_file_as_soon_as_it_is_added(tmp_path):
    with RunWriter.create(tmp_path / "run.jsonl", HEADER) as writer:
        writer.add(VERDICTS[:1])
        assert len(read(tmp_path / "run.jsonl").verdicts) == 1


def test_resuming_keeps_what_is_there_and_goes_on(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path, VERDICTS[:1], is_complete=False)
    with RunWriter.resume(path, HEADER) as writer:
        assert writer.verdicts == VERDICTS[:1]
        writer.add(VERDICTS[1:])
        writer.finish()
    assert path.read_bytes() == write(tmp_path / "other.jsonl")


def test_resuming_a_complete_run_writes_its_footer_again(tmp_path):
    path = tmp_path / "run.jsonl"
    before = write(path)
    with RunWriter.resume(path, HEADER) as writer:
        assert len(writer.verdicts) == 2
        writer.finish()
    assert path.read_bytes() == before


def test_resuming_where_there_is_nothing_begins(tmp_path):
    with RunWriter.resume(tmp_path / "new" / "run.jsonl", HEADER) as writer:
        assert writer.verdicts == []
    assert read(tmp_path / "new" / "run.jsonl").header == HEADER


def test_another_machine_and_another_hour_are_the_same_run(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path)
    elsewhere = HEADER.model_copy(update={"machine": {"cpu": "b"}, "started": "later"})
    with RunWriter.resume(path, elsewhere) as writer:
        assert len(writer.verdicts) == 2


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"harness_version": "0.2.0"}, "harness_version 0.1.0 is now 0.2.0"),
        ({"impls": {"c": "ab", "numpy": "bb"}}, "impl c has changed"),
        ({"impls": {"c": "aa"}}, "impl numpy is no longer asked for"),
        ({"cases": {**HEADER.cases, "core/more": "44"}}, "case core/more is new"),
        ({"settings": {"threads": 2}}, "setting threads has changed"),
    ],
)
def test_resuming_with_other_inputs_is_refused_with_the_difference(tmp_path, change, difference):
    path = tmp_path / "run.jsonl"
    before = write(path)
    with pytest.raises(RunFileError, match=difference) as caught:
        RunWriter.resume(path, HEADER.model_copy(update=change))
    assert "--resume" in (caught.value.hint or "")
    assert path.read_bytes() == before


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "run.jsonl"
    with RunWriter.create(path, HEADER), pytest.raises(RunFileError, match="another run"):
        RunWriter.create(path, HEADER)


# ---- properties

floats = st.floats(allow_nan=True, allow_infinity=True)
texts = st.text(st.characters(), max_size=20) | st.just("\udc80\n\x00")
ids = st.integers(0, 2**31)
kinds = st.sampled_from(list(Kind))
verdicts = st.builds(
    Verdict,
    case=texts,
    impl=texts,
    model=texts,
    kind=kinds,
    reason=texts,
    tokenizer=st.none() | kinds,
    forward=st.none() | kinds,
    n_judged=ids,
    divergence=st.none()
    | st.builds(Divergence, ids, ids, st.none() | ids, st.none() | ids, floats, floats, texts, texts, texts),
    certificates=st.lists(st.builds(Certificate, ids, ids, ids, floats, floats, floats), max_size=3).map(tuple),
    conventions=st.lists(texts, max_size=3).map(tuple),
    reproduce=texts,
    wall_s=floats,
    peak_rss_bytes=ids,
    reported_tps=st.none() | floats,
    suite=texts,
    tags=st.lists(texts, max_size=3).map(tuple),
)


@given(verdicts)
def test_a_verdict_survives_the_round_trip(verdict):
    line = json.dumps(dump_verdict(verdict), allow_nan=False)
    assert same(load_verdict(json.loads(line)), verdict)


@given(st.lists(verdicts, max_size=3), st.booleans())
def test_a_run_survives_the_round_trip(tmp_path_factory, some, is_complete):
    path = tmp_path_factory.mktemp("run") / "run.jsonl"
    write(path, some, is_complete=is_complete)
    run = read(path)
    assert [repr(v) for v in run.verdicts] == [repr(v) for v in some]
    assert (run.complete, run.damage) == (is_complete, "")


# ---- killed at any instant


def test_killed_at_any_byte_it_loses_at_most_the_record_in_flight(tmp_path):
    path = tmp_path / "run.jsonl"
    whole = write(path)
    line_ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    clean_sizes = {*line_ends, *(end - 1 for end in line_ends)}
    for size in range(len(whole)):
        cut = whole[:size]
        path.write_bytes(cut)
        n_lines = cut.count(b"\n")
        if n_lines == 0 and size < whole.index(b"\n"):
            with pytest.raises(RunFileError):
                read(path)
            continue
        run = read(path)
        assert len(run.verdicts) >= min(n_lines - 1, 2)
        assert not run.complete or size == len(whole) - 1  # only its line's end is missing
        is_clean = size in clean_sizes
        assert bool(run.damage) != is_clean


def test_a_run_cut_at_any_byte_can_be_resumed_to_the_same_file(tmp_path):
    path = tmp_path / "run.jsonl"
    whole = write(path)
    for size in range(0, len(whole) + 1, 3):
        path.write_bytes(whole[:size])
        with RunWriter.resume(path, HEADER) as writer:
            writer.add(VERDICTS[len(writer.verdicts) :])
            writer.finish()
        assert path.read_bytes() == whole


# ---- hostile input


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(RunFileError, match="No such file"):
        read(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"hello\n",
        b"[1]\n",
        b"\xff\xfe\n",
        b'{"record": "verdict"}\n',
        b'{"record": "header"}\n',
        b'{"record": "header", "schema_version": 99}\n',
        b"[" * 100_000 + b"\n",
        b'{"record": "header", "schema_version": ' + b"9" * 5000 + b"}\n",
    ],
)
def test_what_is_no_run_file_is_refused(tmp_path, content):
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(RunFileError):
        read(path)


@pytest.mark.parametrize("number", [2, 3])
def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path, number):
    path = tmp_path / "run.jsonl"
    lines = write(path).splitlines(keepends=True)
    lines[number - 1] = b"{}\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunFileError) as caught:
        read(path)
    assert caught.value.where == f"line {number}"


def test_a_damaged_last_line_is_dropped_and_reported(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path, is_complete=False)
    path.write_bytes(path.read_bytes() + b"\x00" * 40 + b"\n")
    run = read(path)
    assert (len(run.verdicts), run.complete) == (2, False)
    assert "line 4" in run.damage


def test_a_lost_line_is_noticed(tmp_path):
    path = tmp_path / "run.jsonl"
    lines = write(path).splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + lines[3])
    with pytest.raises(RunFileError, match="lost or gained"):
        read(path)


def test_nothing_may_follow_the_footer(tmp_path):
    path = tmp_path / "run.jsonl"
    whole = write(path)
    path.write_bytes(whole + whole.splitlines(keepends=True)[1])
    with pytest.raises(RunFileError, match="after the footer"):
        read(path)


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(runfile, "_MAX_LINE_BYTES", 1000)
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(RunFileError, match="too long"):
        read(path)


@pytest.mark.parametrize("act", [RunWriter.create, RunWriter.resume])
def test_a_file_that_is_no_run_file_is_never_overwritten(tmp_path, act):
    path = tmp_path / "thesis.txt"
    path.write_bytes(b"my thesis")
    with pytest.raises(RunFileError):
        act(path, HEADER)
    assert path.read_bytes() == b"my thesis"


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    with pytest.raises(RunFileError, match="cannot be written"):
        RunWriter.create(tmp_path, HEADER)
