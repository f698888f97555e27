"""A node whose store is full fetches objects of others all the same."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import shoal
from nodeclient import until
from shoal.control import request
from shoal.exceptions import ObjectStoreFullError
from shoal.testing import Cluster

TIMEOUT_S = 60
MIB = 1024**2


def get(refs):
    return shoal.get(refs, timeout=TIMEOUT_S)


@shoal.remote
def make(count):
    return np.arange(count, dtype=np.float64)


@shoal.remote
def element(array, index):
    return float(array[index])


def test_a_full_store_makes_room_for_what_is_fetched():
    """What was made there is spilled, what was fetched before is dropped, and all of it can still be read."""
    with Cluster(num_cpus=0) as cluster:
        other = cluster.add_node(object_store_memory=64 * MIB)
        shoal.init(cluster.address)
        try:
            held = [make.remote(1_250_000) for _ in range(6)]
            get([element.remote(ref, 7) for ref in held])
            for number in range(3):
                array = np.full(30 * MIB, number, np.uint8)
                assert get(element.remote(shoal.put(array), -1)) == number
            found = request(other.socket, other.secret, "memory", {"scope": "node"})["stats"]
            assert found["fetches"] == 3
            assert found["spilled"] > 0
            assert get([element.remote(ref, 7) for ref in held]) == [7.0] * 6
        finally:
            shoal.shutdown()


@shoal.remote
def total(*arrays):
    return sum(float(array[0]) for array in arrays)


def test_tasks_that_have_half_of_their_arguments_each_do_not_wait_for_each_other():
    """Three arguments fit at a time, and a little; of each task's one is there, and two come from another node."""
    size = 6_000_000 // 8
    with Cluster(num_cpus=0) as cluster:
        cluster.add_node(num_cpus=4, object_store_memory=25_000_000, resources={"small": 1000})
        shoal.init(cluster.address)
        try:
            near = [make.options(resources={"small": 1}).remote(size) for _ in range(4)]
            shoal.wait(near, num_returns=4, fetch_local=False)
            far = [shoal.put(np.full(size, float(number))) for number in range(8)]
            sums = [
                total.options(resources={"small": 1}).remote(near[n], far[2 * n], far[2 * n + 1])
                for n in range(4)
            ]
            assert get(sums) == [float(4 * n + 1) for n in range(4)]
        finally:
            shoal.shutdown()


def ids_at(node):
    return {row["id"] for row in request(node.socket, node.secret, "memory", {})["rows"]}


@shoal.remote
class Holder:
    """Looks at what it was given for as long as it lives."""

    def __init__(self):
        self.views = []

    def look(self, *arrays):
        self.views += arrays
        return len(self.views)


@shoal.remote
def element_of(refs, index):
    return float(shoal.get(refs[0], timeout=TIMEOUT_S)[index])


def test_what_finds_no_room_between_views_is_received_into_a_file():
    """Arguments, and what a task gets; another node reads it there when its maker's is gone, and it goes with its last ref."""
    config = {"store_full_wait_ms": 300.0, "heartbeat_ms": 200, "node_suspect_ms": 600, "node_dead_ms": 1500}
    with Cluster(num_cpus=0, system_config=config) as cluster:
        maker = cluster.add_node(num_cpus=1, resources={"maker": 1})
        small = cluster.add_node(num_cpus=2, object_store_memory=24_000_000, resources={"small": 10})
        shoal.init(cluster.address)
        try:
            here = {"small": 1}
            near = [make.options(resources=here).remote(500_000) for _ in range(5)]
            holder = Holder.options(resources=here).remote()
            assert get(holder.look.remote(*near)) == 5
            far = [make.options(resources={"maker": 1}).remote(750_000) for _ in range(2)]
            assert get(element.options(resources=here).remote(far[0], -1)) == 749_999.0
            assert get(element_of.options(resources=here).remote([far[1]], 7)) == 7.0
            found = request(small.socket, small.secret, "memory", {"scope": "node"})
            assert found["stats"]["fetched_into_files"] == 2
            rows = {row["id"]: (row["disk_bytes"], row["allocated_bytes"]) for row in found["rows"]}
            assert [rows[ref.hex()] for ref in far] == [(6_000_128, 0)] * 2
            os.kill(maker.process.pid, signal.SIGKILL)
            maker.process.wait()
            cluster.forget(maker)
            assert get(far[0])[-1] == 749_999.0
            assert get(element.options(resources=here).remote(far[1], -1)) == 749_999.0
            gone = [ref.hex() for ref in far]
            del far
            until(lambda: not ids_at(small).intersection(gone))
        finally:
            shoal.shutdown()


@pytest.mark.parametrize("retries", [0, 1])
def test_a_file_that_somebody_removed_is_a_lost_copy_for_other_nodes_too(retries):
    """Where there is no room to read it, its node sends it out of the file."""
    with Cluster(num_cpus=0) as cluster:
        small = cluster.add_node(num_cpus=2, object_store_memory=24_000_000, resources={"small": 10})
        shoal.init(cluster.address)
        try:
            here = make.options(resources={"small": 1}, max_retries=retries)
            near = [here.remote(500_000) for _ in range(5)]
            holder = Holder.options(resources={"small": 1}).remote()
            assert get(holder.look.remote(*near)) == 5
            ref = here.remote(750_000)
            shoal.wait([ref], fetch_local=False, timeout=TIMEOUT_S)
            file = max(Path(small.session_dir).glob("spill/*/*.spill"), key=lambda each: each.stat().st_size)
            file.unlink()
            if retries:
                assert get(ref)[-1] == 749_999.0
            else:
                with pytest.raises(shoal.exceptions.ObjectLostError, match=r"no node has it.* max_retries=0"):
                    get(ref)
        finally:
            shoal.shutdown()


def test_why_and_the_error_tell_of_which_node_is_full():
    config = {"spilling": False, "pull_room_tries_max": 1}
    with Cluster(num_cpus=0, system_config=config) as cluster:
        small = cluster.add_node(num_cpus=2, object_store_memory=24_000_000, system_config=config)
        shoal.init(cluster.address)
        try:
            holder = Holder.remote()
            assert get(holder.look.remote(*[make.remote(500_000) for _ in range(5)])) == 5
            far = shoal.put(np.zeros(750_000))
            result = element_of.remote([far], 7)

            def told():
                rows = request(small.socket, small.secret, "why", {"id": result.hex()})["rows"]
                lines = [line for row in rows for line in row.get("lines", ())]
                return any("node" in line and "wait for room in this node's store" in line for line in lines)

            until(told)
            with pytest.raises(
                ObjectStoreFullError, match=f"the object store of node {small.node_id[:8]}: of"
            ):
                get(result)
        finally:
            shoal.shutdown()
