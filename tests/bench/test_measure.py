"""Measuring programs whose speed is known with a clock that obeys: slopes, order, budgets, interruptions, lies."""

import dataclasses
import math
import random

import pytest

from harness import benchfile
from harness.bench.measure import Progress, measure
from harness.bench.plan import lengths, prompt_of
from harness.bench.roofline import Probes
from harness.bench.rows import BUSY
from harness.bench.run import Group
from harness.bench.workload import SHAPES
from harness.benchfile import LATE, Absent, Limit, Row, Sample
from harness.errors import Crashed, MissingDependency, TimedOut
from harness.results import Observation
from tests.bench.fakes import CONFIG, FILES, TINY, Program, World, verify


def run(*programs, world, rounds=9, threads=1, **options):
    group = Group(TINY, threads, tuple((program, FILES) for program in programs))
    return measure(
        [group], verify=verify, rounds=rounds, n_cpus=2, clock=world.clock, look=world.look, seed=1, **options
    )


@pytest.fixture
def world():
    return World()


# ---- slopes


def test_speeds_are_slopes_and_start_up_is_what_is_left(world):
    (row,) = run(Program(world, start_s=3.0, prompt_s=0.001, token_s=0.002), world=world).rows
    assert row.decode_tps == pytest.approx(500)
    assert row.prefill_s is not None
    assert row.prefill_s.value == pytest.approx(0.001)
    assert row.load_s.value == pytest.approx(3.0)
    assert row.first_byte_s is not None
    assert row.first_byte_s.value == pytest.approx(3.001)
    assert row.rounds == 9
    assert row.is_synthetic
    assert "synthetic weights" in row.notes


def test_sleeping_in_start_up_changes_no_speed(world):
    fast, sleepy = Program(world, "fast"), Program(world, "sleepy", start_s=5.0)
    rows = run(fast, sleepy, world=world).rows
    assert rows[0].decode_tps == pytest.approx(rows[1].decode_tps)


def test_a_run_whose_start_stalls_is_made_again_and_counts_for_nothing(world):
    program = Program(world, stalls={6: 0.9, 8: 0.9, 9: 0.9})
    outcome = run(program, world=world, rounds=3)
    (row,) = outcome.rows
    assert row.decode_s.low == pytest.approx(0.002) == row.decode_s.high
    assert row.load_s.value == pytest.approx(0.05)
    assert len(program.requests) == 2 + 3 * 3 + 3
    late = [s for s in outcome.samples if s.run.endswith(LATE)]
    assert [(s.first_byte_s, s.verdict) for s in late] == [(pytest.approx(0.951), "EXACT")] * 3
    assert sorted(s.run for s in outcome.samples if s.round == 1 and s not in late) == ["long", "prompt", "short"]


def test_a_start_that_always_stalls_is_made_again_twice_and_the_earliest_counts(world):
    program = Program(world, stalls={n: 0.9 + 0.01 * (n % 3) for n in range(2, 20)})
    outcome = run(program, world=world, rounds=1)
    # The short and the long run three times each, but once that with the long prompt: no other tells that it is late.
    assert len(program.requests) == 2 + 3 + 3 + 1
    for name in ("short", "long"):
        tries = [s for s in outcome.samples if s.round == 0 and s.run.removesuffix(LATE) == name]
        (counted,) = (s for s in tries if s.run == name)
        assert len(tries) == 3
        assert counted.first_byte_s == min(s.first_byte_s for s in tries)


def test_a_program_that_prints_at_its_end_is_not_taken_for_late(world):
    slow = Program(world, "slow", is_buffered=True, stalls={5: 0.9})
    outcome = run(slow, world=world, rounds=3)
    assert len(slow.requests) == 2 + 3 * 3
    assert not [s for s in outcome.samples if s.run.endswith(LATE)]


def test_a_late_run_that_is_wrong_takes_the_row_away_too(world):
    outcome = run(Program(world, stalls={8: 0.9}, wrong_from=2), world=world, rounds=3)
    assert [one.kind for one in outcome.absent] == ["MISMATCH"]


def test_noise_widens_the_interval_and_the_truth_lies_in_it(world):
    (row,) = run(Program(world, noise=0.05), world=world, rounds=40).rows
    assert row.decode_s.low < 0.002 < row.decode_s.high
    assert row.decode_s.high < 1.1 * row.decode_s.low


def test_a_prompt_that_takes_no_time_has_no_prefill_speed(world):
    (row,) = run(Program(world, prompt_s=0.0), world=world).rows
    assert row.prefill_s is None


def test_programs_that_cannot_be_told_from_their_start_up_have_no_row(world):
    outcome = run(Program(world, token_s=0.0), world=world)
    assert not outcome.rows
    assert outcome.absent[0].kind == "UNMEASURED"


def test_memory_is_the_largest_of_all_runs(world):
    (row,) = run(Program(world), world=world).rows
    assert row.peak_rss_bytes == 1000 + lengths(CONFIG).n_long


# ---- rounds


def test_every_round_interleaves_the_programs_in_an_order_of_its_own(world):
    order = []
    a, b = Program(world, "a"), Program(world, "b")
    run(a, b, world=world, rounds=12, record=order.append)
    timed = [one for one in order if isinstance(one, Sample) and one.round >= 0]
    by_round = [[s.key.impl for s in timed if s.round == n] for n in range(12)]
    assert all(sorted(names) == ["a"] * 3 + ["b"] * 3 for names in by_round)
    assert {names[0] for names in by_round} == {"a", "b"}
    assert len({tuple(s.run for s in timed if s.round == n) for n in range(12)}) > 4


def test_prompts_differ_between_rounds_and_agree_between_programs(world):
    a, b = Program(world, "a"), Program(world, "b")
    run(a, b, world=world, rounds=5)
    assert len({r.prompt for r in a.requests}) == 1 + 2 * 5
    assert {r.prompt for r in a.requests} == {r.prompt for r in b.requests}


def test_the_same_seed_asks_the_same(world):
    first, second = Program(world, "a"), Program(world, "a")
    run(first, world=world)
    run(second, world=world)
    assert [r.prompt for r in first.requests] == [r.prompt for r in second.requests]


def test_steps_ask_for_the_prompt_and_the_tokens_within_the_context(world):
    program = Program(world)
    run(program, world=world)
    assert max(r.steps for r in program.requests) <= CONFIG.seq_len
    assert {r.temperature for r in program.requests} == {0.0}


@pytest.mark.parametrize("config", [*SHAPES.values(), dataclasses.replace(CONFIG, seq_len=32)])
def test_run_lengths_fit_into_every_context(config):
    n = lengths(config)
    assert n.n_prompt - 1 + n.n_long <= config.seq_len
    assert n.n_long_prompt - 1 + n.n_short <= config.seq_len
    assert n.n_short < n.n_long
    assert n.n_prompt < n.n_long_prompt


def test_prompts_of_synthetic_models_have_exactly_so_many_ids():
    for n_ids in (1, 3, 8, 100):
        prompt = prompt_of(TINY, n_ids, random.Random(0))
        assert prompt.n_ids == n_ids
        assert len(prompt.text) == max(0, n_ids - 2)


# ---- budgets and interruptions


def test_a_budget_bounds_everything(world):
    slow = Program(world, token_s=0.05)
    outcome = run(slow, world=world, rounds=1000, budget_s=300)
    assert world.now < 330
    assert 0 < outcome.rows[0].rounds < 30


def test_a_small_budget_shortens_the_runs_before_it_drops_rounds(world):
    plenty, little = Program(world, "plenty"), Program(world, "little")
    run(plenty, world=world, rounds=5)
    run(little, world=world, rounds=5, budget_s=6)
    assert max(r.steps for r in little.requests) < max(r.steps for r in plenty.requests)


def test_groups_share_the_budget(world):
    a, b = Program(world, "a", token_s=0.05), Program(world, "b", token_s=0.05)
    groups = [Group(TINY, 1, ((a, FILES),)), Group(TINY, 2, ((b, FILES),))]
    outcome = measure(
        groups, verify=verify, rounds=1000, budget_s=400, clock=world.clock, look=world.look, n_cpus=2, seed=1
    )
    assert [row.key.threads for row in outcome.rows] == [1, 2]
    assert world.now < 450


def test_an_exhausted_budget_says_so(world):
    a, b = Program(world, "a", token_s=5.0), Program(world, "b")
    outcome = run(a, b, world=world, budget_s=10)
    assert [one.reason for one in outcome.absent if one.key.impl == "b"] == ["the budget was used up before its turn"]


def test_an_interruption_keeps_what_was_measured(world):
    program = Program(world, interrupt_after=2 + 3 * 4 + 1)
    kept = []
    outcome = run(program, world=world, record=kept.append)
    assert outcome.interrupted
    assert outcome.rows[0].rounds == 4
    assert outcome.rows[0] in kept


def test_progress_estimates_the_time_that_is_left(world):
    told: list[Progress] = []
    run(Program(world), world=world, rounds=5, progress=told.append)
    left = [p.left_s for p in told if p.left_s is not None]
    assert len(left) == 5
    assert left[0] == pytest.approx(world.now * 4 / 5, rel=0.5)
    assert left == sorted(left, reverse=True)


# ---- who has no row


def test_one_wrong_text_in_a_timed_run_takes_the_row_away(world):
    outcome = run(Program(world, "good"), Program(world, "bad", wrong_from=3), world=world)
    assert [row.key.impl for row in outcome.rows] == ["good"]
    (absent,) = outcome.absent
    assert (absent.key.impl, absent.kind) == ("bad", "MISMATCH")


def test_a_program_that_is_wrong_in_the_warm_up_is_not_timed(world):
    bad = Program(world, wrong_from=-1)
    run(bad, world=world)
    assert len(bad.requests) == 2


def test_a_crash_is_the_reason(world):
    outcome = run(Program(world, failure=Crashed("ended by SIGSEGV", stderr_tail="oh\nno")), world=world)
    assert outcome.absent == [Absent(outcome.absent[0].key, "CRASHED", "ended by SIGSEGV: no")]


def test_a_missing_tool_is_a_skip(world):
    class Toolless(Program):
        def run(self, request, limits=None):
            raise MissingDependency("node", install="pip install it")

    outcome = run(Toolless(world), world=world)
    assert outcome.absent[0].kind == "SKIPPED"
    assert "pip install it" in outcome.absent[0].reason


def test_short_runs_that_idle_are_not_believed(world):
    honest = Program(world, "honest")
    liar = Program(world, "liar", idle_s=0.5)
    outcome = run(honest, liar, world=world)
    assert [row.key.impl for row in outcome.rows] == ["honest"]
    assert outcome.absent[0].kind == "UNBELIEVED"
    assert "idle" in outcome.absent[0].reason


# ---- the machine


def test_the_share_is_of_the_limit_probed_in_the_same_rounds(world):
    speeds = iter([1e9, 2e9, 4e9] * 3)
    outcome = run(Program(world), world=world, probes=Probes(lambda n, threads: (next(speeds), 1e9, 1e12, "C")))
    assert [limit.round for limit in outcome.limits] == list(range(9))
    share = outcome.rows[0].share
    assert share is not None
    assert share.value == pytest.approx(TINY.token_bytes * 500 / 2e9)


def test_more_than_the_limit_is_flagged_and_not_clipped(world):
    (row,) = run(
        Program(world),
        world=world,
        probes=Probes(lambda n, threads: (TINY.token_bytes * 400, TINY.token_bytes * 1000, 1e12, "C")),
    ).rows
    assert row.share is not None
    assert row.share.value == pytest.approx(1.25)
    assert any("125% of the read limit" in note for note in row.notes)
    assert row.product_share is not None
    assert row.product_share.value == pytest.approx(0.5)


def test_a_busy_machine_is_noted(world):
    world.others = 1.5
    (row,) = run(Program(world), world=world).rows
    assert row.is_busy
    assert row.other_cpus == pytest.approx(1.5)
    assert BUSY in row.notes


def test_a_quiet_machine_is_not(world):
    (row,) = run(Program(world), world=world).rows
    assert not row.is_busy


# ---- claims

CLAIMS = {
    "": lambda p, n, s: 500.0,
    "counts the prompt's tokens as well": lambda p, n, s: (p + n - 2) / ((p - 1) * 0.0005 + (n - 1) * 0.002),
    "counts the prompt's time but not its tokens": lambda p, n, s: n / s,
    "counts loading as well": lambda p, n, s: n / (s + 0.4),
    "counts characters": lambda p, n, s: 5 * 500.0,
    "unexplained": lambda p, n, s: 900.0,
}


@pytest.mark.parametrize(("what", "claim"), CLAIMS.items(), ids=lambda x: x if isinstance(x, str) else "")
def test_a_claim_that_is_not_the_measured_speed_is_explained(world, what, claim):
    work = dataclasses.replace(TINY, config=dataclasses.replace(CONFIG, seq_len=64))
    slow_prompt = 0.0005 if what.startswith("counts the prompt's tokens") else 0.004
    program = Program(world, claim=claim, prompt_s=slow_prompt, start_s=0.4)
    group = Group(work, 1, ((program, FILES),))
    (row,) = measure([group], verify=verify, n_cpus=2, clock=world.clock, look=world.look, seed=1).rows
    if what:
        assert row.claim.endswith(what)
    else:
        assert row.claim == ""
    assert row.decode_tps == pytest.approx(500)


def test_a_clock_of_milliseconds_explains_a_claim(world):
    program = Program(world, token_s=1e-5, prompt_s=1e-5, claim=lambda p, n, s: (p + n - 2) / 0.0055)
    (row,) = run(program, world=world).rows
    assert row.claim == "claims -7%: its clock counts milliseconds"


# ---- the run file


def test_every_record_survives_the_run_file(world, tmp_path):
    head = benchfile.Header(
        "0",
        {"cpu": "x", "n_cpus": 2},
        {"tiny f32": benchfile.ModelFacts("a", "b", True, 1, 2)},
        {"fake": "h"},
        {"seed": 1},
    )
    with benchfile.BenchWriter.create(tmp_path / "run.jsonl", head) as writer:
        outcome = run(
            Program(world), world=world, record=writer.add, probes=Probes(lambda n, t: (math.inf, math.inf, 1.0, "C"))
        )
        writer.finish()
    back = benchfile.read(tmp_path / "run.jsonl")
    assert back.complete
    assert back.header == head
    assert list(back.samples) == outcome.samples
    assert list(back.limits) == outcome.limits
    assert list(back.rows) == outcome.rows
    assert {type(one) for one in (*back.samples, *back.limits, *back.rows)} == {Sample, Limit, Row}


# ---- the harness's own share, context lengths, ratios


def test_the_harnesss_share_is_of_what_the_speed_rests_on(world):
    """The fakes say that it took a hundredth of all time, and 3 ms for every run."""
    (row,) = run(Program(world), world=world).rows
    assert row.harness_share == pytest.approx(0.01)


def test_decoding_is_measured_between_context_lengths(world):
    program = Program(world, token_s=0.002)
    (row,) = run(program, world=world, contexts=(64, 256, 2048)).rows
    assert [(at.begin, at.end) for at in row.contexts] == [(15, 64), (64, 256)]
    assert [at.decode_s.value for at in row.contexts] == [pytest.approx(0.002)] * 2
    assert {r.steps for r in program.requests} >= {64, 256}


def test_a_context_that_a_model_stopped_before_counts_for_nothing(world):
    def stops_at_100(work, runs):
        found = verify(work, runs)
        return [dataclasses.replace(c, n_generated=min(c.n_generated, 100)) for c in found]

    group = Group(TINY, 1, ((Program(world), FILES),))
    outcome = measure([group], verify=stops_at_100, contexts=(64, 256, 400), n_cpus=2, clock=world.clock, seed=1)
    assert [(at.begin, at.end) for at in outcome.rows[0].contexts] == [(15, 64)]


def test_ratios_to_float32_and_to_one_thread_stand_in_the_row(world):
    def group(precision, threads, name, token_s):
        work = dataclasses.replace(TINY, precision=precision)
        return Group(work, threads, ((Program(world, name, token_s=token_s), FILES),))

    groups = [
        group("f32", 1, "x", 0.004),
        group("f32", 2, "x", 0.002),
        group("q8", 1, "x-q8", 0.001),
        group("q8", 2, "y-q8", 0.001),
    ]
    rows = measure(groups, verify=verify, n_cpus=2, clock=world.clock, look=world.look, seed=1).rows
    found = [(row.to_fp32 and row.to_fp32.ratio, row.scaling and row.scaling.ratio) for row in rows]
    assert found == [
        (None, None),
        (None, pytest.approx(2)),
        (pytest.approx(4), None),
        (None, None),  # nothing of its own to be compared with
    ]


# ---- models that memory does not hold


@dataclasses.dataclass
class DiskWorld(World):
    """A machine on which every token comes from a disk."""

    disk_bytes: int = 0
    faults: int = 0

    def spend(self, wall_s, cpu_s):
        super().spend(wall_s, cpu_s)
        self.disk_bytes += round(wall_s * 1e9)
        self.faults += round(wall_s * 1000)

    def look(self):
        return dataclasses.replace(super().look(), disk_bytes=self.disk_bytes, major_faults=self.faults)


def test_a_model_that_memory_does_not_hold_is_measured_in_few_tokens_and_says_what_limits_it():
    world = DiskWorld()
    config = dataclasses.replace(SHAPES["7B"], vocab_size=32000)
    work = dataclasses.replace(TINY, name="7B", config=config)
    program = Program(world, token_s=20.0, prompt_s=20.0, start_s=0.0)
    probed = []

    def limits(n_bytes, threads):
        probed.append(n_bytes)
        return 1e10, 1e10, 1e12, "C"

    group = Group(work, 1, ((program, FILES),))
    outcome = measure(
        [group],
        verify=verify,
        rounds=2,
        probes=Probes(limits, lambda: 0.001, lambda path: 2e9),
        n_cpus=2,
        memory_bytes=lambda: 16 << 30,
        clock=world.clock,
        look=world.look,
        seed=1,
    )
    (row,) = outcome.rows
    assert row.decode_s.value == pytest.approx(20)
    assert max(r.steps for r in program.requests) <= 9
    assert len(program.requests) == 1 + 2 * 3  # one run warms up
    assert row.disk_token_bytes == pytest.approx(20e9)
    assert any(
        note == "memory does not hold the model: 20 GB a token from the disk at 1 GB/s, which is 50% of reading the"
        " file in order; 20,000 waits for a page"
        for note in row.notes
    )
    assert set(probed) == {1 << 30}
    assert [limit.disk_bytes_per_s for limit in outcome.limits] == [2e9, 2e9]


def test_a_probe_takes_a_quarter_of_the_memory_at_most(world):
    probed = []

    def limits(n_bytes, threads):
        probed.append(n_bytes)
        return 1e10, 1e10, 1e12, "C"

    group = Group(TINY, 1, ((Program(world), FILES),))
    (row,) = measure(
        [group],
        verify=verify,
        rounds=1,
        probes=Probes(limits),
        memory_bytes=lambda: 2 * TINY.token_bytes,
        n_cpus=2,
        clock=world.clock,
        look=world.look,
    ).rows
    assert probed == [TINY.token_bytes // 2]
    assert row.disk_token_bytes is None


def test_a_run_that_the_budget_ends_costs_no_row_that_was_measured(world):
    class Slowing(Program):
        def run(self, request, limits=None):
            if len(self.requests) == 2 + 3 * 3:
                self.requests.append(request)
                self.world.spend(limits.time_s, 0.0)
                return Observation(("fake",), "", b"", failure=TimedOut("did not end"), wall_s=limits.time_s)
            return super().run(request, limits)

    outcome = run(Slowing(world), world=world, rounds=100, budget_s=60)
    assert outcome.rows[0].rounds == 3
    assert not outcome.absent


def test_a_program_that_hangs_within_the_budget_is_absent(world):
    hung = Program(world, failure=TimedOut("did not end within 600 s"))
    outcome = run(hung, world=world, budget_s=5000)
    assert [one.kind for one in outcome.absent] == ["TIMED_OUT"]


def test_only_models_that_memory_does_not_hold_are_forgotten_before_each_run(world, monkeypatch):
    forgotten = []
    monkeypatch.setattr("harness.bench.run.forget", forgotten.append)
    group = Group(TINY, 1, ((Program(world), FILES),))
    options = {"verify": verify, "rounds": 1, "n_cpus": 2, "clock": world.clock, "look": world.look}
    measure([group], memory_bytes=lambda: 2 * TINY.token_bytes, **options)
    assert not forgotten
    measure([group], memory_bytes=lambda: TINY.token_bytes // 2, **options)
    assert len(forgotten) >= 1 + 2
    assert set(forgotten) == {FILES.checkpoint}
