"""Objects and references when a node dies: copies elsewhere are used, what is lost says so, and nothing is left behind."""

import builtins
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import shoal
from nodeclient import until
from shoal.control import request
from shoal.exceptions import ObjectLostError, OwnerDiedError
from shoal.testing import Cluster

TIMEOUT_S = 60
FAST_DEATHS = {
    "node_dead_ms": 1500.0,
    "node_suspect_ms": 700.0,
    "heartbeat_ms": 200.0,
    "directory_grace_ms": 300.0,
}


def get(refs):
    return shoal.get(refs, timeout=TIMEOUT_S)


def objects(node):
    return request(node.socket, node.secret, "memory", {})["stats"]["objects"]


# Nobody is called dead while a test runs.
NO_DEATHS = {"node_dead_ms": 3_600_000.0}


@pytest.fixture
def config():
    return FAST_DEATHS


@pytest.fixture
def nodes(no_leaks, config):
    """A driver on a node without CPUs; node "b", which is going to die, and node "c"."""
    with Cluster(num_cpus=0, system_config=config) as cluster:
        nodes = {"a": cluster.head}
        for name in "bc":
            nodes[name] = cluster.add_node(num_cpus=1, resources={name: 1}, system_config=config)
        shoal.init(cluster.address)
        try:
            yield nodes
        finally:
            shoal.shutdown()


def kill(node):
    """The node is gone, and everybody knows."""
    os.kill(node.pid, signal.SIGKILL)
    until(
        lambda: (node.node_id, "DEAD") in [(row["NodeID"], row["State"]) for row in shoal.nodes()],
        "its death",
    )


def on(name, task):
    return task.options(resources={name: 1})


@shoal.remote(max_retries=0)
def ones_once(size):
    return np.ones(size)


@shoal.remote
def put_ones(size):
    return [shoal.put(np.ones(size))]


@shoal.remote
def total(refs):
    return [int(array.sum()) for array in shoal.get(refs)]


@shoal.remote
def keep(refs):
    builtins.shoal_kept = refs


@shoal.remote
def kept_total():
    return [int(array.sum()) for array in shoal.get(builtins.shoal_kept)]


def test_a_copy_elsewhere_is_used(nodes):
    ref = on("b", ones_once).remote(50_000)
    assert int(get(ref).sum()) == 50_000
    kill(nodes["b"])
    assert int(get(ref).sum()) == 50_000
    assert get(on("c", total).remote([ref])) == [50_000]
    del ref
    until(lambda: not objects(nodes["a"]) and not objects(nodes["c"]), "empty stores")


def test_a_ref_outlives_the_node_of_its_owner(nodes):
    refs = get(on("b", put_ones).remote(50_000))
    get(on("c", keep).remote(refs))
    assert get(on("c", kept_total).remote()) == [50_000]
    del refs
    kill(nodes["b"])
    assert get(on("c", kept_total).remote()) == [50_000]


def test_refs_in_a_small_result_outlive_the_node_that_sealed_it(nodes):
    inner = shoal.put(np.ones(50_000))
    read, unread = on("b", same).remote([inner]), on("b", same).remote([inner])
    [again] = get(read)
    shoal.wait([unread], timeout=TIMEOUT_S)
    get(on("c", total).remote([inner]))
    del inner, read
    kill(nodes["b"])
    time.sleep(1)  # the head frees, if it does, after directory_grace_ms
    assert get(on("c", total).remote([again])) == [50_000]
    del again
    [inner] = get(unread)
    assert int(get(inner).sum()) == 50_000
    del inner, unread
    until(lambda: not objects(nodes["a"]) and not objects(nodes["c"]), "empty stores")


@shoal.remote(max_retries=0)
def same(refs):
    return refs


def test_what_only_the_dead_node_had_is_lost_and_says_so(nodes):
    [inner] = get(on("b", put_ones).remote(50_000))
    ref = on("b", ones_once).remote(50_000)
    shoal.wait([ref], fetch_local=False, timeout=TIMEOUT_S)
    kill(nodes["b"])
    with pytest.raises(OwnerDiedError, match=r"node .*died"):
        get(inner)
    with pytest.raises(ObjectLostError, match=r"node .*died|lost"):
        get(ref)
    with pytest.raises(ObjectLostError):
        get(on("c", total).remote([inner]))
    del inner, ref
    until(lambda: not objects(nodes["a"]) and not objects(nodes["c"]), "empty stores")


def two_copies():
    """An object that was made on b, and that c has read."""
    ref = on("b", ones_once).remote(50_000)
    assert get(on("c", total).remote([ref])) == [50_000]
    return ref


def states(node):
    return [row["State"] for row in shoal.nodes() if row["NodeID"] == node.node_id]


@pytest.mark.parametrize("config", [NO_DEATHS])
def test_a_copy_elsewhere_is_read_before_a_killed_node_counts_as_dead(nodes):
    ref = two_copies()
    os.kill(nodes["b"].pid, signal.SIGKILL)
    assert int(get(ref).sum()) == 50_000
    assert states(nodes["b"]) != ["DEAD"]


@pytest.mark.parametrize("config", [NO_DEATHS])
def test_a_question_does_not_stay_with_a_node_that_is_killed(nodes):
    ref = two_copies()
    os.kill(nodes["b"].pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        got = threads.submit(get, ref)
        until(lambda: asked(nodes["a"], nodes["b"], ref), "the question")
        os.kill(nodes["b"].pid, signal.SIGKILL)
        assert int(got.result().sum()) == 50_000
    assert states(nodes["b"]) != ["DEAD"]


def asked(node, other, ref):
    """Whether ``node`` has asked ``other`` for an object."""
    lines = str(request(node.socket, node.secret, "why", {"id": ref.hex()}))
    return f"asks node {other.node_id[:8]}" in lines
