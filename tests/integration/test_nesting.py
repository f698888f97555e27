"""Tasks in tasks on one CPU: no deadlock, whatever way a parent waits, and not a process for every blocked parent."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

import shoal
from marks import Marks, until
from shoal.exceptions import PlacementError


@pytest.fixture(scope="module")
def one_cpu(module_leaves_nothing):
    """A cluster with one CPU for all tests of this module."""
    shoal.init(num_cpus=1)
    yield
    shoal.shutdown()


pytestmark = pytest.mark.usefixtures("one_cpu")


@pytest.fixture(scope="module", autouse=True)
def no_leaks():
    """The module's cluster is shared: `module_leaves_nothing` checks."""


def worker_pids():
    """The processes that are, or were just now, workers."""
    rows = shoal.session.runtime().request("workers", {})["rows"]
    return {row["pid"] for row in rows if row["state"] != "dying"}


@shoal.remote
def add(a, b=1):
    return a + b


@shoal.remote
def fib(n):
    if n < 2:
        return n
    return sum(shoal.get([fib.remote(n - 1), fib.remote(n - 2)]))


@shoal.remote
def down(n, seen=()):
    """How deep it went, and in which processes."""
    seen = (*seen, os.getpid())
    return seen if n == 0 else shoal.get(down.remote(n - 1, seen))


@shoal.remote
def down_by_wait(n):
    if n == 0:
        return 0
    ref = down_by_wait.remote(n - 1)
    ready, rest = shoal.wait([ref])
    assert ready == [ref]
    assert not rest
    return 1 + shoal.get(ref)


@shoal.remote
def down_by_timeout(n):
    return 0 if n == 0 else 1 + shoal.get(down_by_timeout.remote(n - 1), timeout=60)


@shoal.remote
def down_by_timed_wait(n):
    if n == 0:
        return 0
    ref = down_by_timed_wait.remote(n - 1)
    assert shoal.wait([ref], timeout=60) == ([ref], [])
    return 1 + shoal.get(ref)


@shoal.remote
async def down_by_await(n):
    return 0 if n == 0 else 1 + await down_by_await.remote(n - 1)


@shoal.remote
def down_by_future(n):
    return 0 if n == 0 else 1 + down_by_future.remote(n - 1).future().result(60)


@shoal.remote
def down_by_thread(n):
    if n == 0:
        return 0
    with ThreadPoolExecutor(1) as pool:
        return 1 + pool.submit(lambda: shoal.get(down_by_thread.remote(n - 1))).result()


@shoal.remote
def down_by_stream(n):
    yield n
    if n:
        for ref in down_by_stream.remote(n - 1):
            yield shoal.get(ref)


def test_fib_12():
    assert shoal.get(fib.remote(12), timeout=60) == 144


def test_recursion_200_deep_takes_few_processes():
    before = worker_pids()
    pids = shoal.get(down.remote(200), timeout=60)
    assert len(pids) == 201
    config = shoal.session.runtime().config
    assert len(set(pids)) <= 201 / config.inline_depth_max + 2
    assert len(worker_pids() | before) <= len(before) + len(set(pids)) + 1


@shoal.remote
def timed_down(n, seen=()):
    seen = (*seen, os.getpid())
    return seen if n == 0 else shoal.get(timed_down.remote(n - 1, seen), timeout=60)


def test_recursion_with_a_timeout_takes_few_processes():
    config = shoal.session.runtime().config
    pids = shoal.get(timed_down.remote(200), timeout=60)
    assert len(pids) == 201
    assert len(set(pids)) <= config.inline_timed_depth_min + 201 / config.inline_depth_max + 2


@shoal.remote
def deeper(n, timeout, path):
    """At the end of a chain of `n`, one whose child waits for a file for longer than its timeout."""
    if n:
        return shoal.get(deeper.remote(n - 1, timeout, path))
    child = until_there.remote(path)
    try:
        return os.getpid(), shoal.get(child, timeout=timeout)
    except shoal.exceptions.GetTimeoutError:
        return os.getpid(), "timeout"
    finally:
        Path(path).touch()


@shoal.remote
def until_there(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getpid()


def test_a_timeout_near_the_driver_is_exact(tmp_path):
    assert shoal.get(deeper.remote(2, 0.2, str(tmp_path / "there")))[1] == "timeout"


def test_a_timeout_deep_down_is_looked_at_when_the_child_has_ended(tmp_path):
    depth = shoal.session.runtime().config.inline_timed_depth_min
    path = tmp_path / "there"
    rows = shoal.session.runtime().request
    until(
        lambda: all(row["state"] == "idle" for row in rows("workers", {})["rows"])
    )  # none is left to take the child
    ref = deeper.remote(depth, 0.1, str(path))
    ready, _ = shoal.wait([ref], timeout=1)
    assert not ready, f"it does not wait for its child: {shoal.get(ready)}"
    path.touch()
    parent, child = shoal.get(ref)
    assert child == parent, "in place"


@shoal.remote
def two_slow(n):
    """At the end of a chain of `n`, one that waits for two children, of which the first takes longer than the timeout."""
    if n:
        return shoal.get(two_slow.remote(n - 1))
    refs = [nap.remote(0.3), nap.remote(60)]
    with pytest.raises(shoal.exceptions.GetTimeoutError):
        shoal.get(refs, timeout=0.1)
    shoal.cancel(refs[1])
    return "timeout"


@shoal.remote
def nap(seconds):
    time.sleep(seconds)


def test_no_child_is_begun_in_place_when_the_time_is_over():
    assert shoal.get(two_slow.remote(shoal.session.runtime().config.inline_timed_depth_min)) == "timeout"


@pytest.mark.parametrize(
    ("function", "depth"),
    [
        (down_by_wait, 100),
        (down_by_timeout, 100),
        (down_by_timed_wait, 100),
        (down_by_await, 12),
        (down_by_future, 12),
        (down_by_thread, 12),
    ],
)
def test_every_way_to_wait(function, depth):
    assert shoal.get(function.remote(depth), timeout=60) == depth


def test_a_generator_that_reads_a_generator():
    assert [shoal.get(ref) for ref in down_by_stream.remote(8)] == list(range(8, -1, -1))


def test_waiting_for_one_of_many_on_one_cpu():
    @shoal.remote
    def parent():
        refs = [add.remote(i) for i in range(50)]
        results = []
        while refs:
            ready, refs = shoal.wait(refs)
            results += shoal.get(ready)
        return sorted(results)

    assert shoal.get(parent.remote(), timeout=60) == list(range(1, 51))


def test_children_that_depend_on_children():
    @shoal.remote
    def parent():
        ref = add.remote(0)
        for _ in range(60):
            ref = add.remote(ref, 1)
        tree = [add.remote(i) for i in range(32)]
        while len(tree) > 1:
            tree = [add.remote(a, b) for a, b in zip(tree[::2], tree[1::2], strict=True)]
        return shoal.get(ref), shoal.get(tree[0])

    assert shoal.get(parent.remote(), timeout=60) == (61, sum(range(32)) + 32)


def test_a_child_that_gets_its_siblings():
    @shoal.remote
    def second(refs):
        return shoal.get(refs[0]) + 1

    @shoal.remote
    def parent():
        first = add.remote(1)
        return shoal.get(second.remote([first]))

    assert shoal.get(parent.remote(), timeout=60) == 3


def test_a_parent_that_hands_unfinished_children_up():
    @shoal.remote
    def make(n):
        return [add.remote(i) for i in range(n)]

    @shoal.remote
    def middle():
        return shoal.get(make.remote(5))

    assert shoal.get(shoal.get(middle.remote(), timeout=60)) == [1, 2, 3, 4, 5]


def test_children_of_other_shapes_have_their_own_workers():
    @shoal.remote
    def resources():
        return os.getpid(), shoal.get_runtime_context().get_assigned_resources()

    @shoal.remote(num_cpus=0.9)  # what is left is too little for either, until it waits
    def parent():
        return os.getpid(), shoal.get([resources.remote(), resources.options(num_cpus=0.25).remote()])

    own, ((larger, given), (smaller, given_less)) = shoal.get(parent.remote(), timeout=60)
    assert larger != own
    assert given == {"CPU": 1.0}
    assert smaller == own
    assert given_less == {"CPU": 0.25}


def test_many_parents_with_many_children():
    @shoal.remote
    def parent(n):
        return sum(shoal.get([add.remote(i, 0) for i in range(n)]))

    assert shoal.get([parent.remote(30) for _ in range(30)], timeout=60) == [435] * 30


def test_large_values_through_levels():
    @shoal.remote
    def level(n, array):
        return array + 1 if n == 0 else shoal.get(level.remote(n - 1, array)) + 1

    result = shoal.get(level.remote(10, shoal.put(np.zeros(50_000))), timeout=60)
    assert (result == 11).all()


def test_await_many_in_one_task():
    @shoal.remote
    async def parent():
        first = await asyncio.gather(*[add.remote(i, 0) for i in range(100)])
        return sum(first)

    assert shoal.get(parent.remote(), timeout=60) == 4950


def test_a_task_that_has_waited_gets_its_cpu_back(tmp_path):
    """After the wait it counts again: two tasks that do not wait any more do not run at once."""
    marks = Marks(tmp_path)

    @shoal.remote
    def parent(number):
        shoal.get(add.options(max_retries=0).remote(1))
        marks.add(f"in{number}")
        return shoal.available_resources().get("CPU", 0)

    assert shoal.get(parent.remote(0), timeout=60) == 0


def test_blocked_workers_are_bounded_and_the_error_shows_the_chain(monkeypatch):
    shoal.shutdown()
    monkeypatch.setenv("SHOAL_BLOCKED_WORKERS_MAX", "6")
    shoal.init(num_cpus=1)
    try:
        with pytest.raises(PlacementError) as caught:
            shoal.get(down_by_timeout.remote(50), timeout=60)
        text = str(caught.value)
        assert "blocked_workers_max" in text
        assert "down_by_timeout" in text
        assert " → " in text
        assert len(psutil.Process().children(recursive=True)) <= 12
        assert shoal.get(down_by_timeout.remote(3), timeout=60) == 3
    finally:
        shoal.shutdown()
        monkeypatch.undo()
        shoal.init(num_cpus=1)
