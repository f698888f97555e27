"""Where tasks, actors and placement groups of a real cluster of four nodes run."""

import collections
import itertools
import os

import numpy as np
import pytest
from click.testing import CliRunner

import shoal
from marks import Marks, until
from shoal.cli.app import app
from shoal.exceptions import PlacementError
from shoal.testing import Cluster
from shoal.util import (
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from shoal.util.scheduling_strategies import (
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

CONFIG = {"infeasible_ms": 300}


@pytest.fixture(scope="module")
def nodes(module_leaves_nothing):
    """A driver's node (the head's, 1 CPU) and three others: a (2 CPUs), b (2 CPUs, labels), c (1 CPU, a disk)."""
    with Cluster(num_cpus=1, system_config=CONFIG) as cluster:
        a = cluster.add_node(num_cpus=2, name="a", system_config=CONFIG)
        b = cluster.add_node(num_cpus=2, name="b", labels={"zone": "b"}, system_config=CONFIG)
        c = cluster.add_node(num_cpus=1, name="c", resources={"disk": 1}, system_config=CONFIG)
        shoal.init(cluster.address)
        until(lambda: shoal.available_resources().get("CPU") == 6)
        yield [node.node_id for node in (cluster.head, a, b, c)]
        shoal.shutdown()


def all_is_free():
    return shoal.available_resources().get("CPU") == 6


@pytest.fixture
def shoal_session(nodes):
    yield shoal
    until(all_is_free)


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


@shoal.remote
def where():
    return shoal.get_runtime_context().get_node_id()


@shoal.remote
def where_when(marks, name):
    marks.add("started")
    marks.wait(name)
    return shoal.get_runtime_context().get_node_id()


def run(*arguments):
    address = shoal.get_runtime_context().gcs_address
    done = CliRunner().invoke(app, [*arguments, "--address", address])
    assert done.exit_code == 0, done.output
    return done.stdout


def get(refs, timeout=60):
    return shoal.get(refs, timeout=timeout)


def test_affinity_labels_and_custom_resources(nodes, shoal_session):
    own, a, b, c = nodes
    for options, expected in (
        ({"scheduling_strategy": NodeAffinitySchedulingStrategy(a, soft=False)}, a),
        ({"scheduling_strategy": NodeAffinitySchedulingStrategy(own, soft=True)}, own),
        ({"scheduling_strategy": NodeLabelSchedulingStrategy({"zone": In("b")})}, b),
        ({"label_selector": {"zone": "b"}}, b),
        ({"label_selector": {"ray.io/node-id": c}}, c),
        ({"resources": {"disk": 1}}, c),
    ):
        assert get([where.options(**options).remote() for _ in range(3)]) == [expected] * 3


def test_what_does_not_fit_here_runs_elsewhere(nodes, shoal_session, marks):
    refs = [where_when.remote(marks, "go") for _ in range(6)]
    until(lambda: marks.count("started") == 6)
    why = {ref: run("why", ref.hex()) for ref in refs}
    marks.add("go")
    for ref, node_id in zip(refs, get(refs), strict=True):
        reason = "this node has room" if node_id == nodes[0] else "this node has no room now, so node"
        assert f"on node {node_id[:8]}: {reason}" in why[ref]
    found = collections.Counter(get(refs))
    own, a, b, c = nodes
    assert found == {own: 1, a: 2, b: 2, c: 1}


def test_spread_uses_every_node(nodes, shoal_session, tmp_path):
    """As soon as this node has heard that all nodes have room: what they told may be a moment old."""
    attempts = itertools.count()
    spread = where_when.options(scheduling_strategy="SPREAD")

    def used_all():
        until(all_is_free)  # workers that are still leased would be used again
        marks = Marks(tmp_path / str(next(attempts)))
        os.mkdir(marks.folder)
        refs = [spread.remote(marks, "spread") for _ in range(4)]
        until(lambda: marks.count("started") == 4)
        marks.add("spread")
        return set(get(refs)) == set(nodes)

    until(used_all)


def test_actors_go_where_they_are_told(nodes, shoal_session):
    @shoal.remote(num_cpus=1)
    class Actor:
        def node(self):
            return shoal.get_runtime_context().get_node_id()

    _, a, b, c = nodes
    made = [
        Actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(a, soft=False)).remote(),
        Actor.options(label_selector={"zone": "b"}).remote(),
        Actor.options(resources={"disk": 1}).remote(),
    ]
    assert get([actor.node.remote() for actor in made]) == [a, b, c]


def test_what_no_node_has_says_so(nodes, shoal_session, capfd):
    ref = where.options(num_cpus=3).remote()
    each = [f"node {node_id[:8]} CPU {cpus}" for node_id, cpus in zip(nodes, (1, 2, 2, 1), strict=True)]
    said = ""

    def is_said():
        nonlocal said
        shoal.wait([ref], timeout=0.01)
        said += capfd.readouterr().err
        return all(line in said for line in each)

    until(is_said)
    with pytest.raises(shoal.exceptions.GetTimeoutError, match="no node has that"):
        get(ref, timeout=0.01)
    shoal.cancel(ref)
    gone = NodeAffinitySchedulingStrategy("ab" * 16, soft=False)
    with pytest.raises(PlacementError, match="not in the cluster"):
        get(where.options(scheduling_strategy=gone).remote())


def test_results_stay_where_they_were_made_and_draw_tasks(nodes, shoal_session):
    """A pipeline of "load there, process there" runs where its data is, without a word about where."""
    _, a, b, _ = nodes

    @shoal.remote
    def load():
        return np.zeros(4_000_000)

    @shoal.remote
    def process(array):
        return shoal.get_runtime_context().get_node_id(), len(array)

    for node_id in (a, b):
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        parts = [load.options(scheduling_strategy=there).remote() for _ in range(2)]
        shoal.wait(parts, num_returns=2, timeout=60, fetch_local=False)
        assert get([process.remote(part) for part in parts]) == [(node_id, 4_000_000)] * 2


# --- placement groups ---


def test_bundles_are_where_their_labels_are(shoal_session, nodes):
    _, _, b, c = nodes
    selectors = [{"zone": "b"}, {"ray.io/node-id": c}, {"zone": "b"}]
    group = placement_group([{"CPU": 1}] * 3, strategy="SPREAD", bundle_label_selector=selectors)
    assert group.wait(60)
    where = placement_group_table(group)["bundles_to_node_id"]
    assert [where[index] for index in range(3)] == [b, c, b]
    remove_placement_group(group)
    until(all_is_free)


@pytest.mark.parametrize(
    ("strategy", "bundles", "count"),
    [
        ("STRICT_SPREAD", [{"CPU": 1}] * 4, 4),
        ("SPREAD", [{"CPU": 1}] * 6, 4),
        ("PACK", [{"CPU": 2}, {"CPU": 1}], 2),
        ("STRICT_PACK", [{"CPU": 1}, {"CPU": 1}], 1),
        ("STRICT_PACK", [{"disk": 1}], 1),
    ],
)
def test_groups_over_nodes(nodes, shoal_session, strategy, bundles, count):
    group = placement_group(bundles, strategy=strategy)
    assert get(group.ready()) == group
    placed = placement_group_table(group)["bundles_to_node_id"]
    assert len(set(placed.values())) == count
    for index, bundle in enumerate(bundles):
        member = where.options(
            num_cpus=bundle.get("CPU", 0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
        )
        assert get(member.remote()) == placed[index]
    remove_placement_group(group)


def test_members_of_any_bundle_use_all_of_them(nodes, shoal_session, marks):
    group = placement_group([{"CPU": 1}] * 4, strategy="STRICT_SPREAD")
    strategy = PlacementGroupSchedulingStrategy(group)
    refs = [where_when.options(scheduling_strategy=strategy).remote(marks, "members") for _ in range(4)]
    until(lambda: marks.count("started") == 4)
    marks.add("members")
    assert set(get(refs)) == set(nodes)
    remove_placement_group(group)


def test_actors_in_bundles_elsewhere(nodes, shoal_session):
    @shoal.remote(num_cpus=1)
    class Member:
        def node(self):
            return shoal.get_runtime_context().get_node_id()

    group = placement_group([{"CPU": 1}] * 4, strategy="STRICT_SPREAD")
    strategy = PlacementGroupSchedulingStrategy(group)
    made = [Member.options(scheduling_strategy=strategy).remote() for _ in range(4)]
    assert set(get([member.node.remote() for member in made])) == set(nodes)
    remove_placement_group(group)


def test_a_strict_group_waits_rather_than_bends(nodes, shoal_session):
    group = placement_group([{"CPU": 1}] * 5, strategy="STRICT_SPREAD", name="wide")
    assert not group.wait(0.5)
    assert "STRICT_SPREAD of 5 bundle(s)" in placement_group_table(group)["stats"]["scheduling_state"]
    assert get_placement_group("wide") == group
    remove_placement_group(group)
    until(lambda: placement_group_table(group)["state"] == "REMOVED")
