"""What a dead node had is made again by running its tasks again; what cannot be says why."""

import os
import signal

import numpy as np
import pytest

import shoal
from shoal.exceptions import ObjectLostError, ObjectReconstructionFailedError
from shoal.testing import Cluster

SETTINGS = {"heartbeat_ms": 200, "node_suspect_ms": 600, "node_dead_ms": 1500}
SIZE = 50_000  # float64: 400 kB, a stored object


@pytest.fixture
def cluster():
    """The driver's node without a CPU for tasks, and two others, "one" and "two", that both have "work"."""
    with Cluster(num_cpus=0, system_config=SETTINGS) as cluster:
        for name in ("one", "two"):
            cluster.add_node(num_cpus=1, resources={name: 1, "work": 1}, name=name, system_config=SETTINGS)
        shoal.init(cluster.address)
        yield cluster
        shoal.shutdown()


def kill_node(cluster, node_id):
    """The machine is gone."""
    (node,) = [node for node in cluster.nodes if node.node_id == node_id]
    os.kill(node.process.pid, signal.SIGKILL)
    node.process.wait()
    cluster.forget(node)


@shoal.remote
def make(seed, marks):
    with open(marks, "a") as file:
        print(seed, file=file)
    return np.full(SIZE, float(seed)), shoal.get_runtime_context().get_node_id()


@shoal.remote(num_returns=2)
def make_two(seed, marks):
    with open(marks, "a") as file:
        print(seed, file=file)
    return np.full(SIZE, float(seed)), shoal.get_runtime_context().get_node_id()


@shoal.remote
def add_one(array, marks):
    with open(marks, "a") as file:
        print("add", file=file)
    return array + 1


def ran(marks):
    return marks.read_text().split()


def test_a_result_whose_node_died_is_made_again(cluster, tmp_path):
    marks = tmp_path / "marks"
    array, node = make_two.remote(7, str(marks))
    shoal.wait([array, node], num_returns=2, fetch_local=False)
    kill_node(cluster, shoal.get(node))
    assert shoal.get(array, timeout=60).sum() == 7 * SIZE
    assert ran(marks) == ["7", "7"]


def test_a_chain_of_results_is_made_again_though_its_links_were_freed(cluster, tmp_path):
    marks = tmp_path / "marks"
    value, node = make_two.options(resources={"one": 0.1}).remote(0, str(marks))
    first = shoal.get(node)
    for _ in range(5):
        value = add_one.options(resources={"work": 0.1}).remote(value, str(marks))
        shoal.wait([value], fetch_local=False)
    more = make_two.options(resources={"one": 0.1}).remote(9, str(marks))
    shoal.wait(more, num_returns=2, fetch_local=False)
    kept = add_one.options(resources={"two": 0.1}).remote(np.zeros(SIZE), str(marks))
    assert shoal.get(kept).sum() == SIZE
    # The first task is bound to the node that dies: it waits until such a node is there again.
    kill_node(cluster, first)
    cluster.add_node(num_cpus=1, resources={"one": 1, "work": 1}, name="one again", system_config=SETTINGS)
    assert shoal.get(value, timeout=60).sum() == 5 * SIZE
    assert shoal.get(kept).sum() == SIZE


def test_an_argument_that_is_lost_is_made_again_for_its_task(cluster, tmp_path):
    marks = tmp_path / "marks"
    array, node = make_two.remote(3, str(marks))
    shoal.wait([array, node], num_returns=2, fetch_local=False)
    kill_node(cluster, shoal.get(node))
    assert shoal.get(add_one.remote(array, str(marks)), timeout=60).sum() == 4 * SIZE


def test_what_was_put_on_a_dead_node_says_that_it_cannot_be_made_again(cluster):
    @shoal.remote
    def put():
        return shoal.put(np.ones(SIZE)), shoal.get_runtime_context().get_node_id()

    ref, node = shoal.get(put.remote())
    kill_node(cluster, node)
    with pytest.raises(ObjectLostError):
        shoal.get(ref, timeout=60)


def test_a_task_that_may_not_run_again_does_not(cluster, tmp_path):
    marks = tmp_path / "marks"
    array, node = make_two.options(max_retries=0).remote(5, str(marks))
    shoal.wait([array, node], num_returns=2, fetch_local=False)
    kill_node(cluster, shoal.get(node))
    with pytest.raises(ObjectLostError, match="max_retries=0"):
        shoal.get(array, timeout=60)
    assert ran(marks) == ["5"]
    assert issubclass(ObjectReconstructionFailedError, ObjectLostError)


@shoal.remote(num_returns="streaming", resources={"work": 0.1}, num_cpus=0)
def items(marks):
    """The node, then arrays without an end."""
    with open(marks, "a") as file:
        print("run", file=file)
    yield shoal.get_runtime_context().get_node_id()
    number = 0
    while True:
        yield np.full(SIZE, float(number))
        number += 1


def test_items_of_a_generator_whose_node_died_are_made_again(cluster, tmp_path):
    marks = tmp_path / "marks"
    generator = items.remote(str(marks))
    refs = [next(generator) for _ in range(4)]
    generator.close()
    node = shoal.get(refs[0])
    shoal.wait(refs, num_returns=len(refs), fetch_local=False)
    del refs[2]
    kill_node(cluster, node)
    assert shoal.get(refs[2], timeout=60)[0] == 2.0
    assert shoal.get(refs[1], timeout=60)[0] == 0.0
    assert shoal.get(refs[0]) == node, "it was small, and is here"
    assert set(ran(marks)) == {"run"}
