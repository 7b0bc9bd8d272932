"""Programs that would be fast by lying, each of which gets a greedy text right first: none of them has a row."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from harness.adapters.in_process import InProcess
from harness.adapters.manifest import Manifest
from harness.bench.measure import measure
from harness.bench.run import Group
from harness.bench.workload import Workload, find, make_synthetic
from harness.cli.bench_verify import Verifier
from harness.conformance.reference import Reference
from harness.engine import Engine, generate
from harness.model_config import ModelConfig
from harness.models import load
from harness.results import Kind, Observation
from tests.bench.fakes import World

SHAPE = ModelConfig(32, 48, 3, 4, 2, 400, 128)


class Port(InProcess):
    """An honest port on a fake clock; subclasses do less work than they claim."""

    token_s = 0.002
    start_s = 0.05

    def __init__(self, world):
        self.world = world
        self.manifest = Manifest(
            path=Path("impl.toml"),
            name=type(self).__name__,
            formats=("llama2c-v0", "huggingface"),
            run=("run", "{model}", "{prompt}", "{temperature}"),
        )
        self.n_runs = 0

    def tensors(self, model):
        return model.checkpoint.config, model.checkpoint.tensors

    def tokens(self, model, ids, steps):
        config, tensors = self.tensors(model)
        engine = Engine(config, tensors, dtype=np.float32)
        return list(generate(engine, ids, steps=steps, stop=model.vocabulary.stop_ids))

    def claim(self, n, text, work_s):
        return n / work_s

    def delays(self, steps):
        """Seconds that it sleeps and that it is busy with nothing before it begins."""
        return 0.0, 0.0

    def run(self, request, limits=None):
        self.n_runs += 1
        model = load(request.model, request.tokenizer)
        ids = model.vocabulary.encode(request.prompt)
        out = self.tokens(model, ids, request.steps)
        text = model.vocabulary.print_text([ids[0], *out]) + b"\n"
        work_s = self.token_s * len(out)
        idle_s, busy_s = self.delays(request.steps)
        wall_s = self.start_s + idle_s + busy_s + work_s
        self.world.spend(wall_s, work_s + busy_s)
        return Observation(
            ("port",),
            "",
            text,
            wall_s=wall_s,
            first_byte_s=self.start_s + idle_s + busy_s + self.token_s * len(ids),
            cpu_s=work_s + busy_s,
            peak_rss_bytes=1,
            reported_tps=self.claim(len(out), text, work_s),
        )


class Honest(Port):
    pass


class SkipsTheLastLayer(Port):
    """From its third run on, when it has been seen to be right."""

    def tensors(self, model):
        config, tensors = super().tensors(model)
        return (config if self.n_runs <= 2 else dataclasses.replace(config, n_layers=2)), tensors


class ServesCannedText(Port):
    """Prints for every prompt what it found out for the first one."""

    canned = None

    def tokens(self, model, ids, steps):
        if self.canned is None or self.n_runs <= 2:
            self.canned = super().tokens(model, ids, 100)
        return [*ids[1:], *self.canned[len(ids) - 1 : steps]][:steps]


class RepeatsTokens(Port):
    """Computes every second token."""

    def tokens(self, model, ids, steps):
        out = super().tokens(model, ids, steps)
        if self.n_runs <= 2:
            return out
        n = len(ids) - 1
        return [*out[:n], *[token for token in out[n:] for _ in range(2)]][:steps]


class CountsCharactersAsSteps(Port):
    """Stops when it has printed as many characters as it was asked for tokens."""

    def tokens(self, model, ids, steps):
        n = len(ids) - 1
        return super().tokens(model, ids, steps if self.n_runs <= 2 else n + (steps - n) // 4)


class SleepsInStartUp(Port):
    """Begins short runs late, so that the longer one seems to take hardly longer."""

    def delays(self, steps):
        return (0.2 if self.n_runs > 2 and steps < 30 else 0.0), 0.0


class SpinsInStartUp(Port):
    """The same, but busy, so that its processor time gives nothing away."""

    def delays(self, steps):
        return 0.0, (0.2 if self.n_runs > 2 and steps < 30 else 0.0)


class StartsLate(Port):
    """Sleeps before every run: it is slow to start, and no faster for it."""

    start_s = 3.0


class ClaimsCharacters(Port):
    """Does all the work, and calls characters tokens."""

    def claim(self, n, text, work_s):
        return len(text) / work_s


@pytest.fixture
def work(tmp_path):
    files = make_synthetic("small", SHAPE, directory=tmp_path)
    return Workload("small", "f32", files, SHAPE, is_synthetic=True)


def bench(work, *ports, rounds=2):
    world = ports[0].world
    verifier = Verifier()
    group = Group(work, 1, tuple((port, work.files) for port in ports))
    return measure([group], verify=verifier, rounds=rounds, n_cpus=2, clock=world.clock, look=world.look, seed=3)


@pytest.mark.parametrize("liar", [SkipsTheLastLayer, ServesCannedText, RepeatsTokens, CountsCharactersAsSteps])
def test_a_liar_has_no_row_beside_an_honest_port(work, liar):
    world = World()
    outcome = bench(work, Honest(world), liar(world))
    assert [row.key.impl for row in outcome.rows] == ["Honest"]
    (absent,) = outcome.absent
    assert absent.key.impl == liar.__name__
    assert not Kind(absent.kind).is_green
    warm = [s for s in outcome.samples if s.key.impl == liar.__name__ and s.round < 0]
    assert [s.verdict for s in warm] == ["EXACT", "EXACT"]


def test_a_model_with_a_byte_level_vocabulary_is_judged_likewise():
    world = World()
    outcome = bench(find("llama3"), Honest(world), SkipsTheLastLayer(world), rounds=1)
    assert [row.key.impl for row in outcome.rows] == ["Honest"]
    assert {s.verdict for s in outcome.samples if s.key.impl == "Honest"} == {"EXACT"}
    assert [absent.key.impl for absent in outcome.absent] == ["SkipsTheLastLayer"]


@pytest.mark.parametrize(
    ("liar", "reason"), [(SleepsInStartUp, "short runs idle"), (SpinsInStartUp, "short runs are delayed")]
)
def test_short_runs_that_begin_late_are_not_believed(work, liar, reason):
    world = World()
    outcome = bench(work, Honest(world), liar(world))
    assert [row.key.impl for row in outcome.rows] == ["Honest"]
    (absent,) = outcome.absent
    assert (absent.key.impl, absent.kind) == (liar.__name__, "UNBELIEVED")
    assert reason in absent.reason
    assert {s.verdict for s in outcome.samples} == {"EXACT"}  # its texts are right, all the time


def test_sleeping_before_every_run_changes_no_speed_and_shows_as_loading(work):
    world = World()
    honest, late = bench(work, Honest(world), StartsLate(world)).rows
    assert late.decode_tps == pytest.approx(honest.decode_tps)
    assert late.load_s.value == pytest.approx(honest.load_s.value + 2.95)


def test_claiming_characters_changes_no_speed_and_is_told(work):
    world = World()
    (row,) = bench(work, ClaimsCharacters(world)).rows
    assert row.decode_tps == pytest.approx(500)
    assert row.claim.endswith("counts characters")


def test_texts_of_a_round_are_judged_in_one_pass(work, monkeypatch):
    world = World()
    passes = []
    judge = Reference.judge
    monkeypatch.setattr(Reference, "judge", lambda self, s, first: passes.append(len(s)) or judge(self, s, first))
    bench(work, Honest(world), Port(world), rounds=3)
    assert passes == [1, 2, 2, 2]  # the warm-up's prompt, then the two prompts of each round, whoever ran them


def test_tokens_are_counted_by_the_judge_and_not_by_the_program(work):
    world = World()
    outcome = bench(work, Honest(world))
    assert {(s.run, s.n_generated) for s in outcome.samples if s.round >= 0} == {
        ("short", 8),
        ("long", 120),
        ("prompt", 8),
    }
