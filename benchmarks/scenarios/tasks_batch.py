"""Tasks that do nothing, in batches of 1,000: submit all, then get all."""

from measure import Metric, rate

METRICS = {"rate": Metric("tasks, batches of 1,000", "/s", ratio=25, of_pool=2)}
BATCH = 1000
REPEATS = 11


def nothing():
    return None


def run(api):
    task = api.remote(lambda: None)
    return {"rate": rate(lambda: api.get([task.remote() for _ in range(BATCH)]), BATCH, REPEATS)}


def run_pool(executor):
    def batch():
        return [future.result() for future in [executor.submit(nothing) for _ in range(BATCH)]]

    return {"rate": rate(batch, BATCH, REPEATS)}


def run_dask(client):
    def batch():
        return client.gather([client.submit(nothing, pure=False) for _ in range(BATCH)])

    return {"rate": rate(batch, BATCH, REPEATS)}
