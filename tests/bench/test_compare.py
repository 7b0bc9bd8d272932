"""Two benchmarks compared, what is refused, and the files that hold them."""

import dataclasses
import random

import pytest

from harness import benchfile
from harness.bench import compare
from harness.bench.measure import measure
from harness.bench.roofline import Probes
from harness.bench.run import Group
from harness.bench.stats import Result
from harness.benchfile import BenchWriter, Header, Key, ModelFacts
from harness.errors import InputError, RunFileError
from tests.bench.fakes import FILES, TINY, Program, World, verify

HEAD = Header(
    "0",
    {"cpu": "one", "n_cpus": 2},
    {"tiny f32": ModelFacts("a" * 64, "b" * 64, True, 1000, 10)},
    {"a": "1" * 64, "b": "2" * 64},
    {"seed": 1},
)


def bench(path, *, head=HEAD, rounds=15, seed=1, read=1e9, others=0.0, noise=0.01, **speeds):
    """Write the run file of a benchmark of programs that take so long for a token."""
    world = World(others=others)
    programs = [Program(world, name, token_s=token_s, noise=noise) for name, token_s in speeds.items()]
    for program in programs:
        program.rng = random.Random(f"{seed} {program.name}")
    group = Group(TINY, 1, tuple((program, FILES) for program in programs))
    with BenchWriter.create(path, head) as writer:
        measure(
            [group],
            verify=verify,
            rounds=rounds,
            seed=seed,
            n_cpus=2,
            clock=world.clock,
            look=world.look,
            record=writer.add,
            probes=Probes(lambda n, threads: (read, read, 1e10, "C")),
        )
        writer.finish()
    return benchfile.read(path)


def results(changes):
    return {c.key.impl: c.comparison.result if c.comparison else c.what for c in changes}


def test_each_row_is_judged_by_itself(tmp_path):
    old = bench(tmp_path / "old", a=0.002, b=0.002)
    new = bench(tmp_path / "new", seed=2, a=0.0026, b=0.002)
    assert results(compare.changes(old, new)) == {"a": Result.SLOWER, "b": Result.SAME}
    assert results(compare.changes(new, old)) == {"a": Result.FASTER, "b": Result.SAME}


def test_lost_and_new_rows_are_told(tmp_path):
    old, new = bench(tmp_path / "old", a=0.002), bench(tmp_path / "new", b=0.002)
    assert results(compare.changes(old, new)) == {"a": compare.NOT_ASKED, "b": "new"}


def test_a_row_that_was_asked_for_and_is_gone_is_worse(tmp_path):
    old, new = bench(tmp_path / "old", a=0.002, b=0.002), bench(tmp_path / "new", b=0.002)
    gone = dataclasses.replace(new, absent=(benchfile.Absent(old.rows[0].key, "MISMATCH", "token 3 is wrong"),))
    change, _ = compare.changes(old, gone)
    assert change.is_worse
    assert change.what == "lost: token 3 is wrong"


def test_a_busy_machine_concludes_nothing(tmp_path):
    old = bench(tmp_path / "old", a=0.002)
    new = bench(tmp_path / "new", a=0.002, seed=2, others=1.6)
    (change,) = compare.changes(old, new)
    assert change.comparison is not None
    assert change.comparison.result is Result.INCONCLUSIVE
    assert "busy during the second" in change.what


def test_a_machine_whose_memory_became_slower_widens_the_interval(tmp_path):
    old = bench(tmp_path / "old", a=0.002)
    new = bench(tmp_path / "new", a=0.0022, seed=2, read=0.8e9)
    assert results(compare.changes(old, new)) == {"a": Result.INCONCLUSIVE}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machine": {"cpu": "another", "n_cpus": 2}}, "its cpu differs"),
        ({"models": {"tiny f32": ModelFacts("c" * 64, "b" * 64, True, 1000, 10)}}, "another one"),
        ({"builds": {"a": "3" * 64, "b": "2" * 64}}, "another build"),
    ],
)
def test_unlike_benchmarks_are_refused(tmp_path, change, words):
    old = bench(tmp_path / "old", a=0.002)
    new = bench(tmp_path / "new", head=dataclasses.replace(HEAD, **change), a=0.002)
    with pytest.raises(InputError, match=words):
        compare.changes(old, new)


def test_other_builds_are_compared_when_asked_for(tmp_path):
    old = bench(tmp_path / "old", a=0.002)
    new = bench(tmp_path / "new", head=dataclasses.replace(HEAD, builds={"a": "3" * 64}), a=0.002, seed=2)
    assert results(compare.changes(old, new, other_builds=True)) == {"a": Result.SAME}


def test_programs_of_one_benchmark_are_compared_by_pairs(tmp_path):
    run = bench(tmp_path / "run", a=0.002, b=0.001)
    found = compare.against(run.samples, Key("tiny", "f32", 1, "a"))
    (comparison,) = found.values()
    assert comparison.result is Result.FASTER
    assert comparison.ratio == pytest.approx(2, rel=0.05)


# ---- the file


def test_a_file_cut_short_anywhere_keeps_its_whole_records_and_is_not_complete(tmp_path):
    whole = bench(tmp_path / "run", rounds=2, a=0.002)
    content = (tmp_path / "run").read_bytes()
    first = content.index(b"\n") + 1
    for end in (first, first + 1, len(content) // 2, len(content) - 1):
        (tmp_path / "cut").write_bytes(content[:end])
        cut = benchfile.read(tmp_path / "cut")
        assert cut.samples == whole.samples[: len(cut.samples)]
        assert cut.complete == (end == len(content) - 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}\n",
        b'{"record": "header", "command": "check"}\n',
        b"\xff\n",
        b'{"record": "header", "command": "bench"\n',
    ],
)
def test_what_is_no_benchmark_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(RunFileError):
        benchfile.read(tmp_path / "x")


def test_damage_within_is_refused_with_its_line(tmp_path):
    bench(tmp_path / "run", rounds=1, a=0.002)
    lines = (tmp_path / "run").read_bytes().splitlines(keepends=True)
    lines[2] = b'{"record": "sample"}\n'
    (tmp_path / "run").write_bytes(b"".join(lines))
    with pytest.raises(RunFileError, match="line 3"):
        benchfile.read(tmp_path / "run")


def test_a_file_that_is_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFileError, match="no run file"):
        BenchWriter.create(tmp_path / "thesis.txt", HEAD)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
