"""Questions of people about all nodes: lists, memory, status and why, asked at any node; who does not answer is named."""

import os
import signal

import numpy as np
import pytest

import shoal
from marks import Marks
from nodeclient import until
from shoal.control import request
from shoal.testing import Cluster
from twonodes import two_nodes


@pytest.fixture
def nodes(no_leaks):
    """A driver's node without CPUs, and another with two."""
    with two_nodes(resources={"disk": 1}) as nodes:
        yield nodes


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


def ask(node, method, **params):
    return request(node.socket, node.secret, method, {"cluster": True, **params})


@shoal.remote
def hold(marks):
    marks.add("held")
    marks.wait("release")


@shoal.remote
def parent(marks):
    return shoal.get(hold.options(resources={"disk": 1}).remote(marks))  # not in place


def test_lists_are_about_all_nodes_wherever_they_are_asked(nodes, marks):
    head, other = nodes
    ref = hold.remote(marks)
    marks.wait("held")
    for node in nodes:
        busy = [row for row in ask(node, "workers")["rows"] if row["state"] == "leased"]
        assert [row["node_id"] for row in busy] == [other.node_id]
        submitter = busy[0]["submitter"]
        assert submitter.startswith(f"driver {os.getpid()} "), "as its own node calls it"
        assert submitter.endswith(f" on node {head.node_id[:8]}")
        [task] = [row for row in ask(node, "tasks")["rows"] if row["id"] == ref.hex()]
        assert task["worker_node"] == other.node_id
        assert task["worker_pid"] == busy[0]["pid"]
        assert task["node_id"] == head.node_id, "where its owner is"
        assert [row["node_id"] for row in ask(node, "jobs")["rows"]] == [head.node_id]
    marks.add("release")
    shoal.get(ref)


def test_memory_is_about_all_nodes(nodes):
    head, other = nodes
    kept = shoal.put(np.zeros(10**6))
    for node in nodes:
        answer = until(lambda node=node: _with_rows(ask(node, "memory")), "the object is listed")
        assert {each["node_id"] for each in answer["nodes"]} == {head.node_id, other.node_id}
        assert answer["silent"] == []
        [row] = [row for each in answer["nodes"] for row in each["rows"]]
        assert row["id"] == kept.hex()


def _with_rows(answer):
    return answer if any(each["rows"] for each in answer["nodes"]) else None


def test_status_has_the_figures_of_now(nodes, marks):
    head, other = nodes
    ref = hold.remote(marks)
    marks.wait("held")
    for node in nodes:
        table = {row["node_id"]: row for row in ask(node, "status")["nodes"]}
        assert table[other.node_id]["available"]["CPU"] == 1.0
        assert table[head.node_id]["state"] == "ALIVE"
    marks.add("release")
    shoal.get(ref)


def test_why_follows_tasks_to_other_nodes(nodes, marks):
    ref = parent.remote(marks)
    marks.wait("held")
    for node in nodes:
        rows = until(lambda node=node: _chain(node, ref), "the child is in the chain")
        lines = [line for row in rows for line in row["lines"]]
        assert any("runs at worker" in line for line in lines)
        assert any("'hold'" in line for line in lines), lines
    marks.add("release")
    shoal.get(ref)


def _chain(node, ref):
    rows = ask(node, "why", id=ref.hex())["rows"]
    return rows if any("hold" in line for row in rows for line in row.get("lines", ())) else None


def told(node, ref):
    return [line for row in ask(node, "why", id=ref.hex())["rows"] for line in row.get("lines", ())]


@shoal.remote
def np_ones(count):
    return np.ones(count)


@shoal.remote(resources={"disk": 1})
def put_there():
    return [shoal.put(np.ones(50_000))]


def test_why_says_on_which_node_an_object_is(nodes):
    head, other = nodes
    ref = np_ones.options(resources={"disk": 1}).remote(50_000)
    shoal.wait([ref], fetch_local=False)
    assert told(head, ref) == [f"object {ref.hex()} is there, in the store of node {other.node_id[:6]}…"]
    [inner] = shoal.get(put_there.remote())
    [line] = told(head, inner)
    assert f"is borrowed from a process of node {other.node_id[:6]}…" in line
    value = shoal.get(ref)
    assert told(head, ref) == [f"object {ref.hex()} is there, in the store"]
    del value


@shoal.remote
def length(array):
    return len(array)


def test_why_of_a_task_says_that_its_argument_has_no_room(no_leaks):
    config = {"spilling": False, "store_full_wait_ms": 3_600_000, "store_relief_wait_ms": 3_600_000}
    store = 64 * 2**20
    with Cluster(
        num_cpus=1, object_store_memory=store, resources={"here": 1}, system_config=config
    ) as cluster:
        cluster.add_node(num_cpus=1, resources={"there": 1})
        shoal.init(cluster.address)
        try:
            kept = [shoal.get(shoal.put(np.ones(store // 80))) for _ in range(8)]
            far = np_ones.options(resources={"there": 1}).remote(store // 20)
            task = length.options(resources={"here": 1}).remote(far)
            until(lambda: any("wait for room" in line for line in told(cluster.head, task)), "why it waits")
            lines = told(cluster.head, task)
            assert any(f"s here for object {far.hex()}, which is " in line for line in lines), lines
            assert any("of its 67.11 MB are free" in line for line in lines)
            del kept
            assert shoal.get(task) == store // 20
        finally:
            shoal.shutdown()


@shoal.remote
class Inward:
    def ask_itself(self):
        return shoal.get(shoal.get_runtime_context().current_actor.answer.remote())

    def answer(self):
        pass


@shoal.remote
def through(actor):
    return shoal.get(actor.ask_itself.remote())


def test_a_deadlock_on_another_node_is_told(nodes):
    actor = Inward.options(resources={"disk": 1}).remote()
    ref = through.remote(actor)

    def deadlocks(node):
        found = ask(node, "why", id=ref.hex())["rows"]
        return [row["lines"] for row in found if "this is a deadlock" in str(row.get("lines"))]

    for node in nodes:
        [told] = until(lambda node=node: deadlocks(node), "the deadlock")
        assert "Inward.ask_itself waits for Inward.answer" in told[0]
    shoal.kill(actor)


def test_a_node_that_does_not_answer_is_named(nodes):
    head, other = nodes
    os.kill(other.pid, signal.SIGSTOP)
    try:
        answer = ask(head, "workers")
    finally:
        os.kill(other.pid, signal.SIGCONT)
    assert len(answer["silent"]) == 1
    assert other.node_id[:8] in answer["silent"][0]
    assert {row["node_id"] for row in answer["rows"]} <= {head.node_id}
