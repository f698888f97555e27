"""1 GiB made on another node, read by the driver; into pages that earlier rounds have touched."""

import numpy as np

from measure import Metric, after_setup
from nodes import GIB, on

METRICS = {"rate": Metric("1 GiB to another node, loopback", "GB/s", ratio=2.5, at_least=4.5)}


def run_nodes(nodes):
    api = nodes.start(1, store_bytes=3 * GIB)
    make = api.remote(lambda seed: np.full(GIB, seed, np.uint8)).options(**on(1))

    def made(number):
        ref = make.remote(number + 10)
        api.wait([ref], fetch_local=False)
        return ref, number + 10

    def read(made):
        assert api.get(made[0])[-1] == made[1]

    return {"rate": GIB / 1e9 / after_setup(made, read, warmups=3)}
