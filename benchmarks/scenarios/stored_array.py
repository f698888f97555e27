"""Small tasks that each read one stored array of 8 MB."""

import numpy as np

from measure import Metric, rate

METRICS = {"rate": Metric("tasks on one stored 8 MB array", "tasks/s", ratio=15)}
TASKS = 1000


def run(api):
    element = api.remote(lambda array, index: float(array[index]))
    stored = api.put(np.arange(1_000_000, dtype=np.float64))

    def batch():
        results = api.get([element.remote(stored, index) for index in range(TASKS)])
        assert results == [float(index) for index in range(TASKS)]

    return {"rate": rate(batch, TASKS)}
