"""Results of 100 MB each, made by tasks, read by the driver."""

import numpy as np

from measure import Metric, rate

METRICS = {"rate": Metric("100 MB results of tasks", "GB/s", ratio=3)}
RESULTS = 10


def run(api):
    result = api.remote(lambda: np.ones(12_500_000))

    def read():
        arrays = api.get([result.remote() for _ in range(RESULTS)])
        assert all(array[-1] == 1 for array in arrays)

    return {"rate": rate(read, RESULTS * 0.1, warmups=3)}
