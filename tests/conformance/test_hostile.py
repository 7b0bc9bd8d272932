"""Programs that misbehave, under the judge: each gets its verdict, and the run goes on."""

import sys

import pytest

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.manifest import Manifest
from harness.conformance.case import select
from harness.conformance.check import check
from harness.conformance.verify import verify_group
from harness.models import locate
from harness.results import Kind
from tests.miniatures import MINIATURES


@pytest.fixture(scope="module")
def case():
    (found,) = select(["core"], cases=["gqa-greedy"])
    return found


def implementation(name, command, tmp_path):
    run = (*command, "{temperature}", "{prompt}", "{seed}", "{topp}", "{steps}")
    return ProcessImplementation(Manifest(path=tmp_path / "impl.toml", name=name, run=run))


@pytest.mark.parametrize("miniature", MINIATURES, ids=lambda m: m.name)
def test_a_flawed_program_gets_exactly_the_verdict_of_the_table(miniature, case, tmp_path):
    impl = implementation(miniature.name, miniature.command, tmp_path)
    (verdict,) = verify_group([case], impl, files=locate("gqa"), limits=miniature.limits)
    assert verdict.kind is (miniature.kind or miniature.judged)
    assert verdict.reason
    assert verdict.reproduce


def test_what_comes_after_flawed_programs_is_judged_as_ever(case, tmp_path):
    honest = tmp_path / "honest.py"
    honest.write_text(f"import sys\nsys.stdout.buffer.write({case.stdout!r})\n")
    flawed = [m for m in MINIATURES if m.name in ("hangs", "crashes", "kills_spawner", "mute", "no_interpreter")]
    impls = [implementation(m.name, m.command, tmp_path) for m in flawed]
    impls.append(implementation("honest", [sys.executable, str(honest)], tmp_path))
    kinds = [verdict.kind for (verdict,) in check(impls, [case], time_s=1.5)]
    assert kinds == [*(m.kind for m in flawed), Kind.EXACT]


def test_a_program_that_always_hangs_costs_three_limits_and_no_more(tmp_path):
    cases = select(["core"], models=["gqa"])
    assert len(cases) > 4
    (hangs,) = [m for m in MINIATURES if m.name == "hangs"]
    impl = implementation("hangs", hangs.command, tmp_path)
    kinds = [v.kind for v in verify_group(cases, impl, files=locate("gqa"), limits=hangs.limits)]
    ran = [kind for kind in kinds if kind is not Kind.UNSUPPORTED]
    assert ran == [Kind.TIMED_OUT] * 3 + [Kind.BLOCKED] * (len(ran) - 3)
