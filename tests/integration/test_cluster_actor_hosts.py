"""Actors whose hosts are slow, or die, also while the actors are killed: each test has nodes of its own."""

import os
import signal
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest

import shoal
from clusteractors import Counter, at, node_named, three_nodes
from marks import until
from shoal.exceptions import ActorDiedError, ActorUnavailableError, TaskError

# Where no node dies these would be wrong: one that only is slow would be taken for dead.
FAST_DEATHS = {"heartbeat_ms": 200, "node_suspect_ms": 600, "node_dead_ms": 1500}


@pytest.fixture
def cluster(request, no_leaks):
    """Three nodes of the test's own; its parameter: the system_config."""
    with three_nodes(request.param) as cluster:
        yield cluster


@pytest.mark.parametrize("cluster", [{"query_ms_max": 50}], indirect=True, ids=["impatient with people"])
def test_the_host_of_a_named_actor_may_be_slow(cluster):
    """A handle takes as long as its host needs to give it: it does not mean that there is no such actor."""
    counter = Counter.options(name="slow", **at("one")).remote(1)
    shoal.get(counter.add.remote())
    host = cluster.nodes[1].process  # "one"; to ask all nodes for their names takes patience
    with ThreadPoolExecutor(2) as pool:
        os.kill(host.pid, signal.SIGSTOP)
        try:
            finding = pool.submit(shoal.get_actor, "slow")
            making = pool.submit(Counter.options(name="slow", get_if_exists=True).remote, 100)
            assert not wait([finding, making], timeout=0.5, return_when=FIRST_COMPLETED).done
        finally:
            os.kill(host.pid, signal.SIGCONT)
        assert shoal.get(finding.result().add.remote()) == 3
        assert shoal.get(making.result().add.remote()) == 4


@shoal.remote
def find(name, head):
    """What `get_actor` says while the head's process stands still."""
    os.kill(head, signal.SIGSTOP)
    try:
        shoal.get_actor(name)
    finally:
        os.kill(head, signal.SIGCONT)


@pytest.mark.parametrize(
    "cluster", [{"head_call_ms_max": 1000}], indirect=True, ids=["impatient with the head"]
)
def test_that_the_head_does_not_answer_does_not_mean_that_there_is_no_such_actor(cluster):
    head = cluster.nodes[0].process.pid
    with pytest.raises(TaskError) as caught:
        shoal.get(find.options(**at("one")).remote("anybody", head), timeout=60)
    assert isinstance(caught.value, ActorUnavailableError)
    assert "the head does not say" in str(caught.value)
    until(says_that_there_is_none)


def says_that_there_is_none():
    """Asked again if the head, of which this cluster is impatient, did not answer in time."""
    try:
        shoal.get_actor("anybody")
    except ActorUnavailableError:
        return False
    except ValueError as error:
        return "there is no actor named 'anybody'" in str(error)
    raise AssertionError("there is one")


def kill_node(cluster, name):
    """A machine is gone: the daemon and its workers, without a word."""
    node = node_named(cluster, name)
    os.kill(node.process.pid, signal.SIGKILL)
    node.process.wait()
    cluster.forget(node)
    return node


@pytest.mark.parametrize("cluster", [FAST_DEATHS], indirect=True, ids=["fast deaths"])
def test_when_its_node_dies_it_goes_to_another_one_if_it_may(cluster):
    moves = Counter.options(max_restarts=1, max_task_retries=-1, resources={"either": 0.1})
    for name in ("three", "four"):
        cluster.add_node(num_cpus=1, resources={"either": 1}, name=name, system_config=FAST_DEATHS)
    mover = moves.remote(7)
    stays = Counter.options(max_restarts=0, resources={"either": 0.1}).remote()
    node, _ = shoal.get(mover.where.remote())
    shoal.get(stays.where.remote())
    there = shoal.get(stays.where.remote())[0]
    name = next(row["NodeName"] for row in shoal.nodes() if row["NodeID"] == node)
    kill_node(cluster, name)
    other, _ = shoal.get(mover.where.remote(), timeout=60)
    assert other != node
    assert shoal.get(mover.add.remote()) == 8
    if there == node:
        with pytest.raises((ActorDiedError, ActorUnavailableError), match="node"):
            shoal.get(stays.add.remote(), timeout=60)


@pytest.mark.parametrize("cluster", [FAST_DEATHS], indirect=True, ids=["fast deaths"])
@pytest.mark.parametrize("first", ["the kill", "the death"])
def test_an_actor_that_was_killed_does_not_come_back_when_its_node_dies(cluster, first):
    """Its host stands still: it never hears of the kill, and is gone before it could."""
    moves = Counter.options(
        max_restarts=-1, max_task_retries=-1, name="killed", lifetime="detached", resources={"either": 0.1}
    )
    for name in ("three", "four"):
        cluster.add_node(num_cpus=1, resources={"either": 1}, name=name, system_config=FAST_DEATHS)
    actor = moves.remote(7)
    node, _ = shoal.get(actor.where.remote())
    name = next(row["NodeName"] for row in shoal.nodes() if row["NodeID"] == node)
    if first == "the kill":
        os.kill(node_named(cluster, name).process.pid, signal.SIGSTOP)
        shoal.kill(actor)
    kill_node(cluster, name)
    if first == "the death":
        shoal.kill(actor)
    with pytest.raises(ActorDiedError, match=r"killed by shoal.kill\(\) in driver \d+ on node [0-9a-f]{8}"):
        shoal.get(actor.add.remote(), timeout=60)
    other = moves.remote(100)  # the name is free
    assert shoal.get(other.add.remote(), timeout=60) == 101
    assert shoal.get(shoal.get_actor("killed").add.remote()) == 102
    until(lambda: not is_alive(node))
    with pytest.raises(ActorDiedError, match="killed"):
        shoal.get(actor.add.remote(), timeout=60)
    shoal.kill(other)


def is_alive(node):
    return any(row["NodeID"] == node and row["Alive"] for row in shoal.nodes())


@shoal.remote
def kill_unheard(actor, *stopped):
    """Kill an actor while these processes stand still, for as long as the killer waits."""
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        shoal.kill(actor)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


IMPATIENT = {"head_call_ms_max": 100, "actor_unknown_ms": 100, "actor_kill_ms_max": 500}


@pytest.mark.parametrize("cluster", [IMPATIENT], indirect=True, ids=["impatient with the head"])
def test_a_kill_that_nobody_hears_of_reaches_the_head_later(cluster):
    actor = Counter.options(max_restarts=-1, **at("two")).remote(7)
    _, pid = shoal.get(actor.where.remote())
    head, host = (cluster.nodes[number].process.pid for number in (0, 2))
    shoal.get(kill_unheard.options(**at("one")).remote(actor, head, host), timeout=60)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    with pytest.raises(ActorDiedError, match=r"killed by shoal.kill\(\) in worker"):
        shoal.get(actor.add.remote(), timeout=60)
