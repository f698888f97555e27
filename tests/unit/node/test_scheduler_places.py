"""The scheduler with a placement: what is asked of other nodes is not granted here, and the other way round."""

import pytest

from schedulerparts import DRIVER, Node
from shoal.wire import messages as m


@pytest.fixture
def node():
    node = Node()
    node.driver(DRIVER, "job1")
    return node


def test_a_demand_for_a_node_that_is_not_there_says_never_after_a_while(node):
    node.demand(DRIVER, 1, 2, strategy=["affinity", "ab" * 16, False])
    node.run()
    assert not node.grants
    assert not node.messages(m.DEMAND_STATUS)
    node.run(passed_s=node.config.infeasible_ms / 1000 + 0.01)
    ((_, shape, kind, text),) = node.messages(m.DEMAND_STATUS)
    assert (shape, kind) == (1, "never")
    assert "which is not in the cluster" in text


def test_spread_alone_grants_here(node):
    node.demand(DRIVER, 1, 3, strategy="SPREAD")
    node.run()
    assert len(node.grants) == 2


class Cluster:
    """One other node, with 8 CPUs, as `node` sees it; None while there is none."""

    def __init__(self, node):
        self.core, self.node_id, self.labels = node.core, "bb" * 16, {"zone": "b"}
        self.resources = self.available = {"CPU": 80_000}
        self.there = True
        node.core.view = self
        node.core.view_changed(node.now)

    def alive(self):
        return [self] if self.there else []


def test_a_demand_that_another_node_was_asked_for_is_not_granted_here(node):
    other = Cluster(node).node_id
    node.demand(DRIVER, 1, 3, labels={"zone": ["in", ["b"]]})
    node.demand(DRIVER, 2, 5)
    node.run()
    assert node.core.shares == {(DRIVER, 1): {other: 3}, (DRIVER, 2): {other: 3}}
    assert [grant.shape_id for grant in node.grants] == [2, 2]
    assert node.core.leases[node.grants[0].lease_id].why == "this node has room"
    rows = {row["shape_id"]: row["reason"] for row in node.core.pending(node.now)}
    assert rows[1] == f"only node {other[:8]} can meet it"
    node.demand(DRIVER, 1, 0)
    node.demand(DRIVER, 2, 0)
    node.run()
    assert node.core.shares == {}


def test_what_waited_for_another_node_is_granted_here_when_that_is_gone(node):
    other = Cluster(node)
    node.demand(DRIVER, 1, 1, strategy=["affinity", other.node_id, True])
    node.run()
    assert not node.grants
    other.there = False
    node.core.view_changed(node.now)
    node.run()
    assert len(node.grants) == 1


def test_what_was_asked_of_another_node_says_never_when_it_is_wanted_again_and_that_is_gone(node):
    other = Cluster(node)
    other.resources = other.available = {"CPU": 30_000, "disk": 10_000}
    node.demand(DRIVER, 1, 1, {"disk": 10_000})
    node.run()
    assert node.core.shares == {(DRIVER, 1): {other.node_id: 1}}
    node.demand(DRIVER, 1, 0, {"disk": 10_000})
    node.run()
    other.there = False
    node.core.view_changed(node.now)
    node.demand(DRIVER, 1, 1, {"disk": 10_000})
    node.run()
    node.run(passed_s=node.config.infeasible_ms / 1000 + 0.01)
    ((_, shape, kind, text),) = node.messages(m.DEMAND_STATUS)
    assert (shape, kind) == (1, "infeasible")
    assert "needs disk 1" in text


# --- how long a decision stands is about that decision: what waits later is not looked at without a pause because of it ---


def due_in_s(node):
    node.run()
    return node.core.schedule(node.now) - node.now


def test_what_waits_alone_is_not_held_to_a_decision_between_nodes(node):
    other = Cluster(node)
    other.available = {"CPU": 0}
    for backlog in (
        3,
        2,
    ):  # two take this node's room; the second time the decision on the rest stands for a while
        node.demand(DRIVER, 1, backlog)
        node.run()
    assert node.core.placement.due > node.now
    other.there = False
    node.core.view_changed(node.now)
    node.run(passed_s=1.0)
    assert len(node.grants) == 2
    assert due_in_s(node) > 0.001


def test_what_waits_alone_is_not_held_to_a_decision_on_a_demand_that_is_gone():
    node = Node()
    node.core.placement.node_id = "aa" * 16
    node.driver(DRIVER, "job1")
    node.demand(DRIVER, 1, 3)
    node.run()
    node.demand(DRIVER, 2, 1, prefer=bytes.fromhex("aa" * 3), prefer_bytes=10**9)
    node.run()
    assert node.core.placement.due > node.now
    node.demand(DRIVER, 2, 0)
    node.run(passed_s=2.0)
    assert due_in_s(node) > 0.001
