"""2,000 arrays of 10 KB read in one call."""

import numpy as np

from measure import Metric, rate

METRICS = {"rate": Metric("get of 2,000 arrays of 10 KB", "/s", ratio=5)}
ARRAYS = 2000


def run(api):
    refs = [api.put(np.full(1250, number, dtype=np.float64)) for number in range(ARRAYS)]

    def read():
        assert api.get(refs)[-1][0] == ARRAYS - 1

    return {"rate": rate(read, ARRAYS, repeats=21)}
