"""Views that outlive what made them: the session of their driver, or the process that was forked. Nothing is written over them.

The store is too small, so that some lie in the region and some in spill files.
"""

import gc
import os

import numpy as np
import pytest

import shoal
from ledger import everything_came_back
from marks import until
from processes import forks_without_descriptors
from shoal import session
from shoal.client import forks
from shoal.testing import Cluster

MIB = 1024**2
PART = 8 * MIB
COUNT = 16
STORE = 64 * MIB
SETTINGS = {"spill_in_place_bytes_min": 4 * MIB, "spill_spare_ms": 3_600_000}


@pytest.fixture
def address(no_leaks):
    with Cluster(num_cpus=1, object_store_memory=STORE, system_config=SETTINGS) as cluster:
        yield cluster.address


@pytest.fixture
def small_store(no_leaks):
    with shoal.init(num_cpus=1, object_store_memory=STORE, _system_config=SETTINGS):
        yield


def array(number):
    return np.full(PART // 8, number, np.int64)


def wrong(views):
    """The numbers of the arrays that are not what they were."""
    return [number for number, view in views.items() if not (view == number).all()]


def views_of_all():
    """Arrays by number, with refs that have gone."""
    refs = [shoal.put(array(number)) for number in range(COUNT)]
    return {number: shoal.get(ref) for number, ref in enumerate(refs)}


def views_in_files():
    """The same, of those that lie in files."""
    refs = [shoal.put(array(number)) for number in range(COUNT)]
    views = {number: shoal.get(ref) for number, ref in enumerate(refs)}
    in_region = set(session.runtime().store.pins.live())
    found = {number: view for number, view in views.items() if refs[number].binary() not in in_region}
    assert found
    return found


def nothing_is_pinned():
    """Nor cached: a child keeps that too, and what lies in the region may also lie in a file."""
    runtime = session.runtime()
    with runtime.lock:
        runtime.store.give_back()
        return not runtime.store.pins


def write_over_everything():
    for _ in range(2):
        others = [shoal.put(array(1000)) for _ in range(2 * COUNT)]
        assert all(shoal.get(other)[-1] == 1000 for other in others)
        del others


# --- sessions ---


def test_views_stay_as_they_are_when_their_driver_has_left(address):
    with shoal.init(address):
        views = views_of_all()
    with shoal.init(address):
        write_over_everything()
    assert not wrong(views)
    del views
    gc.collect()
    with shoal.init(address):
        everything_came_back()


def test_what_only_cached_pins_keep_goes_with_its_driver(address):
    with shoal.init(address):
        kept = shoal.get(shoal.put(array(1)))
        for number in range(5):
            assert shoal.get(shoal.put(array(number)))[0] == number
    with shoal.init(address):
        assert shoal.memory_summary()["sealed"] <= kept.nbytes + 4096
        assert not wrong({1: kept})
        del kept
        everything_came_back()


def test_a_driver_without_views_leaves_no_descriptor(address):
    with shoal.init(address):
        assert shoal.get(shoal.put(array(1)))[0] == 1
        before = len(os.listdir("/proc/self/fd"))
    assert len(os.listdir("/proc/self/fd")) < before


def test_views_of_two_sessions_go_one_after_the_other(address):
    with shoal.init(address):
        first = shoal.get(shoal.put(array(1)))
    with shoal.init(address):
        second = shoal.get(shoal.put(array(2)))
    assert not wrong({1: first, 2: second})
    del second
    with shoal.init(address):
        write_over_everything()
        assert not wrong({1: first})
        del first
        everything_came_back()


def test_a_child_of_a_driver_that_has_left_keeps_its_views(address):
    with shoal.init(address):
        views = views_of_all()
    child = Child(views)
    del views
    with shoal.init(address):
        write_over_everything()
        assert child.finds_wrong() == []
        everything_came_back()


# --- forks ---


class Child:
    """A forked process that looks at views when it is asked to."""

    def __init__(self, views):
        self._go, self._go_end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            code = 255
            try:
                os.read(self._go, 1)
                code = len(wrong(views))
            finally:
                os._exit(code)

    def finds_wrong(self):
        os.write(self._go_end, b"!")
        status = os.waitpid(self._pid, 0)[1]
        os.close(self._go)
        os.close(self._go_end)
        return ["something"] * os.waitstatus_to_exitcode(status)


def test_a_child_of_a_process_all_of_whose_views_lie_in_files(small_store):
    views = views_in_files()
    until(nothing_is_pinned)
    child = Child(views)
    del views
    until(lambda: not shoal.memory_summary()["disk_files"])
    write_over_everything()
    assert child.finds_wrong() == []
    everything_came_back()


def test_a_child_for_which_there_is_no_pipe_keeps_what_lies_in_files(small_store, monkeypatch, capfd):
    views = views_in_files()
    forks_without_descriptors(monkeypatch)
    child = Child(views)
    monkeypatch.undo()
    del views
    write_over_everything()
    assert child.finds_wrong() == []
    assert "allow more open files" in capfd.readouterr().err
    assert forks._kept_files
    forks._kept_files.clear()  # they would stay mapped until this process ends
