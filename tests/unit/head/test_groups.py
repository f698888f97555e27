"""Placement groups of a whole cluster: the head's table with the cores of nodes, by example and in random histories."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from groupparts import JOB, MAKER, GroupCluster
from shoal.wire import messages as m
from shoald.head import groupwords as gw
from shoald.head.groups import GroupTable
from shoald.head.planning import STRATEGIES, plan


def members(cluster):
    return list(cluster.members.values())


def test_a_group_that_fits_on_its_makers_node_is_made_in_the_same_step():
    cluster = GroupCluster(4, 4)
    first, _ = members(cluster)
    group = cluster.create(first, "PACK", 1, 2)
    assert first.states_of(group) == ["CREATED"]
    assert first.core.available() == {"CPU": 10_000}
    cluster.settle()
    assert cluster.state(group).nodes == (first.node_id, first.node_id)
    cluster.check_settled()


def test_bundles_with_selectors_are_where_their_labels_are():
    cluster = GroupCluster(4, 4, 4)
    first, second, third = members(cluster)
    third.labels = {"zone": "x"}
    cluster.settle(3)
    group = cluster.create(first, "PACK", 1, 1, selectors=[{}, {"zone": "x"}])
    assert not first.states_of(group), "its maker's node has room, but not that label"
    cluster.settle(3)
    assert cluster.state(group).nodes[1] == third.node_id
    none = cluster.create(second, "SPREAD", 1, selectors=[{"zone": "nowhere"}])
    cluster.settle(3)
    assert cluster.state(none).state == "PENDING"
    assert "infeasible" in cluster.state(none).reason
    assert "on a node with zone in (nowhere)" in cluster.state(none).reason
    cluster.check_settled()


def test_a_group_that_is_gone_before_the_head_hears_of_it_is_never_mentioned():
    cluster = GroupCluster(4)
    (node,) = members(cluster)
    cluster.settle()
    group = cluster.create(node, "PACK", 1)
    cluster.remove(node, group)
    cluster.settle()
    assert len(cluster.table) == 0
    assert node.available == {"CPU": 40_000}


def test_a_group_over_several_nodes_is_reserved_in_two_phases():
    cluster = GroupCluster(1, 1)
    first, second = members(cluster)
    cluster.settle(2)
    group = cluster.create(first, "STRICT_SPREAD", 1, 1)
    assert not first.states_of(group)
    cluster.hear_one(first)
    assert first.down[-1].orders[0].kind == second.down[-1].orders[0].kind == "PREPARE"
    for node in (first, second):
        cluster.obey_one(node)
        assert node.groups.bundles.here(group)
        assert not node.core.ledger.derived, "prepared, and nobody may use it yet"
    cluster.hear_one(first)
    assert cluster.state(group).state == "PENDING"
    cluster.hear_one(second)
    assert cluster.state(group).state == "CREATED"
    cluster.settle()
    assert first.states_of(group) == ["CREATED"]
    cluster.check_settled()


def test_a_node_that_refuses_makes_all_give_back_and_another_plan():
    cluster = GroupCluster(1, 2, 2)
    first, second, third = members(cluster)
    cluster.settle(2)
    cluster.create(second, "PACK", 2)  # and what it said last that it has free does not say so yet
    group = cluster.create(first, "STRICT_SPREAD", 2, 1)
    cluster.hear_one(first)
    assert second.node_id in cluster.table._records[group].planned.values()
    cluster.obey_one(second)
    cluster.hear_one(second)
    assert first.down[-1].orders[0].kind == "RETURN"
    cluster.settle()
    assert cluster.state(group).nodes == (third.node_id, first.node_id)
    cluster.check_settled()


def test_what_a_late_order_has_prepared_of_a_removed_group_goes_back():
    cluster = GroupCluster(1, 1)
    first, _ = members(cluster)
    cluster.settle(2)
    group = cluster.create(first, "STRICT_SPREAD", 1, 1)
    cluster.hear_one(first)
    late = first.down[0]
    cluster.settle()
    cluster.remove(first, group)
    cluster.hear_one(first)
    first.down[:] = [late]  # what followed was lost with the stream
    cluster.obey_one(first)
    assert first.groups.bundles.here(group)
    cluster.disconnect(first)
    cluster.connect(first)
    cluster.settle()
    assert not first.groups.bundles.here(group)
    cluster.check_settled()


def test_what_waits_for_room_gets_it_when_another_is_removed():
    cluster = GroupCluster(2, 1)
    first, second = members(cluster)
    cluster.settle(2)
    old = cluster.create(first, "PACK", 2)
    new = cluster.create(second, "STRICT_PACK", 2)
    cluster.settle()
    assert cluster.state(new).state == "PENDING"
    assert "waits for room" in cluster.state(new).reason
    cluster.remove(first, old)
    cluster.settle()
    assert cluster.state(new).nodes == (first.node_id,)
    assert second.states_of(new) == ["CREATED"]
    cluster.check_settled()


def carry(cluster):
    """Carry messages until there are none, while no node says anew what it has free."""
    while any(member.up or member.down for member in members(cluster)):
        for member in members(cluster):
            while member.up:
                cluster.hear_one(member)
            while member.down:
                cluster.obey_one(member)


def test_what_came_and_went_between_two_measurements_is_not_counted_for_ever():
    cluster = GroupCluster(1, 1)
    first = members(cluster)[0]
    cluster.settle(2)
    group = cluster.create(first, "STRICT_SPREAD", 1, 1)
    carry(cluster)
    assert cluster.state(group).state == "CREATED"
    cluster.remove(first, group)
    carry(cluster)
    again = cluster.create(first, "STRICT_SPREAD", 1, 1)
    cluster.settle()
    assert cluster.state(again).state == "CREATED"


def test_what_a_node_has_as_before_is_not_counted_for_ever():
    """It gave to a group just what came free meanwhile: it says nothing, since nothing has changed."""
    cluster = GroupCluster(2, 2, 2)
    first, second, third = members(cluster)
    old = cluster.create(second, "PACK", 1)
    cluster.settle(2)
    cluster.remove(second, old)
    group = cluster.create(first, "STRICT_SPREAD", 1, 1, 1)
    carry(cluster)
    assert cluster.state(group).state == "CREATED"
    assert cluster.gauges[second.node_id] == second.available == {"CPU": 10_000}
    again = cluster.create(third, "STRICT_SPREAD", 1, 1, 1)
    cluster.settle()
    assert cluster.state(again).state == "CREATED"


def test_what_no_node_can_have_says_so_and_is_made_when_one_comes():
    cluster = GroupCluster(2, 1)
    first, second = members(cluster)
    cluster.settle(2)
    group = cluster.create(first, "STRICT_PACK", 4, 4)
    cluster.settle()
    (message,) = [each for each in first.told if each[1] == group]
    assert message[2] == "PENDING"
    for part in (
        "infeasible",
        "STRICT_PACK of 2 bundle(s) (CPU 4; CPU 4)",
        f"node {second.node_id[:8]} CPU 1",
    ):
        assert part in message[3]
    cluster.join(8)
    cluster.settle()
    assert first.states_of(group) == ["PENDING", "CREATED"]


def test_alone_a_group_waits_here_and_moves_to_the_head_when_others_come():
    cluster = GroupCluster(2)
    (first,) = members(cluster)
    cluster.settle(2)
    group = cluster.create(first, "STRICT_SPREAD", 1, 1)
    cluster.settle()
    assert first.states_of(group) == ["PENDING"]
    assert "2 nodes" in first.told[-1][3]
    assert len(cluster.table) == 0
    other = cluster.join(2)
    cluster.settle()
    assert set(cluster.state(group).nodes) == {first.node_id, other.node_id}


def test_a_dead_nodes_bundles_get_other_nodes_and_the_others_stay():
    cluster = GroupCluster(1, 1, 1)
    first, second, third = members(cluster)
    cluster.settle(2)
    group = cluster.create(first, "STRICT_SPREAD", 1, 1)
    cluster.settle()
    before = cluster.state(group).nodes
    dead = next(each for each in (second, third) if each.node_id in before)
    spare = next(each for each in (second, third) if each is not dead)
    cluster.die(dead)
    assert cluster.state(group).state == "RESCHEDULING"
    cluster.settle()
    view = cluster.state(group)
    assert (view.state, set(view.nodes)) == ("CREATED", {first.node_id, spare.node_id})
    assert view.nodes[before.index(first.node_id)] == first.node_id
    cluster.check_settled()


def test_a_node_that_dies_while_it_prepares():
    cluster = GroupCluster(1, 1, 1)
    first, second, third = members(cluster)
    cluster.settle(2)
    group = cluster.create(first, "STRICT_SPREAD", 1, 1)
    cluster.hear_one(first)
    planned = set(cluster.table._records[group].planned.values())
    cluster.die(second if second.node_id in planned else third)
    cluster.settle()
    assert cluster.state(group).state == "CREATED"
    cluster.check_settled()


@pytest.mark.parametrize("lost", range(6))
def test_a_stream_that_breaks_at_any_moment_loses_nothing(lost):
    cluster = GroupCluster(1, 1)
    first, second = members(cluster)
    cluster.settle(2)
    group = cluster.create(first, "STRICT_SPREAD", 1, 1)
    steps = [
        lambda: cluster.hear_one(first),
        lambda: cluster.obey_one(first),
        lambda: cluster.obey_one(second),
        lambda: cluster.hear_one(first),
        lambda: cluster.hear_one(second),
    ]
    for step in steps[:lost]:
        step()
    for node in (first, second):
        cluster.disconnect(node)
        cluster.connect(node)
    cluster.settle()
    assert cluster.state(group).state == "CREATED"
    cluster.check_settled()


def test_what_was_prepared_for_an_attempt_that_failed_meanwhile_is_given_back():
    cluster = GroupCluster(1, 1, 1)
    first, second, third = members(cluster)
    cluster.settle(2)
    full = cluster.create(second, "PACK", 1)  # and what it said last does not say so
    group = cluster.create(third, "STRICT_SPREAD", 1, 1)
    cluster.hear_one(third)
    planned = set(cluster.table._records[group].planned.values())
    assert planned == {first.node_id, second.node_id}
    cluster.obey_one(first)
    cluster.disconnect(first)  # its answer is lost, and that it was to give back
    cluster.settle()
    assert cluster.state(group).state == "PENDING"
    cluster.remove(second, full)
    cluster.settle()
    assert set(cluster.state(group).nodes) == {second.node_id, third.node_id}
    assert first.available == {"CPU": 0}
    cluster.connect(first)
    cluster.settle()
    assert first.available == {"CPU": 10_000}
    cluster.check_settled()


def test_a_removal_that_its_node_did_not_hear_of_is_made_good_for():
    cluster = GroupCluster(1, 1)
    first, second = members(cluster)
    cluster.settle(2)
    group = cluster.create(first, "STRICT_SPREAD", 1, 1)
    cluster.settle()
    cluster.disconnect(second)
    cluster.remove(first, group)
    cluster.settle()
    assert second.available == {"CPU": 0}
    cluster.connect(second)
    cluster.settle()
    assert second.available == {"CPU": 10_000}
    cluster.check_settled()


def test_a_removal_while_the_head_is_away_is_told_later():
    cluster = GroupCluster(2, 2)
    first, _ = members(cluster)
    cluster.settle(2)
    group = cluster.create(first, "PACK", 2)
    cluster.settle()
    cluster.disconnect(first)
    cluster.remove(first, group)
    cluster.connect(first)
    cluster.settle()
    assert cluster.state(group).state == "REMOVED"
    assert not first.groups._removing


def test_another_node_can_watch_and_remove():
    cluster = GroupCluster(2, 2)
    first, second = members(cluster)
    cluster.settle(2)
    group = cluster.create(first, "PACK", 2)
    cluster.settle()
    second.groups.watch(MAKER, group, cluster.now)
    second.collect()
    cluster.settle()
    assert second.states_of(group) == ["CREATED"]
    assert second.groups.where(group, -1, {"CPU": 10_000}) == {first.node_id: 2}
    cluster.remove(second, group)
    cluster.settle()
    assert first.available == {"CPU": 20_000}
    for node in (first, second):
        assert node.groups.where(group, 0, {})[0] == "never"


def test_a_group_that_has_never_existed_says_so():
    cluster = GroupCluster(2, 2)
    node = members(cluster)[0]
    kind, text = node.groups.where(bytes(16), 0, {"CPU": 1})
    assert (kind, "PENDING" in text) == ("ok", True)
    node.collect()
    cluster.settle()
    kind, text = node.groups.where(bytes(16), 0, {"CPU": 1})
    assert kind == "never"
    assert "has never existed" in text


def test_names_are_given_once():
    cluster = GroupCluster(4, 4)
    first, second = members(cluster)
    one = cluster.create(first, "PACK", 1, name="x")
    cluster.settle()
    assert first.told[0] == [m.RESPONSE, 7, True, {}]
    two = cluster.create(second, "PACK", 1, name="x")
    cluster.settle()
    (answer,) = [each for each in second.told if each[0] == m.RESPONSE]
    assert answer[2] is False
    assert "there is a placement group named 'x'" in answer[3]
    assert two not in second.groups.records
    assert cluster.table.find("n", "x").group.group_id == one
    cluster.remove(second, one)
    cluster.settle()
    assert cluster.table.find("n", "x") is None
    cluster.create(second, "PACK", 1, name="x")
    cluster.settle()
    assert cluster.table.find("n", "x").state == "CREATED"


def test_a_job_takes_its_groups_along_but_not_detached_ones():
    cluster = GroupCluster(4, 4)
    first, _ = members(cluster)
    cluster.settle(2)
    kept = cluster.create(first, "STRICT_SPREAD", 1, 1, detached=True)
    gone = cluster.create(first, "STRICT_SPREAD", 1, 1)
    here = cluster.create(first, "PACK", 1)
    cluster.settle()
    first.groups.job_ended(JOB, cluster.now)
    first.collect()
    assert here in first.groups.gone
    cluster.table.job_ended(JOB)
    cluster.carry_head()
    cluster.settle()
    assert [cluster.state(group).state for group in (kept, gone)] == ["CREATED", "REMOVED"]
    cluster.check_settled()


def test_a_head_that_starts_again_knows_its_groups():
    cluster = GroupCluster(1, 1)
    first, second = members(cluster)
    cluster.settle(2)
    kept = cluster.create(first, "STRICT_SPREAD", 1, 1)
    cluster.settle()
    waiting = cluster.create(second, "STRICT_PACK", 1)
    cluster.settle()
    saved = cluster.table.views()
    for node in (first, second):
        cluster.disconnect(node)
    cluster.table = GroupTable(cluster.rooms, cluster.config, saved)
    cluster.remove(first, kept)  # while no head is there
    for node in (first, second):
        cluster.connect(node)
    cluster.settle()
    assert cluster.state(kept).state == "REMOVED"
    assert cluster.state(waiting).state == "CREATED"
    cluster.check_settled()


def test_only_so_many_groups_that_are_over_are_remembered():
    cluster = GroupCluster(1, 1, groups_removed_max=3)
    first = members(cluster)[0]
    cluster.settle(2)
    for _ in range(5):
        cluster.remove(first, cluster.create(first, "STRICT_SPREAD", 1, 1))
        cluster.settle(3)
    assert len(cluster.table) == 3
    assert len(first.groups.gone) == 3


def test_a_draining_node_gets_no_bundles():
    cluster = GroupCluster(2, 2)
    first, second = members(cluster)
    cluster.settle(2)
    first.core.placement.draining = True
    group = cluster.create(first, "PACK", 1)
    cluster.settle()
    # The head learns of draining by itself; whatever it plans, the node refuses.
    assert cluster.state(group).nodes == (second.node_id,)


class GroupMachine(RuleBasedStateMachine):
    """Groups come and go on nodes that break away, come back, die and join: never too much, and in the end all is right."""

    def __init__(self):
        super().__init__()
        self.cluster = GroupCluster(2, 2, 1)

    def member(self, number):
        return members(self.cluster)[number % len(self.cluster.members)]

    number = st.integers(0, 5)

    @rule(
        n=number,
        strategy=st.sampled_from(STRATEGIES),
        cpus=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    )
    def create(self, n, strategy, cpus):
        self.cluster.create(self.member(n), strategy, *cpus)

    @precondition(lambda self: self.cluster.made)
    @rule(n=number, which=st.integers(0, 100))
    def remove(self, n, which):
        group_id = (which % self.cluster.made + 1).to_bytes(16, "big")
        self.cluster.remove(self.member(n), group_id)

    @rule(n=number)
    def hear(self, n):
        member = self.member(n)
        if member.up:
            self.cluster.hear_one(member)

    @rule(n=number)
    def obey(self, n):
        member = self.member(n)
        if member.down:
            self.cluster.obey_one(member)

    @rule(n=number)
    def turn(self, n):
        self.cluster.turn(self.member(n))

    @rule(n=number)
    def measure(self, n):
        self.cluster.measure(self.member(n))

    @rule(passed=st.sampled_from([0.01, 0.11, 1.1]))
    def time_passes(self, passed):
        self.cluster.now += passed
        self.cluster.tick()

    @rule(n=number)
    def break_stream(self, n):
        member = self.member(n)
        if member.connected:
            self.cluster.disconnect(member)
        else:
            self.cluster.connect(member)

    @precondition(lambda self: len(self.cluster.members) > 2)
    @rule(n=number)
    def die(self, n):
        self.cluster.die(self.member(n))

    @precondition(lambda self: len(self.cluster.members) < 4 and len(self.cluster.gauges) < 9)
    @rule(cpus=st.integers(1, 3))
    def join(self, cpus):
        self.cluster.join(cpus)

    @invariant()
    def sane(self):
        self.cluster.validate()

    def teardown(self):
        cluster = self.cluster
        for member in members(cluster):
            if not member.connected:
                cluster.connect(member)
        cluster.settle()
        cluster.check_settled()
        for member in members(cluster):
            assert not member.groups._removing
        for view in cluster.table.views():
            assert view.state in (gw.CREATED, gw.PENDING, gw.RESCHEDULING, *gw.OVER)
            if view.state not in (gw.CREATED, *gw.OVER):
                assert view.reason, "it waits, and nobody can say for what"
                missing = {i: view.group.bundles[i] for i, node_id in enumerate(view.nodes) if not node_id}
                fixed = {i: node_id for i, node_id in enumerate(view.nodes) if node_id}
                free = {member.node_id: member.available for member in members(cluster)}
                assert plan(view.group.strategy, missing, fixed, free) is None, "it waits, and there is room"


GroupMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40)
TestGroups = GroupMachine.TestCase
