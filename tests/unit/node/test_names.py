"""Who has a name while its last owner ends, and the head has not heard of that yet, or does not answer."""

from types import SimpleNamespace

import pytest

from shoal.config import Config
from shoal.wire import messages as m
from shoald.node.actors import Moved
from shoald.node.actorside import ActorSide
from shoald.node.pool import Pool
from shoald.node.scheduler import SchedulerCore

HERE, THERE = "a" * 32, "b" * 32
OLD, NEW = b"o" * 16, b"n" * 16


def info(**changes):
    made = {
        "name": "x", "namespace": "space", "class": "A", "resources": {}, "placement": {"CPU": 10_000}, "constraints": {},
        "max_restarts": 0, "detached": False, "get_if_exists": True, "table": b"table",
    }  # fmt: skip
    return {**made, **changes}


class World:
    """A daemon, as much as its actors need of it; the head is asked by hand, and time passes by hand."""

    def __init__(self):
        config = Config()
        self.now, self.later, self.asked, self.sent, self.peer_said = 0.0, [], [], [], []
        client = SimpleNamespace(proc=b"driver-1", pid=7, kind="driver", worker_id=b"", job_id="job")
        client.sock = SimpleNamespace(send=self.sent.append)
        head = SimpleNamespace(
            settled=True, report_actors=lambda rows, snapshot=False: None, report_kill=lambda *kill: None,
            call=lambda *call: self.asked.append(call),
        )  # fmt: skip
        daemon = SimpleNamespace(
            config=config, node_id=HERE, head=head, jobs={}, clients={client.proc: client},
            scheduler=SchedulerCore({"CPU": 20_000}, Pool(b"prefix00", config.workers_max), config),
            store=SimpleNamespace(
                register=lambda *which: None, watch=lambda actor_id: True, handle=lambda *message: None,
                take_unheld=list,
            ),
            lease_side=SimpleNamespace(job_facts=lambda job: {"id": job, "node": HERE}, namespace_of=lambda job: "space"),
            cluster=SimpleNamespace(live={THERE: "node"}),
            loop=SimpleNamespace(now=lambda: self.now, call_later=lambda wait_s, then: self.later.append(then)),
            peers=SimpleNamespace(send=lambda node, message: self.peer_said.append((node, message))),
        )  # fmt: skip
        self.side = ActorSide(daemon)
        self.client = client

    def look_up(self):
        self.found = []
        self.side.named(self.client, {"name": "x"}, lambda good, answer: self.found.append((good, answer)))

    def create(self):
        self.side.handle(self.client, [m.CREATE_ACTOR, 1, NEW, info()], self.now)

    def head_says(self, method, ok=True, **answer):
        """Answer the oldest question."""
        asked, _, then = self.asked.pop(0)
        assert asked == method
        then(ok, answer if ok else "it does not answer")

    def owner(self, actor_id, node_id):
        self.head_says("ClaimActor", actor={"actor_id": actor_id, "node_id": node_id, "state": "ALIVE"})

    def given(self):
        """The actor that the one who asked has got; None before."""
        answers = [message[3] for message in self.sent if message[0] == m.RESPONSE and message[1] == 1]
        assert all(type(answer) is dict for answer in answers), answers
        return answers[0]["actor"] if answers else None


def test_what_was_killed_here_is_not_given_though_the_head_still_knows_it():
    """The head was too slow to confirm the kill, and its host, elsewhere, may not have heard of it either."""
    world = World()
    world.side.handle(world.client, [m.KILL_ACTOR, 9, OLD, True], world.now)
    world.asked.clear()  # where the one to kill is
    world.later.clear()
    world.create()
    world.owner(OLD, THERE)
    assert not [message for _, message in world.peer_said if message[0] == m.P_ACTOR_GIVE]
    (again,) = world.later
    again()
    world.owner(NEW, HERE)
    assert world.given() == NEW


@pytest.mark.parametrize("answers", [True, False], ids=["the head says so", "the head is silent for a while"])
def test_whose_name_was_given_away_is_not_given_itself(answers):
    """It lives here, as far as this node knows: it was killed from elsewhere."""
    world = World()
    world.side.core.host(Moved(OLD, 0, 0, 0), info(), "job", world.now)
    world.side.flush()
    world.create()
    world.owner(NEW, HERE)
    if not answers:
        world.head_says("FindActor", ok=False)
        assert world.given() is None
        world.later.pop()()
        world.owner(NEW, HERE)
    world.head_says("FindActor", known=True, actor={"actor_id": OLD, "state": "DEAD", "reason": "killed"})
    assert world.given() == NEW
    assert OLD not in world.side.core.actors


def test_an_actor_that_was_killed_before_it_was_made_is_made_and_ends():
    world = World()
    world.side.core.kill(NEW, True, world.now)
    world.create()
    world.owner(NEW, HERE)
    assert world.given() == NEW
    assert NEW in world.side.core.dead


def hosting_old():
    world = World()
    world.side.core.host(Moved(OLD, 0, 0, 0), info(), "job", world.now)
    world.side.flush()
    return world


def test_a_name_of_this_node_is_looked_up_when_the_head_has_said_that_its_actor_was_not_killed():
    """Who killed it, elsewhere, may be faster here than the word of that."""
    world = hosting_old()
    world.look_up()
    assert world.found == []
    world.head_says("FindActor", known=True, actor={"actor_id": OLD, "state": "DEAD", "reason": "killed"})
    assert OLD not in world.side.core.actors
    world.head_says("FindActor", known=False)  # nobody has the name
    ((good, text),) = world.found
    assert not good
    assert "no actor named 'x'" in text
    world.later.pop()()
    assert len(world.found) == 1


@pytest.mark.parametrize("known", [True, False], ids=["it lives", "the head has not heard of it yet"])
def test_one_that_was_not_killed_is_found(known):
    world = hosting_old()
    world.look_up()
    world.head_says("FindActor", known=known, actor={"actor_id": OLD, "state": "ALIVE"})
    assert world.found == [(True, {"actor": OLD, "table": b"table"})]


def test_a_silent_head_keeps_no_name_of_this_node_back_for_long():
    world = hosting_old()
    world.look_up()
    world.later.pop()()
    assert world.found == [(True, {"actor": OLD, "table": b"table"})]
    world.look_up()
    assert world.found, "the second one does not wait for it"
    world.head_says("FindActor", ok=False)
    world.side.cluster.registered()  # it is back
    world.look_up()
    assert world.found == []
    world.side.cluster._daemon.cluster.live.clear()
    world.look_up()
    assert world.found, "nobody else can have killed it"
