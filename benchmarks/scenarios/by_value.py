"""One array of 200 MB passed by value to 10 tasks that sum it, and by reference."""

import numpy as np

from measure import Metric, seconds

METRICS = {
    "by_value": Metric("200 MB by value to 10 tasks", "s", "lower", ratio=5),
    "to_reference": Metric("200 MB by value, to by reference", "×", "lower", at_most=1.3),
}
TASKS = 10


def run(api):
    total = api.remote(lambda array: float(array.sum()))
    array = np.zeros(25_000_000)

    def change():
        # Every repeat passes bytes that were never seen before.
        array[-1] += 1
        return [float(array[-1])] * TASKS

    def by_value():
        expected = change()
        assert api.get([total.remote(array) for _ in range(TASKS)]) == expected

    def by_reference():
        expected = change()
        ref = api.put(array)
        assert api.get([total.remote(ref) for _ in range(TASKS)]) == expected

    value, reference = seconds(by_value, warmups=2), seconds(by_reference, warmups=2)
    return {"by_value": value, "to_reference": value / reference}
