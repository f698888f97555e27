"""A process that gets no more memory: what needed it raises MemoryError, nothing is lost on the way, and all goes on."""

import contextlib
import pickle
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

import shoal
from ledger import everything_came_back
from shoal import session
from shoal.client import connection, promoting
from shoal.wire import frames


@pytest.fixture
def small(no_leaks):
    shoal.init(num_cpus=1, object_store_memory=64 * 1024 * 1024)
    yield
    try:
        everything_came_back()
    finally:
        shoal.shutdown()


@shoal.remote(max_retries=0)
def length(value):
    return len(value)


@shoal.remote(max_retries=0)
def too_large():
    return np.ones(1 << 46)


class Greedy:
    """A value that takes more memory than there is while it is pickled, or while it is loaded."""

    where = ""

    def __init__(self):
        self.data = np.ones(100_000)  # stored

    def __getstate__(self):
        if Greedy.where == "pickled":
            raise MemoryError
        return self.__dict__

    def __setstate__(self, state):
        if Greedy.where == "loaded":
            raise MemoryError
        self.__dict__.update(state)

    def __len__(self):
        return len(self.data)


def test_a_task_without_memory_fails_like_any_that_raises(small):
    with pytest.raises(MemoryError, match="Unable to allocate") as caught:
        shoal.get(too_large.remote(), timeout=30)
    assert isinstance(caught.value, shoal.exceptions.TaskError)
    assert shoal.get(length.remote([1, 2]), timeout=30) == 2


def test_a_driver_without_memory_can_put_and_get_again_later(small, monkeypatch):
    ref = shoal.put(Greedy())
    for _ in range(3):
        monkeypatch.setattr(Greedy, "where", "pickled")
        with pytest.raises(MemoryError):
            shoal.put(Greedy())
        with pytest.raises(MemoryError):
            length.remote(Greedy())
        monkeypatch.setattr(Greedy, "where", "loaded")
        with pytest.raises(MemoryError):
            shoal.get(ref)
        monkeypatch.setattr(Greedy, "where", "")
        assert len(shoal.get(ref)) == 100_000
        assert shoal.get(length.remote(ref), timeout=30) == 100_000


def fails_once(function):
    """The same function, that has no memory the first time; and an event for when that was."""
    failed = threading.Event()

    def call(*args, **kwargs):
        if not failed.is_set():
            failed.set()
            raise MemoryError
        return function(*args, **kwargs)

    return call, failed


@shoal.remote(max_retries=0)
def work(what):
    if what == "block":
        dumps, failed = fails_once(pickle.dumps)
        connection.pickle = SimpleNamespace(dumps=dumps)
        try:
            assert failed.wait(30)  # on the thread that gives back the tasks behind this one
            time.sleep(0.01)
        finally:
            connection.pickle = pickle
    return what


def test_what_a_worker_had_no_memory_to_send_is_sent_later(small):
    assert shoal.get([work.remote(number) for number in range(100)], timeout=30) == list(range(100))
    values = ["block", *range(50)]
    assert shoal.get([work.remote(value) for value in values], timeout=60) == values


@pytest.mark.parametrize("what", ["tasks", "the daemon's"])
def test_what_a_driver_had_no_memory_to_send_is_sent_later(small, monkeypatch, what):
    assert shoal.get([length.remote([number]) for number in range(100)], timeout=30) == [1] * 100
    runtime = session.current()
    with runtime.lock:
        runtime.flush()
        runtime._flushing = True  # as if it were interrupted: all of this waits in the outboxes
        refs = [length.remote(b"x" * 50_000) for _ in range(5)]
        refs.append(length.options(num_cpus=0.5).remote(b"x" * 50_000))  # needs a worker of the daemon
        runtime._flushing = False
        if what == "tasks":
            dumps, failed = fails_once(pickle.dumps)
            monkeypatch.setattr(connection, "pickle", SimpleNamespace(dumps=dumps))
        else:
            encode, failed = fails_once(frames.encode_batch)
            monkeypatch.setattr(frames, "encode_batch", encode)
        with pytest.raises(MemoryError):
            runtime.flush()
        assert failed.is_set()
    assert shoal.get(refs, timeout=30) == [50_000] * 6


@shoal.remote(max_retries=0)
def inner(values):
    value = shoal.get(values[0], timeout=20)
    return shoal.get(value[0], timeout=20) if isinstance(value, list) else value


@pytest.mark.parametrize("at", range(5))
def test_what_a_driver_had_no_memory_to_promote_is_promoted_later(small, monkeypatch, at):
    """Refs inside of arguments: what they refer to goes to the store."""
    assert shoal.get(inner.remote([shoal.put(7)]), timeout=30) == 7  # there is room at hand for more
    contained_ids, calls = promoting.contained_ids, []

    def fails_at(content):
        calls.append(content)
        if len(calls) == at + 1:
            raise MemoryError
        return contained_ids(content)

    runtime = session.current()
    with runtime.lock:
        runtime.flush()
        runtime._flushing = True  # as if it were interrupted: all of this waits in the outboxes
        refs = [inner.remote([shoal.put(value)]) for value in (0, [shoal.put(1)], 2, 3)]
        runtime._flushing = False
        monkeypatch.setattr(promoting, "contained_ids", fails_at)
        with contextlib.suppress(MemoryError):  # only if it could not even write one
            runtime.flush()
        assert len(calls) >= at + 1
    assert shoal.get(refs, timeout=60) == [0, 1, 2, 3]
