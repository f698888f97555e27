"""A chain of 200 tasks, each taking the result of the one before."""

from measure import Metric, rate

METRICS = {"rate": Metric("a chain of 200 dependent tasks", "tasks/s", ratio=15)}
LENGTH = 200


def run(api):
    step = api.remote(lambda value: value + 1)

    def chain():
        ref = api.put(0)
        for _ in range(LENGTH):
            ref = step.remote(ref)
        assert api.get(ref) == LENGTH

    return {"rate": rate(chain, LENGTH, repeats=11, warmups=2)}
