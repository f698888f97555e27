"""512 MiB of the driver to four other nodes at once; into pages that earlier rounds have touched."""

import numpy as np

from measure import Metric, after_setup
from nodes import GIB, on

METRICS = {"time": Metric("512 MiB to 4 nodes, loopback", "s", "lower", ratio=2.5, at_most=0.46)}
NODES = 4


def run_nodes(nodes):
    api = nodes.start(NODES, store_bytes=GIB + GIB // 4)
    last = api.remote(lambda array: int(array[-1]))
    readers = [last.options(**on(number + 1)) for number in range(NODES)]
    api.get([reader.remote(np.zeros(1)) for reader in readers])  # the workers are there

    def made(number):
        return api.put(np.full(GIB // 2, number + 10, np.uint8)), number + 10

    def read(made):
        assert api.get([reader.remote(made[0]) for reader in readers]) == [made[1]] * NODES

    return {"time": after_setup(made, read, warmups=3)}
