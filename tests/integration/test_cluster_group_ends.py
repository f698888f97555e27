"""What becomes of placement groups when nodes, drivers and workers end."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

import shoal
from marks import until
from shoal.testing import Cluster
from shoal.util import get_placement_group, placement_group, placement_group_table, remove_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy

CONFIG = {"node_suspect_ms": 500, "node_dead_ms": 1500, "heartbeat_ms": 200}


@pytest.fixture
def cluster(no_leaks):
    with Cluster(num_cpus=1, system_config=CONFIG) as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=1, system_config=CONFIG)
        shoal.init(cluster.address)
        until(lambda: shoal.available_resources().get("CPU") == 3)
        yield cluster
        shoal.shutdown()


@shoal.remote
def where():
    return shoal.get_runtime_context().get_node_id()


def state(group):
    return placement_group_table(group).get("state")


def test_a_dead_nodes_bundle_gets_another_node(cluster):
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert group.wait(60)
    before = placement_group_table(group)["bundles_to_node_id"]
    own = shoal.get_runtime_context().get_node_id()
    index = next(number for number, node_id in before.items() if node_id != own)
    dead = next(node for node in cluster.nodes if node.node_id == before[index])
    os.kill(dead.pid, signal.SIGKILL)
    until(lambda: placement_group_table(group)["bundles_to_node_id"].get(index) not in (before[index], ""))
    after = placement_group_table(group)["bundles_to_node_id"]
    assert after[1 - index] == before[1 - index]
    assert len(set(after.values())) == 2
    until(lambda: state(group) == "CREATED")
    member = where.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, index))
    assert shoal.get(member.remote(), timeout=60) == after[index]
    remove_placement_group(group)


def driver(cluster, code):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), cluster.address],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.split()


def test_a_group_ends_with_its_driver_unless_it_is_detached(cluster):
    code = """
        import sys, shoal
        from shoal.util import placement_group
        shoal.init(sys.argv[1], namespace="groups")
        kept = placement_group([{"CPU": 1}], name="kept", lifetime="detached")
        gone = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
        assert kept.wait(60) and gone.wait(60)
        print(kept.id.hex(), gone.id.hex())
    """
    kept, gone = driver(cluster, code)
    until(lambda: placement_group_table()[gone]["state"] == "REMOVED")
    assert placement_group_table()[kept]["state"] == "CREATED"
    until(lambda: shoal.available_resources()["CPU"] == 2)
    code = """
        import sys, shoal
        from shoal.util import get_placement_group, remove_placement_group
        shoal.init(sys.argv[1], namespace="groups")
        remove_placement_group(get_placement_group("kept"))
    """
    driver(cluster, code)
    until(lambda: shoal.available_resources()["CPU"] == 3)
    with pytest.raises(ValueError, match="no placement group"):
        get_placement_group("kept")
