"""Integers put and read, one at a time."""

from measure import Metric, steady_rate

METRICS = {
    "put": Metric("put of an int", "/s", ratio=60),
    "get": Metric("get of an int", "/s", ratio=20),
}
STEP = 100


def run(api):
    ref = api.put(0)

    def puts():
        for number in range(STEP):
            api.put(number)

    def gets():
        for _ in range(STEP):
            api.get(ref)

    return {"put": steady_rate(puts, STEP), "get": steady_rate(gets, STEP)}
