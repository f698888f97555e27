"""Who came, who is suspected and who is dead: everybody hears of it, in few messages."""

from dataclasses import replace

import pytest

from shoal.config import load
from shoald.head import events as ev
from shoald.head.actors import Actor
from shoald.head.core import Durable, HeadCore

VERSIONS = ev.Versions(1, 3, 11)
CONFIG = load({"view_ms_per_node": 1})


class Told:
    """A head, and what each node was told of the others."""

    def __init__(self):
        self.core = HeadCore(CONFIG, VERSIONS, Durable(), 0.0, 0.0)
        self.messages = 0
        self.states = {}

    def handle(self, event, now):
        effects = self.core.handle(event, now)
        for effect in effects:
            if isinstance(effect, ev.Send) and isinstance(effect.message, ev.Registered | ev.NodesChanged):
                self.messages += 1
                known = self.states.setdefault(effect.stream, {})
                known.update({view.node_id: view.state for view in effect.message.nodes})
        self.core.validate()

    def register(self, number, now=0.0):
        self.handle(ev.NodeRegisters(number, f"n{number}", "1", ev.NodeInfo(), VERSIONS), now)

    def wait(self):
        due = self.core.next_deadline()
        self.handle(ev.TimePasses(), due)
        return due


def test_one_that_comes_alone_is_announced_at_once():
    told = Told()
    told.register(1)
    told.register(2)
    assert told.states[1]["n2"] == "ALIVE"
    assert told.messages == 3


@pytest.mark.parametrize("count", [10, 300])
def test_many_that_come_together_are_announced_together(count):
    told = Told()
    for number in range(1, count + 1):
        told.register(number, number * 1e-5)
    assert told.wait() <= (count + 1) * CONFIG.view_ms_per_node / 1000
    everybody = {f"n{number}" for number in range(1, count + 1)}
    for number in range(1, count + 1):
        assert told.states[number].keys() | {f"n{number}"} == everybody
    assert told.messages <= 5 * count, "not the square of it"


def test_a_death_does_not_wait_and_takes_along_what_does():
    told = Told()
    for number in range(1, 5):
        told.register(number)
    assert "n4" not in told.states[1]
    told.handle(ev.NodeLeaves(2, "left"), 0.0)
    assert told.states[1] == {"n1": "ALIVE", "n2": "DEAD", "n3": "ALIVE", "n4": "ALIVE"}
    assert told.states[3] == told.states[4] == told.states[1]


def test_it_is_told_how_a_node_is_when_the_batch_leaves():
    told = Told()
    for number in range(1, 4):
        told.register(number)
    told.handle(ev.StreamBreaks(3), 0.0)
    told.wait()
    assert told.states[1]["n3"] == "SUSPECTED"


def test_whoever_hears_of_an_actor_somewhere_knows_that_node():
    told = Told()
    for number in range(1, 4):
        told.register(number)
    assert "n3" not in told.states[1]
    actor = Actor(b"a" * 16, node_id="n2")
    told.core.handle(ev.ActorsReported(2, (actor,), False), 0.0)
    told.core.actors.find(actor.actor_id, "n1")
    moved = replace(actor, state="PENDING", node_id="n3")
    effects = told.core.handle(ev.ActorsReported(2, (moved,), False), 0.0)
    heard = [type(each.message) for each in effects if isinstance(each, ev.Send) and each.stream == 1]
    assert heard == [ev.NodesChanged, ev.ActorChanged]
