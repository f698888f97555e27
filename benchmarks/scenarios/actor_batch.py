"""Calls of one actor that do nothing, in batches of 1,000: submit all, then get all."""

from measure import Metric, rate

METRICS = {"rate": Metric("actor calls, batches of 1,000", "/s", ratio=10)}
BATCH = 1000
REPEATS = 11


def run(api):
    class Actor:
        def nothing(self):
            return None

    actor = api.remote(Actor).remote()
    return {"rate": rate(lambda: api.get([actor.nothing.remote() for _ in range(BATCH)]), BATCH, REPEATS)}
