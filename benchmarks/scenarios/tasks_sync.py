"""Tasks that do nothing, one at a time: the round trip."""

from measure import Metric, steady_rate

METRICS = {"rate": Metric("tasks, one at a time", "/s", ratio=20)}


def nothing():
    return None


def run(api):
    task = api.remote(lambda: None)
    return {"rate": steady_rate(lambda: api.get(task.remote()))}


def run_pool(executor):
    return {"rate": steady_rate(lambda: executor.submit(nothing).result())}


def run_dask(client):
    return {"rate": steady_rate(lambda: client.submit(nothing, pure=False).result())}
