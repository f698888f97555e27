"""Objects that move between nodes: each comes once, from whoever has it, whatever happens to that one."""

import mmap
import os
import signal

import numpy as np
import pytest

import shoal
from nodeclient import Client, until
from shoal.control import request
from shoal.testing import Cluster
from shoal.wire import messages as m
from twonodes import two_nodes

TIMEOUT_S = 60
MIB = 1024**2
FAST_DEATHS = {"node_dead_ms": 1500.0, "node_suspect_ms": 700.0, "heartbeat_ms": 200.0}


def get(refs):
    return shoal.get(refs, timeout=TIMEOUT_S)


def stats(node):
    return request(node.socket, node.secret, "memory", {})["stats"]


@pytest.fixture(scope="module")
def two(module_leaves_nothing):
    """A driver on a node without CPUs, and another node with two; yields (the driver's node, the other)."""
    with two_nodes() as nodes:
        yield nodes


@pytest.fixture
def shoal_session(two):
    """The module's cluster; the name says to the check for leaks that it is shared."""
    return shoal


@shoal.remote
def element(array, index):
    return float(array[index])


@shoal.remote
def make(count):
    return np.arange(count, dtype=np.float64)


@shoal.remote
def makes(count):
    return [shoal.put(np.full(20_000, number)) for number in range(count)]


@shoal.remote(max_retries=0)
def fail():
    raise ValueError("of another node", "x" * 300_000)


@shoal.remote
def last_of_all(*arrays):
    return [int(array[-1]) for array in arrays]


@shoal.remote
def total(refs):
    return sum(int(array[-1]) for array in shoal.get(refs))


@shoal.remote
def digests(refs):
    return [(len(value), value[-1]) for value in shoal.get(refs)]


def test_a_hundred_tasks_on_another_node_cause_one_transfer(two, shoal_session):
    _, other = two
    before = stats(other)
    array = np.arange(5_000_000, dtype=np.float64)
    stored = shoal.put(array)
    results = get([element.remote(stored, index) for index in range(100)])
    assert results == [float(index) for index in range(100)]
    after = stats(other)
    assert after["fetches"] - before["fetches"] == 1
    assert array.nbytes <= after["fetched_bytes"] - before["fetched_bytes"] <= array.nbytes + 4096
    assert after["fetch_retries"] == before["fetch_retries"]


def test_a_large_result_of_another_node_is_read_and_goes_everywhere(two, shoal_session):
    driver, _ = two
    before = stats(driver)
    ref = make.remote(3_000_000)
    assert get(ref).tolist()[::1_000_000] == [0.0, 1e6, 2e6]
    assert get(ref)[-1] == 3_000_000 - 1  # it is here now
    after = stats(driver)
    assert after["fetches"] - before["fetches"] == 1
    del ref
    for node in two:
        until(lambda node=node: stats(node)["objects"] == 0, "the end of the copy")


def test_refs_made_on_another_node_are_read_here(two, shoal_session):
    refs = get(makes.remote(20))
    assert [int(array[0]) for array in get(refs)] == list(range(20))
    assert get(total.remote(refs)) == sum(range(20))


def test_an_error_with_a_large_value_comes_from_another_node(two, shoal_session):
    with pytest.raises(ValueError, match="of another node") as caught:
        get(fail.remote())
    assert len(caught.value.args[1]) == 300_000


def test_several_arguments_of_one_task(two, shoal_session):
    refs = [shoal.put(np.full(200_000, number)) for number in range(5)]
    assert get(last_of_all.remote(*refs)) == [0, 1, 2, 3, 4]


def test_arguments_of_tasks_that_wait_are_fetched_once_each(two, shoal_session):
    _, other = two
    before = stats(other)
    refs = [shoal.put(np.full(20_000, number)) for number in range(100)]
    assert get([last_of_all.remote(ref) for ref in refs]) == [[number] for number in range(100)]
    after = stats(other)
    assert after["fetches"] - before["fetches"] == 100
    assert after["fetch_retries"] == before["fetch_retries"]


def test_refs_inside_an_argument_are_fetched(two, shoal_session):
    _, other = two
    before = stats(other)
    refs = [shoal.put(np.full(20_000, index)) for index in range(200)]
    assert get(total.remote(refs)) == sum(range(200))
    assert stats(other)["fetches"] - before["fetches"] == 200


def test_small_values_of_a_driver_are_read_elsewhere_whatever_is_in_them(two, shoal_session):
    """They are put in the store together, and come together: plain ones, ones with refs inside, errors, an empty one."""
    _, other = two
    before = stats(other)["fetches"]
    refs = [shoal.put(np.full(100, number)) for number in range(50)]
    refs += [shoal.put([shoal.put(number), number]) for number in range(50, 60)]
    refs += [shoal.put(np.full(3000, number)) for number in range(60, 100)] + [shoal.put(b"")]

    @shoal.remote
    def read(refs):
        values = shoal.get(refs)
        nested = [(shoal.get(ref), number) for ref, number in values[50:60]]
        return [int(value[-1]) for value in [*values[:50], *values[60:100]]], nested, values[100]

    numbers, nested, empty = get(read.remote(refs))
    assert numbers == [*range(50), *range(60, 100)]
    assert nested == [(number, number) for number in range(50, 60)]
    assert empty == b""
    assert stats(other)["fetches"] - before >= 111


def test_many_small_objects(two, shoal_session):
    """Values below inline_bytes_max are in the store as well when their refs are inside something."""
    refs = [shoal.put(bytes([index % 250]) * 20_000) for index in range(1000)]
    assert get(digests.remote(refs)) == [(20_000, index % 250) for index in range(1000)]


# --- raw processes: what a cluster of drivers cannot say exactly ---


class Process(Client):
    """A process of a node, with its side of the store."""

    def __init__(self, node):
        super().__init__(node.socket, node.secret, node.node_id)
        self.region = mmap.mmap(self.fds[1], self.welcome["capacity"])
        self.made = 0

    def seal(self, data):
        """A new object that this process holds; its id."""
        self.made += 1
        object_id = self.proc + self.made.to_bytes(4, "big") + bytes(4)
        self.send([m.ALLOC, 1, len(data), len(data)])
        _, _, offset, _ = self.receive(m.EXTENT)
        self.region[offset : offset + len(data)] = data
        self.send([m.SEAL, object_id, offset, len(data), b"", m.SEAL_PRIMARY, self.proc, "here.py:1", b""])
        return object_id

    def pin(self, object_id, stamp=b""):
        self.send([m.PIN, 1, object_id, stamp or object_id[:8], 0, 0])

    def pinned(self):
        """The bytes of the next object that can be read."""
        _, _, _, offset, size, _ = self.receive(m.PINNED)
        return self.region[offset : offset + size]

    def close(self):
        self.region.close()
        super().close()


@pytest.fixture
def processes():
    made = []

    def make(node):
        made.append(Process(node))
        return made[-1]

    yield make
    for process in made:
        process.close()


def pattern(size):
    return np.random.default_rng(7).integers(0, 256, size, np.uint8).tobytes()


def test_a_broadcast_reaches_every_node(processes):
    data = pattern(48 * MIB + 5)
    with Cluster(object_store_memory=64 * MIB) as cluster:
        nodes = [cluster.add_node() for _ in range(4)]
        source = processes(cluster.head)
        readers = [processes(node) for node in nodes]
        object_id = source.seal(data)
        for reader in readers:
            reader.pin(object_id)
        for reader in readers:
            assert reader.pinned() == data
        found = [stats(node) for node in nodes]
        assert [each["fetches"] for each in found] == [1] * 4
        assert [each["fetched_bytes"] for each in found] == [len(data)] * 4
        moved = stats(cluster.head)["served_bytes"] + sum(each["served_bytes"] for each in found)
        assert moved >= 4 * len(data)
        until(lambda: stats(cluster.head)["pinned"] == 0, "the end of the readers' pins")


def test_a_source_that_is_killed_in_mid_object_is_replaced(processes):
    """The second holder has the same copy: what has come already is not asked for again."""
    data = pattern(128 * MIB)
    slow = FAST_DEATHS | {
        "pull_chunk_bytes": 64 * 1024,
        "pull_chunk_bytes_max": 64 * 1024,
    }  # many chunks, so that the kill comes in between
    with Cluster(system_config=slow) as cluster:
        first, second, reading = [cluster.add_node(system_config=slow) for _ in range(3)]
        source = processes(first)
        object_id = source.seal(data)
        other = processes(second)
        other.pin(object_id)
        assert other.pinned() == data
        reader = processes(reading)
        reader.pin(object_id)
        until(lambda: stats(reading)["fetched_bytes"] > 0, "the first chunk")
        os.kill(first.process.pid, signal.SIGKILL)
        assert reader.pinned() == data
        found = stats(reading)
        assert found["fetches"] == 1
        assert found["fetched_bytes"] == len(data)


def test_a_source_that_is_killed_without_another_holder_is_an_error(processes):
    data = pattern(1 * MIB)
    with Cluster(system_config=FAST_DEATHS) as cluster:
        first, reading = [cluster.add_node(system_config=FAST_DEATHS) for _ in range(2)]
        source, reader = processes(first), processes(reading)
        object_id = source.seal(data)
        os.kill(first.process.pid, signal.SIGKILL)
        reader.pin(object_id)
        _, _, failed, kind, text = reader.receive(m.PIN_FAILED)
        assert failed == object_id
        assert kind == "owner_died"
        assert first.node_id[:8] in text
