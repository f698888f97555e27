"""100 tasks on another node, each with the same object of 200 MB of the driver."""

import numpy as np

from measure import Metric, after_setup
from nodes import on

METRICS = {"time": Metric("100 tasks on another node, one 200 MB object", "s", "lower", ratio=4)}
TASKS = 100


def run_nodes(nodes):
    api = nodes.start(1, cpus=2)
    element = api.remote(lambda array, index: float(array[index])).options(**on(1))
    api.get([element.remote(np.zeros(TASKS), index) for index in range(TASKS)])  # the workers are there

    def made(_number):
        return api.put(np.arange(25_000_000, dtype=np.float64))

    def read(stored):
        results = api.get([element.remote(stored, index) for index in range(TASKS)])
        assert results == [float(index) for index in range(TASKS)]

    return {"time": after_setup(made, read, warmups=3)}
