"""Sort more numbers than one node's store holds, over several nodes: map, shuffle, reduce.

Map tasks make numbers where they run and cut them into one part per range (`num_returns`), each part an object of its own in the
store of that node. A reduce task takes the parts of one range from all map tasks, wherever they are, and sorts them. At the
end one task per range checks its order, and the ranges and the sum of all numbers are compared with what the map tasks made.

    python examples/sort.py                              three small nodes on this machine, 400 MB
    python examples/sort.py --address HOST:PORT --megabytes 20000 --tasks 200
"""

import argparse
import sys
import time
from itertools import pairwise
from typing import NamedTuple

import numpy as np

import shoal
from shoal.testing import Cluster

MB = 1_000_000
NODES = 3
NODE_STORE_BYTES = 300 * MB  # of the nodes that this script starts: less than what it sorts
KEY_MAX = 2**63


class Range(NamedTuple):
    """What is known of one sorted range."""

    count: int
    first: int
    last: int
    total: int


@shoal.remote(scheduling_strategy="SPREAD")
def make_parts(seed: int, count: int, parts: int) -> list[np.ndarray]:
    """``count`` random numbers, sorted, and cut into ``parts`` ranges of keys of equal width."""
    numbers = np.random.default_rng(seed).integers(0, KEY_MAX, count, dtype=np.int64)
    numbers.sort()
    bounds = np.arange(1, parts, dtype=np.int64) * (KEY_MAX // parts + 1)
    return np.split(numbers, np.searchsorted(numbers, bounds))


@shoal.remote
def sort_range(*parts: np.ndarray) -> np.ndarray:
    """All numbers of one range, in order."""
    numbers = np.concatenate(parts)
    numbers.sort(kind="stable")  # merges what is sorted already
    return numbers


@shoal.remote
def check(numbers: np.ndarray) -> Range:
    """What a sorted range holds; raises ValueError if it is not sorted."""
    if np.any(numbers[1:] < numbers[:-1]):
        raise ValueError("a range is not sorted")
    total = int(np.bitwise_xor.reduce(numbers)) if len(numbers) else 0
    return Range(len(numbers), int(numbers[0]), int(numbers[-1]), total)


@shoal.remote
def total_of(*parts: np.ndarray) -> int:
    """The exclusive or of all numbers that one map task made: it does not depend on their order."""
    return int(np.bitwise_xor.reduce([np.bitwise_xor.reduce(part) for part in parts if len(part)]))


def progress(what: str, refs: list["shoal.ObjectRef[object]"]) -> None:
    """Show how many of ``refs`` are done, until all are."""
    start = time.perf_counter()
    waiting = refs
    while waiting:
        _, waiting = shoal.wait(waiting, num_returns=min(len(waiting), 4), fetch_local=False)
        done = len(refs) - len(waiting)
        line = f"{what:24} {done:5} of {len(refs)}   {time.perf_counter() - start:6.1f} s"
        end = "\n" if not waiting else "\r"
        if end == "\n" or sys.stdout.isatty():
            print(line, end=end, flush=True)


def sort(megabytes: int, tasks: int) -> list["shoal.ObjectRef[np.ndarray]"]:
    """Sort ``megabytes`` of 8-byte numbers with ``tasks`` map and ``tasks`` reduce tasks; the sorted ranges, in order."""
    count = megabytes * MB // 8 // tasks
    made = [make_parts.options(num_returns=tasks).remote(seed, count, tasks) for seed in range(tasks)]
    totals = [total_of.remote(*parts) for parts in made]
    progress("map tasks", totals)
    expected = 0
    for total in shoal.get(totals):
        expected ^= total
    ranges = []
    for number in range(tasks):
        # The last references to these parts: their memory comes back as soon as the range is sorted.
        ranges.append(sort_range.remote(*[parts[number] for parts in made]))
        for parts in made:
            parts[number] = None
    progress("sorted ranges", ranges)
    checks = [check.remote(each) for each in ranges]
    progress("checked ranges", checks)
    found = shoal.get(checks)
    total = 0
    for each in found:
        total ^= each.total
    if total != expected or sum(each.count for each in found) != count * tasks:
        raise ValueError("numbers were lost, or others came in")
    if any(left.last > right.first for left, right in pairwise(found)):
        raise ValueError("the ranges are not in order")
    return ranges


def report(megabytes: int, seconds: float) -> None:
    """Print the speed, and how large the stores are that this went through."""
    print(f"\n{megabytes} MB sorted and checked in {seconds:.1f} s: {megabytes / seconds:.0f} MB/s")
    stores = [node["object_store_memory"] / MB for node in shoal.nodes() if node["Alive"]]
    print(f"through the stores of {len(stores)} nodes, of {', '.join(f'{size:.0f}' for size in stores)} MB")


def main(arguments: list[str] | None = None) -> int:
    """Sort, and print what it took; returns how many numbers were sorted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="of a running cluster; by default three nodes are started here")
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--tasks", type=int, default=16)
    options = parser.parse_args(arguments)
    if options.address:
        shoal.init(options.address)
        return run(options.megabytes, options.tasks)
    with Cluster(num_cpus=1, object_store_memory=NODE_STORE_BYTES) as cluster:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=1, object_store_memory=NODE_STORE_BYTES)
        with shoal.init(cluster.address):
            return run(options.megabytes, options.tasks)


def run(megabytes: int, tasks: int) -> int:
    """Sort on the cluster that this script has joined."""
    start = time.perf_counter()
    ranges = sort(megabytes, tasks)
    report(megabytes, time.perf_counter() - start)
    return len(ranges) * (megabytes * MB // 8 // tasks)


if __name__ == "__main__":
    main()
