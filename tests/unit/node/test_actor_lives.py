"""Lives of actors that end: since another node has a later one, or since the process is none for it before it begins."""

import pytest

from shoald.node.actors import ALIVE, DEAD, RESTARTING, STARTING, Moved
from unit.node.test_actors import DRIVER, Node, info


@pytest.mark.parametrize("detached", [False, True])
def test_an_actor_that_lives_on_another_node_by_now_ends_here_which_is_no_death(detached):
    node = Node()
    record = node.create("name", max_restarts=1, detached=detached)
    node.core.ready(record.worker_id, record.actor_id, node.now)
    node.run()
    node.effects.clear()
    node.core.supersede(record.actor_id, record.incarnation, node.now)
    node.run()
    assert node.core.actors, "of the same life"
    node.core.supersede(record.actor_id, record.incarnation + 1, node.now)
    node.run()
    ((_, _, message),) = node.taken("send", DRIVER)
    assert (message[2], message[3]["current"], message[3]["incarnation"]) == ("restarting", b"c" * 16, 1)
    assert node.taken("superseded") == [("superseded", record)]
    assert not node.core.actors
    assert not node.core.dead, "later it may come here"
    assert not node.core.names
    assert not node.taken("changed"), "it is another node's to speak of"
    again = node.core.host(
        Moved(record.actor_id, 2**20, 1, 0), info("name", detached=detached), "job-1", node.now
    )
    assert again.proc, "it asks for a worker"


def test_one_that_waits_here_and_lives_elsewhere_is_forgotten_at_once():
    node = Node()
    record = node.create(placement={"CPU": 90_000})
    node.core.supersede(record.actor_id, 7, node.now)
    node.run()
    assert node.taken("superseded") == [("superseded", record)]
    assert not node.core.actors


def test_one_that_comes_back_while_its_earlier_life_ends_starts_after_that():
    node = Node()
    record = node.create()
    node.core.supersede(record.actor_id, 2**20, node.now)
    assert node.core.host(Moved(record.actor_id, 2**21, 3, 0), info(), "job-1", node.now) is record
    node.run()
    assert not node.taken("superseded")
    assert (record.state, record.worker_id, bool(record.proc)) == (RESTARTING, b"", True)
    assert (record.incarnation, record.restarts, record.restarts_left) == (2**21, 3, 0)


def test_one_that_needs_another_process_before_its_constructor_gets_it_and_that_does_not_count():
    node = Node()
    record = node.create()
    first = record.worker_id
    node.core.begins_elsewhere(first, node.now)
    node.run()
    assert record.state == STARTING
    assert record.worker_id not in (b"", first)
    assert (record.restarts, record.restarts_left) == (0, 0)
    node.core.ready(record.worker_id, record.actor_id, node.now)
    node.core.begins_elsewhere(record.worker_id, node.now)
    node.run()
    assert record.state == ALIVE
    node.dies(record.worker_id)
    node.run()
    assert record.state == DEAD
