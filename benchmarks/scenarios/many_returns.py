"""One task with 3,000 small arrays as its returns, all of them read."""

import numpy as np

from measure import Metric, seconds

METRICS = {"time": Metric("3,000 returns of one task", "s", "lower", ratio=8)}
RETURNS = 3000


def run(api):
    @api.remote
    def arrays():
        return tuple(np.full(10, number) for number in range(RETURNS))

    returning_all = arrays.options(num_returns=RETURNS)

    def call():
        results = api.get(returning_all.remote())
        assert [int(result[0]) for result in results] == list(range(RETURNS))

    return {"time": seconds(call)}
