"""A shuffle of small parts: 100 tasks cut into 100 arrays each, 100 tasks merge one of each."""

import numpy as np

from measure import Metric, rate

METRICS = {"rate": Metric("fine shuffle, 100 × 100 small parts", "tasks/s", ratio=10)}
SIDE = 100
PART = 100


def run(api):
    @api.remote
    def cut(row):
        return tuple(np.full(PART, row * SIDE + column) for column in range(SIDE))

    @api.remote
    def merge(*parts):
        return int(np.concatenate(parts).sum())

    cut_in_parts = cut.options(num_returns=SIDE)

    def shuffle():
        rows = [cut_in_parts.remote(row) for row in range(SIDE)]
        sums = api.get([merge.remote(*(row[column] for row in rows)) for column in range(SIDE)])
        assert sum(sums) == PART * sum(range(SIDE * SIDE))

    return {"rate": rate(shuffle, 2 * SIDE, repeats=11, warmups=3)}
