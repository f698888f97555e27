"""Cancelling tasks in every state they can be in: queued, waiting, running (in loops, sleeps, waits, compiled code), over."""

import os
import signal
import time

import numpy as np
import psutil
import pytest

import shoal
from marks import Marks, until
from shoal.exceptions import TaskCancelledError


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


@shoal.remote
def identity(value):
    return value


def assert_cancelled(ref):
    with pytest.raises(TaskCancelledError):
        shoal.get(ref, timeout=60)


def assert_workers_work():
    assert shoal.get([identity.remote(i) for i in range(20)], timeout=60) == list(range(20))


@pytest.fixture
def busy(shoal_session, marks):
    """Both CPUs are taken by tasks that end when the test does."""

    @shoal_session.remote
    def hold():
        marks.add("held")
        marks.wait("release")

    holding = [hold.remote() for _ in range(2)]
    marks.wait("held", 2)
    yield
    marks.add("release")
    shoal_session.get(holding)


# --- not running yet ---


def test_a_queued_task_never_runs(busy, marks):
    @shoal.remote
    def never():
        marks.add("never")

    refs = [never.remote() for _ in range(5)]
    for ref in refs:
        shoal.cancel(ref)
        assert_cancelled(ref)
    marks.add("release")
    assert_workers_work()
    assert marks.count("never") == 0


def test_a_task_that_waits_for_arguments_and_what_depends_on_it(busy, marks):
    @shoal.remote
    def never(_):
        marks.add("never")

    source = identity.remote(1)
    waiting = never.remote(source)
    dependent = never.remote(waiting)
    shoal.cancel(waiting)
    assert_cancelled(waiting)
    assert_cancelled(dependent)
    marks.add("release")
    assert shoal.get(source) == 1
    assert marks.count("never") == 0


def test_tasks_that_were_sent_ahead_to_a_busy_worker(shoal_session, marks):
    @shoal.remote
    def short(number):
        if number == 0:
            marks.add("started")
            marks.wait("go")
        marks.add(f"ran{number}")
        return number

    shoal.get([short.remote(-1) for _ in range(50)])  # it is known to be short now: many are sent ahead
    refs = [short.remote(number) for number in range(30)]
    marks.wait("started")
    for ref in refs[1:]:
        shoal.cancel(ref)
    marks.add("go")
    outcomes = []
    for number, ref in enumerate(refs):
        try:
            outcomes.append(shoal.get(ref, timeout=60) == number)
        except TaskCancelledError:
            outcomes.append(None)
    assert outcomes[0] is True
    # The other worker may have finished some, or be interrupted in the middle of others. Nothing hangs, nothing runs twice.
    assert all(marks.count(f"ran{number}") == 1 for number, done in enumerate(outcomes) if done)
    assert all(marks.count(f"ran{number}") <= 1 for number in range(30))


def test_thousands_of_queued_tasks(busy):
    refs = [identity.remote(i) for i in range(3000)]
    for ref in refs:
        shoal.cancel(ref)
    for ref in refs[::100]:
        assert_cancelled(ref)


# --- running ---


def loop(marks):
    marks.add("started")
    while True:
        pass


def loop_that_catches(marks):
    marks.add("started")
    while True:
        try:
            time.sleep(0.001)
        except Exception:
            marks.add("caught")


def sleep(marks):
    marks.add("started")
    time.sleep(300)


def compute(marks):
    marks.add("started")
    array = np.ones(100_000)
    while True:
        np.sort(array)


def wait_for_child(marks):
    ref = shoal.remote(max_retries=0)(sleep).remote(marks)  # apart, not in this process
    shoal.get(ref)


def wait_for_child_in_place(marks):
    shoal.get(shoal.remote(sleep).remote(marks))


def wait_with_timeout(marks):
    ref = shoal.remote(sleep).remote(marks)
    shoal.wait([ref], timeout=300)


def put_forever(marks):
    marks.add("started")
    while True:
        shoal.put(1)


def submit_forever(marks):
    marks.add("started")
    while True:
        shoal.get(identity.remote(1))


async def await_forever(marks):
    await shoal.remote(sleep).remote(marks)


@pytest.mark.parametrize(
    "function",
    [
        loop,
        loop_that_catches,
        sleep,
        compute,
        wait_for_child,
        wait_for_child_in_place,
        wait_with_timeout,
        put_forever,
        submit_forever,
        await_forever,
    ],
)
def test_a_running_task_stops_wherever_it_is(shoal_session, marks, function):
    ref = shoal.remote(function).remote(marks)
    marks.wait("started")
    shoal.cancel(ref)
    assert_cancelled(ref)
    assert_workers_work()


def test_cleanup_code_runs(shoal_session, marks):
    @shoal.remote
    def tidy():
        try:
            marks.add("started")
            time.sleep(300)
        finally:
            marks.add("cleaned")

    ref = tidy.remote()
    marks.wait("started")
    shoal.cancel(ref)
    assert_cancelled(ref)
    assert marks.count("cleaned") == 1


def test_a_worker_survives_the_cancel_of_its_task(shoal_session, marks):
    @shoal.remote
    def work():
        marks.add("work")
        time.sleep(300)

    ref = work.remote()
    marks.wait("work")
    process = psutil.Process(marks.pid("work"))
    shoal.cancel(ref)
    assert_cancelled(ref)
    assert process.is_running()


def test_cancel_at_any_moment_of_many_short_tasks(shoal_session):
    @shoal.remote
    def short(number):
        return number

    for _ in range(5):
        refs = [short.remote(number) for number in range(200)]
        for ref in refs[::2]:
            shoal.cancel(ref)
        for number, ref in enumerate(refs):
            try:
                assert shoal.get(ref, timeout=60) == number
            except TaskCancelledError:
                assert number % 2 == 0


# --- over ---


def test_cancel_of_what_is_over_changes_nothing(shoal_session):
    ref = identity.remote(5)
    assert shoal.get(ref) == 5
    shoal.cancel(ref)
    shoal.cancel(ref, force=True)
    shoal.cancel(shoal.put(1))
    assert shoal.get(ref) == 5
    with pytest.raises(TypeError):
        shoal.cancel("ref")


def test_cancel_twice(shoal_session, marks):
    ref = shoal.remote(sleep).remote(marks)
    marks.wait("started")
    shoal.cancel(ref)
    shoal.cancel(ref)
    shoal.cancel(ref, force=True)
    assert_cancelled(ref)


# --- force ---


def stuck(marks):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    marks.add("started")
    time.sleep(300)


def test_force_ends_what_does_not_listen(shoal_session, marks):
    ref = shoal.remote(stuck).remote(marks)
    marks.wait("started")
    victim = marks.pid("started")
    shoal.cancel(ref, force=True)
    assert_cancelled(ref)
    until(lambda: not psutil.pid_exists(victim))
    assert marks.count("started") == 1  # and it is not retried
    assert_workers_work()


def test_force_spares_the_task_that_runs_before_it(shoal_session, marks):
    @shoal.remote
    def short(number):
        if number in (0, 1):
            marks.add("started")
            marks.wait("go")
        return number

    shoal.get([short.remote(-1) for _ in range(50)])
    refs = [short.remote(number) for number in range(20)]
    marks.wait("started", 2)
    for ref in refs[2:]:
        shoal.cancel(ref, force=True)
    marks.add("go")
    assert shoal.get(refs[:2], timeout=60) == [0, 1]
    assert marks.count("started") == 2


# --- children ---


def family(marks, apart):
    @shoal.remote
    def child(name):
        marks.add(name)
        time.sleep(300)

    refs = [child.options(num_cpus=0, max_retries=0 if apart else 3).remote(f"child{i}") for i in range(2)]
    if apart:
        marks.wait("child0")
        marks.wait("child1")
    marks.add("parent")
    shoal.get(refs)


@pytest.mark.parametrize("apart", [True, False])
def test_recursive_cancel_takes_the_children_along(shoal_session, marks, apart):
    ref = shoal.remote(family).remote(marks, apart)
    marks.wait("parent")
    marks.wait("child0")
    shoal.cancel(ref)
    assert_cancelled(ref)
    assert_workers_work()
    until(lambda: shoal.available_resources().get("CPU") == 2)


def test_cancel_that_is_not_recursive_leaves_the_children(shoal_session, marks):
    @shoal.remote
    def child():
        marks.add("child")
        marks.wait("go")
        marks.add("finished")

    @shoal.remote
    def parent():
        ref = child.options(max_retries=0).remote()
        marks.wait("child")
        marks.add("parent")
        shoal.get(ref)

    ref = parent.remote()
    marks.wait("parent")
    shoal.cancel(ref, recursive=False)
    assert_cancelled(ref)
    marks.add("go")
    marks.wait("finished")


def test_a_task_can_cancel_its_own_child(shoal_session, marks):
    @shoal.remote
    def parent():
        ref = shoal.remote(max_retries=0)(sleep).remote(marks)
        marks.wait("started")
        shoal.cancel(ref)
        try:
            shoal.get(ref)
        except TaskCancelledError:
            return "cancelled"

    assert shoal.get(parent.remote(), timeout=60) == "cancelled"


@pytest.mark.parametrize("force", [False, True])
def test_whoever_has_the_ref_can_cancel(shoal_session, marks, force):
    @shoal.remote
    def other(refs):
        shoal.cancel(refs[0], force=force)

    ref = shoal.remote(sleep).remote(marks)
    marks.wait("started")
    shoal.get(other.remote([ref]))
    assert_cancelled(ref)
    done = identity.remote(5)
    shoal.get(done)
    shoal.get(other.remote([done]))
    assert shoal.get(done) == 5


# --- streams ---


def test_cancel_of_a_generator(shoal_session, marks):
    @shoal.remote
    def stream():
        try:
            for number in range(1_000_000):
                marks.add("item")
                yield number
                time.sleep(0.01)
        finally:
            marks.add("closed")

    generator = stream.remote()
    assert shoal.get(next(generator)) == 0
    shoal.cancel(generator)
    with pytest.raises(TaskCancelledError):
        for ref in generator:
            shoal.get(ref)
    assert marks.count("closed") == 1
    assert_workers_work()


def test_cancel_of_a_generator_that_waits_for_its_reader(shoal_session, marks):
    @shoal.remote(_generator_backpressure_num_objects=2)
    def stream():
        try:
            for number in range(1_000_000):
                marks.add("item")
                yield number
        finally:
            marks.add("closed")

    generator = stream.remote()
    marks.wait("item", 2)
    shoal.cancel(generator)
    marks.wait("closed")
    with pytest.raises(TaskCancelledError):
        for ref in generator:
            shoal.get(ref)
    assert os.getpid() != marks.pid("item")
