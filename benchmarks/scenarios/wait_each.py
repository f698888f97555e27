"""1,000 tasks waited for one at a time, to the end."""

from measure import Metric, rate

METRICS = {"rate": Metric("wait, one of 1,000 at a time, to the end", "/s", ratio=40)}
TASKS = 1000


def run(api):
    task = api.remote(lambda: None)

    def wait_for_all():
        pending = [task.remote() for _ in range(TASKS)]
        while pending:
            ready, pending = api.wait(pending)
            assert len(ready) == 1

    return {"rate": rate(wait_for_all, 1, repeats=11)}
