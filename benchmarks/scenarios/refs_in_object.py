"""An object that holds 10,000 refs, read again and again."""

from measure import Metric, rate

METRICS = {"rate": Metric("get of an object with 10,000 refs", "/s", ratio=5)}
REFS = 10_000


def run(api):
    box = api.put([api.put(number) for number in range(REFS)])

    def read():
        assert len(api.get(box)) == REFS

    return {"rate": rate(read, 1, repeats=21)}
