"""A node whose store is full fetches objects of others all the same."""

import numpy as np

import shoal
from shoal.control import request
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
