"""The end of an actor's process on another node is taken when its last replies have come, or a while later."""

import socket
import time
from types import SimpleNamespace

import pytest

from shoal.actors.calls import ActorCalls
from shoal.actors.client import Actors
from shoal.config import Config
from shoal.wire import messages as m

ACTOR = b"A" * 16
HERE, THERE = "aa" * 16, "bb" * 16
LATE_S = 2.0


class Connection:
    """One whose frames are strings; ``gone``: the peer has closed it; ``reset``: it broke."""

    def __init__(self):
        self.frames = []
        self.closed = self.gone = self.reset = self.ended = False

    @property
    def readable(self):
        return not self.closed and (bool(self.frames) or self.gone or self.reset)

    def receive(self):
        if self.frames:
            return [self.frames.pop(0)]
        self.ended = self.gone
        return None


class World:
    """One caller of one actor; ``seen``: replies and states, as they were taken."""

    def __init__(self, monkeypatch):
        runtime = SimpleNamespace(
            identity=SimpleNamespace(node_id=HERE),
            config=Config(late_replies_ms=LATE_S * 1000),
            table=SimpleNamespace(entries={}, to_node=lambda _: None),
        )
        self.seen = []
        self.actors = Actors(runtime)
        monkeypatch.setattr(self.actors, "_on_replies", lambda _, bodies: self.seen.extend(bodies))
        monkeypatch.setattr(self.actors, "_meet", self.meet)
        self.connection = Connection()
        self.lease = SimpleNamespace(connection=self.connection, broken=False, inflight={b"call": None})
        self.calls = SimpleNamespace(
            actor_id=ACTOR,
            lease=self.lease,
            held=True,
            waiting=False,
            incarnation=2,
            _resuming=False,
            is_past=lambda details: ActorCalls.is_past(self.calls, details),
            known=lambda details, ended: ActorCalls.known(self.calls, details, ended),
            died=lambda _: self.seen.append("dead"),
            restarting=self.restarts,
            lost=lambda: self.seen.append("lost"),
        )
        self.lease.queue = self.calls
        self.connection.owner = self.lease
        self.actors.calls[ACTOR] = self.calls

    def meet(self, _calls, message, sock):
        self.seen.append(message[2])
        sock.close()

    def restarts(self, details):
        self.seen.append("restarting")
        self.unmade = details.get("unmade")

    def peer(self, number):
        """A connection to the next process; its socket, and the other end."""
        ours, theirs = socket.socketpair()
        self.actors._runtime.node = SimpleNamespace(take_descriptor=ours.detach)
        self.actors.handlers()[m.ACTOR_PEER]([m.ACTOR_PEER, ACTOR, number, b"process", 1, False])
        return theirs

    def state(self, state, **details):
        self.actors.handlers()[m.ACTOR_STATE]([m.ACTOR_STATE, ACTOR, state, {"node": THERE, **details}])


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_replies_that_come_after_the_news_of_the_end_count(world):
    world.connection.frames = ["first"]
    world.state("restarting")
    assert world.seen == ["first"]
    assert world.lease.broken, "nothing more is sent there"
    world.connection.frames = ["last"]
    world.connection.gone = True
    world.actors._on_closed(world.connection)
    assert world.seen == ["first", "last", "restarting"]
    world.actors.tick(time.monotonic() + LATE_S)
    assert world.seen == ["first", "last", "restarting"], "once"


def test_a_connection_that_does_not_end_is_not_waited_for_for_ever(world):
    world.state("dead")
    world.actors.tick(time.monotonic() + LATE_S / 2)
    assert world.seen == []
    world.actors.tick(time.monotonic() + LATE_S)
    assert world.seen == ["dead"]


def test_states_are_taken_in_order(world):
    world.state("restarting")
    world.state("dead")
    assert world.seen == ["restarting"]
    world.actors.tick(time.monotonic() + LATE_S)
    assert world.seen == ["restarting", "dead"]


def test_a_host_that_is_slow_to_tell_of_a_process_ends_no_connection_to_the_next_one(world):
    world.state("restarting", incarnation=1)
    assert not world.lease.broken
    world.state("restarting", incarnation=2)
    assert world.lease.broken
    world.state("restarting", incarnation=1)
    world.actors.tick(time.monotonic())
    assert world.seen == [], "nor is what comes late a reason not to wait for replies"
    world.actors.tick(time.monotonic() + LATE_S)
    assert world.seen == ["restarting"]


@pytest.mark.parametrize("details", [{"node": HERE}, {"node": ""}, {"node_died": True}])
def test_where_nothing_can_be_late_nothing_waits(world, details):
    world.connection.frames = ["last"]
    world.state("dead", **details)
    assert world.seen == ["last", "dead"]


def test_nor_where_all_was_answered_or_the_connection_has_ended(world):
    world.lease.inflight.clear()
    world.state("restarting")
    assert world.seen == ["restarting"]
    world.lease.inflight[b"call"] = None
    world.connection.frames, world.connection.gone = ["last"], True
    world.state("restarting")
    assert world.seen == ["restarting", "last", "restarting"]


def test_what_ends_on_its_own_is_a_lost_connection(world):
    world.actors._on_closed(world.connection)
    assert world.seen == ["lost"]


def test_an_actor_that_is_forgotten_has_no_end_left(world):
    world.connection.close = lambda: None
    world.state("restarting")
    world.actors.close()
    world.actors.tick(time.monotonic() + LATE_S)
    assert world.seen == []


LEFT = {"current": m.LEFT, "unmade": True}


def test_the_next_process_is_met_when_the_last_replies_of_the_one_before_have_come(world):
    world.state("restarting", incarnation=2, **LEFT)
    with world.peer(3), world.peer(4):
        assert world.seen == []
        world.connection.frames, world.connection.gone = ["last"], True
        world.actors._on_closed(world.connection)
        assert world.seen == ["last", "restarting", 4]
        assert world.unmade
        with world.peer(5):
            assert world.seen[-1] == 5


def test_what_has_not_come_in_time_may_have_run_though_the_actor_left_in_peace(world):
    world.state("restarting", incarnation=2, **LEFT)
    with world.peer(3):
        world.actors.tick(time.monotonic() + LATE_S)
        assert world.seen == ["restarting", 3]
        assert world.unmade is False


def test_a_connection_that_waits_is_closed_when_the_actor_is_forgotten(world):
    world.connection.close = lambda: None
    world.state("restarting", incarnation=2)
    with world.peer(3) as there:
        world.actors.close()
        assert there.recv(1) == b""


def test_what_went_over_a_connection_that_broke_may_have_run_though_the_actor_left_in_peace(world):
    world.connection.frames, world.connection.reset = ["last"], True
    world.state("restarting", incarnation=2, **LEFT)
    assert world.seen == ["last", "restarting"]
    assert world.unmade is False


def test_so_it_may_if_the_connection_broke_before_and_on_this_node(world):
    world.connection.closed = True
    world.state("restarting", incarnation=2, **LEFT, node=HERE)
    assert world.unmade is False


def test_nothing_that_an_actor_of_this_node_has_said_is_on_its_way(world):
    world.connection.frames = ["last"]
    world.state("restarting", incarnation=2, **LEFT, node=HERE)
    assert world.seen == ["last", "restarting"]
    assert world.unmade
