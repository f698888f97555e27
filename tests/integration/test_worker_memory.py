"""A worker that would push the node out of memory is ended first, and its task's error says so."""

import os
import re
import time

import pytest

import shoal
from marks import Marks, until
from shoal import session
from shoal.exceptions import ActorDiedError, OutOfMemoryError

MIB = 1024**2
LIMIT = 1200 * MIB
SETTINGS = {"memory_limit_bytes": LIMIT, "memory_monitor_ms": 50, "memory_patience_ms": 100}


@pytest.fixture
def small_node():
    """A node of 2 CPUs whose processes may use 1.2 GiB together."""
    # Of two that wait for each other, the one that lacks memory is tried again all the same after a while.
    settings = {**SETTINGS, "memory_room_ms_max": 500}
    with shoal.init(num_cpus=2, object_store_memory=64 * MIB, _system_config=settings):
        yield


def take(size):
    """Take ``size`` bytes, page by page, and wait to be ended."""
    taken = bytearray(size)
    taken[::4096] = b"x" * len(range(0, size, 4096))
    time.sleep(60)


def test_a_task_that_may_not_run_again_fails_with_the_figures(small_node):
    @shoal.remote(max_retries=0)
    def hog():
        take(1300 * MIB)

    with pytest.raises(OutOfMemoryError) as caught:
        shoal.get(hog.remote())
    error = caught.value
    assert error.limit_bytes == LIMIT
    assert error.used_bytes > LIMIT * 0.95
    assert "hog" in error.task_name
    assert "by this process" in str(error)
    assert "tried once (max_retries=0)" in str(error)
    assert "memory=" in str(error), "it says what to do"


def test_the_newest_is_ended_and_tried_again_when_there_is_room(small_node, tmp_path):
    @shoal.remote
    def old():
        taken = bytearray(400 * MIB)
        taken[::4096] = b"x" * len(range(0, len(taken), 4096))
        (tmp_path / "old").write_text(str(os.getpid()))
        while not (tmp_path / "again").exists():
            time.sleep(0.01)
        return os.getpid()

    @shoal.remote
    def new():
        if not (tmp_path / "first").exists():
            (tmp_path / "first").write_text("")
            take(800 * MIB)
        (tmp_path / "again").write_text("")
        return "second attempt"

    first = old.remote()
    while not (tmp_path / "old").exists():
        time.sleep(0.01)
    assert shoal.get(new.remote()) == "second attempt"
    assert str(shoal.get(first)) == (tmp_path / "old").read_text(), "the older one went on undisturbed"


@pytest.fixture
def patient_node():
    """The same, where what was ended waits for room for as long as that takes."""
    settings = {**SETTINGS, "memory_room_ms_max": 3_600_000}
    with shoal.init(num_cpus=2, object_store_memory=64 * MIB, _system_config=settings):
        yield


def waiting():
    """What the demands of this node wait for."""
    return [row["reason"] for row in session.runtime().request("status", {})["pending"]]


def fill(size):
    """So many bytes, page by page."""
    taken = bytearray(size)
    taken[::4096] = b"x" * len(range(0, size, 4096))
    return taken


def test_tasks_that_fit_one_at_a_time_take_turns(patient_node):
    """Each attempt beside another one would be ended as well, until none was left."""

    @shoal.remote(max_retries=2)
    def large(number):
        taken = fill(800 * MIB)
        time.sleep(1)
        return number, len(taken)

    assert shoal.get([large.remote(n) for n in range(4)]) == [(n, 800 * MIB) for n in range(4)]


def test_what_was_ended_says_that_it_waits_for_memory(patient_node, tmp_path):
    marks = Marks(tmp_path)

    @shoal.remote
    def first():
        taken = fill(700 * MIB)
        marks.add("first")
        marks.wait("go")
        return len(taken)

    @shoal.remote(max_retries=1)
    def second():
        marks.add("second")
        return len(fill(700 * MIB))

    one = first.remote()
    marks.wait("first")
    two = second.remote()
    until(lambda: any(re.search(r"waits for memory: .*second was ended", reason) for reason in waiting()))
    assert marks.count("second") == 1
    marks.add("go")
    assert shoal.get([one, two]) == [700 * MIB] * 2
    assert marks.count("second") == 2


def test_a_child_does_not_wait_for_the_memory_of_its_parent(patient_node, tmp_path):
    marks = Marks(tmp_path)

    @shoal.remote
    def child():
        if not marks.add("child"):
            take(800 * MIB)
        return "second attempt"

    @shoal.remote
    def parent():
        taken = fill(500 * MIB)
        return shoal.get(child.options(num_cpus=0.5).remote()), len(taken)

    assert shoal.get(parent.remote()) == ("second attempt", 500 * MIB)


def test_the_task_that_began_last_is_ended_whatever_its_worker_did_before(patient_node, tmp_path):
    """And it is called by its own name, though the worker was leased for another function."""
    marks = Marks(tmp_path)

    @shoal.remote
    def early():
        marks.add("early")
        marks.wait("old")

    @shoal.remote(max_retries=0)
    def old():
        taken = fill(400 * MIB)
        marks.add("old")
        marks.wait("done")
        return len(taken)

    @shoal.remote(max_retries=0)
    def new():
        take(800 * MIB)

    begun = early.remote()
    marks.wait("early")
    lasting = old.remote()
    shoal.get(begun)
    with pytest.raises(OutOfMemoryError, match=r"largest were .*\.new \(pid"):
        shoal.get(new.remote())
    marks.add("done")
    assert shoal.get(lasting) == 400 * MIB
    assert marks.count("old") == 1


def test_an_actor_says_why_it_died(small_node):
    @shoal.remote
    class Hog:
        def take(self):
            take(1300 * MIB)

    hog = Hog.remote()
    with pytest.raises(ActorDiedError, match="running out of memory"):
        shoal.get(hog.take.remote())


def test_the_kernel_would_end_a_worker_rather_than_its_daemon(small_node):
    """Which maps the whole store, and so looks largest."""

    @shoal.remote
    def score():
        with open("/proc/self/oom_score_adj") as file:
            return int(file.read())

    assert shoal.get(score.remote()) == 1000
    with open("/proc/self/oom_score_adj") as file:
        assert int(file.read()) < 1000, "nothing else of the cluster is offered"
