"""The first gigabyte put after the start, into pages that nobody has touched."""

import time

import numpy as np

from measure import Metric

METRICS = {"put": Metric("put of the first 1 GB after start", "GB/s", ratio=0.9)}


def run_cold(start):
    array = np.ones(125_000_000)
    api = start()
    begin = time.perf_counter()
    ref = api.put(array)
    duration = time.perf_counter() - begin
    assert api.get(ref).nbytes == array.nbytes
    return {"put": array.nbytes / 1e9 / duration}
