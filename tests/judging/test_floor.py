import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judging.floor import MULTIPLE, RUN_QUANTILE, position_floor, run_floor

EXACT = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])


def test_the_floor_is_the_largest_distance_over_members_and_vocabulary():
    one = np.add(EXACT, [[0.0, 0.1, 0.0], [0.0, 0.0, 0.0]])
    other = np.add(EXACT, [[0.0, 0.0, -0.3], [0.2, 0.0, 0.0]])
    assert position_floor(EXACT, [one, other]) == pytest.approx([0.3, 0.2])


def test_without_members_there_is_no_noise():
    assert position_floor(EXACT, []).tolist() == [0.0, 0.0]


def test_float32_members_are_compared_in_float64():
    assert position_floor(np.array([[1 / 3]]), [np.array([[1 / 3]], np.float32)])[0] == pytest.approx(
        9.93e-9, rel=1e-2
    )


def test_a_run_floor_leaves_out_the_rarest_positions():
    distances = np.array([1.0] * 199 + [100.0])
    assert run_floor(distances) < 2.0
    assert run_floor(np.array([])) == 0.0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50))
def test_a_run_floor_is_reached_by_few_positions(distances):
    floor = run_floor(np.array(distances))
    assert sum(d > floor for d in distances) <= np.ceil((1 - RUN_QUANTILE) * len(distances))


def test_two_logits_decide_a_choice_and_each_may_move():
    assert MULTIPLE == 2.0
