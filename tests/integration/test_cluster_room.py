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
