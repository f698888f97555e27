"""Which node a demand is placed on: each rule by example, and what must hold for any cluster."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.config import Config
from shoal.wire import labels
from shoald.node import constraints
from shoald.node.leases import BACKLOG_MAX, Client, Demand, ResourceLedger
from shoald.node.placement import Placement
from shoald.store.errors import ProtocolError

OWN, B, C, D = "aa" * 16, "bb" * 16, "cc" * 16, "dd" * 16
DRIVER = b"driver-1"


class Node:
    def __init__(self, node_id, cpus, free=None, labels=None, **resources):
        self.node_id = node_id
        self.resources = {"CPU": cpus * 10_000, **{name: n * 10_000 for name, n in resources.items()}}
        self.available = {**self.resources, "CPU": (cpus if free is None else free) * 10_000}
        self.labels = labels or {}


class View:
    def __init__(self, *nodes):
        self.nodes = list(nodes)

    def alive(self):
        return self.nodes


class Cluster:
    """A node and those it knows; demands of one driver."""

    def __init__(self, *others, cpus=2, free=None, labels=None, groups=None, **config):
        self.config = dataclasses.replace(Config(), **{"place_us": 0.0, **config})
        self.view = View(*others)
        self.placement = Placement(OWN, labels or {}, self.config)
        self.placement.groups = groups
        self.ledger = ResourceLedger({"CPU": cpus * 10_000})
        if free is not None:
            self.ledger.free["CPU"] = free * 10_000
        self.client = Client(DRIVER, "driver")
        self.shapes = 0
        self.now = 100.0

    def demand(self, backlog=1, resources=None, client=None, since=None, **options):
        self.shapes += 1
        needs = {"CPU": 10_000} if resources is None else resources
        demand = Demand(client or self.client, self.shapes, needs, 1, self.now if since is None else since)
        demand.backlog = backlog
        demand.constraints = constraints.read(options)
        return demand

    def shares(self, *demands):
        found = self.placement.shares(demands, self.ledger, self.view, self.now)
        return [found.get((demand.client.proc, demand.shape_id), {}) for demand in demands]

    def place(self, **given):
        """The shares of one demand, and the demand."""
        demand = self.demand(**given)
        return self.shares(demand)[0], demand


# --- without constraints ---


def test_what_fits_here_runs_here():
    shares, demand = Cluster(Node(B, 8)).place(backlog=2)
    assert (shares, demand.here, demand.obstacle) == ({}, BACKLOG_MAX, None)
    assert demand.why == "this node has room"


def test_what_does_not_fit_here_goes_to_nodes_with_room_evenly():
    shares, demand = Cluster(Node(B, 4), Node(C, 4)).place(backlog=6)
    assert shares == {B: 2, C: 2}
    assert demand.here == BACKLOG_MAX
    assert "this node has no room now, so nodes" in demand.away


def test_the_freest_node_is_asked_first():
    assert Cluster(Node(B, 4, free=1), Node(C, 4), cpus=1, free=0).place(backlog=1)[0] == {C: 1}


def test_with_room_nowhere_it_waits_here():
    shares, demand = Cluster(Node(B, 4, free=0), free=0).place(backlog=5)
    assert (shares, demand.here) == ({}, BACKLOG_MAX)


def test_with_room_nowhere_and_too_large_for_here_it_waits_where_it_fits():
    shares, demand = Cluster(Node(B, 4, free=0), Node(C, 4, free=0), Node(D, 1)).place(
        backlog=3, resources={"CPU": 40_000}
    )
    assert shares == {B: 2, C: 1}
    assert demand.here == 0


def test_two_demands_never_count_on_the_same_room():
    cluster = Cluster(Node(B, 2), cpus=1, free=0)
    assert cluster.shares(cluster.demand(2), cluster.demand(2)) == [{B: 2}, {}]


def test_what_was_leased_a_moment_ago_is_no_longer_free():
    cluster = Cluster(Node(B, 2), Node(C, 2), free=0)
    cluster.placement.leased((DRIVER, 1), B, {"CPU": 20_000}, cluster.now)
    assert cluster.place(backlog=2)[0] == {C: 2}
    cluster.now += cluster.config.view_lag_ms / 1000 + 0.01
    assert cluster.place(backlog=4)[0] == {B: 2, C: 2}


def test_a_custom_resource_decides():
    shares, demand = Cluster(Node(B, 8), Node(C, 1, disk=2)).place(resources={"CPU": 10_000, "disk": 10_000})
    assert (shares, demand.here) == ({C: 1}, 0)
    assert demand.away == f"only node {C[:8]} can meet it"


def test_what_another_node_passed_on_is_not_passed_on_again():
    cluster = Cluster(Node(B, 8), free=0)
    shares, demand = cluster.place(backlog=3, client=Client(b"remote-1", "remote driver"))
    assert (shares, demand.here) == ({}, BACKLOG_MAX)


def test_a_draining_node_gives_its_own_demands_away():
    cluster = Cluster(Node(B, 2))
    cluster.placement.draining = True
    shares, demand = cluster.place(backlog=3)
    assert (shares, demand.here) == ({B: 3}, 0)


def test_a_draining_node_that_is_alone_goes_on():
    cluster = Cluster()
    cluster.placement.draining = True
    assert cluster.place(backlog=3)[1].here == BACKLOG_MAX


def test_a_demand_for_nothing_stays_here():
    assert Cluster(Node(B, 2), free=0).place(backlog=1000, resources={})[0] == {}


# --- infeasible ---


def test_too_large_for_every_node_says_what_they_have():
    shares, demand = Cluster(Node(B, 8), Node(C, 4)).place(resources={"CPU": 1_000_000})
    assert (shares, demand.here) == ({}, 0)
    kind, text = demand.obstacle
    assert kind == "infeasible"
    for part in ("needs CPU 100", f"node {OWN[:8]} CPU 2", f"node {B[:8]} CPU 8", f"node {C[:8]} CPU 4"):
        assert part in text


def test_many_nodes_are_not_all_listed():
    view = [Node(f"{n:032x}", 1) for n in range(50)]
    text = Cluster(*view).place(resources={"CPU": 1_000_000})[1].obstacle[1]
    assert "and 46 more" in text
    assert len(text) < 400


def test_a_new_node_ends_the_obstacle():
    cluster = Cluster(Node(B, 1))
    demand = cluster.demand(resources={"CPU": 80_000})
    cluster.shares(demand)
    assert demand.obstacle
    cluster.view.nodes.append(Node(C, 8))
    assert cluster.shares(demand) == [{C: 1}]
    assert demand.obstacle is None


# --- node affinity ---


def affinity(node_id, soft=False):
    return ["affinity", node_id, soft]


def test_affinity_goes_to_its_node_though_here_is_room():
    shares, demand = Cluster(Node(B, 2)).place(backlog=4, strategy=affinity(B))
    assert (shares, demand.here) == ({B: 4}, 0)


def test_affinity_to_this_node_waits_here_though_others_have_room():
    shares, demand = Cluster(Node(B, 8), free=0).place(backlog=4, strategy=affinity(OWN))
    assert (shares, demand.here) == ({}, BACKLOG_MAX)


@pytest.mark.parametrize("node_id", [D, B])
def test_hard_affinity_that_can_never_be_met_says_so(node_id):
    cluster = Cluster(Node(B, 2))
    shares, demand = cluster.place(strategy=affinity(node_id), resources={"CPU": 40_000})
    assert (shares, demand.here, demand.obstacle[0]) == ({}, 0, "never")
    expected = (
        "not in the cluster" if node_id == D else "needs CPU 4 on node bbbbbbbb, which has CPU 2 in all"
    )
    assert expected in demand.obstacle[1]


def test_soft_affinity_goes_elsewhere_if_its_node_is_gone_or_too_small():
    assert Cluster(Node(B, 2)).place(strategy=affinity(D, True))[1].here == BACKLOG_MAX
    cluster = Cluster(Node(B, 2), Node(C, 8))
    assert cluster.place(strategy=affinity(B, True), resources={"CPU": 40_000})[0] == {C: 1}


def test_soft_affinity_waits_for_a_busy_node():
    assert Cluster(Node(B, 2, free=0)).place(strategy=affinity(B, True))[0] == {B: 1}


# --- labels ---

ZONE_B, ZONE_C = {"zone": "b"}, {"zone": "c", "disk": "ssd"}


@pytest.mark.parametrize(
    ("hard", "node"),
    [
        ({"zone": ["in", ["b", "x"]]}, B),
        ({"zone": ["!in", ["b", "a"]]}, C),
        ({"disk": ["exists", []]}, C),
        ({"disk": ["!exists", []], "zone": ["!in", ["a"]]}, B),
        ({"ray.io/node-id": ["in", [C]]}, C),
        ({"shoal.io/node-id": ["in", [B]]}, B),
        ({"zone": ["in", ["a"]]}, OWN),
    ],
)
def test_hard_conditions_on_labels(hard, node):
    for options in ({"strategy": ["labels", hard, {}]}, {"labels": hard}):
        cluster = Cluster(Node(B, 2, labels=ZONE_B), Node(C, 2, labels=ZONE_C), labels={"zone": "a"})
        shares, demand = cluster.place(**options)
        assert (shares or {OWN: 1}) == {node: 1}
        assert demand.here == (BACKLOG_MAX if node == OWN else 0)


def test_hard_conditions_that_no_node_meets():
    cluster = Cluster(Node(B, 2, labels=ZONE_B))
    demand = cluster.place(labels={"zone": ["in", ["x"]]})[1]
    kind, text = demand.obstacle
    assert kind == "infeasible"
    for part in ("zone in (x)", f"node {B[:8]} has zone=b", f"node {OWN[:8]} has no labels"):
        assert part in text


def test_soft_conditions_are_preferred_and_not_required():
    cluster = Cluster(Node(B, 2, labels=ZONE_B), Node(C, 2, labels=ZONE_C))
    wish = ["labels", {"zone": ["exists", []]}, {"disk": ["in", ["ssd"]]}]
    assert cluster.place(strategy=wish)[0] == {C: 1}
    wish[2] = {"disk": ["in", ["tape"]]}
    assert sum(cluster.place(strategy=wish, backlog=4)[0].values()) == 4


# --- SPREAD ---


def test_spread_evens_out():
    shares, demand = Cluster(Node(B, 4), Node(C, 4), cpus=4).place(backlog=6, strategy="SPREAD")
    assert shares == {B: 2, C: 2}
    assert demand.here == 2


def test_spread_counts_the_leases_that_nodes_have_granted():
    cluster = Cluster(Node(B, 4), Node(C, 4), cpus=4)
    demand = cluster.demand(4, strategy="SPREAD")
    cluster.placement.leased((DRIVER, demand.shape_id), B, {"CPU": 10_000}, cluster.now)
    demand.leases.add(1)
    shares = cluster.shares(demand)[0]
    assert (shares.get(B), shares.get(C), demand.here) == (1, 2, 1)
    cluster.placement.released((DRIVER, demand.shape_id), B)
    assert sum(cluster.shares(demand)[0].values()) + demand.here == 4


def test_spread_passes_full_nodes_over():
    shares, demand = Cluster(Node(B, 4), Node(C, 4, free=0), cpus=4, free=0).place(
        backlog=3, strategy="SPREAD"
    )
    assert (shares, demand.here) == ({B: 3}, 0)


def test_single_tasks_that_spread_start_at_different_nodes():
    cluster = Cluster(Node(B, 4), Node(C, 4), cpus=4)
    places = []
    for turn in range(3):
        demand = cluster.demand(1, strategy="SPREAD")
        demand.turn = turn
        places.append(next(iter(cluster.shares(demand)[0]), OWN))
    assert sorted(places) == [OWN, B, C]


# --- locality ---

TAG_B, MB = bytes.fromhex(B)[:3], 1_000_000


def test_a_task_goes_where_its_arguments_are():
    shares, demand = Cluster(Node(B, 2)).place(backlog=2, prefer=TAG_B, prefer_bytes=500 * MB)
    assert (shares, demand.here) == ({B: 2}, 0)
    assert demand.away == f"500.00 MB of its arguments are on node {B[:8]}"


def test_it_waits_there_no_longer_than_moving_would_take():
    cluster = Cluster(Node(B, 2, free=0), locality_bytes_per_s=1e9)
    demand = cluster.demand(1, prefer=TAG_B, prefer_bytes=500 * MB)
    assert cluster.shares(demand) == [{B: 1}]
    assert "0.5 s at most" in demand.away
    assert cluster.placement.due == pytest.approx(cluster.now + 0.5)
    cluster.now = cluster.placement.due
    assert cluster.shares(demand) == [{}]
    assert (demand.here, cluster.placement.due) == (BACKLOG_MAX, None)


def test_it_waits_here_if_the_arguments_are_here():
    cluster = Cluster(Node(B, 2), free=0)
    demand = cluster.demand(1, prefer=bytes.fromhex(OWN)[:3], prefer_bytes=500 * MB)
    assert cluster.shares(demand) == [{}]
    cluster.now += 1
    assert cluster.shares(demand) == [{B: 1}]


def test_a_node_that_is_gone_or_too_small_is_not_preferred():
    assert Cluster(Node(C, 2)).place(prefer=TAG_B, prefer_bytes=MB)[1].here == BACKLOG_MAX
    cluster = Cluster(Node(B, 1))
    assert cluster.place(prefer=TAG_B, prefer_bytes=MB, resources={"CPU": 20_000})[1].here == BACKLOG_MAX


# --- decisions that stand ---


def test_in_a_large_cluster_a_decision_stands_for_a_moment():
    cluster = Cluster(Node(B, 1), Node(C, 1, free=0), cpus=1, free=0, place_us=1000.0)
    demand = cluster.demand(2)
    assert cluster.shares(demand) == [{B: 1}]
    assert cluster.placement.due is None, "nothing has happened since"
    cluster.view.nodes[1].available = {"CPU": 10_000}
    assert cluster.shares(demand) == [{B: 1}]
    assert cluster.placement.due == pytest.approx(cluster.now + 0.002)
    # Another demand is placed at once, and does not count on what the first has asked for.
    other = cluster.demand(3)
    assert cluster.shares(demand, other) == [{B: 1}, {C: 1}]
    cluster.now = cluster.placement.due
    assert cluster.shares(demand) == [{B: 1, C: 1}]


def test_demands_that_wait_do_not_take_turns_for_ever():
    # Each was decided at another moment, and the deadline of one was always there when the other was decided.
    cluster = Cluster(Node(B, 1), cpus=1, free=0, place_us=1000.0)
    first, second = cluster.demand(2), cluster.demand(3)
    cluster.shares(first)
    cluster.now += 0.0005
    cluster.shares(first, second)
    rounds = 0
    while cluster.placement.due is not None:
        cluster.now = cluster.placement.due
        cluster.shares(first, second)
        rounds += 1
        assert rounds < 5, "nothing has happened, and all is decided anew without end"


def test_what_was_granted_is_no_longer_asked_for_though_the_decision_stands():
    cluster = Cluster(Node(B, 3), cpus=1, free=0, place_us=1000.0)
    demand = cluster.demand(3)
    assert cluster.shares(demand) == [{B: 3}]
    cluster.placement.leased((DRIVER, demand.shape_id), B, {"CPU": 10_000}, cluster.now)
    demand.backlog -= 1
    assert cluster.shares(demand) == [{B: 2}]


def test_no_decision_stands_when_the_view_changes():
    cluster = Cluster(Node(B, 3), cpus=1, free=0, place_us=1000.0)
    demand = cluster.demand(3)
    assert cluster.shares(demand) == [{B: 3}]
    cluster.view.nodes = []
    cluster.placement.view_changed()
    assert cluster.shares(demand) == [{}]


# --- placement groups ---

GROUP = bytes(range(16))


class Groups:
    def __init__(self, answer):
        self.answer = answer

    def where(self, group, bundle, amounts):
        assert group == GROUP
        return self.answer


def test_a_member_goes_where_its_bundles_are():
    cluster = Cluster(Node(B, 2), Node(C, 2), groups=Groups({B: 1, C: 2}))
    shares, demand = cluster.place(backlog=5, strategy=["group", GROUP, -1, False])
    assert (shares, demand.here) == ({B: 1, C: 2}, 0)
    cluster.placement.groups = Groups({OWN: 2, B: 2})
    shares, demand = cluster.place(backlog=3, strategy=["group", GROUP, -1, False])
    assert (shares, demand.here) == ({B: 1}, BACKLOG_MAX)


def test_a_member_of_a_removed_group_says_so():
    cluster = Cluster(groups=Groups(("never", "it was removed")))
    shares, demand = cluster.place(strategy=["group", GROUP, 0, False])
    assert (shares, demand.here, demand.obstacle) == ({}, 0, ("never", "it was removed"))


# --- what must always hold ---

amount = st.integers(0, 4)
node = st.tuples(amount, amount, st.booleans())


@given(
    own=st.tuples(amount, amount),
    others=st.lists(node, max_size=5),
    demands=st.lists(
        st.tuples(
            st.integers(1, 6),
            st.integers(0, 5),
            st.sampled_from(["any", "spread", "hard", "soft", "here", "away", "label", "prefer"]),
        ),
        max_size=4,
    ),
    draining=st.booleans(),
)
def test_shares_are_allowed_feasible_and_no_more_than_wanted(own, others, demands, draining):
    nodes = [
        Node(f"{n + 1:x}" * 32, total, free=min(free, total), labels={"odd": "yes"} if odd else {})
        for n, (total, free, odd) in enumerate(others)
    ]
    cluster = Cluster(*nodes, cpus=own[0], free=min(own))
    cluster.placement.draining = draining
    target = nodes[0].node_id if nodes else D
    options = {
        "any": {},
        "spread": {"strategy": "SPREAD"},
        "hard": {"strategy": affinity(target)},
        "soft": {"strategy": affinity(target, True)},
        "here": {"strategy": affinity(OWN)},
        "away": {"strategy": affinity(D)},
        "label": {"labels": {"odd": ["in", ["yes"]]}},
        "prefer": {"prefer": bytes.fromhex(target)[:3], "prefer_bytes": 10**8},
    }
    made = [cluster.demand(n, {"CPU": cpus * 10_000}, **options[kind]) for n, cpus, kind in demands]
    by_id = {node.node_id: node for node in nodes}
    for demand, shares, (backlog, cpus, kind) in zip(made, cluster.shares(*made), demands, strict=True):
        assert OWN not in shares
        assert all(count > 0 for count in shares.values())
        assert sum(shares.values()) <= backlog
        assert all(by_id[node_id].resources["CPU"] >= cpus * 10_000 for node_id in shares)
        if kind == "hard":
            assert set(shares) <= {target}
            assert not demand.here
        elif kind in ("here", "away"):
            assert not shares
        elif kind == "label":
            assert all(by_id[node_id].labels for node_id in shares)
            assert not demand.here
        # Nothing is forgotten: it is asked for somewhere, waits here, or has an obstacle.
        assert bool(shares) or demand.here > 0 or demand.obstacle is not None
        assert (demand.obstacle is None) or (not shares and not demand.here)
        if demand.here and own[0] < cpus:
            raise AssertionError("this node can never meet it")
    again = cluster.shares(*made)
    assert again == cluster.shares(*made), "the same cluster, and other shares"


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=6), st.integers(1, 40))
def test_room_is_never_given_twice(others, backlog):
    nodes = [Node(f"{n + 1:x}" * 32, total, free=min(free, total)) for n, (total, free) in enumerate(others)]
    cluster = Cluster(*nodes, cpus=1, free=0)
    given_out = cluster.shares(*[cluster.demand(backlog) for _ in range(3)])
    for each in nodes:
        assert sum(shares.get(each.node_id, 0) for shares in given_out) * 10_000 <= each.available["CPU"]


# --- reading constraints ---


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "PACK"},
        {"strategy": ["affinity", 5, True]},
        {"strategy": ["affinity", B]},
        {"strategy": ["group", b"short", 0, False]},
        {"strategy": ["group", GROUP, "0", False]},
        {"strategy": ["labels", {"a": ["like", ["b"]]}, {}]},
        {"strategy": ["labels", 3, {}]},
        {"strategy": ["nowhere"]},
        {"strategy": 7},
        {"labels": {"a": "b"}},
        {"labels": [1]},
        {"prefer": "abc"},
        {"prefer": b"abc", "prefer_bytes": -1},
    ],
)
def test_constraints_that_make_no_sense(options):
    with pytest.raises(ProtocolError):
        constraints.read(options)


def test_most_demands_have_no_constraints():
    assert constraints.read({"name": "f", "depth": 3}) is None


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("b", ["in", ["b"]]),
        ("!b", ["!in", ["b"]]),
        ("in(a, b)", ["in", ["a", "b"]]),
        ("!in(a,b-c)", ["!in", ["a", "b-c"]]),
        ("inside", ["in", ["inside"]]),
    ],
)
def test_selectors_as_strings(text, condition):
    assert labels.parse({"zone": text}) == {"zone": condition}


@pytest.mark.parametrize("text", ["", "!", "in()", "in(a", "in(a,,b)", "a,b", "!!a"])
def test_selectors_that_make_no_sense(text):
    with pytest.raises(ValueError, match="zone"):
        labels.parse({"zone": text})
