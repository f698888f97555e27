"""The random references of test_references_stress on three nodes: workers on two of them, the driver on the third."""

import gc
import os

import pytest

import shoal
from integration.test_references_stress import Run
from ledger import known_objects
from nodeclient import until
from shoal.control import request
from shoal.testing import Cluster

SEEDS = tuple(map(int, os.environ.get("SHOAL_STRESS_SEEDS", "1 2 3").split()))
STEPS = int(os.environ.get("SHOAL_STRESS_STEPS", "300"))


@pytest.fixture(scope="module")
def nodes(module_leaves_nothing):
    with Cluster(num_cpus=0) as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        shoal.init(cluster.address)
        try:
            yield cluster.nodes
        finally:
            shoal.shutdown()


@pytest.fixture
def shoal_session(nodes):
    """The module's cluster; the name says to the check for leaks that it is shared."""
    return shoal


def _rows(nodes):
    return [
        (node.node_id[:6], row["id"], row["size_bytes"], row["callsite"], row["state"], row["holders"])
        for node in nodes
        for row in request(node.socket, node.secret, "memory", {})["rows"]
    ]


def everything_came_back(nodes):
    def is_empty():
        gc.collect()
        return not _rows(nodes) and not known_objects()

    try:
        until(is_empty, "empty stores")
    except AssertionError:
        lines = [*map(str, _rows(nodes)[:30]), *map(str, known_objects()[:20])]
        raise AssertionError("\n".join(["left behind:", *lines])) from None


@pytest.mark.parametrize("kills", [False, True], ids=["calm", "kills"])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_refs(nodes, shoal_session, seed, kills):
    run = Run(seed, kills)
    for _ in range(STEPS):
        run.step()
    run.check_all()
    del run
    everything_came_back(nodes)
