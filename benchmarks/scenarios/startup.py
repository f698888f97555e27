"""From `import` to the result of a first task, in a fresh process."""

import time

from measure import Metric

METRICS = {"first_result": Metric("init to first result", "s", "lower", ratio=10, at_most=0.5)}


def run_cold(start):
    begin = time.perf_counter()
    api = start()

    @api.remote
    def nothing():
        return None

    api.get(nothing.remote())
    return {"first_result": time.perf_counter() - begin}
