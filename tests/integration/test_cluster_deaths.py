"""Nodes that die, are paused or were declared dead, while tasks run on them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

import shoal
from marks import Marks
from nodeclient import until
from shoal.control import request
from shoal.exceptions import NodeDiedError, TaskCancelledError
from shoal.testing import Cluster

TIMEOUT_S = 60
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
def dying(request, no_leaks):
    """A driver on a node without CPUs, and two that can be killed; its parameter: the system_config."""
    config = getattr(request, "param", FAST_DEATHS)
    with Cluster(num_cpus=0, system_config=config) as cluster:
        nodes = [cluster.add_node(num_cpus=1, system_config=config) for _ in range(2)]
        shoal.init(cluster.address)
        try:
            yield {node.node_id: node for node in nodes}
        finally:
            shoal.shutdown()


@shoal.remote
def stay(marks, name, first):
    """Waits on the first node it runs on; elsewhere it ends at once."""
    node = shoal.get_runtime_context().get_node_id()
    is_first = marks.add(first) == 0
    marks.add(f"{name}-{node}")  # last: who sees this may kill the node
    if is_first:
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


@pytest.mark.parametrize("dying", [{}], indirect=True, ids=["slow to be dead"])
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


# --- the node of a driver ---

DRIVER = """
import os, sys, time
import shoal
shoal.init({address!r})

@shoal.remote(resources={{"c": 1}})
def leaf(folder):
    open(os.path.join(folder, f"leaf.{{os.getpid()}}"), "w").close()
    time.sleep(600)

@shoal.remote(resources={{"b": 1}})
def parent(folder):
    return shoal.get(leaf.remote(folder))

shoal.get(parent.remote({folder!r}))
"""


@pytest.mark.parametrize("victim", ["driver", "node"])
def test_of_a_job_nothing_is_left_on_any_node(no_leaks, tmp_path, victim):
    """Its tasks run on two nodes, one of which knows its driver only by way of the other; its own is a third."""
    with Cluster(num_cpus=0, system_config=FAST_DEATHS) as cluster:
        others = [
            cluster.add_node(num_cpus=1, resources={name: 1}, system_config=FAST_DEATHS) for name in "bc"
        ]
        elsewhere = tempfile.mkdtemp(prefix="e-")
        secret = os.path.join(cluster.head.session_dir, "secret")
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER.format(address=cluster.address, folder=str(tmp_path))],
            env={
                **os.environ,
                "SHOAL_TEMP_DIR": elsewhere,
                "SHOAL_SECRET_FILE": secret,
                "SHOAL_HEARTBEAT_MS": "200",
            },
            stderr=subprocess.DEVNULL,
        )
        home_pid = 0
        try:
            until(lambda: list(tmp_path.glob("leaf.*")), "the leaf runs")
            assert [len(_busy(node)) for node in others] == [1, 1]
            known = {node.node_id for node in cluster.nodes}
            rows = request(cluster.head.socket, cluster.head.secret, "nodes", {})["rows"]
            [home] = [row for row in rows if row["node_id"] not in known]
            home_pid = home["pid"]
            os.kill(home_pid if victim == "node" else driver.pid, signal.SIGKILL)
            until(lambda: not any(_busy(node) for node in others), "the workers of its job are gone")
        finally:
            driver.kill()
            driver.wait()
            until(lambda: not _running(home_pid), "its node has ended")
            shutil.rmtree(elsewhere)


def _running(pid):
    return bool(pid) and psutil.pid_exists(pid)


def _busy(node):
    rows = request(node.socket, node.secret, "workers", {})["rows"]
    return [row for row in rows if row["job"]]


def test_many_tasks_survive_a_node_that_dies_among_them(dying, marks):
    """Some were sent ahead to its workers, some were running, some results were under way."""
    nodes = dying

    @shoal.remote(max_retries=5)
    def work(number):
        if number == 700:
            marks.add(f"there-{shoal.get_runtime_context().get_node_id()}")
        return number

    refs = [work.remote(number) for number in range(2000)]
    victim = _node_of(marks, "there", nodes)
    os.kill(nodes[victim].pid, signal.SIGKILL)
    refs += [work.remote(number) for number in range(2000, 4000)]
    assert get(refs) == list(range(4000))
