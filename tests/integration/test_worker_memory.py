"""A worker that would push the node out of memory is ended first, and its task's error says so."""

import os
import time

import pytest

import shoal
from shoal.exceptions import ActorDiedError, OutOfMemoryError

MIB = 1024**2
LIMIT = 1200 * MIB


@pytest.fixture
def small_node():
    """A node of 2 CPUs whose processes may use 1.2 GiB together."""
    settings = {"memory_limit_bytes": LIMIT, "memory_monitor_ms": 50, "memory_patience_ms": 100}
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
