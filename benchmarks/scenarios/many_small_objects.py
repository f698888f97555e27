"""5,000 objects of 20 KB of the driver, got by a task on another node."""

import numpy as np

from measure import Metric, after_setup
from nodes import on

METRICS = {"rate": Metric("5,000 objects of 20 KB to another node", "objects/s", ratio=10)}
OBJECTS = 5000


def run_nodes(nodes):
    api = nodes.start(1)
    total = api.remote(lambda refs: sum(int(array[-1]) for array in api.get(refs))).options(**on(1))
    api.get(total.remote([api.put(np.ones(20_000, np.uint8))]))

    def made(_number):
        return [api.put(np.ones(20_000, np.uint8)) for _ in range(OBJECTS)]

    def read(refs):
        assert api.get(total.remote(refs)) == OBJECTS

    return {"rate": OBJECTS / after_setup(made, read, warmups=2)}
