"""Who runs when: long and short tasks side by side, results that are not held up, many tasks, leases that move."""

import os
import time

import pytest

import shoal
from marks import Marks, until


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


@shoal.remote
def identity(value):
    return value


def test_a_result_does_not_wait_for_the_long_task_behind_it(shoal_session, marks):
    """The function is known to be short, so tasks of it are sent ahead; one of them is long all the same."""

    @shoal.remote
    def work(number):
        if number == 3:
            marks.wait("seen")
        return number

    shoal.get([work.remote(0) for _ in range(200)])
    refs = [work.remote(number) for number in range(10)]
    others = refs[:3] + refs[4:]
    # Those before it at its worker are answered, and those behind it run elsewhere, while it waits for us.
    assert shoal.get(others, timeout=60) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    marks.add("seen")
    assert shoal.get(refs[3]) == 3


def test_tasks_behind_a_task_that_blocks_run_elsewhere(shoal_session, marks):
    @shoal.remote
    def work(number):
        if number == 0:
            shoal.get(shoal.remote(max_retries=0)(marks.wait).remote("go"))
        return number

    shoal.get([work.remote(1) for _ in range(200)])
    refs = [work.remote(number) for number in range(40)]
    assert shoal.get(refs[1:], timeout=60) == list(range(1, 40))
    marks.add("go")
    assert shoal.get(refs[0]) == 0


def test_long_and_short_tasks_mixed(shoal_session):
    @shoal.remote
    def work(number):
        if number % 50 == 0:
            time.sleep(0.02)
        return number

    assert shoal.get([work.remote(number) for number in range(1000)], timeout=60) == list(range(1000))


def test_both_cpus_are_used(shoal_session, marks):
    @shoal.remote
    def meet(name):
        marks.add(name)
        marks.wait(name, 2)
        return os.getpid()

    for number in range(3):
        assert len(set(shoal.get([meet.remote(f"m{number}") for _ in range(2)], timeout=60))) == 2


def test_a_task_of_another_shape_gets_its_turn(shoal_session):
    """Thousands of small tasks do not keep one that needs both CPUs from running."""

    @shoal.remote
    def small(number):
        time.sleep(0.001)
        return number

    smalls = [small.remote(number) for number in range(6000)]
    assert shoal.get(identity.options(num_cpus=2).remote("large"), timeout=60) == "large"
    _, unfinished = shoal.wait(smalls, num_returns=len(smalls), timeout=0)
    assert unfinished  # it did not just wait for their end
    for ref in unfinished:
        shoal.cancel(ref)


def test_100_000_queued_tasks(shoal_session, marks):
    @shoal.remote
    def after(gate, number):
        return number

    gate = shoal.remote(marks.wait).remote("go")
    refs = [after.remote(gate, number) for number in range(50_000)]
    refs += [identity.remote(number) for number in range(50_000)]
    marks.add("go")
    assert shoal.get(refs, timeout=100) == [*range(50_000), *range(50_000)]


def test_wait_takes_them_as_they_come(shoal_session, marks):
    @shoal.remote
    def work(number):
        marks.wait(f"go{number}")
        return number

    refs = [work.options(num_cpus=0).remote(number) for number in range(4)]
    rest = refs
    for number in (2, 0, 3, 1):
        marks.add(f"go{number}")
        ready, rest = shoal.wait(rest)
        assert ready == [refs[number]]
    assert rest == []


def test_leases_go_back_after_the_work(shoal_session):
    shoal.get([identity.remote(number) for number in range(100)])
    until(lambda: shoal.available_resources().get("CPU") == 2)
