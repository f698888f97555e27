"""100,000 tasks submitted before the first result is asked for."""

from measure import Metric, rate

METRICS = {"rate": Metric("100,000 queued tasks", "/s", ratio=20)}
TASKS = 100_000


def run(api):
    task = api.remote(lambda: None)
    api.get([task.remote() for _ in range(1000)])
    return {"rate": rate(lambda: api.get([task.remote() for _ in range(TASKS)]), TASKS, repeats=3, warmups=0)}
