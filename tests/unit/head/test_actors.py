"""The head's actor table: names, hosts, what happens when a host dies, and what nodes are told."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoald.head.actors import (
    ALIVE,
    DEAD,
    INCARNATIONS_PER_HOST,
    PENDING,
    RESTARTING,
    Actor,
    ActorTable,
    EndActor,
    ForgetActor,
    ForgetKill,
    HostActor,
    SaveActor,
    SaveKill,
    TellNode,
)

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


class Hosts:
    """Chooses the first free node of a list."""

    def __init__(self, *nodes):
        self.nodes = list(nodes)

    def __call__(self, actor):
        return self.nodes[0] if self.nodes else ""


def table(*nodes, dead_max=10, durable=()):
    return ActorTable(Hosts(*nodes), lambda node: True, dead_max, durable)


def named(actor_id, node="n1", **more):
    return Actor(actor_id, "space", "name", "Class", node, **more)


def of(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]


def test_a_name_is_given_once():
    actors = table()
    assert actors.claim(named(A)).actor_id == A
    assert actors.claim(named(B)).actor_id == A
    assert actors.claim(named(A)).actor_id == A, "asked again, because the answer was lost"
    assert actors.named("space", "name").actor_id == A
    assert actors.named("elsewhere", "name") is None
    actors.reported("n1", [named(A, state=DEAD, reason="killed")])
    assert actors.claim(named(B)).actor_id == B


def test_the_end_of_a_node_that_drained_counts_against_no_actor():
    actors = table("n2")
    actors.reported("n1", [Actor(A, state=ALIVE, restarts_left=1)])
    actors.node_died("n1", "it left", drained=True)
    moved = actors.find(A, "")
    assert (moved.node_id, moved.restarts, moved.restarts_left) == ("n2", 1, 1)


@pytest.mark.parametrize(
    ("restarts", "drained", "after"), [(1, True, RESTARTING), (1, False, DEAD), (0, True, DEAD)]
)
def test_one_without_restarts_left_is_moved_from_a_node_that_drained_if_it_ever_had_any(
    restarts, drained, after
):
    actors = table("n2")
    actors.reported("n1", [Actor(A, state=ALIVE, restarts_left=0, restarts=restarts, info=b"made of")])
    actors.node_died("n1", "it left", drained=drained)
    assert (actors.find(A, "").state, actors.find(A, "").restarts_left) == (after, 0)


def test_subscribers_are_told_until_it_is_dead():
    actors = table()
    actors.reported("n1", [Actor(A, state=PENDING)])
    actors.take()
    assert actors.find(A, "n2").state == PENDING
    assert actors.find(B, "n2") is None
    actors.reported("n1", [Actor(A, state=ALIVE)])
    actors.reported("n1", [Actor(A, state=DEAD, reason="gone")])
    told = of(actors.take(), TellNode)
    assert [(tell.node_id, tell.actor.state) for tell in told] == [("n2", ALIVE), ("n2", DEAD)]
    assert actors.find(A, "n2").reason == "gone"


# --- kills ---


def killed(actors, actor_id=A, reason="killed by somebody"):
    actors.take()
    actors.kill(actor_id, reason)
    return actors.take()


def test_a_killed_actor_is_dead_at_once_and_its_host_is_told():
    actors = table("n2", "n1")
    actors.reported("n1", [named(A, state=ALIVE, restarts_left=-1)])
    actors.find(A, "n3")
    effects = killed(actors)
    (tell,), (end,), (save,) = (of(effects, kind) for kind in (TellNode, EndActor, SaveKill))
    assert (tell.node_id, tell.actor.state, tell.actor.reason) == ("n3", DEAD, "killed by somebody")
    assert (end.node_id, end.actor.actor_id) == ("n1", A)
    assert save.actor.actor_id == A
    assert of(effects, ForgetActor)
    assert actors.claim(named(B)).actor_id == B, "its name is free"
    assert not of(killed(actors, reason="again"), SaveKill)
    assert actors.find(A, "").reason == "killed by somebody"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_actor_goes_nowhere_when_its_host_dies(when):
    actors = table("n2")
    actors.reported("n1", [Actor(A, state=ALIVE, restarts_left=-1, driver_node="n3")])
    if when == "before":
        killed(actors)
    actors.node_died("n1", "silent")
    if when == "after":  # it is on its way to another one
        (end,) = of(killed(actors), EndActor)
        assert end.node_id == "n2"
    assert not of(actors.take(), HostActor)
    assert actors.find(A, "").state == DEAD
    actors.reported("n2", [Actor(A, state=PENDING)])
    assert of(actors.take(), EndActor)


def test_a_kill_may_be_faster_than_the_actor():
    actors = table()
    killed(actors)
    assert actors.find(A, "n2").state == DEAD
    actors.reported("n1", [Actor(A, state=PENDING, restarts_left=3)])
    (end,) = of(actors.take(), EndActor)
    assert (end.node_id, end.actor.reason) == ("n1", "killed by somebody")
    actors.reported("n1", [replace(Actor(A), node_id="n2")])  # it was handed over meanwhile
    (end,) = of(actors.take(), EndActor)
    assert end.node_id == "n2"
    assert not len(actors)


def test_a_host_is_told_again_until_it_has_ended_it():
    actors = table()
    actors.reported("n1", [named(A, state=ALIVE)])
    killed(actors)
    actors.snapshot("n1", [named(A, state=ALIVE)])
    assert of(actors.take(), EndActor)
    actors.snapshot("n1", [named(A, state=DEAD, reason="killed", details=b"exit code")])
    assert of(actors.take(), ForgetKill)
    assert actors.find(A, "").details == b"exit code"
    actors.reported("n1", [named(A, state=ALIVE)])
    assert actors.find(A, "").state == DEAD


def test_kills_survive_a_restart_and_are_bounded():
    first = table()
    first.reported("n1", [named(A, state=ALIVE, restarts_left=1, detached=True)])
    saved = [effect.actor for effect in of(killed(first), SaveKill)]
    second = ActorTable(Hosts("n2"), lambda node: True, 10, (), 2, saved)
    second.snapshot("n1", [named(A, state=ALIVE, restarts_left=1, detached=True)])
    assert of(second.take(), EndActor)
    assert second.find(A, "").state == DEAD
    assert second.named("space", "name") is None
    killed(second, B)
    (forgotten,) = of(killed(second, C), ForgetKill)
    assert forgotten.actor_id == A
    second.validate({"n1", "n2"})


def test_what_a_node_says_of_another_nodes_actor_counts_for_nothing():
    actors = table()
    actors.reported("n1", [Actor(A, state=ALIVE)])
    actors.reported("n2", [Actor(A, state=DEAD)])
    assert actors.find(A, "").state == ALIVE


def test_a_later_life_counts_whoever_speaks_of_it():
    """n1 gave it to n2, and the head has not heard of that."""
    actors = table("n3")
    actors.reported("n1", [named(A, state=ALIVE, incarnation=3)])
    actors.find(A, "n4")
    actors.take()
    actors.reported("n2", [named(A, node="n2", state=PENDING, incarnation=4)])
    effects = actors.take()
    assert [tell.actor.node_id for tell in of(effects, TellNode)] == ["n2"]
    assert of(effects, SaveActor)
    actors.reported("n1", [named(A, node="n2", state=PENDING, incarnation=4)])  # the late word
    assert not actors.take()
    actors.node_died("n1", "gone")
    assert actors.find(A, "").node_id == "n2"
    actors.reported("n2", [named(A, node="n2", state=DEAD, incarnation=5)])
    assert actors.find(A, "").state == DEAD


def test_an_end_in_a_later_life_is_the_end():
    actors = table()
    actors.reported("n1", [Actor(A, state=ALIVE, incarnation=3)])
    actors.reported("n2", [Actor(A, state=DEAD, incarnation=5)])
    assert actors.find(A, "").state == DEAD
    actors.reported("n1", [Actor(A, node_id="n2", state=PENDING, incarnation=4)])
    assert actors.find(A, "").state == DEAD


def test_one_that_was_called_dead_with_its_former_host_is_not():
    actors = table()
    actors.reported("n1", [named(A, state=ALIVE, incarnation=3)])
    actors.node_died("n1", "gone")
    assert actors.find(A, "").state == DEAD
    actors.take()
    actors.reported("n2", [named(A, node="n2", state=ALIVE, incarnation=5)])
    assert actors.named("space", "name").node_id == "n2"
    assert of(actors.take(), SaveActor)
    actors.validate({"n2"})


def test_it_ends_if_its_name_was_given_away_meanwhile():
    actors = table()
    actors.reported("n1", [named(A, state=ALIVE, incarnation=3)])
    actors.node_died("n1", "gone")
    actors.claim(named(B, node="n3"))
    actors.take()
    actors.reported("n2", [named(A, node="n2", state=ALIVE, incarnation=5)])
    (end,) = of(actors.take(), EndActor)
    assert (end.node_id, end.actor.actor_id) == ("n2", A)
    assert actors.named("space", "name").actor_id == B


@pytest.mark.parametrize("says", ["reported", "snapshot"])
def test_who_has_an_earlier_life_of_it_than_another_node_is_told_to_end_that(says):
    """n1 gave it to n2 and died before the head heard of that, and n3 was given it; n2 speaks after that only."""
    actors = table("n3")
    actors.reported("n1", [named(A, state=ALIVE, incarnation=3, restarts_left=1)])
    actors.node_died("n1", "gone")
    actors.take()
    getattr(actors, says)("n2", [named(A, node="n2", state=ALIVE, incarnation=5)])
    (end,) = of(actors.take(), EndActor)
    assert (end.node_id, end.actor.node_id, end.actor.state) == ("n2", "n3", RESTARTING)
    assert end.actor.incarnation > 5
    actors.reported("n2", [named(A, node="n2", state=DEAD, incarnation=5)])
    actors.reported("n1", [named(A, node="n2", state=PENDING, incarnation=4)])
    assert not actors.take()
    assert actors.find(A, "").node_id == "n3"


def test_nodes_that_were_told_of_a_death_that_was_none_hear_that():
    actors = table()
    actors.reported("n1", [named(A, state=ALIVE, incarnation=3)])
    actors.find(A, "n4")
    actors.find(A, "n5")
    actors.node_died("n1", "gone")
    actors.find(A, "n6")  # hears by the answer that it is dead
    actors.node_died("n5", "gone")
    actors.take()
    actors.reported("n2", [named(A, node="n2", state=ALIVE, incarnation=5)])
    told = [(tell.node_id, tell.actor.node_id, tell.actor.state) for tell in of(actors.take(), TellNode)]
    assert told == [("n4", "n2", ALIVE), ("n6", "n2", ALIVE)]
    actors.validate({"n2", "n4", "n6"})


def test_a_snapshot_reminds_of_what_was_given_away():
    actors = table()
    actors.reported("n1", [Actor(A, state=ALIVE, incarnation=3)])
    actors.take()
    given = [Actor(each, node_id="n2", state=PENDING, incarnation=4) for each in (A, B)]
    actors.snapshot("n1", given)  # what became of B is forgotten here: it may have ended long ago
    (host,) = of(actors.take(), HostActor)
    assert (host.actor.actor_id, host.actor.node_id) == (A, "n2")
    assert actors.find(A, "").node_id == "n2"
    assert actors.find(B, "") is None


def test_what_was_given_away_before_the_head_sent_it_back_is_no_news():
    live = {"n1"}
    actors = ActorTable(Hosts("n1"), live.__contains__, 10)
    given = Actor(A, node_id="n2", state=PENDING, incarnation=4, restarts_left=2)
    live.add("n2")
    actors.reported("n1", [given])
    live.discard("n2")
    actors.node_died("n2", "gone")
    actors.take()
    actors.snapshot("n1", [given])
    (host,) = of(actors.take(), HostActor)  # it may not have heard
    assert (host.actor.node_id, host.actor.restarts) == ("n1", 1)


def test_a_dead_actor_does_not_come_back():
    actors = table()
    actors.reported("n1", [Actor(A, state=ALIVE)])
    actors.reported("n1", [Actor(A, state=DEAD)])
    actors.reported("n1", [Actor(A, state=ALIVE)])
    assert actors.find(A, "").state == DEAD


@pytest.mark.parametrize(("left", "after"), [(2, 1), (-1, -1)])
def test_an_actor_whose_host_died_goes_elsewhere_while_it_may(left, after):
    actors = table("n2")
    actors.reported("n1", [Actor(A, state=ALIVE, restarts_left=left, driver_node="n3")])
    actors.take()
    actors.node_died("n1", "silent")
    (host,) = of(actors.take(), HostActor)
    assert host.actor.node_id == "n2"
    assert host.actor.state == RESTARTING
    assert host.actor.restarts_left == after
    assert host.actor.restarts == 1
    assert host.actor.incarnation == 2 * INCARNATIONS_PER_HOST
    actors.reported("n1", [Actor(A, state=DEAD)])  # the late word of the dead node
    assert actors.find(A, "").state == RESTARTING
    actors.reported("n2", [replace(host.actor, state=ALIVE)])
    assert actors.find(A, "").state == ALIVE


def test_one_that_may_not_restart_is_dead_and_says_why():
    actors = table("n2")
    actors.reported("n1", [Actor(A, state=ALIVE, driver_node="n3"), Actor(B, state=ALIVE, driver_node="n3")])
    actors.node_died("n1", "silent for 10 s")
    assert actors.find(A, "").state == DEAD
    assert "silent for 10 s" in actors.find(A, "").reason
    assert not of(actors.take(), HostActor)


@pytest.mark.parametrize(("left", "after"), [(0, DEAD), (1, RESTARTING)])
def test_one_that_was_handed_to_a_node_that_has_died_meanwhile_may_have_run_there(left, after):
    actors = ActorTable(Hosts("n3"), lambda node: node != "n2", dead_max=10)
    handed = replace(named(A, restarts_left=left), node_id="n2")
    actors.reported("n1", [handed])
    found = actors.find(A, "")
    assert (found.state, found.restarts_left) == (after, 0)
    assert found.reason == "its node n2 died"


def test_an_actor_ends_with_the_node_of_its_driver_unless_it_is_detached():
    actors = table("n2")
    mine = Actor(A, state=ALIVE, restarts_left=-1, driver_node="n1")
    actors.reported("n1", [mine, replace(mine, actor_id=B, detached=True)])
    actors.node_died("n1", "gone")
    assert actors.find(A, "").state == DEAD
    assert actors.find(B, "").node_id == "n2"


def test_a_homeless_actor_waits_for_a_node():
    hosts = Hosts()
    actors = ActorTable(hosts, lambda node: True, 10)
    actors.reported("n1", [Actor(A, state=ALIVE, restarts_left=1, driver_node="n3", job_id="j")])
    actors.node_died("n1", "gone")
    actors.nodes_changed()
    assert actors.find(A, "").node_id == ""
    assert not of(actors.take(), HostActor)
    hosts.nodes.append("n4")
    actors.nodes_changed()
    assert of(actors.take(), HostActor)[0].actor.node_id == "n4"


@pytest.mark.parametrize("order", [("n1", "n3"), ("n3", "n1")])
def test_a_homeless_actor_ends_with_the_node_of_its_driver(order):
    live = {"n1", "n3"}
    actors = ActorTable(Hosts(), live.__contains__, 10)
    mine = Actor(A, state=ALIVE, restarts_left=-1, driver_node="n3")
    actors.reported("n1", [mine, replace(mine, actor_id=B, detached=True)])
    for node in order:
        live.discard(node)
        actors.node_died(node, "silent")
    assert [actors.find(each, "").state for each in (A, B)] == [DEAD, RESTARTING]


def test_a_homeless_actor_ends_with_its_driver():
    actors = table()
    actors.reported("n1", [Actor(A, state=ALIVE, restarts_left=1, driver_node="n3", job_id="j")])
    actors.node_died("n1", "gone")
    actors.job_ended("j")
    assert actors.find(A, "").state == DEAD


def test_a_snapshot_ends_what_is_gone_and_repeats_what_was_not_heard():
    actors = table("n2")
    actors.reported("n1", [Actor(A, state=ALIVE, restarts_left=1, driver_node="n3")])
    actors.reported("n2", [Actor(B, state=ALIVE, driver_node="n3")])
    actors.node_died("n1", "gone")
    actors.take()
    actors.snapshot("n2", [])
    assert [effect.actor.actor_id for effect in of(actors.take(), HostActor)] == [A]
    assert actors.find(B, "").state == DEAD


def test_named_and_detached_ones_are_durable():
    actors = table()
    actors.claim(named(A))
    actors.reported("n1", [Actor(B, state=ALIVE, detached=True), Actor(C, state=ALIVE)])
    saved = {effect.actor.actor_id for effect in of(actors.take(), SaveActor)}
    assert saved == {A, B}
    again = table(durable=[named(A), Actor(B, node_id="n1", detached=True)])
    assert again.claim(named(C)).actor_id == A
    again.reported("n1", [named(A, state=DEAD)])
    assert of(again.take(), ForgetActor) == [ForgetActor(A)]


def test_dead_ones_are_remembered_within_a_bound():
    actors = table(dead_max=2)
    for actor_id in (A, B, C):
        actors.reported("n1", [Actor(actor_id, state=ALIVE)])
        actors.reported("n1", [Actor(actor_id, state=DEAD)])
    assert actors.find(A, "") is None
    assert [actor.actor_id for actor in actors.all()] == [C, B]


NODES = ["n1", "n2", "n3"]
IDS = [bytes([n]) * 16 for n in range(1, 6)]


class Machine(RuleBasedStateMachine):
    """Nodes come, go and report in any order; after every step the table is consistent."""

    def __init__(self):
        super().__init__()
        self.hosts = Hosts(*NODES)
        self.table = ActorTable(self.hosts, lambda node: node in self.hosts.nodes, 3, kills_max=len(IDS))
        self.killed = set()
        self.hosted = {}

    @rule(
        actor_id=st.sampled_from(IDS),
        node=st.sampled_from(NODES),
        name=st.sampled_from(["", "x", "y"]),
        left=st.integers(-1, 2),
    )
    def made(self, actor_id, node, name, left):
        if node not in self.hosts.nodes or self.table.find(actor_id, ""):
            return
        actor = Actor(actor_id, "s", name, "K", node, restarts_left=left, detached=bool(left))
        if name and self.table.claim(actor).actor_id != actor_id:
            return
        self.table.reported(node, [actor])

    @rule(
        actor_id=st.sampled_from(IDS),
        node=st.sampled_from(NODES),
        state=st.sampled_from([ALIVE, RESTARTING, DEAD]),
    )
    def says(self, actor_id, node, state):
        actor = self.table.find(actor_id, "")
        if actor is not None and node in self.hosts.nodes:
            self.table.reported(node, [replace(actor, state=state)])

    @rule(actor_id=st.sampled_from(IDS))
    def killed_for_good(self, actor_id):
        self.table.kill(actor_id, "killed")
        self.killed.add(actor_id)
        assert self.table.find(actor_id, "").state == DEAD

    @rule(node=st.sampled_from(NODES), actor_id=st.sampled_from(IDS))
    def asks(self, node, actor_id):
        if node in self.hosts.nodes:
            self.table.find(actor_id, node)

    @rule(node=st.sampled_from(NODES))
    def dies(self, node):
        if node in self.hosts.nodes:
            self.hosts.nodes.remove(node)
            self.table.node_died(node, "gone")

    @rule(node=st.sampled_from(NODES))
    def joins(self, node):
        if node not in self.hosts.nodes:
            self.hosts.nodes.append(node)
            self.table.nodes_changed()

    @rule(node=st.sampled_from(NODES), some=st.lists(st.sampled_from(IDS)))
    def snapshot(self, node, some):
        if node in self.hosts.nodes:
            known = [self.table.find(actor_id, "") for actor_id in some]
            self.table.snapshot(node, [actor for actor in known if actor and actor.node_id == node])

    @invariant()
    def consistent(self):
        self.table.validate(set(self.hosts.nodes))
        for effect in self.table.take():
            assert not isinstance(effect, HostActor) or effect.actor.node_id in self.hosts.nodes
            assert not isinstance(effect, HostActor | SaveActor) or effect.actor.actor_id not in self.killed
        if self.hosts.nodes:
            assert all(actor.node_id or actor.state == DEAD for actor in self.table.all())


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
