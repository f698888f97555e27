"""A whole cluster with the production cores: every task ends, and nothing is left of it."""

import pytest
from tests.sim import checks
from tests.sim.cluster import Cluster
from tests.sim.workload import Mix

MIX = Mix(stored=0.4, readers=0.4, parents=0.15, failing=0.05, odd=0.1, sizes=(150_000, 3_000_000))


def run(seed, nodes=4, tasks=40, drivers=2, *, steady=False, limit_s=600.0):
    cluster = Cluster(seed, nodes, cpus=2, steady=steady)
    try:
        cluster.join()
        for daemon in list(cluster.daemons.values())[:drivers]:
            cluster.add_driver(daemon, tasks, MIX, window=20)
        cluster.clock.after_each = cluster.checked
        cluster.run(limit_s)
        checks.settle(cluster)
    except AssertionError as error:
        error.add_note(f"seed {seed}, {nodes} nodes:\n" + "\n".join(cluster.history[-60:]))
        raise
    return cluster


@pytest.mark.parametrize("seed", range(3))
def test_without_faults(seed):
    cluster = run(seed)
    assert sum(cluster.outcomes.values()) >= 80
    assert cluster.outcomes.keys() <= {"finished", "the function raised", "dependent"}
    assert cluster.outcomes["finished"] > 50
