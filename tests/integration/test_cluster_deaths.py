"""Nodes that die, are paused or were declared dead, while tasks run on them."""

import os
import signal
import time

import pytest

import shoal
from marks import Marks
from nodeclient import until
from shoal.exceptions import NodeDiedError, TaskCancelledError
from shoal.testing import Cluster

TIMEOUT_S = 30
FAST_DEATHS = {"node_dead_ms": 1500.0, "node_suspect_ms": 700.0, "heartbeat_ms": 200.0}


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


def get(refs):
    return shoal.get(refs, timeout=TIMEOUT_S)


@shoal.remote
def where():
    return shoal.get_runtime_context().get_node_id()


@pytest.fixture
def dying(no_leaks):
    """A driver on a node without CPUs, and two that can be killed."""
    with Cluster(num_cpus=0, system_config=FAST_DEATHS) as cluster:
        nodes = [cluster.add_node(num_cpus=1, system_config=FAST_DEATHS) for _ in range(2)]
        shoal.init(cluster.address)
        try:
            yield {node.node_id: node for node in nodes}
        finally:
            shoal.shutdown()


@shoal.remote
def stay(marks, name, first):
    """Waits on the first node it runs on; elsewhere it ends at once."""
    node = shoal.get_runtime_context().get_node_id()
    marks.add(f"{name}-{node}")
    if not marks.count(first):
        marks.add(first)
        time.sleep(60)
    return node


def _node_of(marks, name, nodes):
    return until(lambda: next((each for each in nodes if marks.count(f"{name}-{each}")), None), name)


def test_tasks_of_a_node_that_dies_run_elsewhere(dying, marks):
    nodes = dying
    ref = stay.remote(marks, "task", "once")
    victim = _node_of(marks, "task", nodes)
    os.kill(nodes[victim].pid, signal.SIGKILL)
    assert get(ref) == next(node for node in nodes if node != victim)


def test_what_may_not_run_twice_fails_with_its_node(dying, marks):
    nodes = dying
    ref = stay.options(max_retries=0).remote(marks, "task", "once")
    victim = _node_of(marks, "task", nodes)
    os.kill(nodes[victim].pid, signal.SIGKILL)
    with pytest.raises(NodeDiedError) as caught:
        get(ref)
    assert caught.value.node == victim
    assert victim[:8] in str(caught.value)
    assert "stay" in str(caught.value)


def test_a_node_that_is_paused_loses_nothing(dying, marks):
    nodes = dying
    ref = stay.remote(marks, "task", "once")
    node = _node_of(marks, "task", nodes)
    os.kill(nodes[node].pid, signal.SIGSTOP)
    more = [where.remote() for _ in range(4)]  # what can, runs on the other
    time.sleep(0.5)  # shorter than what makes it dead: the pause is what is tested
    os.kill(nodes[node].pid, signal.SIGCONT)
    assert len(get(more)) == 4
    shoal.cancel(ref)
    with pytest.raises(TaskCancelledError):
        get(ref)
    assert marks.count(f"task-{node}") == 1


def test_a_node_that_was_declared_dead_ends_when_it_comes_back(dying, marks):
    nodes = dying
    ref = stay.remote(marks, "task", "once")
    victim = _node_of(marks, "task", nodes)
    os.kill(nodes[victim].pid, signal.SIGSTOP)
    assert get(ref) != victim
    os.kill(nodes[victim].pid, signal.SIGCONT)
    until(lambda: nodes[victim].process.poll() is not None, "the fenced node ends")
    assert get(where.remote()) != victim
