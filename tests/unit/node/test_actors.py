"""The node's actors: creation, names, restarts, callers and ends, by hand and by random histories on a real scheduler."""

import dataclasses
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.config import Config
from shoal.wire import messages as m
from shoald.node.actors import ALIVE, PENDING, RESTARTING, STARTING, ActorCore, Moved
from shoald.node.effects import EndWorker, Grant, Send, StartWorker
from shoald.node.pool import Pool
from shoald.node.scheduler import SchedulerCore
from shoald.store.errors import ProtocolError

DRIVER, OTHER, STRANGER = b"driver-1", b"driver-2", b"driver-3"


def info(name="", **changes):
    made = {
        "name": name, "namespace": "space", "class": "A", "resources": {}, "placement": {"CPU": 10_000}, "constraints": {},
        "max_restarts": 0,
        "detached": False, "get_if_exists": False, "table": b"table",
    }  # fmt: skip
    return {**made, **changes}


class Node:
    """A scheduler and its actors; workers start and end as told; the clock is moved by hand."""

    def __init__(self, **config):
        self.config = dataclasses.replace(Config(), **config)
        self.scheduler = SchedulerCore(
            {"CPU": 20_000}, Pool(b"prefix00", self.config.workers_max), self.config
        )
        self.core = ActorCore(self.scheduler, self.config, "node")
        self.now = 100.0
        self.ids = 0
        self.procs = 0
        self.effects = []
        for proc, job in ((DRIVER, "job-1"), (OTHER, "job-2")):
            self.scheduler.client_joined(proc, "driver", job)
        self.scheduler.start(self.now)
        self.run()

    def run(self):
        for _ in range(100):
            self.scheduler.schedule(self.now)
            effects, self.scheduler.outbox = self.scheduler.outbox, []
            for effect in effects:
                self._carry_out(effect)
            self.effects += self.core.outbox
            self.core.outbox = []
            self.scheduler.validate()
            self.core.validate()
            if not effects:
                return
        raise AssertionError("it does not come to rest")

    def _carry_out(self, effect):
        if isinstance(effect, StartWorker):
            self.procs += 1
            self.scheduler.worker_forked(effect.worker_id, 1000 + self.procs)
            self.scheduler.worker_ready(effect.worker_id, b"W%07d" % self.procs, 0, self.now)
            self.scheduler.client_joined(b"W%07d" % self.procs, "worker", "")
        elif isinstance(effect, Grant) and effect.proc in self.core.by_proc:
            pid = self.scheduler.pool.workers[effect.worker_id].pid
            self.core.granted(effect.proc, effect.worker_id, pid, self.now)
        elif isinstance(effect, Send):
            self.core.told(effect.proc, effect.message, self.now)
        elif isinstance(effect, EndWorker):
            self.dies(effect.worker_id)

    def dies(self, worker_id, current=b"c" * 16):
        worker = self.scheduler.pool.workers.get(worker_id)
        if worker is not None:
            self.scheduler.client_left(worker.proc, self.now)
            self.scheduler.worker_exited(worker_id, 0, 9, current, self.now)

    def create(self, name="", caller=DRIVER, job="job-1", **changes):
        self.ids += 1
        record = self.core.create(caller, job, b"%016d" % self.ids, info(name, **changes), self.now)
        self.run()
        return record

    def taken(self, kind, proc=None):
        """The effects of a kind (of messages: their state), which are forgotten."""
        found = [each for each in self.effects if each[0] == kind and proc in (None, each[1])]
        self.effects = [each for each in self.effects if each not in found]
        return found

    def states(self, proc):
        return [message[2] for _, _, message in self.taken("send", proc)]


def test_an_actor_gets_a_worker_and_its_creator_a_connection():
    node = Node()
    record = node.create()
    assert record.state == STARTING
    assert node.taken("become") == [("become", record)]
    assert node.taken("connect") == [("connect", DRIVER, record)]
    node.core.ready(record.worker_id, record.actor_id, node.now)
    assert record.state == ALIVE
    node.core.connect(OTHER, record.actor_id, 0, node.now)
    node.run()
    assert node.taken("connect") == [("connect", OTHER, record)]


def test_more_actors_than_cpus_and_tasks_still_run():
    node = Node()
    records = [node.create() for _ in range(100)]
    assert all(record.worker_id for record in records)
    node.scheduler.handle(DRIVER, [m.DEMAND, 1, {"CPU": 10_000}, 2, {}], node.now)
    node.run()
    assert sum(lease.demand.client.proc == DRIVER for lease in node.scheduler.leases.values()) == 2


def test_an_actor_waits_for_what_it_asks_and_says_what_cannot_be():
    node = Node(infeasible_ms=0.0)
    first = node.create(resources={"CPU": 20_000}, placement={"CPU": 20_000})
    second = node.create(resources={"CPU": 10_000}, placement={"CPU": 10_000})
    assert (first.state, second.state) == (STARTING, PENDING)
    node.core.kill(first.actor_id, True, node.now)
    node.run()
    assert second.state == STARTING
    third = node.create(resources={}, placement={"CPU": 90_000})
    node.now += 10
    node.scheduler.start(node.now)
    node.run()
    assert "CPU 9" in third.obstacle
    assert "pending" in node.states(DRIVER)


def test_names_belong_to_one_living_actor():
    node = Node()
    one = node.create("one")
    with pytest.raises(ValueError, match="exists already"):
        node.create("one", caller=OTHER)
    assert node.create("one", caller=OTHER, get_if_exists=True) is one
    assert node.create("one", namespace="elsewhere") is not one
    node.core.kill(one.actor_id, True, node.now)
    assert node.core.named("space", "one") is None  # at once, before its process has ended
    node.run()
    again = node.create("one", get_if_exists=True)
    assert again is not one
    assert node.core.named("space", "one") is again


class Beside:
    """A view of one other node."""

    def __init__(self, **resources):
        amounts = {name: units * 10_000 for name, units in resources.items()}
        self.other = SimpleNamespace(node_id="other", resources=amounts, available=amounts, labels={})

    def alive(self):
        return [self.other]


def draining(**resources):
    """A node with actors that are made by a test before it drains, beside one with these resources."""
    node = Node()
    node.scheduler.view = Beside(**resources)
    node.scheduler.view_changed(node.now)
    return node


def drain(node):
    node.scheduler.placement.draining = True
    node.scheduler.view_changed(node.now)
    return node.core.drain(node.now)


def alive(node, **changes):
    record = node.create(**changes)
    node.core.ready(record.worker_id, record.actor_id, node.now)
    return record


def test_actors_that_may_restart_leave_a_node_that_drains_and_that_does_not_count():
    node = draining(CPU=1)
    moves, always, stays = (alive(node, max_restarts=number) for number in (1, -1, 0))
    assert drain(node)
    ended = [each for each in node.scheduler.outbox if isinstance(each, EndWorker)]
    assert [each.worker_id for each in ended] == [moves.worker_id, always.worker_id]
    assert all(each.politely and each.patience_ms == node.config.drain_ms_max for each in ended)
    node.effects = []
    node.run()
    assert stays.state == ALIVE
    for record, left in ((moves, 1), (always, -1)):
        assert (record.state, record.restarts, record.restarts_left) == (RESTARTING, 1, left)
        assert node.scheduler.clients[record.proc].demands[1].resources == {"CPU": 10_000}, (
            "what it takes to place it"
        )
        assert node.scheduler.shares[record.proc, 1] == {"other": 1}
        assert node.core.leave(record.proc, node.now) is record, "the shell hands it over"
    assert node.states(DRIVER) == ["restarting"] * 2
    assert not node.core.drain(node.now), "no other is about to leave"


def test_who_hears_of_a_hand_over_and_of_what_was_before_can_tell_which_is_the_later():
    node = draining(CPU=1)
    record = alive(node, max_restarts=1)
    assert record.incarnation == 1
    drain(node)
    node.run()
    ((_, _, told),) = node.taken("send", DRIVER)
    assert told[3]["incarnation"] == 1, "the process that has ended"
    assert node.core.leave(record.proc, node.now) is record
    assert record.incarnation == 2


def test_a_restart_for_a_drain_is_not_the_last_one_that_is_left():
    node = draining(CPU=1)
    record = alive(node, max_restarts=1)
    node.dies(record.worker_id)
    node.run()
    assert record.restarts_left == 0
    node.core.ready(record.worker_id, record.actor_id, node.now)
    assert drain(node)
    node.run()
    assert (record.state, record.restarts, record.restarts_left) == (RESTARTING, 2, 0)


@pytest.mark.parametrize(
    "changes", [{"placement": {"GPU": 10_000}}, {"constraints": {"strategy": ["affinity", "node", False]}}]
)
def test_an_actor_that_no_other_node_may_have_stays_while_its_node_drains(changes):
    node = draining(CPU=1)
    node.scheduler.ledger.total["GPU"] = node.scheduler.ledger.free["GPU"] = 10_000
    node.scheduler.placement.node_id = "node"
    record = alive(node, max_restarts=5, **changes)
    assert not drain(node)
    node.run()
    assert record.state == ALIVE


def test_an_actor_that_came_from_elsewhere_and_waits_here_goes_on_when_the_node_drains():
    node = draining(CPU=1)
    node.scheduler.placement.node_id = "node"
    alive(node, resources={"CPU": 20_000}, placement={"CPU": 20_000})
    record = node.core.host(
        Moved(b"%016d" % 99, 7, 2, 1), info(max_restarts=3, resources={"CPU": 10_000}), "job-1", node.now
    )
    node.run()
    assert record.state == PENDING
    assert drain(node)
    node.run()
    assert node.scheduler.shares[record.proc, 1] == {"other": 1}


@pytest.mark.parametrize(("current", "in_doubt"), [(m.LEFT, False), (b"c" * 16, True)])
def test_who_left_in_peace_has_no_call_in_doubt(current, in_doubt):
    node = draining(CPU=1)
    record = alive(node, max_restarts=1)
    node.effects = []
    drain(node)
    node.scheduler.outbox.clear()
    node.dies(record.worker_id, current)
    node.run()
    (told,) = node.taken("send", DRIVER)
    assert told[2][2] == "restarting"
    assert told[2][3]["unmade"] is not in_doubt


def test_a_death_is_told_once_confirmed_and_restarts_are_counted():
    node = Node()
    record = node.create(max_restarts=1)
    worker_id, node.effects = record.worker_id, []
    node.core.ready(worker_id, record.actor_id, node.now)
    node.dies(worker_id)
    node.run()
    (told,) = node.taken("send", DRIVER)
    assert told[2][2] == "restarting"
    assert told[2][3]["current"] == b"c" * 16
    assert (record.state, record.incarnation, record.restarts) == (STARTING, 2, 1)
    assert node.taken("connect") == [("connect", DRIVER, record)]
    node.dies(record.worker_id)
    node.run()
    (told,) = node.taken("send", DRIVER)
    assert told[2][2] == "dead"
    assert "signal 9" in told[2][3]["reason"]
    node.core.connect(OTHER, record.actor_id, 0, node.now)
    node.run()
    assert node.states(OTHER) == ["dead"]


def test_a_constructor_that_takes_its_process_down_is_tried_again_with_pauses():
    node = Node()
    record = node.create(max_restarts=-1)
    node.dies(record.worker_id)
    node.run()
    assert (record.state, record.worker_id) == (RESTARTING, b"")
    node.core.tick(node.now)
    assert record.state == RESTARTING
    node.now = node.core.tick(node.now)
    node.core.tick(node.now)
    node.run()
    assert record.state == STARTING


def test_a_constructor_that_fails_is_told_at_once_and_not_tried_again():
    node = Node()
    record = node.create(max_restarts=-1)
    node.core.failed(record.worker_id, record.actor_id, b"error", node.now)
    (told,) = [each for each in node.core.outbox if each[0] == "send"]
    assert told[2][3]["error"] == b"error"
    node.run()
    assert not node.core.actors
    assert not node.core.by_worker
    assert not node.core.by_proc


def test_exit_on_purpose_is_final():
    node = Node()
    record = node.create("one", max_restarts=-1)
    node.core.exits(record.worker_id, record.actor_id, "exit_actor() was called", node.now)
    node.run()
    assert node.core.dead[record.actor_id]["reason"] == "exit_actor() was called"
    assert node.core.named("space", "one") is None


def test_the_last_handle_and_the_driver_end_actors_but_not_detached_ones():
    node = Node()
    mine, other, stays = node.create(), node.create(), node.create("stays", detached=True)
    assert node.taken("hold") == [("hold", stays.actor_id)]
    node.core.unheld(mine.actor_id, node.now)
    node.run()
    assert mine.actor_id in node.core.dead
    node.core.job_ended("job-1", node.now)
    node.scheduler.client_left(DRIVER, node.now)
    node.scheduler.job_ended("job-1", node.now)
    node.run()
    assert other.actor_id in node.core.dead
    assert list(node.core.actors) == [stays.actor_id]
    node.core.kill(stays.actor_id, True, node.now)
    node.run()
    assert node.taken("let_go") == [("let_go", stays.actor_id)]
    assert not node.core.actors


def test_a_caller_may_be_faster_than_the_creator():
    node = Node()
    actor_id = b"%016d" % 1
    node.core.connect(OTHER, actor_id, 0, node.now)
    record = node.create()
    assert ("connect", OTHER, record) in node.taken("connect")
    node.core.connect(OTHER, b"x" * 16, 0, node.now)
    due = node.core.tick(node.now)
    assert due is not None
    node.core.tick(due)
    node.run()
    assert node.states(OTHER) == ["dead"]


def test_an_actor_hears_which_callers_are_gone():
    node = Node()
    record = node.create()
    node.core.connect(OTHER, record.actor_id, 0, node.now)
    node.core.disconnect(DRIVER, record.actor_id)
    node.core.disconnect(DRIVER, record.actor_id)
    node.core.client_left(OTHER)
    node.core.client_left(STRANGER)
    node.run()
    assert node.taken("left") == [("left", DRIVER, record), ("left", OTHER, record)]


def test_a_killer_may_be_faster_than_the_creator():
    node = Node()
    actor_id = b"%016d" % 1
    node.core.connect(OTHER, actor_id, 0, node.now)
    node.core.kill(actor_id, True, node.now)
    record = node.create(name="one")
    assert record.final
    assert node.states(DRIVER)[-1] == "dead"
    assert node.core.named("space", "one") is None


def test_a_kill_is_remembered_however_late_the_actor_comes():
    node = Node()
    unknown = b"%016d" % 1
    node.core.kill(unknown, False, node.now)  # a restart is not
    node.core.connect(OTHER, unknown, 0, node.now)
    node.core.kill(unknown, True, node.now, "it was killed by somebody")
    node.core.kill(unknown, True, node.now, "again")
    node.core.tick(node.now + 2 * node.config.actor_unknown_ms / 1000)
    record = node.create()
    node.run()
    assert record.final == node.core.dead[unknown]["reason"] == "it was killed by somebody"
    moved = Moved(b"%016d" % 7, 1, 0, 3)
    node.core.kill(moved.actor_id, True, node.now)
    node.core.host(moved, info(), "job", node.now)
    node.run()
    assert moved.actor_id in node.core.dead


def test_kills_of_unknown_actors_are_bounded():
    node = Node(actor_kills_max=2)
    for number in (1, 2, 3):
        node.core.kill(b"%016d" % number, True, node.now)
    assert node.create().final == "", "the oldest is forgotten"
    assert node.create().final


def test_of_two_actors_with_one_name_the_first_keeps_it_until_one_is_known_to_be_killed():
    node = Node()
    one = node.create(name="one")
    other = node.core.host(Moved(b"%016d" % 77, 0, 0, 0), info("one"), "job", node.now)
    node.core.validate()
    assert node.core.named("space", "one") is one
    node.core.kill(one.actor_id, True, node.now)
    assert node.core.named("space", "one") is other
    node.core.kill(other.actor_id, True, node.now)
    assert node.core.named("space", "one") is None
    node.run()
    node.core.validate()


def test_a_broken_connection_waits_for_the_death_and_else_is_made_anew():
    node = Node()
    record = node.create()
    node.effects = []
    node.core.connect(DRIVER, record.actor_id, record.incarnation, node.now)
    node.run()
    assert not node.effects
    due = node.core.tick(node.now)
    node.core.tick(due)
    node.run()
    assert node.taken("connect") == [("connect", DRIVER, record)]


def test_a_connection_is_made_anew_soon_and_less_soon_the_more_often_it_breaks():
    node = Node()
    record = node.create()
    pauses = []

    def breaks():
        node.core.connect(DRIVER, record.actor_id, record.incarnation, node.now)
        due = node.core.tick(node.now)
        pauses.append(round(1000 * (due - node.now)))
        node.now = due
        node.core.tick(due)
        node.run()
        assert node.taken("connect")[-1] == ("connect", DRIVER, record)

    for _ in range(9):
        breaks()
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 500, 500]
    node.now += 1.0  # it held for a while
    breaks()
    assert pauses[-1] == 5
    node.core.disconnect(DRIVER, record.actor_id)
    assert not record.breaks


@pytest.mark.parametrize(
    "bad",
    [
        {"name": 5},
        {"max_restarts": -2},
        {"detached": 1},
        {"resources": {"CPU": -1}},
        {"table": "text"},
        {"class": None},
    ],
)
def test_what_makes_no_sense_is_refused(bad):
    node = Node()
    with pytest.raises(ProtocolError):
        node.create(**{"name": "", **bad})
    with pytest.raises(ProtocolError):
        node.core.create(DRIVER, "job-1", b"short", info(), node.now)
    with pytest.raises(ProtocolError):
        node.core.connect(DRIVER, "text", 0, node.now)
    assert not node.core.actors


class Lives(RuleBasedStateMachine):
    """Actors that are made, killed, restarted, dropped in any order, with callers that come and go."""

    def __init__(self):
        super().__init__()
        self.node = Node(dead_actors_max=5)
        self.made = {}
        self.heard = {}  # (caller, actor id) → last state heard

    def _listen(self):
        for kind, proc, what in [each for each in self.node.effects if len(each) == 3]:
            if kind == "send":
                self.heard[proc, what[1]] = what[2]
            elif kind == "connect":
                self.heard[proc, what.actor_id] = "connected"
        self.node.effects = []

    @precondition(lambda self: len(self.made) < 12)
    @rule(
        name=st.sampled_from(["", "", "a", "b"]),
        restarts=st.sampled_from([0, 1, -1]),
        cpus=st.sampled_from([0, 0, 10_000]),
        detached=st.booleans(),
        get=st.booleans(),
    )
    def create(self, name, restarts, cpus, detached, get):
        resources = {"CPU": cpus} if cpus else {}
        try:
            record = self.node.create(
                name,
                max_restarts=restarts,
                resources=resources,
                detached=detached,
                get_if_exists=get and bool(name),
            )
        except ValueError:
            assert self.node.core.named("space", name) is not None
            return
        self.made[record.actor_id] = record
        self._listen()

    @precondition(lambda self: self.made)
    @rule(
        data=st.data(),
        what=st.sampled_from(["die", "kill", "restart", "unheld", "ready", "fail", "exit", "connect"]),
    )
    def event(self, data, what):
        core, now = self.node.core, self.node.now
        record = self.made[data.draw(st.sampled_from(sorted(self.made)))]
        actor_id, worker_id = record.actor_id, record.worker_id
        if what in ("kill", "restart"):
            core.kill(actor_id, what == "kill", now)
        elif what == "unheld":
            core.unheld(actor_id, now)
        elif what == "connect":
            core.connect(OTHER, actor_id, 0, now)
        elif not worker_id or actor_id not in core.actors:
            return
        elif what == "die":
            self.node.dies(worker_id)
        elif what == "ready":
            core.ready(worker_id, actor_id, now)
        elif what == "fail":
            core.failed(worker_id, actor_id, b"error", now)
        else:
            core.exits(worker_id, actor_id, "exit", now)
        self.node.run()
        self._listen()

    @rule()
    def other_leaves(self):
        self.node.core.client_left(OTHER)

    @rule()
    def time_passes(self):
        self.node.now += 1
        self.node.core.tick(self.node.now)
        self.node.run()
        self._listen()

    @invariant()
    def callers_know(self):
        """Whoever is connected to a dead actor has heard of its death; a living one with a worker has connected all."""
        for actor_id, record in self.made.items():
            if actor_id not in self.node.core.actors:
                assert self.heard[DRIVER, actor_id] == "dead", record
            elif record.state in (STARTING, ALIVE):
                assert self.heard[DRIVER, actor_id] == "connected", record
            elif record.state == RESTARTING:
                assert self.heard[DRIVER, actor_id] == "restarting", record

    def teardown(self):
        node = self.node
        node.core.job_ended("job-1", node.now)
        for record in list(node.core.actors.values()):
            node.core.kill(record.actor_id, True, node.now)
        node.run()
        assert not node.core.actors
        assert not node.core.by_worker
        assert not node.core.names
        assert node.scheduler.actors == 0
        assert node.scheduler.available() == {"CPU": 20_000}


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
