"""Calls of one actor that do nothing, one at a time: the round trip."""

from measure import Metric, steady_rate

METRICS = {"rate": Metric("actor calls, one at a time", "/s", ratio=15)}


def run(api):
    class Actor:
        def nothing(self):
            return None

    actor = api.remote(Actor).remote()
    api.get(actor.nothing.remote())
    return {"rate": steady_rate(lambda: api.get(actor.nothing.remote()))}
