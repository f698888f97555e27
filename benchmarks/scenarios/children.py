"""A task that starts 300 tasks and waits for them."""

from measure import Metric, rate

METRICS = {"rate": Metric("a task with 300 children", "tasks/s", ratio=10)}
CHILDREN = 300


def run(api):
    child = api.remote(lambda number: number)

    @api.remote
    def parent():
        return sum(api.get([child.remote(number) for number in range(CHILDREN)]))

    def family():
        assert api.get(parent.remote()) == sum(range(CHILDREN))

    return {"rate": rate(family, CHILDREN, repeats=11, warmups=3)}
