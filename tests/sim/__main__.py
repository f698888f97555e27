"""A large simulated cluster without faults: how well it schedules, what it moves, and what its head has to do.

    python -m tests.sim --nodes 100 --tasks 10000 [--seed 1] [--grow 10,100,1000]

With --grow it is run for several cluster sizes, with as many tasks per node each.
"""

from __future__ import annotations

import argparse
import gc
import time

from tests.sim.cluster import Cluster
from tests.sim.workload import Mix

_LIMIT_S = 100_000.0
_COLUMNS = "{:>7} {:>9} {:>8} {:>10} {:>10} {:>7} {:>9} {:>9} {:>7} {:>10} {:>9} {:>8}"


def measure(nodes: int, tasks: int, seed: int, cpus: int, drivers: int) -> str:
    """One run; a line of figures."""
    began = time.perf_counter()
    cluster = Cluster(seed, nodes, cpus)
    cluster.join()
    joined_s = time.perf_counter() - began
    hosts = list(cluster.daemons.values())[:: max(1, nodes // drivers)][:drivers]
    window = max(100, 4 * nodes * cpus // drivers)
    for host in hosts:
        cluster.add_driver(host, tasks // drivers, Mix(), window)
    before = cluster.head.heard + cluster.head.said
    makespan_s = cluster.run(_LIMIT_S, 0.05)
    messages = cluster.head.heard + cluster.head.said - before
    work_s = sum(driver.workload.work_s for driver in cluster.drivers)
    longest_s = max(driver.workload.longest_s for driver in cluster.drivers)
    ideal_s = max(work_s / (nodes * cpus), longest_s)
    moved, least = cluster.moved_bytes(), cluster.least_bytes
    wall_s = time.perf_counter() - began
    return _COLUMNS.format(
        nodes,
        tasks,
        cluster.outcomes.get("finished", 0),
        f"{makespan_s:.2f}",
        f"{ideal_s:.2f}",
        f"{makespan_s / ideal_s:.2f}",
        f"{moved / 1e9:.2f}",
        f"{least / 1e9:.2f}",
        f"{moved / least:.2f}" if least else "-",
        f"{messages / tasks:.2f}",
        f"{joined_s:.1f}",
        f"{wall_s:.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=4, help="of each node")
    parser.add_argument("--drivers", type=int, default=1)
    parser.add_argument("--grow", help="cluster sizes, with as many tasks per node as --tasks over --nodes")
    options = parser.parse_args()
    sizes = [int(size) for size in options.grow.split(",")] if options.grow else [options.nodes]
    gc.freeze()
    gc.disable()  # nothing here is in a circle that grows with the tasks
    heads = ("nodes", "tasks", "finished", "makespan s", "ideal s", "ratio")
    print(_COLUMNS.format(*heads, "moved GB", "least GB", "ratio", "head msgs/t", "join s", "wall s"))
    for nodes in sizes:
        tasks = options.tasks * nodes // options.nodes
        print(measure(nodes, tasks, options.seed, options.cpus, min(options.drivers, nodes)), flush=True)


if __name__ == "__main__":
    main()
