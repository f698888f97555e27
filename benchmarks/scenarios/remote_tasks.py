"""Small tasks on another node, in batches of 1,000."""

from measure import Metric, rate
from nodes import on

METRICS = {"rate": Metric("small tasks on another node, batches", "tasks/s", ratio=20)}
TASKS = 1000


def run_nodes(nodes):
    api = nodes.start(1, cpus=2)
    add = api.remote(lambda x: x + 1).options(**on(1))

    def batch():
        assert api.get([add.remote(number) for number in range(TASKS)])[-1] == TASKS

    return {"rate": rate(batch, TASKS, warmups=3)}
