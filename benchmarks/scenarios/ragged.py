"""A million rows of 50 to 100 integers, as an object array of arrays, put and read back."""

import numpy as np

from measure import Metric, rate

METRICS = {"rate": Metric("a million ragged rows, put + get", "rows/s", ratio=25)}
ROWS = 1_000_000
WARM_ROWS = 50_000


def run(api):
    random = np.random.default_rng(0)
    edges = np.cumsum(random.integers(50, 100, ROWS))
    rows = np.empty(ROWS, dtype=object)
    rows[:] = np.split(np.arange(edges[-1], dtype=np.int32), edges[:-1])

    def there_and_back(part):
        result = api.get(api.put(part))
        assert np.array_equal(result[-1], part[-1])

    there_and_back(rows[:WARM_ROWS])
    return {"rate": rate(lambda: there_and_back(rows), ROWS, repeats=3, warmups=0)}
