"""Independent jobs: order, exceptions, cancellation."""

import threading
import time

import pytest

from harness.jobs import run_jobs


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_results_come_in_the_order_of_the_items(jobs):
    def slow_first(n: int) -> int:
        time.sleep(0.02 if n == 0 else 0)
        return n * n

    assert list(run_jobs(slow_first, range(20), jobs=jobs)) == [(n, n * n) for n in range(20)]


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_items_give_no_results(jobs):
    assert list(run_jobs(str, [], jobs=jobs)) == []


def test_none_is_a_result_like_any_other():
    assert list(run_jobs(lambda n: None, range(3), jobs=2)) == [(0, None), (1, None), (2, None)]


def test_two_jobs_run_at_the_same_time():
    both = threading.Barrier(2, timeout=5)
    assert [n for n, _ in run_jobs(lambda n: both.wait(), [1, 2], jobs=2)] == [1, 2]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_exception_reaches_the_caller_and_stops_what_has_not_begun(jobs):
    begun = []

    def work(n: int) -> int:
        begun.append(n)
        if n == 1:
            raise KeyError("job 1")
        time.sleep(0.005)
        return n

    with pytest.raises(KeyError, match="job 1"):
        list(run_jobs(work, range(50), jobs=jobs))
    assert len(begun) < 10


def test_closing_the_iterator_starts_no_further_job():
    begun = []
    results = run_jobs(lambda n: begun.append(n) or time.sleep(0.01), range(100), jobs=2)
    next(results)
    results.close()
    time.sleep(0.05)
    assert len(begun) < 10


def test_fewer_than_one_job_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        run_jobs(str, [1], jobs=0)
