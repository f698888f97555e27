"""Nodes that leave in order: what runs there ends in peace, and nothing new begins there."""

import os
import signal
import subprocess
import sys

import pytest

import shoal
from marks import Marks
from nodeclient import until
from shoal.control import request
from shoal.testing import Cluster


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


# Of a node that is killed nothing is known until it counts as dead.
SETTINGS = {"heartbeat_ms": 400, "node_suspect_ms": 1500, "node_dead_ms": 3000}


@pytest.fixture
def nodes(no_leaks):
    """A driver on a node without CPUs, and two with one; yields these by id, and the head's."""
    with Cluster(num_cpus=0, system_config=SETTINGS) as cluster:
        nodes = [
            cluster.add_node(num_cpus=1, name=f"node-{number}", system_config=SETTINGS) for number in range(2)
        ]
        shoal.init(cluster.address)
        try:
            yield {node.node_id: node for node in nodes}, cluster.head
        finally:
            shoal.shutdown()


@shoal.remote
def where():
    return shoal.get_runtime_context().get_node_id()


@shoal.remote(max_retries=0)
def hold(marks):
    node = shoal.get_runtime_context().get_node_id()
    marks.add(f"held-{node}")
    marks.wait("release")
    return node


def holder(marks, nodes):
    return until(lambda: next((node for node in nodes if marks.count(f"held-{node}")), None), "it runs")


def get(refs):
    return shoal.get(refs, timeout=60)


def drain(head, *arguments):
    command = [sys.executable, "-m", "shoal", "drain", "--address", head.address, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_drained_node_gets_nothing_new_and_ends_what_it_has(nodes, marks):
    nodes, head = nodes
    ref = hold.remote(marks)
    draining = holder(marks, nodes)
    other = next(node for node in nodes if node != draining)
    done = drain(head, nodes[draining].session.name)
    assert done.returncode == 0, done.stderr
    assert "1 workers run tasks" in done.stdout
    assert get([where.remote() for _ in range(6)]) == [other] * 6
    marks.add("release")
    assert get(ref) == draining
    assert drain(head, draining[:12], "--wait", "20").stdout.endswith("nothing runs there\n")
    assert get([where.remote() for _ in range(6)]) == [other] * 6
    rows = request(head.socket, head.secret, "nodes", {})["rows"]
    assert [row["draining"] for row in rows if row["node_id"] == draining] == [True]


def test_a_node_that_nobody_knows_cannot_be_drained(nodes):
    done = drain(nodes[1], "nobody")
    assert done.returncode == 1
    assert "no node is called 'nobody'" in done.stderr


def test_sigterm_drains_and_then_ends_the_node(nodes, marks):
    nodes, head = nodes
    ref = hold.remote(marks)
    leaving = holder(marks, nodes)
    os.kill(nodes[leaving].pid, signal.SIGTERM)
    other = next(node for node in nodes if node != leaving)
    until(lambda: _draining(head, leaving), "the head knows")
    assert get([where.remote() for _ in range(6)]) == [other] * 6
    assert nodes[leaving].process.poll() is None
    marks.add("release")
    assert get(ref) == leaving
    until(lambda: nodes[leaving].process.poll() is not None, "the node has left")
    assert get(where.remote()) == other


def _draining(head, node_id):
    rows = request(head.socket, head.secret, "nodes", {})["rows"]
    return any(row["draining"] for row in rows if row["node_id"] == node_id)


def test_a_second_sigterm_does_not_wait(nodes, marks):
    nodes, head = nodes
    hold.remote(marks)
    leaving = holder(marks, nodes)
    os.kill(nodes[leaving].pid, signal.SIGTERM)
    until(lambda: _draining(head, leaving), "the head knows")
    os.kill(nodes[leaving].pid, signal.SIGTERM)
    until(lambda: nodes[leaving].process.poll() is not None, "the node has left")
    marks.add("release")


# --- objects ---


@shoal.remote(max_retries=0)
def make(fill):
    """An array that only this node has, and one that only that array's container refers to."""
    import numpy as np

    return np.full(200_000, fill), shoal.put(np.full(150_000, fill + 1))


@pytest.mark.parametrize("way", ["sigterm", "drain"])
def test_what_only_the_node_has_is_moved_before_it_goes(nodes, way):
    nodes, head = nodes
    refs = [make.remote(float(number)) for number in range(8)]
    assert len(shoal.wait(refs, num_returns=8, timeout=60, fetch_local=False)[0]) == 8
    places = {node: request(nodes[node].socket, nodes[node].secret, "memory", {})["rows"] for node in nodes}
    leaving = max(nodes, key=lambda node: len(places[node]))
    assert places[leaving], "nothing to move"
    if way == "drain":
        assert drain(head, leaving, "--wait", "20").returncode == 0
        until(lambda: "is drained" in _log(nodes[leaving]), "all was moved")
        os.kill(nodes[leaving].pid, signal.SIGKILL)
    else:
        os.kill(nodes[leaving].pid, signal.SIGTERM)
    until(lambda: nodes[leaving].process.poll() is not None, "the node has left")
    for number, ref in enumerate(refs):
        array, inner = get(ref)
        assert array[0] == array[-1] == number
        assert get(inner)[0] == number + 1


def test_what_a_node_took_is_moved_again_when_it_dies_before_the_leaving_one_goes(no_leaks):
    with Cluster(num_cpus=0, system_config=SETTINGS) as cluster:
        leaving = cluster.add_node(num_cpus=1, system_config=SETTINGS)
        roomy = cluster.add_node(num_cpus=0, object_store_memory=2**30, system_config=SETTINGS)
        shoal.init(cluster.address)
        try:
            ref = make.remote(1.0)
            assert shoal.wait([ref], timeout=60, fetch_local=False)[0]
            assert drain(cluster.head, leaving.node_id, "--wait", "20").returncode == 0
            until(lambda: "is drained" in _log(leaving), "all was moved")
            assert f"go to node {roomy.node_id[:8]}" in _log(leaving)
            os.kill(roomy.pid, signal.SIGKILL)
            until(lambda: f"go to node {cluster.head.node_id[:8]}" in _log(leaving), "they go to another")
            os.kill(leaving.pid, signal.SIGTERM)
            until(lambda: leaving.process.poll() is not None, "the node has left")
            array, inner = get(ref)
            assert array[0] == 1.0
            assert get(inner)[0] == 2.0
        finally:
            shoal.shutdown()


def _log(node):
    with open(os.path.join(node.session_dir, "logs", "node.log"), encoding="utf-8") as file:
        return file.read()


# --- actors ---


@shoal.remote(max_restarts=1)
class Counter:
    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1
        return self.count

    def where(self):
        return shoal.get_runtime_context().get_node_id()

    def hold(self, marks):
        marks.add("actor-holds")
        marks.wait("release-actor")
        return self.where()


def test_an_actor_that_may_restart_moves_when_its_node_drains_after_the_call_that_runs(nodes, marks):
    nodes, head = nodes
    actor = Counter.remote()
    before = get(actor.where.remote())
    held = actor.hold.remote(marks)
    marks.wait("actor-holds")
    behind = [actor.add.remote() for _ in range(20)]
    assert drain(head, before).returncode == 0
    until(lambda: _draining(head, before), "the node knows")
    marks.add("release-actor")
    assert get(held) == before, "what ran has ended in peace"
    assert get(behind) == list(range(1, 21)), (
        "what was not begun runs on the other node, though it has no retries"
    )
    after = get(actor.where.remote())
    assert after in set(nodes) - {before}
    assert drain(head, before, "--wait", "20").stdout.endswith("nothing runs there\n")
    os.kill(nodes[before].pid, signal.SIGTERM)
    until(lambda: nodes[before].process.poll() is not None, "the node has left")
    assert get(actor.add.remote()) == 21


def test_an_actor_that_may_not_restart_stays_until_its_node_goes(nodes):
    nodes, head = nodes
    actor = Counter.options(max_restarts=0, name="stays").remote()
    before = get(actor.where.remote())
    done = drain(head, before, "--wait", "60")  # for what ends only
    assert done.returncode == 0, done.stderr
    assert (
        "nothing runs there; actors that may not restart stay until it is stopped: Counter stays"
        in done.stdout
    )
    until(lambda: _draining(head, before), "the node knows")
    assert get([where.remote() for _ in range(4)]) == [next(node for node in nodes if node != before)] * 4
    assert get(actor.where.remote()) == before
    os.kill(nodes[before].pid, signal.SIGTERM)
    until(lambda: nodes[before].process.poll() is not None, "the node has left")
    with pytest.raises(shoal.exceptions.ActorDiedError):
        get(actor.where.remote())
