"""joblib on the cluster: results in order, errors, arrays, and how many run at once."""

import os

import joblib
import numpy as np
import pytest

import shoal
from shoal.exceptions import TaskError
from shoal.util.joblib import ShoalBackend, register_ray, register_shoal


@pytest.fixture(autouse=True)
def registered(shoal_session):
    register_shoal()
    register_ray()


def square(number):
    return number * number, os.getpid()


def fail_at(number, limit):
    if number == limit:
        raise KeyError(number)
    return number


@pytest.mark.parametrize("name", ["shoal", "ray"])
def test_results_in_order_of_tasks(name):
    with joblib.parallel_config(name):
        done = joblib.Parallel()(joblib.delayed(square)(number) for number in range(200))
    assert [result for result, _ in done] == [number * number for number in range(200)]
    assert os.getpid() not in {pid for _, pid in done}


def test_results_as_they_come():
    with joblib.parallel_config("shoal", n_jobs=2):
        done = joblib.Parallel(return_as="generator")(joblib.delayed(square)(number) for number in range(20))
        assert [result for result, _ in done] == [number * number for number in range(20)]


def test_arrays_and_closures():
    rows, factor = np.arange(200_000.0), 3
    with joblib.parallel_config("shoal", n_jobs=-1):
        sums = joblib.Parallel()(joblib.delayed(lambda part: (part * factor).sum())(rows) for _ in range(4))
    assert sums == [3 * rows.sum()] * 4


def test_the_first_error_is_raised_and_the_next_run_is_whole():
    with joblib.parallel_config("shoal", n_jobs=2):
        with pytest.raises(KeyError) as caught:
            joblib.Parallel()(joblib.delayed(fail_at)(number, 7) for number in range(100))
        assert isinstance(caught.value, TaskError)
        assert joblib.Parallel()(joblib.delayed(fail_at)(number, None) for number in range(50)) == list(
            range(50)
        )


def test_within_a_task():
    @shoal.remote
    def inner():
        register_shoal()
        with joblib.parallel_config("shoal", n_jobs=2):
            return joblib.Parallel()(joblib.delayed(fail_at)(number, None) for number in range(5))

    assert shoal.get(inner.remote()) == list(range(5))


def test_numbers_of_jobs():
    backend = ShoalBackend()
    assert [backend.effective_n_jobs(number) for number in (None, 1, 5, -1, -2, -9)] == [1, 1, 5, 2, 1, 1]
    with pytest.raises(ValueError, match="not 0"):
        backend.effective_n_jobs(0)
