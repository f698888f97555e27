"""References that cross nodes: nothing that somebody can refer to goes, and everything else does, on all nodes."""

import builtins
import gc
import os
import signal

import numpy as np
import pytest

import shoal
from nodeclient import until
from shoal.control import request
from shoal.testing import Cluster

TIMEOUT_S = 60


def get(refs):
    return shoal.get(refs, timeout=TIMEOUT_S)


def stats(node):
    return request(node.socket, node.secret, "memory", {})["stats"]


def rows(node):
    return request(node.socket, node.secret, "memory", {})["rows"]


class Nodes:
    """The cluster of this module: the driver's node without CPUs, and two with one worker each, `b` and `c`."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.b = cluster.add_node(num_cpus=1, resources={"b": 1})
        self.c = cluster.add_node(num_cpus=1, resources={"c": 1})

    def objects(self):
        """How many objects each node has."""
        gc.collect()
        return [stats(node)["objects"] for node in self.cluster.nodes]

    def all_gone(self):
        try:
            until(lambda: not any(self.objects()), "empty stores")
        except AssertionError:
            left = [(node.node_id, row) for node in self.cluster.nodes for row in rows(node)]
            raise AssertionError(f"left behind: {left}") from None


@pytest.fixture(scope="module")
def nodes(module_leaves_nothing):
    with Cluster(num_cpus=0) as cluster:
        nodes = Nodes(cluster)
        shoal.init(cluster.address)
        try:
            yield nodes
        finally:
            shoal.shutdown()


@pytest.fixture
def shoal_session(nodes):
    """The module's cluster; every test leaves its stores empty."""
    yield shoal
    get([drop.options(resources={name: 1}).remote() for name in "bc"])
    nodes.all_gone()


def on(name, task):
    """``task`` on that node."""
    return task.options(resources={name: 1})


@shoal.remote
def keep(refs):
    builtins.shoal_kept = refs


@shoal.remote
def kept_sums():
    return [int(array.sum()) for array in shoal.get(builtins.shoal_kept)]


@shoal.remote
def give_kept():
    return builtins.shoal_kept


@shoal.remote
def drop():
    builtins.shoal_kept = None
    gc.collect()


@shoal.remote
def ones(size):
    return np.ones(size)


@shoal.remote
def put_ones(count, size=20_000):
    return [shoal.put(np.full(size, number)) for number in range(count)]


@shoal.remote
def nest(depth):
    ref = shoal.put(np.ones(20_000))
    for _ in range(depth):
        ref = shoal.put([ref])
    return [ref]


@shoal.remote
def pass_on(refs):
    """Has the worker of node c keep what it was given."""
    return shoal.get(on("c", keep).remote(refs))


@shoal.remote
def leave():
    os._exit(0)


def test_a_ref_that_a_worker_elsewhere_keeps_outlives_the_drivers(nodes, shoal_session):
    refs = [shoal.put(np.full(20_000, number)) for number in range(20)]
    get(on("b", keep).remote(refs))
    del refs
    nodes.objects()
    assert get(on("b", kept_sums).remote()) == [20_000 * number for number in range(20)]
    assert nodes.objects()[:2] == [20, 20]


def test_refs_go_from_node_to_node_to_node(nodes, shoal_session):
    refs = [shoal.put(np.full(20_000, number)) for number in range(5)]
    get(on("b", pass_on).remote(refs))
    del refs
    gc.collect()
    back = get(on("c", give_kept).remote())
    get(on("c", drop).remote())
    assert [int(array[0]) for array in get(back)] == list(range(5))


def test_a_result_of_another_node_goes_with_the_last_ref(nodes, shoal_session):
    refs = [on(name, ones).remote(100_000) for name in "bcb"]
    assert [int(array.sum()) for array in get(refs)] == [100_000] * 3
    assert nodes.objects() == [3, 2, 1]
    refs.pop()
    until(lambda: nodes.objects() == [2, 1, 1], "one object less everywhere")


def test_refs_in_a_result_survive_their_container_and_their_makers(nodes, shoal_session):
    inner = get(on("b", put_ones).remote(10))
    with pytest.raises(shoal.exceptions.WorkerCrashedError):
        get(on("b", leave).options(max_retries=0).remote())
    assert [int(array[0]) for array in get(inner)] == list(range(10))
    assert get(on("c", kept_after).remote(inner[3:5])) == [3, 4]


@shoal.remote
def kept_after(refs):
    return [int(array[0]) for array in shoal.get(refs)]


def test_containers_in_containers(nodes, shoal_session):
    [ref] = get(on("b", nest).remote(3))
    get(on("c", keep).remote([ref]))
    del ref
    gc.collect()
    [ref] = get(on("c", give_kept).remote())
    for _ in range(3):
        [ref] = get(ref)
    assert int(get(ref).sum()) == 20_000


def test_small_values_and_pending_results_that_cross_nodes(nodes, shoal_session):
    small = shoal.put("small")
    pending = on("c", ones).remote(20_000)
    get(on("b", keep).remote([small, pending]))
    del small, pending
    gc.collect()
    small, pending = get(on("b", give_kept).remote())
    assert (get(small), int(get(pending).sum())) == ("small", 20_000)


def test_wait_leaves_objects_where_they_are_or_brings_them_here(nodes, shoal_session):
    refs = [on(name, ones).remote(50_000 + len(name)) for name in "bcbc"]
    ready, rest = shoal.wait(refs, num_returns=4, timeout=TIMEOUT_S, fetch_local=False)
    assert (ready, rest) == (refs, [])
    assert nodes.objects() == [0, 2, 2]
    borrowed = get(on("b", give).remote(refs[1:2]))
    ready, rest = shoal.wait(borrowed, timeout=TIMEOUT_S, fetch_local=False)
    assert (ready, rest) == (borrowed, [])
    assert shoal.wait(refs[:1], timeout=0, fetch_local=False) == (refs[:1], [])
    assert nodes.objects()[0] == 0
    ready, rest = shoal.wait(refs, num_returns=3, timeout=TIMEOUT_S)
    assert len(ready) == 3
    assert nodes.objects()[0] >= 3
    assert shoal.wait(rest, timeout=TIMEOUT_S) == (rest, [])
    assert nodes.objects()[0] == 4
    assert shoal.wait(refs, num_returns=4, timeout=0) == (refs, [])


@shoal.remote
def give(refs):
    return refs


def test_a_driver_that_dies_leaves_nothing(nodes, shoal_session):
    import subprocess
    import sys

    code = """
import os, shoal, numpy as np
shoal.init(os.environ["ADDRESS"])
@shoal.remote
def ones(ref):
    return [shoal.put(np.ones(20_000)), *ref]
mine = shoal.put(np.ones(20_000))
refs = [ones.options(resources={name: 1}).remote([mine]) for name in "bc"]
shoal.wait(refs, num_returns=2)
print("ready", flush=True)
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "ADDRESS": nodes.cluster.address}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False, timeout=TIMEOUT_S
    )
    assert done.stdout == b"ready\n", done.stderr
    assert done.returncode == -signal.SIGKILL
    nodes.all_gone()


@shoal.remote(max_retries=0)
def slow():
    import time

    time.sleep(60)


@shoal.remote
def give_pending():
    """A ref whose task is under way, and whose owner is this worker."""
    return [on("c", slow).remote()]


def test_a_pending_ref_whose_owner_dies_fails_on_every_node(nodes, shoal_session):
    [pending] = get(on("b", give_pending).remote())
    assert shoal.wait([pending], timeout=0.1) == ([], [pending])
    with pytest.raises(shoal.exceptions.WorkerCrashedError):
        get(on("b", leave).options(max_retries=0).remote())
    with pytest.raises(shoal.exceptions.ObjectLostError):
        get(pending)
