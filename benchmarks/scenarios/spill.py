"""3 GB of arrays through a store of 1 GB and back, beside a plain program that writes and reads as much on the same disk."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from measure import Metric

METRICS = {
    "through": Metric("3 GB of arrays through a 1 GB store and back", "GB/s", ratio=4),
    "of_plain": Metric("the same, as a part of what plain files do", "", at_least=0.6),
}
STORE_BYTES = 1_000_000_000
ARRAYS, ARRAY_BYTES = 30, 100_000_000
ROUNDS = 3


def run_cold(start):
    api = start(object_store_memory=STORE_BYTES)
    array = np.ones(ARRAY_BYTES // 8)

    def through_the_store():
        refs = []
        for number in range(ARRAYS):
            array[0] = number
            refs.append(api.put(array))
        for number, ref in enumerate(refs):
            assert api.get(ref)[0] == number

    # In turn: both see the same drift of the machine, and the same page cache.
    figures = [(rate_of(plain_files, array), rate_of(through_the_store)) for _ in range(ROUNDS)]
    return {
        "through": statistics.median(through for _, through in figures),
        "of_plain": statistics.median(through / plain for plain, through in figures),
    }


def plain_files(array):
    """Write the arrays to files, and read them back into one."""
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name, str(number)) for number in range(ARRAYS)]
        for number, path in enumerate(paths):
            array[0] = number
            with path.open("wb", buffering=0) as file:
                assert file.write(array.data.cast("B")) == ARRAY_BYTES
        for number, path in enumerate(paths):
            with path.open("rb", buffering=0) as file:
                assert file.readinto(array.data.cast("B")) == ARRAY_BYTES
            assert array[0] == number


def rate_of(work, *arguments):
    begin = time.perf_counter()
    work(*arguments)
    return ARRAYS * ARRAY_BYTES / 1e9 / (time.perf_counter() - begin)
