"""Actors made, called once each, and dropped, ten at a time."""

from measure import Metric, rate

METRICS = {"rate": Metric("actors created and called", "/s", ratio=40)}
BATCH = 10
REPEATS = 7


def run(api):
    class Actor:
        def nothing(self):
            return None

    actor_class = api.remote(Actor)

    def batch():
        actors = [actor_class.remote() for _ in range(BATCH)]
        api.get([actor.nothing.remote() for actor in actors])

    return {"rate": rate(batch, BATCH, REPEATS)}
