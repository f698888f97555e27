"""Arrays of 100 MB put into a warm store, beside a plain copy of the same bytes in the same process."""

import numpy as np

from measure import Metric, rate

METRICS = {
    "put": Metric("put of 100 MB arrays, warm", "GB/s", ratio=1.1),
    "of_memcpy": Metric("put of 100 MB arrays, as a part of memcpy", "", at_least=0.95),
}
GIGABYTES = 0.1
# A put and a copy in turn, several times: both see the same drift of the machine.
ROUNDS = 5


def run(api):
    array = np.ones(int(GIGABYTES * 1e9) // 8)
    target = np.empty_like(array)

    def put():
        api.put(array)

    puts, copies = [], []
    for _ in range(ROUNDS):
        puts.append(rate(put, GIGABYTES, repeats=11, warmups=5))
        copies.append(rate(lambda: np.copyto(target, array), GIGABYTES, repeats=11, warmups=2))
    best_half = sorted(put / copy for put, copy in zip(puts, copies, strict=True))
    return {"put": sorted(puts)[ROUNDS // 2], "of_memcpy": best_half[ROUNDS // 2]}
