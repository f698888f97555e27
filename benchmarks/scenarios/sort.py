"""A sort of 400 MB: 20 tasks sort and cut a part each, 20 tasks merge one range of each."""

import numpy as np

from measure import Metric, rate

METRICS = {"rate": Metric("sort of 400 MB, 20 × 20", "MB/s", ratio=0.95)}
PARTS = 20
PART_BYTES = 20_000_000


def run(api):
    @api.remote
    def cut(part):
        ordered = np.sort(part)
        edges = np.searchsorted(ordered, np.arange(1, PARTS) / PARTS)
        return tuple(np.split(ordered, edges))

    @api.remote
    def merge(*pieces):
        return np.sort(np.concatenate(pieces))

    cut_in_ranges = cut.options(num_returns=PARTS)
    random = np.random.default_rng(0)
    parts = [api.put(random.random(PART_BYTES // 8)) for _ in range(PARTS)]

    def sort():
        cuts = [cut_in_ranges.remote(part) for part in parts]
        ranges = [merge.remote(*(pieces[number] for pieces in cuts)) for number in range(PARTS)]
        api.wait(ranges, num_returns=PARTS)
        first, last = api.get(ranges[0]), api.get(ranges[-1])
        assert first[0] <= first[-1] <= 1 / PARTS
        assert last[0] >= 1 - 1 / PARTS

    return {"rate": rate(sort, PARTS * PART_BYTES // 1_000_000, repeats=3)}
