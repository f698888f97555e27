"""Leases between nodes: two production schedulers, what each says to the other in order, and nothing else."""

import dataclasses
import itertools
from collections import deque

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shoal.config import Config
from shoal.wire import messages as m
from shoald.node.awayleases import AwayLeases
from shoald.node.cluster import ClusterView
from shoald.node.effects import EndWorker, Grant, Send, StartWorker
from shoald.node.guests import Guests
from shoald.node.placement import Placement
from shoald.node.pool import Pool
from shoald.node.scheduler import SchedulerCore
from shoald.store.errors import ProtocolError

CPU1 = {"CPU": 10_000}
NO_TASK = bytes(16)


class Node:
    """One node's cores. Workers start at once; the links, clients and dials are for the test to move."""

    def __init__(self, number, cpus, **settings):
        self.node_id = f"{number:02x}" * 16
        self.cpus = cpus
        config = dataclasses.replace(Config(), **settings)
        placement = Placement(self.node_id, {}, config)
        self.core = SchedulerCore({"CPU": cpus * 10_000}, Pool(bytes([number]) * 8, 100), config, placement)
        self.core.view = self.view = ClusterView(self.node_id, 10)
        self.away = AwayLeases(self.core, self.view, config, self.job_of)
        tokens = itertools.count(1).__next__
        self.guests = Guests(self.node_id, self.core, config, lambda: b"%016d" % tokens(), self.current)
        self.links = {}  # node id → messages under way
        self.dialing = {}  # token → lease
        self.timers = []
        self.open = {}  # lease id → lease, as its client has it
        self.told = []
        self.running = {}  # worker id → task
        self.procs = itertools.count(1).__next__
        self.core.start(0.0)

    def current(self, worker_id):
        return self.running.get(worker_id, NO_TASK)

    def row(self, state="ALIVE"):
        resources = {"CPU": self.cpus * 10_000}
        return {
            "node_id": self.node_id,
            "incarnation": "1",
            "state": state,
            "resources": resources,
            "available": resources,
        }

    def job_of(self, submitter):
        if submitter.job is None:
            return None
        return self.guests.jobs.get(submitter.job.job_id) or {
            "id": submitter.job.job_id,
            "node": self.node_id,
        }

    def turn(self, now):
        for _ in range(50):
            self.away.forgive(now)
            self.core.schedule(now)
            self.away.turn(now)
            effects, self.core.outbox = self.core.outbox, []
            for effect in effects:
                self.carry_out(effect, now)
            others = self.away.outbox + self.guests.outbox
            self.away.outbox, self.guests.outbox = [], []
            for other in others:
                self.send(*other)
            if not effects and not others:
                return
        raise AssertionError("no end of effects")

    def carry_out(self, effect, now):
        workers = self.core.pool.workers
        if isinstance(effect, StartWorker):
            proc = b"w%s%06d" % (self.node_id[1:2].encode(), self.procs())
            self.core.worker_ready(effect.worker_id, proc, 1, now)
            self.core.client_joined(proc, "worker", "")
        elif isinstance(effect, Grant):
            self.guests.granted(effect, workers[effect.worker_id])
        elif isinstance(effect, Send):
            if not self.guests.tell(effect.proc, effect.message):
                self.told.append(effect.message)
        elif isinstance(effect, EndWorker) and effect.worker_id in workers:
            self.exit(workers[effect.worker_id], now)

    def exit(self, worker, now):
        if worker.proc:
            self.core.client_left(worker.proc, now)
            self.away.client_left(worker.proc)
        self.core.worker_exited(worker.worker_id, 1, 0, NO_TASK, now)

    def send(self, kind, subject, message=None):
        if kind == "send":
            if subject in self.view.live:
                self.links[subject].append(message)
        elif kind == "dial":
            self.dialing[subject.token] = subject
        elif kind == "undial":
            self.dialing.pop(subject.token, None)
        elif kind == "timer":
            self.timers.append(subject)
        elif kind == "client":
            self.told.append(message)
            if message[0] == m.WORKER_DIED:
                assert self.open.pop(message[1]), "a death of a lease that its client does not have"

    def receive(self, node_id, message, now):
        handlers = {
            m.P_DEMAND: self.guests.demanded,
            m.P_LEASE: self.away.leased,
            m.P_FROM_CLIENT: self.guests.from_client,
            m.P_FOR_CLIENT: self.away.for_client,
            m.P_CLIENT_LEFT: self.guests.left,
        }
        handlers[message[0]](node_id, message[1:], now)

    def validate(self):
        self.core.validate()
        self.away.validate()
        self.guests.validate()
        self.view.validate()


class World:
    """A node whose clients lease, and one that lends."""

    def __init__(self, cpus_here=0, cpus_there=2, **settings):
        self.a, self.b = Node(1, cpus_here, **settings), Node(2, cpus_there, **settings)
        self.now = 0.0
        for node, other in ((self.a, self.b), (self.b, self.a)):
            node.links[other.node_id] = deque()
            node.view.update([other.row()])
            node.core.view_changed(0.0)

    def turn(self):
        self.a.turn(self.now)
        self.b.turn(self.now)

    def deliver(self, source, target, count=1000):
        link = source.links[target.node_id]
        for _ in range(min(count, len(link))):
            if source.node_id not in target.view.live:
                link.clear()
                return
            target.receive(source.node_id, link.popleft(), self.now)

    def dial(self, token):
        """A connection is opened; False if the lender does not know the token."""
        lease = self.a.dialing.pop(token)
        found = self.b.guests.connected(token)
        lease.open = True
        self.a.open[lease.lease_id] = lease
        return found is not None

    def settle(self):
        for _ in range(50):
            self.turn()
            if not any(link for node in (self.a, self.b) for link in node.links.values()):
                return
            self.deliver(self.a, self.b)
            self.deliver(self.b, self.a)
        raise AssertionError("messages without end")

    def demand(self, backlog, proc=b"driver-1", shape=1):
        self.a.core.handle(proc, [m.DEMAND, shape, CPU1, backlog, {}], self.now)


@pytest.fixture
def world():
    world = World()
    world.a.core.client_joined(b"driver-1", "driver", "job1")
    world.demand(5)
    world.settle()
    return world


def test_what_cannot_be_met_here_is_leased_there(world):
    assert len(world.a.dialing) == 2
    assert len(world.b.core.leases) == 2
    assert world.b.guests.guests[b"driver-1"].node_id == world.a.node_id


def test_what_is_met_here_is_asked_of_nobody():
    world = World(cpus_here=2)
    world.a.core.client_joined(b"driver-1", "driver", "job1")
    world.demand(2)
    world.settle()
    assert len(world.a.core.leases) == 2
    assert not world.b.guests.guests


def test_a_lease_goes_back_and_is_granted_again(world):
    tokens = list(world.a.dialing)
    for token in tokens:
        assert world.dial(token)
    lease = next(iter(world.a.open.values()))
    assert world.a.away.from_client(b"driver-1", [m.RETURN, lease.lease_id, m.RETURN_OK])
    world.settle()
    assert len(world.b.core.leases) == 2, "the next one of the five"
    assert lease.lease_id not in world.a.away.leases


def test_only_returns_and_kills_of_such_leases_are_routed(world):
    lease = next(iter(world.a.away.leases))
    assert not world.a.away.from_client(b"driver-1", [m.DEMAND, lease, CPU1, 1, {}])
    assert not world.a.away.from_client(b"driver-2", [m.RETURN, lease, m.RETURN_OK])
    assert not world.a.away.from_client(b"driver-1", [m.RETURN, 77, m.RETURN_OK])


def test_a_kill_comes_too_late_for_another_task(world):
    for token in list(world.a.dialing):
        world.dial(token)
    lease = next(iter(world.a.open.values()))
    worker_id = world.b.core.leases[lease.lender_id].worker_id
    world.b.running[worker_id] = b"another task 123"
    for task_id, killed in ((b"the cancelled one"[:16], False), (b"another task 123", True)):
        kill = [m.KILL_WORKER, lease.lease_id, "cancelled", task_id]
        assert world.a.away.from_client(b"driver-1", kill)
        world.settle()
        assert (worker_id not in world.b.core.pool.workers) == killed


def test_the_death_of_a_worker_there_is_told(world):
    for token in list(world.a.dialing):
        world.dial(token)
    lease = next(iter(world.a.open.values()))
    worker = world.b.core.pool.workers[world.b.core.leases[lease.lender_id].worker_id]
    world.b.exit(worker, world.now)
    world.settle()
    died = next(message for message in world.a.told if message[0] == m.WORKER_DIED)
    assert died[1] == lease.lease_id


def test_a_lease_that_nobody_connects_to_ends(world):
    token = next(iter(world.a.dialing))
    lease = world.a.dialing[token]
    world.b.guests.token_due(token, world.now)
    world.settle()
    assert lease.lease_id not in world.a.away.leases
    assert token not in world.a.dialing
    assert len(world.a.dialing) == 2
    assert world.a.core.clients[b"driver-1"].demands[1].backlog == 3, "its place in the order is lost"
    assert world.b.guests.connected(token) is None


def test_a_node_that_cannot_be_reached_is_left_alone_for_a_while(world):
    for lease in list(world.a.dialing.values()):
        world.a.away.dial_failed(lease, world.now)
    world.a.dialing.clear()
    world.settle()
    assert not world.b.core.leases
    assert not world.a.away.leases
    world.now += 10
    world.settle()
    assert len(world.a.dialing) == 2


def test_a_node_that_is_forgiven_is_asked_in_that_turn(world):
    for lease in list(world.a.dialing.values()):
        world.a.away.dial_failed(lease, world.now)
    world.a.dialing.clear()
    world.settle()
    due = world.a.away.turn(world.now)
    assert due > world.now
    world.now = due
    world.a.away.forgive(world.now)
    world.a.core.schedule(world.now)
    assert world.a.away.turn(world.now) is None, "nothing wakes it later"
    asked = [message for _, node_id, message in world.a.away.outbox if node_id == world.b.node_id]
    assert [(message[0], message[6]) for message in asked] == [(m.P_DEMAND, 5)]


def test_a_guest_has_the_name_that_its_node_gives_it(world):
    job = {"id": "job1", "node": world.a.node_id, "submitter": "driver 7 train.py"}
    world.b.guests.demanded(world.a.node_id, [b"driver-7", "driver", job, 1, CPU1, 1, {}], world.now)
    assert world.b.guests.guests[b"driver-7"].name == "driver 7 train.py"
    assert world.b.guests.guests[b"driver-1"].name == ""
    assert "submitter" not in world.b.guests.jobs["job1"]


def test_a_client_that_leaves_leaves_there_too(world):
    for token in list(world.a.dialing):
        world.dial(token)
    world.a.core.client_left(b"driver-1", world.now)
    world.a.away.client_left(b"driver-1")
    world.settle()
    assert not world.b.guests.guests
    assert not world.b.core.leases


def test_nothing_is_asked_of_a_dead_node_that_a_placement_group_still_names(world):
    dead = "99" * 16
    world.a.core.shares = {(b"driver-1", 1): {dead: 1, world.b.node_id: 2}}
    world.a.away.turn(world.now)
    assert world.a.away.told[b"driver-1", 1] == {world.b.node_id: 2}
    assert all(message[1] != dead for message in world.a.away.outbox if message[0] == "send")
    world.a.away.validate()


def test_a_node_that_waits_for_what_is_not_wanted_any_more_is_told_so(world):
    world.a.away.told.clear()
    refused = [b"driver-1", [m.DEMAND_STATUS, 1, "never", "its placement group is gone"]]
    world.a.away.for_client(world.b.node_id, refused, world.now)
    ((kind, node_id, message),) = world.a.away.outbox
    assert (kind, node_id, message[0], message[6]) == ("send", world.b.node_id, m.P_DEMAND, 0)


@pytest.fixture
def forgetful():
    """A world that forgets every demand that is idle when another one comes."""
    world = World(demands_idle_max=1)
    world.a.core.client_joined(b"driver-1", "driver", "job1")
    return world


@pytest.mark.parametrize("end", ["not reached", "died before it was reached"])
def test_a_lease_that_nothing_comes_of_is_awaited_again_though_its_demand_was_forgotten(forgetful, end):
    world = forgetful
    world.demand(1)
    world.settle()
    (lease,) = world.a.dialing.values()
    world.demand(1, shape=2)
    assert list(world.a.core.clients[b"driver-1"].demands) == [2]
    world.settle()
    if end == "not reached":
        world.a.away.dial_failed(world.a.dialing.pop(lease.token), world.now)
    else:
        worker_id = world.b.core.leases[lease.lender_id].worker_id
        world.b.exit(world.b.core.pool.workers[worker_id], world.now)
    world.settle()
    world.now += 10
    world.settle()
    assert sorted(each.shape_id for each in world.a.dialing.values()) == [1, 2]


def test_what_is_forgotten_is_asked_of_nobody_any_more(forgetful):
    world = forgetful
    world.demand(5)
    world.settle()
    assert world.b.core.clients[b"driver-1"].demands[1].backlog == 3
    world.demand(0)
    world.demand(1, shape=2)
    assert list(world.a.core.clients[b"driver-1"].demands) == [2]
    world.settle()
    left = world.b.core.clients[b"driver-1"].demands
    assert {shape: demand.backlog for shape, demand in left.items()} == {1: 0, 2: 1}


def test_a_forgotten_demand_that_a_node_still_waits_for_is_withdrawn_there(forgetful):
    world = forgetful
    world.demand(5)
    world.settle()
    world.a.away.told.clear()  # as if a lease had crossed the last word
    world.demand(0)
    world.demand(1, shape=2)
    waits = [b"driver-1", [m.DEMAND_STATUS, 1, "never", "its placement group is gone"]]
    world.a.away.for_client(world.b.node_id, waits, world.now)
    world.settle()
    assert world.b.core.clients[b"driver-1"].demands[1].backlog == 0


def test_late_demands_of_a_job_that_has_ended_begin_nothing(world):
    world.b.guests.job_ended("job1", world.a.node_id, world.now)
    world.demand(9)
    world.settle()
    assert not world.b.guests.guests
    assert not world.b.core.leases
    world.b.guests.workers_gone(set())
    assert world.b.guests.outbox == [("send", world.a.node_id, [m.P_JOB_GONE, "job1"])]


def test_jobs_end_with_the_node_of_their_driver(world):
    assert world.b.guests.node_died(world.a.node_id, world.now) == ["job1"]
    assert not world.b.guests.guests


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"short", "driver", {"id": "j", "node": "n"}, 1, CPU1, 1, {}],
        [b"driver-9", "cli", {"id": "j", "node": "n"}, 1, CPU1, 1, {}],
        [b"driver-9", "driver", {"id": "", "node": "n"}, 1, CPU1, 1, {}],
        [b"driver-9", "driver", None, 1, CPU1, 1, {}],
    ],
)
def test_a_demand_that_makes_no_sense(world, fields):
    with pytest.raises((ProtocolError, ValueError)):
        world.b.guests.demanded(world.a.node_id, fields, world.now)
    world.b.validate()


class Leasing(RuleBasedStateMachine):
    """Everything that can cross on the way does; in the end everybody is served, or everything is gone."""

    def __init__(self):
        super().__init__()
        self.world = World(cpus_here=1, cpus_there=2, demands_idle_max=1)
        self.procs = []
        self.dead = False

    @initialize()
    def join(self):
        for number in (1, 2):
            proc = b"driver-%d" % number
            self.world.a.core.client_joined(proc, "driver", f"job{number}")
            self.procs.append(proc)

    @rule(which=st.integers(0, 1), shape=st.integers(1, 3), backlog=st.integers(0, 4))
    def demand(self, which, shape, backlog):
        if which < len(self.procs):
            self.world.demand(backlog, self.procs[which], shape)

    @rule()
    def turn(self):
        self.world.turn()

    @rule(there=st.booleans(), count=st.integers(1, 3))
    def deliver(self, there, count):
        a, b = self.world.a, self.world.b
        self.world.deliver(*((a, b) if there else (b, a)), count)

    @rule(fails=st.booleans())
    def dial(self, fails):
        a = self.world.a
        if a.dialing:
            token = next(iter(a.dialing))
            if fails:
                a.away.dial_failed(a.dialing.pop(token), self.world.now)
            else:
                self.world.dial(token)

    @rule()
    def timer(self):
        if self.world.b.timers:
            self.world.b.guests.token_due(self.world.b.timers.pop(0), self.world.now)

    @rule(state=st.sampled_from([m.RETURN_OK, m.RETURN_RECYCLE, m.RETURN_BROKEN]), kill=st.booleans())
    def give_back(self, state, kill):
        a = self.world.a
        if a.open:
            lease = next(iter(a.open.values()))
            message = (
                [m.KILL_WORKER, lease.lease_id, "why", NO_TASK] if kill else [m.RETURN, lease.lease_id, state]
            )
            assert a.away.from_client(lease.proc, message)
            if not kill and state != m.RETURN_BROKEN:
                del a.open[lease.lease_id]

    @rule()
    def return_local(self):
        core = self.world.a.core
        for lease in list(core.leases.values())[:1]:
            core.handle(lease.demand.client.proc, [m.RETURN, lease.lease_id, m.RETURN_OK], self.world.now)

    @rule()
    def crash(self):
        b = self.world.b
        for worker in list(b.core.pool.workers.values())[:1]:
            b.exit(worker, self.world.now)

    @rule()
    def leave(self):
        if len(self.procs) == 2:
            proc = self.procs.pop()
            a = self.world.a
            a.core.client_left(proc, self.world.now)
            a.away.client_left(proc)
            a.open = {number: lease for number, lease in a.open.items() if lease.proc != proc}

    @rule(passed_s=st.floats(0.0, 5.0))
    def time_passes(self, passed_s):
        self.world.now += passed_s

    @rule()
    def lender_dies(self):
        a, b = self.world.a, self.world.b
        if not self.dead:
            self.dead = True
            for node, _ in a.view.update([b.row("DEAD")]):
                a.links[b.node_id].clear()
                b.links[a.node_id].clear()
                a.away.node_died(node, self.world.now)
                a.core.view_changed(self.world.now)
                self.turn()

    @invariant()
    def valid(self):
        self.world.a.validate()
        if not self.dead:
            self.world.b.validate()

    def teardown(self):
        """The rest: everything is delivered, dialed and given back until nobody waits."""
        world = self.world
        for _ in range(200):
            world.settle() if not self.dead else world.a.turn(world.now)
            if not any(world.a.core.waiting) and not world.a.dialing and not world.a.open:
                break
            world.now += 1.0
            for token in list(world.a.dialing):
                world.dial(token)
            while world.b.timers:
                world.b.guests.token_due(world.b.timers.pop(0), world.now)
            for lease in list(world.a.open.values()):
                if lease.lease_id in world.a.away.leases:
                    world.a.away.from_client(lease.proc, [m.RETURN, lease.lease_id, m.RETURN_OK])
                world.a.open.pop(lease.lease_id, None)
            self.return_local()
        assert not world.a.core.waiting, "somebody waits for ever"
        for proc in self.procs:
            for shape in (1, 2, 3):
                world.demand(0, proc, shape)
        for _ in range(5):
            self.return_local()
            world.turn() if self.dead else world.settle()
        if not self.dead:
            assert not world.a.away.leases
            assert not world.b.core.leases, "a lease is left at the lender"


TestLeasing = Leasing.TestCase
